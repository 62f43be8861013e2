"""D2R: its loss and its attack against oracles, and the guide that is trained beside the student."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim import ImageSet, load_data, load_model
from repsim.networks.network import Network
from repsim.recipes import Recipe, TrainedNetwork, train
from repsim.recipes.adversarial.d2r import D2R
from repsim.recipes.distillation import softened
from repsim.recipes.standard import Standard
from tests.conftest import exactly
from tests.oracles import recipes as oracle


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", split="train", limit=130), load_data("digits", limit=30)


def made(recipe: Recipe, images: tuple[ImageSet, ImageSet], **options: Any) -> TrainedNetwork:
    return train(recipe, *images, seed=0, name="net", progress=False, **options)


def linear(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 2, 2, generator=generator).double(), torch.randint(4, (n,), generator=generator)


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    p, q = oracle.softmax(a), oracle.softmax(b)
    return float(np.mean(np.sum(p * np.log(p / q), axis=1)))


def test_the_loss_is_that_of_the_code() -> None:
    student, guide, (x, y) = linear(0), linear(1), batch()
    moved = (x + 0.05).clamp(0, 1)
    found = D2R(squared=0.5, balance=20.0, imitation=30.0).both(student, guide, x, moved, y)
    f, g, far = student(x).detach().numpy(), guide(x).detach().numpy(), student(moved).detach().numpy()
    wanted = oracle.cross_entropy(g, y.numpy()) + 0.5 * float(np.mean((far - g) ** 2))
    wanted += 20 / 4 * abs(divergence(f, g) - divergence(g, f)) + 30 / 4 * divergence(far, g)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_a_student_that_is_its_guide_leaves_the_labels_alone() -> None:
    net, (x, y) = linear(0), batch()
    loss = D2R(eps=0.0).both(net, net, x, x, y)
    torch.testing.assert_close(loss, F.cross_entropy(net(x), y), atol=1e-14, rtol=0)
    wanted = torch.autograd.grad(F.cross_entropy(net(x), y), tuple(net.parameters()))
    for a, b in zip(torch.autograd.grad(loss, tuple(net.parameters())), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_the_student_never_sees_a_label() -> None:
    student, guide, (x, y) = linear(0), linear(1), batch()
    gradients = [
        torch.autograd.grad(D2R().both(student, guide, x, x, labels), tuple(student.parameters()))
        for labels in (y, (y + 1) % 4)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_the_attack_goes_away_from_the_guide_in_eval_mode() -> None:
    student, guide, (x, _) = linear(0).train(), linear(1).train(), batch()
    recipe = D2R(eps=0.1)
    moved = recipe.attack(student, guide, x, torch.Generator().manual_seed(0))
    wanted = guide(x).detach()
    assert not student.training
    assert not guide.training
    assert float((moved - x).abs().max()) <= 0.1 + 1e-12
    assert bool((softened(wanted, student(moved), 1.0) > softened(wanted, student(x), 1.0)).all())
    assert D2R(eps=0.0).attack(student, guide, x, torch.Generator()) is x


def test_a_guide_without_a_student_is_plain_training(images: tuple[ImageSet, ImageSet]) -> None:
    recipe = D2R(epochs=2, eps=0.0, squared=0.0, balance=0.0, imitation=0.0, give="guide", eval_eps=0.0)
    guide = made(recipe, images).network
    seed = int(np.random.SeedSequence([0, 4]).generate_state(1)[0])
    start = load_model("digits_resnet8", seed=seed)
    plain = made(Standard(epochs=2, eval_eps=0.0), images, start=start).network
    for key, value in plain.state_dict().items():
        assert torch.equal(guide.state_dict()[key], value)


def test_student_and_guide_are_two_networks_of_one_training(images: tuple[ImageSet, ImageSet]) -> None:
    student, guide = (
        made(D2R(epochs=2, steps=1, give=give), images)  # type: ignore[arg-type]
        for give in ("student", "guide")
    )
    assert not torch.equal(student.network.net.conv1.weight, guide.network.net.conv1.weight)  # type: ignore[union-attr]
    assert isinstance(student.network, Network)
    scores = [found.record["scores"] for found in (student, guide)]
    assert scores[0] != scores[1]


def test_what_to_give_is_one_of_two() -> None:
    text = "recipe: D2R.give must be student or guide; got 'guides'. Close matches: guide, student."
    with pytest.raises(ValueError, match=exactly(text)):
        D2R(give="guides")
