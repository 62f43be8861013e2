"""What each recipe lowers, against float64 oracles and closed forms; presets, schedules and augmentation."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor, nn

from repsim import ImageSet, load_data, load_model
from repsim.data.image_set import stratified_rows
from repsim.networks.architectures import find_architecture
from repsim.networks.network import NORMALIZATIONS, Network
from repsim.recipes import RECIPES, Recipe, Run, Stage, TrainedNetwork, train
from repsim.recipes.adversarial.fast import Fast
from repsim.recipes.adversarial.free import Free
from repsim.recipes.adversarial.trades import TRADES
from repsim.recipes.cutmix import CutMix
from repsim.recipes.macer import MACER
from repsim.recipes.mixup import Mixup
from repsim.recipes.noise import Noise
from repsim.recipes.noisy_pretraining import NoisyPretraining
from repsim.recipes.standard import Standard
from repsim.recipes.training.augmentations import augmentation
from repsim.recipes.training.loop import _mislabelled
from repsim.robustness.smoothing import certify
from tests.conftest import exactly
from tests.oracles import recipes as oracle


def linear(classes: int = 3, pixels: int = 12, seed: int = 0) -> nn.Sequential:
    """Softmax regression in float64."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(pixels, classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, pixels, generator=generator))
        layer.bias.copy_(torch.randn(classes, generator=generator))
    return nn.Sequential(nn.Flatten(), layer)


def batch(n: int = 8, classes: int = 3, seed: int = 1, low: float = 0.2, high: float = 0.8) -> tuple[Tensor, Tensor]:
    """Images of 12 pixels away from 0 and 1, unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 2, 2, generator=generator).double() * (high - low) + low
    return x, torch.randint(classes, (n,), generator=generator)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Watched(nn.Module):
    """Keeps what it is asked, and whether in training mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach().clone()))
        return self.net(x)


