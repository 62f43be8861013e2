"""Tables as the shell prints them."""

import shutil
import sys
from collections.abc import Sequence

#: Letters between two columns, and what a column keeps at least when a table is cut to a terminal.
_GAP, _NARROW = 2, 9


def number(value: float | None) -> str:
    """A number in a table; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; on a terminal that is too narrow names are cut, then columns go below."""
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    room = _room()
    if room is not None:
        widths = _narrowed(widths, [len(name) for name in head], room)
    for columns in _parts(widths, room):
        lines = [head, ["-" * w for w in widths], *rows]
        for line in lines:
            cells = [_cut(line[i], widths[i]).ljust(widths[i]) for i in columns]
            print((" " * _GAP).join(cells).rstrip())
        if columns[-1] < len(widths) - 1:
            print()


def file_name(text: str) -> str:
    """A text in letters that every file system takes."""
    return "".join(c if c.isalnum() or c in "._-=" else "_" for c in text).strip("_")


def _room() -> int | None:
    """Letters in a line of the terminal; None where what is printed goes to a file or another program."""
    return max(20, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def _narrowed(widths: Sequence[int], heads: Sequence[int], room: int) -> list[int]:
    """The widest columns give way first, down to their heads: what is long are names."""
    cut = list(widths)
    while sum(cut) + _GAP * (len(cut) - 1) > room:
        slack = [width - max(head, _NARROW) for width, head in zip(cut, heads, strict=True)]
        # The first column, which says what a row is, gives way last.
        free = [i for i in range(1, len(cut)) if slack[i] > 0] or [i for i in (0,) if slack[i] > 0]
        if not free:
            break
        cut[max(free, key=lambda i: cut[i])] -= 1
    return cut


def _parts(widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Columns that are printed beside each other; the first one again in every part."""
    parts: list[list[int]] = [[0]]
    for i in range(1, len(widths)):
        if room is not None and len(parts[-1]) > 1 and _length(widths, [*parts[-1], i]) > room:
            parts.append([0])
        parts[-1].append(i)
    return parts


def _length(widths: Sequence[int], columns: Sequence[int]) -> int:
    return sum(widths[i] for i in columns) + _GAP * (len(columns) - 1)


def _cut(cell: str, width: int) -> str:
    """A cell that fits; the end of a name says which it is."""
    return cell if len(cell) <= width else "…" + cell[len(cell) - width + 1 :]
