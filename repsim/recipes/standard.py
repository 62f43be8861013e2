"""Standard training: cross-entropy on the images as they are."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes._training import Recipe


@dataclass(frozen=True)
class Standard(Recipe):
    """Cross-entropy on the images as they are."""

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x), y)


RECIPE = Standard
