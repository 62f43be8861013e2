"""Measures of the ridge smoothers and of the aligned features, from explicit n × n matrices and least squares."""

import numpy as np
import scipy.linalg

from tests.oracles import centred


def unit_trace(x: np.ndarray) -> np.ndarray:
    """Features centred and divided by one number, so that the trace of their covariance (1/n) is 1."""
    x = centred(x)
    x = x / np.abs(x).max()  # squares of huge or tiny features leave float64
    return x * np.sqrt(len(x)) / np.linalg.norm(x)


def smoother(x: np.ndarray, penalty: float) -> np.ndarray:
    """S (n, n) for which S y are ridge regression's fitted values of a centred y: Z (ZᵀZ + nλI)⁻¹ Zᵀ.

    Without a penalty it is the orthogonal projector onto the span of the centred columns.
    """
    z = unit_trace(x)
    if penalty == 0:
        basis = scipy.linalg.orth(z, rcond=1e-10)
        return basis @ basis.T
    gram = z @ z.T
    n = len(z)
    return scipy.linalg.solve(gram + n * penalty * np.eye(n), gram, assume_a="pos")


def gulp(x: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """‖S₁ − S₂‖_F."""
    return float(np.linalg.norm(smoother(x, penalty) - smoother(y, penalty)))


def gulp_squared_of_covariances(x: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """Boix-Adserà et al. 2022: tr(Σ₁⁻ Σ₁ Σ₁⁻ Σ₁) + tr(Σ₂⁻ Σ₂ Σ₂⁻ Σ₂) − 2 tr(Σ₁⁻ Σ₁₂ Σ₂⁻ Σ₁₂ᵀ), Σ⁻ = (Σ + λI)⁻¹."""
    a, b = unit_trace(x), unit_trace(y)
    n = len(a)
    s1, s2, s12 = a.T @ a / n, b.T @ b / n, a.T @ b / n
    i1 = np.linalg.inv(s1 + penalty * np.eye(len(s1)))
    i2 = np.linalg.inv(s2 + penalty * np.eye(len(s2)))
    own = np.trace(i1 @ s1 @ i1 @ s1) + np.trace(i2 @ s2 @ i2 @ s2)
    return float(own - 2 * np.trace(i1 @ s12 @ i2 @ s12.T))


def td_white(x: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """2 − 2 ⟨S₁, S₂⟩ / (‖S₁‖ ‖S₂‖)."""
    a, b = smoother(x, penalty), smoother(y, penalty)
    return float(2 - 2 * np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def aligned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both centred, of Frobenius norm 1 and of one width (zero columns added), y turned onto x as near as it goes."""
    a, b = (unit_trace(z) / np.sqrt(len(z)) for z in (x, y))
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(z, ((0, 0), (0, width - z.shape[1]))) for z in (a, b))
    rotation, _ = scipy.linalg.orthogonal_procrustes(b, a)
    return a, b @ rotation


def procrustes(x: np.ndarray, y: np.ndarray) -> float:
    """min_Q ‖X − YQ‖_F over rotations and reflections, the residual itself."""
    a, b = aligned(x, y)
    return float(np.linalg.norm(a - b))


def angular_procrustes(x: np.ndarray, y: np.ndarray) -> float:
    """The angle between X and the turned Y, from the chord between them: 2 arcsin(d / 2), exact near 0."""
    return float(2 * np.arcsin(min(1.0, procrustes(x, y) / 2)))


def linear_regression(x: np.ndarray, y: np.ndarray) -> float:
    """R² over all columns of x, each predicted from y by least squares with an intercept."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    predictors = np.column_stack([unit_trace(y), np.ones(len(y))])
    residual = total = 0.0
    for column in x.T:
        weights = np.linalg.lstsq(predictors, column, rcond=1e-10)[0]
        residual += np.sum((column - predictors @ weights) ** 2)
        total += np.sum((column - column.mean()) ** 2)
    return float(1 - residual / total)


def r2_cca(x: np.ndarray, y: np.ndarray) -> float:
    """Σρ² / √(r₁ r₂): the cosine between the projectors, and the limit of 1 − TD_λ / 2 as λ → 0."""
    a, b = smoother(x, 0), smoother(y, 0)
    return float(np.sum(a * b) / np.sqrt(np.trace(a) * np.trace(b)))


MEASURES = {
    "gulp": lambda x, y, labels, metric: gulp(x, y, metric.penalty),
    "td_white": lambda x, y, labels, metric: td_white(x, y, metric.penalty),
    "procrustes": lambda x, y, labels, metric: procrustes(x, y),
    "angular_procrustes": lambda x, y, labels, metric: angular_procrustes(x, y),
    "linear_regression": lambda x, y, labels, metric: linear_regression(x, y),
}
