"""What makes one row of numbers out of a layer's output. The choice answers different questions, so it has a name."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import did_you_mean, message

#: (layer name, for messages; its output with the samples first) -> (n, p)
Reduction = Callable[[str, Tensor], Float[Tensor, "n p"]]


def find_reduction(name: str) -> Reduction:
    """The reduction of a name; see `extract` for what each does.

    Raises:
        ValueError: An unknown name, or a pool size that is not a positive whole number.

    Example:
        >>> find_reduction("pool:2")("conv1", torch.ones(5, 16, 8, 8)).shape
        torch.Size([5, 64])
    """
    kind, _, size = name.partition(":")
    if kind == "pool" and size.isdecimal() and int(size) > 0:
        return lambda layer, x: _maps(layer, x, name, lambda m: _pool(m, int(size)).flatten(1))
    if name not in _REDUCTIONS:
        known = [*_REDUCTIONS, "pool:K"]
        advice = did_you_mean(name, known)
        raise ValueError(message("extract", "reduction must be known", repr(name), advice))
    return _REDUCTIONS[name]


def _maps(layer: str, x: Tensor, name: str, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies to feature maps (n, c, h, w); rows (n, p) have nothing to reduce."""
    if x.ndim == 2:
        return x
    if x.ndim != 4:
        got = f"shape {tuple(x.shape)} at layer {layer!r}"
        advice = 'Tokens take "mean_tokens" or "cls", anything takes "flatten"; or choose other layers'
        raise ValueError(message("extract", f"reduction {name!r} is for maps (n, c, h, w)", got, advice))
    return reduce(x)


def _tokens(layer: str, x: Tensor, name: str, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies to tokens (n, t, c); rows (n, p) have nothing to reduce."""
    if x.ndim == 2:
        return x
    if x.ndim != 3:
        got = f"shape {tuple(x.shape)} at layer {layer!r}"
        advice = 'Feature maps take "mean", "max" or "pool:K"; or choose other layers'
        raise ValueError(message("extract", f"reduction {name!r} is for tokens (n, t, c)", got, advice))
    return reduce(x)


def _pool(x: Tensor, size: int) -> Tensor:
    return F.adaptive_avg_pool2d(x, (min(size, x.shape[2]), min(size, x.shape[3])))


_REDUCTIONS: dict[str, Reduction] = {
    "flatten": lambda layer, x: x.flatten(1),
    "mean": lambda layer, x: _maps(layer, x, "mean", lambda m: m.mean((2, 3))),
    "max": lambda layer, x: _maps(layer, x, "max", lambda m: torch.amax(m, (2, 3))),
    "cls": lambda layer, x: _tokens(layer, x, "cls", lambda t: t[:, 0]),
    "mean_tokens": lambda layer, x: _tokens(layer, x, "mean_tokens", lambda t: t.mean(1)),
}
