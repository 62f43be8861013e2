"""Objects of torchattacks and Foolbox, held against this project's own attacks and to the same rules."""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from repsim import ImageSet, extract
from repsim.robustness import ThreatModel, attack, fgsm, pgd
from repsim.robustness.adversarial_sets import adversarial
from tests.conftest import exactly
from tests.robustness.test_gradient import NORMS, images, linear

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their own old imports
    foolbox: Any = importlib.import_module("foolbox")
    torchattacks: Any = importlib.import_module("torchattacks")

Library = dict[str, Callable[[nn.Module], Any]]

TORCHATTACKS: Library = {
    "linf": lambda net: torchattacks.FGSM(net, eps=0.1),
    "l2": lambda net: torchattacks.PGDL2(net, eps=0.1, alpha=0.1, steps=1, random_start=False),
}
FOOLBOX: Library = {
    "linf": lambda net: foolbox.attacks.LinfFastGradientAttack(),
    "l2": lambda net: foolbox.attacks.L2FastGradientAttack(),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("library", [TORCHATTACKS, FOOLBOX])
def test_objects_of_other_libraries_go_in_as_they_are(library: Library, norm: str) -> None:
    net, (x, y) = linear(), images(low=0.0, high=1.0)
    threat, before = ThreatModel(norm, 0.1), x.clone()  # type: ignore[arg-type]
    made = attack(net, x, y, library[norm](net), threat)
    expected = fgsm(net, x, y, threat)
    torch.testing.assert_close(made.images, expected, atol=1e-6, rtol=0)
    assert torch.equal(made.success, net(expected).argmax(1) != y)
    assert torch.equal(x, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_attacks_that_search_for_the_shortest_change_are_cut_to_the_ball() -> None:
    net, (x, y) = linear(classes=3), images(n=40, low=0.0, high=1.0)
    threat = ThreatModel("l2", 0.1)
    made = attack(net, x, y, foolbox.attacks.L2DeepFoolAttack(), threat)
    worst = attack(net, x, y, lambda n, x, y: fgsm(n, x, y, threat), threat)
    assert 0 < int(made.success.sum()) <= int(worst.success.sum())


@pytest.mark.parametrize("library", ["torchattacks", "foolbox"])
def test_objects_of_other_libraries_approach_targets(library: str) -> None:
    net, (x, _) = linear(classes=3), images(n=40, low=0.0, high=1.0)
    aim, threat = (net(x).argmax(1) + 1) % 3, ThreatModel("linf", 0.1)
    if library == "foolbox":
        function: Any = foolbox.attacks.LinfPGD(rel_stepsize=1 / 3, steps=5, random_start=False)
    else:
        function = torchattacks.PGD(net, eps=0.1, alpha=0.1 / 3, steps=5, random_start=False)
        function.set_mode_targeted_by_label(quiet=True)
    made = attack(net, x, aim, function, threat, targeted=True)
    expected = pgd(net, x, aim, threat, steps=5, step_size=0.1 / 3, random_start=False, targeted=True)
    torch.testing.assert_close(made.images, expected, atol=1e-6, rtol=0)
    assert int(made.success.sum()) > 0


def labels_as_targets(net: nn.Module) -> Any:
    made = torchattacks.FGSM(net, eps=0.1)
    made.set_mode_targeted_by_label(quiet=True)
    return made


def least_likely(net: nn.Module) -> Any:
    made = torchattacks.FGSM(net, eps=0.1)
    made.set_mode_targeted_least_likely(quiet=True)
    return made


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda net: torchattacks.FGSM(linear(seed=1), eps=0.1),
            "attack: a torchattacks object must hold the network under attack; got one that holds another Sequential. "
            "Bind it yourself if that is meant, as in lambda net, x, y: attack(x, y).",
        ),
        (
            lambda net: torchattacks.FGSM(net, eps=0.05),
            "attack: the attack must be set to the radius of linf:0.1; got eps=0.05. Give both the same.",
        ),
        (
            labels_as_targets,
            "attack: targeted=False must be what the attack is set to, 'default'; got 'targeted(label)'. Call its "
            "set_mode_targeted_by_label() and pass targets with targeted=True, or set_mode_default().",
        ),
        (
            least_likely,
            "attack: targeted=False must be what the attack is set to, 'default'; got 'targeted(least-likely)'. Call "
            "its set_mode_targeted_by_label() and pass targets with targeted=True, or set_mode_default().",
        ),
        (
            lambda net: torchattacks.PGDL2(net, eps=0.1),
            "attack: the attack must be made for the norm of linf:0.1; got PGDL2, for l2. Choose another attack.",
        ),
        (
            lambda net: torchattacks.APGD(net, norm="L2", eps=0.1),
            "attack: the attack must be made for the norm of linf:0.1; got APGD, for l2. Choose another attack.",
        ),
        (
            lambda net: foolbox.attacks.L2PGD(),
            "attack: the attack must be made for the norm of linf:0.1; got L2ProjectedGradientDescentAttack, for l2. "
            "Choose another attack.",
        ),
    ],
)
def test_objects_of_other_libraries_that_were_set_for_something_else(
    function: Callable[[nn.Module], Any], text: str
) -> None:
    net, (x, y) = linear(), images()
    with pytest.raises(ValueError, match=exactly(text)):
        attack(net, x, y, function(net), ThreatModel("linf", 0.1))


