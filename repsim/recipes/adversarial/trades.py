"""TRADES: accuracy on clean inputs, and answers that do not change nearby (Zhang et al. 2019, arXiv 1901.08573).

The loss is CE(f(x), y) + β · KL(f(x) ‖ f(x')), where x' maximises that divergence inside an linf ball. The attack sees
the network in eval mode and needs no labels. Both inputs are then learned in training mode, each with the statistics
of its own batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.training.annealing import rising, shorter
from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, RADIUS, Preset, Recipe

Self = TypeVar("Self", bound="TRADES")


@dataclass(frozen=True)
class TRADES(Recipe):
    """Cross-entropy on clean inputs plus β times the divergence of the answers to moved ones."""

    name: ClassVar[str] = "trades"

    eps: float = field(default=0.1, metadata=RADIUS)  # linf radius of the training attack, pixels of [0, 1]
    steps: int = 7  # gradient evaluations per attack
    step_size: float = 0.025  # length of an attack step, pixels of [0, 1]
    beta: float = 6.0  # weight of the divergence, of nats per image
    start_sigma: float = 0.001  # standard deviation of the random start, pixels of [0, 1]
    first_steps: int = 0  # steps in the first epoch, rising to `steps` while steps × step_size stays; 0: constant

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {
                **MNIST,
                "epochs": 100,
                "batch_size": 128,
                "learning_rate": 0.01,
                "decay_epochs": (54,),  # the code's later drops sit behind an elif that is never reached
                "weight_decay": 0.0,
                "eps": 0.3,
                "steps": 40,
                "step_size": 0.01,
                "beta": 1.0,
            },
            "the authors' train_trades_mnist.py; this project's small network for their four convolutions",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "wrn28_10",
                "epochs": 76,
                "batch_size": 128,
                "decay_epochs": (74,),
                "weight_decay": 2e-4,
                "eps": 0.031,
                "steps": 10,
                "step_size": 0.007,
            },
            "the authors' train_trades_cifar10.py; WRN-28-10 for their WRN-34-10",
        ),
    }

    def in_epoch(self: Self, epoch: int, epochs: int) -> Self:
        steps = rising(self.first_steps, self.steps, epoch, epochs)
        return replace(self, steps=steps, step_size=shorter(self.step_size, self.steps, steps), first_steps=0)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.eps == 0 or self.beta == 0:  # nothing is moved, or nothing depends on it
            return F.cross_entropy(net(x), y)
        net.eval()
        moved = self.attack(net, x, generator)
        net.train()
        clean = net(x)
        return F.cross_entropy(clean, y) + self.beta * divergence(clean, net(moved))

    def attack(self, net: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs inside the ball, and inside [0, 1], whose answers diverge most from those to x."""
        with torch.no_grad():
            clean = net(x)
        low, high = (x - self.eps).clamp(0, 1), (x + self.eps).clamp(0, 1)
        moved = (x + self.start_sigma * torch.randn(x.shape, generator=generator).to(x)).clamp(low, high)
        for _ in range(self.steps):
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(divergence(clean, net(moved)), moved)
            moved = (moved.detach() + self.step_size * gradient.sign()).clamp(low, high)
        return moved


def divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """KL(softmax(clean) ‖ softmax(moved)) in nats, its mean over the batch."""
    return F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)


RECIPE = TRADES
