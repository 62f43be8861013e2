"""Layers with one odd column or cell, or of tiny numbers: the value, or a reason that is true of them."""

import numpy as np
import pytest

from repsim import Activations, SimilarityMatrix, compare
from repsim.metrics import METRICS

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = RNG.normal(size=(60, 5)) + 2 * np.eye(5)[Y]
Z = X @ np.linalg.qr(RNG.normal(size=(5, 5)))[0]


def compared(a: np.ndarray, b: np.ndarray, metric: str) -> SimilarityMatrix:
    first, second = (Activations.from_arrays({"l": x}, labels=Y) for x in (a, b))
    return compare(first, second, metric)


#: cca and its kin cut directions by the layer's largest, which is the constant column's rounding.
CENTRED = [
    "cka",
    "cka_biased",
    "cka_minibatch",
    "cka_rbf",
    "mutual_knn",
    "cknna",
    "rsa",
    "td",
    "td_soft",
    "td_regression",
]


@pytest.mark.parametrize("metric", CENTRED)
def test_a_constant_column_far_from_zero_is_no_constant_layer(metric: str) -> None:
    column = np.full((60, 1), 1e8)
    a, b = (np.concatenate([x, column], 1).astype(np.float32) for x in (X, Z))
    plain = compared(X.astype(np.float32), Z.astype(np.float32), metric).values[0, 0]
    assert compared(a, b, metric).values[0, 0] == pytest.approx(plain, abs=0.02)
    same = np.concatenate([np.ones_like(X), column], 1).astype(np.float32)
    (reason,) = compared(same, b, metric).reasons.values()
    assert reason.endswith("constant features: every sample has the same row")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_large_cell_makes_no_duplicates(dtype: type) -> None:
    a = X.copy()
    a[3, 2] = 1e10
    (reason,) = compared(a.astype(dtype), Z.astype(dtype), "cka_rbf").reasons.values()
    assert "duplicates" not in reason
    assert "a few samples lie far from all others" in reason
    twins = np.repeat(X[:2], [45, 15], axis=0)
    (reason,) = compared(twins, Z, "cka_rbf").reasons.values()
    assert "more than half of all pairs are duplicates" in reason


@pytest.mark.parametrize("metric", METRICS)
def test_tiny_features_are_scaled(metric: str) -> None:
    plain = compared(X.astype(np.float32), Z.astype(np.float32), metric).values[0, 0]
    tiny = compared((X * 1e-38).astype(np.float32), (Z * 1e-38).astype(np.float32), metric)
    assert tiny.values[0, 0] == pytest.approx(plain, abs=0.02)
    tinier = compared((X * 1e-40).astype(np.float32), (Z * 1e-40).astype(np.float32), metric)  # few digits are left
    assert tinier.values[0, 0] == pytest.approx(plain, abs=0.1)
