"""What every kind of picture shares: colour limits, labels that fit, and the check of several matrices."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from repsim._common.messages import message
from repsim.plots.protocols import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Limits = Literal["bounds", "data"] | tuple[float, float]

#: Height of a tick label in points, and the room that a layer's name may take, in letters.
TICK_POINTS = 7.0

TICK_LETTERS = 22


def check_set(function: str, matrices: "Sequence[Matrix]", texts: Sequence[str] | None) -> None:
    """Several matrices in one picture share a metric, and each has its text where texts are given."""
    names = {m.metric for m in matrices}
    if len(names) != 1:
        got = ", ".join(sorted(names)) or "no matrix"
        raise ValueError(message(function, "matrices must share one metric", got, "Draw one figure per metric"))
    if texts is not None and len(texts) != len(matrices):
        got = f"{len(texts)} texts for {len(matrices)} matrices"
        raise ValueError(message(function, "every matrix must have its text", got, "Name them all or none"))


def colour_limits(matrices: Sequence["Matrix"], limits: Limits) -> tuple[float, float]:
    """The colours' range; where a measure has no bound, its largest value stands for it."""
    if limits in ("bounds", "data"):
        found = np.concatenate([m.values[~np.isnan(m.values)] for m in matrices])
        low, high = matrices[0].definition.display
        if found.size and limits == "data":
            low, high = float(found.min()), float(found.max())
            return (low, high) if high > low else (low - 0.5, high + 0.5)
        if math.isinf(high):
            high = max(float(found.max(initial=0)), low) or low + 1
        return low, high
    if not isinstance(limits, tuple) or len(limits) != 2 or not limits[0] < limits[1]:
        raise ValueError(
            message("heatmap", 'limits must be "bounds", "data" or (low, high)', repr(limits), "Choose one")
        )
    return limits


def axis_points(ax: "Axes", axis: int) -> float:
    """Length of an axis in points, before labels and colour bar take their share."""
    position = ax.get_position()
    share = position.width if axis == 0 else position.height
    inches = ax.figure.bbox.width if axis == 0 else ax.figure.bbox.height
    return 72 * inches / ax.figure.dpi * share * 0.85


def thin(count: int, points: float) -> list[int]:
    """Which of `count` evenly spaced labels to write so that none touches the next; the first one always."""
    step = max(1, math.ceil(count * TICK_POINTS * 1.45 / points))
    return list(range(0, count, step))


def short(name: str, letters: int = TICK_LETTERS) -> str:
    """A name that fits beside an axis: its end says which layer or network it is."""
    letters = max(letters, 2)
    return name if len(name) <= letters else "…" + name[1 - letters :]


def models(ax: "Axes", first: str, second: str) -> str:
    """Two networks' names, cut to what a title has room for."""
    letters = int(axis_points(ax, 0) / 13)
    names = [first, second] if first == second else distinct([first, second], letters)
    return " × ".join(short(name, letters) for name in names)


def side_label(name: str, letters: int) -> str:
    """A side's name for an axis; where an input condition makes it too long, that has a line of its own."""
    network, under, condition = name.partition(" under ")
    if len(name) <= letters or not under:
        return short(name, letters)
    return f"{short(network, letters)}\nunder {short(condition, letters - len('under '))}"


def distinct(names: Sequence[str], letters: int) -> list[str]:
    """Names cut to some letters so that no two become equal: to what tells them apart, or to their ends."""
    start = _shared(names)
    end = _shared([name[start:][::-1] for name in names])
    head = (letters - 1) // 2

    def unlike(name: str) -> str:
        return ("…" if start else "") + name[start : len(name) - end] + ("…" if end else "")

    def both_ends(name: str) -> str:
        return name[:head] + "…" + name[head + 1 - letters :]

    for cut in (unlike, lambda name: name, both_ends):
        labels = [name if len(name) <= letters else short(cut(name), letters) for name in names]
        if len(set(labels)) == len(names):
            return labels
    numbers = [f"{k} " for k in range(1, len(names) + 1)]
    return [number + short(name, letters - len(number)) for number, name in zip(numbers, names, strict=True)]


def _shared(names: Sequence[str]) -> int:
    """With how many letters all names begin, in whole words."""
    first, last = min(names), max(names)  # all others lie between them
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    while count and first[count - 1].isalnum():
        count -= 1
    return count
