"""What the recipes are for, on the digits: accuracy under attack and certified radii, over several seeds."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import nn

from repsim import ImageSet, load_data
from repsim.recipes import RECIPES, TrainedNetwork, train
from repsim.recipes.macer import MACER
from repsim.recipes.noisy_pretraining import NoisyPretraining
from repsim.recipes.standard import Standard
from repsim.recipes.training.scores import under_attack
from repsim.robustness import ThreatModel

pytestmark = pytest.mark.slow

PGD_20 = "accuracy under linf PGD-20, eps 0.1"
SEEDS = (0, 1)


@functools.cache
def digits(split: str = "train") -> ImageSet:
    return load_data("digits", split=split)


@functools.cache
def trained(recipe: str, seed: int, **settings: Any) -> TrainedNetwork:
    return train(RECIPES[recipe](**settings), digits(), digits("test"), seed=seed, name=recipe, progress=False)


def mean_radius(net: nn.Module, data: ImageSet, sigma: float, *, selection: int = 50, estimation: int = 400) -> float:
    """Average certified radius (Cohen et al. 2019, algorithm 2, α = 0.001); 0 for a wrong or an abstaining answer."""
    generator = torch.Generator().manual_seed(0)
    radii = []
    for i, label in enumerate(data.labels.tolist()):
        x = data.pixels(slice(i, i + 1))
        counts = []
        for n in (selection, estimation):
            with torch.no_grad():
                answers = net(x + sigma * torch.randn((n, *x.shape[1:]), generator=generator)).argmax(1)
            counts.append(torch.bincount(answers, minlength=10))
        top = int(counts[0].argmax())
        k = int(counts[1][top])
        p = float(beta.ppf(0.001, k, estimation - k + 1)) if k else 0.0
        radii.append(sigma * float(norm.ppf(p)) if p > 0.5 and top == label else 0.0)
    return float(np.mean(radii))


@pytest.mark.parametrize("recipe", ["pgd", "trades", "fast", "free"])
def test_adversarial_training_makes_networks_robust(recipe: str) -> None:
    gained = []
    for seed in SEEDS:
        standard, robust = trained("standard", seed).record["scores"], trained(recipe, seed).record["scores"]
        assert standard["accuracy"] > 0.95
        assert robust["accuracy"] > 0.93
        gained.append(robust[PGD_20] - standard[PGD_20])
    assert min(gained) >= 0.15


@pytest.mark.parametrize("recipe", ["standard", "pgd", "trades", "fast", "free"])
def test_no_network_resists_an_attack_that_may_do_anything(recipe: str) -> None:
    # A network that hides its gradient would.
    found = under_attack(trained(recipe, 0).network, digits("test").take(list(range(200))), ThreatModel("linf", 1.0))
    assert found <= 0.2


def test_training_on_noise_widens_certified_radii() -> None:
    few = load_data("digits", limit=60)
    for seed in SEEDS:
        noise, standard = (mean_radius(trained(name, seed).network, few, 0.25) for name in ("noise", "standard"))
        assert noise - standard >= 0.05


def test_mixup_keeps_the_accuracy() -> None:
    assert min(trained("mixup", seed).record["scores"]["accuracy"] for seed in SEEDS) > 0.95


def test_the_hinge_of_macer_widens_certified_radii() -> None:
    few, gained = load_data("digits", limit=300), []
    for seed in SEEDS:
        hinge, none = (
            train(MACER.preset("digits", sigma=0.5, weight=weight), digits(), digits("test"), seed=seed, name="macer")
            for weight in (1.0, 0.0)
        )
        assert hinge.record["scores"]["accuracy"] > 0.9
        gained.append(mean_radius(hinge.network, few, 0.5) - mean_radius(none.network, few, 0.5))
    # 0.014 to 0.021 where it was measured.
    assert min(gained) > 0
    assert float(np.mean(gained)) >= 0.008


def test_noisy_pretraining_keeps_certified_radii_through_clean_finetuning_on_other_classes() -> None:

    def classes(first: int) -> tuple[ImageSet, ImageSet]:
        """Training and test images of five classes."""
        rows = [(part.labels // 5 == first // 5).nonzero().flatten() for part in (digits(), digits("test"))]
        return digits().take(rows[0]), digits("test").take(rows[1])

    pretrained_on, finetuned_on = classes(5), classes(0)
    few = finetuned_on[1].take(list(range(150)))

    def finetuned(seed: int, **settings: Any) -> TrainedNetwork:
        pretraining = NoisyPretraining.preset("digits", finetune_epochs=0, **settings)
        start = train(pretraining, *pretrained_on, seed=seed, name="pretrained", progress=False).network
        finetuning = Standard(architecture="digits_conv", epochs=60, learning_rate=0.003)
        return train(finetuning, *finetuned_on, seed=seed, name="finetuned", start=start, progress=False)

    gained = []
    for seed in (*SEEDS, 2):
        mixed, clean = finetuned(seed), finetuned(seed, sigmas=(0.0,))
        accuracies = [made.record["scores"]["accuracy"] for made in (mixed, clean)]
        assert accuracies[0] > accuracies[1] - 0.03
        gained.append([mean_radius(mixed.network, few, s) - mean_radius(clean.network, few, s) for s in (0.25, 0.5)])
    # On average 0.041 at σ = 0.25 and 0.10 at σ = 0.5 where four seeds were measured; the least was 0.027.
    assert min(np.mean(gained, axis=0)) >= 0.03
