"""Hooks: a network and images in, `Activations` out."""

import contextlib
import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repsim._checks import did_you_mean, message, some
from repsim._memory import available_memory, empty_rows
from repsim._progress import progress_bar
from repsim.activations import Activations
from repsim.data import ImageSet
from repsim.models import Network
from repsim.reductions import Reduction, find_reduction

Layers = None | str | Sequence[str] | Callable[[str, nn.Module], bool]

#: Rows that go through a network on a CPU at once. Larger batches are two to four times slower there: their
#: activations no longer fit the allocator's reused memory. What is asked for beyond this is split.
CPU_ROWS = 64


def extract(
    net: nn.Module,
    data: ImageSet | Tensor | Iterable[Any],
    *,
    layers: Layers = None,
    reduction: str = "mean",
    batch_size: int = 256,
    name: str | None = None,
    progress: bool = True,
) -> Activations:
    """Runs a network over samples and keeps what its layers answer.

    The network runs in eval mode without gradients, on the device where its parameters are, and is left in
    the modes it had, without hooks, whatever happens. Outputs are copied or reduced inside the hook, so an
    in-place operation after a layer cannot change what was recorded.

    Args:
        net: A `Network` of `load_model` (takes pixels in [0, 1]) or any module; wrappers such as
            DataParallel are looked through, so layer names are the bare network's.
        data: An `ImageSet`, a tensor, or batches (x or (x, y)) that come in the same order each time, such as
            a DataLoader that does not shuffle.
        layers: None for every leaf module and every residual block; a name or glob ("layer*.*" for blocks;
            `*` does not cross a dot, "**.conv*" reaches any depth), a list of these, or a function
            (name, module) -> bool.
        reduction: What makes a row of a layer's output. Feature maps (n, c, h, w): "mean" over positions, "max",
            "pool:K" (K×K averages); tokens (n, t, c): "mean_tokens", "cls"; anything: "flatten". Rows stay rows.
            They answer different questions: "flatten" also asks where in the image, "mean" does not.
        batch_size: Rows per forward pass. On a CPU passes are split further where that is faster.
        name: What results call the network; None takes the network's own name.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        One (n, p) tensor per layer in execution order, on the CPU. A module that runs twice gives two
        layers, `name` and `name#2`.

    Raises:
        ValueError: An unknown layer, a layer that never ran, an output without tensors or whose first axis is
            not the batch, a reduction that does not fit the output, a shuffling loader.
        MemoryError: Features that would not fit into memory.

    Cost:
        The forward passes, and one copy of the features.
    """
    bare = _bare(net)
    reduce = find_reduction(reduction)
    chosen, optional = select_layers(bare, layers)
    source = _Source.of(data)
    recorder = _Recorder(bare, chosen, reduce, source.n)
    device, kind = next(((p.device, p.dtype) for p in net.parameters()), (torch.device("cpu"), torch.float32))
    step = min(batch_size, CPU_ROWS) if device.type == "cpu" else batch_size
    if batch_size < 1:
        raise ValueError(message("extract", "batch_size must be at least 1", f"{batch_size}", "Leave it out"))
    named = _bare(net, until=Network)
    called = name or getattr(named, "name", None) or type(bare).__name__
    bar = progress_bar(source.n, f"extract {called}", "sample", show=progress)
    with recorder, _eval_mode(net), torch.no_grad(), _uncompiled(net), bar:
        for x in source.batches(step):
            recorder.begin(len(x))
            net(x.to(device, kind if x.is_floating_point() else x.dtype, non_blocking=True))
            recorder.end()
            bar.update(len(x))
    silent = [layer for layer in chosen if layer not in recorder.ran]
    if silent and not optional:
        advice = "Choose layers that the forward pass uses, or layers=None for all that ran"
        raise ValueError(message("extract", "every chosen layer must run", f"no output of {some(silent)}", advice))
    provenance = {
        **getattr(named, "provenance", {"architecture": type(bare).__name__}),
        "data": source.name,
        "layers_that_never_ran": silent,
    }
    return Activations(recorder.features(), source.labels, source.digest, called, reduction, provenance)


