"""`ImageSet`: images with labels, names and an order-sensitive digest."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from repsim._common.labels import class_labels
from repsim._common.messages import message


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels and ids, always aligned.

    Attributes:
        images: (n, channels, height, width), uint8 in 0..255 or floating point in [0, 1].
        labels: (n,) int64 class indices; -1 and -100 mean that an image has no label.
        ids: n unique names, one per image.
        name: What the set is called in results.
        classes: The class names, where they are known.
        origin: Where these are the same samples under another input condition (attacked, corrupted), the images as
            they were, row by row.
        condition: That condition in a few words; "" for images as they were.
        record: How the condition was made: settings, seed, source, scores.
    """

    images: Shaped[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    ids: tuple[str, ...]
    name: str
    classes: tuple[str, ...] = ()
    origin: "ImageSet | None" = None
    condition: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images, n = self.images, len(self.ids)
        for what, given in (("images", images), ("labels", self.labels)):
            if not isinstance(given, Tensor):
                got, advice = type(given).__name__, "Convert it with torch.as_tensor"
                raise TypeError(message("ImageSet", f"{what} must be a tensor", got, advice))
        if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            got = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
            advice = "Add the channel axis, or convert with images.to(torch.uint8)"
            raise ValueError(message("ImageSet", "images must be (n, c, h, w), uint8 or floating point", got, advice))
        if len(images) != n or len(self.labels) != n:
            got = f"{len(images)} images, {len(self.labels)} labels and {n} ids"
            raise ValueError(message("ImageSet", "images, labels and ids must be equally many", got, "Align them"))
        if self.labels.ndim != 1 or self.labels.dtype != torch.int64:
            got = f"{str(self.labels.dtype).removeprefix('torch.')} of shape {tuple(self.labels.shape)}"
            raise ValueError(message("ImageSet", "labels must be (n,) int64", got, "Pass one class index per image"))
        object.__setattr__(self, "labels", class_labels(self.labels, "ImageSet"))
        if n == 0:
            raise ValueError(message("ImageSet", "there must be images", "none", "Choose another split or folder"))
        if len(set(self.ids)) != n:
            got = f"{n - len(set(self.ids))} repeated ids"
            advice = "Drop the copies: a copy adds a row without adding evidence"
            raise ValueError(message("ImageSet", "ids must be unique", got, advice))
        if (self.origin is None) != (self.condition == ""):
            got = f"origin {self.origin!r} and condition {self.condition!r}"
            raise ValueError(message("ImageSet", "origin and condition go together", got, "Make it with .derived(...)"))
        if self.origin is not None and (
            self.ids != self.origin.ids
            or images.shape != self.origin.images.shape
            or not torch.equal(self.labels, self.origin.labels)
        ):
            got = f"other ids, labels or shapes under {self.condition!r}"
            advice = "Keep ids and labels, row by row"
            raise ValueError(message("ImageSet", "a derived set must hold its origin's samples", got, advice))
        if images.is_floating_point():
            low, high = (float(v) for v in images.aminmax())
            if not (low >= 0 and high <= 1):  # also where there is a NaN
                advice = "Divide by 255, or leave normalisation to load_model(normalize=...)"
                raise ValueError(
                    message("ImageSet", "floating-point images must lie in [0, 1]", f"[{low:g}, {high:g}]", advice)
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shape = "×".join(str(v) for v in self.images.shape[1:])
        return f"ImageSet({self.name!r}, {len(self):,} images of {shape}, digest {self.digest[:12]})"

    @property
    def digest(self) -> str:
        """Which samples these are, in which order: `pixel_digest`, or that of the origin where there is one.

        So a set under another input condition can be compared with the images as they were, row by row.
        """
        return self.pixel_digest if self.origin is None else self.origin.digest

    @functools.cached_property
    def pixel_digest(self) -> str:
        """SHA-256 over ids, order, labels and these very pixels. Cost: one pass over the pixels, once."""
        digest = hashlib.sha256(f"{self.images.dtype}{tuple(self.images.shape)}".encode())
        digest.update("\n".join(self.ids).encode())
        for array in (self.labels, self.images):
            digest.update(np.ascontiguousarray(array.numpy()).data)
        return digest.hexdigest()

    def pixels(self, rows: slice | Tensor) -> Float[Tensor, "b c h w"]:
        """The images of some rows as float32 in [0, 1]."""
        images = self.images[rows]
        return images.float().div_(255) if images.dtype == torch.uint8 else images.float()

    def take(self, rows: Sequence[int] | Tensor) -> "ImageSet":
        """The set of these rows, in this order: numbers from 0 to n - 1, or n times whether a row is taken.

        Raises:
            TypeError: Anything but a list of integers or n truth values.
            ValueError: No rows, or rows that are not there.
        """
        must, advice = f"rows must be integers, or {len(self)} truth values", "Pass a list of row numbers"
        try:
            index = torch.as_tensor(rows)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(message("ImageSet.take", must, repr(rows), advice)) from error
        if index.dtype == torch.bool and index.shape == (len(self),):
            index = index.nonzero()[:, 0]
        if index.numel() == 0:
            raise ValueError(message("ImageSet.take", "there must be images", "no rows", "Name at least one"))
        if index.ndim != 1 or index.dtype == torch.bool or index.is_floating_point():
            got = f"{str(index.dtype).removeprefix('torch.')} of shape {tuple(index.shape)}"
            raise TypeError(message("ImageSet.take", must, got, advice))
        low, high = (int(v) for v in index.aminmax())
        if low < 0 or high >= len(self):
            must, got = f"rows must lie in 0 to {len(self) - 1}", f"{low if low < 0 else high}"
            raise ValueError(message("ImageSet.take", must, got, "Count rows from 0"))
        ids = tuple(self.ids[i] for i in index.tolist())
        origin = None if self.origin is None else self.origin.take(index)
        return replace(self, images=self.images[index], labels=self.labels[index], ids=ids, origin=origin)

    def derived(self, images: Shaped[Tensor, "n c h w"], condition: str, record: Mapping[str, Any]) -> "ImageSet":
        """The same samples under another input condition, aligned with these row by row.

        Args:
            images: The new pixels.
            condition: How they were made, in a few words; it is added to the condition these are under already.
            record: How they were made, in full.

        Returns:
            The set; its origin is the images as they were before any condition.
        """
        origin = self.origin or self
        together = f"{self.condition} + {condition}" if self.condition else condition
        full = {**record, "before": dict(self.record)} if self.record else dict(record)
        return replace(
            self,
            images=images,
            name=f"{origin.name} under {together}",
            origin=origin,
            condition=together,
            record=full,
        )

    def generators(self, rows: slice, seed: int, purpose: str) -> list[torch.Generator]:
        """One generator per image of some rows, seeded by its id, so that its numbers depend on no other image.

        Args:
            rows: Which images.
            seed: Another seed, other numbers.
            purpose: What they are for; another purpose, other numbers.
        """
        keys = (hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()[:8] for name in self.ids[rows])
        return [torch.Generator().manual_seed(int.from_bytes(key, "big")) for key in keys]


def check_image_set(function: str, *given: object) -> None:
    """Where pixels alone will not do: images need labels and ids there.

    Args:
        function: Who asks, for messages.
        given: What must be `ImageSet`s.
    """
    for data in given:
        if not isinstance(data, ImageSet):
            got, advice = type(data).__name__, "Use load_data(...), or make one: ImageSet(images, labels, ids, name)"
            raise TypeError(message(function, "images must come as an ImageSet", got, advice))


def stratified_rows(labels: np.ndarray, *, limit: int | None, seed: int) -> np.ndarray:
    """Rows of a random subset that keeps the classes in proportion, in ascending order.

    Args:
        labels: (n,) class indices.
        limit: How many rows to keep; None, or n and more, keeps all.
        seed: Which ones.

    Returns:
        (min(limit, n),) ascending row indices. Each class gets its share rounded down or
        up, and at least one row, which a large class gives where rare ones need it.
    """
    n = len(labels)
    if limit is None or limit >= n:
        return np.arange(n)
    classes, counts = np.unique(labels, return_counts=True)
    if limit < len(classes):
        got = f"limit={limit} for {len(classes)} classes"
        raise ValueError(message("load_data", "limit must leave every class an image", got, "Raise the limit"))
    share = counts * limit / n
    quota = np.maximum(np.floor(share), 1).astype(int)
    rng = np.random.default_rng(seed)
    # The rows still missing go to the largest remainders; minimum quotas of 1 can overshoot, so both ways.
    order = np.argsort(-(share - quota) + rng.random(len(classes)) * 1e-9)
    missing = limit - int(quota.sum())
    if missing > 0:
        quota[order[:missing]] += 1
    for _ in range(-missing):
        quota[np.argmax(np.where(quota > 1, quota - share, -np.inf))] -= 1
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


Images = Float[Tensor, "b c h w"]
