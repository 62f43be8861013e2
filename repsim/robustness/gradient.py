"""Projected gradient ascent on a network's loss: `pgd`, and its single step `fgsm`."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.data.image_set import Images
from repsim.networks.answers import check_eval, frozen, logits_of
from repsim.robustness.threat import Randomness, ThreatModel, check_inside

Loss = Callable[[Float[Tensor, "b k"], Int[Tensor, " b"]], Float[Tensor, " b"]]


def pgd(
    net: nn.Module,
    x: Images,
    y: Int[Tensor, " b"],
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float,
    generator: Randomness | None = None,
    restarts: int = 1,
    random_start: bool = True,
    targeted: bool = False,
    loss: Loss | None = None,
) -> Images:
    """Projected gradient ascent on the loss inside the ball.

    δ ← Π(δ + step · direction(∇ loss(f(x + δ), y))), cut so that x + δ stays in [0, 1]. The direction is the sign in
    linf and the gradient's own in l2. Parameters get no gradient. Of several restarts each image keeps the one that
    fools the network and, among those, the one of the largest loss.

    Args:
        net: Takes pixels in [0, 1], gives logits (b, k); in eval mode.
        x: Inputs.
        y: Their labels; with `targeted` the classes that the network shall answer.
        threat: The ball.
        steps: Gradient evaluations per restart; 0 gives the start.
        step_size: Length of a step in the ball's norm, in pixel units.
        generator: Of the random starts, on the CPU; or one per image, so that an image's start does not depend on
            the others.
        restarts: How often to start. The first start is the same whatever their number.
        random_start: Start at a random point of the ball rather than at x.
        targeted: Lower the loss towards the classes y, instead of raising it.
        loss: (logits, y) -> (b,), one number per image; None is cross-entropy.

    Returns:
        Inputs inside the ball around x and inside [0, 1], detached.

    Raises:
        ValueError: Images outside [0, 1], a network in training mode or without a gradient in its input, settings out
            of range.
        RuntimeError: A gradient that is not finite.

    Source:
        Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv 1706.06083.

    Cost:
        restarts × steps forward and backward passes, and one forward pass per restart where there are several.
    """
    threat.check(x, "pgd")
    check_eval(net, "pgd")
    _check_settings(steps, step_size, restarts, random_start, generator)
    each = loss or (lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"))
    raised = (lambda logits: -each(logits, y)) if targeted else (lambda logits: each(logits, y))
    best, best_fooled, best_loss = x, None, None
    with frozen(net):
        for _ in range(restarts):
            delta = threat.start(x, generator) if generator is not None and random_start else torch.zeros_like(x)
            found = climb(lambda moved: raised(logits_of(net, moved, "pgd")), x, delta, threat, steps, step_size, "pgd")
            if restarts == 1:
                return found
            with torch.no_grad():
                logits = logits_of(net, found, "pgd")
            fooled, value = (logits.argmax(1) == y) == targeted, raised(logits)
            if best_fooled is None or best_loss is None:
                best, best_fooled, best_loss = found, fooled, value
                continue
            better = (fooled & ~best_fooled) | ((fooled == best_fooled) & (value > best_loss))
            best = torch.where(better.view(-1, 1, 1, 1), found, best)
            best_fooled, best_loss = best_fooled | fooled, torch.where(better, value, best_loss)
    return best


def fgsm(net: nn.Module, x: Images, y: Int[Tensor, " b"], threat: ThreatModel, *, targeted: bool = False) -> Images:
    """The fast gradient sign method: one step from x to the border of the ball, x + ε · sign(∇ loss) in linf.

    In l2 the step goes along the gradient. Robustness against it alone says little: a network can hide its gradient.

    Args:
        net: As for `pgd`.
        x: Inputs.
        y: Their labels; with `targeted` the classes that the network shall answer.
        threat: The ball.
        targeted: As for `pgd`.

    Returns:
        Inputs inside the ball and inside [0, 1], detached.

    Raises:
        ValueError: As for `pgd`.
        RuntimeError: As for `pgd`.

    Source:
        Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572.

    Cost:
        One forward and backward pass.
    """
    return pgd(net, x, y, threat, steps=1, step_size=threat.eps, random_start=False, targeted=targeted)


def climb(
    rise: Callable[[Images], Float[Tensor, " b"]],
    x: Images,
    delta: Images,
    threat: ThreatModel,
    steps: int,
    step_size: float,
    function: str,
) -> Images:
    """Raises a number per image by projected gradient ascent from x + delta, and checks the result.

    Args:
        rise: Moved images -> (b,), what shall become large.
        x: Inputs.
        delta: The first change, inside the ball.
        threat: The ball.
        steps: Gradient evaluations.
        step_size: Length of a step in the ball's norm.
        function: Who asks, for messages.
    """
    delta = (x + delta).clamp(0, 1) - x
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        with torch.enable_grad():
            total = rise(x + delta).sum()
            gradient = torch.autograd.grad(total, delta, allow_unused=True)[0] if total.requires_grad else None
        if gradient is None:
            got, advice = "none", "Look for detach, no_grad, argmax or numpy on the way from the input"
            raise ValueError(message(function, "the network must have a gradient in its input", got, advice))
        if not bool(torch.isfinite(gradient).all()):
            advice = "Look for a diverged network"
            raise RuntimeError(message(function, "the loss must have a finite gradient", "NaN or infinity", advice))
        delta = (x + threat.ascend(delta.detach(), gradient, step_size)).clamp(0, 1) - x
    return check_inside(x, (x + delta.detach()).clamp(0, 1), threat, function, None)


def check_steps(steps: int, step_size: float, function: str) -> None:
    """Settings of an ascent must be numbers of steps and a length."""
    if steps < 0:
        raise ValueError(message(function, "steps must be >= 0", f"{steps}", "Ask for 20"))
    if not 0 <= step_size < math.inf:
        advice = "Write it in pixels of [0, 1], as in 2/255"
        raise ValueError(message(function, "step_size must be finite and >= 0", f"{step_size:g}", advice))


def _check_settings(
    steps: int, step_size: float, restarts: int, random_start: bool, generator: Randomness | None
) -> None:
    check_steps(steps, step_size, "pgd")
    if restarts < 1:
        raise ValueError(message("pgd", "restarts must be >= 1", f"{restarts}", "Leave it out"))
    if random_start and generator is None:
        advice = "Pass generator=torch.Generator().manual_seed(0), or random_start=False"
        raise ValueError(message("pgd", "a random start needs a generator", "none", advice))
    if restarts > 1 and not random_start:
        advice = "Leave out random_start=False or restarts"
        raise ValueError(message("pgd", "restarts must differ by their start", "random_start=False", advice))
