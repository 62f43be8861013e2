"""Means and covariances of Gaussian input noise on its way through a network, without drawing any.

The covariance of an image's noise at a layer is kept as Σ ⊗ ρ: one (c, c) matrix for all places, and how alike the
noise of two places is, by their distance, one table for all images. That is exact for the input and for the variances
behind the first convolution; beyond it is an approximation, as is the sum of two branches, whose noise is taken for
independent.

Source: Zhen, Chakraborty, Singh 2021, arXiv 2104.05888, for one Σ for all places. Theirs takes places for independent
or for equal, and keeps Σ through a ReLU; ρ, and the moments of a ReLU to second order, are this project's.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from repsim._common.messages import message

#: Distances, in places to either side, within which noise may be alike.
_REACH = 8


@dataclass(frozen=True)
class Moments:
    """Noise on a batch at one layer.

    Attributes:
        mean: (b, c, h, w), or (b, c) where there are no places.
        covariance: Σ of (b, c, c), of one place.
        alike: ρ of (17, 17), by distance; 1 in the middle.
        flat: The (h, w) of places that a flatten joined to the channels; None elsewhere.
    """

    mean: Tensor
    covariance: Float[Tensor, "b c c"]
    alike: Float[Tensor, "17 17"]
    flat: tuple[int, int] | None = None

    @property
    def variance(self) -> Float[Tensor, " b"]:
        """The trace of the covariance of all features of each image."""
        places = math.prod(self.flat) if self.flat else math.prod(self.mean.shape[2:])
        return places * self.covariance.diagonal(dim1=1, dim2=2).sum(1)


def input_noise(x: Float[Tensor, "b c h w"], sigma: float, std: Tensor | None = None) -> Moments:
    """Independent noise of deviation σ on every pixel; `std` (1, c, 1, 1) is what pixels are divided by afterwards."""
    scale = sigma / (std.flatten() if std is not None else torch.ones(1).to(x)).to(x)
    covariance = torch.diag_embed(scale.square().expand(x.shape[1])).expand(len(x), -1, -1)
    alike = torch.zeros(2 * _REACH + 1, 2 * _REACH + 1).to(x)
    alike[_REACH, _REACH] = 1
    return Moments(x, covariance, alike)


def propagate(traced: fx.GraphModule, given: Moments, seen: Callable[[str, Moments], None]) -> Moments:
    """Noise on the way through a traced network.

    Args:
        traced: `trace` made it.
        given: At its input.
        seen: Called with the name and the moments of each module that runs.

    Returns:
        The moments of its answer.

    Raises:
        ValueError: A layer whose moments are not known, by its name.
    """
    modules = dict(traced.named_modules())
    values: dict[fx.Node, Any] = {}
    for node in traced.graph.nodes:
        inputs = map_arg(node.args, lambda n: values[n])
        options = map_arg(node.kwargs, lambda n: values[n])
        if node.op == "placeholder":
            values[node] = given
        elif node.op == "output":
            return inputs[0]
        elif node.op == "call_module":
            module = modules[str(node.target)]
            step = next((f for kind, f in _MODULES.items() if isinstance(module, kind)), None)
            if step is None:
                raise _unknown(f"{node.target!r}, a {type(module).__name__}")
            values[node] = step(module, inputs[0], str(node.target))
            seen(str(node.target), values[node])
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            step = _FUNCTIONS.get(name)
            if step is None:
                raise _unknown(f"the function {name}")
            values[node] = step(*inputs, **options)
        else:
            raise _unknown(f"{node.op} {node.target}")
    raise AssertionError("a graph ends in its output")


def trace(net: nn.Module) -> fx.GraphModule:
    """The network as a graph of its layers.

    Raises:
        ValueError: A network whose path depends on its input.
    """
    try:
        return fx.symbolic_trace(net)
    except Exception as error:  # tracing runs the network's own code, which may fail in any way
        raise _unknown(f"a network that cannot be traced ({type(error).__name__})") from error


def _unknown(got: str) -> ValueError:
    must = "every layer's moments must be known"
    return ValueError(message("noise_profile", must, got, 'Pass method="sampled", which draws noise instead'))


# --- Layers ---------------------------------------------------------------------------------------------------


def _conv(module: nn.Conv2d, x: Moments, name: str) -> Moments:
    if module.groups != 1 or module.padding_mode != "zeros":
        raise _unknown(f"{name!r}, a convolution with groups or another padding")
    if module.stride[0] != module.stride[1] or module.dilation[0] != module.dilation[1]:
        raise _unknown(f"{name!r}, a convolution with unequal strides")
    # At the border some places of the kernel see zeros, which have no noise: how often both of two see an image.
    ones = F.pad(x.mean.new_ones(1, 1, *x.mean.shape[2:]), _padding(module))
    inside = F.unfold(ones, module.kernel_size, module.dilation, 0, module.stride)[0]
    covariance, alike = _mixed(
        module.weight, x, module.stride[0], module.dilation[0], inside @ inside.T / inside.shape[1]
    )
    return Moments(module(x.mean), covariance, alike)


def _linear(module: nn.Linear, x: Moments, name: str) -> Moments:
    if x.mean.ndim != 2:
        raise _unknown(f"{name!r}, a linear layer applied to places")
    height, width = x.flat or (1, 1)
    weight = module.weight.view(module.out_features, -1, height, width)
    covariance, alike = _mixed(weight, x, 0, 1)
    return Moments(module(x.mean), covariance, alike)


def _padding(module: nn.Conv2d) -> list[int]:
    """Zeros on the left, right, top and bottom."""
    if module.padding == "same":
        return list(module._reversed_padding_repeated_twice)
    down, right = (0, 0) if isinstance(module.padding, str) else module.padding
    return [right, right, down, down]


def _mixed(
    weight: Float[Tensor, "o c i j"], x: Moments, stride: int, dilation: int, seen: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Σ and ρ behind a kernel: the sums over its places u and v of ρ(v − u) · W_u Σ W_vᵀ, and of their traces.

    A stride of 0 says that one place is left; `seen` is in what share of all windows both u and v see the image.
    """
    outputs, c, height, width = weight.shape
    at = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(weight.device) * dilation
    taps = weight.detach().permute(2, 3, 0, 1).reshape(-1, outputs, c)  # (places, o, c)
    apart = at[None] - at[:, None]  # v − u
    mixed = torch.einsum("uv,voc->uoc", _at(x.alike, apart) * seen, taps)
    half = taps[None] @ x.covariance[:, None]  # (b, places, o, c)
    covariance = half.transpose(1, 2).flatten(2) @ mixed.transpose(0, 1).flatten(1).T
    if stride == 0:
        return covariance, _no_places(x)
    traces = torch.einsum("uoc,voc->uv", half.mean(0), taps) * seen
    steps = torch.arange(-_REACH, _REACH + 1, device=weight.device)
    lags = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 1, 1, 2) * stride
    alike = (_at(x.alike, lags + apart) * traces).sum((1, 2)).view(x.alike.shape)
    middle = alike[_REACH, _REACH]
    return (covariance + covariance.transpose(1, 2)) / 2, torch.where(middle > 0, alike / middle, _no_places(x))


