"""Pictures of many networks: order, trees and maps against their distances, and names that nothing covers."""

import itertools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from repsim import SimilarityMatrix
from repsim.plots import clustered_heatmap, dendrogram, mds_map
from repsim.plots.style import distinct
from tests.conftest import exactly
from tests.support.pictures import assert_apart, assert_inside, drawn, figure_of, no_windows, texts, written

__all__ = ["no_windows"]  # a fixture that every test of this file uses

RECIPES = ("standard", "pgd", "trades", "mixup")


def table(
    count: int, *, metric: str = "cka", spread: float = 0.3, long: bool = False, **changes: Any
) -> SimilarityMatrix:
    """Networks in groups, one per recipe in turn, as points of a plane: a map of them has no stress."""
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [3, 0], [0, 2], [3, 3]])[np.arange(count) % 4]
    places = corners + spread * rng.standard_normal((count, 2))
    apart = np.linalg.norm(places[:, None] - places, axis=2) / 12
    stem = "wide_resnet28_10_{}_seed{:02d}_ep200" if long else "{}_{}"
    names = tuple(stem.format(RECIPES[k % 4], k) for k in range(count))
    whole: dict[str, Any] = {
        "values": 1 - apart if metric in ("cka", "pwcca") else apart,
        "rows": names,
        "cols": names,
        "metric": metric,
        "row_model": "networks",
        "col_model": "networks",
        "n": 1597,
        "provenance": {"layers": "matched"},
        **changes,
    }
    return SimilarityMatrix(**whole)


def distances(made: SimilarityMatrix) -> np.ndarray:
    return 1 - made.values if made.metric in ("cka", "pwcca") else made.values


def groups(made: SimilarityMatrix) -> dict[str, str]:
    return {name: RECIPES[k % 4] for k, name in enumerate(made.rows)}


def joins(axes: Axes) -> list[float]:
    """The distances at which a drawn tree joins, in ascending order."""
    return sorted(float(np.max(np.asarray(line.get_xdata(), float))) for line in axes.lines)


def heights(axes: Axes) -> list[float]:
    return sorted(float(np.max(np.asarray(line.get_ydata(), float))) for line in axes.lines)


def linkage(made: SimilarityMatrix) -> np.ndarray:
    return hierarchy.linkage(squareform(distances(made), checks=False), "average")


def colour(shown: PathCollection) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_2d(np.asarray(shown.get_facecolor()))[0])


def dots(axes: Axes) -> np.ndarray:
    """Places of all points, in the order in which they were drawn."""
    found = [c for c in axes.collections if isinstance(c, PathCollection)]
    return np.concatenate([np.asarray(c.get_offsets()) for c in found])


# --- Clustered heatmap ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cka", "td"])
def test_rows_and_columns_stand_in_the_order_of_the_tree(metric: str) -> None:
    made = table(9, metric=metric)
    axes = clustered_heatmap(made)
    drawn(axes)
    across, up = ([text.get_text() for _, text in written(axis)] for axis in (axes.xaxis, axes.yaxis))
    assert across == up
    assert sorted(across) == sorted(made.rows)
    order = [made.rows.index(name) for name in across]
    cells = axes.collections[0].get_array()
    assert cells is not None
    np.testing.assert_array_equal(np.asarray(cells).reshape(9, 9), made.values[np.ix_(order, order)])
    recipes = [name.split("_")[0] for name in across]
    assert len(list(itertools.groupby(recipes))) == 4  # alike networks stand together
    (tree,) = [a for a in axes.child_axes if isinstance(a, Axes) and a.lines]
    np.testing.assert_allclose(heights(tree), linkage(made)[:, 2])
    assert tree.get_xlim() == axes.get_xlim()
    (box, branch) = axes.get_window_extent(), tree.get_window_extent()
    assert branch.y0 >= box.y1
    assert (branch.x0, branch.x1) == pytest.approx((box.x0, box.x1))
    assert figure_of(axes).get_suptitle().startswith(made.definition.title)


