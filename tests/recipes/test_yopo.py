"""YOPO against autograd, PGD and an independent reading of its algorithm; attacks that grow during a training."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim import ImageSet, load_data, load_model
from repsim.networks.network import Network
from repsim.recipes import RECIPES, Recipe, Run, TrainedNetwork, train
from repsim.recipes.adversarial.amata import Amata
from repsim.recipes.adversarial.fast import Fast
from repsim.recipes.adversarial.free import Free
from repsim.recipes.adversarial.pgd import PGD
from repsim.recipes.adversarial.trades import TRADES
from repsim.recipes.adversarial.yopo import YOPO, answer_of, cut_behind, first_layer
from repsim.recipes.training.annealing import rising, shorter
from repsim.robustness import ThreatModel, pgd
from tests.conftest import exactly


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", split="train", limit=130), load_data("digits", limit=30)


def made(recipe: Recipe, images: tuple[ImageSet, ImageSet], **options: Any) -> TrainedNetwork:
    return train(recipe, *images, seed=0, name="net", progress=False, **options)


def same(a: TrainedNetwork, b: TrainedNetwork) -> bool:
    other = b.network.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.network.state_dict().items())


def two_layers(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(inplace=True), nn.Linear(6, classes)).double()


def batch(n: int = 8, classes: int = 3, low: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, 2, 2, generator=generator).double() * (1 - 2 * low) + low
    return x, torch.randint(classes, (n,), generator=generator)


def run_of(net: nn.Module, x: Tensor, y: Tensor, rate: float = 0.1) -> Run:
    network = Network(net, name="net").double().train()
    data = ImageSet(x.float(), y, tuple(map(str, range(len(x)))), "made up")
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    return Run(network, optimizer, torch.Generator().manual_seed(0), data, seed=0)


# --- YOPO -----------------------------------------------------------------------------------------------------


def test_the_slope_is_autograds_gradient_at_the_first_layers_output_even_where_relu_works_in_place() -> None:
    net, (x, y) = two_layers(), batch()
    first = first_layer(net)
    assert first is net[1]
    with cut_behind(first) as cuts:
        F.cross_entropy(net(x), y).backward()
    assert all(p.grad is None for p in first.parameters())
    z = first(x.flatten(1)).detach().requires_grad_()
    (wanted,) = torch.autograd.grad(F.cross_entropy(net[3](F.relu(z)), y), z)
    torch.testing.assert_close(cuts[0].grad, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(answer_of(first, net, x), z.detach(), atol=1e-12, rtol=0)
    assert not first._forward_hooks


def test_the_first_layer_is_found_behind_the_normalisation() -> None:
    network = load_model("digits_resnet8", normalize=((0.5,), (0.25,)))
    x = torch.rand(3, 1, 8, 8)
    first, conv1 = first_layer(network), network.get_submodule("net.conv1")
    assert first is conv1
    torch.testing.assert_close(answer_of(first, network, x), conv1((x - 0.5) / 0.25))


@pytest.mark.parametrize(("rounds", "steps"), [(1, 0), (1, 3), (4, 2)])
def test_a_step_is_the_papers_algorithm_on_two_layers(rounds: int, steps: int) -> None:
    net, (x, y) = two_layers(), batch(low=0.0)
    recipe = YOPO(eps=0.15, rounds=rounds, steps=steps, step_size=0.06)
    w1, b1, w2, b2 = (p.detach().numpy().copy() for p in net.parameters())
    run = run_of(net, x, y)
    draws = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    recipe.update(run, recipe.loss, x, y)
    clean, labels = x.flatten(1).numpy(), np.eye(3)[y.numpy()]
    moved = np.clip(clean + 0.15 * draws.flatten(1).numpy(), 0, 1)
    sums = [np.zeros_like(v) for v in (w1, b1, w2, b2)]
    for _ in range(rounds):
        z = moved @ w1.T + b1
        powers = np.exp(np.maximum(z, 0) @ w2.T + b2)
        error = (powers / powers.sum(1, keepdims=True) - labels) / len(x) / rounds
        slope = (error @ w2) * (z > 0)
        sums[2] += error.T @ np.maximum(z, 0)
        sums[3] += error.sum(0)
        for _ in range(steps):
            moved = np.clip(np.clip(moved + 0.06 * np.sign(slope @ w1), clean - 0.15, clean + 0.15), 0, 1)
        sums[0] += slope.T @ moved
        sums[1] += slope.sum(0)
    for parameter, before, gradient in zip(net.parameters(), (w1, b1, w2, b2), sums, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), before - 0.1 * gradient, atol=1e-12)


def test_the_steps_of_a_network_of_one_layer_are_those_of_pgd() -> None:
    # With two classes the sign of the gradient is the same everywhere.
    net, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double(), batch(classes=2, low=0.0)
    run, seen = run_of(net, x, y), list[Tensor]()
    net.eval()
    wanted = pgd(net, x, y, ThreatModel("linf", 0.1), steps=5, step_size=0.03, generator=run.generator)
    run.generator.manual_seed(0)
    recipe = YOPO(eps=0.1, rounds=2, steps=5, step_size=0.03)

    def watched(net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(x.detach().clone())
        return recipe.loss(net, x, y, generator)

    recipe.update(run, watched, x, y)
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], wanted, atol=1e-12, rtol=0)


def test_a_radius_that_vanishes_is_plain_training_whatever_the_rounds(images: tuple[ImageSet, ImageSet]) -> None:
    plain = made(RECIPES["standard"](epochs=2, architecture="digits_conv"), images)
    tiny = made(YOPO(epochs=2, eps=1e-9, architecture="digits_conv"), images)
    for a, b in zip(plain.network.parameters(), tiny.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


class Twice(nn.Module):
    """A network whose first layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x.flatten(1)))


