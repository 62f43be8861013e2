"""Operators that calculate along axes: products, convolutions, pooling, normalisation, attention."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from repsim.features.axes.labels import (
    FEATURES,
    POSITIONS,
    SAMPLES,
    UNKNOWN,
    Axis,
    Label,
    Softmax,
    Traced,
    axis_of,
    contracted,
    expect,
    kinds,
    length,
    merged,
    resized,
)
from repsim.features.axes.rule import Given, Trace, attention, first, tensors


def reduce(trace: Trace, given: Given, out: Any) -> None:
    """Sums, means and the like over some axes."""
    source, dims = trace.of(first(given)), given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    for made in tensors([out]):
        gone = {d % len(source.axes) for d in (dims or range(len(source.axes)))}
        kept = made.ndim == len(source.axes)
        axes = [() if i in gone else a for i, a in enumerate(source.axes) if kept or i not in gone]
        trace.put(made, axes, source)


def softmax(trace: Trace, given: Given, out: Tensor) -> None:
    """Weights that sum to one, over features or over positions."""
    source = trace.of(given["self"])
    made = Softmax(source.axes[given["dim"]])
    trace.put(out, source.axes, source, scores=source.scores, softmax=made)


def mm(trace: Trace, given: Given, out: Tensor) -> None:
    """Products of two matrices, or of two batches of matrices: with weights, or of data with data."""
    pairs = ("batch1", "batch2"), ("mat1", "mat2"), ("self", "mat2")
    left, right = next((given[i], given[j]) for i, j in pairs if i in given and j in given)
    _product(trace, trace.of(left), trace.of(right), out)


def linear(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["input"])
    trace.put(out, [*source.axes[:-1], axis_of(_weighed(trace, source.axes, -1), out.shape[-1])], source)


def _product(trace: Trace, a: Traced, b: Traced, out: Tensor) -> None:
    batch = [merged([x for x in pair if x]) for pair in zip(a.axes[:-2], b.axes[:-2], strict=True)]
    rows, columns = a.axes[-2], b.axes[-1]
    if _weights(a) or _weights(b):
        # Weights make new features or positions, whichever of the two sides they stand on.
        left = _weights(b)
        label = _weighed(trace, a.axes, -1) if left else _weighed(trace, b.axes, -2)
        made = axis_of(label, out.shape[-1 if left else -2])
        sides = (rows, made) if left else (made, columns)
        return trace.put(out, [*batch, *sides], a, b, **attention([a if left else b]))
    inner = merged([x for x in (a.axes[-1], b.axes[-2]) if x])
    for side in (a, b):
        if side.softmax is not None:
            side.softmax.summed = True
    scores = kinds(inner) == {FEATURES} and (kinds(rows) | kinds(columns)) <= {POSITIONS, UNKNOWN}
    for axis in (rows, columns) if scores else (rows,) if a.softmax is not None else ():
        if kinds(axis) == {UNKNOWN}:
            expect(axis, POSITIONS)  # learned queries, or an input's axis of which nothing was known yet
    return trace.put(out, [*batch, rows, columns], a, b, scores=scores)


def _weights(x: Traced) -> bool:
    """Whether a factor of a product is weights: a parameter, or a single matrix that no input went into."""
    return not x.data and (len(x.axes) == 2 or not x.computed)


def _weighed(trace: Trace, axes: Sequence[Axis], at: int) -> Label:
    """The label of what weights make of an axis."""
    axis, others = axes[at], [a for i, a in enumerate(axes) if i != at % len(axes)]
    if kinds(axis) == {UNKNOWN}:
        clear = [label for label, _ in axis if not trace.is_open(label)]
        if not clear and not any(FEATURES in kinds(other) for other in others):
            return trace.opened()
        for label, _ in axis:
            if not clear or label in clear:
                label.expect(FEATURES if clear else POSITIONS)
    return contracted(axis, others)


def convolution(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["input"])
    samples, channels, *space = source.axes
    rows = length(channels) and kinds(channels)
    if SAMPLES in (rows or set()):
        # Kernels of each sample's own: samples stand in the channels, one group each.
        first, *_ = channels
        made: Axis = (first, *axis_of(Label(FEATURES, sure=True), out.shape[1] // first[1]))
    else:
        if kinds(channels) == {UNKNOWN} or not all(label.sure for label, _ in channels):
            expect(channels, FEATURES)
        for axis in space:
            expect(axis, POSITIONS)
        made = axis_of(contracted(channels, space), out.shape[1])
    axes = [samples, made, *(_moved(a, s) for a, s in zip(space, out.shape[2:], strict=True))]
    trace.put(out, axes, source, **attention([source]))


def spatial(trace: Trace, given: Given, out: Any) -> None:
    """Pooling, padding and interpolation: channels stay, the positions after them change their number."""
    source = trace.of(first(given))
    for made in tensors([out]):
        known = [a for a, s in zip(source.axes, made.shape, strict=True) if length(a) != s]
        for axis in known:
            expect(axis, POSITIONS)
        axes = [a if length(a) == s else _moved(a, s) for a, s in zip(source.axes, made.shape, strict=True)]
        trace.put(made, axes, source)


def _moved(axis: Axis, size: int) -> Axis:
    """A position axis of another length; one of length 1 gets a label again."""
    return resized(axis, size) if axis else axis_of(Label(POSITIONS), size)


def norm_channels(trace: Trace, given: Given, out: Any) -> None:
    """Batch and group normalisation take the second axis for channels."""
    source = trace.of(given["input"])
    expect(source.axes[1], FEATURES)
    trace.put(tensors([out])[0], source.axes, source, **attention([source]))


def norm_last(trace: Trace, given: Given, out: Any) -> None:
    """Layer normalisation over one axis takes it for features."""
    source = trace.of(given["input"])
    if len(given["normalized_shape"]) == 1 and kinds(source.axes[-1]) == {UNKNOWN}:
        expect(source.axes[-1], FEATURES)
    trace.put(tensors([out])[0], source.axes, source, **attention([source]))


def fused_layer(trace: Trace, given: Given, out: Any) -> None:
    """Layers of PyTorch as one operator, with the features last and the tokens before them."""
    source = trace.of(first(given))
    for at, kind in ((-1, FEATURES), (-2, POSITIONS)):
        if kinds(source.axes[at]) == {UNKNOWN}:
            expect(source.axes[at], kind)
    trace.put(tensors([out])[0], source.axes, source)


def embedding(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["indices"])
    trace.put(out, [*source.axes, axis_of(Label(FEATURES, sure=True), out.shape[-1])], source)


def attend(trace: Trace, given: Given, out: Any) -> None:
    """Fused attention: the queries' axes with the values' features."""
    query, value = trace.of(given["query"]), trace.of(given["value"])
    if kinds(query.axes[-2]) == {UNKNOWN}:
        expect(query.axes[-2], POSITIONS)
    trace.put(tensors([out])[0], [*query.axes[:-1], value.axes[-1]], query, value)
