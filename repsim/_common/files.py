"""Writing files whole or not at all, and naming them by what they hold."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block succeeds.

    A full disk or an interruption leaves what stood at `path` before untouched, and no half-written file.

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
        # The suffix stays last: writers such as numpy's and matplotlib's read the format from it.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files that only their owner reads
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"save: {path} could not be written ({reason}); nothing was changed. "
            "Free some space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
