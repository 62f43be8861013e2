"""What a network is run over: inputs in a fixed order, with a number, labels and an identity."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repsim._common.labels import class_labels
from repsim._common.messages import message
from repsim.data.image_set import ImageSet


@dataclass(frozen=True)
class Source:
    """Inputs by row number.

    Attributes:
        rows: The inputs of some rows, as the network takes them.
        n: How many there are.
        labels: (n,) int64, where the data has them.
        digest: Of the samples and their order.
        name: What provenance calls the data.
        ids: n names of the samples, where the data has them.
        condition: What was done to the inputs, as in "blur:3"; empty where nothing was.
        facts: What provenance says of the inputs.
    """

    rows: Callable[[slice | Tensor], Tensor]
    n: int
    labels: Tensor | None
    digest: str
    name: str
    ids: tuple[str, ...] | None = None
    condition: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def called(self, network: str) -> str:
        """What results call a network that is shown these inputs."""
        return f"{network} under {self.condition}" if self.condition else network

    @classmethod
    def of(cls, data: ImageSet | Tensor | Iterable[Any], function: str) -> "Source":
        """Inputs as `extract` takes them; `function` is who asks, for messages.

        Raises:
            ValueError: A shuffling loader, or no samples.
            TypeError: Batches that are no tensors, or labels that are no integers.
        """
        if isinstance(data, ImageSet):
            facts: dict[str, Any] = {"data": data.name}
            if data.condition:
                facts |= {"condition": {**data.record, "name": data.condition}, "pixels": data.pixel_digest}
            given = data.labels, data.digest, data.name, tuple(data.ids), data.condition, facts
            return cls(data.pixels, len(data), *given)
        sampler = getattr(getattr(data, "batch_sampler", None), "sampler", None) or getattr(data, "sampler", None)
        stream = isinstance(getattr(data, "dataset", None), torch.utils.data.IterableDataset)
        if sampler is not None and not stream and not isinstance(sampler, torch.utils.data.SequentialSampler):
            got = f"a loader with a {type(sampler).__name__}"
            advice = "Make it with shuffle=False: both networks must see the same samples in the same order"
            raise ValueError(message(function, "data must come in a fixed order", got, advice))
        inputs, labels = [], []
        for batch in [data] if isinstance(data, Tensor) else data:
            x, *rest = batch if isinstance(batch, list | tuple) and len(batch) > 0 else (batch,)
            y = rest[0] if rest else None
            if not isinstance(x, Tensor):
                advice = "Pass an ImageSet, a tensor, or batches x or (x, y)"
                raise TypeError(message(function, "batches must be tensors", type(x).__name__, advice))
            if isinstance(y, Tensor) and y.is_floating_point() and len(y) == len(x):
                got = str(y.dtype).removeprefix("torch.")
                advice = "Pass class indices, or batches without labels"
                raise TypeError(message(function, "labels must be integers", got, advice))
            inputs.append(x)
            labels += [y] if isinstance(y, Tensor) else []
        if not inputs:
            raise ValueError(message(function, "there must be samples", "none", "Pass a loader that is not empty"))
        whole = torch.cat(inputs)
        digest = hashlib.sha256(str(tuple(whole.shape)).encode())
        bits = whole.cpu().contiguous().view(torch.uint8) if whole.dtype == torch.bfloat16 else whole.cpu()
        digest.update(np.ascontiguousarray(bits.numpy()).data)
        y = class_labels(torch.cat(labels), function) if len(labels) == len(inputs) else None
        what = type(data).__name__
        return cls(whole.__getitem__, len(whole), y, digest.hexdigest(), what, facts={"data": what})

    def first(self, count: int) -> Tensor:
        """The first inputs; repeated where there are fewer."""
        return self.rows(torch.arange(count) % self.n if self.n < count else slice(0, count))

    def batches(self, step: int) -> Iterator[Tensor]:
        """All inputs in order, `step` rows at a time."""
        return (self.rows(slice(i, i + step)) for i in range(0, self.n, step))
