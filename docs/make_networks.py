"""Writes docs/networks.md: which networks `extract` runs by default, every layer held against a truth of its own.

python docs/make_networks.py            all of them
python docs/make_networks.py swin vit   those whose names hold one of the words, printed only
"""

import importlib.util
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.architectures import ARCHITECTURES, Architecture  # noqa: E402
from tests.support.layout_truth import Checked, check  # noqa: E402

PAGE = Path(__file__).with_name("networks.md")
HEAD = """# Networks that run by default

`extract(net, data)` finds out by itself which axis of each layer's output are samples, features and positions, on
these {count} architectures with random weights at small sizes. Every call of every default layer is held against a hook
of its own and a truth that is found another way: the network is built anew for another input size, so that positions
change and features stay, and, where that leaves more than one axis, with other widths, so that features change
(`tests/support/layout_truth.py`). Written by `python docs/make_networks.py`; the long test run checks that none is
wrong.

- **right**: calls whose rows are those of the truth.
- **not checked**: decided calls on which the truth cannot say: windows of 7×7 tokens stay as constant as channels do.
- **left out**: calls without a row per sample (tables of positions) + attention weights and scores, which have no
  features. They are named in `provenance["layers_left_out"]`.
- **not clear**: calls left out with a warning, which `axes={{"layer": "nchw"}}` settles.

| network | from | right | not checked | left out | not clear | wrong |
|---|---|---|---|---|---|---|
"""


def row(architecture: Architecture, found: Checked) -> str:
    """One line of the table."""
    left = f"{found.tables} + {len(found.weights)}" if found.tables or found.weights else "0"
    cells = [architecture.name, architecture.library, found.right, found.unsettled, left]
    return "| " + " | ".join(map(str, [*cells, len(found.undecided), len(found.wrong)])) + " |"


def main(words: list[str]) -> None:
    """Checks and writes."""
    chosen = [a for a in ARCHITECTURES if not words or any(word.lower() in a.name.lower() for word in words)]
    chosen = [a for a in chosen if importlib.util.find_spec(a.library) is not None]
    lines: list[str] = []
    everything = Checked("all")
    for architecture in chosen:
        start = time.perf_counter()
        found = check(architecture)
        lines.append(row(architecture, found))
        print(lines[-1], f"{time.perf_counter() - start:.1f} s", flush=True)
        for name, calls in (("wrong", found.wrong), ("not clear", found.undecided)):
            if calls:
                print(f"    {name}: {', '.join(calls[:6])}")
        everything.right += found.right
        everything.unsettled += found.unsettled
        everything.tables += found.tables
        everything.weights += found.weights
        everything.undecided += found.undecided
        everything.wrong += found.wrong
    total = row(Architecture("**all**", "", chosen[0].build, chosen[0].data), everything)
    print(total)
    if not words:
        PAGE.write_text(HEAD.format(count=len(chosen)) + "\n".join([*lines, total]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
