"""Matched units from their definitions: every permutation where that is possible, the linear programme elsewhere."""

import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment, linprog

from tests.oracles import centred


def scaled(x: np.ndarray, scaling: str) -> np.ndarray:
    """Columns as they came, centred, or centred and of length 1 without those that are constant."""
    if scaling == "none":
        return np.asarray(x, dtype=np.float64)
    x = centred(x)
    if scaling == "centred":
        return x
    spread = np.abs(x).max(axis=0)
    x = x[:, spread > 1e-12 * np.abs(x).max()]
    return x / np.sqrt((x**2).sum(axis=0))


def padded(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = max(x.shape[1], y.shape[1])
    a, b = (np.pad(z, ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    return a, b


def permutation_procrustes(x: np.ndarray, y: np.ndarray, *, center: bool, normalize: bool) -> float:
    """min over all permutations of ‖X − YP‖, each one tried (up to 7 units)."""
    a, b = padded(*(scaled(z, "centred" if center else "none") for z in (x, y)))
    if normalize:
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return min(float(np.linalg.norm(a - b[:, list(p)])) for p in itertools.permutations(range(b.shape[1])))


def angle(x: np.ndarray, y: np.ndarray, *, center: bool) -> float:
    """arccos(max tr(XᵀYP) / ‖X‖‖Y‖)."""
    a, b = padded(*(scaled(z, "centred" if center else "none") for z in (x, y)))
    best = max(float((a * b[:, list(p)]).sum()) for p in itertools.permutations(range(b.shape[1])))
    return float(np.arccos(np.clip(best / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1)))


def costs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[((a - b) ** 2).sum() for b in y.T] for a in x.T])


def soft_matching(x: np.ndarray, y: np.ndarray, scaling: str) -> float:
    """Each unit replicated until both sides have equally many; then the best assignment."""
    a, b = scaled(x, scaling), scaled(y, scaling)
    many = np.lcm(a.shape[1], b.shape[1])
    a, b = (np.repeat(z, many // z.shape[1], axis=1) for z in (a, b))
    cost = costs(a, b)
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def partial_cost(cost: np.ndarray, mass: float) -> float:
    """min ⟨C, T⟩, T >= 0, row sums <= 1/p, column sums <= 1/q, Σ T = mass, with these inequalities as they stand."""
    p, q = cost.shape
    sums = np.vstack([np.kron(np.eye(p), np.ones(q)), np.kron(np.ones(p), np.eye(q))])
    limits = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    found = linprog(cost.ravel(), A_ub=sums, b_ub=limits, A_eq=np.ones((1, p * q)), b_eq=[mass], method="highs-ipm")
    return float(found.fun)


def partial_matching(x: np.ndarray, y: np.ndarray, scaling: str, mass: float) -> float:
    return float(np.sqrt(max(0.0, partial_cost(costs(scaled(x, scaling), scaled(y, scaling)), mass)) / mass))


def correlation_match(x: np.ndarray, y: np.ndarray, *, soft: bool) -> float:
    """Pearson's correlations one by one; hard: every injection of the narrower layer's units tried (up to 7)."""
    a, b = scaled(x, "unit"), scaled(y, "unit")
    r = np.array([[np.corrcoef(u, v)[0, 1] for v in b.T] for u in a.T])
    if soft:
        return float((r.max(axis=1).mean() + r.max(axis=0).mean()) / 2)
    r = r if len(r) <= len(r.T) else r.T
    p, q = r.shape
    return max(float(np.mean([r[i, j] for i, j in enumerate(some)])) for some in itertools.permutations(range(q), p))


MEASURES = {
    "permutation_procrustes": lambda x, y, labels, metric: permutation_procrustes(
        x, y, center=metric.centred, normalize=metric.normalized
    ),
    "soft_matching": lambda x, y, labels, metric: soft_matching(x, y, metric.scaling),
    "correlation_match": lambda x, y, labels, metric: correlation_match(x, y, soft=False),
    "soft_correlation_match": lambda x, y, labels, metric: correlation_match(x, y, soft=True),
}
