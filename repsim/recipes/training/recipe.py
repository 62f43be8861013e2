"""What a recipe is: settings, the loss of a batch, and, where that is not all, stages and steps of its own."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._common.messages import did_you_mean, message
from repsim.data.image_set import ImageSet
from repsim.networks.network import Network
from repsim.recipes.training.augmentations import augmentation
from repsim.robustness.smoothing import MOST_NOISE

Images = Float[Tensor, "b c h w"]

Labels = Int[Tensor, " b"]

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]

Self = TypeVar("Self", bound="Recipe")


#: What a setting's field carries: its range, and what to do outside it.
_RANGE = "range"


def between(low: float, high: float = math.inf, *, advice: str = "Correct the setting") -> Mapping[str, Any]:
    """The range of a setting, for its field: `share: float = field(default=0.1, metadata=between(0, 1))`.

    Settings that are numbers, or lists of them, are otherwise finite and at least 0.

    Args:
        low: The least value.
        high: The largest; infinity for any that is finite.
        advice: How the message ends that refuses another one.
    """
    return {_RANGE: (low, high, advice)}


_PIXELS = "Pixels are in [0, 1]: write 8/255 for 8 grey levels"

#: Of things that a step or a training must have one of.
COUNT = between(1)

#: Of the radius of an attack, in pixel units of [0, 1].
RADIUS = between(0, 1, advice=_PIXELS)

#: Of the standard deviation of noise that a network is to be certified with, in pixel units of [0, 1].
DEVIATION = between(0, MOST_NOISE, advice=_PIXELS)


def recipe_name(kind: type) -> str:
    """What a recipe is called.

    Raises:
        TypeError: A class without a name of its own.
    """
    name = getattr(kind, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        advice = f'Write name: ClassVar[str] = "{kind.__name__.lower()}" in the class'
        raise TypeError(
            message("recipe", f"{kind.__name__} must have a name that is an identifier", repr(name), advice)
        )
    return name


@dataclass(frozen=True)
class Preset:
    """Settings under a name, and where their values come from."""

    settings: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class Stage:
    """A part of a training with a loss and a schedule of its own; the optimizer's momentum starts anew with it."""

    epochs: int
    learning_rate: float
    loss: Loss


