"""Standard training: cross-entropy on the images as they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, Preset, Recipe


@dataclass(frozen=True)
class Standard(Recipe):
    """Cross-entropy on the images as they are."""

    name: ClassVar[str] = "standard"

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 10, "batch_size": 128, "learning_rate": 0.05},
            "this project: a small convolutional network, one cycle of 10 epochs",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 164,
                "batch_size": 128,
                "decay_epochs": (82, 123),
                "weight_decay": 1e-4,
            },
            "He et al. 2016, section 4.2 (arXiv 1512.03385): 64,000 steps, the rate to a tenth at 32,000 and 48,000",
        ),
    }

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x), y)


RECIPE = Standard
