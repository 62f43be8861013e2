"""Exact moments of ⟨K̃, L̃⟩ under all permutations of one side's samples, and p-values from them without permuting."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Skewness below which a normal distribution is as good as a gamma one.
_SYMMETRIC = 1e-6


@dataclass(frozen=True, eq=False)
class Traces:
    """What the moments need of kernels whose rows add up to 0, each of them (l,) float64.

    Attributes:
        t: tr K̃.
        t2: tr K̃².
        t3: tr K̃³.
        s2: Σ K̃_ii².
        s3: Σ K̃_ii³.
        u: Σ_ij K̃_ij³.
        r: Σ K̃_ii (K̃²)_ii.
        b: Σ_ij K̃_ii K̃_ij K̃_jj.
    """

    t: Float[Tensor, " l"]
    t2: Float[Tensor, " l"]
    t3: Float[Tensor, " l"]
    s2: Float[Tensor, " l"]
    s3: Float[Tensor, " l"]
    u: Float[Tensor, " l"]
    r: Float[Tensor, " l"]
    b: Float[Tensor, " l"]

    def among(self, index: Int[Tensor, " l"], count: int) -> "Traces":
        """The same in places of their own among `count` kernels, NaN in the others."""
        return Traces(*(x.new_full((count,), torch.nan).index_copy_(0, index, x) for x in self.columns))

    @property
    def columns(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.__dataclass_fields__]

    def of(self, which: slice) -> "Traces":
        """Those of some kernels."""
        return Traces(*(x[which] for x in self.columns))


def moments(x: Traces, y: Traces, n: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and skewness of Σ_ij K̃_ij L̃_π(i)π(j) over all permutations π of n >= 6 samples.

    Returns:
        (r, c) each, of every kernel of x with every kernel of y.

    Source:
        Kazi-Aoual, Hitier, Sabatier, Lebreton 1995, Comput. Stat. Data Anal. 20, as in Josse, Pagès, Husson 2008,
        Comput. Stat. Data Anal. 53.
    """
    n = float(n)  # n⁶ is too large for whole numbers
    tx, t2x, t3x, s2x, s3x, ux, rx, bx = (each[:, None] for each in x.columns)
    ty, t2y, t3y, s2y, s3y, uy, ry, by = (each[None] for each in y.columns)
    mean = tx * ty / (n - 1)
    variance = 2 * ((n - 1) * t2x - tx**2) * ((n - 1) * t2y - ty**2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    spread = [n * (n + 1) * s2 - (n - 1) * (t**2 + 2 * t2) for s2, t, t2 in ((s2x, tx, t2x), (s2y, ty, t2y))]
    variance = variance + spread[0] * spread[1] / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    total = (
        n**2 * (n + 1) * (n**2 + 15 * n - 4) * s3x * s3y
        + 4 * (n**4 - 8 * n**3 + 19 * n**2 - 4 * n - 16) * ux * uy
        + 24 * (n**2 - n - 4) * (ux * by + bx * uy)
        + 6 * (n**4 - 8 * n**3 + 21 * n**2 - 6 * n - 24) * bx * by
        + 12 * (n**4 - n**3 - 8 * n**2 + 36 * n - 48) * rx * ry
        + 12 * (n**3 - 2 * n**2 + 9 * n - 12) * (tx * s2x * ry + rx * ty * s2y)
        + 3 * (n**4 - 4 * n**3 - 2 * n**2 + 9 * n - 12) * tx * ty * s2x * s2y
        + 24 * (n**3 - 3 * n**2 - 2 * n + 8) * (rx * uy + ux * ry)
        + 24 * (n**3 - 2 * n**2 - 3 * n + 12) * (rx * by + bx * ry)
        + 12 * (n**2 - n + 4) * (tx * s2x * uy + ux * ty * s2y)
        + 6 * (2 * n**3 - 7 * n**2 - 3 * n + 12) * (tx * s2x * by + bx * ty * s2y)
        - 2 * n * (n - 1) * (n**2 - n + 4) * ((2 * ux + 3 * bx) * s3y + (2 * uy + 3 * by) * s3x)
        - 3 * n * (n - 1) ** 2 * (n + 4) * ((tx * s2x + 4 * rx) * s3y + (ty * s2y + 4 * ry) * s3x)
        + 2 * n * (n - 1) * (n - 2) * ((tx**3 + 6 * tx * t2x + 8 * t3x) * s3y + (ty**3 + 6 * ty * t2y + 8 * t3y) * s3x)
        + tx**3 * ((n**3 - 9 * n**2 + 23 * n - 14) * ty**3 + 6 * (n - 4) * ty * t2y + 8 * t3y)
        + 6 * tx * t2x * ((n - 4) * ty**3 + (n**3 - 9 * n**2 + 24 * n - 14) * ty * t2y + 4 * (n - 3) * t3y)
        + 8 * t3x * (ty**3 + 3 * (n - 3) * ty * t2y + (n**3 - 9 * n**2 + 26 * n - 22) * t3y)
        - 16 * (tx**3 * uy + ux * ty**3)
        - 6 * (tx * t2x * uy + ux * ty * t2y) * (2 * n**2 - 10 * n + 16)
        - 8 * (t3x * uy + ux * t3y) * (3 * n**2 - 15 * n + 16)
        - (tx**3 * by + bx * ty**3) * (6 * n**2 - 30 * n + 24)
        - 6 * (tx * t2x * by + bx * ty * t2y) * (4 * n**2 - 20 * n + 24)
        - 8 * (t3x * by + bx * t3y) * (3 * n**2 - 15 * n + 24)
        - (n - 2)
        * (
            24 * (tx**3 * ry + rx * ty**3)
            + 6 * (tx * t2x * ry + rx * ty * t2y) * (2 * n**2 - 10 * n + 24)
            + 8 * (t3x * ry + rx * t3y) * (3 * n**2 - 15 * n + 24)
            + (3 * n**2 - 15 * n + 6) * (tx**3 * ty * s2y + tx * s2x * ty**3)
            + 6 * (tx * t2x * ty * s2y + tx * s2x * ty * t2y) * (n**2 - 5 * n + 6)
            + 48 * (t3x * ty * s2y + tx * s2x * t3y)
        )
    )
    third = total / (n * (n - 1) * (n - 2) * (n - 3) * (n - 4) * (n - 5))
    central = third - 3 * mean * variance - mean**3
    return mean, variance, central / variance.clamp_min(0).pow(1.5)


def upper_tail(z: Float[Tensor, "r c"], skewness: Float[Tensor, "r c"]) -> Float[Tensor, "r c"]:
    """P(Z >= z) of a Pearson type III distribution: a gamma one, shifted and scaled to mean 0 and variance 1."""
    from scipy import special

    s, at = skewness.cpu().numpy(), z.cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        shape = 4 / s**2
        place = shape + 2 * at / s
        right = np.where(place > 0, special.gammaincc(shape, np.maximum(place, 0)), 1.0)
        left = np.where(place > 0, special.gammainc(shape, np.maximum(place, 0)), 0.0)
        tail = np.where(s > 0, right, left)
        tail = np.where(np.abs(s) < _SYMMETRIC, special.ndtr(-at), tail)
    tail = np.where(np.isnan(at) | np.isnan(s), np.nan, tail)
    return torch.from_numpy(tail).to(z.device)
