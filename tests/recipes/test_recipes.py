"""Recipes: their settings, a training that a seed repeats, and what a trained network records."""

import dataclasses
import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repsim.recipes
from repsim import ImageSet, load_data, load_model
from repsim._common.files import sha256_of
from repsim._common.provenance import versions
from repsim.networks.answers import accuracy
from repsim.recipes import RECIPES, Recipe, TrainedNetwork, between, train
from repsim.recipes.adversarial.pgd import PGD
from repsim.recipes.standard import Standard
from repsim.recipes.training.scores import under_attack
from repsim.robustness import ThreatModel, pgd
from tests.conftest import exactly
from tests.support.places import DATA

PGD_20 = "accuracy under linf PGD-20, eps 0.1"


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    """150 digits to train on and 50 for the scores."""
    return load_data("digits", split="train", limit=150), load_data("digits", limit=50)


@pytest.fixture(scope="module")
def small(images: tuple[ImageSet, ImageSet]) -> TrainedNetwork:
    """One epoch of standard training."""
    return trained("standard", images, epochs=1)


def trained(recipe: str, images: tuple[ImageSet, ImageSet], *, seed: int = 0, **settings: Any) -> TrainedNetwork:
    return train(RECIPES[recipe](**settings), *images, seed=seed, name="net", progress=False)


def weights(made: TrainedNetwork) -> Tensor:
    """Parameters and batch statistics, in one row."""
    state = made.network.state_dict().values()
    return torch.cat([value.flatten() for value in state if value.is_floating_point()])


def timeless(made: TrainedNetwork) -> dict[str, Any]:
    """The record without the seconds."""
    return {**made.record, "cost": {**made.record["cost"], "seconds_per_epoch": None}}


# --- What there is --------------------------------------------------------------------------------------------


def test_every_file_is_a_recipe() -> None:
    places = (*repsim.recipes.__path__, *repsim.recipes.adversarial.__path__)
    files = {info.name for info in pkgutil.iter_modules(places) if not info.ispkg}
    assert set(RECIPES) == files
    known = {"standard", "pgd", "trades", "fast", "free", "noise", "macer", "noisy_pretraining", "mixup", "cutmix"}
    assert files >= known
    for name, made in RECIPES.items():
        assert issubclass(made, Recipe)
        assert made.__module__.rpartition(".")[2] == name
        assert importlib.import_module(made.__module__).RECIPE is made
        assert made.__doc__


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_settings_are_frozen_json_with_a_default_each(name: str) -> None:
    recipe = RECIPES[name]()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 3  # type: ignore[misc]
    settings = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert RECIPES[name](**settings) == recipe
    assert hash(RECIPES[name](**settings)) == hash(recipe)
    with pytest.raises(TypeError):
        RECIPES[name](epoch=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_ranges_stand_on_the_fields(name: str) -> None:
    """A radius and a share end at 1, noise where it can be certified, counts begin at 1; all else is at least 0."""
    wanted = {"eps": 1, "eval_eps": 1, "label_noise": 1, "sigma": 5, "sigmas": 5}
    for setting in dataclasses.fields(RECIPES[name]):
        if not isinstance(setting.default, int | float | tuple):
            continue
        low, high, _ = setting.metadata.get("range", (0, float("inf"), ""))
        assert (low, high) == (
            1 if setting.name in ("epochs", "batch_size", "replays", "copies", "rounds") else 0,
            wanted.get(setting.name, float("inf")),
        ), setting.name


@dataclasses.dataclass(frozen=True)
class Nameless(Recipe):
    share: float = dataclasses.field(default=0.5, metadata=between(0.25, 0.75, advice="Take a half"))

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return net(x).sum()


NAME = (
    "recipe: Nameless must have a name that is an identifier; got None. "
    'Write name: ClassVar[str] = "nameless" in the class.'
)


def test_a_recipe_without_a_name_is_refused_in_one_line() -> None:
    with pytest.raises(TypeError, match=exactly(NAME)):
        Nameless()
    page = ModuleType("repsim.recipes.nameless")
    text = "recipes: nameless.py must have a RECIPE; got None. End the file with RECIPE = and the class."
    with pytest.raises(TypeError, match=exactly(text)):
        repsim.recipes._recipe_of(page)
    page.RECIPE = Nameless  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=exactly(NAME)):
        repsim.recipes._recipe_of(page)
    page.RECIPE = PGD  # type: ignore[attr-defined]
    text = "recipes: PGD in nameless.py must be named 'nameless'; got 'pgd'. Call both the same."
    with pytest.raises(TypeError, match=exactly(text)):
        repsim.recipes._recipe_of(page)


