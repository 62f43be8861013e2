"""`Network`: a network that holds its own normalisation; and looking through what wraps one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.messages import did_you_mean, message, shown

Normalize = str | tuple[Sequence[float], Sequence[float]] | None

#: Channel means and standard deviations of the training images, in pixels of [0, 1].
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Network(nn.Module):
    """A network with its normalisation inside: takes pixels in [0, 1].

    Args:
        net: The bare architecture; layer names are its module names.
        name: What the network is called in results.
        normalize: "cifar10", "imagenet", (means, stds) per channel, or None for none.
        provenance: Architecture, weight file and digest, normalisation, notes of the loader.

    All are attributes but `normalize`, which becomes the buffers `mean` and `std` of shape (1, channels, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        normalize: Normalize = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.name = net, name
        mean, std = _mean_std(normalize) if normalize is not None else ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.normalized = normalize is not None
        self.provenance = dict(provenance or {})

    def forward(self, x: Float[Tensor, "b c h w"]) -> Any:
        if not self.normalized:
            return self.net(x)
        channels = self.mean.shape[1]
        if channels not in (1, x.shape[1]):
            got = f"images of {x.shape[1]} channels, shape {tuple(x.shape)}"
            advice = "Choose other data, or the normalisation that the network was trained with"
            raise ValueError(message("Network", f"normalisation is for {channels} channels", got, advice))
        return self.net((x - self.mean) / self.std)


def _mean_std(normalize: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if isinstance(normalize, str):
        if normalize not in NORMALIZATIONS:
            advice = did_you_mean(normalize, NORMALIZATIONS)
            raise ValueError(message("load_model", "normalize must be known by name", repr(normalize), advice))
        return NORMALIZATIONS[normalize]
    try:
        mean, std = (tuple(float(v) for v in part) for part in normalize)
    except (TypeError, ValueError):
        mean, std = (), ()
    finite = all(map(math.isfinite, mean + std))
    if not mean or len(mean) != len(std) or not finite or min(std) <= 0:
        advice = "Write, say, normalize=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))"
        must = "normalize must be (means, positive stds) per channel"
        raise ValueError(message("load_model", must, shown(normalize), advice))
    return mean, std


def bare(net: nn.Module, until: type[nn.Module] | None = None) -> nn.Module:
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


def name_of(net: nn.Module) -> str:
    """What results call a network."""
    return getattr(bare(net, until=Network), "name", None) or type(bare(net)).__name__


def provenance_of_network(net: nn.Module) -> dict[str, Any]:
    """Where a network came from, as far as it says."""
    inside = bare(net)
    known = getattr(bare(net, until=Network), "provenance", {"architecture": type(inside).__name__})
    return {**known, "parameters": sum(p.numel() for p in inside.parameters() if not nn.parameter.is_lazy(p))}
