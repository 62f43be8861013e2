"""What makes a picture readable, whatever it is of: names as text, values that fit, colours that mean one thing."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import repsim
from repsim import heatmap, layer_curve, panels
from repsim._common.provenance import CautionWarning
from repsim.plots import clustered_heatmap, confusion, disagreement_grid, lambda_curve, paper
from repsim.plots.colours import alike_label, colour_map, is_signed
from repsim.plots.heatmaps import picture
from repsim.plots.study_attacks import epoch_heatmaps
from repsim.plots.study_panels import Line, LinePanel, Panel, study_figure
from repsim.plots.style import as_text, side_label
from tests.conftest import exactly
from tests.plots.test_heatmaps import bar, cells, hatched, matrix, own
from tests.support.pictures import assert_apart, assert_inside, drawn, figure_of, no_windows, written

__all__ = ["no_windows"]  # a fixture that every test of this file uses

#: Names that mean something to matplotlib, to a browser or to a terminal.
ODD = ["acc$\\bad{x$", "<b>x</b>", "two\nlines", "tab\tand\x07bell", "x" * 200, "_hidden", "%d \\n {0}"]


def ydata(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_ydata())


def named(length: int, count: int) -> tuple[str, ...]:
    return tuple(
        f"{'features.stage.residual_block.convolution.attention_head'[: length - 4]}.{i:03d}" for i in range(count)
    )


@pytest.mark.parametrize(("length", "count"), [(5, 3), (5, 80), (60, 12), (60, 150), (30, 40)])
def test_labels_are_whole_and_apart_at_every_length(length: int, count: int) -> None:
    names = named(length, count)
    made = matrix(count, count, rows=names, cols=names, row_model="m" * length, col_model="n" * length)
    axes = own(made)
    drawn(axes)
    for axis in (axes.xaxis, axes.yaxis):
        labels = [text for _, text in written(axis)]
        assert len(labels) >= min(count, 25)
        assert len({text.get_text() for text in labels}) == len(labels)
        boxes = [text.get_window_extent() for text in labels]
        for one, two in itertools.pairwise(boxes):
            assert one.x1 <= two.x0 if axis is axes.xaxis else one.y1 <= two.y0
    side = [text for _, text in written(axes.yaxis)]
    assert_apart([axes.yaxis.label, *side[:1], axes.xaxis.label])
    assert_inside(figure_of(axes))


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_drawn_as_text(name: str, tmp_path: Path) -> None:
    made = replace(matrix(3, 3), rows=(name, "b", "c"), row_model=name)
    path = made.save_picture(tmp_path / "x.svg")
    assert b"<svg" in path.read_bytes()
    figure = Figure(figsize=(7, 4), layout="constrained")
    drawn(layer_curve([made, matrix(3, 3)], ax=figure.add_subplot()))
    shown = own(made).get_yticklabels()[0]
    assert "\n" not in shown.get_text()
    assert "\x07" not in shown.get_text()


def test_a_dollar_is_a_dollar() -> None:
    axes = own(replace(matrix(3, 3), rows=("a$b$c", "$", "c")))
    text = axes.get_yticklabels()[0]
    assert text._preprocess_math(text.get_text()) == ("a$b$c", False)  # type: ignore[attr-defined]
    assert as_text("two\nlines") == "two lines"


def test_a_condition_of_many_parts_is_wrapped_and_whole() -> None:
    label = side_label("resnet20 under pgd-20(robust-resnet20, linf:0.031), blur:3", 24)
    assert "".join(label.split()) == "resnet20underpgd-20(robust-resnet20,linf:0.031),blur:3"
    assert max(map(len, label.split("\n"))) <= 24
    assert "…" in side_label("r under " + "condition(of, several, parts), " * 9, 24)


# --- Values in cells -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("r", "c"), [(3, 3), (9, 27)])
def test_values_stay_inside_their_cells(r: int, c: int) -> None:
    made = matrix(r, c)
    made = replace(made, values=made.values - 0.5)
    figure = picture(made, annotate=True)
    (axes, *_) = figure.axes
    drawn(axes)
    assert len(axes.texts) == r * c
    one = axes.transData.transform([(0, 0), (1, 1)])
    wide, high = one[1] - one[0]
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.width <= wide
        assert box.height <= high
        assert float(text.get_fontsize()) >= 5


def test_values_that_no_cell_holds_are_not_written_and_that_is_said() -> None:
    text = "heatmap: the cells of 90 × 90 layers are too small for their values, which are not written"
    with pytest.warns(CautionWarning, match=exactly(text)):
        figure = picture(matrix(90, 90), annotate=True)
    assert list(figure.axes[0].texts) == []


def test_values_of_a_curve_touch_no_point_and_no_other_value() -> None:
    axes = layer_curve([matrix(9, 9), matrix(9, 9, values=np.eye(9) * 0.5 + 0.2)], annotate=True)
    drawn(axes)
    assert len(axes.texts) >= 9
    assert_apart(list(axes.texts))
    assert {text.get_text() for text in axes.texts} <= {f"{y:.2f}" for line in axes.lines for y in ydata(line)}


def test_lines_of_unlike_many_layers_run_over_relative_depth() -> None:
    short_one, long_one = matrix(3, 3), matrix(9, 9)
    axes = layer_curve([short_one, long_one])
    assert [float(x) for x in np.asarray(axes.lines[0].get_xdata())] == [0, 4, 8]
    assert [float(x) for x in np.asarray(axes.lines[1].get_xdata())] == [*range(9)]
    assert axes.get_xlabel() == "relative depth; layers of the longest line"
    assert layer_curve([long_one], long_one).get_xlabel() == "layer, in order of execution"


def test_a_curve_of_some_layers_says_of_how_many() -> None:
    rng = np.random.default_rng(0)
    a = repsim.Activations.from_arrays({f"l{k}": rng.standard_normal((40, 4)) for k in range(9)}, name="a")
    found = repsim.lambda_curve(a, replace(a, name="b"), penalties=[0.01, 1.0])
    assert lambda_curve(found).get_title(loc="left") == "a × b  (6 of 9 matched layers, n = 40)"
    few = lambda_curve(found, [("l0", "l0"), ("l1", "l1")])
    assert few.get_title(loc="left") == "a × b  (n = 40)"


# --- Colours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cmap", [None, "viridis", "cividis", "Greys_r"])
@pytest.mark.parametrize(("metric", "alike", "unlike"), [("cka", 1.0, 0.0), ("td", 0.0, 1.0)])
def test_lighter_is_more_alike_on_every_map(cmap: str | None, metric: str, alike: float, unlike: float) -> None:
    made = matrix(values=[[0.5]], metric=metric)
    axes = own(made, cmap=cmap)
    bright, dark = axes.collections[0].to_rgba(np.array([alike, unlike]))[:, :3].sum(1)
    assert bright > dark + 1
    colorbar = bar(axes)
    assert colorbar is not None
    assert colorbar.ax.get_ylabel() == "lighter: more alike"


def test_a_map_that_ends_dark_is_not_called_lighter() -> None:
    assert alike_label(matrix().definition, colour_map(matrix().definition, "Greys")) == "larger: more alike"
    td = matrix(metric="td").definition
    assert alike_label(td, colour_map(td, "RdBu")) == "smaller: more alike"


def test_an_unknown_map_is_refused() -> None:
    text = "heatmap: cmap must be a map of matplotlib's; got 'virdis'. Close matches: "
    with pytest.raises(ValueError, match=rf"\A{re.escape(text)}.*viridis"):
        own(matrix(), cmap="virdis")
    with pytest.raises(ValueError, match=r"\Alayer_curve: cmap must be a map of matplotlib's; got 'virdis'\. Close"):
        layer_curve(matrix(3, 3), cmap="virdis")


class Signed:
    """A measure whose usual values lie on both sides of zero."""

    title, kind, display, bounds = "signed", "similarity", (-1.0, 1.0), (-1.0, 1.0)

    def self_value_of(self, n: int) -> float:
        return 1.0


def test_a_signed_measure_has_a_neutral_zero_that_is_marked() -> None:
    made = matrix(values=[[-0.3, 0.0, 0.9]])
    told = {name: getattr(made, name) for name in ("values", "rows", "cols", "row_model", "col_model", "n", "details")}
    signed: Any = SimpleNamespace(**told, metric="signed", definition=Signed(), reasons={}, provenance={})
    assert is_signed(signed.definition)
    axes = heatmap(signed, ax=Figure().add_subplot(), limits="data")
    assert axes.collections[0].get_clim() == (-0.9, 0.9)
    assert axes.collections[0].to_rgba(np.array([0.0]))[0, :3].min() > 0.95
    colorbar = bar(axes)
    assert colorbar is not None
    assert 0.0 in colorbar.get_ticks()
    assert any(np.allclose(line.get_ydata(), 0) for line in colorbar.ax.lines)


def test_panels_and_trees_take_the_same_words() -> None:
    made = [matrix(3, 3), matrix(3, 3)]
    axes = panels(made, figure=Figure(), cmap="viridis", annotate=True)
    assert [len(a.texts) for a in axes] == [9, 9]
    assert axes[0].collections[0].get_cmap().name == "viridis"
    values = np.array([[1.0, 0.9, 0.92], [0.9, 1.0, 0.95], [0.92, 0.95, 1.0]])
    table = matrix(values=values, rows=("a", "b", "c"), cols=("a", "b", "c"))
    drawn_values = clustered_heatmap(table, figure=Figure(), cmap="viridis", annotate=True)
    assert drawn_values.collections[0].get_clim() == (0.9, 0.95)  # the diagonal takes no colours
    assert len(drawn_values.texts) == 9
    assert clustered_heatmap(table, figure=Figure(), limits=(0.0, 1.0)).collections[0].get_clim() == (0.0, 1.0)
    lines = layer_curve(made, cmap="viridis").lines
    assert tuple(lines[0].get_color()) != tuple(lines[1].get_color())


# --- Intervals -------------------------------------------------------------------------------------------------


def test_cells_whose_interval_includes_chance_are_dotted() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8))
    a = repsim.Activations.from_arrays({"same": x, "own": rng.standard_normal((60, 8))})
    b = repsim.Activations.from_arrays(
        {"same": x + 0.1 * rng.standard_normal((60, 8)), "new": rng.standard_normal((60, 8))}
    )
    found = repsim.bootstrap(a, b, "cka", resamples=40)
    low, high, chance = (found.details[name] for name in ("ci_low", "ci_high", "chance"))
    expected = {(int(i), int(j)) for i, j in np.argwhere((low <= chance) & (chance <= high))}
    axes = own(found)
    assert hatched(axes, "....") == expected
    assert (0, 0) not in expected
    assert len(expected) == 3
    colorbar = bar(axes)
    assert colorbar is not None
    assert colorbar.ax.get_ylabel() == "lighter: more alike\ndotted: the interval includes chance"


def test_90000_cells_without_numbers_are_one_path() -> None:
    made = matrix(values=np.full((300, 300), np.nan))
    axes = own(made)
    assert len(axes.patches) == 1
    drawn(axes)


# --- Paper -----------------------------------------------------------------------------------------------------


def test_figures_for_a_paper_are_as_wide_as_its_columns(tmp_path: Path) -> None:
    for width, inches in (("column", 3.35), ("page", 6.9), (5.0, 5.0)):
        with paper(width):  # type: ignore[arg-type]
            axes = heatmap(matrix(27, 27))
            assert figure_of(axes).get_figwidth() == pytest.approx(inches)
            drawn(axes)
            assert_inside(figure_of(axes))
            assert figure_of(panels([matrix(), matrix()])[0]).get_figwidth() == pytest.approx(inches)
            assert figure_of(layer_curve(matrix(3, 3))).get_figwidth() == pytest.approx(inches)
    with paper():
        pdf, svg = (matrix().save_picture(tmp_path / f"x.{kind}") for kind in ("pdf", "svg"))
        assert matplotlib.rcParams["svg.fonttype"] == "none"
    assert matplotlib.rcParams["svg.fonttype"] == "path"
    assert b">layer0.0</text>" in svg.read_bytes()
    assert b"/Subtype /Type3" not in pdf.read_bytes()
    assert figure_of(heatmap(matrix())).get_figwidth() == pytest.approx(4.8)


def test_a_paper_of_no_width_is_refused() -> None:
    text = 'paper: width must be "column", "page" or inches; got \'wide\'. A column is 3.35 inches wide.'
    with pytest.raises(ValueError, match=exactly(text)), paper("wide"):  # type: ignore[arg-type]
        pass


# --- Studies ---------------------------------------------------------------------------------------------------


def test_epochs_stand_where_they_are_in_time_and_gaps_have_a_zero() -> None:
    epochs, layers = [1, 3, 8, 15], ["a", "b"]
    alike, gap = np.full((2, 4), 0.5), np.array([[-0.1, 0.0, 0.2, np.nan], [0.1, 0.1, 0.1, 0.1]])
    figure = epoch_heatmaps(["g"], ["cka", "gap"], [[alike, gap]], [layers], [epochs])
    left, right = figure.axes[:2]
    drawn(left)
    assert [(at, text.get_text()) for at, text in written(right.xaxis)] == [(1, "1"), (3, "3"), (8, "8"), (15, "15")]
    assert right.collections[0].get_clim() == (-0.2, 0.2)
    assert right.collections[0].get_cmap().name == "RdBu_r"
    assert left.collections[0].get_cmap().name == "magma"
    coordinates = np.asarray(right.collections[0].get_coordinates())[0, :, 0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(coordinates, [0, 2, 5.5, 11.5, 18.5])
    many = epoch_heatmaps(["g"], ["cka"], [[np.full((2, 200), 0.5)]], [layers], [range(1, 201)]).axes[0]
    drawn(many)
    assert_apart([text for _, text in written(many.xaxis)])


def test_a_row_of_five_panels_is_three_and_two() -> None:
    figure = study_figure([[Panel(matrix(3, 3), f"p{k}") for k in range(5)]])
    places = [ax.get_position() for ax in figure.axes[:5]]
    assert len({round(p.y0, 2) for p in places[:3]}) == 1
    assert places[3].y0 < places[0].y0
    assert places[3].y0 == pytest.approx(places[4].y0)


def test_tables_of_networks_name_no_axis_and_part_their_groups() -> None:
    made = replace(matrix(3, 3), provenance={"layers": "matched"}, row_model="networks", col_model="networks")
    (axes, *_) = study_figure([[Panel(made, "t$1$", groups=(2, 1))]]).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("", "")
    lines = {tuple(ydata(line)) for line in axes.lines if len(set(ydata(line))) == 1}
    assert (2, 2) in lines
    drawn(axes)


def test_bands_end_at_their_bounds_and_say_where_they_are_cut() -> None:
    wide = Line([0.9, 0.7, 0.9], [0.8, -0.9, 0.8], [1.3, 0.95, 0.95])
    panel = LinePanel({"x": wide}, ["a", "b", "c"], "t", "y", (-1.0, 1.0))
    (axes,) = study_figure([[panel]]).axes
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert band[:, 1].max() == 1.0
    marks = [line for line in axes.lines if line.get_marker() == "v" and len(ydata(line))]
    assert [list(np.asarray(line.get_xdata())) for line in marks] == [[1]]
    low, high = axes.get_ylim()
    assert low < 0.7
    assert high > 1.0


# --- Classes ---------------------------------------------------------------------------------------------------


def test_classes_have_their_names_where_the_images_know_them(digits: repsim.ImageSet) -> None:
    rng = np.random.default_rng(0)
    arrays = [{"l": rng.standard_normal((len(digits), 6))} for _ in range(2)]
    a, b = (repsim.Activations.from_arrays(side, labels=digits.labels) for side in arrays)
    found = repsim.disagreements(a, b, "l")
    words = tuple(f"class${k}$" for k in range(10))
    known = replace(digits, classes=words)
    shown = [text.get_text() for ax in disagreement_grid(found, known, count=4, figure=Figure()) for text in ax.texts]
    assert any("class\\$" in text for text in shown)
    assert not any(re.search(r"label \d", text) for text in shown)
    axes = confusion(found, known, ax=Figure().add_subplot())
    assert written(axes.xaxis)[0][1].get_text() == r"class\$0\$"
    other = repsim.disagreements(a, b, "l", task=(digits.labels + 1) % 10)  # another task's classes have other names
    axes = confusion(other, known, ax=Figure().add_subplot())
    assert written(axes.xaxis)[0][1].get_text() == "0"


def test_cells_are_what_the_matrix_says() -> None:
    np.testing.assert_array_equal(cells(own(matrix(), cmap="viridis")), matrix().values)
