"""CKA and RSA with the similarities of a third regressed out, entry by entry, as the definition has it."""

import numpy as np
import scipy.stats

from tests.oracles import centred
from tests.oracles.cka import hsic1


def gram(x: np.ndarray) -> np.ndarray:
    x = centred(x)
    x = x / np.linalg.norm(x)
    return x @ x.T


def residual(target: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What ordinary least squares on [1, other] leaves."""
    design = np.column_stack([np.ones(other.size), other.ravel()])
    weights = np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    return (target.ravel() - design @ weights).reshape(target.shape)


def cka(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """All n² entries of the Gram matrices, diagonal included; residuals centred on both sides."""
    n = len(x)
    h = np.eye(n) - 1 / n
    a, b = (h @ residual(gram(side), gram(z)) @ h for side in (x, y))
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def debiased_cka(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """The partial form of three ratios of unbiased HSICs."""

    def ratio(u: np.ndarray, v: np.ndarray) -> float:
        k, l = gram(u), gram(v)
        return hsic1(k, l) / float(np.sqrt(hsic1(k, k) * hsic1(l, l)))

    a, b, c = ratio(x, y), ratio(x, z), ratio(y, z)
    return (a - b * c) / float(np.sqrt((1 - b**2) * (1 - c**2)))


def rsa(x: np.ndarray, y: np.ndarray, z: np.ndarray, comparison: str) -> float:
    """Euclidean distances of all pairs, ranked first where ranks are compared; the correlation of the residuals."""
    i, j = np.triu_indices(len(x), 1)
    lists = [np.linalg.norm(np.asarray(s, dtype=float)[i] - np.asarray(s, dtype=float)[j], axis=1) for s in (x, y, z)]
    if comparison == "spearman":
        lists = [scipy.stats.rankdata(d) for d in lists]
    a, b = (residual(d, lists[2]) for d in lists[:2])
    return float(np.corrcoef(a, b)[0, 1])
