"""Attacks: threat models, ascent held against closed forms of linear networks, and the checks around any attack."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repsim import ImageSet, Network, load_model
from repsim.robustness import ThreatModel, attack, feature_attack, fgsm, pgd
from tests.conftest import exactly
from tests.oracles import attacks as oracle
from tests.support.places import DATA

NORMS = ("linf", "l2")


def linear(classes: int = 2, seed: int = 0) -> nn.Sequential:
    """A linear network on 1 × 4 × 4 pixels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


def curved(seed: int = 0) -> nn.Module:
    """A small network that is not linear."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(linear(8, seed), nn.Tanh(), nn.Linear(8, 2)).eval()


def images(n: int = 6, low: float = 0.3, high: float = 0.7, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(n, 1, 4, 4, generator=generator)
    return x, torch.arange(n) % 2


def margin(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Logit of the label minus the other one."""
    logits = net(x)
    return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]


def direction(net: nn.Sequential) -> Tensor:
    """The weight of the margin, up to its sign."""
    weight = net[1].weight
    assert isinstance(weight, Tensor)
    return (weight[0] - weight[1]).detach()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def length(delta: Tensor, norm: str) -> Tensor:
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.square().sum(1).sqrt()


# --- Threat models --------------------------------------------------------------------------------------------


def test_eps_in_grey_levels_is_met_with_the_unit() -> None:
    text = (
        "ThreatModel: eps of linf must be at most 1; got 8. "
        "Pixels are in [0, 1]: write 8/255 where you mean 8 of 255 grey levels."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        ThreatModel("linf", 8)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
def test_a_radius_that_is_none_is_refused(norm: str, eps: float) -> None:
    text = f"ThreatModel: eps must be finite and >= 0; got {eps:g}. Write the radius in pixels of [0, 1], as in 8/255."
    with pytest.raises(ValueError, match=exactly(text)):
        ThreatModel(norm, eps)  # type: ignore[arg-type]


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=exactly("ThreatModel: norm must be linf or l2; got 'l1'. Choose one.")):
        ThreatModel("l1", 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.0), ("linf", 1.0), ("linf", 8 / 255), ("l2", 0.0), ("l2", 3.5)])
def test_radii_that_make_sense_are_taken(norm: str, eps: float) -> None:
    assert ThreatModel(norm, eps).eps == eps  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "norm", "eps", "written"),
    [
        ("linf:8/255", "linf", 8 / 255, "linf:8/255"),
        (" l2 : 1 / 2 ", "l2", 0.5, "l2:0.5"),
        ("l2:128/255", "l2", 128 / 255, "l2:128/255"),
        ("linf:51/255", "linf", 0.2, "linf:0.2"),
        ("linf:0", "linf", 0.0, "linf:0.0"),
        ("linf:1e-3", "linf", 0.001, "linf:0.001"),
    ],
)
def test_text_forms(text: str, norm: str, eps: float, written: str) -> None:
    threat = ThreatModel.parse(text)
    assert (threat.norm, threat.eps, str(threat)) == (norm, eps, written)


@given(st.floats(0, 1), st.sampled_from(NORMS))
def test_the_text_of_a_threat_model_reads_as_itself(eps: float, norm: str) -> None:
    threat = ThreatModel(norm, eps)  # type: ignore[arg-type]
    assert ThreatModel.parse(str(threat)) == threat


@pytest.mark.parametrize("text", ["linf", "linf:", "linf:eight", "linf:1/0", "linf:nan", ""])
def test_texts_that_are_no_threat_model(text: str) -> None:
    line = f'ThreatModel: text must be NORM:EPS; got {text!r}. Write, say, "linf:8/255" or "l2:0.5".'
    with pytest.raises(ValueError, match=exactly(line)):
        ThreatModel.parse(text)


def test_a_text_with_another_norm() -> None:
    with pytest.raises(ValueError, match=exactly("ThreatModel: norm must be linf or l2; got 'l1'. Choose one.")):
        ThreatModel.parse("l1:0.1")


