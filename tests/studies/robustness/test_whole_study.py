"""The analyses of `repsim robustness` are the files of its folder."""

import sys
from pathlib import Path

import pytest

from repsim.studies.robustness.whole_study import ANALYSES, find_analyses
from tests.conftest import exactly

ONE = "NAME = 'one'\ndef needs(extras):\n    return ''\ndef run(given):\n    return None\n"


def test_all_are_found_in_their_order() -> None:
    known = ["cross_layer", "over_seeds", "threat_models", "clean_and_attacked", "dynamics", "capacity"]
    assert list(ANALYSES)[: len(known)] == known


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / f"analyses_{tmp_path.name}"
    made.mkdir()
    (made / "__init__.py").write_text("")
    (made / "one.py").write_text(ONE)
    monkeypatch.syspath_prepend(tmp_path)
    return made


def test_a_file_with_a_name_is_one_and_others_are_none(folder: Path) -> None:
    (folder / "a_helper.py").write_text("x = 1\n")
    (folder / "a_first.py").write_text(ONE.replace("'one'", "'two'"))
    (folder / "zero.py").write_text(ONE.replace("'one'", "'zero'") + "ORDER = 1\n")
    assert list(find_analyses(folder.name)) == ["zero", "one", "two"]
    assert f"{folder.name}.a_helper" in sys.modules


def test_a_file_that_is_half_an_analysis(folder: Path) -> None:
    (folder / "two.py").write_text("NAME = 'two'\n")
    text = (
        f"robustness: a file with a NAME must have needs and run; got {folder.name}.two without needs and run. "
        "Add them, or take the NAME away."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        find_analyses(folder.name)


def test_two_of_one_name(folder: Path) -> None:
    (folder / "two.py").write_text(ONE)
    text = (
        f"robustness: every analysis must have a name of its own; got 'one' in {folder.name}.one and in "
        f"{folder.name}.two. Rename one."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        find_analyses(folder.name)
