"""Tables as the shell prints them."""

from collections.abc import Sequence


def number(value: float | None) -> str:
    """A number in a table; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell."""
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for line in [head, ["-" * w for w in widths], *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())


def file_name(text: str) -> str:
    """A text in letters that every file system takes."""
    return "".join(c if c.isalnum() or c in "._-=" else "_" for c in text).strip("_")