def test_a_ball_as_wide_as_all_images_is_refused() -> None:
    x, y = images()
    fgsm(linear(), x, y, ThreatModel("l2", 4.0))  # √16: the two furthest images
    text = (
        "pgd: eps of l2 must be at most √(pixels) = 4 for images of 16; got 8. "
        "No two images are further apart; write the radius in pixels of [0, 1], as in 0.5."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        fgsm(linear(), x, y, ThreatModel("l2", 8))


def test_the_projections_are_the_nearest_points_of_the_balls() -> None:
    delta = torch.tensor([[3.0, -4.0], [0.03, -0.04], [0.0, 0.0]]).view(3, 1, 1, 2)
    box = ThreatModel("linf", 0.5).project(delta).flatten(1)
    torch.testing.assert_close(box, torch.tensor([[0.5, -0.5], [0.03, -0.04], [0.0, 0.0]]))
    ball = ThreatModel("l2", 0.5).project(delta).flatten(1)
    torch.testing.assert_close(ball, torch.tensor([[0.3, -0.4], [0.03, -0.04], [0.0, 0.0]]))


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_is_nearer_than_any_other_point_of_the_ball(norm: str) -> None:
    threat = ThreatModel(norm, 0.3)  # type: ignore[arg-type]
    delta = torch.randn(50, 1, 4, 4, generator=generator())
    projected = threat.project(delta)
    assert float(length(projected, norm).max()) <= 0.3 + 1e-6
    torch.testing.assert_close(threat.project(projected), projected)
    other = threat.project(torch.randn(50, 1, 4, 4, generator=generator(1)))
    assert bool((length(delta - projected, "l2") < length(delta - other, "l2")).all())


def test_steps_go_along_the_gradient_with_the_length_of_their_norm() -> None:
    gradient = torch.tensor([[6.0, -8.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    start = torch.zeros_like(gradient)
    box = ThreatModel("linf", 1.0).ascend(start, gradient, 0.1).flatten(1)
    torch.testing.assert_close(box, torch.tensor([[0.1, -0.1], [0.0, 0.0]]))
    ball = ThreatModel("l2", 1.0).ascend(start, gradient, 0.1).flatten(1)
    torch.testing.assert_close(ball, torch.tensor([[0.06, -0.08], [0.0, 0.0]]))
    long = ThreatModel("l2", 0.5).ascend(start, gradient, 7.0).flatten(1)
    torch.testing.assert_close(long, torch.tensor([[0.3, -0.4], [0.0, 0.0]]))


def test_random_starts_fill_the_box_evenly() -> None:
    x = torch.full((400, 1, 4, 4), 0.5)
    delta = ThreatModel("linf", 0.2).start(x, generator())
    assert delta.shape == x.shape
    assert float(delta.abs().max()) <= 0.2
    # 6400 uniform numbers: mean 0 and mean square eps²/3, each within five standard errors.
    assert abs(float(delta.mean())) < 5 * 0.2 / math.sqrt(3 * 6400)
    assert abs(float(delta.square().mean()) - 0.04 / 3) < 5 * 0.04 * math.sqrt(4 / 45 / 6400)


def test_random_starts_fill_the_ball_evenly() -> None:
    x = torch.full((4000, 1, 4, 4), 0.5)
    delta = ThreatModel("l2", 0.2).start(x, generator())
    radius = length(delta, "l2") / 0.2
    assert float(radius.max()) <= 1 + 1e-6
    # The volume inside the radius, r**16, is uniform in [0, 1]; the direction favours no side.
    assert abs(float((radius**16).mean()) - 0.5) < 5 / math.sqrt(12 * 4000)
    assert float(delta.mean(0).norm()) < 5 * 0.2 / math.sqrt(4000)


# --- Projected gradient ascent --------------------------------------------------------------------------------


def test_the_box_attack_on_a_linear_network_reaches_the_closed_form() -> None:
    net, (x, y) = linear(), images()
    adversarial = pgd(net, x, y, ThreatModel("linf", 0.1), steps=10, step_size=0.03, generator=generator())
    expected = margin(net, x, y) - 0.1 * direction(net).abs().sum()
    torch.testing.assert_close(margin(net, adversarial, y), expected, atol=1e-5, rtol=0)


def test_the_box_attack_stops_at_black_and_white() -> None:
    net, (x, y) = linear(), images(low=0.0, high=1.0)
    adversarial = pgd(net, x, y, ThreatModel("linf", 0.3), steps=10, step_size=0.1, generator=generator())
    way = torch.where(y == 0, -1.0, 1.0)[:, None] * direction(net).sign()
    expected = (x.flatten(1) + 0.3 * way).clamp(0, 1)
    assert bool(((expected == 0) | (expected == 1)).any())
    torch.testing.assert_close(adversarial.flatten(1), expected, atol=1e-6, rtol=0)


def test_the_ball_attack_on_a_linear_network_reaches_the_closed_form() -> None:
    net, (x, y) = linear(), images()
    adversarial = pgd(net, x, y, ThreatModel("l2", 0.25), steps=60, step_size=0.1, generator=generator())
    assert float(adversarial.min()) > 0
    assert float(adversarial.max()) < 1  # nothing was cut, so the form holds
    expected = margin(net, x, y) - 0.25 * direction(net).norm()
    torch.testing.assert_close(margin(net, adversarial, y), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_ball_of_radius_0_leaves_the_images(norm: str, steps: int) -> None:
    x, y = images(low=0.0, high=1.0)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.0, 1.0
    threat = ThreatModel(norm, 0.0)  # type: ignore[arg-type]
    found = pgd(linear(), x, y, threat, steps=steps, step_size=0.1, generator=generator())
    assert torch.equal(found, x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.05, 0.6])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_result_is_inside_the_ball_and_the_pixels_range(norm: str, eps: float, steps: int) -> None:
    x, y = images(n=40, low=0.0, high=1.0)
    net = curved()
    before = x.clone()
    threat = ThreatModel(norm, eps)  # type: ignore[arg-type]
    found = pgd(net, x, y, threat, steps=steps, step_size=eps, generator=generator())
    assert float(length(found - x, norm).max()) <= eps + 1e-5
    assert float(length(found - x, norm).min()) > 0
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found.requires_grad
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("norm", "classes", "low"),
    [("linf", 2, 0.0), ("linf", 5, 0.0), ("l2", 2, 0.3), ("l2", 5, 0.3)],
)
def test_more_steps_never_lower_the_loss_of_a_linear_network(norm: str, classes: int, low: float) -> None:
    # Cross-entropy of a linear network is convex in x, so a projected step along the gradient cannot lower it.
    net, (x, _) = linear(classes), images(low=low, high=1 - low)
    y = torch.arange(len(x)) % classes
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    losses = []
    for steps in range(8):
        found = pgd(net, x, y, threat, steps=steps, step_size=0.07, generator=generator())
        losses.append(F.cross_entropy(net(found), y, reduction="none").detach())
    for less, more in itertools.pairwise(losses):
        assert bool((more >= less - 1e-5).all())
    assert bool((losses[-1] > losses[0]).all())


@pytest.mark.parametrize("norm", NORMS)
def test_the_generator_decides_everything(norm: str) -> None:
    net, (x, y) = curved(), images()
    threat = ThreatModel(norm, 0.1)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    one, same, other = (
        pgd(net, x, y, threat, steps=2, step_size=0.01, generator=generator(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_loss_is_raised_instead() -> None:
    net, (x, y) = linear(), images()
    found = pgd(
        net,
        x,
        y,
        ThreatModel("linf", 0.1),
        steps=10,
        step_size=0.03,
        generator=generator(),
        loss=lambda logits, labels: -F.cross_entropy(logits, labels, reduction="none"),
    )
    expected = margin(net, x, y) + 0.1 * direction(net).abs().sum()
    torch.testing.assert_close(margin(net, found, y), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_network_never_sees_what_is_no_image(norm: str) -> None:
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return linear()(x)

    x, y = images(low=0.0, high=1.0)
    threat = ThreatModel(norm, 0.9)  # type: ignore[arg-type]
    pgd(Watched().eval(), x, y, threat, steps=4, step_size=0.5, generator=generator())
    assert len(seen) == 4
    assert float(torch.stack(seen).min()) >= -1e-6
    assert float(torch.stack(seen).max()) <= 1 + 1e-6


def test_parameters_get_no_gradient_and_ask_for_one_again() -> None:
    net, (x, y) = linear(), images()
    weight, bias = net.parameters()
    kept = torch.ones(2)
    bias.grad = kept.clone()
    seen: list[bool] = []
    net.register_forward_hook(lambda *_: seen.append(weight.requires_grad))
    with torch.no_grad():  # also where the caller wants none
        pgd(net, x, y, ThreatModel("linf", 0.1), steps=2, step_size=0.1, generator=generator())
    assert seen == [False, False]
    assert weight.grad is None
    assert bias.grad is not None
    assert torch.equal(bias.grad, kept)
    assert weight.requires_grad
    assert not net.training


@pytest.mark.parametrize("where", ["", "1"])
def test_a_network_in_training_mode_is_refused(where: str) -> None:
    net, (x, y) = linear(), images()
    net.get_submodule(where).train()
    got = "Sequential" if where == "" else "1"
    for name, run in {
        "pgd": lambda: fgsm(net, x, y, ThreatModel("linf", 0.1)),
        "attack": lambda: attack(net, x, y, lambda n, x, y: x, ThreatModel("linf", 0.1)),
        "feature_attack": lambda: feature_attack(
            net, x, "1", ThreatModel("linf", 0.1), steps=1, step_size=0.1, generator=generator()
        ),
    }.items():
        text = f"{name}: the network must be in eval mode; got training mode in {got!r}. Call net.eval() first."
        with pytest.raises(ValueError, match=exactly(text)):
            run()


def test_frozen_networks_are_attacked_too() -> None:
    net, (x, y) = linear().requires_grad_(False), images()
    found = pgd(net, x, y, ThreatModel("linf", 0.1), steps=10, step_size=0.03, generator=generator())
    assert bool((margin(net, found, y) < margin(net, x, y)).all())


def test_images_outside_the_pixels_range_are_the_callers_error() -> None:
    x, y = images(low=-1.0, high=2.0)  # normalised images, say
    with pytest.raises(ValueError, match=r"\Apgd: .*\[0, 1\]"):
        pgd(linear(), x, y, ThreatModel("linf", 0.1), steps=1, step_size=0.1, generator=generator())


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_without_a_gradient_gives_no_images(norm: str) -> None:
    net, (x, y) = linear(), images()
    with torch.no_grad():
        net[1].weight.fill_(math.nan)  # type: ignore[operator]
    threat = ThreatModel(norm, 0.1)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"\Apgd: "):
        pgd(net, x, y, threat, steps=2, step_size=0.1, generator=generator())


def test_a_step_that_leaves_the_ball_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreatModel, "project", lambda self, delta: delta)
    net, (x, y) = linear(), images()
    with pytest.raises(ValueError, match=r"\Apgd: the change must stay within linf:0\.1; got 0\.\d+\. Report this\.\Z"):
        pgd(net, x, y, ThreatModel("linf", 0.1), steps=2, step_size=0.15, generator=generator())


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).requires_grad_(False),
        linear(),
    ],
)
@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x.detach(),
        lambda x: (x > 0.5).float(),
        lambda x: torch.zeros_like(x),
        lambda x: F.one_hot(x.flatten(1).argmax(1), 16).float(),
        lambda x: torch.from_numpy(x.detach().numpy()),
    ],
)
def test_a_network_that_cannot_be_differentiated(net: nn.Module, cut: Callable[[Tensor], Tensor]) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(cut(x))

    x, y = images()
    text = (
        "pgd: the network must have a gradient in its input; got none. "
        "Look for detach, no_grad, argmax or numpy on the way from the input."
    )
    threat = ThreatModel("linf", 0.1)
    with pytest.raises(ValueError, match=exactly(text)):
        fgsm(Cut().eval(), x, y, threat)
    with pytest.raises(ValueError, match=exactly(text.replace("pgd", "feature_attack"))):
        feature_attack(Cut().eval(), x, "net.1", threat, steps=1, step_size=0.1, generator=generator())


