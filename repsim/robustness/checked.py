"""`attack`: any attack, held to the same rules, with its success measured afterwards."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.data.image_set import Images
from repsim.networks.answers import answers, check_eval, frozen, logits_of
from repsim.robustness.libraries import AttackFunction, as_function
from repsim.robustness.threat import ThreatModel, check_inside


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack made of some images.

    Attributes:
        images: The moved images, inside the ball and inside [0, 1], detached.
        before: (b,) what the network answers to the images as they were.
        after: (b,) what it answers to the moved ones, from a forward pass of their own.
        success: (b,) whether the answer is another than the label; for a targeted attack, whether it is the target.
    """

    images: Images
    before: Int[Tensor, " b"]
    after: Int[Tensor, " b"]
    success: Bool[Tensor, " b"]


def attack(
    net: nn.Module,
    images: Images,
    labels: Int[Tensor, " b"],
    function: AttackFunction | Callable[..., Any],
    threat: ThreatModel | str,
    *,
    targeted: bool = False,
) -> AttackResult:
    """Runs an attack, checks what it returned, and measures it: nothing that the attack says of itself is believed.

    A moved image counts if it has the image's shape and type, lies in [0, 1], and ‖x′ − x‖ ≤ ε up to rounding.
    Parameters ask for no gradient meanwhile, so an attack that calls `backward` leaves none on them.

    Args:
        net: Takes pixels in [0, 1], gives logits (b, k); in eval mode.
        images: What to move.
        labels: The labels; with `targeted` the classes that the network shall answer.
        function: (network, images, labels) -> moved images, from anywhere: `fgsm` with its threat model bound, say; or
            an object of torchattacks or Foolbox, as it is. Their random starts are PyTorch's, see `torch.manual_seed`.
        threat: The ball that the attack promises to stay in, or its text, as in "linf:8/255".
        targeted: Whether `labels` are targets.

    Returns:
        The moved images, and the network's answers before and after.

    Raises:
        ValueError: A network in training mode, images outside [0, 1], labels that are no classes of the network, moved
            images of another shape or type, outside the ball or outside [0, 1], an attack that leaves the network in
            training mode, an object of another library that was set for another network, radius, norm or target.
        TypeError: An attack that takes other arguments, or returns no tensor.

    Cost:
        The attack, and two forward passes.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> x, y = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 0])
        >>> threat = ThreatModel.parse("linf:8/255")
        >>> made = attack(net, x, y, lambda net, x, y: x + threat.eps, threat)
        >>> made.images.shape, made.success.shape
        (torch.Size([3, 1, 2, 2]), torch.Size([3]))

        Objects of other libraries go in as they are, `attack(net, x, y, torchattacks.PGD(net, eps=8 / 255), threat)` or
        `attack(net, x, y, foolbox.attacks.LinfPGD(), threat)`; what takes other arguments, behind a lambda:

        >>> bound = lambda x, y: (x + 8 / 255).clamp(0, 1)
        >>> made = attack(net, x, y, lambda net, x, y: bound(x, y), threat)
    """
    threat = ThreatModel.of(threat, "attack")
    threat.check(images, "attack")
    check_eval(net, "attack")
    if labels.shape != (len(images),):
        got = f"shape {tuple(labels.shape)}"
        raise ValueError(message("attack", f"labels must be ({len(images)},)", got, "Pass one class per image"))
    with torch.no_grad():
        logits = logits_of(net, images, "attack")
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or high >= logits.shape[1]:
        must = f"labels must be classes of the network, 0 to {logits.shape[1] - 1}"
        raise ValueError(message("attack", must, f"{low} to {high}", "Choose the data it was trained for"))
    if isinstance(function, type):
        got, advice = f"the class {function.__name__}", "Make one of it first"
        raise TypeError(message("attack", "an attack must be a function or an object", got, advice))
    function = as_function(function, net, threat, targeted=targeted)
    _check_takes(function, net, images, labels)
    # An attack that works in place moves its own copy, not what it is measured against.
    with frozen(net):
        found = function(net, images.clone(), labels)
    check_eval(net, "attack")
    advice = "Give the attack this radius, or attack(...) the radius that it was made with"
    moved = check_inside(images, found, threat, "attack", advice)
    after = answers(net, moved, "attack")
    return AttackResult(moved, logits.argmax(1), after, (after == labels) == targeted)


def _check_takes(function: AttackFunction, *given: object) -> None:
    """An attack that takes something else is met with how to bind it, not with an error from inside of it."""
    try:
        inspect.signature(function).bind(*given)
    except TypeError as error:
        advice = "Bind the rest of it, as in lambda net, x, y: attack(x, y)"
        raise TypeError(
            message("attack", "an attack must take (network, images, labels)", f"{error}", advice)
        ) from None
    except ValueError:  # written in C, and silent about its arguments
        return
