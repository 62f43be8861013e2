"""What tests of the command line share: a command that is run, and what it left behind."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repsim.cli.main import main
from tests.support.places import DATA

DATA = DATA
STANDARD = str(DATA / "digits_standard.safetensors")
PGD = str(DATA / "digits_pgd.safetensors")


@dataclass(frozen=True)
class Run:
    """What one command left behind."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    @property
    def names(self) -> list[str]:
        """The files there, but for the list of them and kept features."""
        return sorted(path.name for path in self.folder.iterdir() if path.name not in ("run.json", "features"))


def ran(verb: str, folder: Path, *words: Any) -> Run:
    """Runs a command whose results go to a folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([verb, *map(str, words), "--out", str(folder)])
    return Run(code, out.getvalue(), err.getvalue(), folder)