def test_a_network_that_forbids_gradients() -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear()

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    class Chosen(Closed):
        """Answers by the class alone, as scores of 0 and 1."""

        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(self.net(x).argmax(1), 2).float()

    x, y = images()
    text = (
        "pgd: the network must have a gradient in its input; got none. "
        "Look for detach, no_grad, argmax or numpy on the way from the input."
    )
    for net in (Closed().eval(), Chosen().eval()):
        with pytest.raises(ValueError, match=exactly(text)):
            pgd(net, x, y, ThreatModel("l2", 0.1), steps=2, step_size=0.1, generator=generator())


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda x: {"answer": x.flatten(1)}, "dict"),
        (lambda x: x, "shape (6, 1, 4, 4)"),
        (lambda x: x.flatten(1)[:3], "shape (3, 16)"),
        (lambda x: x.flatten(1).argmax(1), "int64 of shape (6,)"),
        (lambda x: (x.flatten(1) * 255).long(), "int64 of shape (6, 16)"),
    ],
)
def test_answers_that_are_no_logits(answer: Callable[[Tensor], Any], got: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return answer(x)

    x, y = images()
    text = f"pgd: the network must answer (6, classes); got {got}. Wrap it in a module that returns the logits."
    with pytest.raises(ValueError, match=exactly(text)):
        fgsm(Odd().eval(), x, y, ThreatModel("linf", 0.1))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"steps": -1}, "pgd: steps must be >= 0; got -1. Ask for 20."),
        (
            {"step_size": math.nan},
            "pgd: step_size must be finite and >= 0; got nan. Write it in pixels of [0, 1], as in 2/255.",
        ),
        ({"restarts": 0}, "pgd: restarts must be >= 1; got 0. Leave it out."),
        (
            {"generator": None},
            "pgd: a random start needs a generator; got none. "
            "Pass generator=torch.Generator().manual_seed(0), or random_start=False.",
        ),
        (
            {"restarts": 2, "random_start": False},
            "pgd: restarts must differ by their start; got random_start=False. "
            "Leave out random_start=False or restarts.",
        ),
    ],
)
def test_settings_out_of_range(changed: dict[str, Any], text: str) -> None:
    x, y = images()
    chosen = {"steps": 2, "step_size": 0.1, "generator": generator(), **changed}
    with pytest.raises(ValueError, match=exactly(text)):
        pgd(linear(), x, y, ThreatModel("linf", 0.1), **chosen)