def test_a_figure_given_is_drawn_into() -> None:
    figure = Figure()
    assert figure_of(clustered_heatmap(table(4), figure=figure)) is figure
    assert plt.get_fignums() == []


# --- Dendrogram -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cka", "td"])
def test_branches_join_at_the_mean_distance_of_their_groups(metric: str) -> None:
    made = table(9, metric=metric)
    axes = dendrogram(made)
    np.testing.assert_allclose(joins(axes), linkage(made)[:, 2])
    last = linkage(made)[-1, 2]
    sides = hierarchy.fcluster(linkage(made), 2, "maxclust")
    assert last == pytest.approx(distances(made)[np.ix_(sides == 1, sides == 2)].mean())
    assert axes.get_xlabel() == ("1 − CKA, debiased" if metric == "cka" else "TD, share of answers that differ")
    assert axes.get_xlim()[1] == 0
    for line in axes.lines:  # a leaf's branch ends at its name
        for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True):
            assert x > 0 or float(y) % 1 == 0.5


def test_the_title_says_which_layers_and_n() -> None:
    made = table(5)
    assert dendrogram(made).get_title() == "CKA, debiased\nlayers: matched, n = 1,597"
    assert dendrogram(table(5, provenance={})).get_title() == "CKA, debiased (n = 1,597)"


def test_a_table_that_is_not_symmetric_is_averaged_and_the_title_says_so() -> None:
    made = table(5, metric="pwcca")
    tilted = table(5, metric="pwcca", values=np.clip(made.values + 0.02 * np.triu(np.ones((5, 5)), 1), 0, 1))
    axes = dendrogram(tilted)
    assert " ".join(axes.get_title().split()) == "PWCCA layers: matched, mean of both directions, n = 1,597"
    mean = table(5, metric="pwcca", values=(tilted.values + tilted.values.T) / 2)
    np.testing.assert_allclose(joins(axes), joins(dendrogram(mean)))
    assert "directions" not in dendrogram(made).get_title()


# --- Map ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "count"), [("cka", 2), ("cka", 7), ("td", 25)])
def test_the_map_keeps_distances_that_fit_a_plane(metric: str, count: int) -> None:
    made = table(count, metric=metric)
    axes = mds_map(made)
    places = dots(axes)
    found = np.linalg.norm(places[:, None] - places, axis=2)
    np.testing.assert_allclose(found, distances(made), atol=0.01 * distances(made).max())
    assert "stress 0.00" in axes.get_title()
    drawn(axes)
    pixels = axes.transData.transform([(0, 0), (1, 0), (0, 1)])
    assert pixels[1, 0] - pixels[0, 0] == pytest.approx(pixels[2, 1] - pixels[0, 1])  # both axes have one scale
    np.testing.assert_array_equal(places, dots(mds_map(made)))  # the seed is fixed


def test_the_stress_says_what_a_plane_cannot_keep() -> None:
    equal = 0.4 * np.eye(6) + 0.6  # six networks, each as far from every other one: no plane holds them
    axes = mds_map(table(6, values=equal))
    places = dots(axes)
    off = np.triu_indices(6, 1)
    found = np.linalg.norm(places[:, None] - places, axis=2)[off]
    stress = np.sqrt(((found - 0.4) ** 2).sum() / (0.4**2 * 15))
    assert stress > 0.15
    assert axes.get_title().endswith(f"stress {stress:.2f}")


def test_networks_that_are_all_equal_have_a_map() -> None:
    made = table(4, values=np.ones((4, 4)))
    for draw in (mds_map, dendrogram, clustered_heatmap):
        drawn(draw(made))
    np.testing.assert_array_equal(dots(mds_map(made)), 0)


def test_groups_have_colours_and_a_legend() -> None:
    made = table(8)
    axes = mds_map(made, groups=groups(made))
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == list(RECIPES)
    found = [c for c in axes.collections if isinstance(c, PathCollection)]
    assert len({colour(c) for c in found}) == 4
    for k, shown in enumerate(found):
        assert shown.get_label() == RECIPES[k]
        assert len(np.asarray(shown.get_offsets())) == 2
        assert colour(shown) == to_rgba(f"C{k}")
    assert mds_map(made).get_legend() is None


