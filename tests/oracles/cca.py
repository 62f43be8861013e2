"""The CCA family as a generalised eigenproblem of covariances, on principal coordinates of full rank."""

import numpy as np
import scipy.linalg

from tests.oracles import centred


def coordinates(x: np.ndarray, variance: float = 1.0, rank: int | None = None) -> np.ndarray:
    """Principal coordinates (n, r): the numerical rank, or the fewest that hold this share of Σσ².

    Each is scaled to unit norm, which changes no canonical correlation and keeps covariances well conditioned.
    """
    x = centred(x)
    u, s, _ = scipy.linalg.svd(x / np.abs(x).max(), full_matrices=False, lapack_driver="gesvd")
    keep = int(np.sum(s > 1e-10 * s[0])) if rank is None else rank
    if variance < 1:
        held = [np.sum(s[:r] ** 2) / np.sum(s**2) for r in range(1, len(s) + 1)]
        keep = min(keep, 1 + next(r for r, share in enumerate(held) if share >= variance))
    return u[:, :keep]


def canonical(x: np.ndarray, y: np.ndarray, variance: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Canonical correlations (m,), descending, and x's canonical variates (n, m), m the smaller rank.

    They solve Sxy Syy⁻¹ Syx a = ρ² Sxx a.
    """
    a, b = coordinates(x, variance), coordinates(y, variance)
    sxx, syy, sxy = a.T @ a, b.T @ b, a.T @ b
    squares, weights = scipy.linalg.eigh(sxy @ scipy.linalg.solve(syy, sxy.T, assume_a="pos"), sxx)
    order = np.argsort(squares)[::-1][: min(a.shape[1], b.shape[1])]
    variates = a @ weights[:, order]
    return np.sqrt(np.clip(squares[order], 0, 1)), variates / np.linalg.norm(variates, axis=0)


def mean(x: np.ndarray, y: np.ndarray) -> float:
    """Σρ / min(r₁, r₂)."""
    return float(np.mean(canonical(x, y)[0]))


def r2(x: np.ndarray, y: np.ndarray) -> float:
    """Σρ² / min(r₁, r₂)."""
    return float(np.mean(canonical(x, y)[0] ** 2))


def svcca(x: np.ndarray, y: np.ndarray) -> float:
    """Raghu et al. 2017, with 0.99 of Σσ²."""
    return float(np.mean(canonical(x, y, variance=0.99)[0]))


def pwcca(x: np.ndarray, y: np.ndarray) -> float:
    """Morcos et al. 2018: ρ weighted by Σⱼ |⟨hᵢ, xⱼ⟩|, hᵢ the first argument's canonical variates."""
    rho, variates = canonical(x, y)
    features = centred(x)
    alpha = [sum(abs(float(h @ column)) for column in features.T) for h in variates.T]
    return float(np.average(rho, weights=alpha))


MEASURES = {
    "mean_cca": lambda x, y, labels, metric: mean(x, y),
    "r2_cca": lambda x, y, labels, metric: r2(x, y),
    "svcca": lambda x, y, labels, metric: svcca(x, y),
    "pwcca": lambda x, y, labels, metric: pwcca(x, y),
}
