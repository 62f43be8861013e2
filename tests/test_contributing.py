"""CONTRIBUTING.md says how to add each kind of thing; here its examples are done, in a copy of the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.places import ROOT

PAGE = ROOT / "CONTRIBUTING.md"

#: What `docs/make_measures.py` writes, as the page says.
WRITTEN = {"docs/measures.md", "repsim/metrics/facts.json"}


@dataclass(frozen=True)
class Example:
    """A block of the page: where it goes, and what it says there."""

    path: str
    side: str  # "above" or "below" the line that has the anchor; empty for a new file
    anchor: str
    body: str

    def put(self, root: Path) -> None:
        """Does what the block says."""
        file = root / self.path
        if not self.side:
            assert not file.exists(), self.path
            file.write_text(self.body, encoding="utf-8")
            return
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        (at,) = [number for number, line in enumerate(lines) if self.anchor in line]
        space = "\n\n" if self.body.startswith(("def ", "class ", "@")) else ""
        lines.insert(at + (self.side == "below"), self.body + space)
        file.write_text("".join(lines), encoding="utf-8")


def examples() -> list[Example]:
    found = []
    for block in re.findall(r"```(?:python|markdown)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        first, body = block.split("\n", 1)
        new = re.fullmatch(r"# new file: (\S+)", first)
        there = re.fullmatch(r'# in (\S+), (above|below) "(.*)"', first)
        assert new or there, first
        found.append(Example(new[1], "", "", body) if new else Example(*there.groups(), body))  # type: ignore[union-attr]
    return found


def test_every_example_has_its_place(tmp_path: Path) -> None:
    """The quick half: each line that an example is put beside is there once, and what is made parses."""
    for example in examples():
        if example.side and not (tmp_path / example.path).exists():
            (tmp_path / example.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / example.path, tmp_path / example.path)
        (tmp_path / example.path).parent.mkdir(parents=True, exist_ok=True)
        assert example.side or not (ROOT / example.path).exists(), example.path
        example.put(tmp_path)
    for example in examples():
        if example.path.endswith(".py"):
            ast.parse((tmp_path / example.path).read_text(encoding="utf-8"))
    assert len(examples()) == 10


#: All that was added, used once.
USED = """
import numpy as np, repsim
from repsim.recipes import RECIPES, train
from repsim.robustness import corrupt
from repsim.studies.robustness.whole_study import ANALYSES, robustness
x = np.random.default_rng(0).normal(size=(60, 5))
a = repsim.Activations.from_arrays({"x": x, "y": x[:, :2]})
found = repsim.compare(a, a, repsim.metrics.Bures())
assert found.metric == "bures" and abs(found.values[0, 0] - 1) < 1e-12, found
assert 0 < found.values[0, 1] < 1
data, test = repsim.load_data("stripes", split="train"), repsim.load_data("stripes")
assert (data.name, len(test)) == ("stripes/train", 100)
fog = corrupt(test, "fog:3").pixels(slice(0, None))
assert 0.34 < float(fog.min()) and float(fog.max()) == 1
recipe = RECIPES["label_smoothing"](epochs=1, eval_eps=0.0)
networks = {s: train(recipe, data, test, seed=s, name=f"net{s}", progress=False).network for s in range(4)}
groups = {"a": [networks[0], networks[1]], "b": [networks[2], networks[3]]}
(part,) = robustness(groups, test, analyses=["directions"], layers=["layer1", "layer2"], out="study", progress=False)
assert list(ANALYSES)[-1] == "directions" and len(part.tables[""]) == 8, part
try:
    RECIPES["label_smoothing"](share=2.0)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_stranger_can_do_all_of_it(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("docs/gallery", "notebooks")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    before = {p.relative_to(copy).as_posix(): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    for example in examples():
        example.put(copy)
    added = [example.path for example in examples()]
    python = [path for path in dict.fromkeys(added) if path.endswith(".py")]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}

    def run(*words: str) -> str:
        made = subprocess.run(
            [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, f"{words}:\n{made.stdout[-4000:]}\n{made.stderr[-2000:]}"
        return made.stdout

    run("docs/make_measures.py")
    changed = {
        name
        for path in copy.rglob("*")
        if path.is_file() and before.get(name := path.relative_to(copy).as_posix()) != path.read_bytes()
    }
    assert changed == set(added) | WRITTEN
    run("-m", "ruff", "check", *python)
    run("-m", "ruff", "format", "--check", *python)
    told = "recipe: LabelSmoothing.share must be >= 0 and <= 1; got 2.0. Correct the setting."
    assert run("-c", USED).splitlines()[-1] == told
    tests = ["tests/test_docs.py", "tests/test_architecture.py", "tests/metrics"]
    names = "measures or oracle or bures or architecture or readme or table or listed"
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests, "-k", names)
