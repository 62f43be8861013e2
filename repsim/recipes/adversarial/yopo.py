"""YOPO-m-n: attacks that pass through the first layer alone (Zhang et al. 2019, arXiv 1905.00877).

The loss depends on the inputs through the first layer only. One full pass gives the slope of the loss in that layer's
output; while it is held fixed, n steps move the inputs at the price of the first layer. After m such rounds the
weights take one step down the mean of the m gradients: the first layer's at the moved inputs, the others' where each
round began.

The published code differs in two ways that are not followed here. It also leaves the first layer the gradient of the
full pass, so that this layer is learned at twice its gradient; and its first pass sees inputs outside [0, 1]. Without
either a radius of 0 is plain training. It also doubles the learning rate, which the preset of CIFAR-10 does too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.recipes.training.annealing import rising, shorter
from repsim.recipes.training.recipe import CIFAR_CROPS, COUNT, MNIST, RADIUS, Loss, Preset, Recipe, Run


@dataclass(frozen=True)
class YOPO(Recipe):
    """Cross-entropy on inputs that move by the first layer's gradient between few full passes."""

    name: ClassVar[str] = "yopo"

    eps: float = field(default=0.1, metadata=RADIUS)  # linf radius of the training attack, pixels of [0, 1]
    rounds: int = field(default=5, metadata=COUNT)  # m: full passes per batch
    steps: int = 3  # n: steps of the inputs after each, through the first layer alone
    step_size: float = 0.025  # length of such a step, pixels of [0, 1]
    first_rounds: int = 0  # in the first epoch, rising to `rounds` while rounds × step_size stays; 0: constant

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": Preset({}, "this project: a small residual network on 8×8 images, YOPO-5-3"),
        "mnist": Preset(
            {
                **MNIST,
                "epochs": 40,
                "batch_size": 128,
                "learning_rate": 0.01,
                "decay_epochs": (30, 35, 39),
                "eps": 0.3,
                "steps": 10,
                "step_size": 0.01,
            },
            "the authors' code for MNIST, YOPO-5-10; this project's small network for theirs",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 36,
                "batch_size": 256,
                "learning_rate": 0.2,
                "decay_epochs": (30, 34),
                "eps": 8 / 255,
                "step_size": 2 / 255,
            },
            "the authors' code for CIFAR-10, YOPO-5-3; ResNet-20 for their PreAct ResNet-18",
        ),
    }

    def in_epoch(self, epoch: int, epochs: int) -> "YOPO":
        rounds = rising(self.first_rounds, self.rounds, epoch, epochs)
        step_size = shorter(self.step_size, self.rounds, rounds)
        return replace(self, rounds=rounds, step_size=step_size, first_rounds=0)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x), y)

    def update(self, run: Run, loss: Loss, x: Tensor, y: Tensor) -> None:
        if self.eps == 0:  # nothing is moved
            return super().update(run, loss, x, y)
        first = first_layer(run.network)
        low, high = (x - self.eps).clamp(0, 1), (x + self.eps).clamp(0, 1)
        start = (torch.rand(x.shape, generator=run.generator) * 2 - 1).to(x) * self.eps
        moved = (x + start).clamp(low, high)
        run.optimizer.zero_grad()
        for _ in range(self.rounds):
            with cut_behind(first) as cuts:
                (loss(run.network, moved, y, run.generator) / self.rounds).backward()
            slope = cuts[0].grad if cuts else None
            if slope is None:
                raise _never_ran()
            for _ in range(self.steps):
                moved.requires_grad_()
                (gradient,) = torch.autograd.grad((answer_of(first, run.network, moved) * slope).sum(), moved)
                moved = (moved.detach() + self.step_size * gradient.sign()).clamp(low, high)
            (answer_of(first, run.network, moved) * slope).sum().backward()
        run.optimizer.step()
        return None


def first_layer(net: nn.Module) -> nn.Module:
    """The first convolution or linear layer, in the order of definition."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            return module
    advice = "Choose an architecture that begins with one"
    raise ValueError(message("yopo", "the network must have a convolution or a linear layer", "none", advice))


@contextmanager
def cut_behind(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, gradients end at the layer's output, which the list is given as a leaf."""
    cuts: list[Tensor] = []

    def cut(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if cuts:
            got = "a layer that runs twice"
            advice = "Choose an architecture whose first layer sees the images once"
            raise ValueError(message("yopo", "all must pass through the first layer once", got, advice))
        cuts.append(output.detach().requires_grad_())
        return cuts[0].clone()  # what follows may work in place

    handle = layer.register_forward_hook(cut)
    try:
        yield cuts
    finally:
        handle.remove()


def answer_of(layer: nn.Module, net: nn.Module, x: Tensor) -> Tensor:
    """What the layer answers to x; the network runs no further than that."""

    def stop(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        raise _Reached(output)

    handle = layer.register_forward_hook(stop)
    try:
        net(x)
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise _never_ran()


def _never_ran() -> ValueError:
    advice = "Choose an architecture whose first layer sees the images"
    return ValueError(message("yopo", "the network must run its first layer", "one that it does not", advice))


class _Reached(Exception):
    """Ends a forward pass where its result is known."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


RECIPE = YOPO
