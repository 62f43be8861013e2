"""One answer of a study: numbers, their reading and a picture; and how it becomes files."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim._common.files import whole_file, write_text
from repsim._common.html import note, picture
from repsim._common.html import table as table_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Finding:
    """One analysis, done.

    Attributes:
        name: What its files are called.
        title: The question, in a few words.
        tables: Name -> numbers; the part's own table has the name "".
        reading: What the numbers say, sentence by sentence; a difference inside its uncertainty is called that.
        protocol: Networks, samples, measures, settings: all that the numbers depend on, as JSON takes it.
        draw: Makes the picture.
    """

    name: str
    title: str
    tables: "Mapping[str, DataFrame]"
    reading: tuple[str, ...]
    draw: "Callable[[], Figure]"
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {sentence}" for sentence in self.reading)])

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, the reading, and the part's own table."""
        buffer = io.BytesIO()
        self.draw().savefig(buffer, dpi=100, format="png")
        alt = f"{self.title} {' '.join(self.reading)}"
        return note(self.title, picture(buffer.getvalue(), alt) + table_html(self.to_frame()), self.reading)

    def to_frame(self) -> "DataFrame":
        """The part's own table."""
        return next(iter(self.tables.values()))

    def save(self, folder: str | Path) -> list[Path]:
        """Writes NAME.png, NAME.csv or NAME-TABLE.csv, and NAME.json (reading, protocol), each whole or not at all.

        Args:
            folder: Where to; made if need be.

        Returns:
            The files, the picture first.

        Raises:
            OSError: A file could not be written.
        """
        folder = Path(folder)
        picture = folder / f"{self.name}.png"
        with whole_file(picture) as temporary:
            self.draw().savefig(temporary, dpi=150, format="png")
        files = [picture]
        for table, frame in self.tables.items():
            files.append(folder / (f"{self.name}-{table}.csv" if table else f"{self.name}.csv"))
            write_text(files[-1], frame.to_csv(index=False))
        files.append(folder / f"{self.name}.json")
        text = {"title": self.title, "reading": list(self.reading), "protocol": dict(self.protocol)}
        write_text(files[-1], json.dumps(text, indent=2, ensure_ascii=False, default=float) + "\n")
        return files
