"""Linear heads by scikit-learn and by normal equations, and the disagreement of what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold


@dataclass(frozen=True)
class Head:
    """A softmax head for the features as they came: logits are `x @ coefficients.T + intercepts`."""

    coefficients: np.ndarray  # (k, p)
    intercepts: np.ndarray  # (k,), summing to 0: their common level is free

    def logits(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, dtype=np.float64) @ self.coefficients.T + self.intercepts


def scale(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Column means and the root of the mean squared distance from them."""
    mean = x.mean(axis=0)
    return mean, float(np.sqrt(np.mean(np.sum((x - mean) ** 2, axis=1))))


def fit(x: np.ndarray, labels: np.ndarray, train: np.ndarray, penalty: float) -> Head:
    """Mean cross-entropy + ½ λ ‖W‖² on training rows centred and divided by one number, both theirs alone.

    `train` is a mask, or row numbers in which a row may come more than once.
    """
    x = np.asarray(x, dtype=np.float64)[train]
    mean, s = scale(x)
    k, n = int(labels.max()) + 1, len(x)
    # With two classes scikit-learn fits one column w = w₁ − w₀, and ½ λ (‖w₀‖² + ‖w₁‖²) is ½ (λ / 2) ‖w‖².
    c = (2 if k == 2 else 1) / (penalty * n)
    solver = LogisticRegression(C=c, tol=1e-10, max_iter=100_000, solver="newton-cg").fit((x - mean) / s, labels[train])
    w, b = solver.coef_, solver.intercept_
    if k == 2:
        w, b = np.concatenate([-w, w]) / 2, np.concatenate([-b, b]) / 2
    w = w / s
    b = b - w @ mean
    return Head(w, b - b.mean())


def loss(head: Head, x: np.ndarray, labels: np.ndarray, train: np.ndarray, penalty: float) -> float:
    """The loss that `fit` minimises."""
    x = np.asarray(x, dtype=np.float64)[train]
    _, s = scale(x)
    z = head.logits(x)
    entropy = np.mean(scipy.special.logsumexp(z, axis=1) - z[np.arange(len(x)), labels[train]])
    return float(entropy + penalty / 2 * np.sum((head.coefficients * s) ** 2))


def gradient_norm(head: Head, x: np.ndarray, labels: np.ndarray, train: np.ndarray, penalty: float) -> float:
    """Norm of that loss's gradient in the weights and intercepts of the centred and scaled features."""
    x = np.asarray(x, dtype=np.float64)[train]
    mean, s = scale(x)
    error = scipy.special.softmax(head.logits(x), axis=1)
    error[np.arange(len(x)), labels[train]] -= 1
    slope = error.T @ ((x - mean) / s) / len(x) + penalty * head.coefficients * s
    return float(np.sqrt(np.sum(slope**2) + np.sum(error.mean(axis=0) ** 2)))


