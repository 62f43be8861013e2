"""Nearest neighbours by sorting, and the masked kernel alignment from explicit n × n matrices."""

import numpy as np

from tests.oracles import centred
from tests.oracles.cka import hsic1


def scores(x: np.ndarray, kind: str) -> np.ndarray:
    """(n, n): the smallest is nearest. Squared distances for "cosine" too, of rows of length 1: 2 - 2 cos."""
    x = np.asarray(x, dtype=np.float64)
    x = x / np.abs(x).max()
    if kind == "inner_product":
        return np.array([[-(a * b).sum() for b in x] for a in x])
    if kind == "cosine":
        x = x / np.abs(x).max(axis=1, keepdims=True)
        x = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return np.array([[((a - b) ** 2).sum() for b in x] for a in x])


def neighbours(x: np.ndarray, k: int, kind: str) -> list[list[int]]:
    """The k nearest other rows of each row; of equal ones the first."""
    found = scores(x, kind)
    order = [[j for j in np.argsort(row, kind="stable") if j != i] for i, row in enumerate(found)]
    return [sorted(int(j) for j in row[:k]) for row in order]


def shared(x: np.ndarray, y: np.ndarray, k: int, kind: str) -> np.ndarray:
    """(n,) the share of each sample's neighbours that both layers have."""
    a, b = neighbours(x, k, kind), neighbours(y, k, kind)
    return np.array([len(set(p) & set(q)) / k for p, q in zip(a, b, strict=True)])


def mutual_knn(x: np.ndarray, y: np.ndarray, k: int, kind: str) -> float:
    """Huh et al. 2024."""
    return float(shared(x, y, k, kind).mean())


def mask(x: np.ndarray, k: int) -> np.ndarray:
    """(n, n) 1 where the column is among the k rows with the largest centred inner products."""
    found = np.zeros((len(x), len(x)))
    for i, row in enumerate(neighbours(centred(x), k, "inner_product")):
        found[i, row] = 1
    return found


def masked(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both centred Gram matrices at the pairs that are neighbours in both layers."""
    a, b = (centred(z) / np.abs(centred(z)).max() for z in (x, y))
    both = mask(x, k) * mask(y, k)
    return a @ a.T * both, b @ b.T * both


def alignment(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Unbiased HSIC of the masked matrices, the mean of both orders."""
    a, b = masked(x, y, k)
    return (hsic1(a, b) + hsic1(b, a)) / 2


def cknna(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Huh et al. 2024."""
    return alignment(x, y, k) / float(np.sqrt(alignment(x, x, k) * alignment(y, y, k)))


def weighted_alignment(x: np.ndarray, y: np.ndarray, k: int, counts: np.ndarray) -> float:
    """The same with pair weights: tr AB less the share of additive matrices, from a linear system of n equations."""
    a, b = masked(x, y, k)
    w = counts.astype(float)
    pair = np.outer(w, w)
    system = np.diag(w.sum() - 2 * w) + np.outer(np.ones(len(w)), w)

    def share(left: np.ndarray, right: np.ndarray) -> float:
        return 2 * float((w * (w @ left)) @ np.linalg.solve(system, right @ w))

    return float((pair * a * b.T).sum()) - (share(a, b) + share(b, a)) / 2


def weighted_cknna(x: np.ndarray, y: np.ndarray, k: int, counts: np.ndarray) -> float:
    """The ratio of three of them."""
    own = [weighted_alignment(z, z, k, counts) for z in (x, y)]
    return weighted_alignment(x, y, k, counts) / float(np.sqrt(own[0] * own[1]))


def weighted_debiased(k: np.ndarray, l: np.ndarray, counts: np.ndarray) -> float:
    """Debiased CKA with pair weights: what is left of each matrix after a weighted least-squares fit of a_i + a_j."""
    n = len(k)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    root = np.sqrt([float(counts[i] * counts[j]) for i, j in pairs])
    design = np.zeros((len(pairs), n))
    for row, (i, j) in enumerate(pairs):
        design[row, [i, j]] = root[row]
    left = []
    for gram in (k, l):
        target = root * np.array([gram[i, j] for i, j in pairs])
        left.append(target - design @ np.linalg.lstsq(design, target, rcond=None)[0])
    return float(left[0] @ left[1] / np.sqrt((left[0] @ left[0]) * (left[1] @ left[1])))


MEASURES = {
    "mutual_knn": lambda x, y, labels, metric: mutual_knn(x, y, metric.k, metric.distance),
    "cknna": lambda x, y, labels, metric: cknna(x, y, metric.k),
}