@pytest.mark.parametrize(
    "x", [torch.zeros(3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, 1, 4, 4)]
)
def test_what_is_no_batch_of_images_is_refused(x: Tensor) -> None:
    got = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
    text = f"pgd: images must be (b, c, h, w), floating point; got {got}. Pass data.pixels(rows) of an ImageSet."
    with pytest.raises(ValueError, match=exactly(text)):
        fgsm(linear(), x, torch.zeros(len(x), dtype=torch.int64), ThreatModel("linf", 0.1))


# --- Against the oracles ----------------------------------------------------------------------------------------


def weights_of(net: nn.Sequential) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = (parameter.detach().double().numpy() for parameter in net.parameters())
    return weight, bias


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_every_step_is_the_oracles(norm: str, steps: int) -> None:
    net, (x, _) = linear(5), images(low=0.0, high=1.0)
    net, x = net.double(), x.double()
    y = torch.arange(len(x)) % 5
    threat = ThreatModel(norm, 0.4)  # type: ignore[arg-type]
    found = pgd(net, x, y, threat, steps=steps, step_size=0.15, generator=generator(7))
    start = threat.start(x, generator(7)).flatten(1).numpy()
    for i in range(len(x)):
        sizes = (0.4, steps, 0.15)
        expected = oracle.pgd(x[i].flatten().numpy(), int(y[i]), *weights_of(net), norm, *sizes, start[i])
        np.testing.assert_allclose(found[i].flatten().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", NORMS)
def test_many_steps_reach_the_worst_point_of_the_ball_within_the_pixels_range(norm: str, dtype: torch.dtype) -> None:
    net, (x, y) = linear().to(dtype), images(low=0.0, high=1.0)
    x = x.to(dtype)
    threat = ThreatModel(norm, 0.5)  # type: ignore[arg-type]
    found = pgd(net, x, y, threat, steps=400, step_size=0.1, generator=generator())
    weight, bias = weights_of(net)
    worst = oracle.worst_box if norm == "linf" else oracle.worst_ball
    for i, label in enumerate(y.tolist()):
        way, offset = weight[label] - weight[1 - label], bias[label] - bias[1 - label]
        lowest = way @ worst(x[i].flatten().numpy(), way, 0.5) + offset
        reached = way @ found[i].flatten().double().numpy() + offset
        # The box cuts the ball, so alternating between them may stop short of its furthest point, and never passes it.
        slack = {"linf": 1e-5, "l2": 0.02 * float(np.linalg.norm(way))}[norm]
        assert -1e-5 <= reached - lowest <= slack


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_as_long_as_the_radius_from_the_image_itself_is_the_fast_gradient_method(norm: str) -> None:
    net, (x, y) = curved(), images(low=0.0, high=1.0)
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    fast = fgsm(net, x, y, threat)
    long = 0.2 if norm == "l2" else 0.7  # a longer step ends at the same corner of the box
    assert torch.equal(fast, pgd(net, x, y, threat, steps=1, step_size=long, random_start=False))
    inside = x.clone().requires_grad_()
    F.cross_entropy(net(inside), y, reduction="sum").backward()
    assert inside.grad is not None
    slope = inside.grad
    way = slope.sign() if norm == "linf" else slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(fast, (x + 0.2 * way).clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20])
