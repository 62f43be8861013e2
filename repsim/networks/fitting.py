"""A weight file fitted to a network: prefixes, copies, heads of another name, and the normaliser in front.

Robust networks are mostly saved with their normaliser, and some with an attacker that holds the network once more:
`module.model.` and `module.attacker.model.` of the robustness package, `normalize.` and `model.` of RobustBench, `1.`
of randomised smoothing. None of that is told by the file's kind; it is read off the keys.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from repsim._common.messages import message, some
from repsim.networks.encoders import beside_the_network, head_of, is_copy, tied
from repsim.networks.weight_files import Checkpoint

#: Last part of a key, without underscores in front -> what a normaliser calls so.
_NORMALISER = {
    "mean": "mean",
    "new_mean": "mean",
    "means": "mean",
    "mu": "mean",
    "std": "std",
    "new_std": "std",
    "sds": "std",
    "sigma": "std",
}

#: What the last layer of residual networks is called, here and elsewhere.
_HEADS = ("linear", "fc")

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class FittedWeights:
    """What a file holds for a network.

    Attributes:
        state: A state dict that loads strictly.
        normaliser: Means and standard deviations per channel, where the file had such a layer.
        behind: The network stood behind another module in a sequence, of which no number is in the file.
        headless: Modules of the head, for which the file has no weights; empty where it has them all.
        notes: What was decided, in words.
    """

    state: State
    normaliser: tuple[tuple[float, ...], tuple[float, ...]] | None
    behind: bool
    headless: tuple[str, ...]
    notes: tuple[str, ...]


def fit_weights(
    checkpoint: Checkpoint, net: nn.Module, closest: Callable[[State], str], *, own_head: bool = False
) -> FittedWeights:
    """Finds the network's parameters in a file, under whatever prefix they stand.

    Prefixes such as `module.`, `model.`, `_orig_mod.`, an index, or several of these are removed; a
    normaliser layer in front is read off, not lost; the same weights under two prefixes are taken once. A head called
    `fc` is taken for `linear` and the other way round. Encoders come without the head, with another one, or with what
    their training needed beside them (queues, averages, counters, other heads): what fits is taken, the rest is named.

    Args:
        checkpoint: What `read_checkpoint` gave.
        net: The network to fill; it is not changed.
        closest: Names the known architecture nearest to a state dict, for the error message.
        own_head: The file must have weights for the head.

    Returns:
        A state dict that loads strictly, with the normaliser found in the file, and notes.

    Raises:
        ValueError: Keys or shapes that do not fit, two different sets of weights or normalisers, or a normaliser that
            cannot be one.
    """
    target = net.state_dict()
    wanted = {key for key in target if not key.endswith("num_batches_tracked")}  # absent from old files
    names, notes = _names(checkpoint.state, wanted)
    state = {name: checkpoint.state[key] for name, key in names.items()}
    found = _prefixes(state, wanted)
    prefix = min(found, key=lambda p: (-len(found[p]), is_copy(p), len(p)), default="")
    shared = tied(target)
    have = found[prefix] | {key for key in wanted if shared[key] & found[prefix]}
    place = {key: prefix + next(k for k in (key, *sorted(shared[key])) if k in found[prefix]) for key in have}
    shapes = {key for key in have if state[place[key]].shape != target[key].shape}
    head = set() if own_head else head_of(net, wanted - have, shapes)
    notes += [f"prefix {prefix!r} removed"] if prefix else []
    need = found[prefix] - head
    others = sorted((p for p in found if p != prefix and 2 * len(found[p] & need) > len(need)), key=len)
    children = {name for name, _ in net.named_children()}
    doubles, rival = [], ""
    for other in others:
        inside = other.startswith(prefix) and other.removeprefix(prefix).partition(".")[0] in children
        if inside or is_copy(other):
            continue
        if not all(torch.equal(state[prefix + k], state[other + k]) for k in found[other] & found[prefix]):
            rival = rival or other
        doubles += [other] if found[other] >= need else []
    notes += [f"the same weights stand under {other!r} too" for other in doubles]
    used = {p + k for p in [prefix, *doubles] for k in target if k not in head}
    normaliser, rest, half = _normaliser(checkpoint, {names[name]: state[name] for name in state if name not in used})
    left, unexpected = beside_the_network(rest, names, prefix, net, head, state)
    unexpected += half
    missing, shapes = sorted(wanted - have - head), shapes - head
    if missing or unexpected or shapes:
        unlike = [f"{k} {tuple(state[place[k]].shape)} for {tuple(target[k].shape)}" for k in sorted(shapes)]
        got = (
            f"{checkpoint.path.name}: missing {some(missing)}; unexpected {some(sorted(unexpected))}; "
            f"other shapes {some(unlike)}"
        )
        advice = f"Closest known architecture: {closest(checkpoint.state)}. If only the head differs, pass num_classes="
        raise ValueError(message("load_model", "the weight file must fit the architecture", got, advice))
    if rival:
        got = f"{checkpoint.path} with different weights under {prefix!r} and {rival!r}"
        advice = f"Say which you mean, as in part={(prefix or rival).rstrip('.')!r}"
        raise ValueError(message("load_model", "a file must hold one set of weights", got, advice))
    notes += [f"left out: {some(left)}"] if left else []
    headless = tuple(dict.fromkeys(key.rpartition(".")[0] for key in target if key in head))
    if headless:
        notes.append(f"no head of its own: the file has no weights for {some(headless)}, so the network has no outputs")
    counters = {key: prefix + key for key in target if prefix + key in state}
    full = {**target, **{key: state[at] for key, at in {**counters, **place}.items() if key not in head}}
    behind = normaliser is None and any(part.isdigit() and part != "0" for part in prefix.split("."))
    return FittedWeights(full, normaliser, behind, headless, tuple(notes))


def _names(state: State, wanted: set[str]) -> tuple[dict[str, str], list[str]]:
    """Name of a tensor as the network has it -> its key in the file; with a note where the two differ."""
    for ours, theirs in (_HEADS, _HEADS[::-1]):
        heads = {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}
        if not set(heads.values()) <= wanted or wanted & set(heads):
            continue
        last = {key: ".".join(key.split(".")[-2:]) for key in state}
        if set(heads) & set(last.values()) and not set(heads.values()) & set(last.values()):
            renamed = {key.removesuffix(tail) + heads.get(tail, tail): key for key, tail in last.items()}
            return renamed, [f"{theirs!r} taken for {ours!r}"]
    return {key: key for key in state}, []


def _prefixes(state: State, wanted: set[str]) -> dict[str, set[str]]:
    """Prefix -> the network's keys that stand behind it."""
    found: dict[str, set[str]] = defaultdict(set)
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts)):
            tail = ".".join(parts[cut:])
            if tail in wanted:
                found[key[: len(key) - len(tail)]].add(tail)
    return found


