"""`load_data`: a named or stored set of images."""

import functools
from pathlib import Path

import torch

from repsim._common.messages import did_you_mean, message
from repsim.data.folders import read_image_folder
from repsim.data.image_set import ImageSet, stratified_rows
from repsim.data.named import NAMED


def load_data(
    name: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    root: str | Path = "data",
    download: bool = False,
    size: int | None = None,
    progress: bool = True,
) -> ImageSet:
    """Loads a data set by name.

    Args:
        name: "digits" (scikit-learn's 8×8 digits, embedded, no download), "cifar10", "cifar100", "mnist",
            "fashion_mnist", "svhn", or "imagefolder:PATH" for a folder that holds one folder per class.
        split: "train" or "test" (the default) of a named set; for "digits" also "all". The digits have no
            split of their own: 1,200 train and 597 test images by a fixed permutation. For an image folder,
            the subfolder to read, or None for PATH itself.
        limit: Keep this many images, the classes in proportion; None keeps all. The order stays the set's own.
        seed: Which images `limit` keeps.
        root: Where downloads and decoded images are kept.
        download: Fetch a torchvision set that is not under `root`. Nothing is ever downloaded unasked.
        size: Image folders only: resize the shorter side to `size` pixels and crop the centre square.
        progress: Show a bar while decoding for more than two seconds.

    Returns:
        The images as uint8, with labels, ids and a digest.

    Raises:
        ValueError: An unknown name or split, a limit that leaves a class empty, images of unequal sizes.
        FileNotFoundError: A set that is not on disk, an empty folder.
    """
    if seed < 0:
        raise ValueError(message("load_data", "seed must be >= 0", f"{seed}", "Choose another"))
    kind, _, path = name.partition(":")
    if kind == "imagefolder" and path:
        folder = Path(path) / split if split else Path(path)
        choose = functools.partial(stratified_rows, limit=limit, seed=seed)
        images, labels, ids, classes = read_image_folder(
            folder, choose=choose, cache=Path(root) / "decoded", size=size, progress=progress
        )
        return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), ids, name, classes)
    if kind not in NAMED or path:
        advice = did_you_mean(name, [*NAMED, "imagefolder:PATH"])
        raise ValueError(message("load_data", "name must be a known data set", repr(name), advice))
    if size is not None:
        advice = "Leave size out, or resize the images of an ImageSet yourself"
        raise ValueError(message("load_data", "size is for image folders", f"size={size} for {name}", advice))
    data = NAMED[kind](kind, split or "test", Path(root), download)
    rows = stratified_rows(data.labels.numpy(), limit=limit, seed=seed)
    return data if len(rows) == len(data) else data.take(torch.from_numpy(rows))
