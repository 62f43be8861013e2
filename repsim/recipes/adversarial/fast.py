"""Fast adversarial training: one step from a random start (Wong, Rice, Kolter 2020, arXiv 2001.03994).

It can overfit catastrophically: within one epoch the network learns to resist that one step alone, and its accuracy
under PGD collapses. A training minibatch is attacked by PGD after every epoch, and the training ends with the weights
of the epoch before where accuracy on it falls. The attacks see the network in eval mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.training.annealing import rising, shorter
from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, RADIUS, Preset, Recipe, Run
from repsim.robustness import ThreatModel, pgd


@dataclass(frozen=True)
class Fast(Recipe):
    """Cross-entropy on inputs moved by one step from a random start, with a watch for catastrophic overfitting."""

    name: ClassVar[str] = "fast"

    eps: float = field(default=0.1, metadata=RADIUS)  # linf radius of the training attack, pixels of [0, 1]
    step_size: float = 0.125  # length of its step, pixels of [0, 1]
    steps: int = 1  # gradient evaluations of the training attack; the paper's is one
    first_steps: int = 0  # steps in the first epoch, rising to `steps` while steps × step_size stays; 0: constant
    check_steps: int = 5  # gradient evaluations of the PGD attack after each epoch, steps of eps/4
    check_fall: float = 0.2  # fall of that accuracy from one epoch to the next that ends the training

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 10, "batch_size": 100, "learning_rate": 0.05, "eps": 0.3, "step_size": 0.375},
            "the attack of Wong et al. 2020; network and schedule are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "wrn28_10",
                "normalize": "cifar10",
                "batch_size": 128,
                "learning_rate": 0.2,
                "eps": 8 / 255,
                "step_size": 10 / 255,
            },
            "the authors' train_fgsm.py: 15 epochs in one cycle; WRN-28-10 for their PreAct ResNet-18",
        ),
    }

    def in_epoch(self, epoch: int, epochs: int) -> "Fast":
        steps = rising(self.first_steps, self.steps, epoch, epochs)
        return replace(self, steps=steps, step_size=shorter(self.step_size, self.steps, steps), first_steps=0)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        net.eval()
        low, high = (x - self.eps).clamp(0, 1), (x + self.eps).clamp(0, 1)
        start = (torch.rand(x.shape, generator=generator) * 2 - 1).to(x) * self.eps
        moved = (x + start).clamp(low, high)
        for _ in range(self.steps):
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(net(moved), y), moved)
            moved = (moved.detach() + self.step_size * gradient.sign()).clamp(low, high)
        net.train()
        return F.cross_entropy(net(moved), y)

    def after_epoch(self, run: Run) -> str:
        if self.eps == 0:  # no attack, so nothing to overfit to
            return ""
        now = self.robust_accuracy(run)
        before = float(run.memory.get("check.accuracy", torch.tensor(0.0)))
        kept = {f"check.weights.{key}": value for key, value in run.network.state_dict().items()}
        if before - now > self.check_fall:
            run.network.load_state_dict({key: run.memory[f"check.weights.{key}"] for key in run.network.state_dict()})
            return (
                f"catastrophic overfitting: PGD accuracy on a training minibatch fell from {before:.2f} to {now:.2f} "
                f"in epoch {run.epoch}; these are the weights after epoch {run.epoch - 1}"
            )
        run.memory.update({key: value.clone() for key, value in kept.items()})
        run.memory["check.accuracy"] = torch.tensor(now)
        return ""

    def robust_accuracy(self, run: Run) -> float:
        """Share of one minibatch, always the same, that is answered right under PGD."""
        generator = torch.Generator().manual_seed(run.seed)
        rows = torch.randperm(len(run.data), generator=generator)[: self.batch_size]
        weights = next(run.network.parameters())
        x, y = run.data.pixels(rows).to(weights), run.data.labels[rows].to(weights.device)
        run.network.eval()
        threat = ThreatModel("linf", self.eps)
        x = pgd(run.network, x, y, threat, steps=self.check_steps, step_size=self.eps / 4, generator=generator)
        with torch.no_grad():
            return float((run.network(x).argmax(1) == y).double().mean())


RECIPE = Fast
