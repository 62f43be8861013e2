"""Centred kernel alignment from explicit n × n Gram matrices."""

import numpy as np

from tests.oracles import centred


def gram(x: np.ndarray) -> np.ndarray:
    """The centred Gram matrix H X Xᵀ H."""
    n = len(x)
    h = np.eye(n) - np.full((n, n), 1 / n)
    x = centred(x)
    return h @ (x @ x.T) @ h


def biased(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al. 2019: the cosine of the two centred Gram matrices."""
    k, l = gram(x), gram(y)
    return float(np.trace(k @ l) / np.sqrt(np.trace(k @ k) * np.trace(l @ l)))


def hsic1(k: np.ndarray, l: np.ndarray) -> float:
    """Song et al. 2012, equation 5: the unbiased estimate of HSIC from two Gram matrices."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    one = np.ones(n)
    trace = np.trace(k @ l)
    totals = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    mixed = 2 / (n - 2) * (one @ k @ l @ one)
    return float((trace + totals - mixed) / (n * (n - 3)))


def debiased(x: np.ndarray, y: np.ndarray) -> float:
    """The ratio of three unbiased estimates."""
    k, l = gram(x), gram(y)
    return hsic1(k, l) / float(np.sqrt(hsic1(k, k) * hsic1(l, l)))