def test_adversarial_sets_say_whose_attack_made_them() -> None:
    net, (x, y) = linear(), images(n=10)
    data = ImageSet(x, y, tuple(str(i) for i in range(len(x))), "ten")
    function = torchattacks.FGSM(net, eps=0.1)
    made = adversarial(net, data, "linf:0.1", function=function, progress=False)
    assert made.record["attack"] == "FGSM"
    assert made.record["library"] == "torchattacks"
    assert made.record["settings"] == repr(function)
    torch.testing.assert_close(made.images, fgsm(net, x, y, ThreatModel("linf", 0.1)), atol=1e-6, rtol=0)


def test_the_seed_decides_the_random_starts_of_others_too() -> None:
    net, (x, y) = linear(), images(n=10)
    data = ImageSet(x, y, tuple(str(i) for i in range(len(x))), "ten")
    function = torchattacks.PGD(net, eps=0.1, alpha=0.01, steps=1)
    one, again, other = (
        adversarial(net, data, "linf:0.1", function=function, seed=seed, progress=False) for seed in (1, 1, 2)
    )
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    assert other.record["seed"] == 2


def many(net: nn.Module) -> Any:
    return torchattacks.MultiAttack([torchattacks.FGSM(net, eps=0.1), torchattacks.PGDL2(net, eps=0.1)])


def test_every_attack_inside_another_is_held_to_the_threat() -> None:
    net, (x, y) = linear(), images()
    text = "attack: the attack must be made for the norm of linf:0.1; got PGDL2, for l2. Choose another attack."
    with pytest.raises(ValueError, match=exactly(text)):
        attack(net, x, y, many(net), ThreatModel("linf", 0.1))
    both = torchattacks.MultiAttack([torchattacks.PGDL2(net, eps=0.1, steps=2, alpha=0.1) for _ in range(2)])
    assert attack(net, x, y, both, ThreatModel("l2", 0.1)).images.shape == x.shape


def test_an_object_that_names_no_norm_is_held_to_the_ball_alone() -> None:
    net, (x, y) = linear(), images()
    assert attack(net, x, y, torchattacks.VANILA(net), ThreatModel("l2", 0.1)).images.equal(x)
    with pytest.raises(ValueError, match=r"\Aattack: the change must stay within l2:0.1; got "):
        attack(net, x, y, torchattacks.GN(net, std=0.2), ThreatModel("l2", 0.1))


def test_what_does_not_aim_takes_no_targets() -> None:
    net, (x, y) = linear(), images()
    text = (
        "attack: the attack must be able to approach targets; got L2DeepFoolAttack and targeted=True. "
        "Choose another attack."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        attack(net, x, 1 - y, foolbox.attacks.L2DeepFoolAttack(), ThreatModel("l2", 0.1), targeted=True)


@pytest.mark.parametrize("function", [lambda net: torchattacks.FGSM(net), lambda net: foolbox.attacks.LinfPGD()])
def test_extract_says_how_an_object_is_a_condition(function: Callable[[nn.Module], Any]) -> None:
    net, (x, y) = linear(), images(n=10)
    data = ImageSet(x, y, tuple(str(i) for i in range(len(x))), "ten")
    made = function(net)
    library = type(made).__module__.split(".")[0]
    text = (
        f"extract: attack must make an ImageSet; got an object of {library}. "
        "Pass functools.partial(adversarial, threat=..., function=...) with it."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        extract(net, data, attack=made, progress=False)
    side = extract(
        net, data, attack=functools.partial(adversarial, threat="linf:0.2", function=foolbox.attacks.LinfPGD())
    )
    assert side.name.endswith("(Sequential, linf:0.2)")


def test_what_foolbox_refuses_is_one_line() -> None:
    net, (x, y) = linear(), images()
    text = (
        "attack: Foolbox must accept LinfFastGradientAttack with targeted=True; got unsupported criterion. "
        "Choose another attack."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        attack(net, x, 1 - y, foolbox.attacks.LinfFastGradientAttack(), ThreatModel("linf", 0.1), targeted=True)


@pytest.mark.parametrize("kind", [torchattacks.PGD, foolbox.attacks.LinfPGD])
def test_a_class_is_no_attack_yet(kind: type) -> None:
    net, (x, y) = linear(), images()
    text = f"attack: an attack must be a function or an object; got the class {kind.__name__}. Make one of it first."
    with pytest.raises(TypeError, match=exactly(text)):
        attack(net, x, y, kind, ThreatModel("linf", 0.1))


def test_what_is_no_threat_model_is_met_with_one() -> None:
    net, (x, y) = linear(), images()
    text = 'threat must be a ThreatModel or its text; got 0.1. Pass, say, "linf:8/255" or ThreatModel("l2", 0.5).'
    wrong: Any = 0.1
    with pytest.raises(TypeError, match=exactly(f"attack: {text}")):
        attack(net, x, y, lambda net, x, y: x, wrong)
    data = ImageSet(x, y, tuple(str(i) for i in range(len(x))), "six")
    with pytest.raises(TypeError, match=exactly(f"adversarial: {text}")):
        adversarial(net, data, wrong, progress=False)