def select_layers(net: nn.Module, layers: Layers) -> tuple[list[str], bool]:
    """The names of a network's modules that `layers` means.

    Args:
        net: The bare network.
        layers: As for `extract`.

    Returns:
        The names in definition order, and whether one that never runs may be left out silently (only for None).

    Raises:
        ValueError: A name or glob that nothing matches, with close matches.
    """
    net = _bare(net)
    modules = {name: module for name, module in net.named_modules() if name}
    if not modules:
        advice = "Put it into a torch.nn.Sequential, so that it has a name"
        raise ValueError(message("extract", "the network must have layers inside", type(net).__name__, advice))
    if layers is None:
        return [n for n, m in modules.items() if _is_leaf(m) or _is_block(m)] or list(modules), True
    if callable(layers):
        found = [n for n, m in modules.items() if layers(n, m)]
        if not found:
            got = f"no match among {len(modules)} modules"
            raise ValueError(message("extract", "layers must choose a module", got, "Try: repsim layers"))
        return found, False
    patterns = [layers] if isinstance(layers, str) else list(layers)
    found_set: set[str] = set()
    for pattern in patterns:
        matches = [n for n in modules if n == pattern or _glob(n, pattern)]
        if not matches:
            advice = did_you_mean(pattern, modules)
            raise ValueError(message("extract", "layers must name modules of the network", repr(pattern), advice))
        found_set.update(matches)
    return [n for n in modules if n in found_set], False


