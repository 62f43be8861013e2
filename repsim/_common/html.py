"""Results as notebooks show them: a picture or a table and the cautions, with every text escaped."""

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: Rows of a table that a notebook shows; the middle is left out.
_ROWS = 12


class ShownAsTable(ABC):
    """What a notebook shows as the first and last rows of its table."""

    @abstractmethod
    def to_frame(self) -> "pd.DataFrame":
        """The numbers as a table."""

    def _repr_html_(self) -> str:
        return note(repr(self), table(self.to_frame()))


def note(head: str, body: str, cautions: Sequence[str] = ()) -> str:
    """A result: what it is, its picture or table as HTML, and what a careful reader should know.

    Args:
        head: One line, as text.
        body: HTML.
        cautions: Sentences, as text.
    """
    said = "".join(f"<li>{html.escape(text)}</li>" for text in cautions)
    return f"<div><p><code>{html.escape(head)}</code></p>{body}" + (f"<ul>{said}</ul>" if said else "") + "</div>"


def table(frame: "pd.DataFrame", *, rows: int = _ROWS) -> str:
    """A table as HTML, of a long one the first and the last rows."""
    return frame.to_html(max_rows=rows, index=False, border=0, escape=True, na_rep="")


def picture(png: bytes, alt: str) -> str:
    """A picture inside the HTML, with a text for who cannot see it."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{html.escape(alt)}">'
