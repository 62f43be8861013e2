"""Adversarial sets: the samples stay, the pixels move inside the ball, and the record says what was done."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repsim import ImageSet, Network, compare, extract, load_model
from repsim.robustness import AttackFunction, ThreatModel, fgsm
from repsim.robustness.adversarial_sets import adversarial, under
from repsim.robustness.corruptions import corrupt
from tests.conftest import exactly
from tests.support.places import DATA

DATA = DATA


@pytest.fixture(scope="module")
def trained() -> Network:
    return load_model(DATA / "digits_standard.safetensors")


@pytest.fixture(scope="module")
def robust() -> Network:
    return load_model(DATA / "digits_pgd.safetensors")


@pytest.fixture(scope="module")
def attacked(trained: Network, digits: ImageSet) -> ImageSet:
    return adversarial(trained, digits, "linf:0.1", steps=5)


def accuracy(net: nn.Module, data: ImageSet) -> float:
    with torch.no_grad():
        return float((net(data.pixels(slice(0, None))).argmax(1) == data.labels).double().mean())


def change(made: ImageSet, data: ImageSet) -> Tensor:
    return made.pixels(slice(0, None)).double() - data.pixels(slice(0, None)).double()


# --- The set --------------------------------------------------------------------------------------------------


def test_the_samples_stay_and_the_pixels_move(attacked: ImageSet, digits: ImageSet) -> None:
    assert attacked.ids == digits.ids
    assert torch.equal(attacked.labels, digits.labels)
    assert attacked.digest == digits.digest
    assert attacked.pixel_digest != digits.pixel_digest
    assert attacked.images.dtype == torch.float32
    assert 0.05 < float(change(attacked, digits).abs().max()) <= 0.1 + 3e-7
    assert attacked.origin is digits


def test_the_record_says_what_was_done(attacked: ImageSet, trained: Network, digits: ImageSet) -> None:
    assert attacked.condition == "pgd-5(digits_standard, linf:0.1)"
    assert attacked.name == "digits/test under pgd-5(digits_standard, linf:0.1)"
    record = dict(attacked.record)
    source = record.pop("source")
    assert source["network"] == "digits_standard"
    assert source["sha256"] == trained.provenance["sha256"]
    assert record == {
        "threat": "linf:0.1",
        "attack": "pgd-5",
        "targeted": False,
        "n": 150,
        "rounded": False,
        "clean_accuracy": accuracy(trained, digits),
        "adversarial_accuracy": accuracy(trained, attacked),
        "steps": 5,
        "step_size": pytest.approx(0.05),
        "restarts": 1,
        "seed": 0,
    }
    assert record["adversarial_accuracy"] < record["clean_accuracy"] - 0.2


def test_the_seed_decides_and_the_batch_does_not(trained: Network, digits: ImageSet) -> None:
    few = digits.take(range(40))
    state = torch.get_rng_state()
    first, same, other, small = (
        adversarial(trained, few, "linf:0.1", steps=2, seed=seed, batch_size=size)
        for seed, size in ((0, 64), (0, 64), (1, 64), (0, 7))
    )
    assert torch.equal(first.images, same.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.get_rng_state(), state)
    # Batches of another size round otherwise, and a gradient of nearly zero may change its sign.
    assert float((first.images - small.images).abs().gt(1e-6).double().mean()) < 0.01
    # Nor do the other images.
    some = adversarial(trained, few.take([30, 2, 17]), "linf:0.1", steps=2)
    assert float((some.images - first.images[[30, 2, 17]]).abs().gt(1e-6).double().mean()) < 0.01


def test_rows_are_taken_with_those_they_came_from(attacked: ImageSet, digits: ImageSet) -> None:
    rows = [9, 3, 77]
    taken = attacked.take(rows)
    assert taken.digest == digits.take(rows).digest
    assert taken.condition == attacked.condition
    assert taken.origin is not None
    assert torch.equal(taken.origin.images, digits.images[rows])


@pytest.mark.parametrize("threat", ["linf:0.0", "l2:0"])
def test_a_ball_of_radius_0_leaves_the_images(threat: str, trained: Network, digits: ImageSet) -> None:
    made = adversarial(trained, digits.take(range(30)), threat, steps=2)
    assert torch.equal(made.images, digits.pixels(slice(0, 30)))
    assert made.record["clean_accuracy"] == made.record["adversarial_accuracy"]


def test_more_restarts_never_help_the_network(trained: Network, digits: ImageSet) -> None:
    found = [
        adversarial(trained, digits.take(range(60)), "linf:0.12", steps=2, restarts=r).record["adversarial_accuracy"]
        for r in (1, 4)
    ]
    assert found[1] <= found[0]


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.7", "linf:1/255"])
def test_grey_levels_are_rounded_inside_the_ball(threat: str, trained: Network, digits: ImageSet) -> None:
    few = digits.take(range(50))
    made = adversarial(trained, few, threat, steps=4, rounded=True)
    assert made.images.dtype == torch.uint8
    ball = ThreatModel.parse(threat)
    moved = change(made, few)
    size = moved.abs().amax() if ball.norm == "linf" else moved.flatten(1).norm(dim=1).amax()
    assert 0 < float(size) <= ball.eps + 1e-6
    assert made.record["adversarial_accuracy"] == accuracy(trained, made)
    assert made.record["rounded"] is True


def test_targets_are_reached_and_counted(trained: Network, digits: ImageSet) -> None:
    few = digits.take(range(50))
    targets = (few.labels + 1) % 10
    made = adversarial(trained, few, "linf:0.25", steps=20, targets=targets)
    with torch.no_grad():
        answers = trained(made.pixels(slice(0, None))).argmax(1)
    assert made.record["targeted"] is True
    assert made.record["share_on_target"] == float((answers == targets).double().mean())
    assert made.record["share_on_target"] > 0.5
    assert made.record["adversarial_accuracy"] == accuracy(trained, made)


def test_any_attack_is_held_to_the_ball(trained: Network, digits: ImageSet) -> None:
    few = digits.take(range(20))
    threat = ThreatModel("linf", 0.1)

    def noise(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.1).clamp(0, 1)

    made = adversarial(trained, few, threat, function=noise)
    assert made.condition == "noise(digits_standard, linf:0.1)"
    assert (made.record["attack"], "steps" in made.record) == ("noise", False)
    bound: AttackFunction = functools.partial(fgsm, threat=threat)
    aimed = adversarial(trained, few, threat, steps=2, restarts=2, step_size=0.05, targets=(few.labels + 1) % 10)
    assert aimed.condition == "pgd-2(digits_standard, linf:0.1, targeted, 2 restarts, steps of 0.05)"
    unnamed = adversarial(trained, few, threat, function=lambda net, x, y: x)
    assert unnamed.condition == "attack(digits_standard, linf:0.1)"
    assert adversarial(trained, few, threat, function=bound).condition == "fgsm(digits_standard, linf:0.1)"
    with pytest.raises(ValueError, match=r"\Aattack: the change must stay within linf:0\.05; got 0\.1"):
        adversarial(trained, few, "linf:0.05", function=noise)


def test_a_network_in_float64_is_measured_on_what_is_kept(digits: ImageSet) -> None:
    net = load_model(DATA / "digits_standard.safetensors").double()
    made = adversarial(net, digits.take(range(20)), "l2:0.5", steps=3)
    assert made.images.dtype == torch.float32
    assert float(change(made, digits.take(range(20))).flatten(1).norm(dim=1).max()) <= 0.5 + 1e-6


# --- Sides ----------------------------------------------------------------------------------------------------


def test_clean_and_attacked_features_are_compared_row_by_row(
    trained: Network, robust: Network, digits: ImageSet, attacked: ImageSet
) -> None:
    clean, moved = (extract(trained, data, layers="layer3") for data in (digits, attacked))
    found = compare(clean, moved, "cka")
    assert found.row_model == "digits_standard"
    assert found.col_model == "digits_standard under pgd-5(digits_standard, linf:0.1)"
    assert "condition" not in found.provenance["rows"]
    column = found.provenance["cols"]
    assert column["condition"]["threat"] == "linf:0.1"
    assert column["pixels"] == attacked.pixel_digest
    # The same inputs move the network that learned to withstand them less.
    calm, pushed = (extract(robust, data, layers="layer3") for data in (digits, attacked))
    steady = compare(calm, pushed, "cka")
    assert float(found.values[0, 0]) < float(steady.values[0, 0]) < 1
    assert steady.col_model == "digits_pgd under pgd-5(digits_standard, linf:0.1)"


def test_matrices_keep_the_condition_in_their_file(tmp_path: Path, trained: Network, attacked: ImageSet) -> None:
    side = extract(trained, attacked, layers="layer3")
    found = compare(side, side, "cka")
    again = type(found).load(found.save(tmp_path / "cka.npz"))
    assert again.row_model == found.row_model
    assert again.provenance["rows"]["condition"] == found.provenance["rows"]["condition"]


def test_conditions_follow_each_other(trained: Network, digits: ImageSet) -> None:
    few = digits.take(range(20))
    made = adversarial(trained, corrupt(few, "blur:1"), "linf:0.1", steps=1)
    assert made.condition == "blur:1 + pgd-1(digits_standard, linf:0.1)"
    assert made.record["before"]["corruption"] == "blur"
    assert made.digest == few.digest
    assert made.origin is few


# --- What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"batch_size": 0}, "adversarial: batch_size must be at least 1; got 0. Leave it out."),
        (
            {"targets": torch.zeros(3)},
            "adversarial: targets must be (4,) int64; got float32 of shape (3,). One class per image.",
        ),
        (
            {"function": fgsm, "steps": 3},
            "adversarial: steps, step_size and restarts are of pgd; got a function. "
            "Bind its settings to the function itself.",
        ),
    ],
)
def test_settings_that_do_not_fit(changed: dict[str, Any], text: str, trained: Network, digits: ImageSet) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        adversarial(trained, digits.take(range(4)), "linf:0.1", **changed)


def test_rounding_is_for_grey_levels(trained: Network, digits: ImageSet) -> None:
    few = digits.take(range(4))
    data = dataclasses.replace(few, images=few.pixels(slice(0, None)))
    text = "adversarial: rounding needs images of grey levels; got rounded=True for float32 images. Leave rounded out."
    with pytest.raises(ValueError, match=exactly(text)):
        adversarial(trained, data, "linf:0.1", rounded=True)


def test_labels_that_the_network_does_not_know_are_refused(digits: ImageSet) -> None:
    text = "attack: labels must be classes of the network, 0 to 4; got 0 to 9. Choose the data it was trained for."
    with pytest.raises(ValueError, match=exactly(text)):
        adversarial(load_model("digits_resnet8", num_classes=5), digits, "linf:0.1")


def test_half_precision_is_refused(digits: ImageSet) -> None:
    text = (
        "adversarial: the network must be in float32 or float64; got float16. "
        "Attack net.float(), and extract with the narrow network."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        adversarial(load_model("digits_resnet8").half(), digits, "linf:0.1")


def test_a_network_in_training_mode_is_refused(digits: ImageSet) -> None:
    text = "adversarial: the network must be in eval mode; got training mode in 'Network'. Call net.eval() first."
    with pytest.raises(ValueError, match=exactly(text)):
        adversarial(load_model("digits_resnet8").train(), digits, "linf:0.1")


@pytest.mark.parametrize(
    ("condition", "error", "text"),
    [
        (
            lambda net, data: data.images,
            TypeError,
            "extract: attack must make an ImageSet; got Tensor. "
            'Pass a text such as "linf:8/255", or functools.partial(adversarial, threat=...).',
        ),
        (
            lambda net, data: data.take([1, 0]),
            ValueError,
            "extract: attack must keep the samples; got a set with another digest. "
            "Make it with data.derived(images, condition, record).",
        ),
    ],
)
def test_conditions_that_make_something_else(
    condition: Any, error: type[Exception], text: str, trained: Network, digits: ImageSet
) -> None:
    with pytest.raises(error, match=exactly(text)):
        under(trained, digits, condition)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"condition": ""},
            "ImageSet: origin and condition go together; got origin {origin!r} and condition ''. "
            "Make it with .derived(...).",
        ),
        (
            {"labels": torch.zeros(4, dtype=torch.int64)},
            "ImageSet: a derived set must hold its origin's samples; got other ids, labels or shapes under 'blur:1'. "
            "Keep ids and labels, row by row.",
        ),
        (
            {"ids": ("a", "b", "c", "d")},
            "ImageSet: a derived set must hold its origin's samples; got other ids, labels or shapes under 'blur:1'. "
            "Keep ids and labels, row by row.",
        ),
    ],
)
def test_a_derived_set_holds_its_origins_samples(changed: dict[str, Any], text: str, digits: ImageSet) -> None:
    made = corrupt(digits.take(range(4)), "blur:1")
    with pytest.raises(ValueError, match=exactly(text.format(origin=made.origin))):
        dataclasses.replace(made, **changed)
