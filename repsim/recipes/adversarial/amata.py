"""PGD training whose attack grows: more and shorter steps from epoch to epoch (Ye et al. 2021, arXiv 2012.08112).

The steps rise evenly while steps × length of a step stays at 2.5 radii, so that every point of the ball can be reached
in every epoch. The gradient evaluations are about 2/3 of those of training with the last attack throughout. The
paper's schedule was not at hand: the idea is theirs, the straight line and the 2.5 radii are this project's. The
setting `first_steps` (`first_replays`, `first_rounds`) does the same for `pgd`, `trades`, `fast`, `free` and `yopo`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from repsim.recipes.adversarial.pgd import PGD
from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, Preset


@dataclass(frozen=True)
class Amata(PGD):
    """Cross-entropy on PGD adversarial inputs, with more and shorter steps from epoch to epoch."""

    name: ClassVar[str] = "amata"

    steps: int = 10  # gradient evaluations per attack in the last epoch
    step_size: float = 0.025  # length of an attack step in the last epoch, pixels of [0, 1]
    first_steps: int = 2  # gradient evaluations per attack in the first epoch

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {
                **MNIST,
                "epochs": 20,
                "learning_rate": 0.05,
                "eps": 0.3,
                "steps": 40,
                "step_size": 0.01875,
                "first_steps": 10,
            },
            "10 to 40 steps for MNIST after Ye et al. 2021; network, schedule and 2.5 radii are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 30,
                "batch_size": 128,
                "eps": 8 / 255,
                "step_size": 2 / 255,
            },
            "2 to 10 steps for CIFAR-10 after Ye et al. 2021; network, schedule and 2.5 radii are this project's",
        ),
    }


RECIPE = Amata
