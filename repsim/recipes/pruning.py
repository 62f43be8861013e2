"""Pruning: a dense network, the few of its weights that are kept, and their finetuning, all under one objective.

Magnitude keeps the largest weights of each layer (LWM: Sehwag et al. 2019, arXiv 1906.06110). Trained scores, HYDRA,
begin at the magnitudes and go down the gradient of the same objective while the weights stand still (Sehwag et al.
2020, arXiv 2002.10509). A pruned network is a dense one with zeros, so that everything loads it; its record says what
share of each layer was kept. To prune a network that is there, set `pretrain_epochs=0` and begin at it (`start`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from repsim._common.messages import did_you_mean, message
from repsim.recipes.training.recipe import CIFAR_CROPS, DEVIATION, MNIST, RADIUS, Loss, Preset, Recipe, Run, Stage


@dataclass(frozen=True)
class Pruning(Recipe):
    """Dense training, a choice of weights, and training of what is left; each by the loss of another recipe."""

    name: ClassVar[str] = "pruning"

    objective: str = "pgd"  # the recipe whose loss all three parts lower; it takes the settings below that it has
    keep: float = 0.1  # share of the weights kept in each layer, in (0, 1]
    scores: str = "trained"  # what decides: "trained", or "magnitude"
    structure: str = "weights"  # what is kept or not: "weights", or "channels": outputs of all layers but the last
    pretrain_epochs: int = 15  # passes of dense training, in a cycle of their own; 0 prunes what is there
    pretrain_learning_rate: float = 0.1  # highest rate of the dense training
    prune_epochs: int = 5  # passes that train the scores; none of them for "magnitude"
    prune_learning_rate: float = 0.1  # highest rate of the scores, and of batch normalisation meanwhile
    learning_rate: float = 0.01  # highest rate of the finetuning, which `epochs` are for
    eps: float = field(default=0.1, metadata=RADIUS)  # linf radius of the training attack, pixels of [0, 1]
    steps: int = 7  # gradient evaluations per attack
    step_size: float = 0.025  # length of an attack step, pixels of [0, 1]
    beta: float = 6.0  # weight of the divergence in "trades" and "consistency"
    # Standard deviation of the noise in "noise" and "consistency", pixels of [0, 1].
    sigma: float = field(default=0.25, metadata=DEVIATION)
    first_steps: int = 0  # steps in the first epoch of each part, rising to `steps`; 0: constant

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": Preset({}, "this project: a small residual network on 8×8 images, a tenth of the weights"),
        "mnist": Preset(
            {
                **MNIST,
                "epochs": 20,
                "pretrain_epochs": 20,
                "pretrain_learning_rate": 0.05,
                "eps": 0.3,
                "steps": 40,
                "step_size": 0.01,
            },
            "the attack of Madry et al. 2018; network and schedule are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "objective": "trades",
                "epochs": 100,
                "pretrain_epochs": 100,
                "prune_epochs": 20,
                "batch_size": 128,
                "weight_decay": 1e-4,
                "eps": 0.031,
                "steps": 10,
                "step_size": 0.0078,
            },
            "the authors' code of HYDRA: TRADES, 100 + 20 + 100 epochs; ResNet-20 for their WRN-28-4, one cycle for "
            "their cosine",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_one_of("scores", self.scores, ("trained", "magnitude"))
        _check_one_of("structure", self.structure, ("weights", "channels"))
        if not 0 < self.keep <= 1:
            advice = "Write 0.1 to keep a tenth of each layer"
            raise ValueError(message("recipe", "Pruning.keep must be above 0 and at most 1", f"{self.keep:g}", advice))
        self.parent()

    def parent(self) -> Recipe:
        """The recipe whose loss is lowered, with the settings that it shares with this one."""
        from repsim.recipes import RECIPES  # filled after this file is read

        kind = RECIPES.get(self.objective)
        known = [name for name, recipe in RECIPES.items() if _is_a_loss(recipe)]
        if kind is None or self.objective not in known:
            must = "Pruning.objective must be a recipe that is a loss alone"
            raise ValueError(message("recipe", must, repr(self.objective), did_you_mean(self.objective, known)))
        return kind(**{name: getattr(self, name) for name in self._shared(kind)})

    def in_epoch(self, epoch: int, epochs: int) -> "Pruning":
        now = self.parent().in_epoch(epoch, epochs)
        return replace(self, **{name: getattr(now, name) for name in self._shared(type(now))})

    def _shared(self, kind: type[Recipe]) -> list[str]:
        own = {setting.name for setting in fields(self)}
        return [setting.name for setting in fields(kind) if setting.name in own]

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return self.parent().loss(net, x, y, generator)

    def stages(self) -> tuple[Stage, ...]:
        loss = self.parent().loss
        trained = self.prune_epochs if self.scores == "trained" else 0
        return (
            Stage(self.pretrain_epochs, self.pretrain_learning_rate, loss),
            Stage(trained, self.prune_learning_rate, loss),
            Stage(self.epochs, self.learning_rate, loss),
        )

    def certified_sigmas(self) -> tuple[float, ...]:
        return self.parent().certified_sigmas()

    def update(self, run: Run, loss: Loss, x: Tensor, y: Tensor) -> None:
        dense, scored, _ = self.stages()
        if run.epoch < dense.epochs:
            return super().update(run, loss, x, y)
        layers = self.layers(run.network)
        if not any(key.startswith("score.") for key in run.memory):
            for name, weight in layers.items():
                run.memory[f"dense.{name}"] = weight.detach().clone()
                run.memory[f"score.{name}"] = first_scores(weight, self.structure)
            self._mask(run, layers)
        if run.epoch < dense.epochs + scored.epochs:
            self._train_scores(run, layers, loss(run.network, x, y, run.generator))
            self._mask(run, layers)
        else:
            super().update(run, loss, x, y)
            with torch.no_grad():
                for name, weight in layers.items():
                    weight.masked_fill_(~run.memory[f"mask.{name}"].to(weight.device), 0)
        return None

    def layers(self, network: nn.Module) -> dict[str, Tensor]:
        """Name -> weights of each convolution and linear layer; of whole channels, all layers but the last."""
        found = {n: m.weight for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        if self.structure == "channels":
            found = dict(list(found.items())[:-1])  # the outputs of the last are the classes
        if not found:
            advice = "Choose another architecture"
            must = f"the network must have layers whose {self.structure} can go"
            raise ValueError(message("pruning", must, "none", advice))
        return found

    def facts(self, network: nn.Module) -> dict[str, Any]:
        layers = self.layers(network)
        shares = {name: float((weight != 0).double().mean()) for name, weight in layers.items()}
        return {"kept share": shares}

    def _mask(self, run: Run, layers: Mapping[str, Tensor]) -> None:
        """Puts the dense weights that are kept into the network, and zeros in place of the others."""
        with torch.no_grad():
            for name, weight in layers.items():
                run.memory[f"mask.{name}"] = mask = kept(run.memory[f"score.{name}"].to(weight), self.keep)
                weight.copy_(run.memory[f"dense.{name}"].to(weight).masked_fill(~mask, 0))

    def _train_scores(self, run: Run, layers: Mapping[str, Tensor], loss: Tensor) -> None:
        """One step of the scores, and of batch normalisation, whose weights belong to no layer that is pruned.

        The gradient in a mask passes straight through to the absolute score.
        """
        run.optimizer.zero_grad()
        loss.backward()
        rate = run.optimizer.param_groups[0]["lr"]
        for name, weight in layers.items():
            score = run.memory[f"score.{name}"].to(weight)
            assert weight.grad is not None
            slope = weight.grad * run.memory[f"dense.{name}"].to(weight)  # in the mask
            if self.structure == "channels":
                slope = slope.sum(tuple(range(1, slope.ndim)), keepdim=True)
            slope = slope * score.sign() + self.weight_decay * score
            momentum = slope + self.momentum * run.memory.get(f"momentum.{name}", torch.tensor(0.0)).to(weight)
            run.memory[f"momentum.{name}"] = momentum
            run.memory[f"score.{name}"] = score - rate * (slope + self.momentum * momentum)
        for module in run.network.modules():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.grad = None
        run.optimizer.step()


def first_scores(weight: Tensor, structure: str = "weights") -> Tensor:
    """Where scores begin: √(6 / fan-in) · W / max |W|, so that the first mask is that of the magnitudes.

    Args:
        weight: (out, in) or (out, in, height, width).
        structure: "weights", or "channels", whose magnitude is the mean of the absolute weights.

    Returns:
        One score per weight; or one per output, (out, 1, …).
    """
    w = weight.detach()
    if structure == "channels":
        w = w.abs().mean(tuple(range(1, w.ndim)), keepdim=True)
    largest = w.abs().max()
    bound = math.sqrt(6 / weight[0].numel())
    return bound * w / torch.where(largest > 0, largest, 1)


def kept(scores: Tensor, keep: float) -> Tensor:
    """True but for the ⌊(1 − keep) · n⌋ scores of smallest absolute value; of equal ones the first go."""
    lost = math.floor((1 - keep) * scores.numel() + 1e-9)  # 0.9 · 10 is 9, whatever the last bit says
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.abs().flatten().sort(stable=True).indices[:lost]] = False
    return mask.view(scores.shape)


def _is_a_loss(kind: type[Recipe]) -> bool:
    """Whether a recipe has neither steps nor parts of its own."""
    return all(getattr(kind, method) is getattr(Recipe, method) for method in ("update", "stages", "after_epoch"))


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        must = f"Pruning.{name} must be {' or '.join(known)}"
        raise ValueError(message("recipe", must, repr(value), did_you_mean(value, known)))


RECIPE = Pruning
