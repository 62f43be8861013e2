"""Matrices as colours: one, several side by side, and one as a figure of its own."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from repsim._common.messages import message
from repsim.plots.protocols import Matrix, Outline
from repsim.plots.style import (
    TICK_LETTERS,
    TICK_POINTS,
    Limits,
    axis_points,
    check_set,
    colour_limits,
    distinct,
    short,
    side_label,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def heatmap(
    matrix: "Matrix",
    *,
    ax: "Axes | None" = None,
    limits: Limits = "bounds",
    mask: bool = False,
    annotate: bool = False,
    title: str | None = None,
    colorbar: bool = True,
    outline: "Outline | None" = None,
    calibrated: bool = False,
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
        outline: Of `repsim.blocks.blocks`: draw a frame around each block.
        calibrated: Draw the detail `calibrated` of `permutation_test` in place of the values: 0 where chance does as
            well, 1 for a layer with itself.

    Returns:
        The Axes; its figure is `ax.figure`.

    Raises:
        ValueError: A mask for a matrix that is not symmetric, limits that are none, blocks of other layers, or
            calibrated values of a matrix that has none.
    """
    import seaborn as sns

    if outline is not None and not (matrix.rows == matrix.cols == outline.layers):
        got = f"blocks of {outline.model} for {matrix.row_model} × {matrix.col_model}"
        advice = "Draw the matrix that the blocks were found in"
        raise ValueError(message("heatmap", "outline must be blocks of the matrix's layers", got, advice))
    if ax is None:
        import matplotlib.pyplot as plt

        ax = prepare(plt.figure(), matrix).add_subplot()
    if calibrated and "calibrated" not in matrix.details:
        advice = "Draw what permutation_test returns"
        raise ValueError(message("heatmap", "calibrated values must be there", "a matrix without them", advice))
    values = matrix.details["calibrated"] if calibrated else matrix.values
    hide = np.isnan(values)
    if mask:
        if not (matrix.rows == matrix.cols and np.allclose(values, values.T, equal_nan=True)):
            got = f"{matrix.row_model} × {matrix.col_model}"
            raise ValueError(message("heatmap", "mask needs a symmetric matrix", got, "Leave mask out"))
        hide = hide | np.triu(np.ones_like(hide), 1).astype(bool)
    low, high = (0.0, 1.0) if calibrated else colour_limits([matrix], limits)
    ax.set_facecolor("white")
    sns.heatmap(
        values,
        ax=ax,
        vmin=low,
        vmax=high,
        mask=hide,
        cmap="magma" if calibrated else _colours(matrix),
        cbar=False,
        xticklabels=False,
        yticklabels=False,
        annot=annotate,
        fmt=".2f",
        annot_kws={"size": max(4, min(8, 200 / max(values.shape)))},
        rasterized=values.size > 10_000,
    )
    _hatch_missing(ax, matrix, mask)
    if outline is not None:
        _outline(ax, outline)
    ax.invert_yaxis()
    ax.set_box_aspect(_aspect(matrix))
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.6)
    _ticks(ax, matrix)
    ax.set_xlabel(side_label(matrix.col_model, int(axis_points(ax, 0) / 6)))
    ax.set_ylabel(side_label(matrix.row_model, int(axis_points(ax, 1) / 6)))
    named = f"{matrix.definition.title}{', calibrated' if calibrated else ''}  (n = {matrix.n:,})"
    ax.set_title(title if title is not None else named, fontsize=10)
    if colorbar and calibrated:
        _bar(ax, "neither", "0: as chance; 1: a layer with itself")
    elif colorbar:
        _colorbar(ax, [matrix], low, high)
    return ax


