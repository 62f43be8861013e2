"""Free adversarial training: one gradient for the weights and for the attack (Shafahi et al. 2019, arXiv 1904.12843).

A batch is learned several times in a row. Each gradient moves the weights down and the inputs up, so that the attack
costs nothing beside the training. The attack thus sees the network in training mode. Where the inputs stand is kept
for the next batch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.training.annealing import rising
from repsim.recipes.training.recipe import CIFAR_CROPS, COUNT, MNIST, RADIUS, Loss, Preset, Recipe, Run, Stage


@dataclass(frozen=True)
class Free(Recipe):
    """Cross-entropy on inputs that move by a full radius with every replay of a batch.

    The epochs are divided by the replays, rounded up, so that the cost is that of as many epochs of standard training.
    """

    name: ClassVar[str] = "free"

    epochs: int = field(default=60, metadata=COUNT)  # passes over the training set, replays counted
    # Linf radius, and length of a step of the inputs, pixels of [0, 1].
    eps: float = field(default=0.1, metadata=RADIUS)
    replays: int = field(default=4, metadata=COUNT)  # steps on a batch before the next one
    first_replays: int = 0  # in the first epoch, rising to `replays`; each moves by a full radius; 0: constant

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": Preset({}, "this project: a small residual network on 8×8 images, 15 epochs of 4 replays"),
        "mnist": Preset(
            {**MNIST, "epochs": 80, "batch_size": 128, "learning_rate": 0.02, "eps": 0.3, "replays": 8},
            "this project: 10 epochs of the 8 replays of Wong et al. 2020",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "wrn28_10",
                "normalize": "cifar10",
                "epochs": 88,
                "batch_size": 128,
                "learning_rate": 0.04,
                "eps": 8 / 255,
                "replays": 8,
            },
            "Wong et al. 2020 (arXiv 2001.03994), train_free.py: 11 epochs of 8 replays; WRN-28-10 for their ResNet",
        ),
    }

    def stages(self) -> tuple[Stage, ...]:
        mean = (self.replays + (self.first_replays or self.replays)) / 2
        return (Stage(math.ceil(self.epochs / mean), self.learning_rate, self.loss),)

    def in_epoch(self, epoch: int, epochs: int) -> "Free":
        return replace(self, replays=rising(self.first_replays, self.replays, epoch, epochs), first_replays=0)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x), y)

    def update(self, run: Run, loss: Loss, x: Tensor, y: Tensor) -> None:
        delta = run.memory.get("delta", torch.zeros_like(x)).to(x)
        delta = delta if delta.shape == x.shape else torch.zeros_like(x)
        for _ in range(self.replays):
            moved = (x + delta).clamp(0, 1).requires_grad_()
            run.descend(loss(run.network, moved, y, run.generator))
            assert moved.grad is not None
            delta = (moved.detach() - x + self.eps * moved.grad.sign()).clamp(-self.eps, self.eps)
        run.memory["delta"] = delta


RECIPE = Free
