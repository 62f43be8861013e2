"""`load_data`: a named or stored set of images."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repsim._common.messages import did_you_mean, message
from repsim._common.provenance import CautionWarning
from repsim._common.references import users_function
from repsim.data.decoded_cache import cache_folder, cached
from repsim.data.decoding import decode
from repsim.data.folders import list_folder
from repsim.data.image_set import ImageSet, stratified_rows
from repsim.data.named import NAMED
from repsim.data.text_set import read_texts


def load_data(
    name: str,
    *,
    split: str | tuple[str, ...] | None = None,
    limit: int | tuple[int | None, ...] | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
    classes: Sequence[str] | str | Path | None = None,
    pixel_range: tuple[float, float] | None = None,
    progress: bool = True,
) -> Any:
    """Loads a data set by name.

    Args:
        name: "digits" (scikit-learn's 8×8 digits, embedded, no download), "cifar10", "cifar100", "mnist",
            "fashion_mnist", "svhn", "imagefolder:PATH" for a folder that holds one folder per class, "text:FILE.csv"
            for texts with a column "text" and, where there are labels, "label", or
            "package.module:function" for a function of your own, split -> ImageSet, which is imported.
        split: "train" or "test" (the default) of a named set; for "digits" also "all". The digits have no
            split of their own: 1,200 train and 597 test images by a fixed permutation. For an image folder,
            the subfolder to read, or None for PATH itself. ("train", "test") reads both.
        limit: Keep this many images, the classes in proportion; None keeps all. The order stays the set's own. Of
            several splits one number for all, or one for each.
        seed: Which images `limit` keeps.
        root: Where downloads and decoded images are kept. None is the folder data for downloads, and the user's own
            cache folder for decoded images; `repsim cache` shows and clears that.
        download: Fetch a torchvision set that is not under `root`. Nothing is ever downloaded unasked.
        size: Image folders only: resize the shorter side to `size` pixels and crop the centre square.
        classes: Image folders only: the classes in the order of their numbers, or a text file with one on each line.
            None numbers the folders in the order of their names, or of their numbers where all names are numbers; every
            one must then hold an image. Folders inside a class folder belong to the class.
        pixel_range: Image folders only: the levels of black and white in files of more than 8 bits. None is for those
            that leave no doubt: 16 bits whose upper half or quarter is used, and fractions up to 1.
        progress: Show a bar while decoding for more than two seconds.

    Returns:
        An `ImageSet`: the images as uint8, with labels, ids and a digest. Of texts a `TextSet`. Of several splits a
        tuple.

    Raises:
        ValueError: An unknown name or split, a limit that leaves a class empty, images of unequal sizes, a class folder
            without images, a file that is no picture, pixels whose range is not known, transparent pictures.
        FileNotFoundError: A set that is not on disk, an empty folder.
        TypeError: A function of your own that gives no ImageSet.
        MemoryError: Decoded images that fit neither into memory nor into the cache folder.
    """
    if seed < 0:
        raise ValueError(message("load_data", "seed must be >= 0", f"{seed}", "Choose another"))
    if isinstance(split, tuple) or isinstance(limit, tuple):
        splits = split if isinstance(split, tuple) else (split,)
        limits = limit if isinstance(limit, tuple) else (limit,) * len(splits)
        if len(splits) != len(limits):
            got, advice = f"{len(limits)} for {len(splits)} splits", "Pass one number, or one for each"
            raise ValueError(message("load_data", "every split must have its limit", got, advice))
        rest = {"seed": seed, "root": root, "download": download, "size": size, "classes": classes}
        rest |= {"pixel_range": pixel_range, "progress": progress}
        return tuple(load_data(name, split=s, limit=k, **rest) for s, k in zip(splits, limits, strict=True))
    kind, _, path = name.partition(":")
    if kind == "text" and path:
        return read_texts(path, limit=limit, seed=seed)
    if kind == "imagefolder" and path:
        folder = Path(path) / split if split else Path(path)
        return _image_folder(folder, name, limit, seed, root, size, classes, pixel_range, progress)
    own = bool(path) and kind not in NAMED
    if not own and (kind not in NAMED or path):
        advice = did_you_mean(name, [*NAMED, "imagefolder:PATH", "text:FILE.csv"])
        raise ValueError(message("load_data", "name must be a known data set", repr(name), advice))
    for option, given in {"size": size, "classes": classes, "pixel_range": pixel_range}.items():
        if given is not None:
            advice = f"Leave {option} out, or resize the images of an ImageSet yourself"
            advice = advice if option == "size" else f"Leave {option} out"
            raise ValueError(
                message("load_data", f"{option} is for image folders", f"{option}={given} for {name}", advice)
            )
    if own:
        function = users_function(name, "load_data", known=[*NAMED, "imagefolder:PATH"], takes="split -> ImageSet")
        data = function(split or "test")
        if not isinstance(data, ImageSet):
            got, advice = type(data).__name__, "Return ImageSet(images, labels, ids, name)"
            raise TypeError(message("load_data", f"{name} must give an ImageSet", got, advice))
    else:
        data = NAMED[kind](kind, split or "test", Path("data" if root is None else root), download)
    rows = stratified_rows(data.labels.numpy(), limit=limit, seed=seed)
    return data if len(rows) == len(data) else data.take(torch.from_numpy(rows))


def _image_folder(
    folder: Path,
    name: str,
    limit: int | None,
    seed: int,
    root: str | Path | None,
    size: int | None,
    classes: Sequence[str] | str | Path | None,
    pixel_range: tuple[float, float] | None,
    progress: bool,
) -> ImageSet:
    """The pictures of a folder of class folders, from the cache of decoded images where they are in it."""
    if size is not None and size < 1:
        raise ValueError(message("load_data", "size must be at least 1", f"{size}", "Pass the pixels of a side"))
    if pixel_range is not None and not (len(pixel_range) == 2 and pixel_range[0] < pixel_range[1]):
        must, advice = "pixel_range must be (black, white)", "Write, say, (0, 4095)"
        raise ValueError(message("load_data", must, f"{pixel_range}", advice))
    found = list_folder(folder, classes)
    for note in found.notes:
        warnings.warn(f"load_data: {note}.", CautionWarning, stacklevel=3)
    rows = stratified_rows(found.labels, limit=limit, seed=seed)
    files, ids = [found.files[i] for i in rows], tuple(found.ids[i] for i in rows)

    def decoded() -> np.ndarray:
        return decode(files, size=size, pixel_range=pixel_range, progress=progress, scratch=kept)

    kept = cache_folder(root)
    images = cached(kept, files, [size, pixel_range], decoded)
    labels = torch.from_numpy(found.labels[rows])
    return ImageSet(torch.from_numpy(images), labels, ids, name, found.classes)