def panels(
    matrices: Sequence["Matrix"],
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
    check_set("panels", matrices, titles)
    across = min(columns, len(matrices))
    lines = math.ceil(len(matrices) / across)
    side = min(5.0, max(3.0, 12 / across))
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure()
    figure.set_size_inches(across * side + 0.8, lines * side * 0.98)
    figure.set_layout_engine("none")  # until all panels are there: seaborn draws while it works
    low, high = colour_limits(matrices, limits)
    axes = []
    for k, matrix in enumerate(matrices):
        ax = figure.add_subplot(lines, across, k + 1)
        letters = int(axis_points(ax, 0) / 6.5)
        names = [short(name, letters) for name in (matrix.row_model, matrix.col_model)]
        label = titles[k] if titles is not None else textwrap.fill(" × ".join(names), max(letters, 2))
        axes.append(heatmap(matrix, ax=ax, limits=(low, high), title=label, colorbar=False))
    figure.set_layout_engine("compressed")
    _colorbar(axes[min(across, len(axes)) - 1], matrices, low, high)
    counts = sorted({m.n for m in matrices})
    figure.suptitle(f"{matrices[0].definition.title}  (n = {', '.join(f'{n:,}' for n in counts)})", fontsize=11)
    return axes


def picture(matrix: "Matrix", *, limits: Limits = "bounds", mask: bool = False, annotate: bool = False) -> "Figure":
    """A heatmap as a figure of its own, outside pyplot: for files and notebooks' representations."""
    from matplotlib.figure import Figure

    figure = prepare(Figure(), matrix)
    heatmap(matrix, ax=figure.add_subplot(), limits=limits, mask=mask, annotate=annotate)
    return figure


def prepare(figure: "Figure", matrix: "Matrix") -> "Figure":
    """Gives a new figure the size that suits a heatmap, and a margin for what the layout misjudges."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure.set_size_inches(figure_size(matrix))
    figure.set_layout_engine(ConstrainedLayoutEngine(compress=True, w_pad=0.15, h_pad=0.1))
    return figure


def figure_size(matrix: "Matrix") -> tuple[float, float]:
    """Width and height in inches: room for a label per layer up to 60 layers, thinned beyond."""
    longest = max(2.2, 0.2 * min(60, max(matrix.values.shape)))
    aspect = _aspect(matrix)
    height, width = (longest, longest / aspect) if aspect >= 1 else (longest * aspect, longest)
    return width + 2.6, height + 1.7


def _aspect(matrix: "Matrix") -> float:
    """Height by width of the picture: square cells where that leaves room for both axes' labels."""
    return min(2.0, max(0.5, len(matrix.rows) / len(matrix.cols)))


def _colours(matrix: "Matrix") -> str:
    return "magma" if matrix.definition.kind == "similarity" else "magma_r"


def _colorbar(ax: "Axes", matrices: Sequence["Matrix"], low: float, high: float) -> None:
    values = np.concatenate([m.values[~np.isnan(m.values)] for m in matrices])
    below, above = bool((values < low).any()), bool((values > high).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    _bar(ax, extend, "larger: more alike" if matrices[0].definition.kind == "similarity" else "0: no difference")


def _bar(ax: "Axes", extend: str, label: str) -> None:
    bar = ax.figure.colorbar(
        ax.collections[0],
        cax=ax.inset_axes((1.03, 0, 0.04, 1)),  # as high as the picture, whatever its shape
        extend=extend,  # type: ignore[arg-type]
    )
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _hatch_missing(ax: "Axes", matrix: "Matrix", mask: bool) -> None:
    from matplotlib.patches import Rectangle

    for i, j in np.argwhere(np.isnan(matrix.values)):
        if not (mask and j > i):
            ax.add_patch(Rectangle((j, i), 1, 1, fill=False, hatch="////", edgecolor="0.5", lw=0))


def _outline(ax: "Axes", blocks: "Outline") -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    seen = [withStroke(linewidth=3.5, foreground="white")]  # on dark colours as well as on bright ones
    for block in blocks.blocks:
        where, side = (block.start, block.start), len(block)
        frame = Rectangle(where, side, side, fill=False, edgecolor="black", lw=1.5, path_effects=seen, clip_on=False)
        ax.add_patch(frame)


def _ticks(ax: "Axes", matrix: "Matrix") -> None:
    cols = thin(len(matrix.cols), axis_points(ax, 0))
    rows = thin(len(matrix.rows), axis_points(ax, 1))
    names = [distinct(names, TICK_LETTERS) for names in (matrix.rows, matrix.cols)]
    ax.set_xticks([i + 0.5 for i in cols], [names[1][i] for i in cols], rotation=90)
    ax.set_yticks([i + 0.5 for i in rows], [names[0][i] for i in rows], rotation=0)
    ax.tick_params(labelsize=TICK_POINTS, length=2, pad=1)
