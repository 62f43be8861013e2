"""Adversarial inputs: a threat model, and projected gradient descent inside it. Pixels are in [0, 1]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._checks import message

Images = Float[Tensor, "b c h w"]


@dataclass(frozen=True)
class ThreatModel:
    """How far an input may be moved: a ball around it, cut to [0, 1].

    Args:
        norm: "linf", the largest change of a pixel, or "l2", the Euclidean length of the change.
        eps: The ball's radius in pixel units of [0, 1], as in 8/255.
    """

    norm: Literal["linf", "l2"]
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(message("ThreatModel", "norm must be linf or l2", repr(self.norm), "Choose one"))
        limit = 1.0 if self.norm == "linf" else float("inf")
        if not 0 <= self.eps <= limit:
            advice = "Pixels are in [0, 1]: write 8/255 where you mean 8 of 255 grey levels"
            raise ValueError(
                message("ThreatModel", f"eps of {self.norm} must be >= 0 and <= {limit:g}", f"{self.eps}", advice)
            )

    def project(self, delta: Images) -> Images:
        """The nearest change inside the ball."""
        if self.norm == "linf":
            return delta.clamp(-self.eps, self.eps)
        return delta * (self.eps / _length(delta).clamp_min(1e-12)).clamp_max(1)

    def ascend(self, delta: Images, gradient: Images, step: float) -> Images:
        """One step of steepest ascent of length `step` in this norm, back inside the ball."""
        way = gradient.sign() if self.norm == "linf" else gradient / _length(gradient).clamp_min(1e-12)
        return self.project(delta + step * way)

    def start(self, x: Images, generator: torch.Generator) -> Images:
        """A random change inside the ball (uniform in linf; in l2 a random direction, radius uniform in volume)."""
        if self.norm == "linf":
            return (torch.rand(x.shape, generator=generator) * 2 - 1).to(x) * self.eps
        way = torch.randn(x.shape, generator=generator).to(x)
        radius = torch.rand(len(x), 1, 1, 1, generator=generator).to(x) ** (1 / x[0].numel())
        return way / _length(way) * radius * self.eps


def pgd(
    net: nn.Module,
    x: Images,
    y: Int[Tensor, " b"],
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float,
    generator: torch.Generator,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Images:
    """Projected gradient ascent on the loss, from a random start inside the ball.

    The network's mode is left as it is (put it into eval mode for evaluation), and its parameters get no
    gradient.

    Args:
        net: Takes pixels in [0, 1], gives logits (b, k).
        x: Inputs.
        y: Their labels.
        threat: The ball.
        steps: Gradient evaluations; 0 gives the random start.
        step_size: Length of a step in the ball's norm, in pixel units.
        generator: Of the random start, on the CPU.
        loss: (logits, y) -> scalar to raise; None is the sum of cross-entropies.

    Returns:
        Inputs inside the ball around x and inside [0, 1], detached.

    Source:
        Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv 1706.06083.
    """
    low, high = (float(v) for v in x.detach().aminmax())
    if not (low >= 0 and high <= 1):
        advice = "Attack pixels; normalisation belongs inside the network"
        raise ValueError(message("pgd", "images must lie in [0, 1]", f"[{low:g}, {high:g}]", advice))
    loss = loss or (lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"))
    delta = (x + threat.start(x, generator)).clamp(0, 1) - x
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(net(x + delta), y), delta)
        if not bool(torch.isfinite(gradient).all()):
            advice = "Look for a diverged network"
            raise RuntimeError(message("pgd", "the loss must have a finite gradient", "NaN or infinity", advice))
        delta = (x + threat.ascend(delta.detach(), gradient, step_size)).clamp(0, 1) - x
    adversarial = (x + delta.detach()).clamp(0, 1)
    size = (adversarial - x).abs().amax() if threat.norm == "linf" else _length(adversarial - x).amax()
    if float(size) > threat.eps + 1e-5:
        raise RuntimeError(
            message("pgd", f"the change must stay within {threat.eps:g}", f"{float(size):g}", "Report this")
        )
    return adversarial


def _length(delta: Images) -> Float[Tensor, "b 1 1 1"]:
    return delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
