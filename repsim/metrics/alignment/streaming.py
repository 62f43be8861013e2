"""Measures that see the samples batch by batch: `start`, `update`, `finish`, and a state of plain sums."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.metrics.base import Metric, PairwiseResult
from repsim.numerics.centring import working_dtype

#: Terms of a sum that are taken at once: float32 loses a few 1e-8 of so many positive terms, and copies stay small.
SHORT = 2**14

#: One of so many rows of a batch goes into the point from which the batch is measured.
SHARE = 16

#: What a layer has instead of a number where its own term is zero to rounding.
NO_HSIC = "an unbiased estimate of its own HSIC that is not positive"

#: Sums over the batches seen so far. Those of two streams, added key by key, are the sums of both.
Sums = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class ShiftedLayer:
    """Some rows of a layer, measured from a point among them, so that no product drowns in a large mean.

    Attributes:
        rows: (b, p) features less `origin`, in the working dtype.
        origin: (p,) the point.
        eps: The relative rounding of the features as they came.
        name: What messages call the layer.
    """

    rows: Float[Tensor, "b p"]
    origin: Float[Tensor, " p"]
    eps: float
    name: str


def origin_of(x: Float[Tensor, "b p"], rows: int, dtype: torch.dtype) -> Float[Tensor, " p"]:
    """The mean of a batch's first few rows.

    Its squared distance from the mean of all rows is at most rows / few times the variance, so products of what is
    measured from it keep their digits.

    Args:
        x: The batch's first rows, all of them or some.
        rows: How many the batch has.
        dtype: The working dtype.
    """
    return x[: max(1, rows // SHARE)].to(dtype).mean(0)


def shifted(x: Float[Tensor, "b p"], out: Float[Tensor, "b p"], name: str = "layer") -> ShiftedLayer:
    """One batch's rows of a layer, written to `out` in its dtype."""
    origin = origin_of(x, len(x), out.dtype)
    return ShiftedLayer(torch.sub(x, origin, out=out), origin, torch.finfo(x.dtype).eps, name)


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer whose features are at hand, and what to compute in."""

    x: Float[Tensor, "n p"]
    dtype: torch.dtype


class StreamingMetric(Metric):
    """A measure that needs every sample once and keeps sums only.

    The state is a dictionary of float64 tensors. Streams over different samples can be read by different
    processes and their states added, with `torch.distributed.all_reduce` for one; `finish` then gives what one
    stream over all of them would have given. Stored features go the same way: `pairwise` streams over them.
    """

    @property
    @abstractmethod
    def rows_per_batch(self) -> int:
        """How many samples `update` wants at once."""

    @abstractmethod
    def start(self, rows: int, cols: int) -> Sums:
        """The state before the first batch, for r row layers and c column layers."""

    @abstractmethod
    def update(self, sums: Sums, rows: Iterable[ShiftedLayer], cols: Iterable[ShiftedLayer] | None) -> None:
        """Adds one batch.

        Args:
            sums: The state; changed.
            rows: The batch's features, layer by layer. Each is used up before the next one is asked for, and all
                of them before the first of `cols`, so that both sides can share their memory.
            cols: The same samples on the other side; None where it is the same side.
        """

    @abstractmethod
    def finish(self, sums: Sums) -> PairwiseResult:
        """The value of every pair from the sums. The state is left as it is, and can be updated further."""

    def batches(self, n: int) -> list[tuple[int, int]]:
        """Where batches of n samples start and stop; a last one of too few is merged into the one before."""
        edges = list(range(0, n, self.rows_per_batch))
        if len(edges) > 1 and n - edges[-1] < self.min_samples:
            edges.pop()
        return list(zip(edges, [*edges[1:], n], strict=True))

    def batch_dtype(self, dtypes: Iterable[torch.dtype], n: int) -> torch.dtype:
        """What to compute in: float64 where a layer has it or batches are so small that it costs nothing."""
        if min(n, self.rows_per_batch) < 64:
            return torch.float64
        return working_dtype([torch.empty(0, dtype=dtype) for dtype in dtypes])

    def prepare(
        self, layers: Sequence[Float[Tensor, "n _p"]], labels: Int[Tensor, " n"] | None = None
    ) -> list[StoredLayer]:
        dtype = self.batch_dtype([x.dtype for x in layers], len(layers[0]))
        return [StoredLayer(x, dtype) for x in layers]

    def pairwise(self, rows: Sequence[StoredLayer], cols: Sequence[StoredLayer]) -> PairwiseResult:
        same = len(rows) == len(cols) and all(a is b for a, b in zip(rows, cols, strict=True))
        first, widest = rows[0], max(s.x.shape[1] for s in [*rows, *cols])
        batches = self.batches(len(first.x))
        longest = max(stop - start for start, stop in batches)
        room = torch.empty(longest * widest, dtype=first.dtype, device=first.x.device)

        def part(side: Sequence[StoredLayer], start: int, stop: int) -> Iterator[ShiftedLayer]:
            for state in side:
                width = state.x.shape[1]
                yield shifted(state.x[start:stop], room[: (stop - start) * width].view(stop - start, width))

        sums = self.start(len(rows), len(cols))
        for start, stop in batches:
            self.update(sums, part(rows, start, stop), None if same else part(cols, start, stop))
        return self.finish(sums)
