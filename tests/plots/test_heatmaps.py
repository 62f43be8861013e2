"""Pictures, judged by what is drawn: cells, colours, labels and what touches what."""

import itertools
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import repsim
from repsim import SimilarityMatrix, heatmap, layer_curve, panels
from repsim.plots.heatmaps import figure_size, prepare
from repsim.plots.style import TICK_LETTERS, distinct, models, side_label
from repsim.similarity.block_structure import blocks
from tests.conftest import exactly
from tests.support.pictures import assert_inside, drawn, figure_of, no_windows, written

__all__ = ["no_windows"]  # a fixture that every test of this file uses

WHY = "constant features"


def layers(count: int, long: bool = False) -> tuple[str, ...]:
    stem = "features.stage{}.residual_block.convolution_{:03d}" if long else "layer{}.{}"
    return tuple(stem.format(i // 10, i) for i in range(count))


def matrix(r: int = 3, c: int = 4, *, metric: str = "cka", long: bool = False, **changes: Any) -> SimilarityMatrix:
    """A band of high values along the diagonal; every cell of a small matrix has its own value."""
    values = changes.pop("values", None)
    if values is None:
        i, j = np.mgrid[0:r, 0:c]
        values = np.exp(-5 * (i / r - j / c) ** 2) * (1 - 0.01 * i / r - 0.03 * j / c)
    values = np.array(values, dtype=float)
    holes = {(int(i), int(j)): WHY for i, j in np.argwhere(np.isnan(values))}
    names = {"rows": layers(values.shape[0], long), "cols": layers(values.shape[1], long)}
    whole: dict[str, Any] = {
        "metric": metric,
        "row_model": "first",
        "col_model": "second",
        "n": 1597,
        "reasons": holes,
        **names,
        **changes,
    }
    return SimilarityMatrix(values, **whole)


def td(values: np.ndarray, half: float = 0.05, **changes: Any) -> SimilarityMatrix:
    details = {"ci_low": np.clip(values - half, 0, 1), "ci_high": np.clip(values + 2 * half, 0, 1)}
    return matrix(values=values, metric="td", details=details, **changes)


def own(made: SimilarityMatrix, **keywords: Any) -> Axes:
    """The heatmap in a figure of its own that no window knows."""
    return heatmap(made, ax=prepare(Figure(), made).add_subplot(), **keywords)


def bar(axes: Axes) -> Colorbar | None:
    return axes.collections[0].colorbar


def cells(axes: Axes) -> np.ma.MaskedArray:
    """The drawn values by row and column."""
    array = axes.collections[0].get_array()
    assert array is not None
    return np.ma.asarray(array)


def short(name: str) -> str:
    return name if len(name) <= 22 else "…" + name[-21:]


# --- Cells ----------------------------------------------------------------------------------------------------


def test_the_first_layers_are_at_the_lower_left() -> None:
    made = matrix()
    axes = own(made)
    np.testing.assert_array_equal(cells(axes), made.values)
    assert axes.get_xlim() == (0, 4)
    assert axes.get_ylim() == (0, 3)
    pixels = drawn(axes)
    colours = matplotlib.colormaps["magma"]
    for i in range(3):
        for j in range(4):
            x, y = axes.transData.transform((j + 0.5, i + 0.5))
            seen = pixels[pixels.shape[0] - 1 - int(y), int(x)]
            np.testing.assert_allclose(seen, np.array(colours(made.values[i, j])) * 255, atol=2)


@pytest.mark.parametrize(("metric", "alike", "unlike"), [("cka", 1.0, 0.0), ("td", 0.0, 1.0)])
def test_bright_is_alike_for_similarities_and_distances(metric: str, alike: float, unlike: float) -> None:
    shades = own(matrix(values=[[0.5]], metric=metric)).collections[0]
    bright, dark = shades.to_rgba(np.array([alike, unlike]))[:, :3].sum(1)
    assert bright > 2.5
    assert dark < 0.1


def test_the_axes_given_are_used_and_returned() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    before = plt.get_fignums()
    assert heatmap(matrix(), ax=right) is right
    assert plt.get_fignums() == before
    assert len(right.collections) == 1
    assert len(left.collections) == 0
    assert right.figure is figure


def test_without_axes_one_figure_is_made() -> None:
    before = plt.get_fignums()
    axes = heatmap(matrix())
    assert len(plt.get_fignums()) == len(before) + 1
    assert tuple(figure_of(axes).get_size_inches()) == figure_size(matrix())


def test_titles_name_the_measure_and_n_and_axes_the_networks() -> None:
    axes = own(matrix())
    assert axes.get_title() == "CKA, debiased  (n = 1,597)"
    assert axes.get_xlabel() == "second"
    assert axes.get_ylabel() == "first"
    assert own(matrix(), title="mine").get_title() == "mine"
    assert own(matrix(metric="td")).get_title() == "TD, share of answers that differ  (n = 1,597)"


# --- Colour limits --------------------------------------------------------------------------------------------


def test_colour_limits_are_the_bounds_so_that_pictures_can_be_compared() -> None:
    for low in (0.2, -0.2):  # debiased CKA below 0 does not stretch the scale
        assert own(matrix(values=[[1.0, low]])).collections[0].get_clim() == (0.0, 1.0)
    assert own(matrix(values=[[0.1, 0.2]], metric="td")).collections[0].get_clim() == (0.0, 1.0)


def test_colour_limits_of_the_data_or_given_ones() -> None:
    made = matrix(values=[[0.25, 0.75, np.nan]])
    assert own(made, limits="data").collections[0].get_clim() == (0.25, 0.75)
    assert own(made, limits=(-0.5, 0.5)).collections[0].get_clim() == (-0.5, 0.5)
    low, high = own(matrix(values=[[0.5, 0.5]]), limits="data").collections[0].get_clim()
    assert low < 0.5 < high
    assert own(matrix(values=[[np.nan]]), limits="data").collections[0].get_clim() == (0.0, 1.0)


@pytest.mark.parametrize("limits", ["all", (1.0, 0.0), (0.5, 0.5), (0.0, 0.5, 1.0), (0.0, float("nan"))])
def test_colour_limits_that_are_none(limits: Any) -> None:
    text = f'heatmap: limits must be "bounds", "data" or (low, high); got {limits!r}. Choose one.'
    with pytest.raises(ValueError, match=exactly(text)):
        own(matrix(), limits=limits)


@pytest.mark.parametrize(
    ("values", "limits", "extend"),
    [
        ([[0.0, 1.0]], "bounds", "neither"),
        ([[-0.1, 1.0]], "bounds", "min"),
        ([[-0.1, np.nan]], "data", "neither"),
        ([[0.5, 0.9]], (0.0, 0.8), "max"),
        ([[0.1, 0.9]], (0.2, 0.8), "both"),
    ],
)
def test_the_colour_bar_says_what_lies_outside_it(values: list[list[float]], limits: Any, extend: str) -> None:
    colorbar = bar(own(matrix(values=values), limits=limits))
    assert colorbar is not None
    assert colorbar.extend == extend


def test_the_colour_bar_says_which_end_is_alike_and_can_be_left_out() -> None:
    for metric, label in (("cka", "lighter: more alike"), ("td", "lighter: more alike")):
        colorbar = bar(own(matrix(metric=metric)))
        assert colorbar is not None
        assert colorbar.ax.get_ylabel() == label
    axes = own(matrix(), colorbar=False)
    assert bar(axes) is None
    assert figure_of(axes).findobj(Axes) == [axes]


# --- Cells that are left out, hatched or written on -----------------------------------------------------------


SYMMETRIC = [[1.0, 0.2, 0.3], [0.2, 1.0, np.nan], [0.3, np.nan, 1.0]]


def hatched(axes: Axes, pattern: str = "////") -> set[tuple[int, int]]:
    """(row, column) of the cells that are hatched so."""
    paths = [patch.get_path() for patch in axes.patches if patch.get_hatch() == pattern]
    r, c = cells(axes).shape
    middles = [(i, j) for i in range(r) for j in range(c)]
    return {(i, j) for i, j in middles if any(path.contains_point((j + 0.5, i + 0.5)) for path in paths)}


def test_cells_without_a_number_are_hatched() -> None:
    axes = own(matrix(values=[[0.1, np.nan, 0.3], [np.nan, 0.5, 0.6]]))
    assert hatched(axes) == {(0, 1), (1, 0)}
    np.testing.assert_array_equal(np.ma.getmaskarray(cells(axes)), [[False, True, False], [True, False, False]])
    pixels = drawn(axes)
    left, low = axes.transData.transform((1.1, 0.1)).astype(int)
    right, high = axes.transData.transform((1.9, 0.9)).astype(int)
    cell = pixels[pixels.shape[0] - high : pixels.shape[0] - low, left:right, :3].astype(int)
    assert (cell == 255).all(-1).any()  # white, which is no colour of the scale, with grey lines
    assert (cell.max(-1) < 200).any()
    assert int((cell.max(-1) - cell.min(-1)).max()) < 10


def test_a_matrix_without_a_single_number_is_drawn() -> None:
    axes = own(matrix(values=np.full((2, 2), np.nan)), annotate=True)
    assert len(hatched(axes)) == 4
    assert [t for t in axes.texts if t.get_text()] == []
    drawn(axes)


def test_a_mask_leaves_out_the_upper_half() -> None:
    axes = own(matrix(values=SYMMETRIC), mask=True)
    above = np.tril(np.ones((3, 3), dtype=bool), -1)  # rows grow upwards, so later rows stand above the diagonal
    np.testing.assert_array_equal(np.ma.getmaskarray(cells(axes)), above | np.isnan(SYMMETRIC))
    assert hatched(axes) == {(1, 2)}  # the missing cell below; above it is left out, not missing
    pixels = drawn(axes)[..., :3].astype(int)
    x, y = axes.transData.transform((0.5, 2.5)).astype(int)  # at the upper left of the picture there is nothing
    assert (pixels[pixels.shape[0] - 1 - y, x] == 255).all()
    assert not np.ma.getmaskarray(cells(own(matrix(values=SYMMETRIC))))[0, 1]


@pytest.mark.parametrize(
    "made",
    [
        matrix(values=[[1.0, 0.2], [0.3, 1.0]]),
        matrix(values=[[1.0, 0.2], [0.2, 1.0]], cols=("other", "names")),
        matrix(3, 4),
    ],
    ids=["not symmetric", "other layers", "not square"],
)
def test_a_mask_of_what_is_not_symmetric_is_refused(made: SimilarityMatrix) -> None:
    text = "heatmap: mask needs a symmetric matrix; got first × second. Leave mask out."
    with pytest.raises(ValueError, match=exactly(text)):
        own(made, mask=True)


def test_values_are_written_into_their_cells() -> None:
    values = [[1.0, 0.25, np.nan], [-0.125, 0.5, 0.755]]
    axes = own(matrix(values=values), annotate=True)
    found = {(t.get_position()[1] - 0.5, t.get_position()[0] - 0.5): t.get_text() for t in axes.texts if t.get_text()}
    assert found == {(0, 0): "1.00", (0, 1): "0.25", (1, 0): "-0.12", (1, 1): "0.50", (1, 2): "0.76"}
    assert [t for t in own(matrix(values=values)).texts if t.get_text()] == []
    masked = own(matrix(values=SYMMETRIC), annotate=True, mask=True)
    assert len([t for t in masked.texts if t.get_text()]) == 5


# --- Blocks ---------------------------------------------------------------------------------------------------


def own_blocks() -> SimilarityMatrix:
    """Blocks of layers 0 to 3 and 4 to 8, and a ninth that is like none."""
    values = np.full((10, 10), 0.2)
    values[:4, :4], values[4:9, 4:9] = 0.95, 0.92
    np.fill_diagonal(values, 1)
    return matrix(values=values, col_model="first")


def frames(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_hatch()]


def test_blocks_are_framed_at_their_layers() -> None:
    made = own_blocks()
    axes = own(made, outline=blocks(made))
    assert [(*box.get_xy(), box.get_width(), box.get_height()) for box in frames(axes)] == [(0, 0, 4, 4), (4, 4, 5, 5)]
    assert all(not box.get_fill() for box in frames(axes))
    pixels = drawn(axes)[..., :3].astype(int)
    x, y = axes.transData.transform((9, 6.5))
    across = pixels[pixels.shape[0] - 1 - int(y), int(x) - 4 : int(x) + 5].sum(1)
    assert across.min() < 100  # a dark line with a bright one on both sides is seen on any colour
    assert across.max() > 700
    assert frames(own(made)) == []


def test_frames_of_other_layers_are_refused() -> None:
    text = (
        "heatmap: outline must be blocks of the matrix's layers; got blocks of first for first × second. "
        "Draw the matrix that the blocks were found in."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        heatmap(matrix(3, 3), outline=blocks(own_blocks()))
    assert plt.get_fignums() == []


# --- Labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize(("r", "c"), [(1, 1), (3, 3), (30, 30), (300, 300), (9, 300), (300, 9), (3, 30)])
def test_labels_name_their_cells_and_touch_nothing(r: int, c: int, long: bool) -> None:
    made = matrix(r, c, long=long)
    axes = own(made)
    drawn(axes)
    for axis, names in ((axes.xaxis, made.cols), (axes.yaxis, made.rows)):
        labels = written(axis)
        assert labels[0][0] == 0.5  # the first layer always
        for at, text in labels:
            assert text.get_text() == distinct(names, TICK_LETTERS)[int(at)]
            assert at == int(at) + 0.5
        steps = {after[0] - before[0] for before, after in itertools.pairwise(labels)}
        assert len(steps) <= 1
        boxes = [text.get_window_extent() for _, text in labels]
        for before, after in itertools.pairwise(boxes):
            assert before.x1 <= after.x0 if axis is axes.xaxis else before.y1 <= after.y0
    assert_inside(figure_of(axes))


@pytest.mark.parametrize("count", [3, 18, 30, 60])
def test_up_to_60_layers_each_has_its_label(count: int) -> None:
    axes = own(matrix(count, count))
    drawn(axes)
    assert len(written(axes.xaxis)) == count
    assert len(written(axes.yaxis)) == count


def test_300_layers_keep_many_labels() -> None:
    axes = own(matrix(300, 300))
    drawn(axes)
    assert len(written(axes.xaxis)) >= 30
    assert len(written(axes.yaxis)) >= 30


def test_long_names_are_cut_on_the_left_and_22_letters_are_not_long() -> None:
    names = ("a" * 22, "b" * 23, "transformer.encoder.layer.11.attention")
    made = matrix(values=np.eye(3), rows=names, cols=names)
    axes = own(made)
    for axis in (axes.xaxis, axes.yaxis):
        assert [text.get_text() for _, text in written(axis)] == [
            "a" * 22,
            "…" + "b" * 21,
            "…er.layer.11.attention",
        ]


def test_small_axes_of_the_caller_are_thinned_too() -> None:
    axes = Figure(figsize=(8, 3.5), layout="constrained").subplots(1, 2)[0]
    heatmap(matrix(60, 60, long=True), ax=axes)
    drawn(axes)
    for axis in (axes.xaxis, axes.yaxis):
        boxes = [text.get_window_extent() for _, text in written(axis)]
        assert len(boxes) > 5
        for before, after in itertools.pairwise(boxes):
            assert before.x1 <= after.x0 if axis is axes.xaxis else before.y1 <= after.y0


def test_a_network_with_a_long_name_is_named_inside_the_figure() -> None:
    name = "wide_resnet28_10_cifar10_trades_seed17_epoch200"
    axes = own(matrix(3, 3, row_model=name, col_model=name))
    drawn(axes)
    box = figure_of(axes).bbox
    for label in (axes.xaxis.label, axes.yaxis.label):
        seen = label.get_window_extent()
        assert min(seen.x0, seen.y0) >= 0
        assert seen.x1 <= box.width
        assert seen.y1 <= box.height


# --- Panels ---------------------------------------------------------------------------------------------------


def three() -> list[SimilarityMatrix]:
    first = matrix(values=[[0.5, 0.25]], row_model="a", col_model="b")
    second = matrix(values=[[-0.25, 0.5]], row_model="c", col_model="d")
    third = matrix(values=[[0.75, np.nan]], row_model="e", col_model="f", n=20)
    return [first, second, third]


def test_panels_share_one_scale_and_one_colour_bar() -> None:
    made = three()
    axes = panels(made, figure=Figure(), limits="data")
    assert [a.collections[0].get_clim() for a in axes] == [(-0.25, 0.75)] * 3
    assert sum(bar(a) is not None for a in axes) == 1
    for a, m in zip(axes, made, strict=True):
        np.testing.assert_array_equal(np.ma.filled(cells(a), np.nan), m.values)
    assert [a.get_title() for a in axes] == ["a × b", "c × d", "e × f"]
    assert figure_of(axes[0]).get_suptitle() == "CKA, debiased  (n = 20, 1,597)"
    drawn(axes[0])


def test_panels_show_what_lies_below_the_scale_in_any_of_them() -> None:
    bars = [bar(a) for a in panels(three(), figure=Figure())]  # the second one holds a negative value
    assert [b.extend for b in bars if b is not None] == ["min"]


def test_panels_fill_lines_and_take_titles() -> None:
    axes = panels(three(), figure=Figure(), columns=2, titles=["one", "two", "three"])
    assert [a.get_title() for a in axes] == ["one", "two", "three"]
    drawn(axes[0])
    first, second, third = (a.get_position() for a in axes)
    assert first.y0 == pytest.approx(second.y0, abs=0.02)
    assert first.x1 < second.x0
    assert third.y1 < first.y0
    assert third.x0 == pytest.approx(first.x0, abs=0.02)


def test_panels_make_a_figure_where_none_is_given() -> None:
    before = len(plt.get_fignums())
    panels(three())
    assert len(plt.get_fignums()) == before + 1
    figure = Figure()
    assert figure_of(panels(three(), figure=figure)[0]) is figure
    assert len(plt.get_fignums()) == before + 1


def test_panels_of_several_measures_or_none_are_refused() -> None:
    text = "panels: matrices must share one metric; got cka, td. Draw one figure per metric."
    with pytest.raises(ValueError, match=exactly(text)):
        panels([matrix(), matrix(metric="td")])
    text = "panels: matrices must share one metric; got no matrix. Draw one figure per metric."
    with pytest.raises(ValueError, match=exactly(text)):
        panels([])
    assert plt.get_fignums() == []


@pytest.mark.parametrize("titles", [["one"], ["one", "two", "three", "four"]])
def test_panels_need_a_title_each(titles: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\Apanels: "):
        panels(three(), titles=titles, figure=Figure())


@pytest.mark.parametrize("window", [False, True], ids=["figure", "window"])
@pytest.mark.parametrize("layer_count", [3, 30, 300])
def test_texts_of_panels_stay_inside_the_figure_and_apart(layer_count: int, window: bool) -> None:
    # A window's figure can be drawn, and so laid out, before all of its panels are there.
    name = "resnet50_cifar100_pgd_17"
    made = [matrix(layer_count, layer_count, row_model=name, col_model=name) for _ in range(5)]
    axes = panels(made, figure=None if window else Figure())
    drawn(axes[0])
    assert_inside(figure_of(axes[0]))
    for a in axes:
        for axis in (a.xaxis, a.yaxis):
            boxes = [text.get_window_extent() for _, text in written(axis)]
            assert len(boxes) >= 3
            for before, after in itertools.pairwise(boxes):
                assert before.x1 <= after.x0 if axis is a.xaxis else before.y1 <= after.y0
    # Panels of one size are labelled alike.
    assert len({(a.get_xlabel(), a.get_ylabel(), a.get_title()) for a in axes}) == 1
    for pick in ("xaxis", "yaxis"):
        assert len({tuple(at for at, _ in written(getattr(a, pick))) for a in axes}) == 1


def test_titles_of_neighbouring_panels_do_not_run_into_each_other() -> None:
    name = "resnet50_cifar100_pgd_17"
    made = [matrix(3, 3, row_model=f"{name}{k}", col_model=f"{name}{k}") for k in range(4)]
    axes = panels(made, figure=Figure())
    drawn(axes[0])
    boxes = [a.title.get_window_extent() for a in axes]
    assert boxes[0].x0 >= 0
    for before, after in itertools.pairwise(boxes):
        assert before.x1 <= after.x0


# --- Curves over depth ----------------------------------------------------------------------------------------


def curve(*made: SimilarityMatrix, **keywords: Any) -> Axes:
    return layer_curve(*made, ax=Figure(figsize=(7, 4), layout="constrained").add_subplot(), **keywords)


def points(axes: Axes) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in np.column_stack(line.get_data())] for line in axes.lines]


def test_layers_of_equal_names_make_the_curve() -> None:
    made = matrix(values=[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], rows=("fc", "conv"), cols=("conv", "x", "fc"))
    axes = curve(made)
    assert points(axes) == [[(0, 0.3), (1, 0.4)]]
    assert [(at, text.get_text()) for at, text in written(axes.xaxis)] == [(0, "fc"), (1, "conv")]


def test_without_equal_names_places_make_the_curve() -> None:
    made = matrix(values=[[0.1, 0.2], [0.4, 0.5]], rows=("p", "q"), cols=("r", "s"))
    axes = curve(made)
    assert points(axes) == [[(0, 0.1), (1, 0.5)]]
    assert [text.get_text() for _, text in written(axes.xaxis)] == ["p × r", "q × s"]


def test_networks_of_unlike_depth_have_a_curve_that_names_both_layers_and_counts_them() -> None:
    rows, cols = (tuple(f"stage2.{i}" for i in range(k)) for k in (2, 4))
    axes = curve(matrix(values=[[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], rows=rows, cols=cols))
    assert points(axes) == [[(0, 0.1), (1, 0.8)]]
    labels = [text.get_text() for _, text in written(axes.xaxis)]
    assert labels == ["stage2.0", "stage2.1 × stage2.3"]
    assert axes.get_title() == "2 of 2 × 4 matched layers  (n = 1,597)"


def test_one_line_per_matrix_with_its_label() -> None:
    one, two = matrix(3, 3), matrix(3, 3, row_model="third")
    axes = curve(one, two)
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["first × second", "third × second"]
    assert len(axes.lines) == 2
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    legend = curve(one, two, labels=["p", "q"]).get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["p", "q"]
    with pytest.raises(ValueError, match=r"\Alayer_curve: "):
        curve(one, two, labels=["p"])


def test_axes_of_a_curve_say_what_they_are() -> None:
    axes = curve(matrix(3, 3), matrix(3, 3, n=20))
    assert axes.get_ylabel() == "CKA, debiased"
    assert axes.get_xlabel() == "layer, in order of execution"
    assert axes.get_title() == "3 matched layers  (n = 20, 1,597)"


def test_the_interval_is_shaded_in_the_lines_colour() -> None:
    values = np.array([[0.2, 0.9, 0.9], [0.9, 0.4, 0.9], [0.9, 0.9, 0.6]])
    axes = curve(td(values), td(values / 2))
    assert len(axes.collections) == 2
    shade = axes.collections[0]
    (path,) = shade.get_paths()
    corners = {(float(x), round(float(y), 9)) for x, y in np.asarray(path.vertices)}
    assert corners == {(0, 0.15), (1, 0.35), (2, 0.55), (0, 0.3), (1, 0.5), (2, 0.7)}
    for line, area in zip(axes.lines, axes.collections, strict=True):
        red, green, blue, alpha = np.asarray(area.get_facecolor())[0]
        assert same_color((red, green, blue), line.get_color())
        assert 0 < alpha < 0.5
    assert len(curve(matrix(3, 3)).collections) == 0


def test_limits_of_a_curve() -> None:
    values = np.array([[0.2, 1.0], [1.0, 0.4]])
    low, high = curve(td(values)).get_ylim()
    assert -0.1 < low < 0
    assert 1 < high < 1.1
    low, high = curve(td(values), limits="data").get_ylim()  # from the intervals' ends: 0.15 and 0.5
    assert 0.1 < low < 0.15
    assert 0.5 < high < 0.55
    low, high = curve(td(values), limits=(0.0, 0.5)).get_ylim()
    assert -0.1 < low < 0
    assert 0.5 < high < 0.6


def test_every_point_of_a_curve_is_seen() -> None:
    # Debiased CKA may be negative, outside the limits that its pictures share.
    axes = curve(matrix(values=np.diag([1.0, -0.4, 0.5])))
    low, high = axes.get_ylim()
    assert all(low <= y <= high for line in points(axes) for _, y in line)


def test_a_layer_without_a_number_is_a_gap() -> None:
    values = np.array([[0.2, 0.5, 0.5], [0.5, np.nan, 0.5], [0.5, 0.5, 0.4]])
    axes = curve(td(values), limits="data")
    assert np.isnan(points(axes)[0][1][1])
    assert np.isfinite(axes.get_ylim()).all()
    drawn(axes)


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("count", [3, 30, 300])
def test_labels_of_a_curve_touch_nothing(count: int, long: bool) -> None:
    made = matrix(count, count, long=long)
    axes = curve(made)
    drawn(axes)
    labels = written(axes.xaxis)
    assert len(labels) >= min(count, 20)
    for at, text in labels:
        assert text.get_text() == short(made.rows[int(at)])
    boxes = [text.get_window_extent() for _, text in labels]
    for before, after in itertools.pairwise(boxes):
        assert before.x1 <= after.x0
    assert_inside(figure_of(axes))


def test_curves_use_the_axes_given_or_make_one_figure() -> None:
    axes = Figure().add_subplot()
    assert layer_curve(matrix(3, 3), ax=axes) is axes
    before = len(plt.get_fignums())
    layer_curve(matrix(3, 3))
    assert len(plt.get_fignums()) == before + 1


def test_curves_of_several_measures_or_none_are_refused() -> None:
    text = "layer_curve: matrices must share one metric; got cka, td. Draw one figure per metric."
    with pytest.raises(ValueError, match=exactly(text)):
        layer_curve(matrix(3, 3), matrix(3, 3, metric="td"))
    text = "layer_curve: matrices must share one metric; got no matrix. Draw one figure per metric."
    with pytest.raises(ValueError, match=exactly(text)):
        layer_curve([])


def test_a_measure_without_an_upper_bound_is_drawn_up_to_its_largest_value() -> None:
    rng = np.random.default_rng(0)
    a = repsim.Activations.from_arrays({name: rng.standard_normal((80, 4)) for name in "xyz"})
    found = repsim.compare(a, a, "gulp")
    assert repsim.heatmap(found).collections[0].get_clim() == (0, found.values.max())
    one = repsim.Activations.from_arrays({"x": a["x"]})
    alone = repsim.compare(one, one, "gulp")
    assert repsim.heatmap(alone).collections[0].get_clim() == (0, 1)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("resnet20", "resnet20"),
        ("a network with a long name of its own", "…h a long name of its own"),
        ("short under blur:3", "short under blur:3"),
        ("digits_pgd under pgd-20(digits, linf:0.1)", "digits_pgd\nunder pgd-20(digits,\nlinf:0.1)"),
    ],
)
def test_a_long_input_condition_has_a_line_of_its_own(name: str, label: str) -> None:
    assert side_label(name, 25) == label


def test_titles_tell_sides_apart_that_end_alike() -> None:
    from matplotlib.figure import Figure

    ax = Figure(figsize=(3, 3)).add_subplot()
    first, second = "robust under pgd-20(standard, linf:0.1)", "standard under pgd-20(standard, linf:0.1)"
    left, right = models(ax, first, second).split(" × ")
    assert left != right
    assert models(ax, "a", "a") == "a × a"


def test_calibrated_values_are_drawn_from_0_to_1() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3))
    a = repsim.Activations.from_arrays({"one": x, "two": rng.standard_normal((40, 3))})
    found = repsim.permutation_test(a, a, "procrustes", permutations=20)
    ax = own(found, calibrated=True)
    assert ax.collections[0].get_clim() == (0, 1)
    drawn_values = ax.collections[0].get_array()
    assert drawn_values is not None
    np.testing.assert_array_equal(drawn_values.ravel(), found.details["calibrated"].ravel())
    assert ax.get_title().endswith(", calibrated  (n = 40)")

    text = "heatmap: calibrated values must be there; got a matrix without them. Draw what permutation_test returns."
    with pytest.raises(ValueError, match=exactly(text)):
        heatmap(repsim.compare(a, a, "procrustes"), calibrated=True)
