"""Where the package is: old import paths, its version, and other distributions beside it."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import repsim
from repsim._common.alone import ENTRIES, check_alone
from repsim._common.moved import MOVED
from repsim._common.provenance import VERSION, versions
from repsim.cli import main
from tests.conftest import exactly
from tests.support.places import ROOT

#: What the README, the notebooks and the changelog of 0.1 imported from.
PUBLISHED = (
    "repsim.adversarial",
    "repsim.blocks",
    "repsim.corruptions",
    "repsim.smoothing",
    "repsim.studies.attacked",
    "repsim.studies.dynamics",
    "repsim.studies.layers",
    "repsim.studies.strategies",
    "repsim.studies.trained",
)


def told(place: str) -> str:
    must = f"{place} must be imported from where it is since 0.2"
    return f"repsim: {must}; got its place in 0.1. Import from {MOVED[place]}."


@pytest.mark.parametrize("place", MOVED)
def test_an_old_place_names_the_new_one(place: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=exactly(told(place))):
        importlib.import_module(place)
    package, _, name = place.rpartition(".")
    if place != "repsim.tasks" and name not in repsim.__all__ and not hasattr(importlib.import_module(package), name):
        with pytest.raises(ModuleNotFoundError, match=exactly(told(place))):
            exec(f"from {package} import {name}")
    importlib.import_module(MOVED[place])


def test_the_published_places_are_among_them() -> None:
    assert set(PUBLISHED) <= set(MOVED)


def test_a_part_of_an_old_place_names_the_new_one_too() -> None:
    with pytest.raises(ModuleNotFoundError, match=exactly(told("repsim.attacks"))):
        importlib.import_module("repsim.attacks.gradient")


def test_what_never_was_is_no_old_place() -> None:
    with pytest.raises(ModuleNotFoundError, match=exactly("No module named 'repsim.frobnicate'")):
        importlib.import_module("repsim.frobnicate")


def test_the_version_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert repsim.__version__ == VERSION == versions()["repsim-toolkit"]
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"repsim {VERSION}\n"


def test_the_pages_that_name_a_version_name_this_one() -> None:
    heads = re.findall(r"^## (.+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[0] == VERSION or heads[0].endswith(", not released")
    assert VERSION in heads
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


MUST = "repsim: the package must stand alone, and another distribution has installed a package repsim too"
DO = "Uninstall one of the two and install the other anew, or keep them in environments of their own."


def test_files_of_another_distribution_are_told_of(tmp_path: Path) -> None:
    for name in ENTRIES:
        (tmp_path / name).mkdir()
    (tmp_path / "py.typed").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "__pycache__").mkdir()
    check_alone(tmp_path, ours=True)
    with pytest.raises(ImportError, match=exactly(f"{MUST}; got its __init__.py in {tmp_path}. {DO}")):
        check_alone(tmp_path, ours=False)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    (tmp_path / "cka.py").touch()
    with pytest.raises(ImportError, match=exactly(f"{MUST}; got its cka.py, kernels in {tmp_path}. {DO}")):
        check_alone(tmp_path, ours=True)
    check_alone(tmp_path / "archive.zip", ours=True)


def test_an_import_beside_another_distribution_ends_in_that_line(tmp_path: Path) -> None:
    package, made = Path(repsim.__file__).parent, tmp_path / "repsim"
    made.mkdir()
    for entry in package.iterdir():
        if entry.name != "__pycache__":
            (made / entry.name).symlink_to(entry)
    (made / "cka.py").touch()
    ran = subprocess.run(
        [sys.executable, "-c", "import repsim"], cwd=tmp_path, env={}, capture_output=True, text=True, check=False
    )
    assert ran.stderr.splitlines()[-1] == f"ImportError: {MUST}; got its cka.py in {made}. {DO}"


def test_looking_needs_no_torch() -> None:
    """Help, version and the list of measures are there at once: they import none of the slow packages."""
    code = (
        "import sys\n"
        "from repsim.cli import main\n"
        "for words in (['--help'], ['--version'], ['metrics'], ['metrics', '--help']):\n"
        "    try:\n        main(words)\n    except SystemExit as ended:\n        assert ended.code == 0\n"
        "slow = ('torch', 'numpy', 'scipy', 'matplotlib', 'pandas', 'sklearn', 'torchvision')\n"
        "print([name for name in slow if name in sys.modules], file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "[]\n"
    assert "td_white" in ran.stdout
