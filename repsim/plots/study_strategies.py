"""Training strategies judged by TD: accuracy against TD, every layer and task, and strategies against each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from repsim.plots.cells import MISSING, hatch
from repsim.plots.colours import ink
from repsim.plots.label_placement import name_points
from repsim.plots.style import TICK_POINTS, axis_points, distinct, short, thin

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

#: Room that a strategy's name may take beside a point and beside a heatmap, in letters.
_LETTERS = 26

#: How far from its point a name may stand, in points, before numbers are clearer.
_REACH = 60.0

#: Columns up to which the values are written into the cells.
_WRITTEN = 14

_PANELS = {"td": "TD, share of answers that differ", "td_ratio": "TD ratio, 1: as independent errors would"}

_SCORES = {
    "accuracy": "accuracy of the networks' own heads, test images",
    "probe_accuracy": "accuracy of the linear heads, test images",
}


def accuracy_scatter(table: "DataFrame", score: str) -> "Figure":
    """Draws accuracy against TD and against TD over that of independent errors, with standard errors over networks.

    Args:
        table: One row per strategy with the columns `strategy`, the score's, `td`, `td_ratio` and theirs with `_se`.
        score: The column of the accuracy.

    Returns:
        The figure: two panels, strategies named beside their points.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 5.2), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = np.array(distinct(list(table["strategy"]), _LETTERS))
    drawn = []
    for ax, (measure, title) in zip(panels, _PANELS.items(), strict=True):
        columns = [score, measure, f"{score}_se", f"{measure}_se"]
        numbers = table[columns].to_numpy(dtype=float)
        known = np.flatnonzero(~np.isnan(numbers[:, :2]).any(axis=1))
        bars = [_point(ax, *numbers[k], colour=int(k)) for k in known]
        ax.margins(0.14)
        ax.set_xlabel(_SCORES[score])
        ax.set_ylabel(title)
        ax.grid(alpha=0.25)
        if not len(known):
            ax.text(0.5, 0.5, "no numbers", transform=ax.transAxes, ha="center", color="0.4")
        drawn.append((ax, numbers[known, :2], labels[known], [artist for pair in bars for artist in pair]))
    figure.suptitle(f"{len(table)} strategies, bars: standard error over {table['networks'].iloc[0]} networks", size=11)
    _settle(figure)
    bare = [set(ax.get_children()) for ax in panels]
    if all([name_points(ax, at, names, taken=taken, reach=_REACH) for ax, at, names, taken in drawn]):
        return figure
    for ax, own in zip(panels, bare, strict=True):
        for artist in [artist for artist in ax.get_children() if artist not in own]:
            artist.remove()
    # Too crowded for names: numbers, and what they mean below.
    number = {name: str(k) for k, name in enumerate(labels, 1)}
    lines = [f"{number[name]} {name}" for name in labels]
    figure.supxlabel("\n".join("    ".join(lines[k : k + 4]) for k in range(0, len(lines), 4)), size=8)
    _settle(figure)
    for ax, at, names, taken in drawn:
        name_points(ax, at, [number[name] for name in names], taken=taken)
    return figure


def layer_heatmaps(table: "DataFrame", tasks: Sequence[str], layers: Sequence[str], headline: str) -> "Figure":
    """Draws TD and CKA of every layer within each strategy, and TD of every task where there are several.

    Args:
        table: One row per task, layer and strategy with the columns `td` and `cka`.
        tasks: Their names; the first one's TDs are drawn layer by layer.
        layers: In order of execution.
        headline: The layer at which the tasks are drawn.

    Returns:
        The figure, a panel below the other; bright is alike.
    """
    first, one = table.query("task == @tasks[0]"), table.query("layer == @headline")
    panels = [
        ("TD within each strategy, by layer", "magma_r", _spread(first, "layer", layers, "td"), layers),
        ("Debiased CKA within each strategy, by layer", "magma", _spread(first, "layer", layers, "cka"), layers),
    ]
    if len(tasks) > 1:
        title = f"TD within each strategy at {short(headline)}, by task"
        panels.append((title, "magma_r", _spread(one, "task", tasks, "td"), tasks))
    names = list(dict.fromkeys(table["strategy"]))
    return _stacked(panels, names)