@dataclass(eq=False)
class Run:
    """A training under way: what a recipe's own steps may read and change.

    Attributes:
        network: In training.
        optimizer: Of its parameters.
        generator: Everything random in the recipe, on the CPU. The order of the images has another one, so that
            an attack that moves nothing leaves the training as it is.
        data: The training images.
        seed: Of this training.
        memory: Tensors that a recipe keeps from batch to batch; they go into the state file.
        epoch: Epochs done, over all stages.
        gradients: Images whose gradient was taken, of the loss and of attacks.
        seconds: Spent in the epochs done.
        stopped: Why the recipe ended the training early; empty where it did not.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    data: ImageSet
    seed: int
    memory: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0
    gradients: int = 0
    seconds: float = 0.0
    stopped: str = ""

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer down the gradient of a loss."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


@dataclass(frozen=True)
class Recipe(ABC):
    """How a network is trained. Subclasses add their own settings and say what a batch costs.

    Most recipes are one `loss`. `stages` is for those whose loss or schedule changes on the way, `update` for those
    that take several steps on a batch, `after_epoch` for those that may stop early.
    """

    architecture: str = "digits_resnet8"  # a name that load_model knows
    normalize: str | None = None  # of the pixels, inside the network: a name that load_model knows
    epochs: int = field(default=15, metadata=COUNT)  # passes over the training set
    batch_size: int = field(default=64, metadata=COUNT)  # images per step
    learning_rate: float = 0.1  # highest rate
    decay_epochs: tuple[int, ...] = ()  # of a stage, after which the rate falls to a tenth; none: one cycle, up for 1/5
    momentum: float = 0.9  # of Nesterov's SGD
    weight_decay: float = 5e-4  # L2 penalty on all parameters
    augment: str = "none"  # what images go through at random, as `augmentation` takes it: "crop:4+flip"
    # Share of training labels replaced by another class, drawn once for the seed.
    label_noise: float = field(default=0.0, metadata=between(0, 1))
    # linf radius of the reported PGD-20 accuracy, pixels of [0, 1]; 0 leaves it out.
    eval_eps: float = field(default=0.1, metadata=RADIUS)
    certify_images: int = 100  # test images certified for the record, of recipes that train for it; 0 leaves it out

    #: What `repsim train` and records call it.
    name: ClassVar[str]

    #: Name -> settings that differ from the defaults, with their source.
    PRESETS: ClassVar[Mapping[str, Preset]] = {}

    def __post_init__(self) -> None:
        recipe_name(type(self))
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, list):  # as JSON has it
                value = tuple(value)
                object.__setattr__(self, setting.name, value)
            self._check(setting, value)
        augmentation(self.augment)

    @abstractmethod
    def loss(self, net: nn.Module, x: Images, y: Labels, generator: torch.Generator) -> Float[Tensor, ""]:
        """What one step lowers, for a network in training mode."""

    def stages(self) -> tuple[Stage, ...]:
        """The parts of the training, in order."""
        return (Stage(self.epochs, self.learning_rate, self.loss),)

    def update(self, run: Run, loss: Loss, x: Images, y: Labels) -> None:
        """What is done with a batch: one step, unless a recipe says otherwise."""
        run.descend(loss(run.network, x, y, run.generator))

    def after_epoch(self, run: Run) -> str:
        """Why the training must end here; empty where it goes on."""
        return ""

    def certified_sigmas(self) -> tuple[float, ...]:
        """Noise levels at which the network is meant to be certified."""
        return ()

    @classmethod
    def preset(cls: type[Self], name: str, **changes: Any) -> Self:
        """The recipe with settings from its source: "digits", "mnist" or "cifar10".

        Args:
            name: A key of `PRESETS`, whose `source` says where the values come from.
            **changes: Settings that shall differ from the preset.

        Returns:
            The recipe.

        Raises:
            ValueError: An unknown preset or setting, or a value out of its range.
        """
        if name not in cls.PRESETS:
            advice = did_you_mean(name, cls.PRESETS)
            raise ValueError(message("preset", f"{cls.__name__} must have a preset of this name", repr(name), advice))
        known = [setting.name for setting in dataclasses.fields(cls)]
        for change in set(changes) - set(known):
            advice = did_you_mean(change, known)
            raise ValueError(message("preset", f"{cls.__name__} must have this setting", repr(change), advice))
        return cls(**{**cls.PRESETS[name].settings, **changes})

    def _check(self, setting: "dataclasses.Field[Any]", value: Any) -> None:
        """A value is of its default's type, and numbers are in the range that stands on the field."""
        where = f"{type(self).__name__}.{setting.name}"
        wanted, fits = {
            int: ("an integer", type(value) is int),
            float: ("a number", type(value) in (int, float)),
            str: ("a text", isinstance(value, str)),
            tuple: ("a list of numbers", isinstance(value, tuple) and all(type(v) in (int, float) for v in value)),
        }.get(type(setting.default), ("", True))
        if not fits:
            raise TypeError(message("recipe", f"{where} must be {wanted}", repr(value), "Correct the setting"))
        low, high, advice = setting.metadata.get(_RANGE, (0, math.inf, "Correct the setting"))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not (low <= number <= high and math.isfinite(number)):
                limits = f">= {low:g} and " + (f"<= {high:g}" if math.isfinite(high) else "finite")
                raise ValueError(message("recipe", f"{where} must be {limits}", f"{number}", advice))


#: The usual augmentation of CIFAR-10: crops of the image padded by four pixels, and mirror images.
CIFAR_CROPS: Mapping[str, Any] = {"augment": "crop:4+flip", "eval_eps": 8 / 255}

#: How every preset for 28 × 28 grey images begins.
MNIST: Mapping[str, Any] = {"architecture": "small_conv_mnist", "eval_eps": 0.3}

#: The preset of recipes whose defaults are for the digits.
DIGITS = Preset({}, "this project: a small residual network on 8×8 images")
