"""Accuracy on clean images, and answers that Gaussian noise does not change (Sehwag et al. 2020, arXiv 2002.10509).

The loss is CE(f(x), y) + β · KL(f(x) ‖ f(x + σ·N)): TRADES with noise in place of an attack, which the authors of
HYDRA train for certificates by randomised smoothing. The noise leaves [0, 1], as it does in certification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.adversarial.trades import divergence
from repsim.recipes.training.recipe import CIFAR_CROPS, DEVIATION, DIGITS, MNIST, Preset, Recipe


@dataclass(frozen=True)
class Consistency(Recipe):
    """Cross-entropy on clean images plus β times the divergence of the answers to noisy ones."""

    name: ClassVar[str] = "consistency"

    # Standard deviation of the noise, pixels of [0, 1]: the one to certify with.
    sigma: float = field(default=0.25, metadata=DEVIATION)
    beta: float = 6.0  # weight of the divergence, of nats per image

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 20, "batch_size": 128, "learning_rate": 0.05},
            "the authors' code of HYDRA for σ and β; network and schedule are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 100,
                "batch_size": 128,
                "weight_decay": 1e-4,
            },
            "the authors' code of HYDRA: σ = 0.25, β = 6, 100 epochs; ResNet-20 for their WRN-28-4",
        ),
    }

    def certified_sigmas(self) -> tuple[float, ...]:
        return (self.sigma,) if self.sigma > 0 else ()

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        clean = net(x)
        if self.sigma == 0 or self.beta == 0:  # nothing is moved, or nothing depends on it
            return F.cross_entropy(clean, y)
        noisy = net(x + self.sigma * torch.randn(x.shape, generator=generator).to(x))
        return F.cross_entropy(clean, y) + self.beta * divergence(clean, noisy)


RECIPE = Consistency
