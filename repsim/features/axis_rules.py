"""What each operator of PyTorch does with the axes of its arguments: one rule per family of operators.

A rule takes the trace, the operator's arguments by name, and what it answered, and notes the axes of that answer.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from repsim.features.axis_labels import (
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
    fresh,
    kinds,
    length,
    merged,
    regrouped,
    resized,
)


class Trace(Protocol):
    """What rules ask of a trace."""

    def of(self, x: Tensor) -> Traced:
        """What is known of a tensor."""
        ...

    def put(self, x: Any, axes: Iterable[Axis] | None, *sources: Traced, **flags: Any) -> None:
        """Notes what an operation made."""
        ...

    def last_raw(self, axis: Axis) -> bool:
        """Whether an axis of an input that weights sum over is its last one."""
        ...


Given = dict[str, Any]
Rule = Callable[[Trace, Given, Any], None]


def unknown(trace: Trace, given: Given, out: Any) -> None:
    """An operator without a rule."""
    sources = [trace.of(x) for x in _tensors(given.values())]
    for made in _tensors([out]):
        trace.put(made, None, *sources)


def pointwise(trace: Trace, given: Given, out: Any) -> None:
    """Entries with entries, shapes aligned from the right."""
    sources = [trace.of(x) for x in _tensors(given.values())]
    for made in _tensors([out]):
        axes = []
        for at in range(-made.ndim, 0):
            aligned = [s.axes[at] for s in sources if len(s.axes) >= -at]
            axes.append(merged([a for a in aligned if a]))
        trace.put(made, axes, *sources, **_attention([s for s in sources if s.data]))


def same(trace: Trace, given: Given, out: Any) -> None:
    """Entries of the first argument move within their axes, or change in value only."""
    source = trace.of(_first(given))
    for made in _tensors([out])[:1]:
        trace.put(
            made, [resized(a, s) for a, s in zip(source.axes, made.shape, strict=True)], source, **_attention([source])
        )


def _view(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(_first(given))
    trace.put(out, regrouped(source.axes, out.shape), source, **_attention([source]))


def _permute(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(_first(given))
    trace.put(out, [source.axes[d] for d in given["dims"]], source, **_attention([source]))


def _transpose(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(_first(given))
    axes = list(source.axes)
    i, j = (given["dim0"], given["dim1"]) if "dim0" in given else (0, len(axes) - 1)
    axes[i], axes[j] = axes[j], axes[i]
    trace.put(out, axes, source, **_attention([source]))


def _squeeze(trace: Trace, given: Given, out: Tensor) -> None:
    """Axes of length 1 come or go; the others stay in order."""
    source = trace.of(_first(given))
    full = iter([a for a in source.axes if a])
    trace.put(out, [() if size == 1 else next(full) for size in out.shape], source, **_attention([source]))


def _expand(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(_first(given))
    axes = fresh(out.shape)
    for at in range(-len(source.axes), 0):
        axes[at] = source.axes[at] or axes[at]
    trace.put(out, axes, source, **_attention([source]))


def _repeat(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(_first(given))
    old: list[Axis] = [()] * (out.ndim - len(source.axes)) + list(source.axes)
    times = [s // length(a) for s, a in zip(out.shape, old, strict=True)]
    trace.put(out, [axis_of(Label(), t) + a for t, a in zip(times, old, strict=True)], source)


def _select(trace: Trace, given: Given, out: Any) -> None:
    """One index, or every index by itself."""
    source, dim = trace.of(_first(given)), given.get("dim", 0)
    axes = list(source.axes)
    del axes[dim]
    for made in _tensors([out]):
        trace.put(made, axes, source)


def _pieces(trace: Trace, given: Given, out: Any) -> None:
    """Pieces of the first argument along one axis."""
    source = trace.of(_first(given))
    for made in _tensors([out]):
        axes = [resized(a, s) for a, s in zip(source.axes, made.shape, strict=True)]
        trace.put(made, axes, source, **_attention([source]))


def _cat(trace: Trace, given: Given, out: Tensor) -> None:
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
    trace.put(out, axes, *sources, **_attention([s for s in sources if s.data]))


def _stack(trace: Trace, given: Given, out: Tensor) -> None:
    sources = [trace.of(x) for x in given["tensors"]]
    axes = [merged([a for a in aligned if a]) for aligned in zip(*(s.axes for s in sources), strict=True)]
    axes.insert(given.get("dim", 0) % out.ndim, axis_of(Label(), len(sources)))
    trace.put(out, axes, *sources)


def _windows(trace: Trace, given: Given, out: Tensor) -> None:
    """Windows along an axis: the places within them become the last axis."""
    source, dim = trace.of(given["self"]), given["dimension"]
    axes = [resized(a, s) for a, s in zip(source.axes, out.shape, strict=False)]
    inside = [axis_of(label.part(), out.shape[-1]) for label, _ in source.axes[dim][:1]] or fresh(out.shape[-1:])
    trace.put(out, [*axes, *inside], source)


def _index(trace: Trace, given: Given, out: Tensor) -> None:
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


def _reduce(trace: Trace, given: Given, out: Any) -> None:
    """Sums, means and the like over some axes."""
    source, dims = trace.of(_first(given)), given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    for made in _tensors([out]):
        gone = {d % len(source.axes) for d in (dims or range(len(source.axes)))}
        kept = made.ndim == len(source.axes)
        axes = [() if i in gone else a for i, a in enumerate(source.axes) if kept or i not in gone]
        trace.put(made, axes, source)


def _softmax(trace: Trace, given: Given, out: Tensor) -> None:
    """Weights that sum to one over positions average to a constant: that is attention, whoever uses it."""
    source = trace.of(given["self"])
    softmax = Softmax()
    softmax.attends = kinds(source.axes[given["dim"]]) == {POSITIONS}
    trace.put(out, source.axes, source, scores=source.scores, softmax=softmax)


def _mm(trace: Trace, given: Given, out: Tensor) -> None:
    """Products of two matrices, or of two batches of matrices: with weights, or of data with data."""
    left, right = (given[k] for k in (("mat1", "mat2") if "mat1" in given else _PRODUCTS[len(out.shape)]))
    _product(trace, trace.of(left), trace.of(right), out)


def _baddbmm(trace: Trace, given: Given, out: Tensor) -> None:
    _product(trace, trace.of(given["batch1"]), trace.of(given["batch2"]), out)


def _linear(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["input"])
    trace.put(out, [*source.axes[:-1], axis_of(_weighed(trace, source.axes, -1), out.shape[-1])], source)


def _product(trace: Trace, a: Traced, b: Traced, out: Tensor) -> None:
    batch = [merged([x for x in pair if x]) for pair in zip(a.axes[:-2], b.axes[:-2], strict=True)]
    rows, columns = a.axes[-2], b.axes[-1]
    if not b.data or not a.data:
        # Weights make new features or positions, whichever of the two sides they stand on.
        left = a.data or not b.data
        label = _weighed(trace, a.axes, -1) if left else _weighed(trace, b.axes, -2)
        made = axis_of(label, out.shape[-1 if left else -2])
        sides = (rows, made) if left else (made, columns)
        return trace.put(out, [*batch, *sides], a, b, **_attention([a if left else b]))
    inner = merged([x for x in (a.axes[-1], b.axes[-2]) if x])
    for side in (a, b):
        if side.softmax is not None:
            side.softmax.attends = True
    meets = kinds(columns) <= {POSITIONS, UNKNOWN} and kinds(rows) <= {POSITIONS, UNKNOWN}
    scores = kinds(inner) == {FEATURES} and meets and POSITIONS in kinds(rows) | kinds(columns)
    return trace.put(out, [*batch, rows, columns], a, b, scores=scores)


def _weighed(trace: Trace, axes: Sequence[Axis], at: int) -> Label:
    """The label of what weights make of an axis."""
    axis = axes[at]
    if kinds(axis) == {UNKNOWN}:
        if not trace.last_raw(axis):
            return Label()
        expect(axis, FEATURES)
    others = [a for i, a in enumerate(axes) if i != at % len(axes)]
    return contracted(axis, others)


def _convolution(trace: Trace, given: Given, out: Tensor) -> None:
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
    trace.put(out, axes, source, **_attention([source]))


def _spatial(trace: Trace, given: Given, out: Any) -> None:
    """Pooling, padding and interpolation: channels stay, the positions after them change their number."""
    source = trace.of(_first(given))
    for made in _tensors([out]):
        known = [a for a, s in zip(source.axes, made.shape, strict=True) if length(a) != s]
        for axis in known:
            expect(axis, POSITIONS)
        axes = [a if length(a) == s else _moved(a, s) for a, s in zip(source.axes, made.shape, strict=True)]
        trace.put(made, axes, source)


def _moved(axis: Axis, size: int) -> Axis:
    """A position axis of another length; one of length 1 gets a label again."""
    return resized(axis, size) if axis else axis_of(Label(POSITIONS), size)


def _norm_channels(trace: Trace, given: Given, out: Any) -> None:
    """Batch and group normalisation take the second axis for channels."""
    source = trace.of(given["input"])
    expect(source.axes[1], FEATURES)
    trace.put(_tensors([out])[0], source.axes, source, **_attention([source]))


def _norm_last(trace: Trace, given: Given, out: Any) -> None:
    """Layer normalisation over one axis takes it for features."""
    source = trace.of(given["input"])
    if len(given["normalized_shape"]) == 1 and kinds(source.axes[-1]) == {UNKNOWN}:
        expect(source.axes[-1], FEATURES)
    trace.put(_tensors([out])[0], source.axes, source, **_attention([source]))


def _embedding(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["indices"])
    trace.put(out, [*source.axes, axis_of(Label(FEATURES, sure=True), out.shape[-1])], source)


def _attend(trace: Trace, given: Given, out: Any) -> None:
    """Fused attention: the queries' axes with the values' features."""
    query, value = trace.of(given["query"]), trace.of(given["value"])
    trace.put(_tensors([out])[0], [*query.axes[:-1], value.axes[-1]], query, value)


def _im2col(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["self"])
    channels = source.axes[1]
    kernel = axis_of(Label(POSITIONS), out.shape[1] // length(channels))
    trace.put(out, [source.axes[0], channels + kernel, axis_of(Label(POSITIONS, sure=True), out.shape[2])], source)


def _col2im(trace: Trace, given: Given, out: Tensor) -> None:
    source = trace.of(given["self"])
    made = [axis_of(Label(kind, sure=True), s) for kind, s in zip("cpp", out.shape[1:], strict=True)]
    trace.put(out, [source.axes[0], *made], source)


def _shuffle(trace: Trace, given: Given, out: Tensor) -> None:
    """Channels become positions, or positions channels."""
    source = trace.of(given["self"])
    made = [axis_of(Label(kind, sure=True), s) for kind, s in zip("cpp", out.shape[-3:], strict=True)]
    trace.put(out, [*source.axes[:-3], *made], source)


def _complex(trace: Trace, given: Given, out: Tensor) -> None:
    """Pairs of features as complex numbers, and back."""
    source = trace.of(given["self"])
    more = [axis_of(Label(FEATURES), 2)] if out.ndim > len(source.axes) else []
    trace.put(out, [*source.axes[: out.ndim], *more], source)


def _grid(trace: Trace, given: Given, out: Tensor) -> None:
    source, grid = trace.of(given["input"]), trace.of(given["grid"])
    trace.put(out, [*source.axes[:2], *grid.axes[1:-1]], source, grid)


def _attention(sources: Sequence[Traced]) -> dict[str, Any]:
    """The marks of attention that what is made of these keeps; a product of weights with other data loses them."""
    if len(sources) == 0 or not all(s.scores or s.softmax for s in sources):
        return {}
    return {"scores": any(s.scores for s in sources), "softmax": next((s.softmax for s in sources if s.softmax), None)}


def _first(given: Given) -> Tensor:
    return next(v for v in given.values() if isinstance(v, Tensor))


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    flat = [x for v in values for x in (v if isinstance(v, list | tuple) else [v])]
    return [x for x in flat if isinstance(x, Tensor)]


#: The arguments that are multiplied, by the number of axes of the product.
_PRODUCTS = {2: ("self", "mat2"), 3: ("self", "mat2")}

_SAME = """clone contiguous _to_copy detach alias lift_fresh to cumsum cumprod logcumsumexp cummax cummin flip roll sort
    dropout native_dropout bernoulli tril triu fill zero index_put _index_put_impl index_add index_copy
    index_fill scatter scatter_add scatter_reduce masked_scatter slice_scatter select_scatter renorm _log_softmax
    _fft_c2c _fft_r2c _fft_c2r _prelu_kernel _transformer_encoder_layer_fwd _native_multi_head_attention channel_shuffle
    native_channel_shuffle quantize_per_tensor dequantize _fused_rms_norm fake_quantize_per_tensor_affine_cachemask
    fake_quantize_per_channel_affine_cachemask _safe_softmax_backward rrelu_with_noise""".split()

#: Entries with entries, where the operator does not say so of itself.
_POINTWISE = """copy hardswish prelu log_sigmoid_forward rsub floor_divide special_ndtr conj real imag polar masked_fill
    smooth_l1_loss""".split()

BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(_SAME, same),
    **dict.fromkeys(_POINTWISE, pointwise),
    "unfold": _windows,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten"), _view),
    "permute": _permute,
    **dict.fromkeys(("transpose", "t"), _transpose),
    **dict.fromkeys(("squeeze", "unsqueeze"), _squeeze),
    "expand": _expand,
    "repeat": _repeat,
    **dict.fromkeys(("select", "unbind"), _select),
    **dict.fromkeys(
        "constant_pad_nd slice split unsafe_split split_with_sizes unsafe_chunk narrow index_select gather topk glu".split(), _pieces
    ),
    "cat": _cat,
    "stack": _stack,
    "index": _index,
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("mm", "addmm", "bmm", "_addmm_activation"), _mm),
    "baddbmm": _baddbmm,
    "linear": _linear,
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    **dict.fromkeys(("native_group_norm",), _norm_channels),
    "native_layer_norm": _norm_last,
    "embedding": _embedding,
    "im2col": _im2col,
    "col2im": _col2im,
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffle),
    **dict.fromkeys(("view_as_complex", "view_as_real"), _complex),
}

BY_PATTERN: dict[str, Rule] = {
    r".*(max|avg)_pool[123]d.*": _spatial,
    r"_?(upsample|reflection_pad|replication_pad).*": _spatial,
    r".*batch_norm.*": _norm_channels,
    r"(mean|sum|nansum|prod|amax|amin|max|min|argmax|argmin|var|std|var_mean|std_mean|norm|linalg_vector_norm"
    r"|logsumexp|any|all|median|mode)": _reduce,
    r"_scaled_dot_product.*": _attend,
    r"grid_sampler.*": _grid,
}
