"""Batches of whatever a network takes: a tensor, several, or named ones; labels and padding among them."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from repsim._common.labels import class_labels
from repsim._common.messages import message, some
from repsim.networks.network import Network, bare

#: Runs a network on a batch: (network, batch) -> what it answers.
Call = Callable[[nn.Module, Any], Any]

#: Names of class labels among named inputs.
_LABELS = ("labels", "label", "targets", "target", "y")

#: Names of masks that are 1 or True at tokens, and of those that are True at padding.
_TOKENS = ("attention_mask", "input_mask", "mask", "decoder_attention_mask")
_PADDING = ("src_key_padding_mask", "key_padding_mask", "padding_mask")


@dataclass(frozen=True)
class Inputs:
    """All samples of some batches in one.

    Attributes:
        whole: A tensor, a tuple or a dict of tensors, with the samples first.
        labels: (n,) int64, where every batch has them.
        left_out: Names of what no network takes, such as texts.
    """

    whole: Any
    labels: Tensor | None
    left_out: tuple[str, ...]


def read_batches(batches: Iterable[Any], function: str) -> Inputs:
    """Puts batches together: x, (x, y), (x1, x2, …, y), ((x1, x2), y), or dicts; or samples that are dicts.

    Labels are integers, one per sample: the first such tensor behind the inputs, or what a dict calls labels. Sequences
    of unequal length are padded to the longest, with their mask.

    Raises:
        ValueError: No samples, batches that do not go together, sequences of unequal length without a mask.
        TypeError: Batches that hold no tensors, or labels that are no integers.
    """
    parts, labels, left = [], list[Tensor | None](), dict[str, None]()
    samples: list[Mapping[str, Any]] = []
    for batch in batches:
        if is_sample(batch):
            samples.append(batch)
            continue
        x, y = parted(batch, left, function)
        parts.append(x)
        labels.append(y)
    if samples and not parts:
        x, y = collated(samples, left, function)
        parts, labels = [x], [y]
    if not parts:
        raise ValueError(message(function, "there must be samples", "none", "Pass a loader that is not empty"))
    known = [y for y in labels if y is not None]
    every = class_labels(torch.cat(known), function) if len(known) == len(parts) else None
    return Inputs(together(parts, function), every, tuple(left))


def parted(batch: Any, left: dict[str, None], function: str) -> tuple[Any, Tensor | None]:
    """The inputs of one batch, and its labels where it has them.

    Args:
        batch: As for `read_batches`.
        left: Names of what no network takes are added to it.
        function: Who asks, for messages.
    """
    x, y = _named(batch, left) if _is_mapping(batch) else _ordered(batch, function)
    if not tree_leaves(x) or not all(isinstance(leaf, Tensor) for leaf in tree_leaves(x)):
        advice = "Pass an ImageSet, a tensor, or batches x, (x, y), or dicts of tensors"
        got = type(x).__name__ if not _is_mapping(batch) else f"a dict with {some(map(str, batch))}"
        raise TypeError(message(function, "batches must be tensors", got, advice))
    if isinstance(y, Tensor) and y.is_floating_point() and len(y) == len(tree_leaves(x)[0]):
        got = str(y.dtype).removeprefix("torch.")
        advice = "Pass class indices, or batches without labels; several inputs as ((x1, x2), y)"
        raise TypeError(message(function, "labels must be integers", got, advice))
    return x, y if isinstance(y, Tensor) and y.ndim == 1 else None


def is_sample(batch: Any) -> bool:
    """Whether a dict is one sample and no batch: its label is a number, or its tokens are a list of numbers."""
    if not _is_mapping(batch):
        return False
    if any(isinstance(batch.get(key), int) or _scalar(batch.get(key)) for key in _LABELS):
        return True
    tokens = batch.get("input_ids", batch.get("attention_mask"))
    if isinstance(tokens, Tensor):
        return tokens.ndim == 1
    return isinstance(tokens, Sequence) and len(tokens) > 0 and isinstance(tokens[0], int)


def rows_of(batch: Any) -> int:
    """How many samples a batch has."""
    return len(tree_leaves(batch)[0])


def masks_of(batch: Any) -> list[Tensor]:
    """The masks (n, t) of a batch, True at tokens; those alone that leave something out."""
    if not _is_mapping(batch):
        return []
    named = [batch[key].bool() for key in _TOKENS if _is_mask(batch.get(key))]
    named += [~batch[key].bool() for key in _PADDING if _is_mask(batch.get(key))]
    return [mask for mask in named if not bool(mask.all())]


def call_network(net: nn.Module, batch: Any) -> Any:
    """Runs a network on a batch: named inputs by their names, as far as it takes them, several in their order."""
    if isinstance(batch, Tensor):
        return net(batch)
    if _is_mapping(batch):
        return net(**{key: batch[key] for key in taken(net, batch)})
    return net(*batch)


def taken(net: nn.Module, batch: Mapping[str, Any]) -> list[str]:
    """The names of inputs that a network's forward pass has."""
    parameters = inspect.signature(bare(net).forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(batch)
    known = {p.name for p in parameters}
    return [key for key in batch if key in known]


def check_call(net: nn.Module, batch: Any, function: str) -> None:
    """Whether a network's forward pass takes what a batch holds, as `call_network` passes it.

    Raises:
        ValueError: An argument is missing, there are too many, or none of the names is one of its own.
    """
    signature = inspect.signature(bare(net).forward)
    if _is_mapping(batch):
        names = taken(net, batch)
        images = getattr(bare(net, until=Network), "normalized", False)
        why = "" if names else "none of these"
        why = why or ("no pixel_values, which are to be normalised" if images and "pixel_values" not in names else "")
        why, given = why or _misfit(signature, **dict.fromkeys(names)), f"a dict with {some(map(repr, batch))}"
        example = f"net(batch[{next(iter(batch))!r}])"
    else:
        inputs = [batch] if isinstance(batch, Tensor) else list(batch)
        why, given = _misfit(signature, *inputs), "one tensor" if len(inputs) == 1 else f"{len(inputs)} tensors"
        example = "net(batch, None)" if len(inputs) == 1 else "net(batch[0])"
    if why:
        asked = ", ".join(str(p).partition(":")[0].partition("=")[0] for p in signature.parameters.values())
        got = f"{given} for {type(bare(net)).__name__}.forward({asked}): {why}"
        advice = f"Say how to call it, as in call=lambda net, batch: {example}"
        raise ValueError(message(function, "the network must take what a batch holds", got, advice))


def _misfit(signature: inspect.Signature, *inputs: Any, **named: Any) -> str:
    """Why these are no arguments of a function; nothing where they are."""
    try:
        signature.bind(*inputs, **named)
    except TypeError as error:
        return str(error)
    return ""


def _is_mapping(batch: Any) -> bool:
    return isinstance(batch, Mapping)


def _is_mask(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.ndim == 2 and not (mask.is_floating_point() and bool((mask < 0).any()))


def _scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _named(batch: Mapping[str, Any], left: dict[str, None]) -> tuple[dict[str, Any], Any]:
    """The inputs of a dict, and its labels."""
    values = {key: value if isinstance(value, Tensor) else _numbers(value) for key, value in batch.items()}
    labels = next((values[key] for key in _LABELS if values.get(key) is not None), None)
    left.update(dict.fromkeys(str(key) for key, value in values.items() if value is None))
    return {str(k): v for k, v in values.items() if v is not None and k not in _LABELS}, labels


def _numbers(value: Any) -> Tensor | None:
    """Lists and arrays of numbers as a tensor; None for what is none, such as texts."""
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if found.ndim else None


def _ordered(batch: Any, function: str) -> tuple[Any, Any]:
    """The inputs of a batch that is a tensor or a sequence of them, and its labels."""
    if not isinstance(batch, list | tuple) or not batch:
        return batch, None
    x, rest = batch[0], list(batch[1:])
    if isinstance(x, list | tuple):
        several = tuple(x)
        return (several[0] if len(several) == 1 else several), rest[0] if rest else None
    if _is_mapping(x):
        inputs, labels = _named(x, {})
        return inputs, rest[0] if rest else labels
    inputs = [x]
    while rest and isinstance(rest[0], Tensor) and rest[0].ndim >= (3 if rest[0].is_floating_point() else 2):
        inputs.append(rest.pop(0))
    return (inputs[0] if len(inputs) == 1 else tuple(inputs)), rest[0] if rest else None


def collated(
    samples: Sequence[Mapping[str, Any]], left: dict[str, None], function: str
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Samples that are dicts, as one batch; lists of unequal length are padded with zeros, and get a mask."""
    kinds = {key: [torch.as_tensor(s[key]) for s in samples] for key in samples[0] if _fits(samples, key)}
    left.update(dict.fromkeys(str(key) for key in samples[0] if key not in kinds))
    labels = next((torch.stack(kinds[key]) for key in _LABELS if key in kinds and kinds[key][0].ndim == 0), None)
    inputs = {str(key): values for key, values in kinds.items() if key not in _LABELS}
    ragged = {key for key, values in inputs.items() if len({v.shape for v in values}) > 1}
    if (ragged or "input_ids" in inputs) and "attention_mask" not in inputs:
        one = "input_ids" if "input_ids" in inputs else next(iter(ragged))
        inputs["attention_mask"] = [torch.ones(len(v), dtype=torch.long) for v in inputs[one]]
        ragged |= {"attention_mask"} if ragged else set()
    longest = max((len(v) for key in ragged for v in inputs[key]), default=0)
    whole = {
        key: torch.stack([_padded(v[None], longest, left=False)[0] if key in ragged else v for v in values])
        for key, values in inputs.items()
    }
    if not whole:
        got = f"dicts with {some(map(str, samples[0]))}"
        raise TypeError(message(function, "samples must hold numbers", got, "Encode texts first, with a tokenizer"))
    return whole, labels


def _fits(samples: Sequence[Mapping[str, Any]], key: Any) -> bool:
    """Whether all samples have numbers under a name, of one number of axes."""
    try:
        return len({torch.as_tensor(sample[key]).ndim for sample in samples}) == 1
    except (TypeError, ValueError, RuntimeError, KeyError):
        return False


def together(parts: Sequence[Any], function: str) -> Any:
    """Batches in one, sequences of unequal length padded."""
    first = parts[0]
    if isinstance(first, Mapping):
        if any(not isinstance(part, Mapping) or part.keys() != first.keys() for part in parts):
            must, advice = "all batches must have the same inputs", "Look at what the loader collates"
            raise ValueError(message(function, must, f"other names than {some(first)}", advice))
        lengths = {part[next(iter(first))].shape[1:2] for part in parts}
        if len(lengths) > 1:
            parts = _of_one_length(parts, function)
    if len(parts) == 1:
        return first
    try:
        return tree_map(lambda *same: torch.cat(same), *parts)
    except (RuntimeError, ValueError) as error:
        shapes = dict.fromkeys(str(tuple(leaf.shape[1:])) for part in parts for leaf in tree_leaves(part)[:1])
        must, advice = "all samples must have one shape", "Resize or pad them; sequences as dicts with attention_mask"
        raise ValueError(message(function, must, some(shapes), advice)) from error


def _of_one_length(parts: Sequence[Mapping[str, Tensor]], function: str) -> list[dict[str, Tensor]]:
    """Batches whose sequences are padded to the longest of all, on the side on which each batch has its padding."""
    masks = [next((part[key] for key in _TOKENS if _is_mask(part.get(key))), None) for part in parts]
    if any(mask is None for mask in masks):
        lengths = dict.fromkeys(str(len(part[next(iter(part))][0])) for part in parts)
        must, advice = "sequences of unequal length need an attention_mask", "Let the tokenizer return it"
        raise ValueError(message(function, must, f"lengths {some(lengths)}", advice))
    longest = max(mask.shape[1] for mask in masks if mask is not None)
    made = []
    for part, mask in zip(parts, masks, strict=True):
        assert mask is not None
        left = bool((mask[:, 0] == 0).any())
        same = {key for key, value in part.items() if value.ndim > 1 and value.shape[1] == mask.shape[1]}
        made.append({k: _padded(v, longest, left=left) if k in same else v for k, v in part.items()})
    return made


def _padded(x: Tensor, length: int, *, left: bool) -> Tensor:
    """Zeros up to a length on the second axis."""
    zeros = x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])
    return torch.cat([zeros, x] if left else [x, zeros], 1)
