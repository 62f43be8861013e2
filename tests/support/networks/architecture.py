"""One network in several builds, and the inputs that networks take."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """One network in several builds.

    Attributes:
        name: What the table calls it.
        library: "torchvision", "timm", "transformers" or "torch"; it must be installed.
        build: (size, wide) -> network. Size 0 is the one that is asked about, size 1 another one.
        data: (size, n) -> n inputs.
        wide: Whether there is a build with other widths, numbers of heads, and features per head.
    """

    name: str
    library: str
    build: Callable[[int, bool], nn.Module]
    data: Callable[[int, int], Tensor]
    wide: bool = False


def images(side: int, other: int | None = None) -> Callable[[int, int], Tensor]:
    """Pictures of random pixels."""
    sides = side, other or 2 * side
    return lambda size, n: torch.rand(n, 3, sides[size], sides[size])


def ids(size: int, n: int) -> Tensor:
    """Texts of 12 and 17 words."""
    return torch.randint(3, 90, (n, 12 + 5 * size))


def sound(size: int, n: int) -> Tensor:
    """Waves."""
    return torch.rand(n, 2000 + 600 * size)
