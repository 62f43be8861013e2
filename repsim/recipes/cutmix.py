"""CutMix: a box of each image comes from another one, and so does its share of the label (Yun et al. 2019,
arXiv 1905.04899)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.mixup import Mixup
from repsim.recipes.training.recipe import DIGITS, Preset


@dataclass(frozen=True)
class CutMix(Mixup):
    """Cross-entropy on images with a box of area 1−λ from another image, λ ~ Beta(α, α), one box per batch.

    The border cuts the box; the labels are weighed by the share of pixels that is left of either image.
    """

    name: ClassVar[str] = "cutmix"

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Mixup.PRESETS["mnist"],
        "cifar10": Preset(
            Mixup.PRESETS["cifar10"].settings,
            "Yun et al. 2019, section 3.1: α = 1; network and schedule are those of mixup",
        ),
    }

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = self.box(x.shape[2], x.shape[3], generator)
        other = torch.randperm(len(x), generator=generator).to(x.device)
        mixed = x.clone()
        mixed[:, :, rows, columns] = x[other][:, :, rows, columns]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        share = 1 - height * width / (x.shape[2] * x.shape[3])
        answers = net(mixed)
        return share * F.cross_entropy(answers, y) + (1 - share) * F.cross_entropy(answers, y[other])

    def box(self, height: int, width: int, generator: torch.Generator) -> tuple[slice, slice]:
        """The rows and the columns that come from the other image: √(1−λ) of both sides around any pixel."""
        side = math.sqrt(1 - self.draw(generator))
        places = []
        for length in (height, width):
            centre, half = int(torch.randint(length, (), generator=generator)), int(length * side) // 2
            places.append(slice(max(0, centre - half), min(length, centre + half)))
        return places[0], places[1]


RECIPE = CutMix
