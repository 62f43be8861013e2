"""Everything that must hold, in one command: format, lint, types, unit tests, doctests, notebooks.

python tests/all.py           under 10 minutes on two cores
python tests/all.py --slow    the long tests too
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    slow = "--slow" in sys.argv[1:]
    steps = [
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        ["pyright", "--pythonpath", sys.executable],
        ["pytest", *(["-m", ""] if slow else [])],
    ]
    # No display is needed, and the many small tests gain nothing from waiting threads.
    settings = {"MPLBACKEND": "Agg", "OMP_WAIT_POLICY": "PASSIVE", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    environment = {**os.environ, **settings}
    for step in steps:
        print(f"$ {' '.join(step)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *step], cwd=ROOT, env=environment, check=False).returncode
        if code:
            print(f"tests/all.py: {step[0]} failed with exit code {code}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
