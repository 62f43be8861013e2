"""Representational similarity analysis from explicit loops over pairs of samples."""

import itertools

import numpy as np
from scipy.stats import rankdata


def distance(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    """The distance of two rows."""
    if kind == "correlation":
        a, b = a - a[0], b - b[0]  # r knows no level; without it rounding is at the size of the differences
        a, b = a - a.mean(), b - b.mean()
    if kind in ("correlation", "cosine"):
        a, b = (z / np.abs(z).max() for z in (a, b))
        a, b = (z / np.sqrt((z**2).sum()) for z in (a, b))
        return float(((a - b) ** 2).sum() / 2)  # 1 - cos, without its cancellation
    squared = float(((a - b) ** 2).sum())
    return squared if kind == "sqeuclidean" else float(np.sqrt(squared))


def rdm(x: np.ndarray, kind: str) -> np.ndarray:
    """The strict upper triangle of the dissimilarity matrix, row by row."""
    x = np.asarray(x, dtype=np.float64)
    x = x / (np.abs(x).max() or 1)
    return np.array([distance(x[i], x[j], kind) for i, j in itertools.combinations(range(len(x)), 2)])


def vector(x: np.ndarray, kind: str, comparison: str) -> np.ndarray:
    """What is compared: distances, or their ranks with equal distances (to 10 digits) at their mean."""
    found = rdm(x, kind)
    return rankdata([float(f"{d:.10e}") if d > 1e-30 else 0.0 for d in found]) if comparison == "spearman" else found


def compared(a: np.ndarray, b: np.ndarray, comparison: str) -> float:
    """Pearson's correlation or the cosine of two lists of numbers."""
    if comparison != "cosine":
        a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def rsa(x: np.ndarray, y: np.ndarray, kind: str, comparison: str) -> float:
    """Kriegeskorte et al. 2008."""
    return compared(vector(x, kind, comparison), vector(y, kind, comparison), comparison)


def resampled(x: np.ndarray, y: np.ndarray, counts: np.ndarray, kind: str, comparison: str) -> float:
    """The same where each pair of samples is listed as often as it can be drawn, with the ranks of the full sample."""
    times = [int(counts[i] * counts[j]) for i, j in itertools.combinations(range(len(x)), 2)]
    a, b = (np.repeat(vector(z, kind, comparison), times) for z in (x, y))
    return compared(a, b, comparison)


MEASURES = {"rsa": lambda x, y, labels, metric: rsa(x, y, metric.distance, metric.comparison)}