def test_more_groups_than_colours_differ_in_their_markers() -> None:
    made = table(12)
    axes = mds_map(made, groups={name: str(k) for k, name in enumerate(made.rows)})
    found = [c for c in axes.collections if isinstance(c, PathCollection)]
    looks = {(colour(c), len(np.asarray(c.get_paths()[0].vertices))) for c in found}
    assert len(looks) == 12


def test_every_network_of_the_table_needs_a_group() -> None:
    made = table(4)
    text = "mds_map: every network must have a group; got none for mixup_3. Name the networks of the table."
    with pytest.raises(ValueError, match=exactly(text)):
        mds_map(made, groups={name: "g" for name in made.rows[:3]})
    text = "mds_map: every network must have a group; got groups for other, not in the table. "
    with pytest.raises(ValueError, match=exactly(text + "Name the networks of the table.")):
        mds_map(made, groups={**groups(made), "other": "g"})


def test_the_scale_bar_has_the_length_that_it_says() -> None:
    axes = mds_map(table(9))
    (bar,) = [line for line in axes.lines if line.get_linewidth() == 1.5]
    ends = np.asarray(bar.get_xdata(), float)
    said = [float(t.get_text()) for t in axes.texts if t.get_text().replace(".", "").isdigit()]
    assert ends[1] - ends[0] == pytest.approx(said[0])
    low, high = axes.get_xlim()
    assert low < ends[0] < ends[1] < high


# --- Names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "long"), [(2, True), (3, False), (12, True), (40, False), (40, True)])
def test_names_are_whole_and_apart(count: int, long: bool) -> None:
    made = table(count, long=long)
    for draw in (clustered_heatmap, dendrogram):
        axes = draw(made)
        drawn(axes)
        assert_inside(figure_of(axes))
        for axis in (axes.xaxis, axes.yaxis) if draw is clustered_heatmap else (axes.yaxis,):
            labels = [text for _, text in written(axis)]
            assert len({text.get_text() for text in labels}) == count
            assert_apart(labels)


@pytest.mark.parametrize(
    ("count", "spread", "long"),
    [(2, 0.3, True), (5, 0.3, True), (12, 0, False), (40, 1.5, False), (40, 0.3, True), (40, 0.02, True)],
)
def test_names_on_a_map_touch_nothing(count: int, spread: float, long: bool) -> None:
    made = table(count, spread=spread, long=long)
    axes = mds_map(made, groups=groups(made) if count > 5 else None)
    drawn(axes)
    figure = figure_of(axes)
    assert_inside(figure)
    frame = axes.get_window_extent()
    assert_apart(list(axes.texts))
    for text in axes.texts:
        seen = text.get_window_extent()
        assert frame.x0 <= seen.x0
        assert seen.x1 <= frame.x1
        assert frame.y0 <= seen.y0
        assert seen.y1 <= frame.y1
        for x, y in axes.transData.transform(dots(axes)):
            assert not (seen.x0 < x < seen.x1 and seen.y0 < y < seen.y1), text
    shown = [text.get_text() for text in texts(figure)]
    said = distinct(made.rows, 30)
    legend = axes.get_legend()
    listed = [] if legend is None else [t.get_text().partition("  ")[2] for t in legend.get_texts()]
    assert all(name in shown or name in listed for name in said)


