"""Pictures of results: `SimilarityMatrix` in, matplotlib Axes out. Nothing here computes a similarity."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from repsim._checks import message

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repsim.similarity import SimilarityMatrix

Limits = Literal["bounds", "data"] | tuple[float, float]

#: Height of a tick label in points, and the room that a layer's name may take, in letters.
_TICK_POINTS = 7.0
_TICK_LETTERS = 22


def heatmap(
    matrix: "SimilarityMatrix",
    *,
    ax: "Axes | None" = None,
    limits: Limits = "bounds",
    mask: bool = False,
    annotate: bool = False,
    title: str | None = None,
    colorbar: bool = True,
) -> "Axes":
    """Draws a similarity matrix, the first layers at the lower left.

    Bright is alike in every picture, for similarities and distances. Cells without a number are hatched.

    Args:
        matrix: What to draw.
        ax: Where; None makes a figure of a fitting size.
        limits: Colour limits: "bounds" of the metric, so that pictures can be compared; "data" to use all
            colours; or (low, high).
        mask: Leave out the upper half of a symmetric matrix of one network with itself.
        annotate: Write the values into the cells.
        title: None names the metric and n.
        colorbar: Draw the colour bar.

    Returns:
        The Axes; its figure is `ax.figure`.

    Raises:
        ValueError: A mask for a matrix that is not symmetric, or limits that are none.
    """
    import seaborn as sns

    if ax is None:
        import matplotlib.pyplot as plt

        ax = _prepare(plt.figure(), matrix).add_subplot()
    values = matrix.values
    hide = np.isnan(values)
    if mask:
        if not (matrix.rows == matrix.cols and np.allclose(values, values.T, equal_nan=True)):
            got = f"{matrix.row_model} × {matrix.col_model}"
            raise ValueError(message("heatmap", "mask needs a symmetric matrix", got, "Leave mask out"))
        hide = hide | np.triu(np.ones_like(hide), 1).astype(bool)
    low, high = _limits([matrix], limits)
    ax.set_facecolor("white")
    sns.heatmap(
        values,
        ax=ax,
        vmin=low,
        vmax=high,
        mask=hide,
        cmap=_colours(matrix),
        cbar=False,
        xticklabels=False,
        yticklabels=False,
        annot=annotate,
        fmt=".2f",
        annot_kws={"size": max(4, min(8, 200 / max(values.shape)))},
        rasterized=values.size > 10_000,
    )
    _hatch_missing(ax, matrix, mask)
    ax.invert_yaxis()
    ax.set_box_aspect(_aspect(matrix))
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.6)
    _ticks(ax, matrix)
    ax.set_xlabel(_short(matrix.col_model, int(_points(ax, 0) / 6)))
    ax.set_ylabel(_short(matrix.row_model, int(_points(ax, 1) / 6)))
    ax.set_title(title if title is not None else f"{matrix.definition.title}  (n = {matrix.n:,})", fontsize=10)
    if colorbar:
        _colorbar(ax, [matrix], low, high)
    return ax


def panels(
    matrices: Sequence["SimilarityMatrix"],
    *,
    titles: Sequence[str] | None = None,
    limits: Limits = "bounds",
    columns: int = 4,
    figure: "Figure | None" = None,
) -> "list[Axes]":
    """Draws several matrices of one metric side by side, on one colour scale with one colour bar.

    Args:
        matrices: At least one; all of one metric.
        titles: One per matrix; None names the two networks.
        limits: As for `heatmap`, over all matrices together.
        columns: Panels per line.
        figure: An empty figure to draw into; None makes one of a fitting size.

    Returns:
        The panels' Axes in order; their figure is `axes[0].figure`.

    Raises:
        ValueError: No matrix, or several metrics.
    """
    _check_set("panels", matrices, titles)
    across = min(columns, len(matrices))
    lines = math.ceil(len(matrices) / across)
    side = min(5.0, max(3.0, 12 / across))
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure()
    figure.set_size_inches(across * side + 0.8, lines * side * 0.98)
    figure.set_layout_engine("none")  # until all panels are there: seaborn draws while it works
    low, high = _limits(matrices, limits)
    axes = []
    for k, matrix in enumerate(matrices):
        ax = figure.add_subplot(lines, across, k + 1)
        letters = int(_points(ax, 0) / 6.5)
        names = [_short(name, letters) for name in (matrix.row_model, matrix.col_model)]
        label = titles[k] if titles is not None else textwrap.fill(" × ".join(names), max(letters, 2))
        axes.append(heatmap(matrix, ax=ax, limits=(low, high), title=label, colorbar=False))
    figure.set_layout_engine("compressed")
    _colorbar(axes[min(across, len(axes)) - 1], matrices, low, high)
    counts = sorted({m.n for m in matrices})
    figure.suptitle(f"{matrices[0].definition.title}  (n = {', '.join(f'{n:,}' for n in counts)})", fontsize=11)
    return axes


def layer_curve(
    *matrices: "SimilarityMatrix",
    labels: Sequence[str] | None = None,
    ax: "Axes | None" = None,
    limits: Limits = "bounds",
) -> "Axes":
    """Draws the value of matched layers against depth: equal names, or else equal places.

    Where the metric gives a 95 % interval (TD does) it is shaded.

    Args:
        matrices: One line each; all of one metric.
        labels: One per line; None names the two networks.
        ax: Where; None makes a figure.
        limits: As for `heatmap`.

    Returns:
        The Axes.

    Raises:
        ValueError: No matrix, several metrics, or networks without matching layers.
    """
    _check_set("layer_curve", matrices, labels)
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=(7, 4), layout="compressed").add_subplot()
    longest: list[str] = []
    drawn: list[float] = []
    for k, matrix in enumerate(matrices):
        matched = matrix.matched()
        if not matched:
            got = f"{matrix.row_model} × {matrix.col_model}"
            advice = "Compare networks of one architecture, or extract equally many layers of each"
            raise ValueError(message("layer_curve", "layers must match by name or in number", got, advice))
        label = labels[k] if labels is not None else f"{matrix.row_model} × {matrix.col_model}"
        places = range(len(matched))
        (line,) = ax.plot(places, [v for *_, v in matched], marker="o", ms=3, label=label)
        if "ci_low" in matrix.details:
            where = [(matrix.rows.index(r), matrix.cols.index(c)) for r, c, _ in matched]
            low_end, high_end = ([float(matrix.details[name][ij]) for ij in where] for name in ("ci_low", "ci_high"))
            ax.fill_between(places, low_end, high_end, color=line.get_color(), alpha=0.15, lw=0)
            drawn += low_end + high_end
        drawn += [v for *_, v in matched]
        longest = max(longest, [r for r, *_ in matched], key=len)
    shown = _thin(len(longest), _points(ax, 0))
    ax.set_xticks(shown, [_short(longest[i]) for i in shown], rotation=90, fontsize=_TICK_POINTS)
    low, high = _limits(matrices, limits)
    if limits == "data" and (finite := [v for v in drawn if v == v]):
        low, high = min(finite), max(finite)
    if not isinstance(limits, tuple):  # debiased CKA may be negative, below the limits that its pictures share
        low, high = min([low, *(v for v in drawn if v == v)]), max([high, *(v for v in drawn if v == v)])
    margin = 0.03 * (high - low or 1)
    ax.set_ylim(low - margin, high + margin)
    definition = matrices[0].definition
    ax.set_ylabel(definition.title)
    ax.set_xlabel("layer, in order of execution")
    counts = sorted({m.n for m in matrices})
    ax.set_title(f"matched layers  (n = {', '.join(f'{n:,}' for n in counts)})", fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return ax


def _check_set(function: str, matrices: "Sequence[SimilarityMatrix]", texts: Sequence[str] | None) -> None:
    """Several matrices in one picture share a metric, and each has its text where texts are given."""
    names = {m.metric for m in matrices}
    if len(names) != 1:
        got = ", ".join(sorted(names)) or "no matrix"
        raise ValueError(message(function, "matrices must share one metric", got, "Draw one figure per metric"))
    if texts is not None and len(texts) != len(matrices):
        got = f"{len(texts)} texts for {len(matrices)} matrices"
        raise ValueError(message(function, "every matrix must have its text", got, "Name them all or none"))


def picture(
    matrix: "SimilarityMatrix", *, limits: Limits = "bounds", mask: bool = False, annotate: bool = False
) -> "Figure":
    """A heatmap as a figure of its own, outside pyplot: for files and notebooks' representations."""
    from matplotlib.figure import Figure

    figure = _prepare(Figure(), matrix)
    heatmap(matrix, ax=figure.add_subplot(), limits=limits, mask=mask, annotate=annotate)
    return figure


