"""A few passes over a few samples, before the real ones, that find out which axis of every layer's output is what.

Two batch sizes tell the samples: the one axis that grows with the batch. What operations do with axes tells features
and positions (`AxisTrace`), and a second input size, where the network takes one, is held against it: positions may
change with it, features do not. Each call of each layer is decided by itself. What is not clear stays undecided.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from repsim.features.axes.labels import FEATURES, POSITIONS, SAMPLES, UNKNOWN, Axis, Traced, kinds
from repsim.features.axes.trace import AxisTrace
from repsim.features.layout import Layout

#: Rows of the two passes. Both are primes, so that no reshape can cut the samples' axis.
_FEW, _MORE = 2, 3
#: Pictures grow by this many pixels for the second size: what halves five times still divides.
_GROWTH = 32


@dataclass(frozen=True)
class LeftOut:
    """Why a call has no row of features for each sample."""

    why: str


@dataclass(frozen=True)
class Undecided:
    """What was seen of a call whose axes are not clear."""

    seen: str


Finding = Layout | LeftOut | Undecided


@dataclass(frozen=True)
class _Call:
    module: str
    shape: tuple[int, ...]
    traced: Traced | None


@dataclass(frozen=True)
class DryRuns:
    """What a few passes found out.

    Attributes:
        calls: Every call of every tapped layer, in order, with its layout or why it has none.
        answers: What the network answered to two samples and to three, the first two of which are the same.
        random: Whether the network draws random numbers.
    """

    calls: dict[str, Finding]
    answers: tuple[Any, Any]
    random: bool


def dry_runs(
    run: Callable[[Any], Any],
    net: nn.Module,
    tapped: Mapping[str, nn.Module],
    batch: Callable[[int], Any],
    tensor_of: Callable[[Any], Tensor | None],
) -> DryRuns:
    """Finds the layout of every call of some layers.

    Args:
        run: Runs a batch through the network, in eval mode and without gradients.
        net: The network.
        tapped: Layers by name.
        batch: The first samples, as many as asked for; repeated where there are fewer. Tensors or anything that holds
            tensors (dicts, tuples).
        tensor_of: The tensor of a layer's output, where there is one.

    Returns:
        The findings. Hooks and the state of the random numbers are as before.

    Raises:
        Exception: What the network raises on its own inputs.

    Cost:
        Three passes over two or three samples.
    """
    state = torch.get_rng_state()
    with _same_random_numbers(net) as rewind:

        def passed(x: Any, trace: AxisTrace | None = None) -> tuple[dict[str, _Call], Any]:
            rewind()
            with _calls(tapped, tensor_of, trace) as calls:
                answer = run(x)
            return calls, answer

        few, small = passed(batch(_FEW))
        random = not torch.equal(state, torch.get_rng_state())
        trace, more, large = _traced(passed, net, batch(_MORE))
        other = _at_another_size(passed, net, batch(_FEW), trace)
    found: dict[str, Finding] = {}
    for row, call in few.items():
        if row in more:
            found[row] = _decide(call, more[row], other.get(row), tapped[call.module])
        else:
            found[row] = LeftOut("it runs in some batches only")
    return DryRuns(_like_their_surroundings(found, few), (small, large), random)


def _traced(
    passed: Callable[..., tuple[dict[str, _Call], Any]], net: nn.Module, x: Any
) -> tuple[AxisTrace | None, dict[str, _Call], Any]:
    trace = AxisTrace()
    hooks = trace.watch(net)
    try:
        for tensor in _tensors(x):
            trace.begin(tensor, _MORE)
        with trace:
            calls, answer = passed(x, trace)
        trace.settle()
    except Exception:
        # Operators that cannot be watched. Where the fault is the network's own it comes up again.
        return None, *passed(x)
    finally:
        for hook in hooks:
            hook.remove()
    return trace, calls, answer


def _at_another_size(
    passed: Callable[..., tuple[dict[str, _Call], Any]], net: nn.Module, x: Any, trace: AxisTrace | None
) -> dict[str, _Call]:
    """The calls for inputs of another size; none where the network refuses it."""
    larger = _resized(x, trace)
    if larger is None:
        return {}
    with _restored(net):
        try:
            return passed(larger)[0]
        except Exception:
            # By assertion, broadcasting, view or index: a network of one size only.
            return {}


def _resized(x: Any, trace: AxisTrace | None) -> Any:
    """Inputs with more pixels, or fewer tokens; None where they have no positions."""
    leaves, form = tree_flatten(x)
    lengths: dict[int, int] = {}
    for i, tensor in enumerate(_tensors(x)):
        at: Sequence[int] = range(2, 4) if tensor.ndim == 4 else ()
        if trace is not None:
            at = [j for j, axis in enumerate(trace.inputs[i]) if kinds(axis) == {POSITIONS}]
        for axis in at:
            size = tensor.shape[axis]
            lengths[size] = size + _GROWTH if tensor.ndim > 3 else size - max(1, size // 4)
    if not lengths or min(lengths.values()) < 1:
        return None

    def changed(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        for axis in range(2 if tensor.ndim > 3 else 1, tensor.ndim):
            if tensor.shape[axis] in lengths:
                places = torch.arange(lengths[tensor.shape[axis]], device=tensor.device) % tensor.shape[axis]
                tensor = tensor.index_select(axis, places)
        return tensor

    return tree_unflatten([changed(leaf) for leaf in leaves], form)


def _decide(few: _Call, more: _Call, other: _Call | None, module: nn.Module) -> Finding:
    """The layout of one call from its shapes for two and three samples, its trace, and its shape at another size."""
    small, large = few.shape, more.shape
    if len(small) != len(large):
        return LeftOut("its number of axes depends on the batch")
    grows = [i for i, (s, t) in enumerate(zip(small, large, strict=True)) if s * _MORE == t * _FEW and s]
    differs = [i for i, (s, t) in enumerate(zip(small, large, strict=True)) if s != t]
    if not grows or (differs != grows[:1] and not set(differs) <= set(grows)):
        return LeftOut("it has no row for each sample")
    if len(grows) > 1:
        return LeftOut("two of its axes grow with the batch")
    if len(small) == 1:
        return LeftOut("it is one number for each sample")
    if more.traced is not None and more.traced.attention:
        return LeftOut("it is attention weights or scores, which have no features")
    samples = grows[0]
    first = _samples(more, samples)
    if isinstance(first, Undecided):
        return first
    if len(small) == 2 and len(first) == 1:
        rest = [(FEATURES, small[1 - samples])] if small[1 - samples] > 1 else []
        return Layout.of([first, rest] if samples == 0 else [rest, first])
    found = _kinds(more, samples)
    if other is not None and len(other.shape) == len(small):
        found = _at_both_sizes(found, small, other.shape, samples)
    if isinstance(found, Undecided):
        return found
    if more.traced is None:
        found = _declared(found, small, samples, module)
    plain = FEATURES in found
    found = [FEATURES if kind == _MIXED and not plain else kind for kind in found]
    if UNKNOWN in found or _MIXED in found:
        unclear = [i for i, kind in enumerate(found) if kind in (UNKNOWN, _MIXED)]
        return Undecided(
            f"shape {_shape(small)} for {_FEW} samples, where axis {unclear[0]} may be features or positions"
        )
    if FEATURES not in found and all(found):
        return LeftOut("it has positions and no features")
    axes = [[(kind, small[i])] if kind else [] for i, kind in enumerate(found)]
    axes[samples] = first
    return Layout.of(axes)


#: An axis of features and positions together: patches as rows, or features spread over positions.
_MIXED = "m"


def _samples(call: _Call, at: int) -> list[tuple[str, int]] | Undecided:
    """What the axis of samples is made of."""
    traced = call.traced.axes if call.traced is not None else ()
    elsewhere = [i for i, axis in enumerate(traced) if i != at and SAMPLES in kinds(axis)]
    shape = f"shape {_shape(call.shape)} for {_MORE} samples"
    if elsewhere:
        return Undecided(f"{shape}, where axis {at} grows with the batch and axis {elsewhere[0]} holds the samples")
    if call.shape[at] == _MORE:
        return [(SAMPLES, _MORE)]
    unclear = Undecided(f"{shape}, where axis {at} holds samples and something else in an unknown order")
    if not traced:
        return unclear
    factors = [(label.kind, size) for label, size in traced[at]]
    if SAMPLES not in kinds(traced[at]) and factors[0] == (UNKNOWN, _MORE):
        factors[0] = (SAMPLES, _MORE)
    if [kind for kind, _ in factors].count(SAMPLES) != 1 or UNKNOWN in [kind for kind, _ in factors]:
        return unclear
    together: list[tuple[str, int]] = []
    for kind, size in factors:
        if together and together[-1][0] == kind:
            together[-1] = kind, together[-1][1] * size
        else:
            together.append((kind, size))
    return together


def _kinds(call: _Call, samples: int) -> list[str]:
    """What operations say of each axis; nothing of those of length 1 and of the samples."""
    axes: Sequence[Axis] = call.traced.axes if call.traced is not None else ()
    found = []
    for i, size in enumerate(call.shape):
        made = kinds(axes[i]) if axes and i != samples else {UNKNOWN} if size > 1 else set()
        found.append("" if i == samples or size == 1 else made.pop() if len(made) == 1 else _mixed(made))
    found[samples] = SAMPLES
    return found


def _mixed(made: set[str]) -> str:
    return UNKNOWN if UNKNOWN in made else _MIXED


def _at_both_sizes(found: list[str], small: Sequence[int], other: Sequence[int], samples: int) -> list[str] | Undecided:
    """What a second input size adds: what changes are positions, and one axis alone that stays is the features."""
    changes = [i for i, (s, o) in enumerate(zip(small, other, strict=True)) if s != o and i != samples]
    found = list(found)
    for i in changes:
        if found[i] == FEATURES or (found[i] == _MIXED and FEATURES not in found):
            what = f"shape {_shape(small)} for {_FEW} samples, {_shape(other)} for larger ones"
            return Undecided(f"{what}, where axis {i} changes with the size and holds features")
        found[i] = POSITIONS
    stays = [i for i, s in enumerate(small) if i != samples and i not in changes and s > 1]
    if changes and len(stays) == 1 and found[stays[0]] == UNKNOWN:
        found[stays[0]] = FEATURES
    return found


def _declared(found: list[str], shape: Sequence[int], samples: int, module: nn.Module) -> list[str]:
    """Without a trace: a module's declared width, where the axis its class speaks of has that length, and no other."""
    at, width = next(((at, getattr(module, name)) for name, at in _WIDTHS.items() if hasattr(module, name)), (0, None))
    if isinstance(width, Sequence):
        width = width[0] if len(width) == 1 else None
    if width is None or [s for i, s in enumerate(shape) if i != samples].count(width) != 1 or shape[at] != width:
        return found
    return [
        kind if kind != UNKNOWN else FEATURES if i == at % len(shape) else POSITIONS for i, kind in enumerate(found)
    ]


