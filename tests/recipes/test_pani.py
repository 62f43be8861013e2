"""Pani MixUp: which patches are drawn where, and labels in the same shares."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.recipes.pani import PaniMixup
from tests.conftest import exactly
from tests.oracles import recipes as oracle


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(b: int = 6, side: int = 8, c: int = 2) -> Tensor:
    return torch.rand(b, c, side, side, generator=stream(3)).double()


def patches(x: Tensor, side: int) -> np.ndarray:
    """(images, places, pixels)."""
    b, _, h, w = x.shape
    cut = [x[:, :, i : i + side, j : j + side].reshape(b, -1) for i in range(0, h, side) for j in range(0, w, side)]
    return torch.stack(cut, 1).numpy()


def test_half_of_the_patches_move_towards_their_nearest_and_the_label_in_the_same_shares() -> None:
    x, kept = some_images(), 0.7
    mixed, shares = PaniMixup(neighbours=2, patch=4).mix(x, kept, stream())
    before, after = patches(x, 4), patches(mixed, 4)
    found = np.zeros((6, 6))
    for i in range(6):
        moved = [p for p in range(4) if not np.array_equal(before[i, p], after[i, p])]
        assert len(moved) == 2
        for p in range(4):
            if p not in moved:
                found[i, i] += 1 / 4
                continue
            z, others = before[i, p], [k for k in range(6) if k != i]
            cosines = [before[k, p] @ z / np.linalg.norm(before[k, p]) / np.linalg.norm(z) for k in others]
            near = [others[k] for k in np.argsort(cosines)[-2:]]
            towards = np.stack([before[k, p] - z for k in near], 1)
            eta, *_ = np.linalg.lstsq(towards, after[i, p] - z, rcond=None)
            np.testing.assert_allclose(towards @ eta, after[i, p] - z, atol=1e-10)
            assert eta.min() > 0
            assert eta.sum() == pytest.approx(1 - kept)
            found[i, i] += kept / 4
            for k, share in zip(near, eta, strict=True):
                found[i, k] += share / 4
    np.testing.assert_allclose(shares.numpy(), found, atol=1e-10)
    np.testing.assert_allclose(shares.sum(1).numpy(), 1, atol=1e-12)


def test_one_neighbour_and_whole_images_are_mixup_with_the_nearest() -> None:
    x = some_images()
    mixed, shares = PaniMixup(neighbours=1, patch=8, moved=1.0).mix(x, 0.6, stream())
    flat = F.normalize(x.flatten(1), dim=1)
    nearest = (flat @ flat.T - 2 * torch.eye(6)).argmax(1)
    torch.testing.assert_close(mixed, 0.6 * x + 0.4 * x[nearest], atol=1e-12, rtol=0)
    torch.testing.assert_close(shares, 0.6 * torch.eye(6).double() + 0.4 * torch.eye(6).double()[nearest])


def test_equal_images_and_all_kept_are_unchanged() -> None:
    x = some_images(1).expand(5, -1, -1, -1)
    mixed, _ = PaniMixup().mix(x, 0.5, stream())
    torch.testing.assert_close(mixed, x, atol=1e-12, rtol=0)
    x = some_images()
    mixed, shares = PaniMixup().mix(x, 1.0, stream())
    torch.testing.assert_close(mixed, x, atol=0, rtol=0)
    torch.testing.assert_close(shares, torch.eye(6).double(), atol=0, rtol=0)


def test_the_gradient_reaches_all_images() -> None:
    x = some_images().requires_grad_()
    mixed, _ = PaniMixup(moved=1.0, neighbours=5).mix(x, 0.6, stream())
    (gradient,) = torch.autograd.grad(mixed[0].sum(), x)
    assert bool((gradient.flatten(1).abs().sum(1) > 0).all())


def test_the_loss_is_the_cross_entropy_with_the_mixed_label(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).double()
    x, y = some_images(), torch.tensor([0, 1, 2, 0, 1, 2])
    given: list[tuple[Tensor, Tensor]] = []
    mix = PaniMixup.mix

    def watched(self: PaniMixup, *inputs: Any) -> tuple[Tensor, Tensor]:
        given.append(mix(self, *inputs))
        assert 0.5 <= inputs[1] < 1
        return given[-1]

    monkeypatch.setattr(PaniMixup, "mix", watched)
    loss = PaniMixup().loss(net, x, y, stream())
    ((mixed, shares),) = given
    chances = oracle.softmax(net(mixed).detach().numpy())
    wanted = -(shares.numpy() @ np.eye(3)[y] * np.log(chances)).sum(1).mean()
    assert loss.item() == pytest.approx(float(wanted), rel=1e-12)
    assert torch.equal(PaniMixup().loss(net, x[:1], y[:1], stream()), F.cross_entropy(net(x[:1]), y[:1]))


def test_settings_that_do_not_fit_are_named() -> None:
    text = "recipe: PaniMixup.neighbours must be at least 1; got 0. Set alpha=0 to mix nothing."
    with pytest.raises(ValueError, match=exactly(text)):
        PaniMixup(neighbours=0)
    text = "recipe: PaniMixup.moved must be at most 1; got 1.5. Correct the setting."
    with pytest.raises(ValueError, match=exactly(text)):
        PaniMixup(moved=1.5)
    text = "pani: PaniMixup.patch=3 must divide the sides of the images; got 8×8. Choose another patch."
    with pytest.raises(ValueError, match=exactly(text)):
        PaniMixup(patch=3).mix(some_images(), 0.5, stream())
