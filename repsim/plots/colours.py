"""Numbers as colours: limits, maps on which lighter is more alike, and the bar that says so."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from repsim._common.messages import did_you_mean, message
from repsim.plots.protocols import Definition, Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap

Limits = Literal["bounds", "data"] | tuple[float, float]

#: Dark to light, for what has one direction; dark blue over white to dark red, for what has a sign.
SEQUENTIAL, DIVERGING = "magma", "RdBu_r"

#: How much lighter the alike end of a map must be for its bar to say so.
_LIGHTER = 0.2


def colour_limits(matrices: Sequence[Matrix], limits: Limits) -> tuple[float, float]:
    """The colours' range; where a measure has no bound, its largest value stands for it."""
    if limits in ("bounds", "data"):
        found = np.concatenate([m.values[~np.isnan(m.values)] for m in matrices])
        low, high = matrices[0].definition.display
        if found.size and limits == "data":
            return apart(float(found.min()), float(found.max()))
        if math.isinf(high):
            high = max(float(found.max(initial=0)), low) or low + 1
        return low, high
    if not isinstance(limits, tuple) or len(limits) != 2 or not limits[0] < limits[1]:
        raise ValueError(
            message("heatmap", 'limits must be "bounds", "data" or (low, high)', repr(limits), "Choose one")
        )
    return limits


def apart(low: float, high: float) -> tuple[float, float]:
    """Two ends with a range between them."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def is_signed(definition: Definition) -> bool:
    """Whether a measure's usual values lie on both sides of zero, so that the sign is what one looks for."""
    low, high = definition.display
    return low < 0 < high


def around_zero(low: float, high: float) -> tuple[float, float]:
    """Limits with zero in their middle, so that the neutral colour is there."""
    reach = max(abs(low), abs(high)) or 1.0
    return -reach, reach


def colour_map(definition: Definition, cmap: str | None = None, *, function: str = "heatmap") -> "Colormap":
    """The map of a measure: for distances reversed, so that lighter is more alike in every picture.

    Raises:
        ValueError: A map that matplotlib does not know.
    """
    import matplotlib

    if cmap is not None and cmap not in matplotlib.colormaps:
        advice = did_you_mean(cmap, matplotlib.colormaps)
        raise ValueError(message(function, "cmap must be a map of matplotlib's", repr(cmap), advice))
    name = cmap or (DIVERGING if is_signed(definition) else SEQUENTIAL)
    return matplotlib.colormaps[name] if definition.kind == "similarity" else matplotlib.colormaps[name].reversed()


def alike_label(definition: Definition, colours: "Colormap") -> str:
    """What a bar says: which end is alike, by its colour where that is clearly the lighter one."""
    similar = definition.kind == "similarity"
    alike, unlike = (1.0, 0.0) if similar else (0.0, 1.0)
    middle = _luminance(colours, 0.5)
    rising = _luminance(colours, alike) > middle + _LIGHTER / 2 and middle > _luminance(colours, unlike) + _LIGHTER / 2
    return "lighter: more alike" if rising else f"{'larger' if similar else 'smaller'}: more alike"


def extension(values: Float[np.ndarray, "..."], low: float, high: float) -> Literal["neither", "both", "min", "max"]:
    """At which ends of its range there are values that a bar cannot show."""
    below, above = bool((values < low).any()), bool((values > high).any())
    return "both" if below and above else "min" if below else "max" if above else "neither"


def ink(colours: "Colormap", share: float) -> str:
    """Black or white, whichever is read on a colour."""
    return "black" if _luminance(colours, share) > 0.4 else "white"


def beside(
    ax: "Axes", mesh: "ScalarMappable", label: str, extend: Literal["neither", "both", "min", "max"] = "neither"
) -> "Colorbar":
    """A bar as high as the picture, whatever its shape; where colours have a sign, zero is marked."""
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((1.03, 0, 0.04, 1)), extend=extend)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return bar


def mark_zero(bar: "Colorbar") -> None:
    """A line across a bar at zero, and its tick."""
    bar.ax.axhline(0, color="black", lw=1.2)
    low, high = bar.ax.get_ylim()
    ticks = sorted({*(t for t in bar.get_ticks() if low <= t <= high), 0.0})
    bar.set_ticks([t for t in ticks if t == 0 or abs(t) > 0.02 * (high - low)])


def _luminance(colours: "Colormap", share: float) -> float:
    red, green, blue, _ = colours(share)
    return 0.299 * red + 0.587 * green + 0.114 * blue