def test_a_range_of_one_s_own_is_held() -> None:
    class Named(Nameless):
        name = "named"

    assert Named(share=0.25).share == 0.25
    with pytest.raises(
        ValueError, match=exactly("recipe: Named.share must be >= 0.25 and <= 0.75; got 1. Take a half.")
    ):
        Named(share=1)


def test_a_recipe_without_a_loss_is_none() -> None:
    with pytest.raises(TypeError):
        Recipe()  # type: ignore[abstract]


# --- Training -------------------------------------------------------------------------------------------------


def test_a_seed_repeats_a_training_to_the_last_bit(images: tuple[ImageSet, ImageSet], small: TrainedNetwork) -> None:
    state = torch.get_rng_state()
    again = trained("standard", images, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)  # what the caller draws has no part in it
    third = trained("standard", images, epochs=1)
    torch.set_rng_state(state)
    assert torch.equal(weights(again), weights(small))
    assert torch.equal(weights(third), weights(small))
    assert timeless(again) == timeless(small)


def test_another_seed_is_another_network(images: tuple[ImageSet, ImageSet], small: TrainedNetwork) -> None:
    other = trained("standard", images, epochs=1, seed=1)
    assert float((weights(other) - weights(small)).abs().max()) > 0.01


def test_the_seed_decides_the_order_of_images_anew_in_every_epoch(
    monkeypatch: pytest.MonkeyPatch, images: tuple[ImageSet, ImageSet]
) -> None:
    batches: list[Tensor] = []
    loss = Standard.loss

    def watched(self: Standard, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        assert net.training
        batches.append(x.flatten(1).clone())
        return loss(self, net, x, y, generator)

    monkeypatch.setattr(Standard, "loss", watched)
    for seed in (0, 1):
        trained("standard", images, epochs=2, batch_size=50, seed=seed)
    assert [len(batch) for batch in batches] == [50] * 12
    epochs = [torch.cat(batches[k : k + 3]) for k in range(0, 12, 3)]
    everything = images[0].pixels(slice(None)).flatten(1)
    for epoch in epochs:
        assert torch.equal(epoch.sum(1).sort().values, everything.sum(1).sort().values)  # each image once
    for k in range(4):
        assert not any(torch.equal(epochs[k], epochs[m]) for m in range(k))


def test_training_learns_and_leaves_the_network_in_eval_mode(
    images: tuple[ImageSet, ImageSet], small: TrainedNetwork
) -> None:
    longer = trained("standard", images, epochs=6)
    scores = [made.record["scores"]["accuracy"] for made in (small, longer)]
    assert scores[1] > 0.7
    assert scores[1] > scores[0]
    assert not any(module.training for module in longer.network.modules())


def test_training_takes_sets_smaller_than_a_batch() -> None:
    few = load_data("digits", split="train", limit=20)
    made = trained("standard", (few, few), epochs=1)
    untrained = load_model("digits_resnet8", seed=0)
    assert made.record["scores"]["n_test"] == 20
    assert not torch.equal(made.network.net.conv1.weight, untrained.net.conv1.weight)  # type: ignore[arg-type]


def test_the_images_decide_and_are_left_as_they_are(images: tuple[ImageSet, ImageSet], small: TrainedNetwork) -> None:
    before = images[0].images.clone()
    other = trained("standard", (images[0].take(torch.arange(149, -1, -1)), images[1]), epochs=1)
    assert not torch.equal(weights(other), weights(small))
    again = trained("pgd", images, epochs=1, steps=1)
    assert not torch.equal(weights(again), weights(small))
    assert torch.equal(images[0].images, before)


#: Settings with which a recipe is another, simpler one.
NOTHING = {
    "pgd, no radius": ("pgd", {"eps": 0.0, "steps": 3}),
    "pgd, no radius and no steps": ("pgd", {"eps": 0.0, "steps": 0}),
    "trades, no radius": ("trades", {"eps": 0.0}),
    "trades, no weight": ("trades", {"beta": 0.0}),
    "fast, no radius": ("fast", {"eps": 0.0}),
    "free, no radius and one replay": ("free", {"eps": 0.0, "replays": 1}),
    "yopo, no radius": ("yopo", {"eps": 0.0}),
    "yopo, a radius too small to matter and no steps": ("yopo", {"eps": 1e-9, "steps": 0, "rounds": 1}),
    "amata, no radius": ("amata", {"eps": 0.0}),
    "infodrop, no drops": ("infodrop", {"rate": 0.0, "finetune_epochs": 0}),
    "pani, nothing mixed": ("pani", {"alpha": 0.0}),
    "pani, no patch moved": ("pani", {"moved": 0.0}),
    "consistency, no noise": ("consistency", {"sigma": 0.0}),
    "distillation, labels alone": ("distillation", {"alpha": 1.0}),
    "pruning, all kept": (
        "pruning",
        {"keep": 1.0, "pretrain_epochs": 0, "prune_epochs": 0, "objective": "standard", "learning_rate": 0.1},
    ),
    "mixup, nothing mixed": ("mixup", {"alpha": 0.0}),
    "cutmix, nothing mixed": ("cutmix", {"alpha": 0.0}),
    "noise, none": ("noise", {"sigma": 0.0}),
    "noisy pretraining, no noise": ("noisy_pretraining", {"sigmas": (0.0,), "finetune_epochs": 0}),
    "macer, no noise": (
        "macer",
        {"sigma": 0.0, "copies": 1, "weight": 0.0, "warmup_epochs": 0, "learning_rate": 0.1},
    ),
}


@pytest.fixture(scope="module")
def three_epochs(images: tuple[ImageSet, ImageSet]) -> TrainedNetwork:
    return trained("standard", images, epochs=3)


@pytest.mark.parametrize("case", NOTHING)
def test_an_attack_that_moves_nothing_is_standard_training(
    case: str, images: tuple[ImageSet, ImageSet], three_epochs: TrainedNetwork
) -> None:
    recipe, settings = NOTHING[case]
    made = trained(recipe, images, epochs=3, **settings)
    torch.testing.assert_close(weights(made), weights(three_epochs), atol=1e-6, rtol=0)


def test_macer_with_one_copy_and_no_hinge_is_training_on_noise(images: tuple[ImageSet, ImageSet]) -> None:
    noise = trained("noise", images, epochs=2)
    macer = trained("macer", images, epochs=2, copies=1, weight=0.0, warmup_epochs=0, learning_rate=0.1)
    torch.testing.assert_close(weights(macer), weights(noise), atol=1e-6, rtol=0)


#: Settings that leave one part of recipes that have several, and no certificates.
WITHOUT_PARTS: dict[str, dict[str, Any]] = {
    "macer": {"warmup_epochs": 0, "certify_images": 0},
    "noise": {"certify_images": 0},
    "consistency": {"certify_images": 0},
    "noisy_pretraining": {"finetune_epochs": 0, "certify_images": 0},
    "infodrop": {"finetune_epochs": 0},
    "pruning": {"pretrain_epochs": 0, "prune_epochs": 0},
}


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"standard", "distillation"}))  # which needs a teacher
def test_a_recipe_with_its_own_settings_is_no_standard_training(
    name: str, images: tuple[ImageSet, ImageSet], small: TrainedNetwork
) -> None:
    extra = WITHOUT_PARTS.get(name, {})
    assert float((weights(trained(name, images, epochs=1, **extra)) - weights(small)).abs().max()) > 1e-3


