"""The training loop that every recipe shares."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._progress import progress_bar
from repsim.attacks import ThreatModel, pgd
from repsim.checkpoints import save_checkpoint
from repsim.data import ImageSet
from repsim.models import Network, load_model


@dataclass(frozen=True)
class Recipe(ABC):
    """How a network is trained. Subclasses add their own settings and say what a batch costs."""

    architecture: str = "digits_resnet8"  # a name that load_model knows
    epochs: int = 15  # passes over the training set
    batch_size: int = 64  # images per step
    learning_rate: float = 0.1  # highest rate of one cycle: linear up over the first fifth, linear down to 0
    momentum: float = 0.9  # of Nesterov's SGD
    weight_decay: float = 5e-4  # L2 penalty on all parameters
    eval_eps: float = 0.1  # linf radius of the reported PGD-20 accuracy, pixels of [0, 1]

    @abstractmethod
    def loss(
        self, net: nn.Module, x: Float[Tensor, "b c h w"], y: Int[Tensor, " b"], generator: torch.Generator
    ) -> Tensor:
        """What one step lowers, for a network in training mode."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and its record (architecture, settings, seed, data, versions, scores)."""

    network: Network
    record: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Writes a checkpoint that `load_model(path)` reads."""
        return save_checkpoint(path, self.network.net, self.record)


def train(recipe: Recipe, data: ImageSet, test: ImageSet, *, seed: int, name: str, progress: bool = True) -> Trained:
    """Trains a network from random weights; the same seed on the same machine gives the same weights.

    Args:
        recipe: Settings, as in `RECIPES["standard"](epochs=10)`.
        data: Training images.
        test: Images for the scores; they have no part in the training.
        seed: Of the weights, the order of the images and everything random in the recipe.
        name: What results call the network.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        The network in eval mode, on the CPU, with its record.
    """
    from repsim.similarity import versions

    classes = max(int(data.labels.max()), int(test.labels.max())) + 1
    network = load_model(recipe.architecture, num_classes=classes, seed=seed, name=name)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    per_epoch = max(1, len(data) // recipe.batch_size)
    total = recipe.epochs * per_epoch
    rise = max(1, total // 5)
    kind = next((n for n, c in _recipes().items() if c is type(recipe)), type(recipe).__name__)
    step = 0
    with progress_bar(total, f"train {name}", "step", show=progress) as bar:
        for _ in range(recipe.epochs):
            order = torch.randperm(len(data), generator=generator)
            for rows in order[: per_epoch * recipe.batch_size].split(recipe.batch_size):
                share = min((step + 1) / rise, (total - step) / max(1, total - rise))
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * share
                network.train()
                loss = recipe.loss(network, data.pixels(rows), data.labels[rows], generator)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                bar.update()
    network.eval()
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise RuntimeError(
            f"train: {name} must have finite weights after training; got NaN or infinity. Lower the learning rate."
        )
    with torch.no_grad():
        if not bool(torch.isfinite(network(test.pixels(slice(0, 64)))).all()):
            raise RuntimeError(f"train: {name} must give finite answers; got NaN or infinity. Lower the learning rate.")
    threat = ThreatModel("linf", recipe.eval_eps)
    scores = {
        "n_test": len(test),
        "accuracy": accuracy(network, test),
        f"accuracy under linf PGD-20, eps {recipe.eval_eps:g}": accuracy(network, test, threat),
    }
    record = {
        "architecture": recipe.architecture,
        "num_classes": classes,
        "normalize": None,
        "recipe": kind,
        "settings": dataclasses.asdict(recipe),
        "seed": seed,
        "data": {
            "train": data.name,
            "train_digest": data.digest,
            "test": test.name,
            "test_digest": test.digest,
        },
        "scores": scores,
        "versions": versions(),
    }
    network.provenance.update(record=record, notes=[f"trained here by recipe {kind}, seed {seed}"])
    return Trained(network, record)


def accuracy(net: nn.Module, data: ImageSet, threat: ThreatModel | None = None, *, seed: int = 0) -> float:
    """Share of images classified right, clean or under PGD-20 with steps of eps/5; the network must be in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    right = 0
    for start in range(0, len(data), 256):
        rows = slice(start, start + 256)
        x, y = data.pixels(rows), data.labels[rows]
        if threat is not None:
            x = pgd(net, x, y, threat, steps=20, step_size=threat.eps / 5, generator=generator)
        with torch.no_grad():
            right += int((net(x).argmax(1) == y).sum())
    return right / len(data)


def _recipes() -> dict[str, type[Recipe]]:
    from repsim.recipes import RECIPES  # filled after this file is read

    return RECIPES
