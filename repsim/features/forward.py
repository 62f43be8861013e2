"""A network with some of its layers tapped."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.messages import message, some
from repsim.features.reductions import Reduction
from repsim.networks.answers import CPU_ROWS
from repsim.networks.layers import Layers, select_layers
from repsim.networks.network import bare, name_of, provenance_of_network


class TappedNetwork:
    """A network with some of its layers tapped.

    Args:
        net: The network; wrappers such as DataParallel are looked through.
        layers: As for `extract`.
        reduce: What makes rows of a layer's output.
        function: Who asks, for messages.
        name: What results call the network; None takes the network's own name.

    Attributes:
        widths: Layer -> features per row, in order of execution, once a batch has run. A module that runs twice
            gives two layers, `name` and `name#2`.
    """

    def __init__(self, net: nn.Module, layers: Layers, reduce: Reduction, function: str, name: str | None) -> None:
        self._net, self._reduce, self._function = net, reduce, function
        inside = bare(net)
        chosen, self._optional = select_layers(inside, layers, function)
        modules = dict(inside.named_modules())
        self._tapped = {layer: modules[layer] for layer in chosen}
        parameter = next(net.parameters(), torch.empty(0))
        self.device, self._kind = parameter.device, parameter.dtype
        self.name: str = name or name_of(net)
        self.provenance = provenance_of_network(net)
        self.widths: dict[str, int] | None = None
        self._ran: set[str] = set()

    def step(self, batch_size: int) -> int:
        """Rows per forward pass where `batch_size` are asked for."""
        if batch_size < 1:
            raise ValueError(message(self._function, "batch_size must be at least 1", f"{batch_size}", "Leave it out"))
        return min(batch_size, CPU_ROWS) if self.device.type == "cpu" else batch_size

    @contextlib.contextmanager
    def recording(self, write: Callable[[str, Float[Tensor, "b p"]], None]) -> Iterator[Callable[[Tensor], Any]]:
        """Inside, the function that is given runs a batch and returns what the network answers; `write(layer,
        features)` is called as layers answer.

        The network runs in eval mode without gradients, and is left in the modes it had, without hooks, whatever
        happens. What `write` is given may be overwritten by the network's next operation, so it copies.
        """
        rows, calls, seen = 0, dict[str, int](), dict[str, int]()

        def hook(layer: str) -> Callable[[nn.Module, Any, Any], None]:
            def answered(module: nn.Module, inputs: Any, output: Any) -> None:
                calls[layer] = call = calls.get(layer, 0) + 1
                self._ran.add(layer)
                row = layer if call == 1 else f"{layer}#{call}"
                features = self._reduce(row, self._checked(row, output, rows))
                seen[row] = features.shape[1]
                if self.widths is not None and seen[row] != self.widths.get(row, seen[row]):
                    got = f"{seen[row]} after {self.widths[row]}"
                    advice = "Samples of unequal size need a reduction such as mean"
                    raise ValueError(message(self._function, f"layer {row!r} must keep its width", got, advice))
                if self.widths is None or row in self.widths:
                    write(row, features)

            return answered

        def run(x: Tensor) -> Any:
            nonlocal rows
            rows = len(x)
            calls.clear()
            seen.clear()
            answer = self._net(x.to(self.device, self._kind if x.is_floating_point() else x.dtype, non_blocking=True))
            if self.widths is None:
                self.widths = dict(seen)
            elif seen.keys() != self.widths.keys():
                got = f"{some(sorted(seen.keys() ^ self.widths.keys()))} in some batches only"
                advice = "Choose layers that every sample passes through equally often"
                raise ValueError(message(self._function, "every batch must run the same layers", got, advice))
            return answer

        handles = []
        try:
            for layer, module in self._tapped.items():
                handles.append(module.register_forward_hook(hook(layer)))
            with _eval_mode(self._net), torch.no_grad(), _uncompiled(self._net):
                yield run
        finally:
            for handle in handles:
                handle.remove()

    def never_ran(self) -> list[str]:
        """The chosen layers that no batch has run.

        Raises:
            ValueError: There are some, and they were asked for.
        """
        silent = [layer for layer in self._tapped if layer not in self._ran]
        if silent and not self._optional:
            advice = "Choose layers that the forward pass uses, or layers=None for all that ran"
            must = "every chosen layer must run"
            raise ValueError(message(self._function, must, f"no output of {some(silent)}", advice))
        return silent

    def _checked(self, layer: str, output: Any, rows: int) -> Tensor:
        tensor = _first_tensor(output)
        advice = "Leave this layer out of layers="
        if tensor is None or not tensor.is_floating_point():
            got = type(output).__name__ if tensor is None else str(tensor.dtype)
            must = f"layer {layer!r} must give floating-point tensors"
            raise ValueError(message(self._function, must, got, advice))
        if tensor.ndim < 2 or len(tensor) != rows:
            got = f"shape {tuple(tensor.shape)} for a batch of {rows}"
            must = f"layer {layer!r} must give (batch, features, …)"
            raise ValueError(message(self._function, must, got, advice))
        return tensor


def _uncompiled(net: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Code that torch.compile made before our hooks were there does not call them: run the modules themselves."""
    if any("_orig_mod" in module._modules for module in net.modules()) and hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


@contextlib.contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _first_tensor(output: Any) -> Tensor | None:
    """The tensor of a layer's output: itself; a model output's hidden state or logits; else the first one inside."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) or hasattr(output, "to_tuple"):
        get = output.get if isinstance(output, dict) else lambda key: getattr(output, key, None)
        named = [get(key) for key in ("last_hidden_state", "logits")]
        inside = [v for v in named if isinstance(v, Tensor)]
        values = list(output.values()) if isinstance(output, dict) else list(output.to_tuple())
        return inside[0] if inside else _first_tensor(values)
    if isinstance(output, list | tuple):
        return next((t for t in map(_first_tensor, output) if t is not None), None)
    return None
