"""Writing files whole or not at all, and naming them by what they hold."""

import contextlib
import hashlib
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

#: What every temporary file and folder is called first.
_MARK = ".repsim-"

#: Seconds after which a temporary file is a leftover, whoever may still run elsewhere.
_OLD = 24 * 3600.0

#: (written file, its place) -> whether it is put there later, by whoever is asked.
Collector = Callable[[Path, Path], bool]

_collector: ContextVar[Collector | None] = ContextVar("collector", default=None)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block succeeds and the disk has it.

    A full disk, an interruption or a power cut leaves what stood at `path` before untouched, and no half-written
    file. What a killed process has left in the folder is removed.

    Args:
        path: Where the file shall be. Its folder is made when it does not exist.

    Yields:
        The path to write to.

    Raises:
        OSError: One line that names the file, when it could not be written.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        # The suffix stays last: writers such as numpy's and matplotlib's read the format from it.
        new = path.parent / f"{temporary_prefix()}{uuid.uuid4().hex[:8]}.{path.name[-120:]}"
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = new
        yield temporary
        _flush(temporary)
        collector = _collector.get()
        if collector is not None and collector(temporary, path):
            temporary = None
        else:
            put_in_place({path: temporary})
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"save: {path} could not be written ({reason}); nothing was changed. "
            "Free some space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def collected(collector: Collector) -> Iterator[None]:
    """Inside, `collector` is asked of every file that `whole_file` is about to put in its place."""
    before = _collector.set(collector)
    try:
        yield
    finally:
        _collector.reset(before)


def put_in_place(written: Mapping[Path, Path]) -> None:
    """Renames written files, place -> file, each to its place; the disk has them under their names afterwards."""
    for path, temporary in written.items():
        temporary.replace(path)
    for folder in {path.parent for path in written}:
        _flush(folder)


def temporary_prefix(mark: str = _MARK) -> str:
    """How this process names what it will remove: so that others can tell whether it still runs."""
    return f"{mark}{_machine()}-{os.getpid()}-"


def remove_leftovers(folder: str | Path, mark: str = _MARK) -> None:
    """Removes what killed processes of this user have left in a folder; never what a running one is writing.

    Args:
        folder: Where; one that is not there or cannot be read is left alone.
        mark: What the names begin with.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(mark) and _is_leftover(entry, mark):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)


def check_folder(path: Path) -> None:
    """Whether files can be written to a folder that may not be there yet, asked before the work and not after.

    Raises:
        OSError: A file stands there or above it, or writing is not allowed.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise OSError(f"save: {path} must be a folder; {there} is a file. Choose another place.")
    if not os.access(there, os.W_OK):
        raise OSError(f"save: {path} must be a folder to write to; {there} does not allow it. Choose another place.")


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_leftover(entry: "os.DirEntry[str]", mark: str) -> bool:
    """Ours, and of a process of this machine that is gone, or old."""
    found = entry.stat(follow_symlinks=False)
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return False
    machine, _, rest = entry.name.removeprefix(mark).partition("-")
    number = rest.partition("-")[0]
    if machine == _machine() and number.isdigit() and not _runs(int(number)):
        return True
    return time.time() - found.st_mtime > _OLD


def _runs(process: int) -> bool:
    """Whether a process of this number is there."""
    if os.name == "nt":  # there os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _machine() -> str:
    """Where process numbers mean the same: a machine, since it was started, and a container on it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def _flush(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder, as far as the system can say so of it."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir():
            raise error
    finally:
        os.close(handle)
