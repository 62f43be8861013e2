"""Everything that must hold, in one command: format, lint, types, unit tests, doctests, notebooks.

python tests/all.py           about 5 minutes on two cores
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
        # A process for each core; a file stays in one of them, as its tests share what is trained once.
        ["pytest", "-n", str(min(os.cpu_count() or 1, 8)), "--dist", "loadfile", *(["-m", ""] if slow else [])],
    ]
    # No display is needed, and processes that have a core each gain nothing from more threads.
    settings = {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
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