def test_the_training_attack_is_made_in_eval_mode_and_learned_in_training_mode(
    monkeypatch: pytest.MonkeyPatch, images: tuple[ImageSet, ImageSet]
) -> None:
    seen: list[tuple[str, bool]] = []

    def attack(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **settings: Any) -> Tensor:
        assert (threat.norm, threat.eps) == ("linf", 0.2)
        assert (settings["steps"], settings["step_size"]) == (2, 0.05)
        seen.append(("attack", net.training))
        return pgd(net, x, y, threat, **settings)

    monkeypatch.setattr("repsim.recipes.adversarial.pgd.pgd", attack)
    net = load_model("digits_resnet8").train()
    before = net.net.bn1.running_mean.clone()  # type: ignore[union-attr, operator]
    generator = torch.Generator().manual_seed(0)
    recipe = PGD(eps=0.2, steps=2, step_size=0.05)
    loss = recipe.loss(net, images[0].pixels(slice(0, 8)), images[0].labels[:8], generator)
    assert seen == [("attack", False)]
    assert net.training
    assert not torch.equal(net.net.bn1.running_mean, before)  # type: ignore[arg-type, union-attr]
    assert loss.requires_grad
    clean = Standard().loss(net, images[0].pixels(slice(0, 8)), images[0].labels[:8], generator)
    assert float(loss.detach()) > float(clean.detach())


def test_a_training_that_diverges_gives_no_network(images: tuple[ImageSet, ImageSet]) -> None:
    text = "train: net must keep finite weights; got NaN or infinity after epoch 1 of 2. Lower the learning rate."
    with pytest.raises(RuntimeError, match=exactly(text)):
        trained("standard", images, epochs=2, learning_rate=1e30)


@pytest.mark.parametrize("rate", [1e3, 1e10])
def test_finite_weights_that_give_no_finite_answer_are_no_network_either(
    rate: float, images: tuple[ImageSet, ImageSet]
) -> None:
    # Weights of 1e9 are finite; what three blocks of them answer is not, and a score of NaN is no score.
    with pytest.raises(RuntimeError, match=r"\Atrain: net must .*; got .*\. Lower the learning rate\.\Z"):
        trained("standard", images, epochs=1, learning_rate=rate)


