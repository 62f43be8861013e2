"""Pictures of studies: rows of matrices on one colour scale, and numbers of groups of networks with their intervals."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from repsim._common.messages import message
from repsim.plots.colours import alike_label, colour_limits
from repsim.plots.heatmaps import heatmap
from repsim.plots.protocols import Matrix, Outline
from repsim.plots.style import TICK_POINTS, as_text, axis_points, distinct, short, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Panels in a line.
_ACROSS = 4

#: Room that a name may take in a legend or a title, in letters.
_LETTERS = 28


@dataclass(frozen=True)
class Panel:
    """A matrix with what stands over and under it.

    Attributes:
        matrix: What to draw.
        title: Over it.
        note: Under it.
        outline: Outline to frame.
        groups: How many neighbours belong together, one number per group: lines stand between them. None of layers.
    """

    matrix: "Matrix"
    title: str
    note: str = ""
    outline: "Outline | None" = None
    groups: Sequence[int] = ()


@dataclass(frozen=True)
class Line:
    """Numbers along an axis, with their intervals.

    Attributes:
        values: One per place; NaN where there is none.
        low: Lower ends; NaN where there is no interval.
        high: Upper ends.
        marked: Places to fill; the others are hollow. None fills all.
        dashed: Draw the line dashed.
        colour: Lines of one number share a colour in all panels.
        own: Of each place the numbers that the value is a mean of, drawn small where places are not joined.
    """

    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    marked: Sequence[bool] | None = None
    dashed: bool = False
    colour: int = 0
    own: Sequence[Sequence[float]] = ()

    def at(self, where: Sequence[int], count: int) -> "Line":
        """The same at some of `count` places, without numbers at the others."""
        known = {place: k for k, place in enumerate(where)}
        values, low, high = (
            [numbers[known[i]] if i in known else math.nan for i in range(count)]
            for numbers in (self.values, self.low, self.high)
        )
        own = [self.own[known[i]] if i in known else () for i in range(count)] if self.own else ()
        return replace(self, values=values, low=low, high=high, own=own)


@dataclass(frozen=True)
class LinePanel:
    """One panel of lines.

    Attributes:
        lines: Name -> line; equal names in all panels are explained once.
        places: What the places along the axis are called.
        title: Over it.
        ylabel: What is measured.
        bounds: What the numbers cannot leave; intervals are drawn up to there.
        xlabel: What the places are.
        joined: Draw lines with bands along the places; else points with bars, beside each other.
        ordered: Join points with thin lines, where places have an order.
    """

    lines: Mapping[str, Line]
    places: Sequence[str]
    title: str
    ylabel: str
    bounds: tuple[float, float] = (-math.inf, math.inf)
    xlabel: str = "layer, in order of execution"
    joined: bool = True
    ordered: bool = False


Drawing = Panel | LinePanel


def study_figure(rows: Sequence[Sequence[Drawing]], *, note: str = "") -> "Figure":
    """Draws rows of panels: matrices of one measure share a colour scale, lines of one name a legend entry.

    Args:
        rows: Each begins a line of panels; more than four go on in the next one.
        note: Under the legend.

    Returns:
        A figure outside pyplot.

    Raises:
        ValueError: Nothing to draw.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = [line for row in rows for line in _evenly(row)]
    across = max(map(len, lines), default=0)
    if not across:
        raise ValueError(message("study_figure", "there must be a panel", "none", "Pass rows of panels"))
    shown = [item.matrix for line in lines for item in line if isinstance(item, Panel)]
    limits = {metric: _limits([m for m in shown if m.metric == metric]) for metric in {m.metric for m in shown}}
    entries = list(
        dict.fromkeys(k for line in lines for item in line if isinstance(item, LinePanel) for k in item.lines)
    )
    figure = Figure()
    width = max(6.4, 4.0 * across + (0.9 if shown else 0.2))
    heights = [_height(line, across) for line in lines]
    # Names are cut to fit, so the legend's columns follow from the width.
    columns = max(1, min(len(entries), int(width / 2.7)))
    below = 0.19 * math.ceil(len(entries) / columns) + 0.1 if entries else 0.0
    wrapped = textwrap.fill(note, int(width * 15)) if note else ""
    below += 0.17 * (wrapped.count("\n") + 1) + 0.05 if wrapped else 0.0
    figure.set_size_inches(width, sum(heights) + below)
    grid = figure.add_gridspec(len(lines), across, height_ratios=heights)
    axes: dict[tuple[int, int], Axes] = {}
    for i, line in enumerate(lines):
        for j, item in enumerate(line):
            ax = axes[i, j] = figure.add_subplot(grid[i, j])
            if isinstance(item, Panel):
                _matrix(ax, item, limits[item.matrix.metric])
            else:
                _curves(ax, item)
    share = below / (sum(heights) + below)
    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, rect=(0, share, 1, 1 - share))
    figure.set_layout_engine(engine)
    panels = {axes[i, j]: x for i, line in enumerate(lines) for j, x in enumerate(line) if isinstance(x, Panel)}
    for metric in limits:
        drawn = {ax: item.matrix for ax, item in panels.items() if item.matrix.metric == metric}
        _bar(figure, list(drawn), next(iter(drawn.values())))
    if entries:
        found = [ax.get_legend_handles_labels() for ax in axes.values()]
        handles = {label: handle for pair in found for handle, label in zip(*pair, strict=True)}
        names = distinct(entries, _LETTERS + 10) if len(entries) > 1 else [short(entries[0], _LETTERS + 10)]
        at = (0.5, share * (1 - 0.05))
        figure.legend(
            [handles[k] for k in entries], names, loc="upper center", bbox_to_anchor=at, ncols=columns, fontsize=8
        ).set_in_layout(False)
    if wrapped:
        figure.text(0.01, 0.008, wrapped, fontsize=7.5, color="0.3", va="bottom").set_in_layout(False)
    return figure


