"""Matrices as colours: one, several side by side, and one as a figure of its own."""

import math
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from repsim._common.messages import message
from repsim._common.provenance import CautionWarning
from repsim.plots.cells import CHANCE, MISSING, frame_blocks, hatch, write_values
from repsim.plots.colours import (
    Limits,
    alike_label,
    around_zero,
    beside,
    colour_limits,
    colour_map,
    extension,
    is_signed,
    mark_zero,
)
from repsim.plots.protocols import Matrix, Outline
from repsim.plots.publication import paper_width, sized
from repsim.plots.style import (
    TICK_LETTERS,
    TICK_POINTS,
    axis_points,
    check_set,
    distinct,
    room,
    short,
    side_label,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches that a layer's name takes along an axis.
_PER_NAME = 0.15

#: Cells along a side up to which a figure grows so that values can be written into them.
_WRITTEN = 40


def heatmap(
    matrix: "Matrix",
    *,
    ax: "Axes | None" = None,
    limits: Limits = "bounds",
    cmap: str | None = None,
    mask: bool = False,
    annotate: bool = False,
    title: str | None = None,
    colorbar: bool = True,
    outline: "Outline | None" = None,
    calibrated: bool = False,
) -> "Axes":
    """Draws a similarity matrix, the first layers at the lower left.

    Lighter is more alike in every picture, for similarities and distances. Cells without a number are hatched; cells
    whose interval includes what chance gives are dotted, where the matrix has both.

    Args:
        matrix: What to draw.
        ax: Where; None makes a figure of a fitting size.
        limits: Colour limits: "bounds" of the metric, so that pictures can be compared; "data" to use all
            colours; or (low, high).
        cmap: A map of matplotlib's that ends light, reversed for distances; None is "magma", and for a measure whose
            values have a sign a map with a neutral zero.
        mask: Leave out the upper half of a symmetric matrix of one network with itself.
        annotate: Write the values into the cells, where they are large enough to be read.
        title: None names the metric and n.
        colorbar: Draw the colour bar.
        outline: Of `repsim.blocks.blocks`: draw a frame around each block.
        calibrated: Draw the detail `calibrated` of `permutation_test` in place of the values: 0 where chance does as
            well, 1 for a layer with itself.

    Returns:
        The Axes; its figure is `ax.figure`.

    Raises:
        ValueError: A mask for a matrix that is not symmetric, limits that are none, an unknown map, blocks of other
            layers, or calibrated values of a matrix that has none.
    """
    import seaborn as sns

    if outline is not None and not (matrix.rows == matrix.cols == outline.layers):
        got = f"blocks of {outline.model} for {matrix.row_model} × {matrix.col_model}"
        advice = "Draw the matrix that the blocks were found in"
        raise ValueError(message("heatmap", "outline must be blocks of the matrix's layers", got, advice))
    if calibrated and "calibrated" not in matrix.details:
        advice = "Draw what permutation_test returns"
        raise ValueError(message("heatmap", "calibrated values must be there", "a matrix without them", advice))
    values = matrix.details["calibrated"] if calibrated else matrix.values
    if mask and not (matrix.rows == matrix.cols and np.allclose(values, values.T, equal_nan=True)):
        got = f"{matrix.row_model} × {matrix.col_model}"
        raise ValueError(message("heatmap", "mask needs a symmetric matrix", got, "Leave mask out"))
    missing = np.isnan(values)
    # The first layers stand at the lower left, so what is seen above the diagonal are later rows.
    left_out = np.tril(np.full(values.shape, mask), -1)
    colours = colour_map(matrix.definition, "magma" if calibrated and cmap is None else cmap)
    if calibrated and matrix.definition.kind == "distance":
        colours = colours.reversed()  # calibrated values are larger for more alike, whatever they come from
    low, high = (0.0, 1.0) if calibrated else _limits([matrix], limits)
    if ax is None:
        import matplotlib.pyplot as plt

        ax = prepare(plt.figure(), matrix, annotate=annotate).add_subplot()
    ax.set_facecolor("white")
    sns.heatmap(
        values,
        ax=ax,
        vmin=low,
        vmax=high,
        mask=missing | left_out,
        cmap=colours,
        cbar=False,
        xticklabels=False,
        yticklabels=False,
        rasterized=values.size > 10_000,
    )
    hatch(ax, missing & ~left_out, MISSING)
    chance = np.zeros_like(missing) if calibrated else _as_chance(matrix) & ~missing & ~left_out
    hatch(ax, chance, CHANCE, colour="0.45")
    if outline is not None:
        frame_blocks(ax, outline)
    ax.invert_yaxis()
    ax.set_box_aspect(_aspect(matrix))
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.6)
    _ticks(ax, matrix)
    ax.set_xlabel(side_label(matrix.col_model, room(matrix.col_model, axis_points(ax, 0))))
    ax.set_ylabel(side_label(matrix.row_model, room(matrix.row_model, axis_points(ax, 1))))
    named = f"{matrix.definition.title}{', calibrated' if calibrated else ''}  (n = {matrix.n:,})"
    ax.set_title(title if title is not None else named, fontsize=10)
    if colorbar and calibrated:
        beside(ax, ax.collections[0], "0: as chance; 1: a layer with itself")
    elif colorbar:
        _colorbar(ax, [matrix], low, high, dotted=bool(chance.any()))
    if annotate and not write_values(ax, values, missing | left_out):
        text = f"heatmap: the cells of {len(matrix.rows)} × {len(matrix.cols)} layers are too small for their values, "
        warnings.warn(f"{text}which are not written", CautionWarning, stacklevel=2)
    return ax


