"""Many networks in one picture, from a table of them against each other: which are alike, and in which groups."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from repsim._common.messages import message, some
from repsim.plots.colours import Limits, apart
from repsim.plots.heatmaps import heatmap, prepare
from repsim.plots.label_placement import name_points
from repsim.plots.protocols import Matrix
from repsim.plots.publication import sized
from repsim.plots.style import as_text, axis_points, distinct, thin

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Room that a network's name may take, in letters.
_LETTERS = 30
#: How far from its point a name may stand, in points, before numbers are clearer.
_REACH = 40.0
_MARKERS = "osD^vP*X"


def clustered_heatmap(
    matrix: "Matrix",
    *,
    figure: "Figure | None" = None,
    limits: Limits = "data",
    cmap: str | None = None,
    annotate: bool = False,
) -> "Axes":
    """Draws a table of networks in the order of a hierarchical clustering, with its tree above.

    Args:
        matrix: Of `repsim.compare_many`, or of one network's layers against each other.
        limits: As for `heatmap`, but "data" by default, and of different networks alone: what a network has with itself
            would take most of the colours.
        cmap: As for `heatmap`.
        annotate: As for `heatmap`.
        figure: An empty figure to draw into; None makes one of a fitting size.

    Returns:
        The Axes of the heatmap; its figure is `ax.figure`.

    Raises:
        ValueError: A table of different things, or with NaN.
    """
    distances = _distances("clustered_heatmap", matrix)
    tree = _tree(distances)
    order = [int(i) for i in tree["leaves"]]
    ordered = matrix.taken(order, order)
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure()
    ax = prepare(figure, ordered, annotate=annotate).add_subplot()
    if limits == "data":
        others = ordered.values[~np.eye(len(order), dtype=bool)]
        limits = apart(float(others.min()), float(others.max()))
    heatmap(ordered, ax=ax, title="", limits=limits, cmap=cmap, annotate=annotate)
    ax.set_xlabel("")
    ax.set_ylabel("")
    above = ax.inset_axes((0, 1.01, 1, 0.2), sharex=ax)
    for x, y in zip(tree["icoord"], tree["dcoord"], strict=True):
        above.plot(np.array(x) / 10, y, color="0.3", lw=1)
    above.set_ylim(0, 1.05 * _height(tree))
    above.set_axis_off()
    # The tree is as wide as the heatmap, and its share of the height comes on top.
    figure.set_figheight(figure.get_figheight() + 0.2 * min(figure.get_size_inches()) + 0.2)
    figure.suptitle(_title(matrix, 72 * figure.get_figwidth() * 0.8), fontsize=10)
    return ax


def dendrogram(matrix: "Matrix", *, ax: "Axes | None" = None) -> "Axes":
    """Draws which networks join at which distance: hierarchical clustering with average linkage.

    Two networks join where the branch that holds both begins; the place is the mean distance of the two groups.

    Args:
        matrix: Of `repsim.compare_many`, or of one network's layers against each other.
        ax: Where; None makes a figure of a fitting size.

    Returns:
        The Axes.

    Raises:
        ValueError: A table of different things, or with NaN.
    """
    distances = _distances("dendrogram", matrix)
    tree = _tree(distances)
    count = len(distances)
    if ax is None:
        import matplotlib.pyplot as plt

        height = max(2.2, 1.2 + 0.19 * min(count, 100))
        size = sized(7.5, height, beside=height)
        ax = plt.figure(figsize=size, layout="constrained").add_subplot()
    for places, joined in zip(tree["icoord"], tree["dcoord"], strict=True):
        ax.plot(joined, np.array(places) / 10, color="0.2", lw=1.2)
    ax.set_xlim(1.05 * _height(tree), 0)
    ax.set_ylim(0, count)
    ax.yaxis.tick_right()
    shown = thin(count, axis_points(ax, 1))
    labels = distinct(matrix.rows, _LETTERS)
    ax.set_yticks([i + 0.5 for i in shown], [labels[tree["leaves"][i]] for i in shown], fontsize=8)
    ax.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel(_axis(matrix))
    ax.set_title(_title(matrix, axis_points(ax, 0)), fontsize=10)
    return ax


def mds_map(matrix: "Matrix", *, ax: "Axes | None" = None, groups: Mapping[str, str] | None = None) -> "Axes":
    """Draws networks as points whose distances are as close to theirs as a plane allows.

    Metric multidimensional scaling minimises Σ(‖xᵢ − xⱼ‖ − δᵢⱼ)². What remains is the title's stress,
    √(Σ(‖xᵢ − xⱼ‖ − δᵢⱼ)² / Σδᵢⱼ²): 0 is a faithful map; above some 0.2 read the table instead. Directions mean nothing.

    Args:
        matrix: Of `repsim.compare_many`, or of one network's layers against each other.
        ax: Where; None makes a figure. Names are fitted to the axes' size, so draw the map last of a figure's axes.
        groups: Network -> group, for all networks; gives colours and a legend.

    Returns:
        The Axes.

    Raises:
        ValueError: A table of different things, or with NaN; networks without a group.

    Source:
        Borg, Groenen 2005, Modern Multidimensional Scaling; SMACOF from eight fixed starting points.
    """
    from matplotlib.lines import Line2D

    distances = _distances("mds_map", matrix)
    names = matrix.rows
    if groups is not None and set(groups) != set(names):
        lacking, unknown = [n for n in names if n not in groups], [n for n in groups if n not in names]
        got = f"none for {some(lacking)}" if lacking else f"groups for {some(unknown)}, not in the table"
        raise ValueError(message("mds_map", "every network must have a group", got, "Name the networks of the table"))
    points, stress = _plane(distances)
    if ax is None:
        import matplotlib.pyplot as plt

        side = min(10.0, 5.0 + 0.09 * len(names))
        ax = plt.figure(figsize=sized(side + 1.2, side), layout="constrained").add_subplot()
    kinds = list(dict.fromkeys(groups[n] for n in names)) if groups is not None else [""]
    members = [[i for i, n in enumerate(names) if groups is None or groups[n] == kind] for kind in kinds]
    handles: list[Artist] = []
    for k, kind in enumerate(kinds):
        # After ten colours the marker changes too.
        marker = _MARKERS[k // 10 % len(_MARKERS)]
        shown = points[members[k]].T
        handles.append(ax.scatter(*shown, s=30, color=f"C{k % 10}", marker=marker, label=as_text(kind), zorder=3, lw=0))
    ax.margins(0.2)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(_title(matrix, axis_points(ax, 0), f"map of distances, stress {stress:.2f}"), fontsize=10)
    if groups is not None:
        _legend(ax, handles, [as_text(kind) for kind in kinds])
    labels = distinct(names, _LETTERS)
    scale = _scale(ax, float(distances.max()))
    if name_points(ax, points, labels, taken=scale, reach=_REACH):
        return ax
    # Too crowded for names: numbers, and a list of what they mean.
    order = [i for group in members for i in group]
    numbers = {i: str(k) for k, i in enumerate(order, 1)}
    lines = []
    for handle, kind, group in zip(handles, kinds, members, strict=True):
        lines += [(handle, as_text(kind))] if groups is not None else []
        lines += [(Line2D([], [], lw=0), f"{numbers[i]}  {labels[i]}") for i in group]
    _legend(ax, *zip(*lines, strict=True))
    for artist in scale:
        artist.remove()
    name_points(ax, points, [numbers[i] for i in range(len(names))], taken=_scale(ax, float(distances.max())))
    return ax


def _distances(function: str, matrix: "Matrix") -> Float[np.ndarray, "m m"]:
    """Symmetric distances with a zero diagonal: 1 − s of similarities, distances as they are."""
    definition, values = matrix.definition, matrix.values
    missing = np.argwhere(np.isnan(values))
    if len(missing):
        i, j = (int(k) for k in missing[0])
        got = f"{len(missing)} NaN, the first for {matrix.rows[i]} × {matrix.cols[j]} ({matrix.reasons[i, j]})"
        touched = np.isnan(values).sum(0) + np.isnan(values).sum(1)
        worst = matrix.rows[int(touched.argmax())]
        advice = f"Leave networks out, {worst} first, or choose other layers"
        raise ValueError(message(function, "every pair must have a number", got, advice))
    # The root of float32's rounding, which a distance of equal things can reach, stays below 0.01.
    equal = definition.self_value_of(matrix.n)
    same = matrix.rows == matrix.cols and np.allclose(values.diagonal(), equal, rtol=0, atol=0.01)
    if not same or len(values) < 2:
        got = f"{matrix.row_model} × {matrix.col_model}, {len(matrix.rows)} × {len(matrix.cols)}"
        advice = "Make the table with compare_many(networks, metric)"
        raise ValueError(message(function, "the table must compare two or more things with each other", got, advice))
    apart = 1 - values if definition.kind == "similarity" else values
    apart = (apart + apart.T) / 2
    np.fill_diagonal(apart, 0)
    return apart


def _tree(distances: Float[np.ndarray, "m m"]) -> dict:
    """Leaves from first to last and the branches, as scipy gives them: leaf k stands at 10 k + 5."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    linkage = hierarchy.linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return hierarchy.dendrogram(linkage, no_plot=True)