#: Attributes by which modules declare their width, and the axis that has it.
_WIDTHS = {
    "out_channels": 1,
    "num_features": 1,
    "num_channels": 1,
    "out_features": -1,
    "normalized_shape": -1,
    "embedding_dim": -1,
}


def _like_their_surroundings(found: dict[str, Finding], calls: Mapping[str, _Call]) -> dict[str, Finding]:
    """What is undecided takes the layout of the same shape in the smallest module around it, where lengths differ."""
    settled = dict(found)
    for row, finding in found.items():
        shape = calls[row].shape
        if not isinstance(finding, Undecided) or len(set(shape)) < len(shape):
            continue
        around = calls[row].module
        while around:
            around = around.rpartition(".")[0]
            inside = [r for r, c in calls.items() if c.module.startswith(f"{around}." if around else "")]
            layouts = [found[r] for r in inside if calls[r].shape == shape and isinstance(found[r], Layout)]
            if layouts:
                settled[row] = layouts[0] if len(set(layouts)) == 1 else finding
                break
    return settled


@contextlib.contextmanager
def _calls(
    tapped: Mapping[str, nn.Module], tensor_of: Callable[[Any], Tensor | None], trace: AxisTrace | None
) -> Iterator[dict[str, _Call]]:
    """Inside, every call of the tapped layers is noted."""
    calls: dict[str, _Call] = {}
    times: dict[str, int] = {}

    def noted(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            times[layer] = time = times.get(layer, 0) + 1
            x = tensor_of(output)
            if x is not None:
                row = layer if time == 1 else f"{layer}#{time}"
                calls[row] = _Call(layer, tuple(x.shape), None if trace is None else trace.of(x))

        return hook

    handles = []
    try:
        for layer, module in tapped.items():
            handles.append(module.register_forward_hook(noted(layer)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _same_random_numbers(net: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, the function that is given starts random numbers anew; afterwards they go on as if none had been drawn."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        state = torch.get_rng_state()
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def rewind() -> None:
            torch.set_rng_state(state)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, device)

        yield rewind


@contextlib.contextmanager
def _restored(net: nn.Module) -> Iterator[None]:
    """Afterwards every module holds what it held: some keep tables for the size that they saw last."""
    kept = [(m, dict(vars(m)), dict(m._buffers), dict(m._modules)) for m in net.modules()]
    try:
        yield
    finally:
        for module, held, buffers, modules in kept:
            vars(module).clear()
            vars(module).update(held)
            for now, then in ((module._buffers, buffers), (module._modules, modules)):
                if now.keys() != then.keys() or any(now[k] is not then[k] for k in then):
                    now.clear()
                    now.update(then)


def _tensors(x: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
