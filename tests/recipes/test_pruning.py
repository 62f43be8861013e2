"""Pruning: which weights go and how many, scores by gradient descent, zeros that stay, files that load anywhere."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim import ImageSet, load_data, load_model
from repsim.networks.network import Network
from repsim.recipes import RECIPES, Recipe, Run, TrainedNetwork, train
from repsim.recipes.adversarial.pgd import PGD
from repsim.recipes.adversarial.trades import TRADES
from repsim.recipes.pruning import Pruning, first_scores, kept
from tests.conftest import exactly


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", split="train", limit=130), load_data("digits", limit=30)


def made(recipe: Recipe, images: tuple[ImageSet, ImageSet], **options: Any) -> TrainedNetwork:
    return train(recipe, *images, seed=0, name="net", progress=False, **options)


def layers(network: nn.Module) -> dict[str, Tensor]:
    return {n: m.weight.detach() for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@pytest.fixture(scope="module")
def dense(images: tuple[ImageSet, ImageSet]) -> Network:
    return made(RECIPES["standard"](epochs=3), images).network


# --- Masks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.01, 0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 7, 10, 144])
def test_the_count_that_is_kept_is_exact_even_among_equals(n: int, keep: float) -> None:
    lost = int(np.floor(np.round((1 - keep) * n, 9)))
    for scores in (torch.randn(n, generator=torch.Generator().manual_seed(0)), torch.ones(n), torch.zeros(n)):
        mask = kept(scores, keep)
        assert int(mask.sum()) == n - lost
        if lost:
            assert float(scores[mask].abs().min()) >= float(scores[~mask].abs().max())
    assert kept(torch.ones(n), keep).tolist() == [False] * lost + [True] * (n - lost)


def test_the_first_scores_are_the_magnitudes_on_the_scale_of_an_initial_weight() -> None:
    w = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    scores = first_scores(w)
    assert float(scores.abs().max()) == pytest.approx(math.sqrt(6 / 12))
    assert torch.equal(kept(scores, 0.3), kept(w, 0.3))
    torch.testing.assert_close(scores / scores.max(), w / w.max())
    channels = first_scores(w, "channels")
    assert channels.shape == (5, 1, 1, 1)
    assert torch.equal(channels.flatten().argsort(), w.abs().sum((1, 2, 3)).argsort())
    assert torch.equal(first_scores(torch.zeros(2, 3)), torch.zeros(2, 3))


# --- The three parts ------------------------------------------------------------------------------------------


def test_all_weights_kept_are_the_parent_recipe_bit_for_bit(images: tuple[ImageSet, ImageSet]) -> None:
    for objective, parent in (("pgd", PGD(epochs=1, steps=1)), ("trades", TRADES(epochs=1, steps=1))):
        plain = made(parent, images)
        pruned = made(
            Pruning(
                objective=objective, epochs=1, steps=1, keep=1.0, pretrain_epochs=0, prune_epochs=0, learning_rate=0.1
            ),
            images,
        )
        for key, value in plain.network.state_dict().items():
            assert torch.equal(value, pruned.network.state_dict()[key])


def test_pruning_without_learning_leaves_the_largest_weights_of_the_start(
    images: tuple[ImageSet, ImageSet], dense: Network
) -> None:
    still = {"learning_rate": 0.0, "prune_learning_rate": 0.0, "objective": "standard", "pretrain_epochs": 0}
    for scores in ("magnitude", "trained"):
        recipe = Pruning(keep=0.2, scores=scores, epochs=1, prune_epochs=1, **still)  # type: ignore[arg-type]
        found = made(recipe, images, start=dense)
        for name, weight in layers(found.network).items():
            before = layers(dense)[name]
            largest = before.abs() >= before.abs().flatten().sort(descending=True).values[(weight != 0).sum() - 1]
            assert torch.equal(weight, before * largest)
            assert int((weight != 0).sum()) == weight.numel() - math.floor(0.8 * weight.numel() + 1e-9)
        shares = found.record["facts"]["kept share"]
        assert set(shares) == {name.removeprefix("net.") for name in layers(dense)}
        assert all(abs(share - 0.2) < 0.01 for share in shares.values())


def test_zeros_stay_zeros_and_the_others_are_trained(images: tuple[ImageSet, ImageSet], dense: Network) -> None:
    recipe = Pruning(keep=0.1, scores="magnitude", objective="standard", pretrain_epochs=0, epochs=3)
    found = layers(made(recipe, images, start=dense).network)
    for name, before in layers(dense).items():
        mask = kept(before, 0.1)
        assert not found[name][~mask].any()
        assert bool((found[name][mask] != before[mask]).all())


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def test_scores_go_down_the_gradient_of_the_masks() -> None:
    net = two_layers()
    w1, w2 = (net[i].weight.detach().clone() for i in (1, 3))  # type: ignore[union-attr, operator]
    b1, b2 = (net[i].bias.detach().clone() for i in (1, 3))  # type: ignore[union-attr, operator]
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(8, 3, 2, 2, generator=generator).double(), torch.randint(3, (8,), generator=generator)
    network = Network(net, name="net").double().train()
    data = ImageSet(x.float(), y, tuple("abcdefgh"), "made up")
    run = Run(network, torch.optim.SGD(network.parameters(), lr=0.3), generator, data, seed=0)
    recipe = Pruning(objective="standard", keep=0.4, pretrain_epochs=0, momentum=0.5, weight_decay=0.01)
    momenta, scores = [torch.zeros_like(w) for w in (w1, w2)], [first_scores(w) for w in (w1, w2)]
    for _ in range(3):
        masks = [kept(score, 0.4).double().requires_grad_() for score in scores]
        hidden = F.relu(F.linear(x.flatten(1), w1 * masks[0], b1))
        loss = F.cross_entropy(F.linear(hidden, w2 * masks[1], b2), y)
        for i, gradient in enumerate(torch.autograd.grad(loss, masks)):
            slope = gradient * scores[i].sign() + 0.01 * scores[i]
            momenta[i] = 0.5 * momenta[i] + slope
            scores[i] = scores[i] - 0.3 * (slope + 0.5 * momenta[i])
        recipe.update(run, recipe.stages()[1].loss, x, y)
        for name, wanted in zip(("net.1", "net.3"), scores, strict=True):
            torch.testing.assert_close(run.memory[f"score.{name}"], wanted, atol=1e-12, rtol=0)
    for i, w, b, score in ((1, w1, b1, scores[0]), (3, w2, b2, scores[1])):
        assert torch.equal(net[i].weight, (w * kept(score, 0.4)).detach())  # type: ignore[arg-type]
        assert torch.equal(net[i].bias, b)  # type: ignore[arg-type]


def test_the_scores_lower_the_loss_of_the_pruned_network_with_the_weights_standing_still(
    images: tuple[ImageSet, ImageSet], dense: Network
) -> None:
    settings = {"keep": 0.2, "objective": "standard", "pretrain_epochs": 0, "epochs": 1, "learning_rate": 0.0}
    losses = []
    for scores in ("magnitude", "trained"):
        recipe = Pruning(scores=scores, prune_epochs=15, **settings)  # type: ignore[arg-type]
        found = made(recipe, images, start=dense).network
        for name, weight in layers(found).items():
            assert torch.equal(weight[weight != 0], layers(dense)[name][weight != 0])
        with torch.no_grad():
            losses.append(float(F.cross_entropy(found(images[0].pixels(slice(None))), images[0].labels)))
    assert losses[1] < 0.7 * losses[0]


def test_whole_channels_go_but_never_a_class(images: tuple[ImageSet, ImageSet], dense: Network) -> None:
    recipe = Pruning(structure="channels", keep=0.25, objective="standard", pretrain_epochs=0, prune_epochs=2, epochs=1)
    made_ = made(recipe, images, start=dense)
    found = layers(made_.network)
    *pruned, last = found
    for name in pruned:
        alive = (found[name] != 0).flatten(1)
        assert bool((alive.all(1) | ~alive.any(1)).all())
        assert int(alive.any(1).sum()) == len(alive) - math.floor(0.75 * len(alive))
    assert bool((found[last] != 0).all())
    assert "linear" not in made_.record["facts"]["kept share"]


def test_the_file_loads_as_the_plain_architecture(images: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    recipe = Pruning(epochs=1, pretrain_epochs=1, prune_epochs=1, steps=1, keep=0.3)
    found = made(recipe, images)
    path = found.save(tmp_path / "pruned.safetensors")
    loaded, x = load_model(path), images[1].pixels(slice(None))
    with torch.no_grad():
        assert torch.equal(loaded(x), found.network(x))
        assert torch.equal(load_model("digits_resnet8", checkpoint=path)(x), found.network(x))


def test_the_schedule_of_an_attack_is_handed_on() -> None:
    recipe = Pruning(steps=6, first_steps=2, step_size=0.01)
    steps = [recipe.in_epoch(epoch, 5).steps for epoch in range(5)]
    assert steps == [2, 3, 4, 5, 6]
    assert recipe.in_epoch(0, 5).parent() == PGD(steps=2, step_size=0.03, learning_rate=recipe.learning_rate)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"keep": 0.0}, "Pruning.keep must be above 0 and at most 1; got 0. Write 0.1 to keep a tenth of each layer."),
        (
            {"keep": 1.5},
            "Pruning.keep must be above 0 and at most 1; got 1.5. Write 0.1 to keep a tenth of each layer.",
        ),
        ({"scores": "train"}, "Pruning.scores must be trained or magnitude; got 'train'. Close matches: trained."),
        (
            {"structure": "channel"},
            "Pruning.structure must be weights or channels; got 'channel'. Close matches: channels.",
        ),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"recipe: {text}")):
        Pruning(**settings)


@pytest.mark.parametrize("objective", ["free", "yopo", "macer", "pruning", "pgdd"])
def test_an_objective_must_be_a_loss_alone(objective: str) -> None:
    text = rf"\Arecipe: Pruning.objective must be a recipe that is a loss alone; got '{objective}'. "
    with pytest.raises(ValueError, match=text):
        Pruning(objective=objective)


def test_a_network_without_channels_to_spare_is_refused() -> None:
    text = "pruning: the network must have layers whose channels can go; got none. Choose another architecture."
    with pytest.raises(ValueError, match=exactly(text)):
        Pruning(structure="channels").layers(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.slow
def test_trained_scores_keep_as_much_robustness_as_magnitudes() -> None:
    digits = load_data("digits", split="train"), load_data("digits")
    attacked = "accuracy under linf PGD-20, eps 0.1"
    for seed in (0, 1):
        start = train(RECIPES["pgd"](), *digits, seed=seed, name="dense", progress=False).network
        trained, magnitude = (
            train(
                Pruning(scores=scores, pretrain_epochs=0), *digits, seed=seed, name="net", start=start, progress=False
            ).record["scores"][attacked]
            for scores in ("trained", "magnitude")
        )
        assert trained >= magnitude - 0.02
