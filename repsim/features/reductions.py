"""What makes one row of numbers out of a layer's output. The choice answers different questions, so it has a name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import did_you_mean, message
from repsim.features.inputs.masks import Output, end_token, filled, masked_mean
from repsim.networks.layers import matches_glob

#: What a user may choose: a name, names by glob, or a function of tokens (n, t, c) that gives rows (n, p).
Choice = str | Mapping[str, "str | Callable[[Tensor], Tensor]"] | Callable[[Tensor], Tensor]


Reduction = Callable[[Output], Float[Tensor, "n p"]]


class Reductions:
    """The reductions that a user chose, layer by layer.

    Args:
        choice: A name, as for `extract`; names or functions by glob, whose other layers take "auto"; or a function of
            tokens (n, t, c) that gives rows (n, p).
        function: Who asks, for messages.
        flatten: What "flatten" does, where it is not the order of the axes.

    Attributes:
        name: What results call the choice.
        globs: Those of a choice by glob.

    Raises:
        ValueError: An unknown name, or a pool size that is not a positive whole number.

    Example:
        >>> Reductions("pool:2").of("conv1")(Output("conv1", torch.ones(5, 16, 8, 8), (2, 3))).shape
        torch.Size([5, 64])
    """

    def __init__(self, choice: Choice, function: str = "extract", flatten: Reduction | None = None) -> None:
        self._function, self._flatten = function, flatten or _flatten
        self._by_glob = dict(choice) if isinstance(choice, Mapping) else {}
        self._else: str | Callable[[Tensor], Tensor] = "auto" if isinstance(choice, Mapping) else choice
        self.globs = tuple(self._by_glob)
        self._made = {name: self._find(name) for name in {*self._by_glob.values(), self._else}}
        named = [f"{glob}: {_name(part)}" for glob, part in self._by_glob.items()]
        self.name = ", ".join(named) if named else _name(self._else)

    def of(self, layer: str) -> Reduction:
        """The reduction of one layer."""
        return self._made[self._choice(layer)]

    def asks_for_positions(self, layer: str) -> bool:
        """Whether a layer's positions must be known; "flatten" keeps all numbers and asks only for the samples."""
        return self._choice(layer) != "flatten"

    def _choice(self, layer: str) -> str | Callable[[Tensor], Tensor]:
        return next((part for glob, part in self._by_glob.items() if means(glob, layer)), self._else)

    def _find(self, choice: str | Callable[[Tensor], Tensor]) -> Reduction:
        if not isinstance(choice, str):
            return lambda out: _of_users(self._function, choice, out)
        kind, _, size = choice.partition(":")
        if kind == "pool" and size.isdecimal() and int(size) > 0:
            return lambda out: _pool(self._function, out, int(size))
        if choice in _TOKENS:
            return lambda out: _of_tokens(self._function, out, choice)
        known = {"auto": _mean, "flatten": self._flatten, "mean": _mean, "max": _max}
        if choice not in known:
            advice = did_you_mean(choice, [*known, *_TOKENS, "pool:K"])
            raise ValueError(message(self._function, "reduction must be known", repr(choice), advice))
        return known[choice]


def means(glob: str, layer: str) -> bool:
    """Whether a glob means a call: by the module's name, or by that of one call, "act#2"."""
    return glob == layer or matches_glob(layer.partition("#")[0], glob)


def _name(choice: str | Callable[[Tensor], Tensor]) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)


def _flatten(out: Output) -> Tensor:
    return (out.x if out.mask is None else filled(out, 0)).flatten(1)


def _mean(out: Output) -> Tensor:
    if out.mask is not None:
        return masked_mean(out).flatten(1)
    return (out.x.mean(out.positions) if out.positions else out.x).flatten(1)


def _max(out: Output) -> Tensor:
    if out.mask is not None:
        out = replace(out, x=filled(out, -math.inf), mask=None)
    return (torch.amax(out.x, out.positions) if out.positions else out.x).flatten(1)


def _pool(function: str, out: Output, size: int) -> Tensor:
    places = out.positions or ()
    if not places:
        return out.x.flatten(1)
    if out.mask is not None:
        advice = 'Use "mean", "cls" or "last", or samples of one length'
        got = f"a mask at layer {out.layer!r}"
        raise ValueError(message(function, "reduction 'pool:K' is for sequences without padding", got, advice))
    if len(places) > 3:
        got = f"{len(places)} axes of positions at layer {out.layer!r}"
        advice = 'Use "mean" or "flatten", or choose other layers'
        raise ValueError(message(function, "reduction 'pool:K' is for one to three axes of positions", got, advice))
    rest = [i for i in range(1, out.x.ndim) if i not in places]
    maps = out.x.permute(0, *rest, *places).flatten(1, len(rest)) if len(rest) != 1 or rest != [1] else out.x
    pools: list[Callable[..., Tensor]] = [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d]
    return pools[len(places) - 1](maps, tuple(min(size, side) for side in maps.shape[2:])).flatten(1)


def _of_tokens(function: str, out: Output, name: str) -> Tensor:
    """Reductions of a sequence; rows have nothing to reduce."""
    places = out.positions or ()
    if len(places) > 1:
        got = f"shape {tuple(out.x.shape)} with {len(places)} axes of positions at layer {out.layer!r}"
        advice = 'Feature maps take "mean", "max" or "pool:K"; or choose other layers'
        raise ValueError(message(function, f"reduction {name!r} is for sequences of tokens", got, advice))
    if out.mask is not None:
        return (masked_mean(out) if name == "mean_tokens" else end_token(out, last=name == "last")).flatten(1)
    return (_TOKENS[name](out.x, places[0]) if places else out.x).flatten(1)


def _of_users(function: str, choice: Callable[[Tensor], Tensor], out: Output) -> Tensor:
    tokens, n = out.tokens(), len(out.x)
    if out.mask is None:
        rows = choice(tokens)
    else:  # a function knows of no padding, so it gets the tokens of one sample at a time
        rows = torch.cat([choice(one[real][None]) for one, real in zip(tokens, out.mask, strict=True)])

    if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != n or not rows.is_floating_point():
        got = f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        must = f"a reduction must make rows (n, p) of tokens (n, t, c), here {tuple(tokens.shape)}"
        raise ValueError(message(function, must, f"{got} at layer {out.layer!r}", "Return, say, tokens.mean(1)"))
    return rows


_TOKENS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cls": lambda x, at: x.select(at, 0),
    "last": lambda x, at: x.select(at, -1),
    "mean_tokens": lambda x, at: x.mean(at),
}