def _prepare(figure: "Figure", matrix: "SimilarityMatrix") -> "Figure":
    """Gives a new figure the size that suits a heatmap, and a margin for what the layout misjudges."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure.set_size_inches(_figure_size(matrix))
    figure.set_layout_engine(ConstrainedLayoutEngine(compress=True, w_pad=0.15, h_pad=0.1))
    return figure


def _figure_size(matrix: "SimilarityMatrix") -> tuple[float, float]:
    """Width and height in inches: room for a label per layer up to 60 layers, thinned beyond."""
    longest = max(2.2, 0.2 * min(60, max(matrix.values.shape)))
    aspect = _aspect(matrix)
    height, width = (longest, longest / aspect) if aspect >= 1 else (longest * aspect, longest)
    return width + 2.6, height + 1.7


def _aspect(matrix: "SimilarityMatrix") -> float:
    """Height by width of the picture: square cells where that leaves room for both axes' labels."""
    return min(2.0, max(0.5, len(matrix.rows) / len(matrix.cols)))


def _limits(matrices: Sequence["SimilarityMatrix"], limits: Limits) -> tuple[float, float]:
    if limits == "bounds":
        return matrices[0].definition.display
    if limits == "data":
        found = np.concatenate([m.values[~np.isnan(m.values)] for m in matrices])
        if not found.size:
            return matrices[0].definition.display
        low, high = float(found.min()), float(found.max())
        return (low, high) if high > low else (low - 0.5, high + 0.5)
    if not isinstance(limits, tuple) or len(limits) != 2 or not limits[0] < limits[1]:
        raise ValueError(
            message("heatmap", 'limits must be "bounds", "data" or (low, high)', repr(limits), "Choose one")
        )
    return limits


