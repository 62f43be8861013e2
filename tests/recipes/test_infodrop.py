"""InfoDrop: where it drops, how much, and that it leaves nothing behind in the network."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim import ImageSet, load_data, load_model
from repsim.recipes import train
from repsim.recipes.infodrop import InfoDrop
from repsim.recipes.standard import Standard
from tests.conftest import exactly

OFFSETS = [(1, 0), (0, -2), (3, 3), (-1, 2), (-3, 0), (2, -1), (0, 0), (1, 1), (-2, -3)]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy_half(n: int = 4, side: int = 16) -> Tensor:
    """Images whose left half is flat and whose right half is noise."""
    x = torch.full((n, 1, side, side), 0.5)
    x[..., side // 2 :] = torch.rand(n, 1, side, side // 2, generator=stream())
    return x


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 0, 2), (1, 2, 5)])
def test_the_chances_are_the_papers(stride: int, padding: int, kernel: int) -> None:
    recipe = InfoDrop(sharpness=0.5, bandwidth=0.8)
    u = torch.rand(2, 3, 7, 6, generator=stream()).double()
    conv = nn.Conv2d(3, 4, kernel, stride, padding)
    found = recipe.chances(u, conv, OFFSETS)
    x, size = u.numpy(), found.shape[1:]
    assert size == conv(u.float()).shape[2:]
    d = np.zeros((len(OFFSETS), 2, *size))
    for o, (down, right) in enumerate(OFFSETS):
        for b in range(2):
            for i in range(size[0]):
                for j in range(size[1]):
                    for a in range(kernel):
                        for c in range(kernel):
                            row, column = i * stride + a - padding, j * stride + c - padding
                            if 0 <= row < 7 and 0 <= column < 6:
                                other = np.clip(row + down, 0, 6), np.clip(column + right, 0, 5)
                                d[o, b, i, j] += ((x[b, :, row, column] - x[b, :, other[0], other[1]]) ** 2).sum()
    q = np.exp(-d / (2 * 0.8**2 * d.mean())).mean(0) ** (1 / 0.5)
    np.testing.assert_allclose(found.numpy(), q / q.sum((1, 2), keepdims=True), rtol=1e-9)


def test_a_constant_image_is_dropped_evenly() -> None:
    recipe, conv = InfoDrop(), nn.Conv2d(1, 8, 3, padding=1)
    chances = recipe.chances(torch.full((4, 1, 20, 20), 0.3), conv, OFFSETS)
    torch.testing.assert_close(chances, torch.full((4, 20, 20), 1 / 400))
    share = recipe.draw(chances, 8, stream()).double().mean((2, 3)).flatten()
    wanted = 1 - (1 - 1 / 400) ** 600
    assert wanted == pytest.approx(1 - math.exp(-1.5), abs=1e-3)
    assert abs(float(share.mean()) - wanted) < 3 * float(share.std()) / math.sqrt(len(share))


def test_the_drops_fall_on_the_flat_half() -> None:
    recipe, conv = InfoDrop(), nn.Conv2d(1, 8, 3, padding=1)
    dropped = recipe.draw(recipe.chances(noisy_half(), conv, OFFSETS), 8, stream()).double()
    assert float(dropped[..., :8].sum() / dropped.sum()) > 0.95
    assert 0.05 < float(dropped.mean()) < 0.6


def test_a_shifted_image_shifts_its_chances() -> None:
    recipe, conv = InfoDrop(), nn.Conv2d(1, 8, 3, padding=1)
    x = torch.full((1, 1, 24, 24), 0.5)
    x[..., 8:12, 8:12] = torch.rand(4, 4, generator=stream())
    a, b = (recipe.chances(v, conv, OFFSETS)[0] for v in (x, x.roll((3, 2), (2, 3))))
    torch.testing.assert_close(a.roll((3, 2), (0, 1))[8:18, 8:18], b[8:18, 8:18], atol=1e-6, rtol=1e-4)


class Watched(nn.Module):
    """A convolution, with or without batch normalisation, that keeps what stands behind its first ReLU."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.bn = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.head = nn.Linear(5, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.conv(x)))
        self.seen.append(out.detach())
        return self.head(out.mean((2, 3)))


@pytest.mark.parametrize("norm", [True, False])
def test_what_is_dropped_is_zero_behind_the_first_activation_and_the_rest_is_as_before(norm: bool) -> None:
    net, x = Watched(norm).train(), noisy_half()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with InfoDrop().dropping(net, stream()):
        net(x)
    net(x)
    with_drops, without = net.seen
    gone = (with_drops == 0) & (without != 0)
    assert bool(((with_drops == without) | gone).all())
    assert float(gone[..., :8].sum() / gone.sum()) > 0.95
    assert net.state_dict().keys() == before.keys()
    assert not net.conv._forward_hooks
    assert not net.conv._forward_pre_hooks
    assert not net.bn._forward_hooks


def test_no_rate_is_cross_entropy_and_draws_nothing() -> None:
    net, (x, y) = load_model("digits_resnet8"), (noisy_half(side=8), torch.tensor([0, 1, 2, 3]))
    generator = stream()
    assert torch.equal(InfoDrop(rate=0.0).loss(net, x, y, generator), F.cross_entropy(net(x), y))
    assert torch.equal(generator.get_state(), stream().get_state())
    assert not torch.equal(InfoDrop().loss(net, x, y, generator), F.cross_entropy(net(x), y))


def test_the_finetuning_drops_nothing() -> None:
    images: tuple[ImageSet, ImageSet] = load_data("digits", split="train", limit=130), load_data("digits", limit=30)
    recipe = InfoDrop(epochs=1, finetune_epochs=2, eval_eps=0.0)
    drops, finetuning = recipe.stages()
    assert (drops.epochs, finetuning.epochs, finetuning.learning_rate) == (1, 2, 0.01)
    net, (x, y) = load_model("digits_resnet8"), (images[0].pixels(slice(0, 8)), images[0].labels[:8])
    assert torch.equal(finetuning.loss(net, x, y, stream()), Standard().loss(net, x, y, stream()))
    made = train(recipe, *images, seed=0, name="net", progress=False)
    assert made.network.state_dict().keys() == load_model("digits_resnet8").state_dict().keys()


@pytest.mark.parametrize("name", ["sharpness", "bandwidth"])
def test_settings_that_divide_are_not_0(name: str) -> None:
    settings: dict[str, Any] = {name: 0.0}
    text = f"recipe: InfoDrop.{name} must be above 0; got 0. Set rate=0 to drop nothing."
    with pytest.raises(ValueError, match=exactly(text)):
        InfoDrop(**settings)


def test_a_network_without_a_convolution_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    text = "infodrop: the network must have a convolution; got none. Choose an architecture that begins with one."
    with pytest.raises(ValueError, match=exactly(text)):
        InfoDrop().loss(net, noisy_half(side=8), torch.zeros(4, dtype=torch.int64), stream())
