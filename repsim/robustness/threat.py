"""How far an input may be moved: `ThreatModel`. Pixels are in [0, 1]."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import fraction
from repsim._common.messages import InternalError, message
from repsim.data.image_set import Images

#: Where random starts come from: one generator for all images, or one per image.
Randomness = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class ThreatModel:
    """How far an input may be moved: a ball around it, cut to [0, 1].

    Its text form, as in "linf:8/255" or "l2:0.5", is what `str` gives and `parse` reads.

    Args:
        norm: "linf", the largest change of a pixel, or "l2", the Euclidean length of an image's change.
        eps: The ball's radius in pixel units of [0, 1], as in 8/255.

    Raises:
        ValueError: Another norm, a radius that is negative or no number, an linf radius above 1.
    """

    norm: Literal["linf", "l2"]
    eps: float

    def __post_init__(self) -> None:
        if isinstance(self.eps, bool) or not isinstance(self.eps, Real):
            advice = 'Write 8/255, or parse a text: ThreatModel.parse("linf:8/255")'
            raise TypeError(message("ThreatModel", "eps must be a number", repr(self.eps), advice))
        object.__setattr__(self, "eps", float(self.eps))  # NumPy's numbers have another text
        if self.norm not in ("linf", "l2"):
            raise ValueError(message("ThreatModel", "norm must be linf or l2", repr(self.norm), "Choose one"))
        if not 0 <= self.eps < math.inf:
            advice = "Write the radius in pixels of [0, 1], as in 8/255"
            raise ValueError(message("ThreatModel", "eps must be finite and >= 0", f"{self.eps:g}", advice))
        if self.norm == "linf" and self.eps > 1:
            advice = f"Pixels are in [0, 1]: write {self.eps:g}/255 where you mean {self.eps:g} of 255 grey levels"
            raise ValueError(message("ThreatModel", "eps of linf must be at most 1", f"{self.eps:g}", advice))

    @classmethod
    def parse(cls, text: str) -> "ThreatModel":
        """The threat model that a text means, as in "linf:8/255" or "l2:0.5".

        Raises:
            ValueError: Another norm, a radius that is no number or out of range.
        """
        norm, _, radius = (part.strip() for part in text.partition(":"))
        try:
            eps = fraction(radius)
        except ValueError:
            advice = 'Write, say, "linf:8/255" or "l2:0.5"'
            raise ValueError(message("ThreatModel", "text must be NORM:EPS", repr(text), advice)) from None
        return cls(norm, eps)  # type: ignore[arg-type]

    @classmethod
    def of(cls, threat: object, function: str) -> "ThreatModel":
        """A threat model, or the one that its text means.

        Args:
            threat: Either.
            function: Who asks, for messages.

        Raises:
            TypeError: Anything else.
            ValueError: As for `parse`.
        """
        if isinstance(threat, str):
            return cls.parse(threat)
        if not isinstance(threat, ThreatModel):
            advice = 'Pass, say, "linf:8/255" or ThreatModel("l2", 0.5)'
            raise TypeError(message(function, "threat must be a ThreatModel or its text", repr(threat), advice))
        return threat

    def __str__(self) -> str:
        levels = round(self.eps * 255)
        shorter = levels > 0 and levels / 255 == self.eps and len(f"{levels}/255") < len(repr(self.eps))
        return f"{self.norm}:{f'{levels}/255' if shorter else repr(self.eps)}"

    def check(self, x: Images, function: str) -> None:
        """Images must be pixels of [0, 1], and the ball must be smaller than the range of pixels.

        Args:
            x: What shall be attacked.
            function: Who asks, for messages.

        Raises:
            ValueError: Another shape or range, an l2 radius beyond √(pixels of an image).
        """
        if x.ndim != 4 or not x.is_floating_point() or len(x) == 0:
            got = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
            advice = "Pass data.pixels(rows) of an ImageSet"
            raise ValueError(message(function, "images must be (b, c, h, w), floating point", got, advice))
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= 0 and high <= 1):
            advice = "Attack pixels; normalisation belongs inside the network"
            raise ValueError(message(function, "images must lie in [0, 1]", f"[{low:g}, {high:g}]", advice))
        if self.norm == "l2" and self.eps > math.sqrt(x[0].numel()):
            must = f"eps of l2 must be at most √(pixels) = {math.sqrt(x[0].numel()):.4g} for images of {x[0].numel()}"
            advice = "No two images are further apart; write the radius in pixels of [0, 1], as in 0.5"
            raise ValueError(message(function, must, f"{self.eps:g}", advice))

    def project(self, delta: Images) -> Images:
        """The nearest change inside the ball."""
        if self.norm == "linf":
            return delta.clamp(-self.eps, self.eps)
        length = lengths(delta)
        return delta * torch.where(length > self.eps, self.eps / length, 1).to(delta)

    def ascend(self, delta: Images, gradient: Images, step: float) -> Images:
        """One step of steepest ascent of length `step` in this norm, back inside the ball."""
        way = gradient.sign() if self.norm == "linf" else _direction(gradient)
        return self.project(delta + step * way)

    def start(self, x: Images, generator: Randomness) -> Images:
        """A random change inside the ball (uniform in linf; in l2 a random direction, radius uniform in volume)."""
        if self.norm == "linf":
            return (_draw(torch.rand, x.shape, generator) * 2 - 1).to(x) * self.eps
        way = _draw(torch.randn, x.shape, generator).to(x)
        radius = _draw(torch.rand, torch.Size((len(x), 1, 1, 1)), generator).to(x) ** (1 / x[0].numel())
        return _direction(way) * radius * self.eps


def check_inside(x: Images, found: object, threat: ThreatModel, function: str, advice: str | None) -> Images:
    """What an attack returned must be the images' like, inside the ball up to rounding, and inside [0, 1].

    Args:
        x: The images it was asked to move.
        found: What it returned.
        threat: The ball.
        function: Who asks, for messages.
        advice: What to do where it left the ball; None where the attack is ours, so that leaving it is our fault.

    Returns:
        `found`, detached.

    Raises:
        TypeError: No tensor.
        ValueError: Another shape or type, NaN, outside the ball or outside [0, 1].
    """
    if not isinstance(found, Tensor):
        do = "Return the images alone, as in lambda net, x, y: attack(net, x, y)[1] for (raw, clipped, success)"
        raise TypeError(message(function, "an attack must return the moved images", type(found).__name__, do))
    if found.shape != x.shape or found.dtype != x.dtype or found.device != x.device:
        kind, other = (f"{str(t.dtype).removeprefix('torch.')} of {tuple(t.shape)} on {t.device}" for t in (x, found))
        raise ValueError(message(function, f"the moved images must be {kind}", other, "Return what was passed, moved"))
    found = found.detach()
    low, high = (float(v) for v in found.aminmax())
    if not (low >= 0 and high <= 1):
        do = "Clamp at the end of the attack"
        raise ValueError(message(function, "moved images must lie in [0, 1]", f"[{low:g}, {high:g}]", do))
    change = found.double() - x.double()
    size = float(change.abs().amax() if threat.norm == "linf" else lengths(change).amax())
    # x + delta is rounded pixel by pixel to the images' type, whose steps below 1 are at most half its epsilon;
    # so are the change it came from and the factor that brought that onto the sphere.
    step = torch.finfo(x.dtype).eps
    rounding = 2 * step if threat.norm == "linf" else 2 * step * (math.sqrt(x[0].numel()) + threat.eps)
    if size > threat.eps + rounding:
        must = f"the change must stay within {threat}"
        if advice is None:
            raise InternalError(message(function, must, f"{size:.6g}", "Report this"))
        raise ValueError(message(function, must, f"{size:.6g}", advice))
    return found


def lengths(delta: Images) -> Float[Tensor, "b 1 1 1"]:
    """The Euclidean length of each image's change, summed in float64."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64).view(-1, 1, 1, 1)


def _direction(gradient: Images) -> Images:
    """The gradient with length 1, or 0 where it is 0."""
    # Gradients of a confident network are tiny, so they are brought to size 1 before anything is squared.
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return torch.where(largest > 0, scaled / torch.where(largest > 0, lengths(scaled), 1).to(scaled), 0)


def _draw(distribution: Callable[..., Tensor], shape: torch.Size, generator: Randomness) -> Tensor:
    """Random numbers, drawn on the CPU so that every device starts from the same ones."""
    if isinstance(generator, torch.Generator):
        return distribution(shape, generator=generator)
    return torch.stack([distribution(shape[1:], generator=each) for each in generator])
