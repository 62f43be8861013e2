"""Distance correlation and RSM norms from explicit n × n matrices, and eigenspace overlap from explicit bases."""

import numpy as np
import scipy.linalg


def distances(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])


def double_centred(a: np.ndarray) -> np.ndarray:
    return a - a.mean(axis=0) - a.mean(axis=1)[:, None] + a.mean()


def u_centred(a: np.ndarray) -> np.ndarray:
    n = len(a)
    found = a - a.sum(axis=1)[:, None] / (n - 2) - a.sum(axis=0) / (n - 2) + a.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(found, 0)
    return found


def distance_correlation(x: np.ndarray, y: np.ndarray, *, debiased: bool = False) -> float:
    """Székely, Rizzo, Bakirov 2007; debiased: R* of Székely and Rizzo 2013."""
    a, b = (distances(z) for z in (x, y))
    if debiased:
        a, b = u_centred(a), u_centred(b)
        return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    a, b = double_centred(a), double_centred(b)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


def rsm_norm_difference(x: np.ndarray, y: np.ndarray, scaling: str = "norm", norm: str = "frobenius") -> float:
    a, b = (distances(z) for z in (x, y))
    if scaling != "none":
        a, b = (z / (np.linalg.norm(z) if scaling == "norm" else z.mean()) for z in (a, b))
    return float(np.linalg.norm(a - b, "fro" if norm == "frobenius" else 2))


def weighted_rsm_norm_difference(x: np.ndarray, y: np.ndarray, counts: np.ndarray, scaling: str) -> float:
    """Pairs of samples weigh w_i w_j."""
    w = np.outer(counts, counts).astype(float)
    a, b = (distances(z) for z in (x, y))
    if scaling == "norm":
        a, b = (z / np.sqrt((w * z**2).sum()) for z in (a, b))
    if scaling == "mean":
        a, b = (z / ((w * z).sum() / w.sum()) for z in (a, b))
    return float(np.sqrt((w * (a - b) ** 2).sum()))


def eigenspace_overlap(x: np.ndarray, y: np.ndarray, *, center: bool = False, divisor: str = "rank") -> float:
    """‖UᵀV‖² / max(p, q)."""
    x, y = (np.asarray(z, dtype=np.float64) for z in (x, y))
    x, y = (z - z.mean(axis=0) for z in (x, y)) if center else (x, y)
    u, v = (scipy.linalg.orth(z / np.abs(z).max(), rcond=1e-10) for z in (x, y))
    largest = max(u.shape[1], v.shape[1]) if divisor == "rank" else max(x.shape[1], y.shape[1])
    return float(((u.T @ v) ** 2).sum() / largest)


MEASURES = {
    "distance_correlation": lambda x, y, labels, metric: distance_correlation(x, y, debiased=metric.debiased),
    "rsm_norm_difference": lambda x, y, labels, metric: rsm_norm_difference(x, y, metric.scaling, metric.norm),
    "eigenspace_overlap": lambda x, y, labels, metric: eigenspace_overlap(
        x, y, center=metric.centred, divisor=metric.divisor
    ),
}