def _evenly(row: Sequence[Drawing]) -> list[Sequence[Drawing]]:
    """A row in lines of nearly equal length, none longer than fits: five panels are three and two, not four and one."""
    count = math.ceil(len(row) / _ACROSS)
    each = math.ceil(len(row) / count) if count else 1
    return [row[at : at + each] for at in range(0, len(row), each)]


def _limits(matrices: "Sequence[Matrix]") -> tuple[float, float]:
    """The bounds of a similarity; of a distance, which uses a small part of them, 0 to the largest value."""
    low, high = colour_limits(matrices, "bounds")
    largest = float(np.nanmax([np.nan_to_num(m.values).max() for m in matrices]))
    return (low, largest) if matrices[0].definition.kind == "distance" and largest > low else (low, high)


def _height(line: Sequence[Drawing], across: int) -> float:
    """Of a line of panels, in inches: matrices are square, and names of layers stand under all of them."""
    return 4.5 if any(isinstance(item, Panel) for item in line) else 3.9 if across > 1 else 4.3


def _matrix(ax: "Axes", panel: Panel, limits: tuple[float, float]) -> None:
    heatmap(panel.matrix, ax=ax, limits=limits, title="", colorbar=False, outline=panel.outline)
    letters = int(axis_points(ax, 0) / 5.2)
    ax.set_title(textwrap.fill(as_text(panel.title), letters), fontsize=9.5)
    if "layers" in panel.matrix.provenance:  # a table of networks: their names say what they are
        ax.set_xlabel("")
        ax.set_ylabel("")
    for place in np.cumsum(panel.groups)[:-1]:
        for across in (ax.axhline, ax.axvline):
            across(place, color="white", lw=2.4)
            across(place, color="black", lw=0.9)
    ax.xaxis.label.set_fontsize(8.5)
    ax.yaxis.label.set_fontsize(8.5)
    if panel.note:
        note = "\n".join(textwrap.fill(part, int(letters * 1.15)) for part in panel.note.split("\n"))
        ax.set_xlabel(f"{ax.get_xlabel()}\n{note}".strip(), fontsize=8.5)