# --- TRADES ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 6.0])
def test_trades_is_the_papers_loss_at_the_inputs_of_its_attack(beta: float) -> None:
    net = Watched(linear()).train()
    x, y = batch()
    recipe = TRADES(beta=beta, eps=0.1)
    loss = recipe.loss(net, x, y, stream())
    (clean_mode, clean), (moved_mode, moved) = net.seen[-2:]
    assert clean_mode
    assert moved_mode
    assert not any(mode for mode, _ in net.seen[:-2])
    assert len(net.seen) == 1 + recipe.steps + 2
    assert torch.equal(clean, x)
    a, b = (net.net(v).detach().numpy() for v in (clean, moved))
    assert loss.item() == pytest.approx(oracle.trades(a, b, y.numpy(), beta), rel=1e-12)
    plain = F.cross_entropy(net.net(x), y)
    assert loss.item() > plain.item() + 0.01


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"eps": 0.0}])
def test_trades_without_radius_or_weight_is_cross_entropy(settings: dict[str, float]) -> None:
    net, (x, y) = linear(), batch()
    gradients = []
    for loss in (TRADES(**settings).loss(net, x, y, stream()), F.cross_entropy(net(x), y)):  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(loss, tuple(net.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_the_divergence_and_its_gradient_vanish_with_the_radius() -> None:
    net, (x, y) = linear(), batch()
    plain = torch.autograd.grad(F.cross_entropy(net(x), y), tuple(net.parameters()))
    tiny = torch.autograd.grad(TRADES(eps=1e-9).loss(net, x, y, stream()), tuple(net.parameters()))
    for a, b in zip(plain, tiny, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


def test_the_trades_attack_goes_to_a_corner_of_the_ball_of_a_binary_linear_network() -> None:
    # The divergence grows with |wᵀδ|, which is largest at ±ε·sign(w).
    net, (x, _) = linear(classes=2), batch()
    weight: Any = net[1].weight
    way = (weight[0] - weight[1]).sign()
    moved = TRADES(eps=0.1, steps=20, step_size=0.03).attack(net, x, stream())
    delta = (moved - x).flatten(1) / 0.1 * way
    torch.testing.assert_close(delta, delta[:, :1].sign().expand_as(delta), atol=1e-9, rtol=0)
    assert not moved.requires_grad


def test_the_trades_attack_stays_in_the_ball_and_in_the_pixels() -> None:
    net, (x, _) = linear(), batch(low=0.0, high=1.0)
    moved = TRADES(eps=0.1, start_sigma=5.0, step_size=0.3).attack(net, x, stream())
    assert float((moved - x).abs().max()) <= 0.1 + 1e-12
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    start = TRADES(eps=0.1, start_sigma=5.0, steps=0).attack(net, x, stream())
    assert float((start - x).abs().max()) <= 0.1 + 1e-12
    assert not torch.equal(start, x)


# --- Fast and Free --------------------------------------------------------------------------------------------


def test_one_long_step_takes_the_margin_of_a_linear_network_down_by_the_l1_norm() -> None:
    # A step of 2ε reaches the far side of the ball from every start.
    net, (x, y) = linear(classes=2), batch(classes=2)
    loss = Fast(eps=0.1, step_size=0.2).loss(net, x, y, stream())
    weight: Any = net[1].weight
    logits = net(x).detach()
    margin = torch.where(y == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
    worst = margin - 0.1 * (weight[0] - weight[1]).abs().sum()
    torch.testing.assert_close(loss, F.softplus(-worst).mean(), atol=1e-12, rtol=0)


def test_the_step_of_fast_begins_anywhere_in_the_ball_and_stays_there() -> None:
    net, (x, y) = Watched(linear()).train(), batch(n=200, low=0.0, high=1.0)
    Fast(eps=0.1, step_size=0.05).loss(net, x, y, stream())
    (first_mode, start), (second_mode, moved) = net.seen
    assert (first_mode, second_mode) == (False, True)
    delta = (start - x)[(x > 0.1) & (x < 0.9)] / 0.1
    assert kstest(delta.numpy(), "uniform", (-1, 2)).pvalue > 1e-3
    for v in (start, moved):
        assert float((v - x).abs().max()) <= 0.1 + 1e-12
        assert 0 <= float(v.min()) <= float(v.max()) <= 1


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", split="train", limit=130), load_data("digits", limit=30)


def test_fast_ends_with_the_weights_before_the_fall(
    monkeypatch: pytest.MonkeyPatch, images: tuple[ImageSet, ImageSet]
) -> None:
    kept: list[dict[str, Tensor]] = []
    accuracies = [0.5, 0.75, 0.55, 0.34, 0.9]

    def robust_accuracy(self: Fast, run: Run) -> float:
        kept.append({key: value.clone() for key, value in run.network.state_dict().items()})
        return accuracies[len(kept) - 1]

    monkeypatch.setattr(Fast, "robust_accuracy", robust_accuracy)
    made = train(Fast(epochs=5), *images, seed=0, name="net", progress=False)
    assert len(kept) == 4  # 0.75 to 0.55 is a fall of 0.2 and no more
    for key, value in made.network.state_dict().items():
        assert torch.equal(value, kept[2][key])
    assert made.record["stopped"] == (
        "catastrophic overfitting: PGD accuracy on a training minibatch fell from 0.55 to 0.34 in epoch 4; "
        "these are the weights after epoch 3"
    )
    assert made.record["cost"]["epochs"] == 4


def test_the_check_of_fast_is_the_pgd_accuracy_of_one_minibatch(images: tuple[ImageSet, ImageSet]) -> None:
    network = load_model("digits_resnet8")
    run = Run(network, torch.optim.SGD(network.parameters(), lr=0.1), stream(), images[0], seed=3)
    found = [Fast(eps=eps).robust_accuracy(run) for eps in (1e-6, 1e-6, 0.3)]
    rows = torch.randperm(130, generator=stream(3))[:64]
    with torch.no_grad():
        right = (network(images[0].pixels(rows)).argmax(1) == images[0].labels[rows]).double().mean()
    assert found[0] == found[1] == pytest.approx(float(right), abs=1 / 64)
    assert found[2] < found[0]
    assert torch.equal(run.generator.get_state(), stream().get_state())


def test_free_is_the_papers_algorithm_on_softmax_regression() -> None:
    inner = linear()
    network = Network(inner, name="net").double().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    w, b = (p.detach().numpy().copy() for p in inner.parameters())
    x, y = batch(n=12, low=0.0, high=1.0)
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    data = ImageSet(x.float(), y, tuple(map(str, range(12))), "made up")
    run = Run(network, optimizer, stream(), data, seed=0)
    recipe = Free(eps=0.15, replays=3)
    for part in batches:
        recipe.update(run, recipe.loss, *part)
    flat = [(v.flatten(1).numpy(), labels.numpy()) for v, labels in batches]
    w, b, delta = oracle.free(w, b, flat, eps=0.15, replays=3, rate=0.2)
    for parameter, wanted in zip(inner.parameters(), (w, b), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(run.memory["delta"].flatten(1).numpy(), delta, atol=1e-12)


@pytest.mark.parametrize(("epochs", "replays", "passes"), [(8, 4, 2), (9, 4, 3), (1, 4, 1), (3, 1, 3)])
def test_free_divides_its_epochs_by_the_replays(epochs: int, replays: int, passes: int) -> None:
    assert [stage.epochs for stage in Free(epochs=epochs, replays=replays).stages()] == [passes]


# --- MACER ----------------------------------------------------------------------------------------------------


class Prepared(nn.Module):
    """Answers what it was told to, whatever it is asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == len(self.logits)
        return self.logits


@pytest.mark.parametrize("scale", [0.05, 0.3, 3.0])
def test_macer_is_the_papers_loss(scale: float) -> None:
    logits = scale * torch.randn(40, 5, 4, generator=stream(2)).double() + scale * torch.eye(4).double()[None, :1] * 2
    logits.requires_grad_()
    y = torch.randint(2, (40,), generator=stream(3))
    recipe = MACER(copies=5, weight=3.0, margin=4.0, sharpness=8.0, sigma=0.5)
    loss = recipe.loss(Prepared(logits.view(200, 4)), torch.zeros(40, 1, 1, 1), y, stream())
    wanted, acted = oracle.macer(logits.detach().numpy(), y.numpy(), sigma=0.5, weight=3.0, margin=4.0, sharpness=8.0)
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-10)
    assert acted > 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(torch.isfinite(gradient).all())


def test_a_step_down_the_hinge_widens_the_margin() -> None:
    logits = (0.1 * torch.randn(20, 6, 3, generator=stream())).double().requires_grad_()
    y = torch.randint(3, (20,), generator=stream(1))
    recipe = MACER(copies=6)
    before = recipe.hinge(logits, y)
    (gradient,) = torch.autograd.grad(before, logits)
    assert before.item() > recipe.hinge(logits - 0.01 * gradient / gradient.norm(), y).item()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(0.0, 1.0), (50.0, 0.0), (0.6, 0.0)],
    ids=["all wrong", "infinite margins", "margins beyond the hinge"],
)
def test_the_hinge_is_nothing_where_all_are_wrong_or_far_enough(right: float, wrong: float) -> None:
    logits = torch.tensor([right, wrong, -1.0]).double().expand(7, 4, 3).clone().requires_grad_()
    y = torch.zeros(7, dtype=torch.int64)
    recipe = MACER(copies=4, margin=3.0)
    assert recipe.hinge(logits, y).item() == 0
    loss = recipe.loss(Prepared(logits.view(28, 3)), torch.zeros(7, 1, 1, 1), y, stream())
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, 0], y), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(torch.isfinite(gradient).all())


def test_macer_asks_about_noisy_copies_of_each_image() -> None:
    net, (x, y) = Watched(linear()), batch(n=50)
    MACER(copies=40, sigma=0.5).loss(net, x, y, stream())
    ((_, asked),) = net.seen
    noise = asked.view(50, 40, 12) - x.view(50, 1, 12)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
    assert float(noise.mean(1).abs().max()) < 0.5


def test_macer_warms_up_on_noise_of_its_own_level() -> None:
    warm, main = MACER(sigma=0.5, warmup_epochs=3, epochs=4).stages()
    assert (warm.epochs, main.epochs) == (3, 4)
    assert (warm.learning_rate, main.learning_rate) == (0.1, 0.003)
    net, (x, y) = linear(), batch()
    assert torch.equal(warm.loss(net, x, y, stream()), Noise(sigma=0.5).loss(net, x, y, stream()))


# --- Noise, noisy pretraining, mixup --------------------------------------------------------------------------


def test_noise_is_gaussian_and_leaves_the_pixels() -> None:
    net, (x, y) = Watched(linear()), batch(n=500)
    loss = Noise(sigma=0.5).loss(net, x, y, stream())
    ((_, asked),) = net.seen
    assert kstest(((asked - x) / 0.5).flatten().numpy(), "norm").pvalue > 1e-3
    assert float(asked.min()) < 0
    assert loss.item() == pytest.approx(oracle.cross_entropy(net.net(asked).detach().numpy(), y.numpy()), rel=1e-12)


def test_noisy_pretraining_draws_a_level_per_image_and_finetunes_on_clean_ones() -> None:
    x, y = torch.full((600, 1, 8, 8), 0.5), torch.zeros(600, dtype=torch.int64)
    net = Watched(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    recipe = NoisyPretraining(sigmas=(0.0, 0.5, 2.0), finetune_epochs=2)
    first, second = recipe.stages()
    first.loss(net, x, y, stream())
    levels = (net.seen[0][1] - x).flatten(1).std(1)
    counts = [int(((levels > low) & (levels < high)).sum()) for low, high in ((-1, 0.1), (0.3, 0.7), (1.3, 2.7))]
    assert sum(counts) == 600
    assert min(counts) > 150
    second.loss(net, x, y, stream())
    assert torch.equal(net.seen[1][1], x)
    assert (second.epochs, second.learning_rate) == (2, 0.01)


@pytest.mark.parametrize(("kind", "setting"), [(MACER, {"sigma": 64.0}), (NoisyPretraining, {"sigmas": (0.0, 64.0)})])
def test_noise_in_grey_levels_is_refused_before_the_training(kind: Any, setting: dict[str, Any]) -> None:
    text = (
        f"recipe: {kind.__name__}.{next(iter(setting))} must be >= 0 and <= 5; got 64.0. "
        "Pixels are in [0, 1]: write 8/255 for 8 grey levels."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        kind(**setting)


def test_noisy_pretraining_needs_a_level() -> None:
    text = "recipe: NoisyPretraining.sigmas must name a noise level; got none. Write (0.0,) for clean images alone."
    with pytest.raises(ValueError, match=exactly(text)):
        NoisyPretraining(sigmas=())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_mixes_images_and_labels_in_one_proportion(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mixup, "draw", lambda self, generator: share)
    net, (x, y) = Watched(linear()), batch(n=6)
    loss = Mixup().loss(net, x, y, stream())
    other = torch.randperm(6, generator=stream())
    asked = net.seen[0][1]
    torch.testing.assert_close(asked, share * x + (1 - share) * x[other], atol=0, rtol=0)
    chances = oracle.softmax(net.net(asked).detach().numpy())
    target = share * np.eye(3)[y] + (1 - share) * np.eye(3)[y[other]]
    assert loss.item() == pytest.approx(float(-(target * np.log(chances)).sum(1).mean()), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_draws_from_the_beta_distribution(alpha: float) -> None:
    generator = stream()
    drawn = [Mixup(alpha=alpha).draw(generator) for _ in range(600)]
    assert kstest(drawn, "beta", (alpha, alpha)).pvalue > 1e-3
    assert Mixup(alpha=alpha).draw(stream()) == drawn[0]


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9, 1.0])
def test_cutmix_takes_a_box_from_another_image_and_its_share_of_the_label(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CutMix, "draw", lambda self, generator: share)
    x = torch.rand(6, 3, 6, 4, generator=stream(5)).double()
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    for seed in range(30):
        net = Watched(linear(pixels=72))
        loss = CutMix().loss(net, x, y, stream(seed))
        generator = stream(seed)
        row, column = (int(torch.randint(side, (), generator=generator)) for side in (6, 4))
        other = torch.randperm(6, generator=generator)
        box, shares = oracle.cutmix(6, 4, share, row, column)
        asked = net.seen[0][1].numpy()
        for i in range(6):
            wanted = np.where(box, x[other[i]].numpy(), x[i].numpy())
            assert np.array_equal(asked[i], wanted)
        chances = oracle.softmax(net.net(net.seen[0][1]).detach().numpy())
        target = shares * np.eye(3)[y] + (1 - shares) * np.eye(3)[y[other]]
        assert loss.item() == pytest.approx(float(-(target * np.log(chances)).sum(1).mean()), rel=1e-12)


def test_cutmix_without_a_box_is_cross_entropy_to_the_last_bit() -> None:
    net, (x, y) = linear(), batch()
    assert torch.equal(CutMix(alpha=0.0).loss(net, x, y, stream()), F.cross_entropy(net(x), y))


def test_the_boxes_of_cutmix_have_their_centres_and_areas_spread_over_the_image() -> None:
    generator, covered, areas = stream(), np.zeros((200, 300)), []
    for _ in range(3000):
        rows, columns = CutMix().box(200, 300, generator)
        assert 0 <= rows.start <= rows.stop <= 200
        assert 0 <= columns.start <= columns.stop <= 300
        covered[rows, columns] += 1
        areas.append((rows.stop - rows.start) * (columns.stop - columns.start) / 60000)
    # u = 1−λ is uniform for α = 1 and a side √u keeps √u − u/4 of itself inside, so the area is E[(√u − u/4)²].
    assert float(np.mean(areas)) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.015)
    assert covered.min() > 0
    assert covered[100, 150] > 1.5 * covered[0, 0]


# --- Wrong labels ---------------------------------------------------------------------------------------------


def labels_learned(
    monkeypatch: pytest.MonkeyPatch, data: ImageSet, share: float, seed: int = 0, epochs: int = 1
) -> list[dict[bytes, int]]:
    """Pixels of an image -> the label that is learned with it, epoch by epoch."""
    found: list[tuple[bytes, int]] = []

    def watched(self: Recipe, run: Run, loss: Any, x: Tensor, y: Tensor) -> None:
        found.extend((image.numpy().tobytes(), int(label)) for image, label in zip(x, y, strict=True))

    with monkeypatch.context() as patch:
        patch.setattr(Standard, "update", watched)
        recipe = Standard(epochs=epochs, batch_size=len(data), label_noise=share)
        train(recipe, data, data, seed=seed, name="net", progress=False)
    return [dict(found[k * len(data) : (k + 1) * len(data)]) for k in range(epochs)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 1.0])
def test_a_share_of_the_labels_is_replaced_by_other_classes(
    share: float, images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = images[0].take([i for i, y in enumerate(images[0].labels.tolist()) if y not in (0, 4)])
    before = data.labels.clone()
    true = {image.numpy().tobytes(): int(y) for image, y in zip(data.pixels(slice(None)), data.labels, strict=True)}
    first, second = labels_learned(monkeypatch, data, share, epochs=2)
    assert first == second
    wrong = [image for image in true if first[image] != true[image]]
    assert len(wrong) == round(share * len(data))
    assert set(first.values()) <= set(true.values())
    assert torch.equal(data.labels, before)
    if share:
        assert labels_learned(monkeypatch, data, share) == [first]
        assert labels_learned(monkeypatch, data, share, seed=1) != [first]


def test_replaced_labels_are_any_other_class() -> None:
    n = 9000
    data = ImageSet(torch.zeros(n, 1, 8, 8), torch.arange(n) % 3 + 5, tuple(map(str, range(n))), "made up")
    counts = np.zeros((3, 3))
    wrong = _mislabelled(data, 1.0, seed=3).labels
    for now, then in zip(wrong.tolist(), data.labels.tolist(), strict=True):
        counts[then - 5, now - 5] += 1
    assert np.diag(counts).tolist() == [0, 0, 0]
    assert counts[~np.eye(3, dtype=bool)].min() > 1350


def test_no_wrong_labels_are_the_training_as_it_was(images: tuple[ImageSet, ImageSet]) -> None:
    plain, none, some = (
        train(recipe, *images, seed=0, name="net", progress=False)
        for recipe in (Standard(epochs=1), Standard(epochs=1, label_noise=0.0), Standard(epochs=1, label_noise=0.3))
    )
    weights = [torch.cat([p.flatten() for p in made.network.parameters()]) for made in (plain, none, some)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert some.record["settings"]["label_noise"] == 0.3
    assert some.record["data"] == plain.record["data"]


def test_wrong_labels_need_two_classes() -> None:
    data = ImageSet(torch.zeros(4, 1, 8, 8), torch.ones(4, dtype=torch.int64), tuple("abcd"), "made up")
    text = "train: label_noise needs at least two classes; got 1 in made up. Train on images of several classes."
    with pytest.raises(ValueError, match=exactly(text)):
        train(Standard(label_noise=0.5), data, data, seed=0, name="net", progress=False)


# --- Settings and presets -------------------------------------------------------------------------------------


def test_the_recipes_of_papers_have_presets() -> None:
    assert {"standard", "pgd", "trades", "fast", "free", "noise", "macer", "noisy_pretraining", "mixup", "cutmix"} <= {
        name for name, kind in RECIPES.items() if kind.PRESETS
    }


@pytest.mark.parametrize("preset", ["digits", "mnist", "cifar10"])
@pytest.mark.parametrize("name", sorted(name for name, kind in RECIPES.items() if kind.PRESETS))
def test_every_recipe_has_presets_with_a_source(name: str, preset: str) -> None:
    kind = RECIPES[name]
    recipe = kind.preset(preset)
    assert kind.PRESETS[preset].source
    assert find_architecture(recipe.architecture) is not None
    assert recipe.normalize is None or recipe.normalize in NORMALIZATIONS
    assert kind(**json.loads(json.dumps(asdict(recipe)))) == recipe
    of_the_data = {
        "digits": ("digits_resnet8", "digits_conv"),
        "mnist": "small_conv_mnist",
        "cifar10": ("resnet", "wrn28"),
    }
    assert recipe.architecture.startswith(of_the_data[preset])
    assert (recipe == kind()) == (not kind.PRESETS[preset].settings)
    assert kind.preset(preset, epochs=2, weight_decay=0.0) == kind(
        **{**kind.PRESETS[preset].settings, "epochs": 2, "weight_decay": 0.0}
    )


def test_presets_hold_the_values_of_their_sources() -> None:
    cifar: dict[str, Any] = {name: kind.preset("cifar10") for name, kind in RECIPES.items() if kind.PRESETS}
    for name in ("pgd", "fast", "free"):
        assert cifar[name].eps == 8 / 255
    assert (cifar["pgd"].step_size, cifar["pgd"].steps) == (2 / 255, 7)
    trades = cifar["trades"]
    assert (trades.beta, trades.eps, trades.step_size, trades.steps) == (6, 0.031, 0.007, 10)
    assert (trades.epochs, trades.weight_decay) == (76, 2e-4)
    assert cifar["fast"].step_size == pytest.approx(1.25 * cifar["fast"].eps)
    assert (cifar["free"].replays, cifar["free"].learning_rate) == (8, 0.04)
    macer = cifar["macer"]
    assert (macer.copies, macer.sigma, macer.weight, macer.margin, macer.sharpness) == (16, 0.25, 12, 8, 16)
    assert (macer.epochs, macer.decay_epochs, macer.learning_rate, macer.batch_size) == (440, (200, 400), 0.01, 64)
    assert (cifar["noise"].epochs, cifar["noise"].decay_epochs, cifar["noise"].batch_size) == (90, (30, 60), 256)
    mnist: Any = RECIPES["trades"].preset("mnist")
    assert (mnist.beta, mnist.eps, mnist.steps, mnist.step_size) == (1, 0.3, 40, 0.01)
    mnist = RECIPES["fast"].preset("mnist")
    assert (mnist.eps, mnist.step_size) == (0.3, 0.375)


def test_an_unknown_preset_or_setting_is_named() -> None:
    text = "preset: PGD must have a preset of this name; got 'cifar'. Close matches: cifar10."
    with pytest.raises(ValueError, match=exactly(text)):
        RECIPES["pgd"].preset("cifar")
    text = "preset: PGD must have this setting; got 'epoch'. Close matches: epochs, decay_epochs, eps, steps."
    with pytest.raises(ValueError, match=exactly(text)):
        RECIPES["pgd"].preset("digits", epoch=3)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"eps": 8},
            ValueError,
            "PGD.eps must be >= 0 and <= 1; got 8. Pixels are in [0, 1]: write 8/255 for 8 grey levels",
        ),
        ({"epochs": 0}, ValueError, "PGD.epochs must be >= 1 and finite; got 0. Correct the setting"),
        ({"epochs": 2.5}, TypeError, "PGD.epochs must be an integer; got 2.5. Correct the setting"),
        ({"augment": 1}, TypeError, "PGD.augment must be a text; got 1. Correct the setting"),
        ({"momentum": -0.1}, ValueError, "PGD.momentum must be >= 0 and finite; got -0.1. Correct the setting"),
        ({"step_size": math.nan}, ValueError, "PGD.step_size must be >= 0 and finite; got nan. Correct the setting"),
        ({"steps": True}, TypeError, "PGD.steps must be an integer; got True. Correct the setting"),
        ({"eps": "8/255"}, TypeError, "PGD.eps must be a number; got '8/255'. Correct the setting"),
        ({"decay_epochs": 3}, TypeError, "PGD.decay_epochs must be a list of numbers; got 3. Correct the setting"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=exactly(f"recipe: {text}.")):
        RECIPES["pgd"](**settings)


# --- Schedules, augmentation, cost ----------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoStages(Recipe):
    """Standard training twice, with a schedule each; a recipe that the package does not know."""

    name: ClassVar[str] = "TwoStages"

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x), y)

    def stages(self) -> tuple[Stage, ...]:
        return Stage(2, 0.1, self.loss), Stage(3, 0.01, self.loss)


def rates(recipe: Recipe, images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step."""
    found: list[float] = []
    update: Callable[..., None] = Recipe.update

    def watched(self: Recipe, run: Run, *rest: Any) -> None:
        found.append(run.optimizer.param_groups[0]["lr"])
        update(self, run, *rest)

    monkeypatch.setattr(Recipe, "update", watched)
    train(recipe, *images, seed=0, name="net", progress=False)
    return found


def test_the_rate_goes_up_and_down_once(images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch) -> None:
    found = rates(Standard(epochs=5, batch_size=65), images, monkeypatch)  # 10 steps
    assert found == pytest.approx([0.05, 0.1, *(0.1 * k / 8 for k in range(8, 0, -1))])


def test_the_rate_falls_to_a_tenth_where_told(
    images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rates(Standard(epochs=5, batch_size=65, decay_epochs=(1, 3)), images, monkeypatch)
    assert found == pytest.approx([0.1] * 2 + [0.01] * 4 + [0.001] * 4)


def test_every_stage_has_a_schedule_and_a_momentum_of_its_own(
    images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        found = rates(TwoStages(batch_size=130), images, patch)
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.005])
    states: list[int] = []
    update = Recipe.update

    def watched(self: Recipe, run: Run, *rest: Any) -> None:
        states.append(len(run.optimizer.state))
        update(self, run, *rest)

    monkeypatch.setattr(Recipe, "update", watched)
    train(TwoStages(batch_size=130), *images, seed=0, name="net", progress=False)
    assert [count > 0 for count in states] == [False, True, False, True, True]


def test_a_recipe_of_ones_own_is_recorded_by_its_class(images: tuple[ImageSet, ImageSet]) -> None:
    made = train(TwoStages(batch_size=65), *images, seed=0, name="net", progress=False)
    assert made.record["recipe"] == "TwoStages"
    assert made.record["cost"]["epochs"] == 5

    @dataclass(frozen=True)
    class Mine(Standard):
        """A variant of a known recipe."""

        name: ClassVar[str] = "Mine"

    made = train(Mine(epochs=1), *images, seed=0, name="net", progress=False)
    assert made.record["recipe"] == "Mine"


def test_crops_are_parts_of_the_padded_image_each_with_a_place_of_its_own() -> None:
    x = torch.rand(60, 2, 5, 6, generator=stream(4))
    found = augmentation("crop:2")(x, stream())
    padded = F.pad(x, (2, 2, 2, 2))
    places = set()
    for i in range(60):
        at = [(r, c) for r in range(5) for c in range(5) if torch.equal(padded[i, :, r : r + 5, c : c + 6], found[i])]
        assert len(at) == 1
        places |= set(at)
    assert {r for r, _ in places} == {c for _, c in places} == set(range(5))


def test_mirrors_are_half_of_the_images() -> None:
    x = torch.rand(200, 1, 3, 4, generator=stream(4))
    found = augmentation("flip")(x, stream())
    mirrored = [torch.equal(found[i], x[i].flip(2)) for i in range(200)]
    assert all(m or torch.equal(found[i], x[i]) for i, m in enumerate(mirrored))
    assert 70 < sum(mirrored) < 130
    assert augmentation("none")(x, stream()) is x


COSTS: dict[str, tuple[dict[str, Any], float]] = {
    # Images whose gradient is taken for one image of one pass.
    "standard": ({}, 1),
    "pgd": ({"steps": 4}, 5),
    "trades": ({"steps": 4}, 6),  # the clean and the moved inputs are both learned
    "free": ({"replays": 3}, 3),
    "yopo": ({"rounds": 4, "steps": 3}, 4),  # what passes through the first layer alone is not counted
    "amata": ({"steps": 4}, 5),
    "pruning": ({"steps": 2, "pretrain_epochs": 2, "prune_epochs": 3}, 18),
    "distillation": ({"alpha": 1.0}, 1),
    "consistency": ({}, 2),
    "infodrop": ({"finetune_epochs": 1}, 2),
    "pani": ({}, 1),
    "d2r": ({"steps": 4}, 7),  # the guide's, and the student's at clean and at moved inputs
    "noise": ({}, 1),
    "mixup": ({}, 1),
    "cutmix": ({}, 1),
    "macer": ({"copies": 4, "warmup_epochs": 1}, 5),
    "noisy_pretraining": ({"finetune_epochs": 2}, 3),
}


@pytest.mark.parametrize("name", COSTS)
def test_gradient_evaluations_are_counted(name: str, images: tuple[ImageSet, ImageSet]) -> None:
    settings, cost = COSTS[name]
    made = train(
        RECIPES[name](epochs=1, batch_size=65, certify_images=0, **settings),
        *images,
        seed=0,
        name="net",
        progress=False,
    )
    assert made.record["cost"]["gradient_evaluations"] == 130 * cost


def test_the_checks_of_fast_are_counted_too(images: tuple[ImageSet, ImageSet]) -> None:
    made = train(Fast(epochs=2, batch_size=65, check_steps=3), *images, seed=0, name="net", progress=False)
    assert made.record["cost"]["gradient_evaluations"] == 2 * (130 * 2 + 65 * 3)


# --- Where a training begins ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(images: tuple[ImageSet, ImageSet]) -> TrainedNetwork:
    return train(Standard(epochs=1), *images, seed=0, name="first", progress=False)


def test_a_training_begins_at_the_network_it_is_given(images: tuple[ImageSet, ImageSet], begun: TrainedNetwork) -> None:
    before = {key: value.clone() for key, value in begun.network.state_dict().items()}
    made = train(
        Standard(epochs=1, learning_rate=0.0), *images, seed=7, name="net", start=begun.network, progress=False
    )
    for key, value in begun.network.named_parameters():
        assert torch.equal(dict(made.network.named_parameters())[key], value)
    for key, value in begun.network.state_dict().items():
        assert torch.equal(value, before[key])
    assert made.network is not begun.network
    assert made.record["start"]["name"] == "first"
    assert len(made.record["start"]["weights_sha256"]) == 64


def test_a_head_wider_than_the_classes_is_kept(images: tuple[ImageSet, ImageSet], begun: TrainedNetwork) -> None:
    rows = (images[0].labels < 5).nonzero().flatten()
    made = train(
        Standard(epochs=1), images[0].take(rows), images[0].take(rows), seed=0, name="net", start=begun.network
    )
    assert made.record["num_classes"] == 10


def test_a_start_that_does_not_fit_is_named(images: tuple[ImageSet, ImageSet], begun: TrainedNetwork) -> None:
    advice = "Set the recipe's architecture and normalize to those of the network, or start from another one."
    text = f"train: start must be a resnet20; got 'first', a digits_resnet8. {advice}"
    with pytest.raises(ValueError, match=exactly(text)):
        train(Standard(architecture="resnet20"), *images, seed=0, name="net", start=begun.network)
    text = f"train: start must normalise pixels as the recipe does, None; got [[0.5], [0.25]]. {advice}"
    other = load_model("digits_resnet8", normalize=((0.5,), (0.25,)))
    with pytest.raises(ValueError, match=exactly(text)):
        train(Standard(), *images, seed=0, name="net", start=other)
    text = "train: start must have an output for each of 10 classes; got 7. Start from a network with a wider head."
    with pytest.raises(ValueError, match=exactly(text)):
        train(Standard(), *images, seed=0, name="net", start=load_model("digits_resnet8", num_classes=7))
    text = "train: seed must be >= 0; got -1. Choose another."
    with pytest.raises(ValueError, match=exactly(text)):
        train(Standard(), *images, seed=-1, name="net")


def test_recipes_for_certificates_record_what_certify_says(images: tuple[ImageSet, ImageSet]) -> None:
    made = train(Noise(epochs=1, sigma=0.5, certify_images=12), *images, seed=0, name="net", progress=False)
    found = made.record["scores"]["certified"]
    assert {key: found[key] for key in ("images", "n0", "n", "alpha")} == {
        "images": 12,
        "n0": 100,
        "n": 1000,
        "alpha": 0.001,
    }
    chosen = stratified_rows(images[1].labels.numpy(), limit=12, seed=0)
    again = certify(made.network, images[1].take(torch.from_numpy(chosen)), 0.5, n=1000, progress=False)
    assert found["sigma 0.5"] == {
        "average certified radius": again.average_certified_radius,
        "certified accuracy at radius 0": again.certified_accuracy(),
        "certified accuracy at radius 0.5": again.certified_accuracy(0.5),
        "radius cap": again.radius_cap,
    }
    assert set(found) == {"images", "n0", "n", "alpha", "sigma 0.5"}


def test_only_what_is_asked_for_is_scored(images: tuple[ImageSet, ImageSet]) -> None:
    bare = train(Noise(epochs=1, certify_images=0, eval_eps=0.0), *images, seed=0, name="net", progress=False)
    assert set(bare.record["scores"]) == {"n_test", "accuracy"}
    assert NoisyPretraining(sigmas=(0.0, 0.25, 1.0)).certified_sigmas() == (0.25, 1.0)
    assert Noise(sigma=0.0).certified_sigmas() == MACER(sigma=0.0).certified_sigmas() == ()
    assert Standard().certified_sigmas() == ()
