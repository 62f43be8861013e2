"""Running a network as it is to be looked at: in eval mode, uncompiled, on inputs of the type that its layers take."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from repsim.networks.network import bare

#: Network -> what a thread holds while it observes it; gone when the network is.
_LOCKS: "weakref.WeakKeyDictionary[nn.Module, Any]" = weakref.WeakKeyDictionary()

_GUARD = threading.Lock()


@contextlib.contextmanager
def observed(net: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode, makes no gradients and calls its parts' hooks; then it is as before.

    Threads take turns at one network: their hooks would write each other's batches.
    """
    with _GUARD:
        lock = _LOCKS.setdefault(bare(net), threading.RLock())
    with lock, _eval_mode(net), _uncompiled(net), torch.no_grad():
        yield


def first_tensor(output: Any) -> Tensor | None:
    """The tensor of a layer's output: itself; a model output's hidden state or logits; else the first one inside."""
    if isinstance(output, Tensor):
        return output.dequantize() if output.is_quantized else output
    if isinstance(output, dict) or hasattr(output, "to_tuple"):
        get = output.get if isinstance(output, dict) else lambda key: getattr(output, key, None)
        named = [get(key) for key in ("last_hidden_state", "logits")]
        inside = [v for v in named if isinstance(v, Tensor)]
        values = list(output.values()) if isinstance(output, dict) else list(output.to_tuple())
        return inside[0] if inside else first_tensor(values)
    if isinstance(output, list | tuple):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None


def tensors_in(batch: Any) -> list[Tensor]:
    """The tensors of a batch, which may be one, a tuple, or a dict."""
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def moved(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A batch on a device; fractions get a type, integers keep theirs."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype, non_blocking=True)

    return tree_map(one, batch)


def input_type(net: nn.Module, run: Callable[[torch.dtype], Any]) -> torch.dtype:
    """The type of the inputs that a network takes: that of its parameters, or where these differ, of its first layer.

    Args:
        net: The network.
        run: Runs it on inputs of a type; called where parameters have several types, and stopped at the first layer.
    """
    types = [p.dtype for p in net.parameters() if p.is_floating_point()]
    if len(set(types)) < 2:
        return next(iter(types), torch.get_default_dtype())
    found: list[torch.dtype] = []

    def stop(module: nn.Module, inputs: Any) -> None:
        if not any(x.is_floating_point() for x in tensors_in(inputs)):
            return
        found.append(next(p.dtype for p in module.parameters(recurse=False) if p.is_floating_point()))
        raise _Stopped

    holders = [m for m in net.modules() if any(p.is_floating_point() for p in m.parameters(recurse=False))]
    leaves = [m for m in holders if next(m.children(), None) is None]
    handles = [module.register_forward_pre_hook(stop) for module in leaves]
    try:
        with observed(net):
            run(types[0])
    except _Stopped:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else types[0]


class _Stopped(Exception):
    """The first layer was reached."""


@contextlib.contextmanager
def _uncompiled(net: nn.Module) -> Iterator[None]:
    """Code that torch.compile made before our hooks were there does not call them: run the modules themselves."""
    in_place = [m for m in net.modules() if getattr(m, "_compiled_call_impl", None) is not None]
    kept = [(module, module._compiled_call_impl) for module in in_place]
    wrapped = any("_orig_mod" in module._modules for module in net.modules())
    eager = torch.compiler.set_stance("force_eager") if wrapped and hasattr(torch.compiler, "set_stance") else None
    try:
        for module in in_place:
            module._compiled_call_impl = None
        with eager or contextlib.nullcontext():
            yield
    finally:
        for module, compiled in kept:
            module._compiled_call_impl = compiled


@contextlib.contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