def test_the_size_of_a_gradient_does_not_matter(size: float) -> None:
    x, y = images()
    threat = ThreatModel("l2", 0.3)
    moved = [
        pgd(linear(), x, y, threat, steps=3, step_size=0.1, generator=generator(), loss=lambda z, y, k=k: k * z[:, 0])
        for k in (1.0, size)
    ]
    torch.testing.assert_close(moved[1], moved[0], atol=1e-6, rtol=0)


def test_an_image_without_a_slope_stays_where_it_started() -> None:
    x, y = images()
    for norm in NORMS:
        threat = ThreatModel(norm, 0.3)  # type: ignore[arg-type]
        flat = pgd(linear(), x, y, threat, steps=3, step_size=0.1, random_start=False, loss=lambda z, y: 0 * z[:, 0])
        assert torch.equal(flat, x)


@pytest.mark.parametrize("norm", NORMS)
def test_targets_are_approached(norm: str) -> None:
    net, (x, _) = linear(5), images()
    targets = torch.full((len(x),), 3)
    threat = ThreatModel(norm, 0.3)  # type: ignore[arg-type]
    found = pgd(net, x, targets, threat, steps=20, step_size=0.1, generator=generator(), targeted=True)
    before, after = (F.log_softmax(net(z), 1)[:, 3] for z in (x, found))
    assert bool((after > before).all())
    # With two classes, towards the one is away from the other.
    two, y = linear(), images()[1]
    away = pgd(two, x, y, threat, steps=3, step_size=0.1, generator=generator())
    towards = pgd(two, x, 1 - y, threat, steps=3, step_size=0.1, generator=generator(), targeted=True)
    torch.testing.assert_close(away, towards, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_stays_inside_to_its_own_rounding(norm: str, dtype: torch.dtype) -> None:
    net, (x, y) = linear().to(dtype), images(low=0.0, high=1.0)
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    found = pgd(net, x.to(dtype), y, threat, steps=5, step_size=0.1, generator=generator())
    assert found.dtype == dtype
    assert float(length(found.double() - x.to(dtype).double(), norm).max()) <= 0.2 + 8 * torch.finfo(dtype).eps


# --- Restarts ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), norm=st.sampled_from(NORMS), restarts=st.integers(2, 5))
def test_more_restarts_never_help_the_network(seed: int, norm: str, restarts: int) -> None:
    net, (x, y) = curved(seed), images(n=30, low=0.0, high=1.0, seed=seed)
    y = net(x).argmax(1)
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    ways = [
        pgd(net, x, y, threat, steps=1, step_size=0.05, restarts=r, generator=generator(seed)) for r in (1, restarts)
    ]
    few, many = ((net(z).argmax(1) == y) for z in ways)
    assert not bool((many & ~few).any())  # image by image, not only in sum
    one, more = (F.cross_entropy(net(z), y, reduction="none") for z in ways)
    assert bool((more >= one - 1e-6)[few == many].all())


def test_restarts_keep_the_worst_of_the_starts() -> None:
    net, (x, y) = curved(), images(n=50, low=0.0, high=1.0)
    threat, chosen = ThreatModel("linf", 0.3), {"steps": 1, "step_size": 0.05}
    found = pgd(net, x, y, threat, **chosen, restarts=4, generator=generator(5))
    same = generator(5)
    each = torch.stack([pgd(net, x, y, threat, **chosen, generator=same) for _ in range(4)])
    losses = torch.stack([F.cross_entropy(net(z), y, reduction="none") for z in each])
    assert len(losses.argmax(0).unique()) > 1
    torch.testing.assert_close(found, each[losses.argmax(0), torch.arange(50)], atol=0, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_generator_per_image_makes_starts_that_depend_on_no_other_image(norm: str) -> None:
    net, (x, y) = curved(), images(n=6)
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]

    def moved(rows: Sequence[int]) -> Tensor:
        own = [generator(i) for i in rows]
        index = list(rows)
        return pgd(net, x[index], y[index], threat, steps=2, step_size=0.05, restarts=2, generator=own)

    torch.testing.assert_close(moved([4, 1]), moved(range(6))[[4, 1]], atol=1e-6, rtol=0)
    assert not torch.equal(moved([4, 1]), x[[4, 1]])


@pytest.mark.parametrize("eps", [np.float32(0.25), np.float64(0.25), 1 / 4])
def test_radii_of_any_kind_of_number_have_one_text(eps: Any) -> None:
    assert str(ThreatModel("linf", eps)) == "linf:0.25"


@pytest.mark.parametrize("eps", [True, "8/255", torch.tensor(0.1), None])
def test_what_is_no_number_is_no_radius(eps: Any) -> None:
    text = f"ThreatModel: eps must be a number; got {eps!r}. "
    with pytest.raises(
        TypeError, match=exactly(text + 'Write 8/255, or parse a text: ThreatModel.parse("linf:8/255").')
    ):
        ThreatModel("linf", eps)


def test_the_text_of_a_threat_model_will_do() -> None:
    net, (x, y) = linear(), images()
    threat = ThreatModel("linf", 0.1)
    made = attack(net, x, y, functools.partial(fgsm, threat=threat), "linf:0.1")
    assert torch.equal(made.images, fgsm(net, x, y, threat))


# --- Any attack, held to the same rules -------------------------------------------------------------------------


def shifted(by: float) -> Callable[..., Tensor]:
    return lambda net, x, y: (x + by).clamp(0, 1)


def test_success_is_measured_by_a_forward_pass_of_its_own() -> None:
    net, (x, y) = linear(), images(n=60, low=0.0, high=1.0)
    threat = ThreatModel("linf", 0.2)
    made = attack(net, x, y, lambda n, x, y: fgsm(n, x, y, threat), threat)
    assert torch.equal(made.before, net(x).argmax(1))
    assert torch.equal(made.after, net(made.images).argmax(1))
    assert torch.equal(made.success, made.after != y)
    assert 0 < int(made.success.sum()) <= 60
    assert not made.images.requires_grad
    targeted = attack(net, x, y, lambda n, x, y: x, threat, targeted=True)
    assert torch.equal(targeted.success, targeted.before == y)


@pytest.mark.parametrize(
    ("function", "got"),
    [(lambda x, y: x, "too many positional arguments"), ("pgd", "'pgd' is not a callable object")],
)
def test_attacks_that_take_other_arguments(function: Any, got: str) -> None:
    text = f"attack: an attack must take (network, images, labels); got {got}. "
    net, (x, y) = linear(), images()
    with pytest.raises(TypeError, match=exactly(text + "Bind the rest of it, as in lambda net, x, y: attack(x, y).")):
        attack(net, x, y, function, ThreatModel("linf", 0.1))


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (
            lambda net, x, y: x[:, :, :2],
            ValueError,
            "attack: the moved images must be float32 of (6, 1, 4, 4) on cpu; got float32 of (6, 1, 2, 4) on cpu. "
            "Return what was passed, moved.",
        ),
        (
            lambda net, x, y: x.double(),
            ValueError,
            "attack: the moved images must be float32 of (6, 1, 4, 4) on cpu; got float64 of (6, 1, 4, 4) on cpu. "
            "Return what was passed, moved.",
        ),
        (
            lambda net, x, y: (x, x, y),
            TypeError,
            "attack: an attack must return the moved images; got tuple. "
            "Return the images alone, as in lambda net, x, y: attack(net, x, y)[1] for (raw, clipped, success).",
        ),
        (
            lambda net, x, y: x * 0 + 1.5,
            ValueError,
            "attack: moved images must lie in [0, 1]; got [1.5, 1.5]. Clamp at the end of the attack.",
        ),
        (
            lambda net, x, y: x * math.nan,
            ValueError,
            "attack: moved images must lie in [0, 1]; got [nan, nan]. Clamp at the end of the attack.",
        ),
        (
            shifted(0.25),
            ValueError,
            "attack: the change must stay within linf:0.1; got 0.25. "
            "Give the attack this radius, or attack(...) the radius that it was made with.",
        ),
        (
            lambda net, x, y: (net.train(), x)[1],
            ValueError,
            "attack: the network must be in eval mode; got training mode in 'Sequential'. Call net.eval() first.",
        ),
    ],
)
def test_attacks_that_break_the_rules(function: Callable[..., Any], error: type[Exception], text: str) -> None:
    x, y = images()
    x = (x * 64).round() / 64  # so that a change of 0.25 is one exactly
    with pytest.raises(error, match=exactly(text)):
        attack(linear(), x, y, function, ThreatModel("linf", 0.1))


