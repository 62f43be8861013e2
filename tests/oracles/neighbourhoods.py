"""Measures of ordered neighbours and of ranks of distances, sample by sample, from sorted lists."""

import numpy as np

from tests.oracles.neighbors import scores


def ordered(x: np.ndarray, k: int, kind: str) -> list[list[int]]:
    """The k nearest other rows of each row, nearest first; of equal ones the first."""
    found = scores(x, kind)
    return [[int(j) for j in np.argsort(row, kind="stable") if j != i][:k] for i, row in enumerate(found)]


def knn_jaccard(x: np.ndarray, y: np.ndarray, k: int, kind: str) -> float:
    pairs = zip(ordered(x, k, kind), ordered(y, k, kind), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in pairs]))


def rank_similarities(x: np.ndarray, y: np.ndarray, k: int, kind: str) -> list[float]:
    found = []
    for a, b in zip(ordered(x, k, kind), ordered(y, k, kind), strict=True):
        shared = [(a.index(v) + 1, b.index(v) + 1) for v in a if v in b]
        total = sum(2 / ((1 + abs(r - s)) * (r + s)) for r, s in shared)
        found.append(total / sum(1 / m for m in range(1, len(shared) + 1)) if shared else 0.0)
    return found


def rank_similarity(x: np.ndarray, y: np.ndarray, k: int, kind: str) -> float:
    return float(np.mean(rank_similarities(x, y, k, kind)))


def second_order_cosine(x: np.ndarray, y: np.ndarray, k: int, form: str) -> float:
    """Similarities or distances of each row to the union of its neighbours."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    near = zip(ordered(x, k, "cosine"), ordered(y, k, "cosine"), strict=True)

    def vector(z: np.ndarray, i: int, others: list[int]) -> np.ndarray:
        cosines = np.array([z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) for j in others])
        return cosines if form == "similarity" else 1 - cosines

    found = []
    for i, (a, b) in enumerate(near):
        others = sorted(set(a) | set(b))
        u, v = vector(x, i, others), vector(y, i, others)
        found.append(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    return float(np.mean(found))


def information_imbalance(x: np.ndarray, y: np.ndarray, k: int = 1) -> float:
    """Δ(x → y). Of samples that tie for the k-th place in x each counts with an equal share of what is left of k."""
    n = len(x)
    a, b = (np.round(scores(z, "euclidean") / scores(z, "euclidean").max(), 12) for z in (x, y))
    total = 0.0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        rank = {j: sum(b[i, l] <= b[i, j] for l in others) for j in others}
        limit = sorted(a[i, j] for j in others)[k - 1]
        before = [j for j in others if a[i, j] < limit]
        level = [j for j in others if a[i, j] == limit]
        total += sum(rank[j] for j in before) + (k - len(before)) * float(np.mean([rank[j] for j in level]))
    return 2 / n * total / (n * k)


MEASURES = {
    "knn_jaccard": lambda x, y, labels, metric: knn_jaccard(x, y, metric.k, metric.distance),
    "rank_similarity": lambda x, y, labels, metric: rank_similarity(x, y, metric.k, metric.distance),
    "second_order_cosine": lambda x, y, labels, metric: second_order_cosine(x, y, metric.k, metric.form),
    "information_imbalance": lambda x, y, labels, metric: information_imbalance(x, y, metric.k),
}
