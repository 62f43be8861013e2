"""Writes docs/networks.md: which networks `extract` runs by default, every layer held against a truth of its own.

python docs/make_networks.py            all of them
python docs/make_networks.py --check    all of them, and says where the page or a layer is wrong
python docs/make_networks.py swin vit   those whose names hold one of the words, printed only
"""

import importlib.metadata
import importlib.util
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.layout_truth import Checked, check  # noqa: E402
from tests.support.networks import ARCHITECTURES, Architecture  # noqa: E402

PAGE = Path(__file__).with_name("networks.md")

#: Of the calls that have a row of features per sample, the share that may be refused.
REFUSED = 1 / 50

HEAD = """# Networks that run by default

`extract(net, data)` finds out by itself which axes of each layer's output are samples, features and positions. So it
was asked of {count} architectures with random weights at small sizes, every default layer and every call of it.

**How the truth is found.** A hook of the check's own keeps what each module answers. Samples: the one axis that grows
with the batch; where several indices of it belong to one sample, those that change when that sample is replaced.
Features: the network is built anew for another input size, and what changes are positions; where more than one axis
stays, it is built with other widths and numbers of heads, and what changes are features. All else is averaged, in
float64, and held against the rows that `extract` gives (`tests/support/layout_truth.py`). None of this uses the
package's own way, which follows the operations of one network (`repsim/features/axes`). A call that was left out must
have no features: no row for each sample, or the weights and scores of attention, which sum to one or are as long as
they are wide. A leaf module that is neither kept nor named counts as wrong.

- **right**: calls whose rows are those of the truth.
- **not checked**: decided calls on which the truth cannot say: windows of 7×7 tokens stay as constant as channels do,
  where no network with other widths could be built.
- **refused**: calls with features that were left out, which `axes={{"layer": "nchw"}}` settles.
- **left out**: calls without a row per sample (tables of positions, weights, tokens sorted by expert) + attention. They
  are named, each with its reason, in `provenance["layers_left_out"]` and by `repsim layers NETWORK --input-size SIZE`.

Written by `python docs/make_networks.py` with {versions}. The long test run
does it again, and fails where a layer is wrong, where more than one in fifty is refused, or where this page differs.

| network | from | right | not checked | refused | wrong | left out |
|---|---|---|---|---|---|---|
"""


def row(name: str, library: str, found: Checked) -> str:
    """One line of the table."""
    left = f"{found.tables} + {found.weights}" if found.tables or found.weights else "0"
    cells = [name, library, found.right, found.unsettled, len(found.refused), len(found.wrong), left]
    return f"| {' | '.join(map(str, cells))} |"


def total(all_found: list[Checked]) -> Checked:
    """All architectures as one."""
    every = Checked("all")
    for found in all_found:
        every.right += found.right
        every.unsettled += found.unsettled
        every.tables += found.tables
        every.weights += found.weights
        every.refused += [f"{found.name}: {call}" for call in found.refused]
        every.wrong += [f"{found.name}: {call}" for call in found.wrong]
    return every


def versions() -> str:
    """The libraries that the numbers are for."""
    libraries = sorted({a.library for a in ARCHITECTURES})
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)


def page(chosen: list[Architecture], all_found: list[Checked]) -> str:
    """The whole page."""
    rows = [row(a.name, a.library, found) for a, found in zip(chosen, all_found, strict=True)]
    last = row("**all**", "", total(all_found))
    return HEAD.format(count=len(chosen), versions=versions()) + "\n".join([*rows, last]) + "\n"


def faults(text: str, every: Checked) -> list[str]:
    """What the check finds wrong, a line each."""
    found = [f"wrong: {call}" for call in every.wrong]
    if len(every.refused) > REFUSED * (every.right + len(every.refused)):
        found += [f"refused: {call}" for call in every.refused]
    old = PAGE.read_text(encoding="utf-8")
    if old != text and versions() in old:  # other versions of the libraries have other layers
        found += [f"the page lacks: {line}" for line in text.splitlines() if line not in old.splitlines()]
        found.append("run: python docs/make_networks.py")
    return found


def main(words: list[str]) -> int:
    """Checks, and writes or compares."""
    warnings.simplefilter("ignore", UserWarning)
    checks = words == ["--check"]
    names = [] if checks else words
    chosen = [a for a in ARCHITECTURES if not names or any(word.lower() in a.name.lower() for word in names)]
    chosen = [a for a in chosen if importlib.util.find_spec(a.library) is not None]
    all_found: list[Checked] = []
    for architecture in chosen:
        start = time.perf_counter()
        all_found.append(found := check(architecture))
        print(row(architecture.name, architecture.library, found), f"{time.perf_counter() - start:.1f} s", flush=True)
        for kind, calls in (("wrong", found.wrong), ("refused", found.refused)):
            if calls:
                print(f"    {kind}: {', '.join(calls[:6])}")
    every = total(all_found)
    print(row("**all**", "", every))
    if names:
        return 0
    text = page(chosen, all_found)
    if checks:
        said = faults(text, every)
        print("\n".join(said))
        return int(bool(said))
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
