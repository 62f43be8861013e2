"""One run, one folder: a list of what a run has written, and no file of an earlier run beside it."""

import contextlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repsim._common.files import check_folder, collected, put_in_place, remove_leftovers, sha256_of, write_text
from repsim._common.locks import alone
from repsim._common.messages import message
from repsim._common.provenance import versions

#: The list: which run, what it has written so far, and whether it came to its end.
LIST = "run.json"

#: Adversarial images, whose names say what they were made with: later runs read them again.
_KEPT = re.compile(r"pgd-.*-[0-9a-f]{8}\.npz")

#: What runs of earlier versions ended with, which wrote no list.
_ENDS = ("summary.json", "study.json")


def is_kept(name: str) -> bool:
    """Whether a file is one that runs leave for later ones: adversarial images."""
    return _KEPT.fullmatch(name) is not None


@contextlib.contextmanager
def run_folder(folder: Path, verb: str, *, command: str = "") -> Iterator[Mapping[str, Path]]:
    """Inside, what is written to a folder is one run's, and comes to its place when all of it is done.

    Then the list of its files is written, an earlier run's files are removed as a whole, by its own list, and this
    run's get their names: whenever it is killed, files of two runs never stand beside each other. A run that fails
    leaves an earlier one as it was; where there is none, what is done by then is kept, and its list says that it did
    not come to its end. Files that no run has written, adversarial images that are kept for later runs, and folders
    inside are left alone.

    Args:
        folder: What `--out` names.
        verb: Whose run it is.
        command: The words that began it.

    Yields:
        Name -> where it is, of the files that are written so far and not in their places yet.

    Raises:
        ValueError: Another process writes to the folder; or files of a run are in it of which there is no list.
        OSError: It cannot be written to.
    """
    check_folder(folder)
    with alone(folder, verb, folder=True):
        remove_leftovers(folder)
        run = _Run(folder, verb, command)
        try:
            with collected(run.take):
                yield run.written
            run.end(finished=True)
        except BaseException:
            run.end(finished=False)
            raise
        finally:
            run.forget()


def add_to_list(folder: Path, name: str) -> None:
    """Puts a file that was made after a run into the list of the run's files, where there is one."""
    path = folder / LIST
    if path.exists():
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["files"][name] = sha256_of(folder / name)
        write_text(path, json.dumps(facts, indent=1) + "\n")


class _Run:
    def __init__(self, folder: Path, verb: str, command: str) -> None:
        self._folder, self._path = folder, folder / LIST
        self._facts: dict[str, Any] = {"verb": verb, "id": uuid.uuid4().hex, "finished": False}
        self._facts |= {"command": command} if command else {}
        self.written: dict[str, Path] = {}
        self._earlier = self._files_of_the_last_run(verb)
        self._waiting: dict[Path, Path] = {}

    def take(self, temporary: Path, path: Path) -> bool:
        """Keeps a file that is written until all are."""
        if path.parent.absolute() != self._folder.absolute() or path.name == LIST or _KEPT.fullmatch(path.name):
            return False
        if before := self._waiting.pop(path, None):
            before.unlink(missing_ok=True)
        self._waiting[path] = self.written[path.name] = temporary
        return True

    def end(self, *, finished: bool) -> None:
        """Puts the run's files in the place of the earlier one's; a run that has failed takes no other's place."""
        if not self._waiting or (not finished and self._earlier):
            return
        names = {path.name: sha256_of(temporary) for path, temporary in self._waiting.items()}
        self._write(dict.fromkeys([*self._earlier, *names]))
        for name in self._earlier:
            (self._folder / name).unlink(missing_ok=True)
        put_in_place(self._waiting)
        self._waiting = {}
        self._facts |= {"finished": finished, "versions": versions()}
        self._write(names)

    def forget(self) -> None:
        """Removes what is not put in place."""
        for temporary in self._waiting.values():
            temporary.unlink(missing_ok=True)

    def _write(self, files: Mapping[str, str | None]) -> None:
        write_text(self._path, json.dumps({**self._facts, "files": files}, indent=1) + "\n")

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
