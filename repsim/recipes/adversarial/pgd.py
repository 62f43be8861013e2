"""Adversarial training with projected gradient descent (Madry et al. 2018, arXiv 1706.06083).

Each batch is replaced by inputs that raise the loss inside an linf ball; the network then learns these. The
attack sees the network in eval mode, so that its batch statistics are those of the batches that are learned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.training.annealing import rising, shorter
from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, RADIUS, Preset, Recipe
from repsim.robustness import ThreatModel, pgd

Self = TypeVar("Self", bound="PGD")


@dataclass(frozen=True)
class PGD(Recipe):
    """Cross-entropy on PGD adversarial inputs."""

    name: ClassVar[str] = "pgd"

    eps: float = field(default=0.1, metadata=RADIUS)  # linf radius of the training attack, pixels of [0, 1]
    steps: int = 7  # gradient evaluations per attack
    step_size: float = 0.025  # length of an attack step, pixels of [0, 1]
    first_steps: int = 0  # steps in the first epoch, rising to `steps` while steps × step_size stays; 0: constant

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 20, "learning_rate": 0.05, "eps": 0.3, "steps": 40, "step_size": 0.01},
            "the attack of Madry et al. 2018; network and schedule are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "wrn28_10",
                "normalize": "cifar10",
                "epochs": 150,
                "batch_size": 128,
                "decay_epochs": (50, 100),
                "eps": 8 / 255,
                "step_size": 2 / 255,
            },
            "Madry et al. 2018 (7 steps of 2/255; WRN-28-10 for their WRN-34-10), with the schedule of the robustness "
            "package: 150 epochs, the rate to a tenth after 50 and 100",
        ),
    }

    def in_epoch(self: Self, epoch: int, epochs: int) -> Self:
        steps = rising(self.first_steps, self.steps, epoch, epochs)
        return replace(self, steps=steps, step_size=shorter(self.step_size, self.steps, steps), first_steps=0)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        net.eval()
        threat = ThreatModel("linf", self.eps)
        x = pgd(net, x, y, threat, steps=self.steps, step_size=self.step_size, generator=generator)
        net.train()
        return F.cross_entropy(net(x), y)


RECIPE = PGD
