"""The sets that have a name, a function each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from repsim._common.messages import message
from repsim.data.image_set import ImageSet


def _digits(name: str, split: str, root: Path, download: bool) -> ImageSet:
    from sklearn.datasets import load_digits

    rows, target = load_digits(return_X_y=True)
    pixels, labels = np.asarray(rows).reshape(-1, 8, 8), np.asarray(target, dtype=np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    parts = {"train": order[:1200], "test": order[1200:], "all": np.arange(len(labels))}
    if split not in parts:
        raise ValueError(message("load_data", "split must be train, test or all", repr(split), "Choose one of these"))
    chosen = parts[split]
    images = np.rint(pixels[chosen] * (255 / 16)).astype(np.uint8)[:, None]  # the scans hold 0..16
    ids = tuple(f"digits/{i:04d}" for i in chosen)
    return ImageSet(
        torch.from_numpy(images),
        torch.from_numpy(labels[chosen]),
        ids,
        f"digits/{split}",
        tuple("0123456789"),
    )


def _torchvision(name: str, split: str, root: Path, download: bool) -> ImageSet:
    import torchvision.datasets as sets  # slow to import, so only where it is needed

    if split not in ("train", "test"):
        raise ValueError(message("load_data", "split must be train or test", repr(split), "Choose one of these"))
    makers: dict[str, Callable[..., object]] = {
        "cifar10": sets.CIFAR10,
        "cifar100": sets.CIFAR100,
        "mnist": sets.MNIST,
        "fashion_mnist": sets.FashionMNIST,
        "svhn": sets.SVHN,
    }
    which = {"split": split} if name == "svhn" else {"train": split == "train"}
    try:
        found = makers[name](root, download=download, **which)
    except RuntimeError as error:
        got = f"no {name} under {root}" if not download else str(error)
        advice = f"Pass download=True (--download) to fetch it into {root}, or root= (--root) for where it is"
        raise FileNotFoundError(message("load_data", f"{name} must be on disk", got, advice)) from error
    raw = torch.as_tensor(getattr(found, "data"))  # noqa: B009 - torchvision types do not declare it
    labels = getattr(found, "labels") if name == "svhn" else getattr(found, "targets")  # noqa: B009
    if raw.ndim == 3:
        raw = raw[:, None]
    elif raw.shape[-1] == 3:
        raw = raw.permute(0, 3, 1, 2)
    ids = tuple(f"{name}/{split}/{i:05d}" for i in range(len(raw)))
    classes = tuple(str(c) for c in getattr(found, "classes", ()))
    return ImageSet(raw.contiguous(), torch.as_tensor(labels).long(), ids, f"{name}/{split}", classes)


#: What `load_data` knows: name -> a function (name, split, root, download) -> images.
NAMED: dict[str, Callable[[str, str, Path, bool], ImageSet]] = {
    "digits": _digits,
    "cifar10": _torchvision,
    "cifar100": _torchvision,
    "mnist": _torchvision,
    "fashion_mnist": _torchvision,
    "svhn": _torchvision,
}
