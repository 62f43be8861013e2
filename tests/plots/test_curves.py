"""Pictures of the λ-curve and of certified accuracy: their lines, their limits, and what is written over them."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repsim.plots import lambda_curve
from repsim.plots.curves import certified_curve
from repsim.robustness.smoothing import Certificates
from repsim.similarity.ridge_curve import LambdaCurve
from tests.conftest import exactly
from tests.support.pictures import assert_apart, assert_inside, drawn, figure_of, no_windows, texts

__all__ = ["no_windows"]  # a fixture that every test of this file uses

LONG = "features.stage{}.residual_block.convolution_{:03d}"


def curve(r: int = 3, c: int = 3, *, long: bool = False, penalties: Any = None, **changes: Any) -> LambdaCurve:
    """Similarities that move from r2_cca to cka around λ = 0.01, another pair of ends for every pair."""
    penalties = np.logspace(-6, 2, 33) if penalties is None else np.asarray(penalties, dtype=float)
    i, j = np.mgrid[0:r, 0:c]
    left, right = 0.1 + 0.6 * (i + 1) / (r + 1), 0.95 - 0.5 * (j + 1) / (c + 1)
    share = (penalties / (penalties + 0.01))[:, None, None]
    stem = LONG if long else "layer{}.{}"
    whole: dict[str, Any] = {
        "penalties": penalties,
        "td_white": 2 * (1 - (1 - share) * left - share * right),
        "gulp": np.ones((len(penalties), r, c)),
        "r2_cca": left,
        "cka": right,
        "rows": tuple(stem.format(k // 4, k) for k in range(r)),
        "cols": tuple(stem.format(k // 4, k) for k in range(c)),
        "row_model": "first",
        "col_model": "second",
        "n": 1597,
        **changes,
    }
    return LambdaCurve(**whole)


def solid(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_linestyle() == "-"]


def dashed(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_linestyle() == "--"]


def test_a_line_runs_between_its_two_limits() -> None:
    made = curve()
    axes = lambda_curve(made, [("layer0.0", "layer0.2")])
    (line,) = solid(axes)
    np.testing.assert_array_equal(line.get_xdata(), made.penalties)
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), 1 - made.td_white[:, 0, 2] / 2)
    left, right = dashed(axes)
    np.testing.assert_allclose(np.asarray(left.get_ydata(), float), made.r2_cca[0, 2])
    np.testing.assert_allclose(np.asarray(right.get_ydata(), float), made.cka[0, 2])
    assert np.max(np.asarray(left.get_xdata(), float)) == made.penalties[0]
    assert np.min(np.asarray(right.get_xdata(), float)) == made.penalties[-1]
    assert axes.get_xscale() == "log"


def test_the_ends_say_what_they_are() -> None:
    axes = lambda_curve(curve(), [("layer0.0", "layer0.2")])
    drawn(axes)
    found = {text.get_text().replace("\n", " "): text.get_window_extent() for text in axes.texts}
    middle = axes.get_window_extent().x0 + axes.get_window_extent().width / 2
    for text in ("R²_CCA (λ→0)", "every direction counts alike"):
        assert found[text].x1 < middle
    for text in ("CKA (λ→∞)", "directions count by their variance"):
        assert found[text].x0 > middle
    assert found["0.25"].x1 < middle < found["0.57"].x0  # the limits' values, of a single pair
    assert axes.get_title(loc="left") == "first × second  (n = 1,597)\nlayer0.0 × layer0.2"
    assert axes.get_legend() is None


def test_matched_layers_are_drawn_where_none_are_chosen_six_at_most() -> None:
    for count, expected in ((1, [0]), (3, [0, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (11, [0, 2, 4, 6, 8, 10])):
        made = curve(count, count)
        lines = solid(lambda_curve(made))
        assert [line.get_label() for line in lines] == [made.rows[k] for k in expected]
        for line, k in zip(lines, expected, strict=True):
            np.testing.assert_allclose(np.asarray(line.get_ydata(), float), 1 - made.td_white[:, k, k] / 2)
    made = curve(2, 3, cols=("layer0.0", "layer0.1", "layer0.2"))  # the last of two with the last of three
    assert [line.get_label() for line in solid(lambda_curve(made))] == ["layer0.0", "layer0.1 × layer0.2"]
    made = curve(2, 2, cols=("p", "q"))
    legend = lambda_curve(made).get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["layer0.0 × p", "layer0.1 × q"]


def test_limits_have_their_lines_colour_and_lines_differ() -> None:
    axes = lambda_curve(curve(4, 4))
    ends = dashed(axes)
    for k, line in enumerate(solid(axes)):
        for end in ends[2 * k : 2 * k + 2]:
            assert same_color(line.get_color(), end.get_color())
    assert len({str(line.get_color()) for line in solid(axes)}) == 4


def test_a_pair_without_a_number_is_named_and_not_drawn() -> None:
    made = curve(2, 2)
    for array in (made.td_white[:, 1, 1], made.r2_cca[1, 1:], made.cka[1, 1:]):
        array[...] = np.nan
    axes = lambda_curve(made)
    drawn(axes)
    assert [line.get_label() for line in solid(axes)] == ["layer0.0", "layer0.1  (no number)"]
    drawn(lambda_curve(made, [("layer0.1", "layer0.1")]))


def test_few_penalties_are_marked() -> None:
    assert solid(lambda_curve(curve(penalties=[0.01]), [("layer0.0", "layer0.0")]))[0].get_marker() == "o"
    assert solid(lambda_curve(curve(), [("layer0.0", "layer0.0")]))[0].get_marker() == "None"


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("pairs", [1, 6, 30])
def test_nothing_is_cut_or_covered(pairs: int, long: bool) -> None:
    name = "wide_resnet28_10_cifar10_trades_seed17_epoch200"
    made = curve(6, 6, long=long, row_model=name, col_model=name)
    chosen = [(r, c) for r in made.rows for c in made.cols][:pairs]
    axes = lambda_curve(made, None if pairs == 6 else chosen)
    drawn(axes)
    assert_inside(figure_of(axes))
    heads = [text for text in axes.texts if not text.get_text().startswith("0.")]
    assert len(heads) == 4
    assert_apart([*heads, *[text for text in texts(figure_of(axes)) if text.get_text() == axes.get_title(loc="left")]])
    assert len({line.get_label() for line in solid(axes)}) == (6 if pairs == 6 else pairs)
    assert axes.get_window_extent().width > 0.3 * figure_of(axes).bbox.width


def test_names_that_only_begin_differently_stay_different() -> None:
    rows = tuple(f"{side}.block.convolution.with.a.long.name" for side in ("left", "right"))
    axes = lambda_curve(curve(2, 2, rows=rows, cols=rows))
    assert [line.get_label() for line in solid(axes)] == ["left…", "right…"]


def test_axes_given_are_used_and_narrow_ones_wrap_what_the_ends_mean() -> None:
    axes = Figure(figsize=(7, 3), layout="constrained").subplots(1, 2)[0]
    assert lambda_curve(curve(), [("layer0.0", "layer0.1")], ax=axes) is axes
    drawn(axes)
    assert_inside(figure_of(axes))
    heads = [text for text in texts(figure_of(axes)) if text in axes.texts and not text.get_text().startswith("0.")]
    assert_apart(heads)
    assert plt.get_fignums() == []


def test_pairs_that_cannot_be_drawn() -> None:
    text = "lambda_curve: the layer must exist; got 'layer0.9'. Close matches: layer0.2, layer0.1, layer0.0."
    with pytest.raises(ValueError, match=exactly(text)):
        lambda_curve(curve(), [("layer0.0", "layer0.9")])
    text = "lambda_curve: there must be a pair; got none. Leave pairs out for matched layers."
    with pytest.raises(ValueError, match=exactly(text)):
        lambda_curve(curve(), [])
    assert plt.get_fignums() == []


# --- Certified accuracy over the radius -----------------------------------------------------------------------


def certificates(counts: Any, *, wrong: int = 0, n: int = 1000, sigma: float = 0.25, **changes: Any) -> Certificates:
    labels = np.zeros(len(counts), dtype=int)
    labels[:wrong] = 1
    drawn = labels, np.zeros(len(counts), dtype=int), np.asarray(counts)
    names = {"network": "net", "data": "digits/test", **changes}
    return Certificates(tuple(map(str, range(len(counts)))), *drawn, sigma, 100, n, 0.001, **names)


def spread(m: int = 40, **changes: Any) -> Certificates:
    return certificates(np.linspace(300, 1000, m).astype(int), **changes)


def at(line: Line2D, radius: float) -> float:
    """What a line of steps shows at a radius: the step that ends there or behind it."""
    assert line.get_drawstyle() == "steps-pre"
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    return float(y[np.flatnonzero(x >= radius)[0]])


def test_the_certified_curve_shows_certified_accuracy_at_every_radius() -> None:
    made = spread(wrong=7)
    (line,) = solid(certified_curve(made))
    for radius in [0.0, *made.radius, *np.linspace(0, made.radius[made.correct].max(), 30)]:
        assert at(line, radius) == made.certified_accuracy(radius)
    assert np.asarray(line.get_ydata(), float)[-1] == 0


def test_the_cap_the_abstentions_and_the_counts_are_stated() -> None:
    made = spread(), spread(30, n=2000, sigma=0.5, network="other")
    axes = certified_curve(*made)
    drawn(axes)
    caps = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [np.asarray(line.get_xdata(), float)[0] for line in caps] == [c.radius_cap for c in made]
    for cap, line in zip(caps, solid(axes), strict=True):
        assert same_color(cap.get_color(), line.get_color())
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{c.network}, σ = {c.sigma:g}: {c.abstained:.1%} abstain, cap {c.radius_cap:.2f}" for c in made
    ]
    title = "30, 40 images, 95 % Wilson band over images; 1,000, 2,000 draws each, α = 0.001"
    assert axes.get_title().replace("\n", " ") == title
    assert axes.get_xlim()[1] > made[1].radius_cap
    assert_inside(figure_of(axes))


def test_the_band_is_the_interval_for_the_choice_of_images() -> None:
    made = spread()
    (band,) = certified_curve(made).collections
    corners = band.get_paths()[0].vertices
    for radius in (0.0, float(made.radius[made.correct][5])):
        assert {y for x, y in np.asarray(corners) if x == radius} >= set(made.certified_interval(radius))


def test_networks_that_certify_nothing_or_are_named_alike_are_drawn() -> None:
    nothing = certified_curve(certificates([0, 10, 500]))
    drawn(nothing)
    assert float(np.max(np.asarray(solid(nothing)[0].get_ydata(), float))) == 0
    long = "wide_resnet28_10_cifar10_trades_seed17_epoch200"
    axes = certified_curve(spread(network=long), spread(network=long, sigma=0.5), spread(network="net"))
    labels = [str(line.get_label()).split(",")[0] for line in solid(axes)]
    assert labels[0] == labels[1] != labels[2] == "net"
    assert 10 < len(str(solid(certified_curve(spread(network=long)))[0].get_label()).split(",")[0]) <= 22
    assert [str(x.get_label())[:3] for x in solid(certified_curve(spread(), spread(), labels=["one", "two"]))] == [
        "one",
        "two",
    ]


def test_certified_axes_given_are_used() -> None:
    axes = Figure(figsize=(9, 4), layout="constrained").subplots(1, 2)[0]
    assert certified_curve(spread(), ax=axes) is axes
    drawn(axes)
    assert_inside(figure_of(axes))
    assert plt.get_fignums() == []


def test_certified_curves_that_cannot_be_drawn() -> None:
    text = "certified_curve: there must be certificates; got none. Pass those of certify."
    with pytest.raises(ValueError, match=exactly(text)):
        certified_curve()
    text = "certified_curve: every curve must have its label; got 2 labels for 1 curves. Name them all or none."
    with pytest.raises(ValueError, match=exactly(text)):
        certified_curve(spread(), labels=["a", "b"])
    assert plt.get_fignums() == []
