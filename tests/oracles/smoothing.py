"""Certificates by exact binomial sums and bisection, with the standard library alone."""

import math
from fractions import Fraction
from statistics import NormalDist


def upper_tail(k: int, n: int, p: float) -> float:
    """P(at least k of n), each with probability p; sums of logarithms, so that no term overflows."""
    if k <= 0:
        return 1.0
    if p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k, n + 1)]
    terms = [c + i * math.log(p) + (n - i) * math.log1p(-p) for i, c in zip(range(k, n + 1), logs, strict=True)]
    return math.fsum(math.exp(t) for t in terms)


def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """The p at which k or more of n have probability alpha: any smaller one would make what was seen rarer."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(k, n, middle) < alpha else (low, middle)
    return low


def radius(k: int, n: int, alpha: float, sigma: float) -> float:
    """σΦ⁻¹ of that bound; 0, which stands for no certificate, where the bound is not above 1/2."""
    p = clopper_pearson_lower(k, n, alpha)
    return sigma * NormalDist().inv_cdf(p) if p > 0.5 else 0.0


def two_sided_p(a: int, b: int) -> float:
    """Of a fair coin that fell a and b times: both tails as far out, in whole numbers."""
    n, least = a + b, min(a, b)
    tail = Fraction(sum(math.comb(n, i) for i in range(least + 1)), 2**n)
    return float(min(Fraction(1), 2 * tail))


def average_certified_radius(predicted: list[int], radii: list[float], labels: list[int]) -> float:
    """Mean over all images of the radius where the certified class is right, else 0."""
    return sum(r if c == y else 0.0 for c, r, y in zip(predicted, radii, labels, strict=True)) / len(labels)