def _height(tree: dict) -> float:
    """The largest distance in a tree; 1 where all are 0."""
    return float(np.max(tree["dcoord"])) or 1.0


def _plane(distances: Float[np.ndarray, "m m"]) -> tuple[Float[np.ndarray, "m 2"], float]:
    """Places in the plane, the widest direction along x, and the stress that remains."""
    from sklearn.manifold import smacof

    largest = distances.max()
    if largest == 0:
        return np.zeros((len(distances), 2)), 0.0
    found = smacof(distances / largest, n_init=8, max_iter=1000, eps=1e-9, random_state=0)
    points = largest * np.asarray(found[0])
    points -= points.mean(0)
    points = points @ np.linalg.svd(points, full_matrices=False)[2].T
    points *= np.where(points[np.abs(points).argmax(0), [0, 1]] < 0, -1, 1)  # else signs are the solver's choice
    upper = np.triu_indices(len(points), 1)
    drawn = np.linalg.norm(points[:, None] - points, axis=2)[upper]
    return points, float(np.linalg.norm(drawn - distances[upper]) / np.linalg.norm(distances[upper]))


def _axis(matrix: "Matrix") -> str:
    """What a distance in the picture is."""
    title = matrix.definition.title
    return f"1 − {title}" if matrix.definition.kind == "similarity" else title


