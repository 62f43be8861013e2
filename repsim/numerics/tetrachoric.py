"""The tetrachoric correlation: how far two classifiers' errors depend on each other, whatever their accuracies."""

import math

import numpy as np
from jaxtyping import Float
from scipy import special

#: Nodes of the Gauss-Legendre rule for the integral over the angle.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)
#: Standard errors on each side that hold 95 % of a normal distribution.
_Z95 = 1.959963984540054
#: Of the interval in which ρ lies.
_HALVINGS = 50


def tetrachoric(
    both: Float[np.ndarray, " m"], first: Float[np.ndarray, " m"], second: Float[np.ndarray, " m"], n: int
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Correlation of the latent normal variables of which two errors are the upper tails, with its 95 % interval.

    (U, V) is bivariate normal with correlation ρ, the first errs where U > h, the second where V > k. Three free cells
    and three parameters: the estimate fits the table, Φ(-h) = first, Φ(-k) = second, and ρ solves

        P(U > h, V > k) = Φ(-h) Φ(-k) + ∫₀^asin ρ exp(-(h² - 2hk sin t + k²) / (2 cos² t)) dt / 2π = both.

    The interval is that of atanh ρ by the delta method, and covers the choice of the n rows alone.

    Args:
        both: Shares of rows that both get wrong.
        first: That the first gets wrong.
        second: That the second gets wrong.
        n: Rows.

    Returns:
        ρ, and the interval's ends. NaN where one makes no error, or nothing else: no dependence can be seen. An empty
        cell puts ρ at -1 or 1, and then the interval has no end but that of the same table with half a row in the
        empty cell, moved from its neighbours so that the margins stay.

    Source:
        Pearson 1900; the standard error: Brown 1977, Appl. Stat. 26.
    """
    both, first, second = (np.asarray(x, dtype=np.float64) for x in (both, first, second))
    rho = np.full(both.shape, np.nan)
    low, high = rho.copy(), rho.copy()
    cells = np.stack([both, first - both, second - both, 1 - first - second + both])
    known = (first > 0) & (first < 1) & (second > 0) & (second < 1)
    empty = cells * n < 1e-6
    alike, unlike = known & (empty[1] | empty[2]), known & (empty[0] | empty[3])
    inner = known & ~alike & ~unlike
    rho[inner], low[inner], high[inner] = _inner(both[inner], first[inner], second[inner], n)
    for where, value, by in ((alike, 1.0, -0.5), (unlike & ~alike, -1.0, 0.5)):
        rho[where] = value
        moved = both + by / n
        room = where & (moved > np.maximum(0, first + second - 1)) & (moved < np.minimum(first, second))
        _, least, most = _inner(moved[room], first[room], second[room], n)
        low[room], high[room] = (least, 1.0) if value > 0 else (-1.0, most)
    return rho, low, high


def joint_tail(h: np.ndarray, k: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """P(U > h, V > k) for each ρ in (-1, 1)."""
    angle, h, k = np.arcsin(rho), np.asarray(h)[..., None], np.asarray(k)[..., None]
    t = angle[..., None] * (_NODES + 1) / 2
    inner = np.exp(-(h * h - 2 * h * k * np.sin(t) + k * k) / (2 * np.cos(t) ** 2))
    independent = special.ndtr(-h[..., 0]) * special.ndtr(-k[..., 0])
    return independent + angle / 2 * (inner @ _WEIGHTS) / (2 * math.pi)


def _inner(
    both: np.ndarray, first: np.ndarray, second: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables without an empty cell."""
    h, k = -special.ndtri(first), -special.ndtri(second)
    low, high = np.full_like(both, -1.0), np.full_like(both, 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = joint_tail(h, k, middle) < both
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    rho = (low + high) / 2
    rest = 1 - rho * rho
    w = np.sqrt(rest)
    density = np.exp(-(h * h - 2 * rho * h * k + k * k) / (2 * rest)) / (2 * math.pi * w)
    a, b = special.ndtr((rho * h - k) / w), special.ndtr((rho * k - h) / w)
    mean = both - a * first - b * second
    square = both * (1 - a - b) ** 2 + (first - both) * a * a + (second - both) * b * b
    half = _Z95 * np.sqrt(np.maximum(square - mean * mean, 0) / n) / density / rest
    centre = np.arctanh(rho)
    return rho, np.tanh(centre - half), np.tanh(centre + half)
