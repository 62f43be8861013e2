"""What results say of their making, and the warning that a careful reader should see."""

import importlib.metadata
import platform
import sys
from pathlib import Path

#: Of this package; a text alone, which building reads without running anything.
VERSION = "0.2.0"


class Note(str):
    """A sentence among the cautions of a result that changes nothing in its reading, and is no warning."""


class CautionWarning(UserWarning):
    """A result stands, and a careful reader should know something about it."""


_PACKAGE = str(Path(__file__).parents[1])


def first_line_outside() -> int:
    """The `stacklevel` of a warning that shall name the first line outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("torch", "numpy", "scipy", "scikit-learn")
    others = {p: importlib.metadata.version(p) for p in packages}
    return {"python": platform.python_version(), "repsim-toolkit": VERSION, **others}
