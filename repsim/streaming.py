"""Comparisons in which a network is run live: features come batch by batch, and are never kept."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from repsim._checks import message
from repsim._exact import exact_cka
from repsim._pool import Pool, Side, device, dtypes, read, widths
from repsim._progress import progress_bar
from repsim.live import LiveActivations
from repsim.metrics import Cross, Metric, metric_name
from repsim.metrics._streaming import SHARE, Shifted, StreamingMetric, origin_of
from repsim.metrics.cka import CKA


def streamed(a: Side, b: Side, metric: Metric) -> Cross:
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
        network. Exact CKA: see `repsim._exact`.
    """
    sides = [a] if a is b else [a, b]
    show = any(side.progress for side in sides if isinstance(side, LiveActivations))
    if isinstance(metric, StreamingMetric):
        return _in_batches(sides, metric, show)
    if isinstance(metric, CKA) and metric == CKA(debiased=metric.debiased):
        return exact_cka(sides, metric.debiased, show)
    must = "live features take measures that need no more than a batch at a time"
    advice = 'Use "cka_minibatch", "cka" or "cka_biased", or keep smaller features: extract(..., reduction="mean")'
    raise ValueError(message("compare", must, metric_name(metric), advice))


def _in_batches(sides: Sequence[Side], metric: StreamingMetric, show: bool) -> Cross:
    """One pass over the samples; both networks fill the same memory in turn."""
    n, batches = sides[0].n, metric.batches(sides[0].n)
    longest = max(stop - start for start, stop in batches)
    dtype = metric.batch_dtype([dtype for side in sides for dtype in dtypes(side)], n)
    room = {device(side): max(sum(widths(s)) for s in sides if device(s) == device(side)) for side in sides}
    advice = "Lower batch_size, or choose fewer layers"
    pools = {where: Pool(longest * wide, dtype, where, advice) for where, wide in room.items()}
    sums = metric.start(len(sides[0]), len(sides[-1]))
    with progress_bar(n * len(sides), f"compare {sides[0].name} × {sides[-1].name}", "sample", show=show) as bar:

        def part(side: Side, start: int, stop: int) -> Iterator[Shifted]:
            held = pools[device(side)].views(widths(side), stop - start)
            yield from _batch(side, start, stop, held)
            bar.update(stop - start)

        for start, stop in batches:
            metric.update(sums, part(sides[0], start, stop), part(sides[1], start, stop) if sides[1:] else None)
    return metric.finish(sums)


def _batch(side: Side, start: int, stop: int, held: Sequence[Tensor]) -> Iterator[Shifted]:
    """One batch of all layers, shifted while it is copied."""
    origins: list[Tensor] = [torch.empty(0)] * len(held)
    few = 0

    def write(layer: int, at: int, x: Tensor) -> None:
        nonlocal few
        out = held[layer][at : at + len(x)]
        if at == 0:
            origins[layer], few = origin_of(x, stop - start, out.dtype), len(x)
        torch.sub(x, origins[layer], out=out)

    read(side, slice(start, stop), write)
    for layer, rows, origin, dtype in zip(side.layers, held, origins, dtypes(side), strict=True):
        if few < (stop - start) // SHARE:  # a network that takes very few rows at once
            rest = (rows.new_ones(1, len(rows)) @ rows)[0] / len(rows)
            rows -= rest
            origin += rest
        name = f"layer {layer!r} of {side.name}, samples {start} to {stop - 1},"
        yield Shifted(rows, origin, torch.finfo(dtype).eps, name)
