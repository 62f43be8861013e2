"""Training on Gaussian noise, for certificates by randomised smoothing (Cohen et al. 2019, arXiv 1902.02918)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.training.recipe import CIFAR_CROPS, DEVIATION, DIGITS, MNIST, Preset, Recipe


@dataclass(frozen=True)
class Noise(Recipe):
    """Cross-entropy on images with Gaussian noise; the noise leaves [0, 1], as it does in certification."""

    name: ClassVar[str] = "noise"

    # Standard deviation of the noise, pixels of [0, 1]: the one to certify with.
    sigma: float = field(default=0.25, metadata=DEVIATION)

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 20, "batch_size": 128, "learning_rate": 0.05},
            "this project: a small convolutional network, one cycle of 20 epochs",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet110",
                "normalize": "cifar10",
                "epochs": 90,
                "batch_size": 256,
                "decay_epochs": (30, 60),
                "weight_decay": 1e-4,
            },
            "Cohen et al. 2019: ResNet-110, 90 epochs, the rate to a tenth every 30",
        ),
    }

    def certified_sigmas(self) -> tuple[float, ...]:
        return (self.sigma,) if self.sigma > 0 else ()

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x + self.sigma * torch.randn(x.shape, generator=generator).to(x)), y)


RECIPE = Noise
