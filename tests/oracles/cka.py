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


def rbf(x: np.ndarray, bandwidth: float = 1.0) -> np.ndarray:
    """exp(-‖x - y‖² / 2σ²) with σ a multiple of the median distance over pairs, from differences."""
    x = np.asarray(x, dtype=np.float64)
    distances = np.array([np.linalg.norm(x - row, axis=1) for row in x])
    sigma = bandwidth * np.median(distances[np.triu_indices(len(x), 1)])
    return np.exp(-((distances / sigma) ** 2) / 2)


def rbf_biased(x: np.ndarray, y: np.ndarray, bandwidth: float = 1.0) -> float:
    """The cosine of the two doubly centred kernel matrices."""
    h = np.eye(len(x)) - np.full((len(x), len(x)), 1 / len(x))
    k, l = (h @ rbf(z, bandwidth) @ h for z in (x, y))
    return float(np.trace(k @ l) / np.sqrt(np.trace(k @ k) * np.trace(l @ l)))


def rbf_debiased(x: np.ndarray, y: np.ndarray, bandwidth: float = 1.0) -> float:
    """The ratio of three unbiased estimates, which a_i + a_j in the kernel leaves alone: rows are brought to mean 0."""
    h = np.eye(len(x)) - np.full((len(x), len(x)), 1 / len(x))
    k, l = (h @ rbf(z, bandwidth) @ h for z in (x, y))
    return hsic1(k, l) / float(np.sqrt(hsic1(k, k) * hsic1(l, l)))


def weighted(k: np.ndarray, l: np.ndarray, weights: np.ndarray, *, self_pairs: bool) -> float:
    """CKA of two kernel matrices whose samples count `weights` times: what no a_i + a_j explains, by least squares.

    Pairs of different samples weigh w_i w_j; pairs of a sample with itself w_i, or nothing.
    """
    n = len(k)
    pairs = [(i, j) for i in range(n) for j in range(n) if weights[i] * weights[j] > 0 and (i != j or self_pairs)]
    root = np.sqrt([weights[i] * weights[j] if i != j else weights[i] for i, j in pairs])
    design = np.zeros((len(pairs), n))
    for row, (i, j) in enumerate(pairs):
        design[row, i] += root[row]
        design[row, j] += root[row]
    left = []
    for kernel in (k, l):
        values = root * np.array([kernel[i, j] for i, j in pairs])
        left.append(values - design @ np.linalg.lstsq(design, values, rcond=1e-12)[0])
    u, v = left
    return float(u @ v / np.sqrt((u @ u) * (v @ v)))


def without_components(x: np.ndarray, count: int) -> np.ndarray:
    """Centred features less their leading singular triplets."""
    u, s, vt = np.linalg.svd(centred(x), full_matrices=False)
    s[:count] = 0
    return (u * s) @ vt


def largest_rows(layers: list[np.ndarray], count: int) -> np.ndarray:
    """The rows with the largest mean share of a layer's squared norm."""
    share = np.zeros(len(layers[0]))
    for x in layers:
        squares = (centred(x) ** 2).sum(axis=1)
        share += squares / squares.sum()
    return np.sort(np.argsort(-share, kind="stable")[:count])


def participation(x: np.ndarray) -> float:
    """(Σλ)² / Σλ² of the covariance's eigenvalues."""
    values = np.linalg.svd(centred(x), compute_uv=False) ** 2
    return float(values.sum() ** 2 / (values**2).sum())


#: Measure -> its value for two layers, the labels and its settings; `tests/metrics/test_oracles.py` reads these tables.
MEASURES = {
    "cka": lambda x, y, labels, metric: debiased(x, y),
    "cka_biased": lambda x, y, labels, metric: biased(x, y),
    "cka_rbf": lambda x, y, labels, metric: rbf_debiased(x, y, metric.bandwidth),
}
