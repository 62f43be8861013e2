"""What is drawn into the cells of a matrix: hatching, values where they are read, frames around blocks."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from repsim.plots.colours import ink
from repsim.plots.protocols import Outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Cells without a number, and cells whose interval includes chance.
MISSING, CHANCE = "////", "...."

#: Height of a value in its cell, in points: no larger than this, and left out where smaller.
_LARGEST, _SMALLEST = 8.0, 5.0

#: Width and height of a digit, by the size of its font.
_WIDE, _HIGH = 0.64, 1.1


def hatch(
    ax: "Axes",
    where: Bool[np.ndarray, "r c"],
    pattern: str,
    *,
    colour: str = "0.5",
    edges: Float[np.ndarray, " c+1"] | None = None,
) -> None:
    """Hatches some cells, all in one path: a hundred thousand take no longer than ten.

    Args:
        ax: Where the cells are drawn.
        where: Which.
        pattern: Of matplotlib's hatches.
        colour: Of the lines.
        edges: Where columns begin and end; None for columns of width 1.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    at = np.arange(where.shape[1] + 1) if edges is None else edges
    runs = [(i, float(at[a]), float(at[b])) for i, row in enumerate(where) for a, b in _runs(row)]
    if not runs:
        return
    corners = [[(a, i), (b, i), (b, i + 1), (a, i + 1), (a, i)] for i, a, b in runs]
    path = Path.make_compound_path(*(Path(corner, closed=True) for corner in corners))
    ax.add_patch(PathPatch(path, fill=False, hatch=pattern, edgecolor=colour, lw=0))


def write_values(ax: "Axes", values: Float[np.ndarray, "r c"], hide: Bool[np.ndarray, "r c"]) -> bool:
    """Writes each value into its cell, all in one size; none where that were smaller than can be read.

    Returns:
        Whether they are written.
    """
    where = np.argwhere(~hide)
    said = [f"{values[i, j]:.2f}" for i, j in where]
    if not said:
        return True
    size = _size(ax, values.shape, max(map(len, said)))
    if size < _SMALLEST:
        return False
    mesh: Any = ax.collections[0]
    for (i, j), text in zip(where, said, strict=True):
        share = float(mesh.norm(values[i, j]))
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", size=size, color=ink(mesh.cmap, share))
    return True


def frame_blocks(ax: "Axes", blocks: Outline) -> None:
    """A frame around each run of layers that look alike."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    seen = [withStroke(linewidth=3.5, foreground="white")]  # on dark colours as well as on bright ones
    for block in blocks.blocks:
        where, side = (block.start, block.start), len(block)
        frame = Rectangle(where, side, side, fill=False, edgecolor="black", lw=1.5, path_effects=seen, clip_on=False)
        ax.add_patch(frame)


def _size(ax: "Axes", shape: tuple[int, ...], letters: int) -> float:
    """The font that fits a text of so many letters into a cell, at the size that the layout gives the axes."""
    root = ax.get_figure(root=True)
    assert root is not None
    if root.get_layout_engine() is not None:
        root.draw_without_rendering()
    box, points = ax.get_window_extent(), 72 / root.dpi
    wide, high = points * box.width / shape[1], points * box.height / shape[0]
    return min(_LARGEST, 0.92 * wide / (_WIDE * letters), 0.85 * high / _HIGH)


def _runs(row: Bool[np.ndarray, " c"]) -> list[tuple[int, int]]:
    """First places and places behind the last of neighbours that are true."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in ends.reshape(-1, 2)]