def panels(
    matrices: Sequence["Matrix"],
    *,
    titles: Sequence[str] | None = None,
    limits: Limits = "bounds",
    cmap: str | None = None,
    annotate: bool = False,
    columns: int = 4,
    figure: "Figure | None" = None,
) -> "list[Axes]":
    """Draws several matrices of one metric side by side, on one colour scale with one colour bar.

    Args:
        matrices: At least one; all of one metric.
        titles: One per matrix; None names the two networks.
        limits: As for `heatmap`, over all matrices together.
        cmap: As for `heatmap`.
        annotate: As for `heatmap`.
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
    named = max(max(m.values.shape) for m in matrices)
    side = min(6.0, max(3.0, 12 / across, _PER_NAME * named + 1.6))
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure()
    figure.set_size_inches(sized(across * side + 0.8, lines * side * 0.98))
    figure.set_layout_engine("none")  # until all panels are there: seaborn draws while it works
    low, high = _limits(matrices, limits)
    axes = []
    for k, matrix in enumerate(matrices):
        ax = figure.add_subplot(lines, across, k + 1)
        letters = int(axis_points(ax, 0) / 6.5)
        names = [short(name, letters) for name in (matrix.row_model, matrix.col_model)]
        label = titles[k] if titles is not None else textwrap.fill(" × ".join(names), max(letters, 2))
        drawn = heatmap(matrix, ax=ax, limits=(low, high), cmap=cmap, annotate=annotate, title=label, colorbar=False)
        axes.append(drawn)
    figure.set_layout_engine("compressed", w_pad=0.1)
    dotted = any(bool((_as_chance(m) & ~np.isnan(m.values)).any()) for m in matrices)
    _colorbar(axes[min(across, len(axes)) - 1], matrices, low, high, dotted=dotted)
    counts = sorted({m.n for m in matrices})
    figure.suptitle(f"{matrices[0].definition.title}  (n = {', '.join(f'{n:,}' for n in counts)})", fontsize=11)
    return axes


def picture(
    matrix: "Matrix",
    *,
    limits: Limits = "bounds",
    cmap: str | None = None,
    mask: bool = False,
    annotate: bool = False,
) -> "Figure":
    """A heatmap as a figure of its own, outside pyplot: for files and notebooks' representations."""
    from matplotlib.figure import Figure

    figure = prepare(Figure(), matrix, annotate=annotate)
    heatmap(matrix, ax=figure.add_subplot(), limits=limits, cmap=cmap, mask=mask, annotate=annotate)
    return figure


def prepare(figure: "Figure", matrix: "Matrix", *, annotate: bool = False) -> "Figure":
    """Gives a new figure the size that suits a heatmap, and a margin for what the layout misjudges."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure.set_size_inches(figure_size(matrix, annotate=annotate))
    figure.set_layout_engine(ConstrainedLayoutEngine(compress=True, w_pad=0.15, h_pad=0.1))
    return figure


def figure_size(matrix: "Matrix", *, annotate: bool = False) -> tuple[float, float]:
    """Width and height in inches: room for a label per layer up to 60 layers, thinned beyond; and for values."""
    count = max(matrix.values.shape)
    longest = max(2.2, 0.2 * min(60, count))
    if annotate and count <= _WRITTEN:
        longest = max(longest, 0.3 * count)
    aspect = _aspect(matrix)
    height, width = (longest, longest / aspect) if aspect >= 1 else (longest * aspect, longest)
    inches = paper_width()
    if inches is not None:  # less for a colour bar and names of a usual length
        return inches, max(0.8, inches - 1.5) * aspect + 1.3
    return width + 2.6, height + 1.7


def _aspect(matrix: "Matrix") -> float:
    """Height by width of the picture: square cells where that leaves room for both axes' labels."""
    return min(2.0, max(0.5, len(matrix.rows) / len(matrix.cols)))


def _limits(matrices: Sequence["Matrix"], limits: Limits) -> tuple[float, float]:
    """Colour limits, with zero in the middle where a measure's values have a sign."""
    found = colour_limits(matrices, limits)
    given = isinstance(limits, tuple)
    return around_zero(*found) if is_signed(matrices[0].definition) and not given else found


def _as_chance(matrix: "Matrix") -> Bool[np.ndarray, "r c"]:
    """Cells whose interval includes what chance gives; none where either is not known."""
    details = matrix.details
    chance = details.get("chance", details.get("null_mean"))
    if chance is None or "ci_low" not in details or "ci_high" not in details:
        return np.zeros(matrix.values.shape, dtype=bool)
    return (details["ci_low"] <= chance) & (chance <= details["ci_high"])


def _colorbar(ax: "Axes", matrices: Sequence["Matrix"], low: float, high: float, *, dotted: bool) -> None:
    values: Float[np.ndarray, " k"] = np.concatenate([m.values[~np.isnan(m.values)] for m in matrices])
    definition, mesh = matrices[0].definition, ax.collections[0]
    label = alike_label(definition, mesh.cmap)
    note = "\ndotted: the interval includes chance" if dotted else ""
    bar = beside(ax, mesh, label + note, extension(values, low, high))
    if is_signed(definition):
        mark_zero(bar)


def _ticks(ax: "Axes", matrix: "Matrix") -> None:
    cols = thin(len(matrix.cols), axis_points(ax, 0))
    rows = thin(len(matrix.rows), axis_points(ax, 1))
    names = [distinct(names, TICK_LETTERS) for names in (matrix.rows, matrix.cols)]
    ax.set_xticks([i + 0.5 for i in cols], [names[1][i] for i in cols], rotation=90)
    ax.set_yticks([i + 0.5 for i in rows], [names[0][i] for i in rows], rotation=0)
    ax.tick_params(labelsize=TICK_POINTS, length=2, pad=1)
