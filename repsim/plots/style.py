"""What every kind of picture shares: names as labels that fit, whatever is in them; several matrices checked."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from repsim._common.messages import message
from repsim.plots.protocols import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: Height of a tick label in points, and the room that a layer's name may take, in letters.
TICK_POINTS = 7.0

TICK_LETTERS = 22

#: Lines that a side's input condition may take beside an axis.
_CONDITION_LINES = 3


def check_set(function: str, matrices: "Sequence[Matrix]", texts: Sequence[str] | None) -> None:
    """Several matrices in one picture share a metric, and each has its text where texts are given."""
    names = {m.metric for m in matrices}
    if len(names) != 1:
        got = ", ".join(sorted(names)) or "no matrix"
        raise ValueError(message(function, "matrices must share one metric", got, "Draw one figure per metric"))
    if texts is not None and len(texts) != len(matrices):
        got = f"{len(texts)} texts for {len(matrices)} matrices"
        raise ValueError(message(function, "every matrix must have its text", got, "Name them all or none"))


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


def room(name: str, points: float, size: float = 10.0) -> int:
    """How many letters like those of a name a length holds; wide letters count as what they are."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    line = _one_line(name)[:200]
    width = text_to_path.get_text_width_height_descent(line, FontProperties(size=size), ismath=False)[0]
    return int(points / max(0.6 * size, width / max(len(line), 1)))


def as_text(text: str) -> str:
    """A name as a label in one line that means nothing to matplotlib: a dollar sign begins no formula."""
    return _one_line(text).replace("$", r"\$")


def short(name: str, letters: int = TICK_LETTERS) -> str:
    """A name that fits beside an axis: its end says which layer or network it is."""
    return as_text(_cut(_one_line(name), letters))


def models(ax: "Axes", first: str, second: str) -> str:
    """Two networks' names, cut to what a title has room for."""
    letters = int(axis_points(ax, 0) / 13)
    if first == second:
        return f"{short(first, letters)} × {short(second, letters)}"
    return " × ".join(distinct([first, second], letters))


def side_label(name: str, letters: int) -> str:
    """A side's name for an axis; where an input condition makes it too long, that has lines of its own."""
    network, under, condition = _one_line(name).partition(" under ")
    if len(name) <= letters or not under:
        return short(name, letters)
    letters = max(letters, 12)
    lines = _wrapped(f"under {condition}", letters)
    if len(lines) > _CONDITION_LINES:
        rest = "".join(lines[_CONDITION_LINES - 1 :])
        lines = [*lines[: _CONDITION_LINES - 1], _cut(rest, letters)]
    return "\n".join(as_text(line) for line in [_cut(network, letters), *lines])


def distinct(names: Sequence[str], letters: int) -> list[str]:
    """Names cut to some letters so that no two become equal: to what tells them apart, or to their ends."""
    names = [_one_line(name) for name in names]
    start = _shared(names)
    end = _shared([name[start:][::-1] for name in names])
    head = (letters - 1) // 2

    def unlike(name: str) -> str:
        return ("…" if start else "") + name[start : len(name) - end] + ("…" if end else "")

    def both_ends(name: str) -> str:
        return name[:head] + "…" + name[head + 1 - letters :]

    for cut in (unlike, lambda name: name, both_ends):
        labels = [name if len(name) <= letters else _cut(cut(name), letters) for name in names]
        if len(set(labels)) == len(names):
            return [as_text(label) for label in labels]
    numbers = [f"{k} " for k in range(1, len(names) + 1)]
    return [as_text(number + _cut(name, letters - len(number))) for number, name in zip(numbers, names, strict=True)]


def _cut(name: str, letters: int) -> str:
    letters = max(letters, 2)
    return name if len(name) <= letters else "…" + name[1 - letters :]


def _wrapped(text: str, letters: int) -> list[str]:
    """Lines that end where a condition's parts do: behind a comma, a bracket or a space."""
    lines = [""]
    for part in re.split(r"(?<=[,( ])", text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > letters:
            lines.append("")
        lines[-1] += part
    return [line.strip() for line in lines]


def _one_line(text: str) -> str:
    """Line breaks and tabs become spaces, other letters that cannot be printed a sign that says so."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def _shared(names: Sequence[str]) -> int:
    """With how many letters all names begin, in whole words."""
    first, last = min(names), max(names)  # all others lie between them
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    while count and first[count - 1].isalnum():
        count -= 1
    return count
