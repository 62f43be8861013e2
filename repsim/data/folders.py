"""A folder of class folders: which files are read, and which class each is of."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repsim._common.messages import message, some
from repsim.data.pictures import SUFFIXES, printable

#: Files that people keep beside pictures. All others that are left out are told of.
_NOT_PICTURES = (".txt", ".md", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".html", ".pdf", ".log")
_NOT_PICTURES += (".npy", ".npz", ".mat", ".db", ".ini", ".py", ".sh", ".zip", ".gz", ".tar", ".tgz", ".xz", ".lst")


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder, class by class.

    Attributes:
        files: Their paths, in the order of classes and names.
        ids: "class/file" of each.
        labels: (n,) int64 places in `classes`.
        classes: The classes' names in order.
        notes: What a reader should know, one sentence each.
    """

    files: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def list_folder(folder: Path, classes: Sequence[str] | str | Path | None = None) -> Listing:
    """The pictures of a folder that holds one folder per class; folders inside these belong to the class.

    Args:
        folder: Where. Files and folders whose names begin with a dot are not looked at.
        classes: The classes in the order of their numbers, or a text file with one on each line. A class may have no
            folder, or no picture; a folder that is none of them is an error. None takes the folders in the order of
            their names, and of their numbers where all names are numbers.

    Raises:
        FileNotFoundError: No such folder, or no picture in it.
        ValueError: A class folder without a picture, a folder that is none of `classes`, links that lead round in a
            circle or nowhere, a name that is no text.
    """
    if not folder.is_dir():
        advice = "Name a folder that holds one folder per class"
        raise FileNotFoundError(message("load_data", "the image folder must exist", str(folder), advice))
    inside = [entry for entry in _entries(folder) if entry.is_dir()]
    there = [entry.name for entry in inside]
    notes: list[str] = []
    order = _ordered(there, notes) if classes is None else _asked(there, classes, folder)
    left: list[str] = [entry.name for entry in _entries(folder) if not entry.is_dir()]
    found: dict[str, list[str]] = {
        name: sorted(_pictures(folder / name, (), left, folder)) if name in there else [] for name in order
    }
    if not any(found.values()):
        got = f"{folder} with the folders {some(sorted(there))} and no image in them"
        advice = "Put the images into one folder per class, as folder/class/image.jpg"
        raise FileNotFoundError(message("load_data", "the image folder must hold images in class folders", got, advice))
    if classes is None:
        _check_classes(folder, found)
    lost = [name for name in left if not name.lower().endswith(_NOT_PICTURES)]
    if lost:
        notes.append(f"{len(lost)} files of {folder} are read as no picture of a class: {some(sorted(lost))}")
    ids = [name for names in found.values() for name in names]
    labels = np.repeat(np.arange(len(order)), [len(names) for names in found.values()]).astype(np.int64)
    return Listing(tuple(str(folder / name) for name in ids), tuple(ids), labels, tuple(order), tuple(notes))


def _ordered(names: list[str], notes: list[str]) -> list[str]:
    """Class folders in the order of their names: of numbers, where all of them are."""
    ordered = sorted(names)
    if names and all(name.isascii() and name.isdigit() for name in names):
        by_number = sorted(names, key=lambda name: (int(name), name))
        if by_number != ordered:
            late = next(b for a, b in zip(ordered, by_number, strict=True) if a != b)
            notes.append(f"class folders are ordered as numbers, {late} before {ordered[ordered.index(late) - 1]}")
        return by_number
    return ordered


def _asked(there: Sequence[str], classes: Sequence[str] | str | Path, folder: Path) -> list[str]:
    """The caller's classes, every one of them named once, and every folder among them."""
    if isinstance(classes, str | Path):
        try:
            lines = Path(classes).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            got, advice = f"{classes} ({error})", "Write one class on each line, or pass classes=[...]"
            raise ValueError(
                message("load_data", "classes must be names, or a text file of them", got, advice)
            ) from error
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = list(classes)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        twice = [name for name in names if names.count(name) > 1]
        got = f"{twice[0]!r} twice" if twice else some(map(repr, names))
        raise ValueError(message("load_data", "classes must be different names", got, "Name every class once"))
    unknown = sorted(set(there) - set(names))
    if unknown:
        got = f"{some(unknown)} in {folder}"
        raise ValueError(
            message("load_data", "every class folder must be one of classes", got, "Add it, or move it away")
        )
    return names


def _check_classes(folder: Path, found: dict[str, list[str]]) -> None:
    """Every class has pictures, and those are not all deeper than in class folders."""
    empty = [name for name, names in found.items() if not names]
    if empty:
        advice = "Remove it, or pass classes=[...] with all classes in the order of their numbers"
        got = f"{folder} with no image in {some(empty)}"
        raise ValueError(message("load_data", "every class folder must hold an image", got, advice))
    if all(name.count("/") > 1 for names in found.values() for name in names):
        got = (
            f"{folder} with images in {next(iter(found.values()))[0].rpartition('/')[0]}/ and none directly in a folder"
        )
        advice = (
            f"Pass split={next(iter(found))!r} or that folder itself, or classes={list(found)[:2]} if these are classes"
        )
        raise ValueError(message("load_data", "images must stand in class folders", got, advice))


def _pictures(folder: Path, above: tuple[tuple[int, int], ...], left: list[str], root: Path) -> Iterator[str]:
    """Names of all pictures below a folder, as from `root`; other files are added to `left`."""
    own = folder.stat()
    here = (own.st_dev, own.st_ino)
    if here in above:
        raise _broken(folder, "a link to a folder that it is in")
    for entry in _entries(folder):
        name = os.path.relpath(entry.path, root).replace(os.sep, "/")
        if entry.is_dir():
            yield from _pictures(Path(entry.path), (*above, here), left, root)
        elif entry.is_file() and entry.name.lower().endswith(SUFFIXES):
            yield name
        else:
            left.append(name)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What a folder holds and does not hide, each a file, a folder, or something of which a name can be told."""
    try:
        found = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise _broken(folder, error.strerror or str(error)) from error
    for entry in found:
        try:
            entry.name.encode("utf-8")
            broken = "" if entry.is_dir() or entry.is_file() or not entry.is_symlink() else "a link that leads nowhere"
        except UnicodeEncodeError:
            broken = "a name that is not UTF-8"
        except OSError as error:
            broken = error.strerror or str(error)
        if broken:
            raise _broken(Path(entry.path), broken)
    return found


def _broken(path: Path, reason: str) -> ValueError:
    must, got = "every file must be a readable image", f"{printable(path)} ({reason})"
    return ValueError(message("load_data", must, got, "Rename, repair or remove it"))
