"""InfoDrop: the first layer forgets its flat and repetitive places (Shi et al. 2020, arXiv 2008.04254).

A place whose surroundings look like itself says little that is new: texture, by the authors' reading, where edges
carry the shape. Such places are dropped from the outputs of the first convolution, more likely the more alike their
surroundings are; then the network is finetuned without dropping. Nothing is added to the network's parameters.

As in the authors' code the drop follows the first batch normalisation, if the convolution feeds one, and nothing is
rescaled. Theirs stands behind a max pool, where that is, and drops at its resolution; here it always has that of the
convolution. Places beyond the border repeat the border.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.recipes.standard import Standard
from repsim.recipes.training.recipe import CIFAR_CROPS, MNIST, Preset, Recipe, Stage

#: How far, in pixels, the surroundings of a place reach; and how many of them are compared with it.
_REACH, _COMPARED = 3, 9


@dataclass(frozen=True)
class InfoDrop(Recipe):
    """Cross-entropy with drops behind the first convolution, then without."""

    name: ClassVar[str] = "infodrop"

    rate: float = 1.5  # draws per place and channel, with replacement; even drops would hit 1 − e^−1.5 of the places
    sharpness: float = 0.03  # T: the smaller, the more the drops gather at the flattest places
    bandwidth: float = 1.0  # h: differences are measured in this many times their mean
    finetune_epochs: int = 5  # passes without drops, in a cycle of their own
    finetune_learning_rate: float = 0.01  # highest rate of the finetuning

    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "digits": Preset({}, "this project: a small residual network on 8×8 images"),
        "mnist": Preset(
            {**MNIST, "epochs": 10, "batch_size": 128, "learning_rate": 0.05},
            "the authors' code for the drops; network and schedule are this project's",
        ),
        "cifar10": Preset(
            {
                **CIFAR_CROPS,
                "architecture": "resnet20",
                "normalize": "cifar10",
                "epochs": 100,
                "batch_size": 128,
                "weight_decay": 1e-4,
                "finetune_epochs": 20,
                "finetune_learning_rate": 0.001,
            },
            "the authors' code: 100 epochs with drops and 20 without at a rate of 0.001; network of this project",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sharpness", "bandwidth"):
            if getattr(self, name) == 0:
                must = f"InfoDrop.{name} must be above 0"
                raise ValueError(message("recipe", must, "0", "Set rate=0 to drop nothing"))

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage(self.epochs, self.learning_rate, self.loss),
            Stage(self.finetune_epochs, self.finetune_learning_rate, Standard().loss),
        )

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.rate == 0:
            return F.cross_entropy(net(x), y)
        with self.dropping(net, generator):
            return F.cross_entropy(net(x), y)

    @contextmanager
    def dropping(self, net: nn.Module, generator: torch.Generator) -> Iterator[None]:
        """Inside, the network drops places behind its first convolution."""
        layers = [m for m in net.modules() if not any(m.children())]
        places = [i for i, module in enumerate(layers) if isinstance(module, nn.Conv2d)]
        if not places:
            advice = "Choose an architecture that begins with one"
            raise ValueError(message("infodrop", "the network must have a convolution", "none", advice))
        conv = layers[places[0]]
        assert isinstance(conv, nn.Conv2d)
        follower = layers[places[0] + 1] if places[0] + 1 < len(layers) else conv
        behind = follower if isinstance(follower, nn.BatchNorm2d) else conv
        given: list[Tensor] = []

        def look(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            given.append(inputs[0].detach())

        def drop(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            offsets = torch.randint(-_REACH, _REACH + 1, (_COMPARED, 2), generator=generator).tolist()
            chances = self.chances(given.pop(), conv, offsets)  # one choice of offsets for the whole batch
            return output * ~self.draw(chances, output.shape[1], generator)

        handles = [conv.register_forward_pre_hook(look), behind.register_forward_hook(drop)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def chances(
        self, u: Float[Tensor, "b c h w"], conv: nn.Conv2d, offsets: Sequence[Sequence[int]]
    ) -> Float[Tensor, "b i j"]:
        """How likely a draw hits each place of the convolution's output, from how alike its surroundings are.

        Each offset compares all windows of the input with those that stand there: D, a sum of squares. The likeness
        exp(−D / (2 h² mean D)) is averaged over the offsets, raised to the power 1/T, and divided by its sum over the
        places.

        Args:
            u: What the convolution is given.
            conv: The convolution.
            offsets: (down, right) in pixels, at most 3 to either side.
        """
        height, width = u.shape[2:]
        around = F.pad(u, (_REACH,) * 4, mode="replicate")
        window = torch.ones(1, 1, *conv.kernel_size).to(u)
        differences = []
        for down, right in offsets:
            shifted = around[:, :, _REACH + down :, _REACH + right :][:, :, :height, :width]
            square = (u - shifted).square().sum(1, keepdim=True)
            differences.append(F.conv2d(square, window, None, conv.stride, conv.padding, conv.dilation)[:, 0])
        d = torch.stack(differences)
        mean = d.mean()
        alike = (-d / (2 * self.bandwidth**2 * torch.where(mean > 0, mean, 1))).logsumexp(0)
        return (alike / self.sharpness).flatten(1).softmax(1).view(alike.shape)

    def draw(self, chances: Float[Tensor, "b i j"], channels: int, generator: torch.Generator) -> Tensor:
        """True where a place is dropped, (b, channels, i, j): draws for each image and channel, with replacement."""
        b, height, width = chances.shape
        times = int(self.rate * height * width)
        dropped = torch.zeros(b, channels, height * width, dtype=torch.bool)
        if times:
            p = chances.flatten(1).cpu() + 1e-8  # no place is safe
            draws = torch.multinomial(p, times * channels, replacement=True, generator=generator)
            dropped.scatter_(2, draws.view(b, channels, times), True)
        return dropped.view(b, channels, height, width).to(chances.device)


RECIPE = InfoDrop