@pytest.mark.parametrize("norm", NORMS)
def test_rounding_is_forgiven_and_no_more(norm: str) -> None:
    x, y = images()
    threat = ThreatModel(norm, 0.1)  # type: ignore[arg-type]
    by = 0.1 if norm == "linf" else 0.025  # √16 · 0.025
    attack(linear(), x, y, shifted(by * (1 + 1e-7)), threat)
    with pytest.raises(ValueError, match=r"\Aattack: the change must stay within "):
        attack(linear(), x, y, shifted(by * (1 + 1e-4)), threat)


def test_labels_of_an_attack_are_one_per_image() -> None:
    x, _ = images()
    with pytest.raises(
        ValueError, match=exactly("attack: labels must be (6,); got shape (5,). Pass one class per image.")
    ):
        attack(linear(), x, torch.zeros(5, dtype=torch.int64), shifted(0.0), ThreatModel("linf", 0.1))


# --- A layer's representation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_the_representation_of_a_linear_layer_moves_by_its_largest_gain(norm: str) -> None:
    # One output: the furthest change is the worst one of the ball, to either side.
    net, (x, _) = linear(1), images(low=0.45, high=0.55)
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    found = feature_attack(net, x, "1", threat, steps=30, step_size=0.1, generator=generator())
    weight = weights_of(net)[0][0]
    gain = 0.2 * (np.abs(weight).sum() if norm == "linf" else np.linalg.norm(weight))
    np.testing.assert_allclose(found.distance.numpy(), gain, rtol=1e-5)
    torch.testing.assert_close(found.norm, net(x)[:, 0].abs().double())
    torch.testing.assert_close(found.relative, found.distance / found.norm)
    torch.testing.assert_close((net(found.images) - net(x))[:, 0].abs().double(), found.distance, rtol=1e-4, atol=1e-5)


