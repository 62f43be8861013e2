"""Noises for randomised smoothing: how each is drawn, and what it certifies in ℓ1, ℓ2 and ℓ∞.

If the smoothed network answers a class with probability p > 1/2 under noise, how far may the input be moved, at least,
before another class could win? Each noise knows that for one norm. A ball of another norm lies inside a ball of that
one: with d pixels, ‖δ‖₁ ≤ √d ‖δ‖₂ ≤ d ‖δ‖_∞ and ‖δ‖_∞ ≤ ‖δ‖₂ ≤ ‖δ‖₁.

Sources: Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918 (Gaussian); Teng et al. 2020 (Laplace, ℓ1); Yang et al. 2020,
arXiv 2002.08118 (uniform, and the exponential of ℓ∞); Zhang et al. 2020, arXiv 2002.09169 (`k`).
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import fraction
from repsim._common.messages import did_you_mean, message

#: The largest scale that is taken for one in pixels of [0, 1], and not in grey levels.
MOST_NOISE = 5.0

#: Norms of threats, and their p.
NORMS = {"l1": 1.0, "l2": 2.0, "linf": math.inf}

#: Of the quadrature for noises without a closed form: nodes, halvings of an interval, radii up to the furthest in units
#: of σ, and what is added to the probability that a radius needs, above the error of the nodes.
_NODES, _HALVINGS, _RADII, _FAR, _SLACK = 200, 40, 200, 4.0, 5e-6


@dataclass(frozen=True)
class Noise(ABC):
    """A kind of noise, of density proportional to a function of one norm.

    Args:
        scale: In pixel units of [0, 1]; what it scales is said by each.
    """

    scale: float

    name: ClassVar[str]
    norm: ClassVar[str]  # of which `own_radius` speaks

    @abstractmethod
    def draw_(self, out: Float[Tensor, "b c h w"], generator: torch.Generator) -> Tensor:
        """Noise in place of what `out` holds."""

    @abstractmethod
    def own_radius(self, p: Float[np.ndarray, " m"], pixels: int) -> Float[np.ndarray, " m"]:
        """Certified radius in the noise's own norm, for lower bounds p ≥ 1/2 of the class's probability."""

    def radius(self, p: Float[np.ndarray, " m"], threat: str, pixels: int) -> Float[np.ndarray, " m"]:
        """Certified radius in pixel units of [0, 1].

        Args:
            p: Lower bounds of the probability of the class; below 1/2 nothing is certified.
            threat: "l1", "l2" or "linf".
            pixels: Numbers per image, channels counted.
        """
        shrink = max(0.0, 1 / NORMS[self.norm] - 1 / NORMS[threat])
        return self.own_radius(np.maximum(p, 0.5), pixels) / pixels**shrink

    def __str__(self) -> str:
        return f"{self.name}:{self.scale:g}"


@dataclass(frozen=True)
class Gaussian(Noise):
    """Independent normal numbers of deviation σ; R = σΦ⁻¹(p).

    Args:
        scale: σ.
        k: Exponent of Zhang et al.'s family ‖z‖₂^−k exp(−‖z‖₂² / 2σ²), an integer from 0 to d − 1; larger ones spread
            the length of the noise. Its radius is found by quadrature.
    """

    k: int = 0

    name: ClassVar[str] = "gaussian"
    norm: ClassVar[str] = "l2"

    def draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        out.normal_(generator=generator)
        if self.k:
            shape, pixels = (len(out), *(1,) * (out.ndim - 1)), out[0].numel()
            length = torch.empty(len(out), pixels - self.k, device=out.device).normal_(generator=generator).norm(dim=1)
            out.mul_((length / out.flatten(1).norm(dim=1)).view(shape))
        return out.mul_(self.scale)

    def own_radius(self, p: Float[np.ndarray, " m"], pixels: int) -> Float[np.ndarray, " m"]:
        from scipy.stats import norm

        if not self.k:
            return self.scale * norm.ppf(p)
        if self.k >= pixels:
            must = f"k of a noise must be below the {pixels} numbers of an image"
            raise ValueError(message("certify", must, f"{self.k}", "Choose a smaller one"))
        radii, needed = _table(pixels, self.k)
        found = np.searchsorted(needed, p, side="right") - 1  # the largest radius that p reaches
        return self.scale * np.where(found >= 0, radii[np.maximum(found, 0)], 0.0)

    def __str__(self) -> str:
        return super().__str__() + (f":{self.k}" if self.k else "")


@dataclass(frozen=True)
class Laplace(Noise):
    """Independent numbers of density ∝ exp(−|z| / b); R = −b ln(2(1 − p)) in ℓ1. `scale` is b."""

    name: ClassVar[str] = "laplace"
    norm: ClassVar[str] = "l1"

    def draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        out.uniform_(-1, 1, generator=generator)
        return out.copy_(-self.scale * out.sign() * torch.log1p(-out.abs().clamp_max(1 - 2**-24)))

    def own_radius(self, p: Float[np.ndarray, " m"], pixels: int) -> Float[np.ndarray, " m"]:
        return -self.scale * np.log(2 * (1 - p))


@dataclass(frozen=True)
class Uniform(Noise):
    """Independent numbers in [−λ, λ]; R = 2λ(p − 1/2) in ℓ1, and 2λ(1 − (3/2 − p)^(1/d)) in ℓ∞. `scale` is λ."""

    name: ClassVar[str] = "uniform"
    norm: ClassVar[str] = "l1"

    def draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        return out.uniform_(-self.scale, self.scale, generator=generator)

    def own_radius(self, p: Float[np.ndarray, " m"], pixels: int) -> Float[np.ndarray, " m"]:
        return 2 * self.scale * (p - 0.5)

    def radius(self, p: Float[np.ndarray, " m"], threat: str, pixels: int) -> Float[np.ndarray, " m"]:
        if threat == "linf":  # better than what follows from ℓ1
            return -2 * self.scale * np.expm1(np.log(1.5 - np.maximum(p, 0.5)) / pixels)
        return super().radius(p, threat, pixels)


@dataclass(frozen=True)
class Exponential(Noise):
    """Density ∝ exp(−‖z‖_∞ / λ); R = −λ ln(2(1 − p)) in ℓ∞. `scale` is λ; the largest number is about dλ."""

    name: ClassVar[str] = "exponential"
    norm: ClassVar[str] = "linf"

    def draw_(self, out: Tensor, generator: torch.Generator) -> Tensor:
        rows, pixels = len(out), out[0].numel()
        # Uniform on the surface of a cube, times a length of Gamma(d): the sum of d exponential numbers.
        length = torch.empty(rows, pixels, device=out.device).exponential_(generator=generator).sum(1, keepdim=True)
        face = torch.randint(pixels, (rows, 1), generator=generator, device=out.device)
        flat = out.uniform_(-1, 1, generator=generator).flatten(1)
        side = flat.gather(1, face).sign()
        flat = flat.scatter(1, face, torch.where(side == 0, 1, side)) * length * self.scale
        return out.copy_(flat.view_as(out))

    def own_radius(self, p: Float[np.ndarray, " m"], pixels: int) -> Float[np.ndarray, " m"]:
        return -self.scale * np.log(2 * (1 - p))


_KINDS: dict[str, type[Noise]] = {kind.name: kind for kind in (Gaussian, Laplace, Uniform, Exponential)}


def noise_of(noise: "float | str | Noise", function: str) -> Noise:
    """A noise, the one that its text means, or Gaussian noise of a deviation.

    Args:
        noise: As in 0.25, "gaussian:0.25", "gaussian:0.25:8" (σ and k), "laplace:0.2", "uniform:0.5" or
            "exponential:0.001".
        function: Who asks, for messages.

    Raises:
        ValueError: An unknown kind, or a scale that is no number.
    """
    if isinstance(noise, Noise):
        return noise
    if not isinstance(noise, str):
        return Gaussian(float(noise))
    name, _, rest = noise.partition(":")
    if name not in _KINDS:
        raise ValueError(message(function, "the noise must be known", repr(name), did_you_mean(name, _KINDS)))
    scale, _, k = rest.partition(":")
    try:
        return Gaussian(fraction(scale), int(k)) if k and name == "gaussian" else _KINDS[name](fraction(rest))
    except ValueError:
        advice = f'Write, say, "{name}:0.25"'
        raise ValueError(message(function, "a noise must be KIND:SCALE", repr(noise), advice)) from None


def check_norm(function: str, threat: str) -> None:
    """Refuses a norm that no noise speaks of."""
    if threat not in NORMS:
        raise ValueError(message(function, "threat must be l1, l2 or linf", repr(threat), "Choose one"))


@functools.lru_cache(maxsize=8)
def _table(pixels: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Radii in units of σ, and the probability that each needs, for the density ‖z‖₂^−k exp(−‖z‖₂² / 2).

    By the lemma of Neyman and Pearson the worst network answers the class where the ratio ρ(z) of the moved density to
    the density is smallest. It may go on until the moved noise has 1/2: as moving there and back are alike, up to
    1 / median(ρ), and the share of noise up to there is what is needed. Given the length of z, of a χ with d − k
    degrees of freedom, ρ falls with the distance from δ, hence with the cosine, whose distribution is known; what is
    left is an integral over lengths.
    """
    from scipy.special import betainc
    from scipy.stats import chi2

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    length = np.sqrt(chi2.ppf((nodes + 1) / 2, pixels - k))
    half = (pixels - 1) / 2

    def share(logs: np.ndarray, r: np.ndarray) -> np.ndarray:
        """P(ln ρ ≤ logs) for each radius."""
        total = length**2 + 2 * k * np.log(length) - 2 * logs[:, None]  # m + k ln m, m the moved length's square
        moved = total
        if k:
            u = np.minimum(np.log(np.maximum(total, 1)), total / k)
            for _ in range(12):  # Newton's from above, for a convex function
                u = u - (np.exp(u) + k * u - total) / (np.exp(u) + k)
            moved = np.exp(u)
        cosine = (length**2 + r[:, None] ** 2 - moved) / (2 * r[:, None] * length)
        return betainc(half, half, np.clip((1 + cosine) / 2, 0, 1)) @ weights / 2

    radii = np.linspace(0, _FAR, _RADII + 1)[1:]
    low, high = np.full(_RADII, -40.0), np.full(_RADII, 40.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = share(middle, radii) < 0.5
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return radii, np.maximum.accumulate(np.minimum(1, share(-low, radii) + _SLACK))
