"""One process for one target: a second one is refused, and a killed one leaves nothing locked."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from repsim._common.files import check_folder
from repsim._common.messages import message


@contextlib.contextmanager
def alone(target: Path, verb: str, *, folder: bool = False) -> Iterator[None]:
    """Inside, no other process of this package writes to a target.

    The system's own locks are used, which end with the process. Where there are none, on some network drives and on
    Windows, nothing is locked.

    Args:
        target: A file, or a folder, that is made when it is not there and removed again if it stays empty.
        verb: Who asks, for messages.
        folder: Whether it is a folder.

    Raises:
        ValueError: Another process is inside.
        OSError: The folder cannot be made.
    """
    if os.name == "nt":
        yield
        return
    check_folder(target if folder else target.parent)
    made = [place for place in (target if folder else target.parent, *target.absolute().parents) if not place.exists()]
    place = target if folder else target.with_name(f".repsim_lock-{target.name}"[:255])
    (target if folder else target.parent).mkdir(parents=True, exist_ok=True)
    handle = _locked(place, target, verb, folder)
    try:
        yield
    finally:
        if not folder:
            place.unlink(missing_ok=True)
        os.close(handle)
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()


def _locked(place: Path, target: Path, verb: str, folder: bool) -> int:
    import fcntl  # not on Windows

    while True:
        handle = os.open(place, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            must, advice = "one run must write to a target at a time", "Wait for it, or choose another --out"
            got = f"another one that writes to {target} now"
            raise ValueError(message(verb, must, got, advice)) from error
        except OSError:  # a drive without locks
            return handle
        try:
            there = os.stat(place)
        except FileNotFoundError:  # the one before has ended in this moment, and removed it
            there = None
        own = os.fstat(handle)
        if there is not None and (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino):
            return handle
        os.close(handle)
