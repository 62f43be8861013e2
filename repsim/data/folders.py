"""A folder of class folders -> arrays: decoded in parallel once, then read back from a cache."""

import concurrent.futures
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from repsim._common.files import whole_file
from repsim._common.messages import message, some
from repsim._common.progress import progress_bar

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def read_image_folder(
    folder: Path,
    *,
    choose: Callable[[np.ndarray], np.ndarray],
    cache: Path,
    size: int | None,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Reads the chosen images of a folder that holds one folder per class.

    The decoded pixels are kept in `cache` under a key made of every chosen file's path, size and time of
    change, so a second call does not decode again and a changed file is never read from an old cache.

    Args:
        folder: Holds one folder per class; classes are numbered in the names' order.
        choose: Takes all labels (n,), returns the rows to read.
        cache: Where decoded images are kept. A cache that cannot be written is not used, without harm.
        size: Resize the shorter side to this many pixels and crop the centre square; None takes images as they are.
        progress: Show a bar while decoding for more than two seconds.

    Returns:
        images (m, c, h, w) uint8, labels (m,) int64, ids "class/file", class names. Images are RGB unless
        every one is greyscale.

    Raises:
        FileNotFoundError: No such folder, or no images in class folders under it.
        ValueError: A file that is no image, images of unequal sizes.
    """
    files, labels, classes = _listing(folder)
    rows = choose(labels)
    files, labels = [files[i] for i in rows], labels[rows]
    ids = tuple(os.path.relpath(f.path, folder).replace(os.sep, "/") for f in files)
    stats = [f.stat() for f in files]
    key = json.dumps(
        [
            str(folder.resolve()),
            size,
            [[i, s.st_size, s.st_mtime_ns] for i, s in zip(ids, stats, strict=True)],
        ]
    )
    cached = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if cached.exists():
        try:
            images = np.load(cached, allow_pickle=False)
            if (
                isinstance(images, np.ndarray)
                and images.dtype == np.uint8
                and images.ndim == 4
                and len(images) == len(ids)
            ):
                return images, labels, ids, classes
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            pass  # damaged from outside: decode again and replace it
    images = _decode(files, size, progress)
    try:
        with whole_file(cached) as temporary:
            np.save(temporary, images)
    except OSError:
        pass  # a read-only or full disk costs the next run its speed, nothing else
    return images, labels, ids, classes


def _listing(folder: Path) -> tuple[list[os.DirEntry], np.ndarray, tuple[str, ...]]:
    if not folder.is_dir():
        advice = "Name a folder that holds one folder per class"
        raise FileNotFoundError(message("load_data", "the image folder must exist", str(folder), advice))
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    files: list[os.DirEntry] = []
    labels: list[int] = []
    kept = []
    for name in classes:
        found = sorted(
            (
                f
                for f in os.scandir(folder / name)
                if f.name.lower().endswith(SUFFIXES) and not f.name.startswith(".") and f.is_file()
            ),
            key=lambda f: f.name,
        )
        if found:
            files += found
            labels += [len(kept)] * len(found)
            kept.append(name)
    if not files:
        got = f"{folder} with the folders {some(classes)} and no image in them"
        advice = "Put the images into one folder per class, as folder/class/image.jpg"
        raise FileNotFoundError(message("load_data", "the image folder must hold images in class folders", got, advice))
    return files, np.array(labels, dtype=np.int64), tuple(kept)


def _decode(files: list[os.DirEntry], size: int | None, progress: bool) -> np.ndarray:
    def one(file: os.DirEntry) -> np.ndarray:
        return _decode_one(file.path, size)

    # Pillow lets go of the interpreter while it decodes, so threads are enough.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        images = []
        with progress_bar(len(files), "decode", "image", show=progress) as bar:
            for image in pool.map(one, files):
                images.append(image)
                bar.update()
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        got = some(f"{w}×{h}" for h, w in sorted(shapes))
        advice = "Pass size=224, say, to resize the shorter side and crop the centre"
        raise ValueError(message("load_data", "all images must have one size", got, advice))
    if any(image.ndim == 3 for image in images):
        images = [i if i.ndim == 3 else np.repeat(i[..., None], 3, 2) for i in images]
        return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return np.stack(images)[:, None]


def _decode_one(path: str, size: int | None) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            image = image.convert("L" if image.mode in ("1", "L") else "RGB")
            if size is not None:
                scale = size / min(image.size)
                image = image.resize([max(size, round(v * scale)) for v in image.size], Image.Resampling.BILINEAR)
                left, top = (image.width - size) // 2, (image.height - size) // 2
                image = image.crop((left, top, left + size, top + size))
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        advice = "Repair or remove the file"
        raise ValueError(
            message("load_data", "every file must be a readable image", f"{path} ({error})", advice)
        ) from error