def _glob(name: str, pattern: str) -> bool:
    """Shell patterns, part by part between the dots; a part `**` stands for any number of parts."""
    ours, theirs = name.split("."), pattern.split(".")
    if theirs == ["**"]:
        return True
    if theirs[0] == "**" and len(theirs) > 1:
        return any(_glob(".".join(ours[cut:]), ".".join(theirs[1:])) for cut in range(len(ours)))
    if not fnmatch.fnmatchcase(ours[0], theirs[0]) or (len(ours) == 1) != (len(theirs) == 1):
        return False
    return len(ours) == 1 or _glob(".".join(ours[1:]), ".".join(theirs[1:]))


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _is_block(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return not _is_leaf(module) and kind.endswith(("block", "bottleneck", "layer", "residual"))


def _bare(net: nn.Module, until: type[nn.Module] | None = None) -> nn.Module:
    """What wrappers hold; `until` stops at the first of that class, where there is one."""
    while until is None or not isinstance(net, until):
        if isinstance(net, Network):
            net = net.net
        elif isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif isinstance(getattr(net, "_orig_mod", None), nn.Module):
            net = getattr(net, "_orig_mod")  # noqa: B009 - what torch.compile wraps
        else:
            break
    return net


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


@dataclass(frozen=True)
class _Source:
    """Batches of inputs that come with a number, labels and an identity."""

    batches: Callable[[int], Iterator[Tensor]]
    n: int
    labels: Tensor | None
    digest: str
    name: str

    @classmethod
    def of(cls, data: ImageSet | Tensor | Iterable[Any]) -> "_Source":
        if isinstance(data, ImageSet):

            def pixels(step: int) -> Iterator[Tensor]:
                return (data.pixels(slice(i, i + step)) for i in range(0, len(data), step))

            return cls(pixels, len(data), data.labels, data.digest, data.name)
        sampler = getattr(getattr(data, "batch_sampler", None), "sampler", None) or getattr(data, "sampler", None)
        stream = isinstance(getattr(data, "dataset", None), torch.utils.data.IterableDataset)
        if sampler is not None and not stream and not isinstance(sampler, torch.utils.data.SequentialSampler):
            got = f"a loader with a {type(sampler).__name__}"
            advice = "Make it with shuffle=False: both networks must see the same samples in the same order"
            raise ValueError(message("extract", "data must come in a fixed order", got, advice))
        inputs, labels = [], []
        for batch in [data] if isinstance(data, Tensor) else data:
            x, *rest = batch if isinstance(batch, list | tuple) and len(batch) > 0 else (batch,)
            y = rest[0] if rest else None
            if not isinstance(x, Tensor):
                advice = "Pass an ImageSet, a tensor, or batches x or (x, y)"
                raise TypeError(message("extract", "batches must be tensors", type(x).__name__, advice))
            if isinstance(y, Tensor) and y.is_floating_point() and len(y) == len(x):
                got = str(y.dtype).removeprefix("torch.")
                advice = "Pass class indices, or batches without labels"
                raise TypeError(message("extract", "labels must be integers", got, advice))
            inputs.append(x)
            labels += [y] if isinstance(y, Tensor) else []
        if not inputs:
            raise ValueError(message("extract", "there must be samples", "none", "Pass a loader that is not empty"))
        whole = torch.cat(inputs)
        digest = hashlib.sha256(str(tuple(whole.shape)).encode())
        bits = whole.cpu().contiguous().view(torch.uint8) if whole.dtype == torch.bfloat16 else whole.cpu()
        digest.update(np.ascontiguousarray(bits.numpy()).data)
        y = torch.cat(labels).long().cpu() if len(labels) == len(inputs) else None
        return cls(lambda step: iter(whole.split(step)), len(whole), y, digest.hexdigest(), type(data).__name__)


class _Recorder:
    """Hooks on the chosen modules that write into buffers allocated once, in order of execution."""

    def __init__(self, net: nn.Module, layers: Sequence[str], reduce: Reduction, n: int) -> None:
        self._net, self._layers, self._reduce, self._n = net, layers, reduce, n
        self._buffers: dict[str, Tensor] = {}
        self._need, self._have = 0, available_memory()
        self._calls: dict[str, int] = {}
        self._start = self._rows = 0
        self._handles: list[Any] = []
        self.ran: set[str] = set()

    def __enter__(self) -> "_Recorder":
        modules = dict(self._net.named_modules())
        for layer in self._layers:
            self._handles.append(modules[layer].register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def begin(self, rows: int) -> None:
        self._rows, self._calls, self._seen = rows, {}, set()

    def end(self) -> None:
        if self._start == 0:
            self._check_room()
        elif self._seen != set(self._buffers):
            got = f"{some(sorted(self._seen ^ set(self._buffers)))} in some batches only"
            advice = "Choose layers that every sample passes through equally often"
            raise ValueError(message("extract", "every batch must run the same layers", got, advice))
        self._start += self._rows

    def features(self) -> dict[str, Tensor]:
        return self._buffers

    def _hook(self, layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._calls[layer] = call = self._calls.get(layer, 0) + 1
            self.ran.add(layer)
            self._store(layer if call == 1 else f"{layer}#{call}", output)

        return hook

    def _store(self, row: str, output: Any) -> None:
        tensor = _first_tensor(output)
        if tensor is None or not tensor.is_floating_point():
            got = type(output).__name__ if tensor is None else str(tensor.dtype)
            advice = "Leave this layer out of layers="
            raise ValueError(message("extract", f"layer {row!r} must give floating-point tensors", got, advice))
        if tensor.ndim < 2 or len(tensor) != self._rows:
            got = f"shape {tuple(tensor.shape)} for a batch of {self._rows}"
            advice = "Leave this layer out of layers="
            must = f"layer {row!r} must give (batch, features, …)"
            raise ValueError(message("extract", must, got, advice))
        reduced = self._reduce(row, tensor)
        self._seen.add(row)
        if self._start == 0:
            # Buffers take no memory until they are written to, so this batch tells what all of them will need.
            self._need += self._n * reduced.shape[1] * reduced.element_size()
            if self._have is None or self._need <= self._have:
                self._buffers[row] = empty_rows(self._n, reduced.shape[1], reduced.dtype)
                self._buffers[row][: self._rows].copy_(reduced)
        elif row in self._buffers:
            if reduced.shape[1] != self._buffers[row].shape[1]:
                got = f"{reduced.shape[1]} after {self._buffers[row].shape[1]}"
                advice = "Samples of unequal size need a reduction such as mean"
                raise ValueError(message("extract", f"layer {row!r} must keep its width", got, advice))
            self._buffers[row][self._start : self._start + self._rows].copy_(reduced)

    def _check_room(self) -> None:
        if self._have is not None and self._need > self._have:
            got = f"{self._need / 2**30:.1f} GiB for {self._n:,} samples with {self._have / 2**30:.1f} GiB free"
            advice = 'Use reduction="mean", fewer layers or fewer samples'
            raise MemoryError(message("extract", "the features must fit into memory", got, advice))


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
