"""Live sources: a network and images that stand for features too large to keep."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from repsim._common.messages import message
from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.activations import Write
from repsim.features.forward import TappedNetwork
from repsim.features.inputs.batches import Call
from repsim.features.reductions import Choice, Output, Reductions
from repsim.features.source import Source
from repsim.networks.layers import Layers
from repsim.networks.network import Network, bare

#: Rows of the pass that finds out which layers run, how wide they are, and of what type.
_DRY_ROWS = 2


@dataclass(frozen=True, eq=False, repr=False)
class LiveActivations:
    """Features that are computed whenever they are read, and never kept; made by `live`.

    Attributes:
        layers: The layer names, in execution order.
        widths: Features per sample of each layer.
        dtypes: Their types.
        n: How many samples.
        labels: (n,) int64 class indices, or None.
        digest: Of the samples and their order; that of `extract` on the same data.
        name: The network, as results call it.
        reduction: How feature maps became rows.
        provenance: Where the numbers come from.
        progress: Whether comparisons show a bar.
    """

    layers: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    n: int
    labels: Int[Tensor, " n"] | None
    digest: str
    name: str
    reduction: str
    provenance: Mapping[str, Any]
    progress: bool
    _forward: TappedNetwork
    _source: Source
    _step: int
    _order: torch.memory_format
    _at: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_at", {layer: i for i, layer in enumerate(self.layers)})

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __getitem__(self, layer: str) -> NoReturn:
        must, advice = "live features are not kept", "Use extract(...) for this, or read them with .batches(size)"
        raise TypeError(message("LiveActivations", must, f"a request for layer {layer!r}", advice))

    def __repr__(self) -> str:
        low, high = min(self.widths), max(self.widths)
        span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        size = f"{len(self)} layers × {self.n:,} samples, width {span}"
        return f"LiveActivations({self.name!r}, {size}, {self.reduction})"

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._forward.device

    def read(self, rows: slice | Int[Tensor, " b"], write: Write) -> None:
        """Runs the network over some samples and hands on what its layers answer, a few rows at a time.

        With the reduction "flatten" the features of a layer stand in the order in which they lie in memory, which is
        the same for all samples and may differ from that of `extract`.

        Args:
            rows: Which samples.
            write: Called with the layer's number, the place of the first row among those asked for, and the
                features. They may be overwritten after the call, so it copies them.

        Raises:
            ValueError: Layers that run in some batches only or change their width.
        """
        index = torch.arange(self.n)[rows]
        start = 0
        with self._forward.recording(lambda layer, x: write(self._at[layer], start, x)) as run:
            for start in range(0, len(index), self._step):
                part = index[start : start + self._step]
                whole = len(part) == int(part[-1] - part[0]) + 1
                x = self._source.rows(slice(int(part[0]), int(part[-1]) + 1) if whole else part)
                run(_ordered(x, self._order))

    def batches(self, size: int) -> Iterator[dict[str, Float[Tensor, "b _p"]]]:
        """The features of `size` samples at a time, in order, as copies: {layer: (b, p)}.

        No hook stays on the network between batches, so it does not matter whether all are asked for.
        """
        if size < 1:
            advice = "Ask for a few hundred"
            raise ValueError(message("LiveActivations.batches", "size must be at least 1", f"{size}", advice))
        for start in range(0, self.n, size):
            parts: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
            self.read(slice(start, start + size), lambda i, _, x, parts=parts: parts[self.layers[i]].append(x.clone()))
            yield {layer: torch.cat(found) for layer, found in parts.items()}


def live(
    net: nn.Module,
    data: ImageSet | TextSet | Tensor | Iterable[Any] | Dataset[Any],
    *,
    layers: Layers = None,
    reduction: Choice = "flatten",
    axes: Mapping[str, str] | None = None,
    batch_size: int = 256,
    name: str | None = None,
    call: Call | None = None,
    progress: bool = True,
) -> LiveActivations:
    """A network and samples that stand where `Activations` stand, for features too large to keep.

    `compare` reads them batch by batch: "cka_minibatch" in one pass, exact "cka" and "cka_biased" in several.
    The network runs as in `extract`, and is left as it was between batches.

    Args:
        net: As for `extract`. It must answer the same whenever it is run.
        data: As for `extract`; the samples themselves are kept.
        layers: As for `extract`.
        reduction: As for `extract`; "flatten" keeps every position.
        axes: As for `extract`.
        batch_size: Rows per forward pass. On a CPU passes are split further where that is faster.
        name: What results call the network; None takes the network's own name.
        call: As for `extract`.
        progress: Show a bar when a comparison takes more than two seconds.

    Returns:
        The source, after one pass over two samples that tells which layers run.

    Raises:
        ValueError: As for `extract`: unknown layers, layers that never ran, outputs without rows, a shuffling loader.

    Cost:
        None beyond the samples, until it is read.
    """
    source = Source.of(data, "live", getattr(bare(net, until=Network), "tokenizer", None))
    few = source.rows(slice(0, _DRY_ROWS))

    def dry_run(order: torch.memory_format) -> tuple[TappedNetwork, dict[str, torch.dtype]]:
        reductions = Reductions(reduction, "live", flatten=_MemoryOrder())
        forward, dtypes = TappedNetwork(net, layers, reductions, axes, "live", name, call), {}
        forward.look(lambda count: _ordered(source.first(count), order))
        with forward.recording(lambda layer, x: dtypes.update({layer: x.dtype})) as run:
            run(_ordered(few, order))
        return forward, dtypes

    order = torch.channels_last if tree_leaves(few)[0].device.type == "cpu" else torch.contiguous_format
    try:
        forward, dtypes = dry_run(order)
    except (RuntimeError, ValueError) as error:
        # Convolutions are faster with channels last. A network that views its maps as rows cannot take that.
        if not isinstance(error, RuntimeError) and not isinstance(error.__cause__, RuntimeError):
            raise
        order = torch.contiguous_format
        forward, dtypes = dry_run(order)
    widths = forward.widths or {}
    return LiveActivations(
        tuple(widths),
        tuple(widths.values()),
        tuple(dtypes.values()),
        source.n,
        source.labels,
        source.digest,
        source.called(forward.name),
        Reductions(reduction, "live").name,
        {**forward.provenance, **source.facts, **forward.facts, "layers_that_never_ran": forward.never_ran()},
        progress,
        forward,
        source,
        forward.step(batch_size),
        order,
    )


def _ordered(batch: Any, order: torch.memory_format) -> Any:
    """Images as they shall lie in memory; anything else as it is."""
    return tree_map(lambda x: x.contiguous(memory_format=order) if x.ndim == 4 else x, batch)


class _MemoryOrder:
    """Flattens a layer's outputs as they lie in memory, always in the order in which the first ones lay."""

    def __init__(self) -> None:
        self._last: dict[str, bool] = {}

    def __call__(self, out: Output) -> Float[Tensor, "b p"]:
        x = out.x
        if x.ndim == 4 and self._last.setdefault(out.layer, not x.is_contiguous()):
            x = x.permute(0, 2, 3, 1)
        return x.flatten(1)
