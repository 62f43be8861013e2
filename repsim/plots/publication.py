"""Pictures for a paper: as wide as its columns, with fonts that stay text."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

from repsim._common.messages import message

#: Inches: a column and the text of two columns in most journals and conferences.
_WIDTHS = {"column": 3.35, "page": 6.9}

_width: ContextVar[float | None] = ContextVar("width", default=None)


@contextlib.contextmanager
def paper(width: Literal["column", "page"] | float = "column") -> Iterator[None]:
    """Inside, figures that this package makes are as wide as a paper's column, and PDF and SVG keep text as text.

    Draw and save inside: `with repsim.plots.paper(): repsim.heatmap(s).figure.savefig("cka.pdf")`. Letters keep their
    size in points, so fewer layers are named where there is less room.

    Args:
        width: "column" (3.35 inches), "page" (6.9 inches), or inches.

    Yields:
        Nothing.

    Raises:
        ValueError: A width that is none.
    """
    import matplotlib

    inches = _WIDTHS.get(width) if isinstance(width, str) else float(width)
    if inches is None or not 1 <= inches <= 50:
        advice = "A column is 3.35 inches wide"
        raise ValueError(message("paper", 'width must be "column", "page" or inches', repr(width), advice))
    fonts: dict[Any, Any] = {
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "savefig.dpi": 300,
        "font.size": 8,
    }
    before = _width.set(inches)
    try:
        with matplotlib.rc_context(fonts):
            yield
    finally:
        _width.reset(before)


def paper_width() -> float | None:
    """The width that figures take, in inches; None outside of `paper`."""
    return _width.get()


def sized(width: float, height: float, *, beside: float = 0.0) -> tuple[float, float]:
    """Width and height in inches that a figure takes: those asked for, or as wide as the paper's column.

    Args:
        width: Where there is no paper.
        height: The same.
        beside: What of the height does not shrink with the width, such as labels.
    """
    inches = _width.get()
    if inches is None:
        return width, height
    return inches, (height - beside) * min(1.5, inches / width) + beside