def test_where_names_do_not_fit_numbers_stand_for_them() -> None:
    made = table(40, spread=0.02, long=True)
    axes = mds_map(made, groups=groups(made))
    drawn(axes)
    legend = axes.get_legend()
    assert legend is not None
    listed = [t.get_text() for t in legend.get_texts()]
    assert [line for line in listed if line in RECIPES] == list(RECIPES)
    pairs = [line.split("  ") for line in listed if line not in RECIPES]
    assert [number for number, _ in pairs] == [str(k) for k in range(1, 41)]
    assert sorted(name for _, name in pairs) == sorted(distinct(made.rows, 30))
    # A number stands beside the point of its network: nearer than a fifth of the map.
    places = dict(zip([n for k in range(4) for n in made.rows[k::4]], dots(axes), strict=True))
    numbers = {t.get_text(): t.get_window_extent() for t in axes.texts}
    short = dict(zip(distinct(made.rows, 30), made.rows, strict=True))
    for number, name in pairs:
        x, y = axes.transData.transform(places[short[name]])
        box = numbers[number]
        away = np.hypot((box.x0 + box.x1) / 2 - x, (box.y0 + box.y1) / 2 - y)
        assert away < 0.2 * axes.get_window_extent().width


def test_a_hundred_networks_and_axes_of_the_caller() -> None:
    made = table(100, long=True)
    axes = mds_map(made)
    drawn(axes)
    assert_inside(figure_of(axes))
    given = Figure(figsize=(10, 5), layout="constrained").subplots(1, 2)
    assert mds_map(table(6), ax=given[0]) is given[0]
    assert dendrogram(made, ax=given[1]) is given[1]
    drawn(given[0])
    assert_inside(figure_of(given[0]))
    assert_apart([text for _, text in written(given[1].yaxis)])
    assert_apart(list(given[0].texts))


@given(st.lists(st.text("ab_", min_size=1, max_size=40), min_size=1, max_size=30, unique=True), st.integers(8, 30))
@settings(max_examples=200, deadline=None)
def test_cut_names_fit_and_stay_different(names: list[str], letters: int) -> None:
    cut = distinct(names, letters)
    assert len(set(cut)) == len(names)
    assert all(len(name) <= letters for name in cut)
    if all(len(name) <= letters for name in names):
        assert cut == names


def test_names_are_cut_where_they_are_alike() -> None:
    stem = "wide_resnet28_10_{}_cifar10_final_epoch200"
    assert distinct([stem.format(k) for k in ("pgd", "mixup")], 22) == ["…pgd…", "…mixup…"]
    assert distinct(["a" * 30, "b" * 22], 22) == ["…" + "a" * 21, "b" * 22]
    several = ["first_" + "x" * 30 + "_one_end", "other_" + "y" * 30 + "_one_end", "first_" + "y" * 30 + "_one_end"]
    assert distinct(several, 20) == ["first_xxx…xx_one_end", "other_yyy…yy_one_end", "first_yyy…yy_one_end"]


# --- Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [clustered_heatmap, dendrogram, mds_map])
def test_pairs_without_a_number_are_named(draw: Any) -> None:
    values = table(4).values.copy()
    values[1, 2] = values[2, 1] = values[2, 3] = values[3, 2] = np.nan
    reasons = {(int(i), int(j)): "no layers match" for i, j in np.argwhere(np.isnan(values))}
    text = (
        f"{draw.__name__}: every pair must have a number; got 4 NaN, the first for pgd_1 × trades_2 (no layers match). "
        "Leave networks out, trades_2 first, or choose other layers."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        draw(table(4, values=values, reasons=reasons))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [clustered_heatmap, dendrogram, mds_map])
def test_what_is_no_table_of_networks_is_refused(draw: Any) -> None:
    text = (
        f"{draw.__name__}: the table must compare two or more things with each other; got a × b, 2 × 3. "
        "Make the table with compare_many(networks, metric)."
    )
    other = table(3, values=np.full((2, 3), 0.5), rows=("p", "q"), cols=("p", "q", "r"), row_model="a", col_model="b")
    with pytest.raises(ValueError, match=exactly(text)):
        draw(other)
    # Layers of equal names, of two different networks.
    with pytest.raises(ValueError, match="compare two or more things with each other"):
        draw(table(2, values=np.array([[0.8, 0.3], [0.3, 0.9]])))
    with pytest.raises(ValueError, match=r"got networks × networks, 1 × 1"):
        draw(table(1))
    assert plt.get_fignums() == []