def pair_heatmaps(table: "DataFrame", names: Sequence[str]) -> "Figure":
    """Draws TD and CKA of every strategy with every other.

    Args:
        table: One row per pair with the columns `strategy`, `other`, `td` and `cka`.
        names: The strategies.

    Returns:
        The figure; bright is alike.
    """
    panels = [
        ("TD, mean over pairs of networks", "magma_r", _spread(table, "other", names, "td"), names),
        ("Debiased CKA, mean over pairs of networks", "magma", _spread(table, "other", names, "cka"), names),
    ]
    return _stacked(panels, names)


def _point(ax: "Axes", x: float, y: float, dx: float, dy: float, colour: int) -> "list[Artist]":
    """A point with its bars; where there is no standard error, without."""
    dx, dy = np.nan_to_num([dx, dy])
    ax.plot([x], [y], "o", ms=5, color=f"C{colour % 10}", zorder=3)
    bars = [([x - dx, x + dx], [y, y]), ([x, x], [y - dy, y + dy])]
    return [ax.plot(*bar, color=f"C{colour % 10}", lw=1, zorder=2)[0] for bar in bars]


def _settle(figure: "Figure") -> None:
    """Gives axes their final size, which names are placed in; the layout needs two passes."""
    for _ in range(2):
        figure.draw_without_rendering()


def _spread(table: "DataFrame", columns: str, order: Sequence[str], value: str) -> Float[np.ndarray, "s c"]:
    """A column of the table as strategies × layers, tasks or strategies."""
    names = list(dict.fromkeys(table["strategy"]))
    return table.pivot(index="strategy", columns=columns, values=value).loc[names, list(order)].to_numpy(dtype=float)


def _stacked(panels: Sequence[tuple[str, str, np.ndarray, Sequence[str]]], names: Sequence[str]) -> "Figure":
    from matplotlib.figure import Figure

    widest = max(len(columns) for *_, columns in panels)
    width, height = 3.6 + min(12.0, max(3.0, 0.5 * widest)), 1.5 + 0.27 * len(names)
    figure = Figure(figsize=(width, height * len(panels) + 0.3), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (title, colours, values, columns) in zip(axes, panels, strict=True):
        _cells(ax, values, colours)
        shown = thin(len(columns), axis_points(ax, 0))
        turned = max(len(columns[i]) for i in shown) * len(shown) * 5 > axis_points(ax, 0)
        ax.set_xticks([i + 0.5 for i in shown], [short(columns[i]) for i in shown], rotation=90 if turned else 0)
        ax.set_yticks(np.arange(len(names)) + 0.5, distinct(list(names), _LETTERS))
        ax.tick_params(labelsize=TICK_POINTS + 1, length=2)
        ax.set_title(title, fontsize=10)
    return figure


def _cells(ax: "Axes", values: Float[np.ndarray, "s c"], colours: str) -> None:
    """Cells with a colour bar over the values that occur; hatched where there is no number."""
    missing = np.isnan(values)
    finite = values[~missing]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1e-3
    mesh = ax.pcolormesh(values, cmap=colours, vmin=low, vmax=high)
    ax.invert_yaxis()
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.01, aspect=12)
    bar.ax.tick_params(labelsize=TICK_POINTS)
    bar.set_label("lighter: more alike", fontsize=TICK_POINTS)
    hatch(ax, missing, MISSING)
    if values.shape[1] <= _WRITTEN:
        for i, j in np.argwhere(~missing):
            shade = ink(mesh.get_cmap(), float(values[i, j] - low) / (high - low))
            ax.text(j + 0.5, i + 0.5, f"{values[i, j]:.3f}", ha="center", va="center", color=shade, size=TICK_POINTS)
