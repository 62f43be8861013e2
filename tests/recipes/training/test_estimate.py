"""What a training will cost is told before it is done."""

import re
from typing import Any

import pytest
import torch

from repsim import ImageSet, load_data
from repsim.recipes import RECIPES, train
from repsim.recipes.training.estimate import Estimate, estimate


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", split="train", limit=130), load_data("digits", limit=30)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("standard", {"epochs": 2}),
        ("amata", {"epochs": 2, "steps": 3, "first_steps": 1}),
        ("pruning", {"epochs": 1, "pretrain_epochs": 1, "prune_epochs": 1, "steps": 1}),
        ("d2r", {"epochs": 1, "steps": 1}),
    ],
)
def test_gradient_evaluations_are_foreseen_exactly(
    name: str, settings: dict[str, Any], images: tuple[ImageSet, ImageSet]
) -> None:
    recipe, state = RECIPES[name](batch_size=65, eval_eps=0.0, **settings), torch.get_rng_state()
    told = estimate(recipe, images[0], 10)
    assert torch.equal(torch.get_rng_state(), state)
    made = train(recipe, *images, seed=0, name="net", progress=False)
    assert told.gradient_evaluations == made.record["cost"]["gradient_evaluations"]
    assert told.epochs == made.record["cost"]["epochs"]
    assert told.parameters == sum(p.numel() for p in made.network.parameters())
    assert told.seconds > 0
    assert re.fullmatch(rf"digits_resnet8, [\d,]+ parameters, {told.epochs} epochs, .* on this machine", str(told))


def test_times_are_told_in_a_unit_that_fits() -> None:
    for seconds, text in ((12.0, "12 s"), (150.0, "2 min"), (7500.0, "2 h 5 min")):
        assert str(Estimate("resnet20", 1000, 3, 5000, seconds)).endswith(f"about {text} on this machine")
