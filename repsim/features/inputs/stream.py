"""Inputs that come in order, of which no more are held than a network takes at once."""

import hashlib
import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, default_collate

from repsim._common.labels import class_labels
from repsim._common.messages import message
from repsim.features.inputs.batches import collated, is_sample, parted, rows_of, together
from repsim.networks.answers import CPU_ROWS


def open_stream(data: Any, function: str) -> "Stream | Whole":
    """Samples or batches as they come; as a whole where they are sequences of tokens.

    Those are small, and padded to the longest of all.

    Args:
        data: Batches, a loader, or a data set of samples.
        function: Who asks, for messages.

    Raises:
        ValueError: A shuffling loader.
        TypeError: Batches that are no tensors.
    """
    check_order(data, function)
    plain, name, left = _is_data_set(data), type(data).__name__, dict[str, None]()
    given = _samples(data) if plain else iter(data)
    head = list(itertools.islice(given, 1))
    every, one = itertools.chain(head, given), head[0] if head else None
    alone = isinstance(one, Mapping) and (is_sample(one) or plain or _is_of_datasets(data))
    if not head or (isinstance(one, Mapping) and not _are_pictures(one, alone=alone)):
        return Whole(every, name)
    if alone or (plain and not _is_batch(one)):
        pairs = _in_groups(every, left, function)
    else:
        pairs = (parted(x, left, function) for x in every)
    return Stream(pairs, _length(data), name, left, function)


@dataclass(frozen=True)
class Whole:
    """Batches that are to be read together.

    Attributes:
        batches: What they are.
        name: What provenance calls the data.
    """

    batches: Iterable[Any]
    name: str


class Stream:
    """Inputs that come in order, a batch at a time, of which no more are held than a network takes at once.

    Args:
        batches: Pairs (inputs, labels).
        n: How many samples there will be, where that is known.
        name: What provenance calls the data.
        left_out: Names of what no network takes; filled while they are read.
        function: Who asks, for messages.

    Attributes:
        n: How many samples there are; None as long as that is not known.
        labels: (n,) int64, where the data has them, once all have been read.
        digest: Of the samples and their order, once all have been read; that of `Source` on the same data.
    """

    ids: tuple[str, ...] | None = None
    condition = ""
    classes: int | None = None

    def __init__(
        self, batches: Iterator[tuple[Any, Tensor | None]], n: int | None, name: str, left_out: Any, function: str
    ) -> None:
        self.n, self.name, self.labels, self.digest = n, name, None, None
        self._batches, self._function, self._left_out = batches, function, left_out
        self._held: Any = None
        self._hash = Digest()
        # One buffer: small tensors that are kept would lie between large ones that are let go of, whose room is lost.
        self._classes: array[int] | None = array("q")
        self._ended = False

    @property
    def facts(self) -> dict[str, Any]:
        """What provenance says of the inputs."""
        return {"data": self.name} | ({"inputs_left_out": list(self._left_out)} if self._left_out else {})

    @property
    def mark(self) -> str:
        """A digest of the samples that have passed; empty before the first."""
        return self._hash.hex if self._hash.n else ""

    def called(self, network: str) -> str:
        """What results call a network that is shown these inputs."""
        return network

    def first(self, count: int) -> Any:
        """The first inputs, before any has passed; repeated where there are fewer."""
        while not self._ended and (self._held is None or rows_of(self._held) < count):
            self._pull()
        if self._held is None:
            raise ValueError(
                message(self._function, "there must be samples", "none", "Pass a loader that is not empty")
            )
        have = rows_of(self._held)
        return tree_map(lambda x: x[torch.arange(count) % have], self._held)

    def batches(self, step: int, start: int = 0) -> Iterator[Any]:
        """All inputs that have not passed yet, `step` rows at a time. `start` must be how many have passed.

        Raises:
            ValueError: Samples of unequal shapes, or another number of them than the data says.
        """
        assert start == self._hash.n
        while True:
            while not self._ended and (self._held is None or rows_of(self._held) < step):
                self._pull()
            if self._held is None:
                break
            x = tree_map(lambda leaf: leaf[:step], self._held)
            left = rows_of(self._held) - rows_of(x)
            self._held = tree_map(lambda leaf: leaf[step:], self._held) if left else None
            self._hash.add(x)
            yield x
        if self.n is not None and self._hash.n != self.n:
            must, advice = "data must hold as many samples as its length says", "Look at what it gives in each pass"
            raise ValueError(message(self._function, must, f"{self._hash.n} of {self.n}", advice))
        self.n, self.digest = self._hash.n, self._hash.hex
        self.labels = torch.tensor(self._classes, dtype=torch.int64) if self._classes else None

    def pass_over(self, rows: int | None = None) -> None:
        """Reads samples that no network needs to see: as many, or all.

        Raises:
            ValueError: There are fewer.
        """
        if rows == 0:
            return
        step = CPU_ROWS if rows is None else math.gcd(rows, CPU_ROWS)
        for _ in self.batches(step):
            if self._hash.n == rows:
                return
        if rows is not None:
            must, advice = "data must give the same samples each time", "Remove the store to begin anew"
            raise ValueError(message(self._function, must, f"{self._hash.n} samples after {rows}", advice))

    def _pull(self) -> None:
        """Holds one batch more."""
        x, labels = next(self._batches, (None, None))
        if x is None:
            self._ended = True
        elif rows_of(x):
            self._held = x if self._held is None else together([self._held, x], self._function)
            if labels is None or self._classes is None:
                self._classes = None
            else:
                self._classes.extend(class_labels(labels, self._function).tolist())