class Past(nn.Module):
    """A network that never runs its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = nn.Linear(12, 3).double(), nn.Linear(12, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1))


def test_networks_without_one_first_layer_are_refused() -> None:
    x, y = batch()
    recipe = YOPO()
    text = (
        "yopo: all must pass through the first layer once; got a layer that runs twice. "
        "Choose an architecture whose first layer sees the images once."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        recipe.update(run_of(Twice(), x, y), recipe.loss, x, y)
    text = (
        "yopo: the network must run its first layer; got one that it does not. "
        "Choose an architecture whose first layer sees the images."
    )
    net = Past()
    with pytest.raises(ValueError, match=exactly(text)):
        answer_of(net.unused, net, x)
    with pytest.raises(ValueError, match=exactly(text)):
        recipe.update(run_of(net, x, y), recipe.loss, x, y)
    text = (
        "yopo: the network must have a convolution or a linear layer; got none. "
        "Choose an architecture that begins with one."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        first_layer(nn.Sequential(nn.ReLU()))


@pytest.mark.slow
def test_few_full_passes_give_the_robustness_of_many() -> None:
    digits = load_data("digits", split="train"), load_data("digits")
    attacked = "accuracy under linf PGD-20, eps 0.1"
    for seed in (0, 1):
        yopo, long = (
            train(recipe, *digits, seed=seed, name="net", progress=False)
            for recipe in (YOPO(rounds=5, steps=3), PGD(steps=15))
        )
        assert yopo.record["scores"][attacked] > long.record["scores"][attacked] - 0.05
        costs = [trained.record["cost"]["gradient_evaluations"] for trained in (yopo, long)]
        assert costs[0] * 3 < costs[1]


# --- Attacks that grow ----------------------------------------------------------------------------------------


def test_the_steps_rise_evenly_and_go_as_far_together() -> None:
    assert [rising(2, 10, epoch, 9) for epoch in range(9)] == list(range(2, 11))
    assert [rising(2, 4, epoch, 6) for epoch in range(6)] == [2, 2, 3, 3, 4, 4]
    assert [rising(0, 7, epoch, 3) for epoch in range(3)] == [7, 7, 7]
    assert rising(2, 10, 0, 1) == 10
    for steps in range(1, 30):
        assert shorter(0.025, 10, steps) * steps == pytest.approx(0.25, rel=1e-15)
    assert shorter(0.1, 7, 7) == 0.1


@pytest.mark.parametrize("kind", [PGD, TRADES, Fast, Amata])
def test_recipes_take_the_schedule(kind: Any) -> None:
    recipe = kind(steps=10, step_size=0.025, first_steps=2)
    inside = [recipe.in_epoch(epoch, 5) for epoch in range(5)]
    assert [now.steps for now in inside] == [2, 4, 6, 8, 10]
    assert [now.steps * now.step_size for now in inside] == pytest.approx([0.25] * 5)
    assert inside[-1] == replace(recipe, first_steps=0)


def test_free_and_yopo_take_it_too() -> None:
    assert [Free(replays=6, first_replays=2).in_epoch(epoch, 3).replays for epoch in range(3)] == [2, 4, 6]
    assert [stage.epochs for stage in Free(epochs=60, replays=6, first_replays=2).stages()] == [15]
    inside = [YOPO(rounds=6, first_rounds=2, step_size=0.01).in_epoch(epoch, 3) for epoch in range(3)]
    assert [now.rounds for now in inside] == [2, 4, 6]
    assert [now.rounds * now.step_size for now in inside] == pytest.approx([0.06] * 3)


@pytest.mark.parametrize(
    ("annealed", "constant"),
    [
        (Amata(epochs=2, steps=3, first_steps=3), PGD(epochs=2, steps=3)),
        (Amata(epochs=2, steps=3, first_steps=0), PGD(epochs=2, steps=3)),
        (TRADES(epochs=2, steps=3, first_steps=3), TRADES(epochs=2, steps=3)),
        (Fast(epochs=2, steps=1, first_steps=1), Fast(epochs=2)),
        (Free(epochs=6, replays=3, first_replays=3), Free(epochs=6, replays=3)),
        (YOPO(epochs=2, rounds=2, first_rounds=2), YOPO(epochs=2, rounds=2)),
    ],
    ids=lambda recipe: type(recipe).__name__,
)
def test_a_schedule_that_stands_still_is_the_recipe_itself(
    annealed: Recipe, constant: Recipe, images: tuple[ImageSet, ImageSet]
) -> None:
    assert same(made(annealed, images), made(constant, images))


def test_the_cost_of_amata_is_that_of_its_steps(images: tuple[ImageSet, ImageSet]) -> None:
    found = made(Amata(epochs=5, steps=9, first_steps=1, batch_size=65), images).record["cost"]["gradient_evaluations"]
    assert found == 130 * sum(steps + 1 for steps in (1, 3, 5, 7, 9))
    for preset in ("digits", "cifar10", "mnist"):
        recipe = Amata.preset(preset)
        spent = sum(recipe.in_epoch(epoch, recipe.epochs).steps + 1 for epoch in range(recipe.epochs))
        assert spent <= 0.7 * recipe.epochs * (recipe.steps + 1)
        assert recipe.steps * recipe.step_size == pytest.approx(2.5 * recipe.eps)


def test_a_schedule_that_falls_is_refused() -> None:
    text = "recipe: PGD.first_steps must be at most steps=7; got 8. It rises to that; 0 leaves it constant."
    with pytest.raises(ValueError, match=exactly(text)):
        PGD(first_steps=8)


@pytest.mark.slow
def test_amata_is_nearly_as_robust_as_its_last_attack_throughout() -> None:
    digits = load_data("digits", split="train"), load_data("digits")
    attacked = "accuracy under linf PGD-20, eps 0.1"
    found = [
        [train(kind, *digits, seed=seed, name="net", progress=False).record["scores"][attacked] for seed in (0, 1, 2)]
        for kind in (Amata(), PGD(steps=10))
    ]
    assert np.mean(found[0]) > np.mean(found[1]) - 0.03