def _batch_norm(module: nn.BatchNorm2d | nn.BatchNorm1d, x: Moments, name: str) -> Moments:
    if module.running_var is None:
        raise _unknown(f"{name!r}, batch normalisation without statistics of its own")
    scale = torch.rsqrt(module.running_var + module.eps)
    if module.weight is not None:
        scale = scale * module.weight
    return replace(x, mean=module(x.mean), covariance=x.covariance * (scale[:, None] * scale))


def _relu(x: Moments, *_: Any, **__: Any) -> Moments:
    """Exact means and variances of a Gaussian; covariances to second order in their correlation."""
    if x.flat:
        raise _unknown("a ReLU between flatten and a linear layer")
    mean = x.mean.flatten(2) if x.mean.ndim > 2 else x.mean[..., None]  # (b, c, places)
    variance = x.covariance.diagonal(dim1=1, dim2=2)[..., None]
    s = variance.sqrt()
    z = torch.where(s > 0, mean / torch.where(s > 0, s, 1), mean.sign() * 40)
    below, density = torch.special.ndtr(z), torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    moved = mean * below + s * density
    own = ((mean.square() + variance) * below + mean * s * density - moved.square()).clamp_min(0).mean(2)
    slope = torch.where(s > 0, density / torch.where(s > 0, s, 1), 0)
    count = mean.shape[2]
    first = below @ below.transpose(1, 2) / count * x.covariance
    second = slope @ slope.transpose(1, 2) / count * x.covariance.square() / 2
    covariance = first + second
    covariance = covariance - torch.diag_embed(covariance.diagonal(dim1=1, dim2=2)) + torch.diag_embed(own)
    return replace(x, mean=moved.view(x.mean.shape), covariance=covariance)


