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
from torch.utils._pytree import tree_map

from repsim.features.axes.labels import POSITIONS, kinds
from repsim.features.axes.trace import AxisTrace
from repsim.features.evidence import FEW, MORE, Call, Finding, LeftOut, decide, like_their_surroundings
from repsim.features.running import first_tensor, tensors_in

#: Pictures grow by this many pixels for the second size: what halves five times still divides.
_GROWTH = 32


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
) -> DryRuns:
    """Finds the layout of every call of some layers.

    Args:
        run: Runs a batch through the network, in eval mode and without gradients.
        net: The network.
        tapped: Layers by name.
        batch: The first samples, as many as asked for; repeated where there are fewer. Tensors or anything that holds
            tensors (dicts, tuples).

    Returns:
        The findings. Hooks and the state of the random numbers are as before.

    Raises:
        Exception: What the network raises on its own inputs.

    Cost:
        Three passes over two or three samples.
    """
    state = torch.get_rng_state()
    with _same_random_numbers(net) as rewind:

        def passed(x: Any, trace: AxisTrace | None = None) -> tuple[dict[str, Call], Any]:
            rewind()
            with _calls(tapped, trace) as calls:
                answer = run(x)
            return calls, answer

        few, small = passed(batch(FEW))
        random = not torch.equal(state, torch.get_rng_state())
        trace, more, large = _traced(passed, net, batch(MORE))
        other = _at_another_size(passed, net, batch(FEW), trace)
    found: dict[str, Finding] = {}
    for row, call in few.items():
        if row in more:
            found[row] = decide(call, more[row], other.get(row), tapped[call.module])
        else:
            found[row] = LeftOut("an answer in some batches only")
    return DryRuns(like_their_surroundings(found, few), (small, large), random)


def _traced(
    passed: Callable[..., tuple[dict[str, Call], Any]], net: nn.Module, x: Any
) -> tuple[AxisTrace | None, dict[str, Call], Any]:
    trace = AxisTrace()
    hooks = trace.watch(net)
    try:
        for tensor in tensors_in(x):
            trace.begin(tensor, MORE)
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
    passed: Callable[..., tuple[dict[str, Call], Any]], net: nn.Module, x: Any, trace: AxisTrace | None
) -> dict[str, Call]:
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
    lengths: dict[int, int] = {}
    for i, tensor in enumerate(tensors_in(x)):
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

    return tree_map(changed, x)


@contextlib.contextmanager
def _calls(tapped: Mapping[str, nn.Module], trace: AxisTrace | None) -> Iterator[dict[str, Call]]:
    """Inside, every call of the tapped layers is noted."""
    calls: dict[str, Call] = {}
    times: dict[str, int] = {}

    def noted(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            times[layer] = time = times.get(layer, 0) + 1
            row, x = layer if time == 1 else f"{layer}#{time}", first_tensor(output)
            if x is None or not x.is_floating_point():
                calls[row] = Call(layer, type(output).__name__ if x is None else str(x.dtype), None)
            else:
                calls[row] = Call(layer, tuple(x.shape), None if trace is None else trace.of(x))

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
    """Inside, the function that is given starts random numbers anew; afterwards they go on as if none were drawn."""
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
            _put_back(module._buffers, buffers)
            _put_back(module._modules, modules)


def _put_back(now: dict[str, Any], then: dict[str, Any]) -> None:
    if now.keys() != then.keys() or any(now[k] is not then[k] for k in then):
        now.clear()
        now.update(then)
