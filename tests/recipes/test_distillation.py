"""Distillation and consistency: their losses against float64 oracles, and what they become when switched off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor, nn

from repsim import ImageSet, load_data
from repsim.networks.load import load_model
from repsim.networks.network import Network
from repsim.recipes import Recipe, TrainedNetwork, train
from repsim.recipes import distillation as page
from repsim.recipes.consistency import Consistency
from repsim.recipes.distillation import Distillation, softened
from repsim.recipes.standard import Standard
from tests.conftest import exactly
from tests.oracles import recipes as oracle


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", split="train", limit=130), load_data("digits", limit=30)


def made(recipe: Recipe, images: tuple[ImageSet, ImageSet], **options: Any) -> TrainedNetwork:
    return train(recipe, *images, seed=0, name="net", progress=False, **options)


def same(a: TrainedNetwork, b: TrainedNetwork) -> bool:
    other = b.network.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.network.state_dict().items())


@pytest.fixture(scope="module")
def teacher(images: tuple[ImageSet, ImageSet], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    return str(made(Standard(epochs=3, eval_eps=0.0), images).save(path))


def linear(seed: int, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()


@pytest.fixture
def linear_teacher(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    net = Network(linear(5), name="teacher").double().eval()
    monkeypatch.setattr(page, "teacher_of", lambda path, device: net)
    return net


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 2, 2, generator=generator).double(), torch.randint(3, (n,), generator=generator)


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- Distillation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_loss_is_hintons(alpha: float, temperature: float, linear_teacher: nn.Module) -> None:
    net, (x, y) = linear(0), batch()
    found = Distillation(alpha=alpha, temperature=temperature).loss(net, x, y, stream())
    a, b = (n(x).detach().numpy() for n in (linear_teacher, net))
    p, q = oracle.softmax(a / temperature), oracle.softmax(b / temperature)
    divergence = float(np.mean(np.sum(p * np.log(p / q), axis=1)))
    wanted = alpha * oracle.cross_entropy(b, y.numpy()) + (1 - alpha) * temperature**2 * divergence
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(linear_teacher: nn.Module) -> None:
    net, (x, y) = linear(5), batch()
    loss = Distillation(alpha=0.0).loss(net, x, y, stream())
    assert abs(loss.item()) < 1e-15
    for gradient in torch.autograd.grad(loss, tuple(net.parameters())):
        assert float(gradient.abs().max()) < 1e-15


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(linear_teacher: nn.Module) -> None:
    net, (x, y) = linear(0), batch(64)
    sizes = []
    for temperature in (1.0, 10.0):
        loss = Distillation(alpha=0.0, temperature=temperature).loss(net, x, y, stream())
        sizes.append(float(torch.autograd.grad(loss, net[1].weight)[0].norm()))  # type: ignore[arg-type]
    assert 0.5 < sizes[0] / sizes[1] < 2


def test_the_attack_raises_the_divergence_from_the_clean_teacher_inside_the_ball(linear_teacher: nn.Module) -> None:
    net, (x, y) = linear(0), batch()
    recipe = Distillation(alpha=0.0, temperature=2.0, eps=0.1)
    wanted = linear_teacher(x).detach()
    moved = recipe.attack(net, x, wanted, stream())
    assert float((moved - x).abs().max()) <= 0.1 + 1e-12
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert bool((softened(wanted, net(moved), 1.0) > softened(wanted, net(x), 1.0)).all())
    loss = recipe.loss(net, x, y, stream())
    torch.testing.assert_close(loss, 4 * softened(wanted, net(moved), 2.0).mean(), atol=1e-12, rtol=0)
    assert net.training


def test_labels_alone_are_standard_training_bit_for_bit(images: tuple[ImageSet, ImageSet], teacher: str) -> None:
    plain = made(Standard(epochs=2, eval_eps=0.0), images)
    assert same(made(Distillation(epochs=2, eval_eps=0.0, alpha=1.0), images), plain)
    found = made(Distillation(epochs=2, eval_eps=0.0, alpha=1.0, teacher=teacher, eps=0.1), images)
    assert same(found, plain)
    other = made(Distillation(epochs=2, eval_eps=0.0, teacher=teacher), images)
    assert not same(other, plain)
    assert other.record["facts"]["teacher"]["file"] == "teacher.safetensors"
    assert len(other.record["facts"]["teacher"]["sha256"]) == 64


def test_the_student_learns_the_answers_of_its_teacher(images: tuple[ImageSet, ImageSet], teacher: str) -> None:
    x = images[0].pixels(slice(None))
    wanted = load_model(teacher)(x).detach()
    found = []
    for recipe in (
        Distillation(epochs=60, alpha=0.0, teacher=teacher, architecture="digits_conv", eval_eps=0.0),
        Standard(epochs=60, architecture="digits_conv", eval_eps=0.0),
    ):
        found.append(float(softened(wanted, made(recipe, images).network(x).detach(), 1.0).mean()))
    assert found[0] < 0.5 * found[1]


def test_the_layer_that_is_compared_is_the_one_named() -> None:
    network, x = load_model("digits_resnet8"), torch.rand(4, 1, 8, 8)
    with page.given_to(network, "") as found:
        network(x)
    assert found[0].shape == (4, 64)
    with page.given_to(network, "layer1") as found:
        network(x)
    assert found[0].shape == (4, 16, 8, 8)
    text = "distillation: the layer to compare must be a module of the network; got 'layer9'. Close matches: "
    with pytest.raises(ValueError, match=text), page.given_to(network, "layer9"):
        pass
    text = (
        "distillation: the network must end in a linear layer, or a layer be named; got none. "
        "Set layer and teacher_layer."
    )
    with pytest.raises(ValueError, match=exactly(text)), page.given_to(nn.Sequential(nn.ReLU()), ""):
        pass


def test_the_relation_is_one_minus_cka(linear_teacher: nn.Module) -> None:
    pytest.importorskip("repsim.losses")
    net, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3)).double(), batch(20)
    found = Distillation(alpha=1.0, relation=2.0).loss(net, x, y, stream())
    a, b = net[:2](x).detach().numpy(), x.flatten(1).numpy()
    a, b = a - a.mean(0), b - b.mean(0)
    cka = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    wanted = oracle.cross_entropy(net(x).detach().numpy(), y.numpy()) + 2 * (1 - cka)
    assert found.item() == pytest.approx(wanted, rel=1e-10)
    assert float(torch.autograd.grad(found, net[1].weight)[0].abs().max()) > 0  # type: ignore[arg-type]


def test_a_teacher_that_does_not_fit_is_named(linear_teacher: nn.Module) -> None:
    x, y = batch()
    text = (
        "distillation: the teacher must answer for the student's 4 classes; got 3. "
        "Choose a teacher trained on the same classes."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        Distillation().loss(linear(0, classes=4), x, y, stream())


def test_a_teacher_that_is_not_there_is_named(tmp_path: Path) -> None:
    x, y = batch()
    text = (
        "distillation: teacher must name the checkpoint of a network; got none. "
        "On the command line pass --set teacher=FILE.safetensors."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        Distillation().loss(linear(0), x, y, stream())
    path = str(tmp_path / "none.safetensors")
    with pytest.raises(
        FileNotFoundError, match=exactly(f"load_model: the weight file must exist; got {path}. Check the path.")
    ):
        Distillation(teacher=path).loss(linear(0), x, y, stream())


@pytest.mark.parametrize(("name", "value", "limits"), [("alpha", 1.5, "0 to 1"), ("temperature", 0.0, "0.001 to 1000")])
def test_settings_out_of_range_are_named(name: str, value: float, limits: str) -> None:
    text = f"recipe: Distillation.{name} must be from {limits}; got {value:g}. Correct the setting."
    with pytest.raises(ValueError, match=exactly(text)):
        Distillation(**{name: value})  # type: ignore[arg-type]


# --- Consistency ----------------------------------------------------------------------------------------------


def test_consistency_is_hydras_loss() -> None:
    net, (x, y) = linear(0), batch(400)
    found = Consistency(sigma=0.5, beta=3.0).loss(net, x, y, stream())
    noise = torch.randn(x.shape, generator=stream()).double()
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    a, b = (net(v).detach().numpy() for v in (x, x + 0.5 * noise))
    assert found.item() == pytest.approx(oracle.trades(a, b, y.numpy(), 3.0), rel=1e-12)


@pytest.mark.parametrize("settings", [{"sigma": 0.0}, {"beta": 0.0}])
def test_consistency_switched_off_is_cross_entropy_to_the_last_bit(settings: dict[str, float]) -> None:
    net, (x, y) = linear(0), batch()
    found = Consistency(**settings).loss(net, x, y, stream())  # type: ignore[arg-type]
    assert torch.equal(found, F.cross_entropy(net(x), y))