def test_adversarial_training_makes_networks_robust_even_when_short() -> None:
    images = load_data("digits", split="train", limit=400), load_data("digits", limit=150)
    standard, robust = (trained(name, images, epochs=5).record["scores"] for name in ("standard", "pgd"))
    assert standard["accuracy"] > 0.8
    assert robust[PGD_20] > standard[PGD_20] + 0.1


# --- Records and files ----------------------------------------------------------------------------------------


def test_the_record_says_how_the_network_was_made(images: tuple[ImageSet, ImageSet], small: TrainedNetwork) -> None:
    record = small.record
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["architecture"], record["num_classes"], record["normalize"]) == ("digits_resnet8", 10, None)
    assert (record["recipe"], record["seed"]) == ("standard", 0)
    assert record["settings"] == {**dataclasses.asdict(Standard(epochs=1)), "decay_epochs": []}
    assert (record["start"], record["stopped"]) == (None, None)
    assert record["cost"] == {
        "epochs": 1,
        "gradient_evaluations": 128,
        "seconds_per_epoch": record["cost"]["seconds_per_epoch"],
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }
    assert 0 < record["cost"]["seconds_per_epoch"] < 60
    assert record["data"] == {
        "train": "digits/train",
        "train_digest": images[0].digest,
        "test": "digits/test",
        "test_digest": images[1].digest,
    }
    assert record["versions"] == versions()
    assert sorted(record["scores"]) == ["accuracy", PGD_20, "n_test"]
    assert record["scores"]["accuracy"] == accuracy(small.network, images[1], "test")
    assert record["scores"]["n_test"] == 50
    assert small.network.name == "net"
    assert small.network.provenance["record"] == record
    assert small.network.provenance["notes"] == ["trained here by recipe standard, seed 0"]


def test_a_saved_network_answers_to_the_last_bit_as_before(
    tmp_path: Path, images: tuple[ImageSet, ImageSet], small: TrainedNetwork
) -> None:
    path = small.save(tmp_path / "new" / "net.safetensors")
    back = load_model(path)
    x = images[1].pixels(slice(0, 50))
    with torch.no_grad():
        assert torch.equal(back(x), small.network(x))
    record = dict(back.provenance["record"])
    assert len(record.pop("weights_sha256")) == 64
    assert record == small.record
    assert back.provenance["sha256"] == sha256_of(path)
    assert back.name == "net"
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_the_networks_of_the_repository_answer_as_their_records_say() -> None:
    data = load_data("digits")
    for name in ("standard", "pgd"):
        net = load_model(DATA / f"digits_{name}.safetensors")
        record = net.provenance["record"]
        assert record["recipe"] == name
        assert record["data"]["test_digest"] == data.digest
        assert RECIPES[name](**record["settings"]) == RECIPES[name]()
        assert accuracy(net, data, "test") == pytest.approx(record["scores"]["accuracy"], abs=2 / 597)


# --- Scores ---------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Answers 3 to everything, but 4 where the first pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 10)
        logits[:, 3] = 1.0
        logits[:, 4] = 10 * (x[:, 0, 0, 0] - 0.5)
        return logits


def test_accuracy_is_the_share_of_right_answers() -> None:
    # 300 images: more than one batch.
    pixels = torch.zeros(300, 1, 2, 2)
    pixels[270:, 0, 0, 0] = 0.9
    labels = torch.full((300,), 3)
    labels[:60], labels[280:] = 7, 4
    data = ImageSet(pixels, labels, tuple(map(str, range(300))), "made up")
    net = Constant().eval()
    assert accuracy(net, data, "test") == (270 - 60 + 20) / 300
    assert under_attack(net, data, ThreatModel("linf", 0.0)) == (270 - 60 + 20) / 300
    # 0.45 takes the bright ones from 0.9 to 0.45, which is answered 3; the dark ones stay below 0.6.
    assert under_attack(net, data, ThreatModel("linf", 0.45)) == (270 - 60) / 300


def test_robust_accuracy_is_at_most_the_clean_one_and_falls_with_eps(
    images: tuple[ImageSet, ImageSet], small: TrainedNetwork
) -> None:
    found = [under_attack(small.network, images[1], ThreatModel("linf", eps)) for eps in (0.0, 0.05, 0.3)]
    assert found[0] == accuracy(small.network, images[1], "test")
    assert found[0] > found[1] >= found[2]
    assert np.all(np.array(found) * 50 == np.rint(np.array(found) * 50))
