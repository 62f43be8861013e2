"""What looking costs: the commands that need no torch, beside `import torch` itself, each in a process of its own.

python benchmarks/import.py [--rounds 5]
"""

import argparse
import subprocess
import sys
import time

from _measure import Table, Timings, machine

#: What is run -> the interpreter's arguments.
RUNS = {
    "python, nothing imported": ["-c", ""],
    "import torch": ["-c", "import torch"],
    "import repsim": ["-c", "import repsim"],
    "repsim --help": ["-m", "repsim", "--help"],
    "repsim --version": ["-m", "repsim", "--version"],
    "repsim metrics": ["-m", "repsim", "metrics"],
    "repsim compare --help": ["-m", "repsim", "compare", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, of which the median counts")
    rounds = parser.parse_args().rounds
    print(machine())
    seconds: dict[str, list[float]] = {what: [] for what in RUNS}
    for _ in range(rounds + 1):
        for what, words in RUNS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
            seconds[what].append(time.perf_counter() - started)
    timings = Timings({what: each[1:] for what, each in seconds.items()})  # the first round fills the disk's cache
    table = Table("seconds until a process has ended")
    for what in RUNS:
        table.row(what, timings.median(what))


if __name__ == "__main__":
    main()
