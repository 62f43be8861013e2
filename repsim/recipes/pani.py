"""Pani MixUp: patches drawn towards the nearest patches of other images (Sun et al. 2023, arXiv 1911.09307).

The paper's details were not at hand; this is a reading of its idea at the level of the input. Every image is cut into
patches. A random half of them moves: z' = z + Σ_k η_k (z_k − z) towards its nearest patches, by cosine, at the same
place in the other images of the batch, with random η ≥ 0 whose sum is 1 − λ. The label is mixed in the shares that
the images got.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.recipes.training.recipe import CIFAR_CROPS, DIGITS, MNIST, Preset, Recipe


@dataclass(frozen=True)
class PaniMixup(Recipe):
    """Cross-entropy on patches mixed with their nearest ones, and on labels mixed in the same shares."""

    name: ClassVar[str] = "pani"

    neighbours: int = 4  # K: patches of other images that a patch is drawn towards
    patch: int = 4  # side of a patch in pixels; it divides those of the images
    moved: float = 0.5  # share of the patches that move, drawn for each image
    alpha: float = 2.0  # of the Beta distribution of l, of which λ = max(l, 1 − l), one per batch; 0 mixes nothing

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": DIGITS,
        "mnist": Preset(
            {**MNIST, "epochs": 20, "batch_size": 128, "learning_rate": 0.05},
            "this project: a small convolutional network, one cycle of 20 epochs",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 30,
                "batch_size": 128,
            },
            "this project: 2 to 10 neighbours after Sun et al. 2023; network, patches and schedule are ours",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("neighbours", 1), ("patch", 1)):
            if getattr(self, name) < least:
                must = f"PaniMixup.{name} must be at least {least}"
                raise ValueError(message("recipe", must, f"{getattr(self, name)}", "Set alpha=0 to mix nothing"))
        if self.moved > 1:
            advice = "Correct the setting"
            raise ValueError(message("recipe", "PaniMixup.moved must be at most 1", f"{self.moved:g}", advice))

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator))  # torch draws from Beta without a generator only
        part = float(np.random.default_rng(seed).beta(self.alpha, self.alpha)) if self.alpha > 0 else 1.0
        kept = max(part, 1 - part)
        if kept == 1 or self.moved == 0 or len(x) == 1:
            return F.cross_entropy(net(x), y)
        mixed, shares = self.mix(x, kept, generator)
        answers = net(mixed)
        return F.cross_entropy(answers, shares.to(answers) @ F.one_hot(y, answers.shape[1]).to(answers))

    def mix(self, x: Float[Tensor, "b c h w"], kept: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images whose patches are drawn towards others.

        Args:
            x: At least two images.
            kept: λ, what a patch that moves keeps of itself.
            generator: Of which patches move, and how far towards which.

        Returns:
            The images; and what share of each, (b, b), came from which.
        """
        b, c, height, width = x.shape
        side = self.patch
        if height % side or width % side:
            must, advice = f"PaniMixup.patch={side} must divide the sides of the images", "Choose another patch"
            raise ValueError(message("pani", must, f"{height}×{width}", advice))
        down, right = height // side, width // side
        patches = x.view(b, c, down, side, right, side).permute(2, 4, 0, 1, 3, 5).reshape(down * right, b, -1)
        with torch.no_grad():
            alike = F.normalize(patches, dim=2) @ F.normalize(patches, dim=2).transpose(1, 2)  # (places, b, b)
            alike.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
            others = alike.topk(min(self.neighbours, b - 1), dim=2).indices
        weights = torch.empty(others.shape).exponential_(generator=generator).to(x)
        chosen = torch.rand(b, down * right, generator=generator).argsort(1).argsort(1) < round(
            self.moved * down * right
        )
        far = (1 - kept) * chosen.T.to(x)  # (places, b)
        pull = torch.zeros_like(alike).scatter_(2, others, weights / weights.sum(2, keepdim=True) * far[..., None])
        moved = patches + pull @ patches - far[..., None] * patches
        mixed = moved.view(down, right, b, c, side, side).permute(2, 3, 0, 4, 1, 5).reshape(x.shape)
        return mixed, (pull + torch.diag_embed(1 - far)).mean(0)


RECIPE = PaniMixup