def _colours(matrix: "SimilarityMatrix") -> str:
    return "magma" if matrix.definition.kind == "similarity" else "magma_r"


def _colorbar(ax: "Axes", matrices: Sequence["SimilarityMatrix"], low: float, high: float) -> None:
    values = np.concatenate([m.values[~np.isnan(m.values)] for m in matrices])
    below, above = bool((values < low).any()), bool((values > high).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    bar = ax.figure.colorbar(
        ax.collections[0],
        cax=ax.inset_axes((1.03, 0, 0.04, 1)),  # as high as the picture, whatever its shape
        extend=extend,  # type: ignore[arg-type]
    )
    alike = "larger: more alike" if matrices[0].definition.kind == "similarity" else "0: no difference"
    bar.set_label(alike, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _hatch_missing(ax: "Axes", matrix: "SimilarityMatrix", mask: bool) -> None:
    from matplotlib.patches import Rectangle

    for i, j in np.argwhere(np.isnan(matrix.values)):
        if not (mask and j > i):
            ax.add_patch(Rectangle((j, i), 1, 1, fill=False, hatch="////", edgecolor="0.5", lw=0))


def _ticks(ax: "Axes", matrix: "SimilarityMatrix") -> None:
    cols = _thin(len(matrix.cols), _points(ax, 0))
    rows = _thin(len(matrix.rows), _points(ax, 1))
    ax.set_xticks([i + 0.5 for i in cols], [_short(matrix.cols[i]) for i in cols], rotation=90)
    ax.set_yticks([i + 0.5 for i in rows], [_short(matrix.rows[i]) for i in rows], rotation=0)
    ax.tick_params(labelsize=_TICK_POINTS, length=2, pad=1)


def _points(ax: "Axes", axis: int) -> float:
    """Length of an axis in points, before labels and colour bar take their share."""
    position = ax.get_position()
    share = position.width if axis == 0 else position.height
    inches = ax.figure.bbox.width if axis == 0 else ax.figure.bbox.height
    return 72 * inches / ax.figure.dpi * share * 0.85


def _thin(count: int, points: float) -> list[int]:
    """Which of `count` evenly spaced labels to write so that none touches the next; the first one always."""
    step = max(1, math.ceil(count * _TICK_POINTS * 1.45 / points))
    return list(range(0, count, step))


def _short(name: str, letters: int = _TICK_LETTERS) -> str:
    """A name that fits beside an axis: its end says which layer or network it is."""
    letters = max(letters, 2)
    return name if len(name) <= letters else "…" + name[1 - letters :]