def _bar(figure: "Figure", axes: "Sequence[Axes]", matrix: "Matrix") -> None:
    mesh = axes[0].collections[0]
    bar = figure.colorbar(mesh, ax=list(axes), shrink=0.7, fraction=0.03, pad=0.015, aspect=30)
    bar.set_label(alike_label(matrix.definition, mesh.cmap), fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _curves(ax: "Axes", panel: LinePanel) -> None:
    (_joined if panel.joined else _points)(ax, panel)
    count = len(panel.places)
    step = thin(count, axis_points(ax, 0))
    names = [short(name) for name in panel.places]
    upright = panel.joined or max(map(len, names), default=0) * count > 44
    ax.set_xticks(step, [names[i] for i in step], rotation=90 if upright else 0, fontsize=TICK_POINTS + 0.5)
    ax.set_xlim(-0.5, count - 0.5) if count > 1 or not panel.joined else ax.set_xlim(-1, 1)
    ax.set_title(textwrap.fill(as_text(panel.title), int(axis_points(ax, 0) / 5.2)), fontsize=9.5)
    ax.set_ylabel(textwrap.fill(panel.ylabel, int(axis_points(ax, 1) / 5)), fontsize=8.5)
    ax.set_xlabel(panel.xlabel, fontsize=8.5)
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(alpha=0.3)


def _joined(ax: "Axes", panel: LinePanel) -> None:
    places = np.arange(len(panel.places))
    shade = 0.13 if len(panel.lines) < 4 else 0.06
    size = 4.0 if len(places) < 25 else 2.5
    for name, line in panel.lines.items():
        colour, style = f"C{line.colour % 10}", "--" if line.dashed else "-"
        low, high = np.clip(line.low, *panel.bounds), np.clip(line.high, *panel.bounds)
        ax.fill_between(places, low, high, color=colour, alpha=shade, lw=0)
        ax.plot(places, line.values, color=colour, ls=style, lw=1.5, label=name, marker="o", ms=size, mfc="none")
        if line.marked is None or any(line.marked):
            at = places if line.marked is None else places[np.array(line.marked, dtype=bool)]
            ax.plot(at, np.array(line.values)[at], color=colour, ls="", marker="o", ms=size)
    _bounded(ax, panel)


def _points(ax: "Axes", panel: LinePanel) -> None:
    """Points with bars, those of one place beside each other."""
    count = len(panel.lines)
    for k, (name, line) in enumerate(panel.lines.items()):
        places = np.arange(len(panel.places)) + 0.5 * ((k + 0.5) / count - 0.5)
        values, low, high = (np.array(v, dtype=float) for v in (line.values, line.low, line.high))
        reach = np.nan_to_num(np.array([values - low, high - values]))
        filled = None if line.marked is None or any(line.marked) else "none"
        style = {"color": f"C{line.colour % 10}", "ms": 5, "lw": 1.2, "capsize": 2.5, "mfc": filled}
        ax.errorbar(places, values, reach, fmt="o:" if panel.ordered else "o", label=name, **style)
        for place, own in zip(places, line.own, strict=False):
            ax.plot([place - 0.08 / count] * len(own), own, ls="", marker="_", ms=9, mew=1.2, color="0.45", zorder=1)
    _bounded(ax, panel)


def _bounded(ax: "Axes", panel: LinePanel) -> None:
    """Limits by the numbers: intervals of few networks reach far, and are cut three spreads away from them."""
    lines = panel.lines.values()
    found = np.array([v for line in lines for v in (*line.values, *(x for own in line.own for x in own))], dtype=float)
    ends = np.array([v for line in lines for v in (*line.low, *line.high)], dtype=float)
    found, ends = found[np.isfinite(found)], ends[np.isfinite(ends)]
    if not len(found):
        ax.text(0.5, 0.5, "no numbers", transform=ax.transAxes, ha="center", fontsize=9)
        return
    low, high = float(found.min()), float(found.max())
    room = max(high - low, 0.05 * max(abs(low), abs(high))) or 1.0
    low, high = (
        max(float(ends.min(initial=low)), low - 1.5 * room),
        min(float(ends.max(initial=high)), high + 1.5 * room),
    )
    low, high = max(low, panel.bounds[0]), min(high, panel.bounds[1])
    if low == high and math.isfinite(panel.bounds[0]) and math.isfinite(panel.bounds[1]):
        low, high = panel.bounds
    margin = 0.06 * (high - low or 1.0)
    ax.set_ylim(low - margin, high + margin)
    _mark_cut(ax, panel, low - margin, high + margin)


def _mark_cut(ax: "Axes", panel: LinePanel, low: float, high: float) -> None:
    """A small triangle at the frame wherever an interval goes on beyond it."""
    for line in panel.lines.values():
        ends = [
            (np.clip(line.low, *panel.bounds) < low, 0.012, "v"),
            (np.clip(line.high, *panel.bounds) > high, 0.988, "^"),
        ]
        for beyond, height, marker in ends:
            at = np.flatnonzero(beyond)
            ax.plot(
                at,
                [height] * len(at),
                ls="",
                marker=marker,
                ms=4,
                color=f"C{line.colour % 10}",
                transform=ax.get_xaxis_transform(),
                scaley=False,
                scalex=False,
                zorder=4,
            )
