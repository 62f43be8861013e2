"""Decoded pictures kept on disk, so that a folder is decoded once: read back only where nothing has changed."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repsim._common.files import sha256_of, whole_file
from repsim._common.provenance import CautionWarning
from repsim.data.decoding import MANY

#: How a file begins. Another number, another format: files of other versions are not read.
_MAGIC = b"repsim decoded images 2\n"

#: What the files' names end in.
SUFFIX = ".decoded"


def cache_folder(root: str | Path | None) -> Path:
    """Where decoded pictures are kept: under `root`, or else in the user's own cache."""
    if root is not None:
        return Path(root) / "decoded"
    import platformdirs

    return platformdirs.user_cache_path("repsim", appauthor=False) / "decoded"


def cached(folder: Path, files: Sequence[str], settings: Any, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """What `decode` gives, from the cache where these very files were decoded before with these settings.

    The key holds path, size, times of change and inode of every file: a program that writes a file can set back the
    time of its content, but not that of its inode. A cache file that does not hold what was written to it is made anew;
    one of another user, and a folder that cannot be written to, are passed over. Many pixels stay in their file,
    and are read from it as they are used.

    Args:
        folder: Where the cache is.
        files: The pictures.
        settings: All else that the pixels depend on, as JSON.
        decode: Makes the pixels, (n, c, h, w) uint8.
    """
    path = folder / f"{_key(files, settings)}{SUFFIX}"
    reason = ""
    if _is_ours(path):
        try:
            return _read(path, len(files))
        except (ValueError, OSError, EOFError) as error:
            reason = str(error)
    images = decode()
    if reason:
        text = f"load_data: {path} did not hold what was written to it ({reason}): the images are decoded anew."
        warnings.warn(text, CautionWarning, stacklevel=5)
    try:
        if not path.exists() or _is_ours(path):
            with whole_file(path) as temporary, open(temporary, "wb") as stream:
                stream.write(_MAGIC + _digest(images).encode() + b"\n")
                np.save(stream, images)
            if images.nbytes > MANY:
                return _read(path, len(files))
    except (OSError, ValueError):
        pass  # a read-only or full disk costs the next run its speed, nothing else
    return images


def cache_files(folder: Path) -> list[Path]:
    """The files of a cache, those of earlier versions among them."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix in (SUFFIX, ".npy") and p.is_file() and not p.is_symlink())


def _key(files: Sequence[str], settings: Any) -> str:
    import PIL

    facts = []
    for file in files:
        s = os.stat(file)
        content = sha256_of(file) if os.name == "nt" else ""  # ctime is the time of making there
        facts.append([file, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev, content])
    place = os.path.abspath(os.getcwd())
    text = json.dumps([_MAGIC.decode(), PIL.__version__, place, settings, facts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_ours(path: Path) -> bool:
    """Whether a file is there that this user wrote: another's may hold anything."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return path.is_file() and not path.is_symlink() and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def _read(path: Path, n: int) -> np.ndarray:
    with open(path, "rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("another kind of file")
        digest = stream.read(65).decode("ascii", "replace").strip()
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError("another kind of array")
        shape, fortran, dtype = readers[version](stream)
        left = os.fstat(stream.fileno()).st_size - stream.tell()
        if (
            dtype != np.uint8
            or fortran
            or len(shape) != 4
            or shape[0] != n
            or int(np.prod(shape, dtype=object)) != left
        ):
            raise ValueError("an array of another shape")
        if left > MANY:  # private to this process: who writes to the images does not write to the file
            images = np.memmap(path, np.uint8, "c", offset=stream.tell(), shape=shape)
        else:
            images = np.fromfile(stream, np.uint8, count=left).reshape(shape)
    if _digest(images) != digest:
        raise ValueError("another digest")
    return images


def _digest(images: np.ndarray) -> str:
    return hashlib.sha256(
        str(images.shape).encode() + hashlib.sha256(np.ascontiguousarray(images).data).digest()
    ).hexdigest()
