"""What a network is run over: inputs in a fixed order, with a number, labels and an identity."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from repsim._common.messages import message
from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.batches import read_batches, rows_of


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
        data: ImageSet | TextSet | Tensor | Iterable[Any],
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
        sampler = getattr(getattr(data, "batch_sampler", None), "sampler", None) or getattr(data, "sampler", None)
        stream = isinstance(getattr(data, "dataset", None), torch.utils.data.IterableDataset)
        if sampler is not None and not stream and not isinstance(sampler, torch.utils.data.SequentialSampler):
            got = f"a loader with a {type(sampler).__name__}"
            advice = "Make it with shuffle=False: both networks must see the same samples in the same order"
            raise ValueError(message(function, "data must come in a fixed order", got, advice))
        read = read_batches([data] if isinstance(data, Tensor) else data, function)
        what = type(data).__name__
        facts = {"data": what} | ({"inputs_left_out": list(read.left_out)} if read.left_out else {})
        whole = read.whole
        n = rows_of(whole)
        return cls(lambda rows: tree_map(lambda x: x[rows], whole), n, read.labels, _digest(whole), what, facts=facts)

    def first(self, count: int) -> Any:
        """The first inputs; repeated where there are fewer."""
        return self.rows(torch.arange(count) % self.n if self.n < count else slice(0, count))

    def batches(self, step: int, start: int = 0) -> Iterator[Any]:
        """All inputs in order from `start` on, `step` rows at a time."""
        return (self.rows(slice(i, i + step)) for i in range(start, self.n, step))


def _digest(whole: Any) -> str:
    """Of the numbers, shapes and names of all inputs."""
    named = sorted(whole.items()) if isinstance(whole, Mapping) else [("", x) for x in tree_leaves(whole)]
    digest = hashlib.sha256()
    for name, x in named:
        digest.update(f"{name}{tuple(x.shape)}".encode())
        bits = x.cpu().contiguous().view(torch.uint8) if x.dtype == torch.bfloat16 else x.cpu()
        digest.update(np.ascontiguousarray(bits.numpy()).data)
    return digest.hexdigest()
