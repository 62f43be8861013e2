"""Attacks of torchattacks and Foolbox, called the way each of them wants to be called.

Neither library is imported here: whoever passes an object of theirs has imported it.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.data.image_set import Images
from repsim.robustness.threat import ThreatModel

AttackFunction = Callable[[nn.Module, Images, Int[Tensor, " b"]], Images]

_ADVICE = "Bind it yourself if that is meant, as in lambda net, x, y: attack(x, y)"


def library_of(function: object) -> str | None:
    """Which library the attack is an object of: "torchattacks", "foolbox", or None."""
    for library, module in (("torchattacks", "torchattacks.attack"), ("foolbox", "foolbox.attacks.base")):
        base = getattr(sys.modules.get(module), "Attack", None)
        if base is not None and isinstance(function, base):
            return library
    return None


def as_function(function: Any, net: nn.Module, threat: ThreatModel, *, targeted: bool) -> AttackFunction:
    """The attack as (network, images, labels) -> moved images.

    Args:
        function: An object of torchattacks or of Foolbox; anything else comes back as it is.
        net: The network under attack.
        threat: The ball.
        targeted: Whether the labels will be targets.

    Raises:
        ValueError: An object that holds another network, or was set for another radius, norm or kind of labels: what
            it made would go under a name that is not its own.
    """
    library = library_of(function)
    if library == "torchattacks":
        _check_torchattacks(function, net, threat, targeted)
        return lambda net, x, y: function(x, y)
    if library == "foolbox":
        _check_foolbox(function, threat, targeted)
        return lambda net, x, y: _foolbox(function, net, x, y, threat, targeted)
    return function


def _check_torchattacks(attack: Any, net: nn.Module, threat: ThreatModel, targeted: bool) -> None:
    """torchattacks' objects hold their network, their radius and what the labels are to them; some hold others."""
    for inside in getattr(attack, "attacks", ()):
        _check_torchattacks(inside, net, threat, targeted)
    if attack.model is not net:
        got = f"one that holds another {type(attack.model).__name__}"
        raise ValueError(message("attack", "a torchattacks object must hold the network under attack", got, _ADVICE))
    eps = getattr(attack, "eps", None)
    if isinstance(eps, float | int) and not math.isclose(eps, threat.eps, rel_tol=1e-6):
        must = f"the attack must be set to the radius of {threat}"
        raise ValueError(message("attack", must, f"eps={eps:g}", "Give both the same"))
    norm = _norm_of(attack)
    if norm is not None and norm != threat.norm:
        must, got = f"the attack must be made for the norm of {threat}", f"{type(attack).__name__}, for {norm}"
        raise ValueError(message("attack", must, got, "Choose another attack"))
    mode = "targeted(label)" if targeted else "default"
    if attack.attack_mode != mode:
        advice = "Call its set_mode_targeted_by_label() and pass targets with targeted=True, or set_mode_default()"
        must = f"targeted={targeted} must be what the attack is set to, {mode!r}"
        raise ValueError(message("attack", must, repr(attack.attack_mode), advice))


def _norm_of(attack: Any) -> str | None:
    """The norm of a torchattacks object: its own word, its name's, or linf where it has a radius."""
    kind = type(attack).__name__
    if getattr(attack, "norm", None):
        return str(attack.norm).lower()
    if "L2" in kind or kind in ("CW", "DeepFool"):
        return "l2"
    return "linf" if hasattr(attack, "eps") else None


def _check_foolbox(attack: Any, threat: ThreatModel, targeted: bool) -> None:
    """Foolbox' objects take the radius with each call, but their norm is their own."""
    if targeted and "DeepFool" in type(attack).__name__:  # it stops at the target, but does not aim at it
        got, advice = f"{type(attack).__name__} and targeted=True", "Choose another attack"
        raise ValueError(message("attack", "the attack must be able to approach targets", got, advice))
    norm = getattr(getattr(attack, "distance", None), "p", None)
    if norm is not None and norm != {"linf": math.inf, "l2": 2}[threat.norm]:
        must = f"the attack must be made for the norm of {threat}"
        raise ValueError(message("attack", must, f"{type(attack).__name__}, for l{norm:g}", "Choose another attack"))


def _foolbox(
    attack: Any, net: nn.Module, x: Images, y: Int[Tensor, " b"], threat: ThreatModel, targeted: bool
) -> Images:
    """The images that a Foolbox attack moved, cut to the ball and to the pixels' range by itself."""
    library = sys.modules["foolbox"]
    model = library.PyTorchModel(net, bounds=(0, 1), device=x.device)
    wanted = library.criteria.TargetedMisclassification(y) if targeted else library.criteria.Misclassification(y)
    try:
        return attack(model, x, wanted, epsilons=threat.eps)[1]
    except ValueError as error:  # of criteria and settings that the attack does not take
        must, got = f"Foolbox must accept {type(attack).__name__} with targeted={targeted}", f"{error}"
        raise ValueError(message("attack", must, got, "Choose another attack")) from error
