"""What the rows of every layer should be, found without the package: a hook of its own, and the network built anew.

Samples: the one axis that grows with the batch, and where several indices belong to a sample, those that change when
that sample is replaced. Features: of the other axes those that stay where the network is built for another input size
and, where more than one stays, change where it is built with other widths. Everything else is averaged.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from repsim import CautionWarning, extract
from tests.support.networks import Architecture

#: Samples of the two batches, and the one that is replaced.
N, FEWER, REPLACED = 5, 3, 2


@dataclass
class Checked:
    """One architecture, call by call.

    Attributes:
        name: Which.
        right: Calls whose rows are those of the truth.
        unsettled: Calls on which the truth cannot say; among these axes are of windows, or follow width and size.
        tables: Calls without a row per sample, left out.
        weights: Calls with a row per sample and no features, left out: weights and scores of attention.
        refused: Calls with features that were left out.
        wrong: Calls whose rows differ from the truth, rows of calls that have none, and calls of leaf modules that are
            neither kept nor named.
    """

    name: str
    right: int = 0
    unsettled: int = 0
    tables: int = 0
    weights: int = 0
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def check(architecture: Architecture) -> Checked:
    """Extracts every default layer and holds it against the truth."""
    torch.manual_seed(0)
    net = architecture.build(0, False).eval()
    x = architecture.data(0, N)
    other = x.clone()
    other[REPLACED] = architecture.data(0, N)[REPLACED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        made = extract(net, x, progress=False)
    answers, changed, fewer = (_answers(net, batch) for batch in (x, other, x[:FEWER]))
    resized = _answers(architecture.build(1, False).eval(), architecture.data(1, N))
    widened = _answers(architecture.build(0, True).eval(), x) if architecture.wide else {}
    found = Checked(architecture.name)
    left = made.provenance.get("layers_left_out", {})
    leaves = {name for name, module in net.named_modules() if next(module.children(), None) is None}
    leaves = {name for name in leaves if "parametrizations" not in name}
    found.wrong += [call for call in answers if call.partition("#")[0] in leaves and call not in {*made.layers, *left}]
    for layer in [*made.layers, *left]:
        out = answers[layer]
        samples = _samples(out, changed.get(layer), fewer.get(layer))
        if samples is None:
            found.tables += layer in left
            found.wrong += [layer] if layer in made.layers else []
        elif layer in left:
            weights = _is_attention(out, samples[0], widened.get(layer))
            found.weights += weights
            found.refused += [] if weights else [layer]
        else:
            truth = _rows(out, samples, resized.get(layer), widened.get(layer))
            if truth is None:
                found.unsettled += 1
            elif made[layer].shape == truth.shape and _close(made[layer], truth, out):
                found.right += 1
            else:
                found.wrong.append(layer)
    return found


def _answers(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What every module answers, call by call."""
    found: dict[str, Tensor] = {}
    times: dict[str, int] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            times[name] = time = times.get(name, 0) + 1
            tensor = _tensor(output)
            if tensor is not None:
                found[name if time == 1 else f"{name}#{time}"] = tensor.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in net.named_modules() if name]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


def _tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        named = [output[key] for key in ("last_hidden_state", "logits") if output.get(key) is not None]
        output = named or list(output.values())
    return _tensor(output[0]) if isinstance(output, list | tuple) and output else None


def _samples(out: Tensor, changed: Tensor | None, fewer: Tensor | None) -> tuple[int, bool] | None:
    """The axis of samples, and whether what belongs to one sample stands together; None where there is none."""
    if changed is None or fewer is None or fewer.ndim != out.ndim or out.ndim < 2:
        return None
    grows = [i for i, (a, b) in enumerate(zip(out.shape, fewer.shape, strict=True)) if a * FEWER == b * N]
    differs = [i for i, (a, b) in enumerate(zip(out.shape, fewer.shape, strict=True)) if a != b]
    if len(grows) != 1 or differs != grows:
        return None
    axis, each = grows[0], out.shape[grows[0]] // N
    moved = (out != changed).movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
    together = set(range(REPLACED * each, (REPLACED + 1) * each))
    if set(moved) <= together:
        return axis, True
    return (axis, False) if set(moved) <= set(range(REPLACED, out.shape[axis], N)) else None


def _is_attention(out: Tensor, samples: int, widened: Tensor | None) -> bool:
    """Whether these are weights that sum to one, or scores: two axes of one length that width does not change."""
    if any(i != samples and torch.allclose(out.sum(i), torch.ones(()), atol=1e-4) for i in range(out.ndim)):
        return True
    wide = widened.shape if widened is not None and widened.ndim == out.ndim else out.shape
    places = [s for i, s in enumerate(out.shape) if i != samples and wide[i] == s]
    return any(places.count(s) > 1 for s in places)


def _rows(out: Tensor, samples: tuple[int, bool], resized: Tensor | None, widened: Tensor | None) -> Tensor | None:
    """The rows that the truth gives; None where it cannot say."""
    axis, together = samples
    if out.ndim == 2 and out.shape[axis] == N:
        return out.movedim(axis, 0)
    if resized is None or resized.ndim != out.ndim:
        return None

    def unfolded(x: Tensor) -> Tensor:
        """(n, k, …), where k is what is folded into the samples."""
        sizes = (N, -1) if together else (-1, N)
        x = x.movedim(axis, 0).unflatten(0, sizes)
        return x if together else x.movedim(1, 0)

    out, resized = unfolded(out), unfolded(resized)
    long = [i for i in range(1, out.ndim) if out.shape[i] > 1]
    stays = [i for i in long if out.shape[i] == resized.shape[i]]
    if len(stays) > 1:
        if widened is None or widened.ndim != out.ndim - 1:
            return None
        widened = unfolded(widened)
        stays = [i for i in stays if widened.shape[i] != out.shape[i]]
    if not stays and all(out.shape[i] > 1 for i in range(2, out.ndim)):
        return None
    averaged = [i for i in range(1, out.ndim) if i not in stays]
    return (
        (out.double().mean(averaged) if averaged else out).flatten(1) if stays else out.double().mean(averaged)[:, None]
    )


def _close(a: Tensor, b: Tensor, out: Tensor) -> bool:
    """Equal up to the rounding of a mean over `out`, which may be far larger than what is left of it."""
    scale = float(out.abs().max())
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4 * scale + 1e-12))
