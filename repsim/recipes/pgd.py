"""Adversarial training with projected gradient descent (Madry et al. 2018, arXiv 1706.06083).

Each batch is replaced by inputs that raise the loss inside an linf ball; the network then learns these. The
attack sees the network in eval mode, so that its batch statistics are those of clean training batches.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.attacks import ThreatModel, pgd
from repsim.recipes._training import Recipe


@dataclass(frozen=True)
class PGD(Recipe):
    """Cross-entropy on PGD adversarial inputs."""

    eps: float = 0.1  # linf radius of the training attack, pixels of [0, 1]
    steps: int = 7  # gradient evaluations per attack
    step_size: float = 0.025  # length of an attack step, pixels of [0, 1]

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        net.eval()
        threat = ThreatModel("linf", self.eps)
        x = pgd(net, x, y, threat, steps=self.steps, step_size=self.step_size, generator=generator)
        net.train()
        return F.cross_entropy(net(x), y)


RECIPE = PGD
