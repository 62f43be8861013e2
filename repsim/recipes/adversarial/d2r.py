"""D2R: a robust student beside a guide that learns the labels (code of 2025: lusti-Yu/D2R).

Both are trained at once. The guide g sees clean images and their labels. The student f never sees a label: it learns
to answer at x', where its answers are furthest from the guide's, as the guide does at x. What is lowered is

CE(g(x), y) + mean (f(x') − g(x))² + b / K · |KL(f(x) ‖ g(x)) − KL(g(x) ‖ f(x))| + c / K · KL(f(x') ‖ g(x)),

with logits in the second term, b and c as `balance` and `imitation`, and divergences that are means over the batch;
the authors' are means over the K classes too. No paper was at hand and the code has no description: this is our reading
of it. Its 1e-5 inside a logarithm is left out, and so is an l2 attack that cannot run there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim._common.messages import did_you_mean, message
from repsim.networks.answers import frozen
from repsim.networks.load import load_model
from repsim.recipes.adversarial.trades import divergence
from repsim.recipes.distillation import softened
from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, RADIUS, Loss, Preset, Recipe, Run
from repsim.robustness import ThreatModel
from repsim.robustness.gradient import climb


@dataclass(frozen=True)
class D2R(Recipe):
    """A student that imitates, at adversarial inputs, a guide of its own architecture trained beside it."""

    name: ClassVar[str] = "d2r"

    eps: float = field(default=0.1, metadata=RADIUS)  # linf radius of the training attack, pixels of [0, 1]
    steps: int = 7  # gradient evaluations per attack
    step_size: float = 0.025  # length of an attack step, pixels of [0, 1]
    start_sigma: float = 0.001  # standard deviation of the random start, pixels of [0, 1]
    squared: float = 1.0  # weight of the squared distance between the logits
    balance: float = 20.0  # weight of the difference between the two divergences at clean inputs
    imitation: float = 30.0  # weight of the divergence at adversarial inputs
    give: str = "student"  # which network the training gives: "student" or "guide"

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 20, "learning_rate": 0.05, "eps": 0.3, "steps": 40, "step_size": 0.01},
            "the attack of Madry et al. 2018, the authors' weights; network and schedule are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 100,
                "batch_size": 128,
                "decay_epochs": (76, 91),
                "weight_decay": 2e-4,
                "eps": 0.031,
                "steps": 10,
                "step_size": 0.007,
            },
            "the authors' script, without its slower first epoch; ResNet-20 for their WRN-34-10",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.give not in ("student", "guide"):
            advice = did_you_mean(self.give, ("student", "guide"))
            raise ValueError(message("recipe", "D2R.give must be student or guide", repr(self.give), advice))

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x), y)

    def update(self, run: Run, loss: Loss, x: Tensor, y: Tensor) -> None:
        guide = self.guide_of(run, x)
        moved = self.attack(run.network, guide, x, run.generator)
        run.network.train()
        guide.train()
        run.gradients += len(x)  # of the guide; those of the student are counted as they pass
        run.descend(self.both(run.network, guide, x, moved, y))

    def both(self, student: nn.Module, guide: nn.Module, x: Tensor, moved: Tensor, y: Tensor) -> Tensor:
        """What one step lowers, for both networks together."""
        wanted = guide(x)
        total = F.cross_entropy(wanted, y)
        if self.squared or self.imitation:
            answers, classes = student(moved), wanted.shape[1]
            total = total + self.squared * F.mse_loss(answers, wanted)
            total = total + self.imitation / classes * divergence(answers, wanted)
        if self.balance:
            clean = student(x)
            total = (
                total + self.balance / wanted.shape[1] * (divergence(clean, wanted) - divergence(wanted, clean)).abs()
            )
        return total

    def attack(self, student: nn.Module, guide: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs inside the ball at which the student, in eval mode, answers least as the guide does at x."""
        if self.eps == 0:
            return x
        threat = ThreatModel("linf", self.eps)
        student.eval()
        guide.eval()
        with torch.no_grad():
            wanted = guide(x)
        start = threat.project(self.start_sigma * torch.randn(x.shape, generator=generator).to(x))
        with frozen(student):
            return climb(
                lambda inputs: softened(wanted, student(inputs), 1.0),
                x,
                start,
                threat,
                self.steps,
                self.step_size,
                "d2r",
            )

    def guide_of(self, run: Run, x: Tensor) -> nn.Module:
        """The guide of a training: new, as the state file has it, or as the last batch left it."""
        if run.beside is None:
            run.network.eval()
            with torch.no_grad():
                classes = run.network(x[:1]).shape[1]
            seed = int(np.random.SeedSequence([run.seed, 4]).generate_state(1)[0])
            guide = load_model(self.architecture, normalize=self.normalize, num_classes=classes, seed=seed)
            run.beside = guide.to(x.device)
            rate = run.optimizer.param_groups[0]["lr"]  # of this very step
            run.optimizer.add_param_group({"params": list(guide.parameters()), "lr": rate})
            if any(key.startswith("guide.") for key in run.memory):
                state = {key: run.memory[f"guide.{key}"] for key in guide.state_dict()}
                guide.load_state_dict(state)
                for i, parameter in enumerate(guide.parameters()):
                    if f"momentum.{i}" in run.memory:
                        momentum = run.memory[f"momentum.{i}"].to(parameter)
                        run.optimizer.state[parameter]["momentum_buffer"] = momentum
        return run.beside

    def after_epoch(self, run: Run) -> str:
        assert run.beside is not None
        for key, value in run.beside.state_dict().items():
            run.memory[f"guide.{key}"] = value.clone()
        for i, parameter in enumerate(run.beside.parameters()):
            momentum = run.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                run.memory[f"momentum.{i}"] = momentum.clone()
        if self.give == "guide" and run.epoch == self.epochs:
            run.network.load_state_dict(run.beside.state_dict())
        return ""


RECIPE = D2R
