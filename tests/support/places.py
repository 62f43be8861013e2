"""Where things are that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Weight files that ship.
DATA = ROOT / "data"

#: Data and weights that lie beside the project on some machines; tests that need them skip where they are absent.
SHARED = ROOT.parent / "shared"
