"""What results say of their making, and the warning that a careful reader should see."""

import importlib.metadata
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class CautionWarning(UserWarning):
    """A result stands, and a careful reader should know something about it."""


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("repsim-toolkit", "torch", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}}