def test_the_largest_singular_value_bounds_and_is_reached() -> None:
    net, (x, _) = linear(5), images(low=0.45, high=0.55)
    found = feature_attack(
        net, x, "1", ThreatModel("l2", 0.1), steps=300, step_size=0.05, restarts=2, generator=generator()
    )
    largest = 0.1 * float(np.linalg.svd(weights_of(net)[0], compute_uv=False)[0])
    assert float(found.distance.max()) <= largest * (1 + 1e-5)
    assert float(found.distance.min()) >= largest * 0.999


def test_more_restarts_move_a_representation_no_less() -> None:
    net, (x, _) = curved(), images(n=20)
    ways = [
        feature_attack(
            net, x, "1", ThreatModel("linf", 0.2), steps=1, step_size=0.05, restarts=r, generator=generator()
        )
        for r in (1, 4)
    ]
    assert bool((ways[1].distance >= ways[0].distance).all())
    assert float(ways[1].distance.sum()) > float(ways[0].distance.sum())


def test_a_representation_that_is_zero_has_no_relative_distance() -> None:
    net, (x, _) = linear(3), images()
    net.append(nn.ReLU(inplace=True)).eval()
    with torch.no_grad():
        net[1].weight.zero_()  # type: ignore[union-attr, operator]
        net[1].bias.copy_(torch.tensor([-1.0, -2.0, -3.0]))  # type: ignore[union-attr, operator]
    chosen = {"steps": 1, "step_size": 0.05}
    dead = feature_attack(net, x, "2", ThreatModel("linf", 0.2), **chosen, generator=generator())
    assert bool((dead.norm == 0).all())
    assert bool(dead.relative.isnan().all())
    # What the rectifier overwrites in place is seen as it was.
    before = feature_attack(net, x, "1", ThreatModel("linf", 0.2), **chosen, generator=generator())
    torch.testing.assert_close(before.norm, torch.full((6,), math.sqrt(14), dtype=torch.float64))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("*", "feature_attack: layer must mean one module; got '*', which means 2. Choose one, such as '0'."),
        ("2", "feature_attack: layers must name modules of the network; got '2'. Known: 0, 1."),
    ],
)
def test_layers_of_a_feature_attack(layer: str, text: str) -> None:
    x, _ = images()
    with pytest.raises(ValueError, match=exactly(text)):
        feature_attack(linear(), x, layer, ThreatModel("linf", 0.1), steps=1, step_size=0.1, generator=generator())


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            "unused",
            "feature_attack: layer 'unused' must run; got no output. Choose a layer that the forward pass uses.",
        ),
        ("pair", "feature_attack: layer 'pair' must answer one tensor per image; got tuple. Choose a layer inside it."),
    ],
)
def test_layers_without_one_tensor_per_image(layer: str, text: str) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.pair = nn.Linear(2, 2), Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(x)[0].flatten(1)

    x, _ = images()
    with pytest.raises(ValueError, match=exactly(text)):
        feature_attack(Odd().eval(), x, layer, ThreatModel("linf", 0.1), steps=1, step_size=0.1, generator=generator())


# --- A trained network ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> Network:
    return load_model(DATA / "digits_standard.safetensors")


@pytest.mark.parametrize("norm", NORMS)
def test_accuracy_falls_from_the_clean_one_to_chance_as_the_ball_grows(
    norm: str, trained: Network, digits: ImageSet
) -> None:
    x, y = digits.pixels(slice(0, 100)), digits.labels[:100]
    found = []
    for eps in (0.0, 0.05, 0.2, 1.0) if norm == "linf" else (0.0, 0.3, 1.2, 8.0):
        threat = ThreatModel(norm, eps)  # type: ignore[arg-type]
        moved = pgd(trained, x, y, threat, steps=20, step_size=eps / 4, generator=generator())
        found.append(float((trained(moved).argmax(1) == y).double().mean()))
    assert found[0] == float((trained(x).argmax(1) == y).double().mean())
    assert found == sorted(found, reverse=True)
    assert found[-1] <= 0.2