def folds(labels: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Training rows of each fold, as masks."""
    split = StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels)
    return [np.isin(np.arange(len(labels)), rows) for rows, _ in split]


def answers(x: np.ndarray, labels: np.ndarray, train: Sequence[np.ndarray], penalty: float) -> np.ndarray:
    """The class that each held-out row is given by the head that did not see it; -1 for rows never held out."""
    found = np.full(len(labels), -1)
    for mask in train:
        found[~mask] = fit(x, labels, mask, penalty).logits(np.asarray(x)[~mask]).argmax(axis=1)
    return found


def td(x: np.ndarray, y: np.ndarray, labels: np.ndarray, train: Sequence[np.ndarray], penalty: float) -> float:
    """The share of held-out rows that the heads on x and on y answer differently."""
    a, b = answers(x, labels, train, penalty), answers(y, labels, train, penalty)
    return float(np.mean(a[a >= 0] != b[a >= 0]))


def probabilities(x: np.ndarray, labels: np.ndarray, train: Sequence[np.ndarray], penalty: float) -> np.ndarray:
    """The class probabilities (n, k) of each held-out row by the head that did not see it; NaN for the others."""
    found = np.full((len(labels), int(labels.max()) + 1), np.nan)
    for mask in train:
        found[~mask] = scipy.special.softmax(fit(x, labels, mask, penalty).logits(np.asarray(x)[~mask]), axis=1)
    return found


def jsd(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits of each row: H((p + q) / 2) − (H(p) + H(q)) / 2."""

    def entropy(rows: np.ndarray) -> np.ndarray:
        return np.array([-sum(v * np.log2(v) for v in row if v > 0) for row in rows])

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def tv(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Total variation of each row: the largest difference of probability over all sets of classes."""
    return np.array([sum(max(a - b, 0) for a, b in zip(r, s, strict=True)) for r, s in zip(p, q, strict=True)])


def ridge_predictions(x: np.ndarray, targets: np.ndarray, train: Sequence[np.ndarray], penalty: float) -> np.ndarray:
    """Predictions (n, t) of each held-out row by the ridge head that did not see it; NaN for the others.

    A head minimises mean squared error / 2 + ½ λ ‖w‖² with a free intercept, on training rows centred and divided by
    one number: the first and second moments of these rows alone.
    """
    x = np.asarray(x, dtype=np.float64)
    targets = np.asarray(targets, dtype=np.float64).reshape(len(x), -1)
    found = np.full(targets.shape, np.nan)
    for mask in train:
        mean, s = scale(x[mask])
        z, y, n = (x[mask] - mean) / s, targets[mask], int(mask.sum())
        # As one least squares problem: rows of √(nλ) I stand for the penalty, and no square of z is formed.
        left = np.vstack([z, np.sqrt(n * penalty) * np.eye(z.shape[1])])
        right = np.vstack([y - y.mean(axis=0), np.zeros((z.shape[1], y.shape[1]))])
        weights, *_ = np.linalg.lstsq(left, right, rcond=None)
        found[~mask] = (x[~mask] - mean) / s @ weights + y.mean(axis=0)
    return found


def regression_td(a: np.ndarray, b: np.ndarray, targets: np.ndarray, normalize: str) -> float:
    """From predictions with NaN where nothing was held out: 2 − 2 cos, or ‖a − b‖² / ‖y − ȳ‖², columns centred."""
    held = ~np.isnan(a).any(axis=1)
    y = np.asarray(targets, dtype=np.float64).reshape(len(a), -1)
    a, b, y = (z[held] - z[held].mean(axis=0) for z in (a, b, y))
    if normalize == "target":
        return float(np.sum((a - b) ** 2) / np.sum(y**2))
    return float(np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2))


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa of two sequences of answers, chance from their own frequencies; NaN where chance is certain."""
    observed = np.mean(a == b)
    chance = sum(np.mean(a == c) * np.mean(b == c) for c in np.union1d(a, b))
    return float((observed - chance) / (1 - chance)) if chance < 1 else float("nan")


def error_consistency(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> float:
    """Geirhos et al. 2020: kappa of being right."""
    return kappa(a == y, b == y)


def confusion_expected(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> float:
    """The mean disagreement over all ways to permute b's answers within the classes of y."""
    total = 0.0
    for label in np.unique(y):
        mine, other = a[y == label], b[y == label]
        total += sum(float(np.mean(other != answer)) for answer in mine)
    return total / len(y)


def minmax(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> float:
    """Where the disagreement lies between the least and the most that the two accuracies allow; NaN for 0 / 0."""
    m, p, q = len(y), int(np.sum(a == y)), int(np.sum(b == y))
    low, high = abs(p - q), min(m, 2 * m - p - q)
    return float((np.sum(a != b) - low) / (high - low)) if high > low else float("nan")


def _soft(x: np.ndarray, y: np.ndarray, labels: np.ndarray, metric: Any) -> float:
    p, q = (probabilities(z, labels, folds(labels, metric.folds, metric.seed), metric.penalty) for z in (x, y))
    return float({"jsd": jsd, "tv": tv}[metric.distance](p, q).mean())


def _regression(x: np.ndarray, y: np.ndarray, labels: np.ndarray, metric: Any) -> float:
    targets, train = np.eye(int(labels.max()) + 1)[labels], folds(labels, metric.folds, metric.seed)
    p, q = (ridge_predictions(z, targets, train, metric.penalty) for z in (x, y))
    return regression_td(p, q, targets, metric.normalize)


MEASURES = {
    "td": lambda x, y, labels, metric: td(x, y, labels, folds(labels, metric.folds, metric.seed), metric.penalty),
    "td_soft": _soft,
    "td_regression": _regression,
}
