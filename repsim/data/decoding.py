"""Many pictures -> one array, decoded in parallel, with one copy of the pixels in memory."""

import concurrent.futures
import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from repsim._common.messages import message, some
from repsim._common.progress import progress_bar
from repsim.data.pictures import Deep, PixelRange, eight_bits, read_picture, resized
from repsim.numerics.memory import check_memory

#: Bytes of pixels beyond which they lie in a file, where there is a place for one.
MANY = 2**28


def decode(
    files: Sequence[str],
    *,
    size: int | None,
    pixel_range: PixelRange | None,
    progress: bool,
    scratch: Path | None = None,
) -> np.ndarray:
    """The pixels of many files.

    Args:
        files: Pictures.
        size: Resize the shorter side to this many pixels and crop the centre square; None takes pictures as they are.
        pixel_range: What black and white are in files of more than 8 bits; None where they tell themselves.
        progress: Show a bar while decoding for more than two seconds.
        scratch: A folder for many pixels while they are made, in a file that has no name and goes with the array; None
            for memory.

    Returns:
        (n, c, h, w) uint8, RGB unless every picture is greyscale.

    Raises:
        ValueError: A file that is no picture, pictures of unequal sizes, levels whose range is not known.
        MemoryError: Less memory is free than they need; asked before the second picture is read.
    """

    def one(file: str) -> "np.ndarray | Deep":
        found = read_picture(file)
        return found if isinstance(found, Deep) else resized(found, size)

    room = _Room(len(files), scratch)
    deep: dict[int, Deep] = {}
    # Pillow lets go of the interpreter while it decodes, so threads are enough.
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(len(files), "decode", "image", show=progress) as bar,
    ):
        for row, found in enumerate(pool.map(one, files)):
            if isinstance(found, Deep):
                deep[row] = found
            else:
                room.put(row, found)
            bar.update()
    for row, pixels in zip(deep, eight_bits(list(deep.values()), pixel_range), strict=True):
        room.put(row, resized(pixels, size))
    if len(room.shapes) > 1:
        got = some(f"{w}×{h}" for h, w in sorted(room.shapes))
        advice = "Pass size=224, say, to resize the shorter side and crop the centre"
        raise ValueError(message("load_data", "all images must have one size", got, advice))
    assert room.images is not None
    return room.images


class _Room:
    """The array that pictures go to as they come: made for the first one, and anew when colour comes after grey."""

    def __init__(self, n: int, scratch: Path | None) -> None:
        self.images: np.ndarray | None = None
        self.shapes: set[tuple[int, int]] = set()
        self._n, self._scratch = n, scratch

    def put(self, row: int, picture: np.ndarray) -> None:
        self.shapes.add(picture.shape[:2])
        if len(self.shapes) > 1:
            return
        channels = 3 if picture.ndim == 3 else 1
        if self.images is None:
            self.images = self._made(channels, picture)
        elif channels > self.images.shape[1]:
            grey, self.images = self.images, self._made(channels, picture)
            self.images[:] = grey
        self.images[row] = picture.transpose(2, 0, 1) if channels == 3 else picture[None]

    def _made(self, channels: int, picture: np.ndarray) -> np.ndarray:
        shape = (self._n, channels, *picture.shape[:2])
        need, advice = int(np.prod(shape, dtype=np.int64)), "Pass a smaller size= or limit="
        if self._scratch is not None and need > MANY:
            with contextlib.suppress(OSError):  # no room there, or no leave to write: memory may do
                return _in_a_file(self._scratch, shape, need)
        check_memory("load_data", need, f"{self._n:,} decoded images", advice)
        return np.zeros(shape, np.uint8)


def _in_a_file(folder: Path, shape: tuple[int, ...], need: int) -> np.ndarray:
    """Zeros that the disk has, whose room there is sure: the system writes them out where memory is short."""
    if not hasattr(os, "posix_fallocate"):
        raise OSError("no way to make sure of the room")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as stream:
        os.posix_fallocate(stream.fileno(), 0, need)
        return np.memmap(stream, np.uint8, "r+", shape=shape)
