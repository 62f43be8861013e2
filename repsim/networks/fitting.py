"""A weight file fitted to a network: prefixes, copies, heads of another name, and the normaliser in front.

Robust networks are mostly saved with their normaliser, and some with an attacker that holds the network once more:
`module.model.` and `module.attacker.model.` of the robustness package, `normalize.` and `model.` of RobustBench, `1.`
of randomised smoothing. None of that is told by the file's kind; it is read off the keys.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repsim._common.messages import message, some
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
        notes: What was decided, in words.
    """

    state: State
    normaliser: tuple[tuple[float, ...], tuple[float, ...]] | None
    behind: bool
    notes: tuple[str, ...]


def fit_weights(checkpoint: Checkpoint, net: nn.Module, closest: Callable[[State], str]) -> FittedWeights:
    """Finds the network's parameters in a file, under whatever prefix they stand.

    Prefixes such as `module.`, `model.`, `_orig_mod.`, an index, or several of these are removed; a
    normaliser layer in front is read off, not lost; the same weights under two prefixes are taken once. A head called
    `fc` is taken for `linear` and the other way round.

    Args:
        checkpoint: What `read_checkpoint` gave.
        net: The network to fill; it is not changed.
        closest: Names the known architecture nearest to a state dict, for the error message.

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
    prefix = min(found, key=lambda p: (-len(found[p]), len(p)), default="")
    doubles = sorted((p for p in found if p != prefix and found[p] == found[prefix] == wanted), key=len)
    notes += [f"prefix {prefix!r} removed"] if prefix else []
    for other in doubles:
        if not all(torch.equal(state[prefix + k], state[other + k]) for k in wanted):
            got = f"{checkpoint.path} with different weights under {prefix!r} and {other!r}"
            advice = "Save the set you mean as a file of its own"
            raise ValueError(message("load_model", "a file must hold one set of weights", got, advice))
        notes.append(f"the same weights stand under {other!r} too")
    used = {p + k for p in [prefix, *doubles] for k in target}
    normaliser, unexpected = _normaliser(checkpoint, {names[name]: state[name] for name in state if name not in used})
    shapes = [
        f"{k} {tuple(state[prefix + k].shape)} for {tuple(target[k].shape)}"
        for k in sorted(found[prefix])
        if state[prefix + k].shape != target[k].shape
    ]
    missing = sorted(wanted - found[prefix])
    if missing or unexpected or shapes:
        got = (
            f"{checkpoint.path.name}: missing {some(missing)}; unexpected {some(sorted(unexpected))}; "
            f"other shapes {some(shapes)}"
        )
        advice = f"Closest known architecture: {closest(checkpoint.state)}. If only the head differs, pass num_classes="
        raise ValueError(message("load_model", "the weight file must fit the architecture", got, advice))
    full = {**target, **{key: state[prefix + key] for key in target if prefix + key in state}}
    behind = normaliser is None and any(part.isdigit() and part != "0" for part in prefix.split("."))
    return FittedWeights(full, normaliser, behind, tuple(notes))


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
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, list[str]]:
    """Means and standard deviations among the tensors that are no parameters, and the keys of the other tensors."""
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
        return None, unexpected + list(origin.values())
    mean, std = numbers["mean"], numbers["std"]
    finite = all(map(math.isfinite, mean + std))
    if not finite or min(std) <= 0 or len(mean) != len(std):
        got = f"{checkpoint.path} with {origin['mean']!r} {mean} and {origin['std']!r} {std}"
        must = "a file's normaliser must have finite means and as many positive stds"
        raise ValueError(message("load_model", must, got, "Save the network again with the numbers it was trained on"))
    return (mean, std), unexpected