def _normaliser(
    checkpoint: Checkpoint, rest: State
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, list[str], list[str]]:
    """Means and deviations among the tensors that are no parameters, the keys of the others, and half of a pair."""
    numbers: dict[str, tuple[float, ...]] = {}
    origin: dict[str, str] = {}
    unexpected = []
    for key, value in rest.items():
        role = _NORMALISER.get(key.rpartition(".")[2].lstrip("_"))
        if not role or not value.is_floating_point() or not 1 <= value.numel() <= 4:
            unexpected.append(key)
            continue
        # The shortest decimals that give these very numbers.
        exact = value if value.dtype == torch.float64 else value.float()
        given = tuple(float(str(v)) for v in exact.detach().flatten().numpy())
        if str(numbers.setdefault(role, given)) != str(given):  # as text, since a NaN is no number's equal
            got = f"{checkpoint.path} with different numbers under {origin[role]!r} and {key!r}"
            advice = "Save the set you mean as a file of its own"
            raise ValueError(message("load_model", "a file must hold one normaliser", got, advice))
        origin.setdefault(role, key)
    if len(numbers) < 2:  # a mean alone is something else
        return None, unexpected, list(origin.values())
    mean, std = numbers["mean"], numbers["std"]
    finite = all(map(math.isfinite, mean + std))
    if not finite or min(std) <= 0 or len(mean) != len(std):
        got = f"{checkpoint.path} with {origin['mean']!r} {mean} and {origin['std']!r} {std}"
        must = "a file's normaliser must have finite means and as many positive stds"
        raise ValueError(message("load_model", must, got, "Save the network again with the numbers it was trained on"))
    return (mean, std), unexpected, []


def check_weights(state: Mapping[str, Tensor], network: Mapping[str, Tensor], path: Path) -> None:
    """Weights are finite real numbers where the network has such, and variances are not below zero.

    Args:
        state: What a file holds for a network, under the network's own names.
        network: The network's own state dict, whose masks and counters may be integers or truth values.
        path: The file.

    Raises:
        ValueError: Integers, truth values or complex numbers where the network has fractions; NaN or infinity;
            a negative running variance. The key is named.

    Cost:
        One pass over the weights.
    """
    for key, value in state.items():
        wrong = _wrong(key, value, network[key]) if key in network else ""
        if wrong:
            must = "weights must be finite real numbers, and running variances none below zero"
            advice = "Save the network again, unquantised and after a training that did not diverge"
            raise ValueError(message("load_model", must, f"{path} with {wrong} under {key!r}", advice))


def _wrong(key: str, value: Tensor, own: Tensor) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return f"a tensor without numbers of its own ({kind}, {str(value.layout).removeprefix('torch.')})"
    if own.is_floating_point():
        if not value.is_floating_point():
            return kind
        numbers = value.detach() if value.dtype == torch.float64 else value.detach().float()
        low, high = (float(v) for v in numbers.aminmax()) if value.numel() else (0.0, 0.0)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # also where there is a NaN
            return "NaN or infinity"
        if key.rpartition(".")[2] == "running_var" and low < 0:
            return f"{low:g}"
    elif value.is_complex() != own.is_complex():
        return kind
    return ""
