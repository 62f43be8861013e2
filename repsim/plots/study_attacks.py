"""Pictures of studies of robustness: layers under attack as curves, layers over the epochs of a training as colours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from repsim.plots.cells import MISSING, hatch
from repsim.plots.colours import DIVERGING, SEQUENTIAL, apart, around_zero, mark_zero
from repsim.plots.style import TICK_POINTS, axis_points, distinct, short, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


def attacked_curves(summary: "DataFrame", threat: str) -> "Figure":
    """Draws clean against moved features over depth: a line of panels per measure, a panel per group, a colour per ε.

    Args:
        summary: One row per measure, group, eps and place, with layer, attacked, attacked_error, control and
            control_error.
        threat: What ε is a radius of.

    Returns:
        The figure. Solid lines are attacked images, dashed ones noise of the same norm; bands are one standard error
        over networks, where there is one.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    measures, groups, radii = (list(summary[x].unique()) for x in ("measure", "group", "eps"))
    # As wide as their names need, four panels at most at full width.
    side = max(2.3, min(3.6, 14 / len(groups)))
    figure = Figure(figsize=(side * len(groups) + 2.2, 2.4 * len(measures) + 0.9), layout="constrained")
    axes = figure.subplots(len(measures), len(groups), sharey="row", squeeze=False)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(radii)))
    titles = distinct(groups, int(72 * side / 7)) if len(groups) > 1 else [short(groups[0], int(72 * side / 7))]
    for line, measure in enumerate(measures):
        for column, group in enumerate(groups):
            ax: Axes = axes[line, column]
            own: Any = summary[(summary.measure == measure) & (summary.group == group)]
            for eps, shade in zip(radii, shades, strict=True):
                part = own[own.eps == eps]
                for name, style in (("attacked", "-"), ("control", "--")):
                    y, error = part[name].to_numpy(), part[f"{name}_error"].to_numpy()
                    ax.plot(part.place, y, style, color=shade, lw=1.6, marker="o", ms=2.5)
                    ax.fill_between(part.place, y - error, y + error, color=shade, alpha=0.18, lw=0)
            layers = list(own[own.eps == radii[0]].layer)
            _layer_ticks(ax, layers, side, last=line == len(measures) - 1)
            ax.grid(alpha=0.3)
            if line == 0:
                ax.set_title(titles[column], fontsize=10)
            if column == 0:
                ax.set_ylabel(measure.replace(", ", "\n"), fontsize=9)
    kinds = [Line2D([], [], color="0.3", ls=style, label=name) for name, style in (("attack", "-"), ("noise", "--"))]
    sizes = [Line2D([], [], color=s, lw=3, label=_radius(e)) for e, s in zip(radii, shades, strict=True)]
    band = Patch(color="0.3", alpha=0.18, lw=0, label="± standard error\nover networks")
    figure.legend(
        handles=[*kinds, *sizes, band], loc="outside right upper", fontsize=8, title=f"{threat}, ε", title_fontsize=8
    )
    figure.suptitle("clean against moved images", fontsize=10)
    return figure


def epoch_heatmaps(
    groups: Sequence[str],
    names: Sequence[str],
    values: Sequence[Sequence[Float[np.ndarray, "l e"]]],
    layers: Sequence[Sequence[str]],
    epochs: Sequence[Sequence[int]],
) -> "Figure":
    """Draws numbers of layers over epochs: a line of panels per group, a panel per number, the first layers below.

    Epochs stand where they are in time. Numbers of both signs have a map with a neutral zero, marked in the bar.

    Args:
        groups: One line each.
        names: One column each, on one colour scale.
        values: Group by group, number by number: (layers, epochs); NaN where there is none.
        layers: The layers of each group.
        epochs: The epochs of each group.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    tall = [max(2.2, 0.17 * min(60, len(own)) + 0.9) for own in layers]
    figure = Figure(figsize=(5.2 * len(names), sum(tall) + 0.4), layout="constrained")
    axes = figure.subplots(len(groups), len(names), squeeze=False, height_ratios=tall)
    for column, name in enumerate(names):
        found = np.concatenate([own[column][~np.isnan(own[column])] for own in values])
        low, high = apart(float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
        signed = low < 0 < high
        low, high = around_zero(low, high) if signed else (low, high)
        for line, group in enumerate(groups):
            ax: Axes = axes[line, column]
            ax.set_facecolor("white")
            numbers, edges = values[line][column], _edges(epochs[line])
            mesh = ax.pcolormesh(
                edges,
                np.arange(len(numbers) + 1),
                np.ma.masked_invalid(numbers),
                vmin=low,
                vmax=high,
                cmap=DIVERGING if signed else SEQUENTIAL,
            )
            hatch(ax, np.isnan(numbers), MISSING, edges=edges)
            shown = _spaced(epochs[line], edges, axis_points(ax, 0) * 0.8)
            ax.set_xticks(shown, [str(epoch) for epoch in shown], fontsize=TICK_POINTS)
            rows = thin(len(layers[line]), 72 * (tall[line] - 0.9))
            ax.set_yticks([i + 0.5 for i in rows], [short(layers[line][i]) for i in rows], fontsize=TICK_POINTS)
            ax.set_title(f"{short(group)}: {name}", fontsize=9)
            if line == len(groups) - 1:
                ax.set_xlabel("epoch", fontsize=9)
            bar = figure.colorbar(mesh, ax=ax, pad=0.02)
            bar.ax.tick_params(labelsize=8)
            if signed:
                mark_zero(bar)
    return figure


def _edges(epochs: Sequence[int]) -> Float[np.ndarray, " e+1"]:
    """Where the columns of epochs begin and end: halfway between neighbours."""
    at = np.asarray(epochs, dtype=float)
    if len(at) == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middle = (at[1:] + at[:-1]) / 2
    return np.concatenate([[at[0] - (middle[0] - at[0])], middle, [at[-1] + (at[-1] - middle[-1])]])


def _spaced(epochs: Sequence[int], edges: Float[np.ndarray, " e+1"], points: float) -> list[int]:
    """Which epochs to name so that none touches the next; the first one always."""
    apart_by = (edges[-1] - edges[0]) * TICK_POINTS * 0.75 * max(len(str(e)) for e in epochs) / points
    shown = [epochs[0]]
    for epoch in epochs[1:]:
        if epoch - shown[-1] >= apart_by:
            shown.append(epoch)
    return shown


def _layer_ticks(ax: "Axes", layers: Sequence[str], inches: float, *, last: bool) -> None:
    shown = thin(len(layers), 72 * inches * 0.85)
    ax.set_xticks(shown, [short(layers[i]) if last else "" for i in shown], rotation=90, fontsize=TICK_POINTS)
    ax.tick_params(axis="y", labelsize=8)


def _radius(eps: float) -> str:
    levels = round(eps * 255)
    shorter = len(f"{levels}/255") < len(repr(eps))  # 1 of l2 is no number of grey levels
    return f"{levels}/255" if shorter and levels > 0 and abs(eps * 255 - levels) < 1e-9 else f"{eps:g}"
