"""Mixup: images and labels of two samples, mixed in the same proportion (Zhang et al. 2018, arXiv 1710.09412)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, Preset, Recipe


@dataclass(frozen=True)
class Mixup(Recipe):
    """Cross-entropy on λ·x + (1−λ)·x', weighed by the same λ ~ Beta(α, α), one per batch."""

    name: ClassVar[str] = "mixup"

    alpha: float = 1.0  # of the Beta distribution; 0 mixes nothing

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 20, "batch_size": 128, "learning_rate": 0.05},
            "this project: a small convolutional network, one cycle of 20 epochs",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "wrn28_10",
                "normalize": "cifar10",
                "epochs": 200,
                "batch_size": 128,
                "decay_epochs": (100, 150),
                "weight_decay": 1e-4,
            },
            "Zhang et al. 2018, section 3.2: α = 1, 200 epochs, the rate to a tenth after 100 and 150",
        ),
    }

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        share, other = self.draw(generator), torch.randperm(len(x), generator=generator).to(x.device)
        answers = net(share * x + (1 - share) * x[other])
        return share * F.cross_entropy(answers, y) + (1 - share) * F.cross_entropy(answers, y[other])

    def draw(self, generator: torch.Generator) -> float:
        """λ in [0, 1]."""
        seed = int(torch.randint(2**62, (), generator=generator))  # torch draws from Beta without a generator only
        return float(np.random.default_rng(seed).beta(self.alpha, self.alpha)) if self.alpha > 0 else 1.0


RECIPE = Mixup
