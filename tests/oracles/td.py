"""Linear heads by scikit-learn, and the disagreement of what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Mean cross-entropy + ½ λ ‖W‖² on training rows centred and divided by one number, both theirs alone."""
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
