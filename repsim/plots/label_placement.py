"""Names beside points, so that none touches another name, a point or the frame."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: Room around a point's middle, between two names, and from where on a line joins a name with its point; in points.
_MARKER, _GAP, _LINE_FROM = 5.0, 1.0, 12.0

#: How far beside its point a name may stand, in points, and how many lines above or below.
_ASIDE = (0.0, 8.0, 16.0, 28.0, 44.0, 64.0, 90.0, 120.0, 160.0, 220.0, 300.0)

_LINES = 50


def name_points(
    ax: "Axes",
    points: Float[np.ndarray, "m 2"],
    names: Sequence[str],
    *,
    taken: "Sequence[Artist]" = (),
    reach: float = np.inf,
) -> bool:
    """Writes each name at the free place nearest to its point; all of them, or none where one finds no place.

    Args:
        ax: With its final size and limits.
        points: In data units.
        names: One per point.
        taken: What else in the axes to keep free.
        reach: How far from its point a name may begin, in points.

    Returns:
        Whether the names are written.

    Cost:
        m names × some 2,300 places × what stands already: about a second for 100 names.
    """
    unit = ax.figure.dpi / 72  # pixels in a point
    at = ax.transData.transform(points)
    frame = np.array(ax.get_window_extent().padded(-2 * unit).extents)
    markers = np.hstack([at - _MARKER * unit, at + _MARKER * unit])
    filled = np.vstack([markers, *(artist.get_window_extent().extents for artist in taken)])
    written = np.empty((0, 4))  # names alone: a line may pass a point, but no name
    near = np.linalg.norm(at[:, None] - at, axis=2) < 60 * unit
    made: list[Artist] = []
    for k in np.argsort(-near.sum(1), kind="stable"):  # where it is crowded the near places are given first
        x, y = points[k]
        text = ax.annotate(names[int(k)], (x, y), (0, 0), textcoords="offset points", ha="center", va="center", size=8)
        made.append(text)
        box = text.get_window_extent()
        half = np.array([box.width, box.height]) / 2 + _GAP * unit
        found = _place(at[k], half, unit, filled, written, frame, reach)
        if found is None:
            for artist in made:
                artist.remove()
            return False
        centre, corner = found
        text.set_position(tuple((centre - at[k]) / unit))
        text.set_in_layout(False)
        room = np.array([[*(centre - half), *(centre + half)]])
        filled, written = np.vstack([filled, room]), np.vstack([written, room])
        if np.linalg.norm(corner - at[k]) > _LINE_FROM * unit:
            ends = ax.transData.inverted().transform([at[k], corner])
            made += ax.plot(*ends.T, color="0.6", lw=0.5, zorder=1, scalex=False, scaley=False)
            filled = np.vstack([filled, np.tile(_along(at[k], corner), 2)])
    return True


def write_numbers(ax: "Axes") -> None:
    """Writes the value of every point above it, as far as there is room, in the colour of its line."""
    root = ax.get_figure(root=True)
    assert root is not None
    if root.get_layout_engine() is not None:
        root.draw_without_rendering()
    unit = root.dpi / 72
    frame = ax.get_window_extent().extents
    points = [(line, *at) for line in ax.lines for at in np.column_stack(line.get_data())]
    at = np.array([ax.transData.transform((x, y)) for _, x, y in points]).reshape(-1, 2)
    written = np.empty((0, 4))
    for (line, x, y), here in zip(points, at, strict=True):
        if not np.isfinite(here).all():
            continue
        text = ax.annotate(f"{y:.2f}", (x, y), (0, 4), textcoords="offset points", ha="center", size=7)
        text.set_color(line.get_color())
        box = np.array(text.get_window_extent().extents)
        others = at[(np.abs(at - here) > 1e-6).any(1)]
        hit = ((others > box[:2] - 2 * unit) & (others < box[2:] + 2 * unit)).all(1).any()
        touches = ((box[:2] < written[:, 2:]) & (box[2:] > written[:, :2])).all(1).any()
        outside = (box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any()
        if hit or touches or outside:
            text.remove()
            continue
        text.set_in_layout(False)
        written = np.vstack([written, box])


def _place(
    point: Float[np.ndarray, " 2"],
    half: Float[np.ndarray, " 2"],
    unit: float,
    filled: Float[np.ndarray, "k 4"],
    written: Float[np.ndarray, "w 4"],
    frame: Float[np.ndarray, " 4"],
    reach: float,
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]] | None:
    """Centre of the nearest free box of half a size, and the place on its edge that faces the point."""
    start = _MARKER * unit
    up = 2 * half[1] * np.arange(-_LINES, _LINES + 1) / 2
    aside = start + unit * np.array(_ASIDE)
    x, y = (grid.ravel() for grid in np.meshgrid(np.hstack([aside, -aside]), up))
    corners = np.vstack([np.column_stack([x, y]), [[0, start], [0, -start]]])
    centres = corners + half * np.vstack([np.column_stack([np.sign(x), np.zeros(len(x))]), [[0, 1], [0, -1]]])
    # Nearest first; the right side, where names are read on, before the left and both before above and below.
    cost = np.linalg.norm(corners, axis=1) + unit * np.where(corners[:, 0] > 0, 0, np.where(corners[:, 0] < 0, 1, 3))
    order = np.argsort(cost, kind="stable")
    order = order[cost[order] <= reach * unit]
    # A hundred at a time: most names find room beside their point.
    for part in np.array_split(order, max(1, len(order) // 100)):
        low, high = point + centres[part] - half, point + centres[part] + half
        inside = np.all((low >= frame[:2]) & (high <= frame[2:]), axis=1)
        overlaps = np.all((low[:, None] < filled[:, 2:]) & (high[:, None] > filled[:, :2]), axis=2)
        free = inside & ~np.any(overlaps, axis=1)
        for k in part[free]:
            steps = _along(point, point + corners[k])[:, None]
            if not ((steps > written[:, :2]) & (steps < written[:, 2:])).all(2).any():
                return point + centres[k], point + corners[k]
    return None


def _along(start: Float[np.ndarray, " 2"], end: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "s 2"]:
    """Places on the line between two others, near enough that no name passes between them."""
    return start + np.linspace(0, 1, 40)[:, None] * (end - start)
