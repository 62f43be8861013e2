"""Operators that move entries: reshapes, permutations, slices, joins. The labels of axes move with them."""

from typing import Any

import torch
from torch import Tensor

from repsim.features.axes.labels import (
    FEATURES,
    POSITIONS,
    SAMPLES,
    UNKNOWN,
    Axis,
    Label,
    axis_of,
    fresh,
    kinds,
    length,
    merged,
    regrouped,
    resized,
)
from repsim.features.axes.rule import Given, Trace, attention, first, kept, tensors, unknown


def same(trace: Trace, given: Given, out: Any) -> None:
    """Entries of the first argument stay within their axes: copies, slices, splits, or other values only."""
    source = trace.of(first(given))
    for made in tensors([out]):
        axes = [resized(a, s) for a, s in zip(source.axes, made.shape, strict=True)]
        trace.put(made, axes, source, **kept(source))


def view(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(first(given))
    trace.put(out, regrouped(source.axes, out.shape), source, **kept(source))


def as_strided(trace: Trace, given: Given, out: Tensor) -> None:
    """Other strides: known where the shape stays, as where only the order in memory changes."""
    source = trace.of(first(given))
    stays = [length(a) for a in source.axes] == list(out.shape)
    trace.put(out, source.axes if stays else None, source, **kept(source))


def permute(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(first(given))
    trace.put(out, [source.axes[d] for d in given["dims"]], source, **kept(source))


def transpose(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(first(given))
    axes = list(source.axes)
    i, j = (given["dim0"], given["dim1"]) if "dim0" in given else (0, len(axes) - 1)
    axes[i], axes[j] = axes[j], axes[i]
    trace.put(out, axes, source, **kept(source))


def squeeze(trace: Trace, given: Given, out: Tensor) -> None:
    """Axes of length 1 come or go; the others stay in order."""
    source = trace.of(first(given))
    full = iter([a for a in source.axes if a])
    trace.put(out, [() if size == 1 else next(full) for size in out.shape], source, **kept(source))


def expand(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(first(given))
    axes = fresh(out.shape)
    for at in range(-len(source.axes), 0):
        axes[at] = source.axes[at] or axes[at]
    trace.put(out, axes, source, **kept(source))


def repeat(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(first(given))
    old: list[Axis] = [()] * (out.ndim - len(source.axes)) + list(source.axes)
    times = [s // length(a) for s, a in zip(out.shape, old, strict=True)]
    trace.put(out, [axis_of(Label(), t) + a for t, a in zip(times, old, strict=True)], source, computed=source.computed)


def select(trace: Trace, given: Given, out: Any) -> None:
    """One index, or every index by itself."""
    source, dim = trace.of(first(given)), given.get("dim", 0)
    axes = list(source.axes)
    del axes[dim]
    for made in tensors([out]):
        trace.put(made, axes, source, computed=source.computed)


def cat(trace: Trace, given: Given, out: Tensor) -> None:
    sources = [trace.of(x) for x in given["tensors"] if x.ndim == out.ndim]
    dim = given.get("dim", 0) % out.ndim
    axes = [merged([s.axes[at] for s in sources if s.axes[at]]) for at in range(out.ndim)]
    parts = [s.axes[dim] for s in sources]
    if len(parts) > 1 and any(SAMPLES in kinds(p) for p in parts):
        # Copies of a batch one after the other: the samples are the inner part of the axis.
        whole = all([size for _, size in p] == [size for _, size in parts[0]] for p in parts)
        axes[dim] = axis_of(Label(), len(parts)) + merged(parts) if whole else axis_of(Label(), out.shape[dim])
    elif len(parts) > 1:
        known = {kind for p in parts for kind in kinds(p)} - {UNKNOWN}
        label = Label(known.pop() if len(known) == 1 else UNKNOWN, sure=len(known) == 1)
        single = [p[0][0] for p in parts if len(p) == 1 and p[0][0].kind == UNKNOWN]
        for other in single:
            other.join(label)
        axes[dim] = axis_of(label, out.shape[dim])
    trace.put(out, axes, *sources, **attention([s for s in sources if s.data]))


def stack(trace: Trace, given: Given, out: Tensor) -> None:
    sources = [trace.of(x) for x in given["tensors"]]
    axes = [merged([a for a in aligned if a]) for aligned in zip(*(s.axes for s in sources), strict=True)]
    axes.insert(given.get("dim", 0) % out.ndim, axis_of(Label(), len(sources)))
    trace.put(out, axes, *sources)


def windows(trace: Trace, given: Given, out: Tensor) -> None:
    """Windows along an axis: the places within them become the last axis."""
    source, dim = trace.of(given["self"]), given["dimension"]
    axes = [resized(a, s) for a, s in zip(source.axes, out.shape, strict=False)]
    inside = [axis_of(label.part(), out.shape[-1]) for label, _ in source.axes[dim][:1]] or fresh(out.shape[-1:])
    trace.put(out, [*axes, *inside], source)


def index(trace: Trace, given: Given, out: Tensor) -> None:
    """Advanced indexing with one index; with several nothing is known."""
    source, indices = trace.of(given["self"]), given["indices"]
    places = [at for at, index in enumerate(indices) if index is not None]
    index = indices[places[0]]
    if len(places) > 1 or index.dtype == torch.bool:
        return unknown(trace, given, out)
    at, axes = places[0], list(source.axes)
    shape = out.shape[at : at + index.ndim]
    axes[at : at + 1] = [resized(axes[at], shape[0])] if index.ndim == 1 else fresh(shape)
    return trace.put(out, axes, source)


def shuffle(trace: Trace, given: Given, out: Tensor) -> None:
    """Channels become positions, or positions channels."""
    source = trace.of(given["self"])
    made = [axis_of(Label(kind, sure=True), s) for kind, s in zip("cpp", out.shape[-3:], strict=True)]
    trace.put(out, [*source.axes[:-3], *made], source)


def complex(trace: Trace, given: Given, out: Tensor) -> None:
    """Pairs of features as complex numbers, and back."""
    source = trace.of(given["self"])
    more = [axis_of(Label(FEATURES), 2)] if out.ndim > len(source.axes) else []
    trace.put(out, [*source.axes[: out.ndim], *more], source)


def grid(trace: Trace, given: Given, out: Tensor) -> None:
    source, grid = trace.of(given["input"]), trace.of(given["grid"])
    trace.put(out, [*source.axes[:2], *grid.axes[1:-1]], source, grid)


def im2col(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["self"])
    channels = source.axes[1]
    kernel = axis_of(Label(POSITIONS), out.shape[1] // length(channels))
    trace.put(out, [source.axes[0], channels + kernel, axis_of(Label(POSITIONS, sure=True), out.shape[2])], source)


def col2im(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["self"])
    made = [axis_of(Label(kind, sure=True), s) for kind, s in zip("cpp", out.shape[1:], strict=True)]
    trace.put(out, [source.axes[0], *made], source)
