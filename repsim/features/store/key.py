"""What features depend on: two stores of one key hold the same numbers."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from repsim._common.messages import message
from repsim._common.provenance import VERSION
from repsim.features.forward import TappedNetwork
from repsim.features.inputs.batches import Call
from repsim.features.inputs.stream import Digest, Stream
from repsim.features.reductions import Choice
from repsim.features.source import Source
from repsim.networks.network import Network, bare
from repsim.networks.weight_files import weights_digest


def key_of(
    net: nn.Module,
    forward: TappedNetwork,
    source: Source | Stream,
    *,
    reduction: Choice,
    axes: Mapping[str, str] | None,
    dtype: torch.dtype | None,
    call: Call | None,
) -> dict[str, Any]:
    """All that the features of a network over samples depend on, as JSON. No network is run for it.

    The code of a module's own forward pass is known by the names of its classes alone.

    Args:
        net: The network.
        forward: Its layers as they are chosen.
        source: What it is run over.
        reduction: As for `extract`.
        axes: As for `extract`; what it does not say is found out by this version of the package, which is in the key.
        dtype: What features are kept as; None for their own type.
        call: As for `extract`.

    Raises:
        ValueError: Functions whose text does not tell what they do.
    """
    inside, shell = bare(net), bare(net, until=Network)
    constants = [shell.mean, shell.std] if isinstance(shell, Network) and shell.normalized else None
    shown = source.facts.get("condition")
    choices = dict(reduction) if isinstance(reduction, Mapping) else {"**": reduction}
    return {
        "weights": weights_digest(_weights(inside)),
        "architecture": _architecture(inside),
        "normalisation": constants and [x.flatten().tolist() for x in constants],
        "samples": _samples(source),
        "condition": shown and {"name": source.condition, "pixels": source.facts["pixels"]},
        "layers": list(forward.chosen),
        "layout": {"axes": dict(axes or {}), "repsim": VERSION},
        "reduction": {glob: x if isinstance(x, str) else _function("reduction", x) for glob, x in choices.items()},
        "dtype": "own" if dtype is None else str(dtype).removeprefix("torch."),
        "call": None if call is None else _function("call", call),
    }


def short(key: Mapping[str, Any]) -> str:
    """Eight letters that differ with anything in a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]


def _samples(source: Source | Stream) -> str:
    """A digest of the samples; of inputs that come in order of the first ones, as the others are checked in passing."""
    if isinstance(source, Source):
        return source.digest
    first = Digest()
    first.add(source.first(2))
    return f"{source.name} that begins with {first.hex}"


def _weights(net: nn.Module) -> dict[str, Tensor]:
    """All numbers of a network: what its state holds, and buffers that are no part of it."""
    held = {**net.state_dict(), **dict(net.named_buffers())}
    return {name: x.dequantize() if x.is_quantized else x for name, x in held.items() if isinstance(x, Tensor)}


def _architecture(net: nn.Module) -> str:
    """The name of the network's class, and a digest of its parts with their settings and classes."""
    kinds = sorted({f"{type(m).__module__}.{type(m).__qualname__}" for m in net.modules()})
    parts = re.sub(r" at 0x[0-9a-f]+", "", repr(net))
    return f"{type(net).__name__} {hashlib.sha256(json.dumps([parts, kinds]).encode()).hexdigest()[:16]}"


def _function(option: str, function: Callable[..., Any]) -> str:
    """A function by its name and its code."""
    plain = isinstance(function, FunctionType) and not (function.__closure__ or function.__kwdefaults__)
    if not isinstance(function, FunctionType) or not plain or function.__defaults__:
        must = f"{option} must be a name or a plain function where features are stored"
        advice = "Write a function without defaults, and without names of a function around it"
        raise ValueError(message("extract", must, f"{function!r}", advice))
    digest = hashlib.sha256(repr(_instructions(function.__code__)).encode()).hexdigest()[:16]
    return f"{function.__module__}.{function.__qualname__} {digest}"


def _instructions(code: CodeType) -> tuple[Any, ...]:
    constants = [_instructions(x) if isinstance(x, CodeType) else repr(x) for x in code.co_consts]
    return code.co_code, code.co_names, constants
