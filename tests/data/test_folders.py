"""Which class is which: class folders in every order, with files where they do not belong."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repsim import load_data
from repsim._common.provenance import CautionWarning
from repsim.data.folders import list_folder
from tests.conftest import exactly


def save(path: Path, value: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path, format="png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two pictures."""
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        save(tmp_path / "set" / name)
    return tmp_path / "set"


def refused(folder: Path, text: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        list_folder(folder, **options)


def test_an_empty_class_folder_would_shift_the_classes_behind_it(folder: Path) -> None:
    (folder / "aa").mkdir()
    refused(
        folder,
        f"load_data: every class folder must hold an image; got {folder} with no image in aa. Remove it, or pass "
        "classes=[...] with all classes in the order of their numbers.",
    )
    found = list_folder(folder, ["a", "aa", "b"])
    assert found.labels.tolist() == [0, 0, 2, 2]
    assert found.classes == ("a", "aa", "b")


def test_classes_give_the_order(folder: Path, tmp_path: Path) -> None:
    found = list_folder(folder, ["b", "z", "a"])
    assert (found.classes, found.labels.tolist()) == (("b", "z", "a"), [0, 0, 2, 2])
    assert found.ids == ("b/0.png", "b/1.png", "a/0.png", "a/1.png")
    (tmp_path / "names.txt").write_text("b\n\nz\n a \n")
    again = list_folder(folder, tmp_path / "names.txt")
    assert (again.classes, again.ids) == (found.classes, found.ids)
    data = load_data(f"imagefolder:{folder}", classes=["b", "a"])
    assert (data.classes, data.labels.tolist()) == (("b", "a"), [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (["a"], "load_data: every class folder must be one of classes; got b in {}. Add it, or move it away."),
        (["a", "b", "a"], "load_data: classes must be different names; got 'a' twice. Name every class once."),
        ([], "load_data: classes must be different names; got none. Name every class once."),
        ([0, 1], "load_data: classes must be different names; got 0, 1. Name every class once."),
    ],
)
def test_classes_that_do_not_fit_are_named(classes: list[Any], text: str, folder: Path) -> None:
    refused(folder, text.format(folder), classes=classes)


def test_a_file_of_classes_that_is_none_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"\Aload_data: classes must be names, or a text file of them; got .*no\.txt"):
        list_folder(folder, folder / "no.txt")


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    for name in ("10", "2", "1"):
        save(tmp_path / name / "0.png")
    found = list_folder(tmp_path)
    assert found.classes == ("1", "2", "10")
    assert found.notes == ("class folders are ordered as numbers, 2 before 10",)
    with pytest.warns(CautionWarning, match="load_data: class folders are ordered as numbers, 2 before 10"):
        load_data(f"imagefolder:{tmp_path}")
    for name in ("1", "2", "10"):
        (tmp_path / name).rename(tmp_path / name.zfill(3))
    assert list_folder(tmp_path).notes == ()
    (tmp_path / "010").rename(tmp_path / "10a")
    assert list_folder(tmp_path).classes == ("001", "002", "10a")


def test_pictures_in_folders_of_a_class_belong_to_it(folder: Path) -> None:
    save(folder / "a" / "2019" / "may" / "x.JFIF")
    found = list_folder(folder)
    assert "a/2019/may/x.JFIF" in found.ids
    assert found.labels.tolist() == [0, 0, 0, 1, 1]


def test_a_folder_of_splits_is_no_folder_of_classes(tmp_path: Path) -> None:
    for name in ("test/a/0.png", "test/b/0.png", "train/a/0.png", "train/b/0.png"):
        save(tmp_path / name)
    refused(
        tmp_path,
        f"load_data: images must stand in class folders; got {tmp_path} with images in test/a/ and none directly in a "
        "folder. Pass split='test' or that folder itself, or classes=['test', 'train'] if these are classes.",
    )
    assert list_folder(tmp_path, ["test", "train"]).labels.tolist() == [0, 0, 1, 1]


def test_what_is_not_read_is_named(folder: Path) -> None:
    save(folder / "loose.png")
    (folder / "a" / "x.heic").write_bytes(b"-")
    (folder / "a" / "notes.txt").write_bytes(b"-")
    (folder / "a" / ".hidden.heic").write_bytes(b"-")
    found = list_folder(folder)
    assert len(found.ids) == 4
    assert found.notes == (f"2 files of {folder} are read as no picture of a class: a/x.heic, loose.png",)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda at: os.symlink("x.png", at / "x.png"), "Too many levels of symbolic links"),
        (lambda at: os.symlink("nowhere.png", at / "x.png"), "a link that leads nowhere"),
        (lambda at: os.symlink(at, at / "x.png"), "a link to a folder that it is in"),
        (lambda at: os.symlink(at.parent, at / "x.png"), "a link to a folder that it is in"),
    ],
)
def test_links_that_end_nowhere_are_named(make: Callable[[Path], None], reason: str, folder: Path) -> None:
    make(folder / "b")
    with pytest.raises(ValueError, match=r"\Aload_data: every file must be a readable image; got ") as error:
        list_folder(folder)
    assert f"({reason}). Rename, repair or remove it." in str(error.value)
    assert f"{folder / 'b' / 'x.png'}" in str(error.value)


def test_a_name_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "a" / os.fsdecode(b"\xff.png")).write_bytes((folder / "a" / "0.png").read_bytes())
    refused(
        folder,
        f"load_data: every file must be a readable image; got {folder}/a/\\xff.png (a name that is not UTF-8). "
        "Rename, repair or remove it.",
    )


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "a" / "x.png")
    assert list_folder(folder).notes == (f"1 files of {folder} are read as no picture of a class: a/x.png",)
