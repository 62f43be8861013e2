"""Distillation: a student that learns to answer, or to see, as a trained teacher does.

Three terms, each with a weight: the labels; the teacher's softened answers (Hinton et al. 2015, arXiv 1503.02531), at
adversarial inputs if there is a radius (ARD: Goldblum et al. 2020, arXiv 1905.09747); and the likeness of a layer's
features within a batch, 1 − CKA. The teacher is a file that a recipe wrote; it stays in eval mode and sees clean
images alone. Teacher and student may be of different architectures, with a normalisation each of its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim._common.messages import did_you_mean, message
from repsim.networks.answers import frozen
from repsim.networks.load import load_model
from repsim.networks.network import Network
from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, RADIUS, Preset, Recipe
from repsim.robustness import ThreatModel
from repsim.robustness.gradient import climb


@dataclass(frozen=True)
class Distillation(Recipe):
    """α · CE(student, y) + (1 − α) · T² · KL(teacher ‖ student) + relation · (1 − CKA of their features)."""

    name: ClassVar[str] = "distillation"

    teacher: str = ""  # the checkpoint of a trained network; needed unless α is 1 and relation 0
    alpha: float = 0.1  # share of the labels in the loss of the answers, in [0, 1]
    temperature: float = 4.0  # T, by which both networks' logits are divided; the slope is multiplied by T²
    # Linf radius of the inputs at which the student shall answer as the teacher does at clean ones.
    eps: float = field(default=0.0, metadata=RADIUS)
    steps: int = 7  # gradient evaluations per attack
    step_size: float = 0.025  # length of an attack step, pixels of [0, 1]
    relation: float = 0.0  # weight of 1 − CKA
    layer: str = ""  # of the student, whose features are compared; none: what its last linear layer is given
    teacher_layer: str = ""  # of the teacher

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 20, "batch_size": 128, "learning_rate": 0.05, "step_size": 0.075},
            "Hinton et al. 2015 for the loss, T = 4; network and schedule are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 30,
                "batch_size": 128,
                "steps": 10,
                "step_size": 2 / 255,
            },
            "Hinton et al. 2015 for the loss, T = 4; network and schedule are this project's",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("alpha", 0.0, 1.0), ("temperature", 1e-3, 1e3)):
            if not low <= getattr(self, name) <= high:
                must = f"Distillation.{name} must be from {low:g} to {high:g}"
                raise ValueError(message("recipe", must, f"{getattr(self, name):g}", "Correct the setting"))

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.alpha == 1 and self.relation == 0:
            return F.cross_entropy(net(x), y)
        teacher = teacher_of(self.teacher, str(x.device))
        with torch.no_grad(), given_to(teacher, self.teacher_layer) as seen:
            wanted = teacher(x)
        moved = x if self.eps == 0 or self.alpha == 1 else self.attack(net, x, wanted, generator)
        with given_to(net, self.layer) as shown:
            clean = net(x)
        _check_classes(wanted, clean)
        answers = clean if moved is x else net(moved)
        total = self.alpha * F.cross_entropy(clean, y) if self.alpha else clean.new_zeros(())
        if self.alpha < 1:
            total = total + (1 - self.alpha) * self.temperature**2 * softened(wanted, answers, self.temperature).mean()
        if self.relation:
            from repsim.metrics.losses import cka_loss

            total = total + self.relation * cka_loss(shown[0].flatten(1), seen[0].flatten(1), debiased=False)
        return total

    def attack(self, net: nn.Module, x: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs inside the ball at which the student, in eval mode, answers least as the teacher does at x."""
        threat = ThreatModel("linf", self.eps)
        net.eval()
        with frozen(net):
            moved = climb(
                lambda inputs: softened(wanted, net(inputs), 1.0),
                x,
                threat.start(x, generator),
                threat,
                self.steps,
                self.step_size,
                "distillation",
            )
        net.train()
        return moved

    def facts(self, network: nn.Module) -> dict[str, Any]:
        if not self.teacher:
            return {}
        return {
            "teacher": {"file": Path(self.teacher).name, "sha256": _teacher(*_stamp(self.teacher)).provenance["sha256"]}
        }


def softened(wanted: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """KL(softmax(wanted / T) ‖ softmax(answers / T)) of each image, in nats, from logits (b, classes)."""
    target, found = (wanted / temperature).log_softmax(1), (answers / temperature).log_softmax(1)
    return F.kl_div(found, target, reduction="none", log_target=True).sum(1)


def teacher_of(path: str, device: str) -> Network:
    """The network of a checkpoint, in eval mode and without gradients, on a device."""
    if not path:
        advice = "On the command line pass --set teacher=FILE.safetensors"
        raise ValueError(message("distillation", "teacher must name the checkpoint of a network", "none", advice))
    return _teacher(*_stamp(path)).to(device)


@contextmanager
def given_to(net: nn.Module, layer: str) -> Iterator[list[Any]]:
    """Inside, the list is given what a layer answers; of no layer, what the last linear layer is given."""
    inside = net.net if isinstance(net, Network) else net
    modules = dict(inside.named_modules())
    found: list[Any] = []
    if layer:
        if layer not in modules:
            must, advice = "the layer to compare must be a module of the network", did_you_mean(layer, modules)
            raise ValueError(message("distillation", must, repr(layer), advice))
        handle = modules[layer].register_forward_hook(lambda _, __, output: found.append(output))
    else:
        linear = [module for module in modules.values() if isinstance(module, nn.Linear)]
        if not linear:
            must, advice = "the network must end in a linear layer, or a layer be named", "Set layer and teacher_layer"
            raise ValueError(message("distillation", must, "none", advice))
        handle = linear[-1].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        handle.remove()


def _stamp(path: str) -> tuple[str, int]:
    """A file and when it was written, so that another one of its name is read anew."""
    return path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0


@lru_cache(maxsize=2)
def _teacher(path: str, written: int) -> Network:
    return load_model(path).requires_grad_(False)


def _check_classes(wanted: Tensor, answers: Tensor) -> None:
    if wanted.shape != answers.shape:
        must = f"the teacher must answer for the student's {answers.shape[1]} classes"
        got, advice = f"{wanted.shape[1]}", "Choose a teacher trained on the same classes"
        raise ValueError(message("distillation", must, got, advice))


RECIPE = Distillation
