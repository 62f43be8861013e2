"""The tetrachoric correlation: how far two classifiers' errors depend on each other, whatever their accuracies."""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

#: Nodes of the Gauss-Legendre rule for the integral over the angle.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)
#: Standard errors on each side that hold 95 % of a normal distribution.
_Z95 = 1.959963984540054


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
    known = (first > 0) & (first < 1) & (second > 0) & (second < 1)
    rho = np.full(both.shape, np.nan)
    low, high = rho.copy(), rho.copy()
    for at in np.argwhere(known):
        cell = tuple(at)
        rho[cell], low[cell], high[cell] = _one(float(both[cell]), float(first[cell]), float(second[cell]), n)
    return rho, low, high


def joint_tail(h: float, k: float, rho: np.ndarray) -> np.ndarray:
    """P(U > h, V > k) for each ρ in (-1, 1)."""
    angle = np.arcsin(rho)
    t = angle[..., None] * (_NODES + 1) / 2
    inner = np.exp(-(h * h - 2 * h * k * np.sin(t) + k * k) / (2 * np.cos(t) ** 2))
    return _tail(h) * _tail(k) + angle / 2 * (inner @ _WEIGHTS) / (2 * math.pi)


def _one(both: float, first: float, second: float, n: int) -> tuple[float, float, float]:
    cells = np.array([both, first - both, second - both, 1 - first - second + both])
    empty = cells * n < 1e-6
    if empty.any():
        # Without errors of one alone, or without rows that both get wrong (or right).
        value = 1.0 if empty[1] or empty[2] else -1.0
        moved = both + (0.5 / n if value < 0 else -0.5 / n)
        least, most = max(0.0, first + second - 1), min(first, second)
        if not least < moved < most:
            return value, math.nan, math.nan
        _, low, high = _one(moved, first, second, n)
        return (value, low, 1.0) if value > 0 else (value, -1.0, high)
    h, k = -_quantile(first), -_quantile(second)
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(joint_tail(h, k, np.array(middle))) < both:
            low = middle
        else:
            high = middle
    rho = (low + high) / 2
    rest = 1 - rho * rho
    w = math.sqrt(rest)
    density = math.exp(-(h * h - 2 * rho * h * k + k * k) / (2 * rest)) / (2 * math.pi * w)
    if density <= 0 or rest <= 0:
        return rho, math.nan, math.nan
    a, b = _below((rho * h - k) / w), _below((rho * k - h) / w)
    influence = np.array([1 - a - b, -a, -b, 0.0])
    variance = float(cells @ influence**2 - (cells @ influence) ** 2) / (n * density**2)
    half = _Z95 * math.sqrt(max(variance, 0.0)) / rest
    middle = math.atanh(rho)
    return rho, math.tanh(middle - half), math.tanh(middle + half)


def _tail(x: float) -> float:
    return math.erfc(x / math.sqrt(2)) / 2


def _below(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _quantile(p: float) -> float:
    return NormalDist().inv_cdf(p)
