"""Attacks: the threat models, and projected gradient ascent held against closed forms of linear networks."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.attacks import ThreatModel, pgd
from tests.conftest import exactly

NORMS = ("linf", "l2")


def linear(classes: int = 2, seed: int = 0) -> nn.Sequential:
    """A linear network on 1 × 4 × 4 pixels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


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
        "ThreatModel: eps of linf must be >= 0 and <= 1; got 8. "
        "Pixels are in [0, 1]: write 8/255 where you mean 8 of 255 grey levels."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        ThreatModel("linf", 8)


@pytest.mark.parametrize(
    ("norm", "eps", "limit"),
    [("linf", -0.1, "1"), ("linf", 1.01, "1"), ("linf", math.nan, "1"), ("l2", -1.0, "inf"), ("l2", math.nan, "inf")],
)
def test_a_radius_that_is_none_is_refused(norm: str, eps: float, limit: str) -> None:
    text = (
        f"ThreatModel: eps of {norm} must be >= 0 and <= {limit}; got {eps}. "
        "Pixels are in [0, 1]: write 8/255 where you mean 8 of 255 grey levels."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        ThreatModel(norm, eps)  # type: ignore[arg-type]


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=exactly("ThreatModel: norm must be linf or l2; got 'l1'. Choose one.")):
        ThreatModel("l1", 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.0), ("linf", 1.0), ("linf", 8 / 255), ("l2", 0.0), ("l2", 3.5)])
def test_radii_that_make_sense_are_taken(norm: str, eps: float) -> None:
    assert ThreatModel(norm, eps).eps == eps  # type: ignore[arg-type]


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
    net = nn.Sequential(linear(8), nn.Tanh(), nn.Linear(8, 2))
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
    net, (x, y) = nn.Sequential(linear(8), nn.Tanh(), nn.Linear(8, 2)), images()
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
        loss=lambda logits, labels: -F.cross_entropy(logits, labels, reduction="sum"),
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
    pgd(Watched(), x, y, threat, steps=4, step_size=0.5, generator=generator())
    assert len(seen) == 4
    assert float(torch.stack(seen).min()) >= -1e-6
    assert float(torch.stack(seen).max()) <= 1 + 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_parameters_get_no_gradient_and_the_mode_stays(training: bool) -> None:
    net, (x, y) = linear().train(training), images()
    kept = torch.ones(2)
    net[1].bias.grad = kept.clone()  # type: ignore[union-attr]
    pgd(net, x, y, ThreatModel("linf", 0.1), steps=2, step_size=0.1, generator=generator())
    weight, bias = net.parameters()
    assert weight.grad is None
    assert bias.grad is not None
    assert torch.equal(bias.grad, kept)
    assert weight.requires_grad
    assert net.training is training


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
    with pytest.raises(RuntimeError, match=r"\Apgd: the change must stay within 0\.1; got 0\.\d+\. Report this\.\Z"):
        pgd(net, x, y, ThreatModel("linf", 0.1), steps=2, step_size=0.15, generator=generator())
