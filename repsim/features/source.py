"""What a network is run over: inputs in a fixed order, with labels and an identity; by number, or as they come."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from repsim._common.messages import message
from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.inputs.batches import parted, read_batches, rows_of, together
from repsim.features.inputs.stream import Digest, Stream, Whole, open_stream
from repsim.networks.answers import CPU_ROWS


@dataclass(frozen=True)
class Source:
    """Inputs by row number.

    Attributes:
        rows: The inputs of some rows, as the network takes them: a tensor, a tuple or a dict of tensors.
        n: How many there are.
        labels: (n,) int64, where the data has them.
        digest: Of the samples and their order.
        name: What provenance calls the data.
        ids: n names of the samples, where the data has them.
        condition: What was done to the inputs, as in "blur:3"; empty where nothing was.
        facts: What provenance says of the inputs.
        classes: How many classes the data has, where it names them.
    """

    rows: Callable[[slice | Tensor], Any]
    n: int
    labels: Tensor | None
    digest: str
    name: str
    ids: tuple[str, ...] | None = None
    condition: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    classes: int | None = None

    def called(self, network: str) -> str:
        """What results call a network that is shown these inputs."""
        return f"{network} under {self.condition}" if self.condition else network

    @classmethod
    def of(
        cls,
        data: ImageSet | TextSet | Tensor | Iterable[Any] | Dataset[Any],
        function: str,
        tokenizer: Callable[..., Any] | None = None,
    ) -> "Source":
        """Inputs as `extract` takes them.

        Args:
            data: As for `extract`.
            function: Who asks, for messages.
            tokenizer: Makes inputs of texts.

        Raises:
            ValueError: A shuffling loader, or no samples.
            TypeError: Batches that are no tensors, or labels that are no integers.
        """
        facts: dict[str, Any]
        if isinstance(data, ImageSet):
            facts = {"data": data.name}
            if data.condition:
                facts |= {"condition": {**data.record, "name": data.condition}, "pixels": data.pixel_digest}
            given = data.labels, data.digest, data.name, tuple(data.ids), data.condition, facts
            return cls(data.pixels, len(data), *given, len(data.classes) or None)
        if isinstance(data, TextSet):
            if tokenizer is None:
                advice = "Pass a network of hf:FOLDER with its tokenizer, or [data.encoded(tokenizer)]"
                raise ValueError(message(function, "texts need a tokenizer", f"none for {data.name}", advice))
            whole = read_batches([data.encoded(tokenizer)], function).whole
            given = data.labels, data.digest, data.name, data.ids, "", {"data": data.name}, len(data.classes) or None
            return cls(lambda rows: tree_map(lambda x: x[rows], whole), len(data), *given)
        if isinstance(data, Tensor):
            return cls.whole([data], "Tensor", function)
        found = open_stream(data, function)
        if isinstance(found, Whole):
            return cls.whole(found.batches, found.name, function)
        if (numbered := _by_number(data)) is not None:
            return _numbered(found, *numbered, function)
        whole = together(list(found.batches(CPU_ROWS)), function)
        return cls.held(whole, found.labels, found.mark, found.name, found.facts)

    @classmethod
    def whole(cls, batches: Iterable[Any], name: str, function: str) -> "Source":
        """All samples of some batches, held together."""
        read = read_batches(batches, function)
        digest = Digest()
        digest.add(read.whole)
        facts = {"data": name} | ({"inputs_left_out": list(read.left_out)} if read.left_out else {})
        return cls.held(read.whole, read.labels, digest.hex, name, facts)

    @classmethod
    def held(cls, whole: Any, labels: Tensor | None, digest: str, name: str, facts: Mapping[str, Any]) -> "Source":
        """Samples that are held together already."""
        return cls(lambda i: tree_map(lambda x: x[i], whole), rows_of(whole), labels, digest, name, facts=facts)

    def first(self, count: int) -> Any:
        """The first inputs; repeated where there are fewer."""
        return self.rows(torch.arange(count) % self.n if self.n < count else slice(0, count))

    def batches(self, step: int, start: int = 0) -> Iterator[Any]:
        """All inputs in order from `start` on, `step` rows at a time."""
        return (self.rows(slice(i, i + step)) for i in range(start, self.n, step))

    def pass_over(self, rows: int | None = None) -> None:
        """Nothing: inputs by number need no reading in order."""

    @property
    def mark(self) -> str:
        """Of the samples that have passed; empty, as the digest knows all of them."""
        return ""


def inputs_of(
    data: ImageSet | TextSet | Tensor | Iterable[Any] | Dataset[Any],
    function: str,
    tokenizer: Callable[..., Any] | None = None,
) -> Source | Stream:
    """Inputs for one pass: by number where they are at hand, else in order.

    Args:
        data: As for `extract`.
        function: Who asks, for messages.
        tokenizer: Makes inputs of texts.

    Raises:
        ValueError: As for `Source.of`.
        TypeError: As for `Source.of`.
    """
    if isinstance(data, ImageSet | TextSet | Tensor):
        return Source.of(data, function, tokenizer)
    found = open_stream(data, function)
    return found if isinstance(found, Stream) else Source.whole(found.batches, found.name, function)


def _by_number(data: Any) -> tuple[Callable[[list[Any]], Any], Any] | None:
    """What makes batches of samples, and the data set that has them by number; None where it has not."""
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return default_collate, data
    if not isinstance(data, DataLoader) or data.batch_size is None or isinstance(data.dataset, IterableDataset):
        return None
    return None if data.drop_last else (data.collate_fn, data.dataset)


def _numbered(seen: Stream, collate: Callable[[list[Any]], Any], dataset: Any, function: str) -> Source:
    """Inputs that a data set makes whenever they are asked for, after one pass over them that knows them again."""
    sums = [each for x in seen.batches(CPU_ROWS) for each in _sums(x)]
    n, digest = len(sums), seen.digest
    assert digest is not None

    def rows(which: slice | Tensor) -> Any:
        numbers = torch.arange(n)[which].tolist()
        x = parted(collate([dataset[i] for i in numbers]), {}, function)[0]
        for number, each in zip(numbers, _sums(x), strict=True):
            if each != sums[number]:
                advice = "Leave out what is random in it, such as augmentations"
                got = f"another sample {number} than before"
                raise ValueError(message(function, "data must give the same samples each time", got, advice))
        return x

    return Source(rows, n, seen.labels, digest, seen.name, facts=seen.facts)


def _sums(inputs: Any) -> list[int]:
    """A checksum of each sample."""
    leaves = [x.cpu().contiguous() for x in tree_leaves(inputs)]
    return [
        zlib.crc32(b"".join(x[i].flatten().view(torch.uint8).numpy().tobytes() for x in leaves))
        for i in range(len(leaves[0]))
    ]