class Digest:
    """Of the numbers, shapes and names of inputs, however they were cut into batches."""

    def __init__(self) -> None:
        self.n = 0
        self._parts: dict[tuple[int, str], tuple[Any, tuple[int, ...]]] = {}

    def add(self, inputs: Any) -> None:
        """Adds a batch."""
        named = sorted(inputs.items()) if isinstance(inputs, Mapping) else [("", x) for x in tree_leaves(inputs)]
        self.n += rows_of(inputs)
        for place, (name, x) in enumerate(named):
            digest, _ = self._parts.setdefault((place, name), (hashlib.sha256(), tuple(x.shape[1:])))
            bits = x.cpu().contiguous().view(torch.uint8) if x.dtype == torch.bfloat16 else x.cpu()
            digest.update(np.ascontiguousarray(bits.numpy()).data)

    @property
    def hex(self) -> str:
        """The digest so far."""
        parts = [f"{name}{(self.n, *shape)}{digest.hexdigest()}" for (_, name), (digest, shape) in self._parts.items()]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def check_order(data: Any, function: str) -> None:
    """Refuses a loader that shuffles."""
    sampler = getattr(getattr(data, "batch_sampler", None), "sampler", None) or getattr(data, "sampler", None)
    stream = isinstance(getattr(data, "dataset", None), IterableDataset)
    if sampler is not None and not stream and not isinstance(sampler, SequentialSampler):
        got = f"a loader with a {type(sampler).__name__}"
        advice = "Make it with shuffle=False: both networks must see the same samples in the same order"
        raise ValueError(message(function, "data must come in a fixed order", got, advice))


def _is_data_set(data: Any) -> bool:
    """Whether it gives samples by number; what only has items and a length would go on behind it if iterated over."""
    return isinstance(data, Dataset) or (hasattr(data, "__getitem__") and not hasattr(data, "__iter__"))


def _samples(data: Any) -> Iterator[Any]:
    """The samples of a data set, in order."""
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return iter(data)
    return _until_the_end(data)


def _until_the_end(data: Any) -> Iterator[Any]:
    for i in range(len(data)):
        try:
            sample = data[i]
        except IndexError:  # it ends before its length says
            return
        yield sample


def _is_batch(item: Any) -> bool:
    """Whether what a data set gives is a batch already: its labels are a list."""
    return isinstance(item, list | tuple) and len(item) > 1 and isinstance(item[1], Tensor) and item[1].ndim == 1


def _length(data: Any) -> int | None:
    """How many samples there will be, where that is known."""
    if isinstance(data, DataLoader) and data.batch_size is not None and not isinstance(data.dataset, IterableDataset):
        n = len(data.sampler)  # type: ignore[arg-type]
        return n - n % data.batch_size if data.drop_last else n
    sized = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    return len(data) if (sized or _is_of_datasets(data)) and hasattr(data, "__len__") else None  # type: ignore[arg-type]


def _is_of_datasets(data: Any) -> bool:
    """Whether it is one of Hugging Face's data sets, which give one dict for each sample."""
    return type(data).__module__.partition(".")[0] == "datasets"


def _are_pictures(batch: Mapping[str, Any], *, alone: bool) -> bool:
    """Whether named inputs are all pictures or the like, which need no padding."""
    try:
        x = collated([batch], {}, "")[0] if alone else parted(batch, {}, "")[0]
    except TypeError:
        return False
    return all(leaf.ndim > 2 for leaf in tree_leaves(x))


def _in_groups(samples: Iterator[Any], left: dict[str, None], function: str) -> Iterator[tuple[Any, Tensor | None]]:
    """Batches of samples."""
    while few := list(itertools.islice(samples, CPU_ROWS)):
        if isinstance(few[0], Mapping):
            yield collated(few, left, function)
            continue
        try:
            batch = default_collate(few)
        except TypeError as error:
            part = few[0][0] if isinstance(few[0], list | tuple) and few[0] else few[0]
            advice = "Give the data set a transform that makes tensors, such as torchvision's ToTensor()"
            raise TypeError(message(function, "samples must hold numbers", type(part).__name__, advice)) from error
        except RuntimeError as error:
            reason, must = str(error).partition("\n")[0], "all samples must have one shape"
            advice = "Resize or pad them; sequences as dicts with attention_mask"
            raise ValueError(message(function, must, reason, advice)) from error
        yield parted(batch, left, function)
