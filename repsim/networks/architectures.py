"""The architectures that repsim builds itself, with the parameter names of the weights people have."""

import re
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "b c h w"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters (option A of He et al. 2016)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.padding = stride, (outside - inside) // 2

    def forward(self, x: Images) -> Images:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """The residual network for small images of He et al. 2016, section 4.2 (arXiv 1512.03385).

    Args:
        depth: 6·m + 2 layers with weights.
        num_classes: Classes of the head.
        in_channels: 3 for colour, 1 for grey.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inside: int, outside: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inside, outside, stride)
        return nn.Sequential(first, *(BasicBlock(outside, outside, 1) for _ in range(blocks - 1)))

    def forward(self, x: Images) -> Float[Tensor, "b k"]:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))


class WideBlock(nn.Module):
    """A pre-activation block; where the width changes, the shortcut starts behind the first activation."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inside, outside, 1, stride, 0, bias=False) if inside != outside else None

    def forward(self, x: Images) -> Images:
        out = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(out)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(out))))


class WideStage(nn.Module):
    """`blocks` wide blocks; `layer` is the parameter name in the widely used weights."""

    def __init__(self, inside: int, outside: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(inside, outside, stride)
        self.layer = nn.Sequential(first, *(WideBlock(outside, outside, 1) for _ in range(blocks - 1)))

    def forward(self, x: Images) -> Images:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-28-k of Zagoruyko and Komodakis 2016 (arXiv 1605.07146), without dropout.

    Args:
        widen: k, the factor on the widths 16, 32, 64.
        num_classes: Classes of the head.
    """

    def __init__(self, widen: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(16, 16 * widen, 4, 1)
        self.block2 = WideStage(16 * widen, 32 * widen, 4, 2)
        self.block3 = WideStage(32 * widen, 64 * widen, 4, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)

    def forward(self, x: Images) -> Float[Tensor, "b k"]:
        out = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(out.mean((2, 3)))


def small_conv(in_channels: int, side: int, num_classes: int = 10) -> nn.Sequential:
    """The small network of Wong and Kolter's certified training (arXiv 1805.12514): two convolutions, two linear."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


def digits_conv(num_classes: int = 10) -> nn.Sequential:
    """Two convolutions and two linear layers for 8×8 grey images, without batch normalisation.

    Args:
        num_classes: Classes of the head.
    """
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(1, 16, 3, padding=1)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(16, 32, 3, padding=1, stride=2)),
        ("relu2", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(512, 64)),
        ("features", nn.ReLU()),
        ("classifier", nn.Linear(64, num_classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


def _cifar_resnet(depth: int, in_channels: int = 3) -> Callable[[int], nn.Module]:
    return lambda num_classes: CifarResNet(depth, num_classes, in_channels)


#: The widest WRN-28-k that is built: 100 times as wide has 3.6 thousand million weights.
_WIDEST = 100

#: Name -> a function of the number of classes. `wrn28_K` stands beside these, for K from 1 to 100.
ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    **{f"resnet{depth}": _cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)},
    "digits_resnet8": _cifar_resnet(8, in_channels=1),
    "digits_conv": digits_conv,
    "small_conv_mnist": lambda num_classes: small_conv(1, 28, num_classes),
    "small_conv_cifar": lambda num_classes: small_conv(3, 32, num_classes),
}


def find_architecture(name: str) -> Callable[[int], nn.Module] | None:
    """The builder of an architecture of this file, or None where the name is not one of them."""
    wide = re.fullmatch(r"wrn[-_]?28[-_]([1-9][0-9]{0,2})", name.lower())
    if wide and int(wide[1]) <= _WIDEST:
        return lambda num_classes: WideResNet(int(wide[1]), num_classes)
    return ARCHITECTURES.get(name)


def closest_architecture(state: dict[str, Tensor]) -> str:
    """The known architecture whose parameters fit a state dict best, and how well, as a phrase."""
    have = {(key, tuple(value.shape)) for key, value in state.items()}
    best, share = "", 0.0
    with torch.device("meta"):
        for name in [*ARCHITECTURES, "wrn28_1", "wrn28_2", "wrn28_4", "wrn28_8", "wrn28_10"]:
            build = find_architecture(name)
            assert build is not None
            want = {(key, tuple(value.shape)) for key, value in build(10).named_parameters()}
            fit = sum(any(k == t or k.endswith("." + t) for k, s in have if s == shape) for t, shape in want)
            if fit / len(want) > share:
                best, share = name, fit / len(want)
    return f"{best}, which fits {share:.0%} of its own parameters" if share > 0.2 else "none"