def _title(matrix: "Matrix", points: float, more: str = "") -> str:
    """The measure; below it what was done to the table, and n: in lines that end where a part does."""
    letters = max(20, int(points / 5.6))
    parts = [f"layers: {matrix.provenance['layers']}"] if "layers" in matrix.provenance else []
    parts += [] if np.allclose(matrix.values, matrix.values.T) else ["mean of both directions"]
    parts += [f"n = {matrix.n:,}", *([more] if more else [])]
    alone = f"{matrix.definition.title} ({parts[0]})"
    if len(parts) == 1 and len(alone) <= letters:
        return alone
    lines = textwrap.wrap(matrix.definition.title, letters)
    for k, part in enumerate(parts):
        if k and len(lines[-1]) + 2 + len(part) <= letters:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def _legend(ax: "Axes", handles: "Sequence[Artist]", labels: Sequence[str]) -> None:
    """A legend beside the axes, in as many columns as their height asks for."""
    columns = math.ceil(len(labels) * 11 / axis_points(ax, 1))
    ax.legend(
        handles, labels, fontsize=8, ncols=columns, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=1.2
    )


def _scale(ax: "Axes", largest: float) -> "list[Artist]":
    """Draws a bar of a round length into axes of their final size: a map without axes still has a scale."""
    root = ax.get_figure(root=True)
    assert root is not None
    for _ in range(2):  # the layout gives the axes their size and limits; where those change labels it moves once more
        root.draw_without_rendering()
    if largest == 0:
        return []
    power = 10.0 ** np.floor(np.log10(largest / 3))
    length = power * max(k for k in (1, 2, 5) if k * power <= largest / 3)
    low, high = ax.get_xlim()
    start = low + 0.02 * (high - low)
    # In data units along x and axes units along y.
    where = ax.get_xaxis_transform()
    (bar,) = ax.plot(
        [start, start + length], [0.02, 0.02], transform=where, color="0.4", lw=1.5, scalex=False, scaley=False
    )
    text = ax.annotate(f"{length:g}", (start + length / 2, 0.02), (0, 2), where, "offset points", ha="center", size=8)
    return [bar, text]
