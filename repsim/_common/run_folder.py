"""One run, one folder: a list of what a run has written, and no file of an earlier run beside it."""

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repsim._common.files import check_folder, remove_leftovers, sha256_of, watched, write_text
from repsim._common.locks import alone
from repsim._common.messages import message
from repsim._common.provenance import versions

#: The list: which run, what it has written so far, and whether it came to its end.
LIST = "run.json"

#: Adversarial images, whose names say what they were made with: later runs read them again.
_KEPT = re.compile(r"pgd-.*-[0-9a-f]{8}\.npz")

#: What runs of earlier versions ended with, which wrote no list.
_ENDS = ("summary.json", "study.json")


@contextlib.contextmanager
def run_folder(folder: Path, verb: str) -> Iterator[None]:
    """Inside, what is written to a folder is one run's: its list is there first and last.

    Nothing is changed before the first file: a mistake, or a failure before there are results, leaves what an earlier
    run has written. Then the earlier run's files are removed as a whole, by its list, whether it came to its end or
    was killed. Files that it did not write, adversarial images that are kept for later runs, and folders inside
    are left alone.

    Args:
        folder: What `--out` names.
        verb: Whose run it is.

    Raises:
        ValueError: Another process writes to the folder; or files of a run are in it of which there is no list.
        OSError: It cannot be written to.
    """
    check_folder(folder)
    made = not folder.exists()
    with alone(folder, verb, folder=True):
        if not made:
            remove_leftovers(folder)
        run = _Run(folder, verb)
        with watched(run.about_to_write):
            yield
        run.end()


class _Run:
    def __init__(self, folder: Path, verb: str) -> None:
        self._folder, self._path = folder, folder / LIST
        self._facts: dict[str, Any] = {"verb": verb, "id": uuid.uuid4().hex, "finished": False, "files": {}}
        self._earlier = self._files_of_the_last_run(verb)
        self._begun = False

    def about_to_write(self, path: Path) -> None:
        """Puts a file on the list before it is in its place."""
        if path.parent.absolute() != self._folder.absolute() or path.name == LIST or _KEPT.fullmatch(path.name):
            return
        if not self._begun:
            self._begun = True
            self._facts["files"] = dict.fromkeys(self._earlier)  # until they are gone
            self._write()
            for name in self._earlier:
                (self._folder / name).unlink(missing_ok=True)
            self._facts["files"] = {}
        self._facts["files"][path.name] = None
        self._write()

    def end(self) -> None:
        """The list, with digests of all files."""
        if self._begun:
            self._facts["files"] = {name: sha256_of(self._folder / name) for name in self._facts["files"]}
            self._facts |= {"finished": True, "versions": versions()}
            self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._facts, indent=1) + "\n")

    def _files_of_the_last_run(self, verb: str) -> list[str]:
        must, advice = f"--out of {verb} must be a folder of its own", "Choose another folder, or empty this one"
        if not self._path.exists():
            there = [name for name in _ENDS if (self._folder / name).exists()]
            if there:
                got = f"{self._folder} with {there[0]} of a run without a list of its files"
                raise ValueError(message("repsim", must, got, advice))
            return []
        try:
            names = list(json.loads(self._path.read_text(encoding="utf-8"))["files"])
            if not all(isinstance(name, str) and name == Path(name).name and name not in ("", "..") for name in names):
                raise ValueError("names of files elsewhere")
        except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
            raise ValueError(message("repsim", must, f"{self._path} that is damaged", advice)) from error
        return names
