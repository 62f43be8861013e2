"""Comparisons in which a network is run live: features come batch by batch, and are never kept."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.features.activations import Side
from repsim.metrics import Metric, PairwiseResult, metric_name
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.alignment.streaming import SHARE, ShiftedLayer, StreamingMetric, origin_of
from repsim.numerics.memory import Pool
from repsim.similarity.exact_cka import exact_cka


def streamed(a: Side, b: Side, metric: Metric) -> PairwiseResult:
    """Compares two sides, at least one of which is live, without keeping features.

    Args:
        a: First side, the rows.
        b: Second side, the columns; the same samples in the same order. The same object is run once.
        metric: A `StreamingMetric`, which needs one pass over the samples; or CKA, debiased or biased, which is
            computed exactly from all pairs of samples, running the networks again for every block of samples.

    Returns:
        All pairs of layers.

    Raises:
        ValueError: A metric that needs all features at once, or features that are not finite.
        MemoryError: Layers so wide that one batch of them does not fit.

    Cost:
        One pass: n forward passes of each network and the metric's own arithmetic; memory: one batch of the wider
        network. Exact CKA: see `exact_cka`.
    """
    sides = [a] if a is b else [a, b]
    show = any(side.progress for side in sides)
    if isinstance(metric, StreamingMetric):
        return _in_batches(sides, metric, show)
    if isinstance(metric, CKA) and metric == CKA(debiased=metric.debiased):
        return exact_cka(sides, metric.debiased, show)
    must = "live features take measures that need no more than a batch at a time"
    advice = 'Use "cka_minibatch", "cka" or "cka_biased", or keep smaller features: extract(..., reduction="mean")'
    raise ValueError(message("compare", must, metric_name(metric), advice))


def _in_batches(sides: Sequence[Side], metric: StreamingMetric, show: bool) -> PairwiseResult:
    """One pass over the samples; both networks fill the same memory in turn."""
    n, batches = sides[0].n, metric.batches(sides[0].n)
    longest = max(stop - start for start, stop in batches)
    dtype = metric.batch_dtype([dtype for side in sides for dtype in side.dtypes], n)
    room = {side.device: max(sum(s.widths) for s in sides if s.device == side.device) for side in sides}
    advice = "Lower batch_size, or choose fewer layers"
    pools = {where: Pool(longest * wide, dtype, where, advice) for where, wide in room.items()}
    sums = metric.start(len(sides[0]), len(sides[-1]))
    with progress_bar(n * len(sides), f"compare {sides[0].name} × {sides[-1].name}", "sample", show=show) as bar:

        def part(side: Side, start: int, stop: int) -> Iterator[ShiftedLayer]:
            held = pools[side.device].views(side.widths, stop - start)
            yield from _batch(side, start, stop, held)
            bar.update(stop - start)

        for start, stop in batches:
            metric.update(sums, part(sides[0], start, stop), part(sides[1], start, stop) if sides[1:] else None)
    return metric.finish(sums)


def _batch(side: Side, start: int, stop: int, held: Sequence[Tensor]) -> Iterator[ShiftedLayer]:
    """One batch of all layers, shifted while it is copied."""
    origins: list[Tensor] = [torch.empty(0)] * len(held)
    few = 0

    def write(layer: int, at: int, x: Tensor) -> None:
        nonlocal few
        out = held[layer][at : at + len(x)]
        if at == 0:
            origins[layer], few = origin_of(x, stop - start, out.dtype), len(x)
        torch.sub(x, origins[layer], out=out)

    side.read(slice(start, stop), write)
    for layer, rows, origin, dtype in zip(side.layers, held, origins, side.dtypes, strict=True):
        if few < (stop - start) // SHARE:  # a network that takes very few rows at once
            rest = (rows.new_ones(1, len(rows)) @ rows)[0] / len(rows)
            rows -= rest
            origin += rest
        name = f"layer {layer!r} of {side.name}, samples {start} to {stop - 1},"
        yield ShiftedLayer(rows, origin, torch.finfo(dtype).eps, name)
