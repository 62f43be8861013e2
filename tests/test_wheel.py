"""The wheel as others get it: built, installed in a fresh environment, used from there, seen by type checkers."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import repsim
from tests.support.places import ROOT

pytestmark = pytest.mark.slow

#: A file of someone who uses the package, with what its annotations promise.
CONSUMER = """
import numpy as np
from pathlib import Path
from typing import TYPE_CHECKING

import repsim
from repsim import Activations, SimilarityMatrix
from repsim.metrics import TD, Metric
from repsim.recipes import RECIPES, Recipe
from repsim.robustness import certify, corrupt

if TYPE_CHECKING:
    from pandas import DataFrame


def study(path: Path) -> "DataFrame":
    data: repsim.ImageSet = repsim.load_data("digits", limit=100)
    network: repsim.Network = repsim.load_model("digits_resnet8")
    a: Activations = repsim.extract(network, corrupt(data, "blur:2"), layers=["conv1", "layer1"])
    found: SimilarityMatrix = repsim.compare(a, a, TD(seed=1))
    same: SimilarityMatrix = repsim.bootstrap(a, a, "cka", resamples=20)
    found.save(path)
    version: str = repsim.__version__
    metric: Metric = repsim.metrics.get_metric("td")
    recipe: Recipe = RECIPES["standard"](epochs=1)
    print(version, metric.title, recipe.epochs, same.values.shape, certify)
    return found.to_frame()


def arrays(x: np.ndarray) -> float:
    a = Activations.from_arrays({"x": x})
    return float(repsim.compare(a, a, repsim.metrics.CKA()).values[0, 0])
"""

#: One mistake, which both must see: without `py.typed` everything would be of any type.
MISTAKE = """
import repsim

number: int = repsim.compare(1, 2)
"""


def run(*words: str | Path, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    made = subprocess.run(
        list(map(str, words)), cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    assert not check or made.returncode == 0, f"{words}\n{made.stdout[-3000:]}\n{made.stderr[-3000:]}"
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows, so that no file lying about helps."""
    place = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith("repsim/") or "/" not in name:
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / "source" / name)
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", place, place / "source"]
    run(sys.executable, *words, cwd=place)
    (made,) = place.glob("*.whl")
    assert made.name == f"repsim_toolkit-{repsim.__version__}-py3-none-any.whl"
    return made


def pythons() -> list[Path]:
    """The oldest and the newest interpreter that are here and new enough, this one aside."""
    places = [*os.environ.get("PATH", "").split(os.pathsep), *map(str, Path.home().glob(".pyenv/versions/*/bin"))]
    found: dict[tuple[int, int], Path] = {}
    for place in places:
        for minor in range(10, 20):
            program = Path(place) / f"python3.{minor}"
            if (3, minor) not in found and minor != sys.version_info.minor and program.is_file():
                works = subprocess.run([program, "-c", "import venv, ensurepip"], capture_output=True, check=False)
                if works.returncode == 0:
                    found[3, minor] = program
    return [found[version] for version in sorted({min(found), max(found)})] if found else []


def installed(python: Path | str, wheel: Path, place: Path) -> Path:
    """The interpreter of a fresh environment that has the wheel and nothing else."""
    run(python, "-m", "venv", place, cwd=place.parent)
    fresh = place / "bin" / "python"
    run(fresh, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", wheel, cwd=place)
    return fresh


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that borrows what the package depends on from this one."""
    place = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(place, with_pip=True)
    python = installed(sys.executable, wheel, place)
    found = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).stdout.strip()
    (Path(found) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_does_what_it_says(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    code = "import repsim, consumer, pathlib; print(repsim.__file__); consumer.study(pathlib.Path('found.npz'))"
    made = run(fresh, "-c", code, cwd=tmp_path, MPLBACKEND="Agg")
    assert made.stdout.splitlines()[0].startswith(str(fresh.parents[1]))
    assert (tmp_path / "found.npz").is_file()
    assert run(fresh.with_name("repsim"), "--version", cwd=tmp_path).stdout == f"repsim {repsim.__version__}\n"
    run(fresh.with_name("repsim"), "heatmap", "found.npz", cwd=tmp_path, MPLBACKEND="Agg")
    assert (tmp_path / "found.png").stat().st_size > 0


@pytest.mark.parametrize("checker", ["pyright", "mypy"])
def test_a_consumer_s_file_passes_type_checkers(fresh: Path, tmp_path: Path, checker: str) -> None:
    pytest.importorskip(checker)
    (tmp_path / "consumer.py").write_text(CONSUMER)
    (tmp_path / "mistake.py").write_text(MISTAKE)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    options = {
        "pyright": ["--pythonpath", str(fresh)],
        # Packages without annotations of their own are not this package's to mend.
        "mypy": ["--python-executable", str(fresh), "--ignore-missing-imports", "--follow-imports=silent"],
    }
    words = [sys.executable, "-m", checker, *options[checker]]
    run(*words, "consumer.py", cwd=tmp_path)
    found = run(*words, "mistake.py", cwd=tmp_path, check=False)
    assert found.returncode == 1
    assert "mistake.py:4" in found.stdout


@pytest.mark.parametrize("python", pythons(), ids=lambda python: python.name)
def test_the_oldest_and_the_newest_python_take_it(python: Path, wheel: Path, tmp_path: Path) -> None:
    """Installed there, every file compiles, and what needs no other package runs."""
    fresh = installed(python, wheel, tmp_path / "env")
    code = "import repsim, pathlib; print(pathlib.Path(repsim.__file__).parent)"
    package = run(fresh, "-c", code, cwd=tmp_path).stdout.strip()
    run(fresh, "-W", "error", "-m", "compileall", "-q", "-f", package, cwd=tmp_path)
    for words, told in ((["--version"], repsim.__version__), (["--help"], "compare"), (["metrics"], "td_white")):
        assert told in run(fresh.with_name("repsim"), *words, cwd=tmp_path).stdout