def _pool(x: Moments, height: int, width: int, mean: Tensor, *, step: int) -> Moments:
    """Averages over windows of places, `step` apart; 0 leaves none."""
    at = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(x.alike.device)
    apart = at[None] - at[:, None]
    share = _at(x.alike, apart).mean()
    if step == 0:
        return Moments(mean, x.covariance * share, _no_places(x))
    steps = torch.arange(-_REACH, _REACH + 1, device=x.alike.device)
    lags = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 1, 1, 2) * step
    alike = _at(x.alike, lags + apart).mean((1, 2)).view(x.alike.shape) / share
    return Moments(mean, x.covariance * share, alike)


def _average_pool(module: nn.AvgPool2d, x: Moments, name: str) -> Moments:
    size, stride = (v if isinstance(v, int) else v[0] for v in (module.kernel_size, module.stride))
    if module.kernel_size not in (size, (size, size)) or module.stride not in (stride, (stride, stride)):
        raise _unknown(f"{name!r}, a pool with unequal sides")
    if module.padding not in (0, (0, 0)):
        raise _unknown(f"{name!r}, a pool with padding")
    return _pool(x, size, size, module(x.mean), step=stride)


def _global_pool(module: nn.AdaptiveAvgPool2d, x: Moments, name: str) -> Moments:
    if module.output_size not in (1, (1, 1)):
        raise _unknown(f"{name!r}, an adaptive pool to more than one place")
    return _pool(x, x.mean.shape[2], x.mean.shape[3], module(x.mean), step=_REACH + 1)


def _mean(x: Moments, dim: Any, *_: Any, **__: Any) -> Moments:
    if x.mean.ndim != 4 or sorted(d % 4 for d in dim) != [2, 3]:
        raise _unknown("a mean over other axes than all places")
    return _pool(x, x.mean.shape[2], x.mean.shape[3], x.mean.mean((2, 3)), step=0)


def _add(x: Any, y: Any) -> Moments:
    if not (isinstance(x, Moments) and isinstance(y, Moments)):
        raise _unknown("a sum with something that has no noise")
    traces = [v.covariance.diagonal(dim1=1, dim2=2).sum() for v in (x, y)]
    total = traces[0] + traces[1]
    alike = torch.where(total > 0, (traces[0] * x.alike + traces[1] * y.alike) / torch.where(total > 0, total, 1), 0)
    alike = torch.where(total > 0, alike, x.alike)
    return Moments(x.mean + y.mean, x.covariance + y.covariance, alike)


def _flatten(x: Moments, start: int = 0, *_: Any, **__: Any) -> Moments:
    if start != 1:
        raise _unknown("a flatten that begins elsewhere than at the channels")
    if x.mean.ndim == 2:
        return x
    return replace(x, mean=x.mean.flatten(1), flat=(x.mean.shape[2], x.mean.shape[3]))


def _every_other(x: Moments, index: Any) -> Moments:
    steps = [part.step or 1 for part in index] if isinstance(index, tuple) else []
    whole = isinstance(index, tuple) and all(part.start is None and part.stop is None for part in index)
    if not whole or len(steps) != 4 or steps[:2] != [1, 1] or steps[2] != steps[3]:
        raise _unknown("an index that is no stride")
    return replace(_pool(x, 1, 1, x.mean[index], step=steps[2]), covariance=x.covariance)


def _pad(x: Moments, pad: Any, *_: Any, **__: Any) -> Moments:
    if len(pad) != 6 or any(pad[:4]):
        raise _unknown("a padding of places")
    return replace(x, mean=F.pad(x.mean, tuple(pad)), covariance=F.pad(x.covariance, (*pad[4:], *pad[4:])))


def _at(alike: Tensor, apart: Tensor) -> Tensor:
    """ρ at distances (…, 2); 0 beyond its reach."""
    inside = (apart.abs() <= _REACH).all(-1)
    where = apart.clamp(-_REACH, _REACH) + _REACH
    return alike[where[..., 0], where[..., 1]] * inside


def _no_places(x: Moments) -> Tensor:
    alike = torch.zeros_like(x.alike)
    alike[_REACH, _REACH] = 1
    return alike


def _same(module: nn.Module, x: Moments, name: str) -> Moments:
    return x


_MODULES: dict[Any, Callable[[Any, Moments, str], Moments]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.ReLU: lambda module, x, name: _relu(x),
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Flatten: lambda module, x, name: _flatten(x, module.start_dim),
    nn.Identity: _same,
    nn.modules.dropout._DropoutNd: _same,
}

_FUNCTIONS: dict[str, Callable[..., Moments]] = {
    "relu": _relu,
    "relu_": _relu,
    operator.add.__name__: _add,
    operator.iadd.__name__: _add,
    "mean": _mean,
    "flatten": _flatten,
    operator.getitem.__name__: _every_other,
    "_pad": _pad,
    "pad": _pad,
}
