"""What results say of their making, and the warning that a careful reader should see."""

import importlib.metadata
import platform

#: Of this package; a text alone, which building reads without running anything.
VERSION = "0.2.0"


class CautionWarning(UserWarning):
    """A result stands, and a careful reader should know something about it."""


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("torch", "numpy", "scipy", "scikit-learn")
    others = {p: importlib.metadata.version(p) for p in packages}
    return {"python": platform.python_version(), "repsim-toolkit": VERSION, **others}
