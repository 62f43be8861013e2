"""Intervals of CKA by the infinitesimal jackknife: whole matrices, weighted samples, the bootstrap, and coverage."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations
from repsim.metrics import get_metric
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.alignment.cka_rbf import RBFCKA
from repsim.numerics import row_products
from tests.support.sides import compare, layers

FORMS = pytest.mark.parametrize(
    "metric",
    [
        CKA(),
        CKA(debiased=False),
        CKA(without_components=1),
        CKA(without_rows=0.1),
        RBFCKA(),
        RBFCKA(0.4, debiased=False),
    ],
    ids=lambda m: m.title,
)


def centred(k: np.ndarray, *, debiased: bool) -> np.ndarray:
    n = len(k)
    if not debiased:
        h = np.eye(n) - 1 / n
        return h @ k @ h
    k = k - np.diag(np.diag(k))
    rows, total = k.sum(1), k.sum()
    k = k - rows[:, None] / (n - 2) - rows / (n - 2) + total / ((n - 1) * (n - 2))
    return k - np.diag(np.diag(k))


def interval(k: np.ndarray, l: np.ndarray, bounds: tuple[float, float]) -> tuple[float, float]:
    """ψ_i = θ (2 a_i / A - b_i / B - c_i / C), as written down, of kernels that are centred."""
    a, b, c = (k * l).sum(1), (k * k).sum(1), (l * l).sum(1)
    theta = a.sum() / math.sqrt(b.sum() * c.sum())
    psi = theta * (2 * a / a.sum() - b / b.sum() - c / c.sum())
    half = 1.959963984540054 * math.sqrt((psi**2).sum())
    return max(bounds[0], theta - half), min(bounds[1], theta + half)


def kernel(x: np.ndarray, metric: Any) -> np.ndarray:
    x = x - x.mean(0)
    if isinstance(metric, RBFCKA):
        square = ((x[:, None] - x[None]) ** 2).sum(2)
        sigma = metric.bandwidth * np.median(np.sqrt(square[np.triu_indices(len(x), 1)]))
        return np.exp(-square / (2 * sigma**2))
    for _ in range(metric.without_components):
        u, s, v = np.linalg.svd(x, full_matrices=False)
        x = x - s[0] * np.outer(u[:, 0], v[0])
    return x @ x.T


@FORMS
def test_intervals_match_whole_matrices(metric: Any) -> None:
    rows, cols = layers(1, 70, (3, 9, 9)), layers(2, 70, (90, 4))
    found = compare(rows, cols, metric)
    kept = np.arange(70)
    if isinstance(metric, CKA) and metric.without_rows:
        shares = [
            ((x - x.mean(0)) ** 2).sum(1) / ((x - x.mean(0)) ** 2).sum() for x in [*rows.values(), *cols.values()]
        ]
        kept = np.sort(np.argsort(-np.mean(shares, axis=0), kind="stable")[7:])
    for i, x in enumerate(rows.values()):
        for j, y in enumerate(cols.values()):
            k, l = (centred(kernel(z[kept], metric), debiased=metric.debiased) for z in (x, y))
            expected = interval(k, l, metric.bounds)
            got = found.details["ci_low"][i, j], found.details["ci_high"][i, j]
            assert got == pytest.approx(expected, abs=1e-9)


@FORMS
def test_single_precision_and_both_ways_agree(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and tiles, small blocks and several passes over the columns."""
    rows, cols = layers(1, 130, (5, 8)), layers(2, 130, (12, 4, 4, 30))
    double = compare(rows, cols, metric)
    single = [{name: x.astype(np.float32) for name, x in side.items()} for side in (rows, cols)]
    monkeypatch.setattr(row_products, "_BLOCK", 130 * 4 * 8)
    monkeypatch.setattr(row_products, "_SUMS", 130 * 2 * 4 * 2)
    monkeypatch.setattr("repsim.numerics.kernels._TILES", 6 * 4 * 50**2)
    for turn in (False, True):
        if turn:
            monkeypatch.setattr("repsim.metrics.alignment.cka._costs", lambda kernels, r, resamples: (2, 1))
        for given, tolerance in (((rows, cols), 1e-9), (single, 2e-5)):
            found = compare(*given, metric=metric)
            for end in ("ci_low", "ci_high"):
                np.testing.assert_allclose(found.details[end], double.details[end], atol=tolerance)


@FORMS
def test_a_network_with_itself_is_symmetric_and_sure_of_itself(metric: Any) -> None:
    both = layers(3, 60, (3, 7, 5))
    own, apart = compare(both, None, metric), compare(both, dict(both), metric)
    for end in ("ci_low", "ci_high"):
        np.testing.assert_allclose(own.details[end], apart.details[end], atol=1e-9)
        np.testing.assert_allclose(own.details[end], own.details[end].T, atol=1e-9)
        np.testing.assert_allclose(np.diag(own.details[end]), 1, atol=1e-7)


def test_what_a_sample_adds_is_the_derivative_by_its_weight() -> None:
    """The biased form of samples with weights 1 + εw, centred by those weights, at ε = 0."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4))
    y = x[:, :2] + rng.standard_normal((30, 2))

    def theta(w: np.ndarray) -> float:
        w = w / w.sum()
        a, b = (np.sqrt(w)[:, None] * (z - w @ z) for z in (x, y))
        return np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))

    step = 1e-5 * np.eye(30)
    psi = np.array([(theta(1 + e) - theta(1 - e)) / 2e-5 for e in step])
    found = compare({"x": x}, {"y": y}, "cka_biased").details
    half = 1.959963984540054 * np.sqrt((psi**2).sum())
    low, high = theta(np.ones(30)) - half, theta(np.ones(30)) + half
    assert (found["ci_low"].item(), found["ci_high"].item()) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("name", ["cka", "cka_biased", "cka_rbf"])
def test_the_bootstrap_says_the_same(name: str) -> None:
    rows, cols = layers(1, 300, (6, 10)), layers(2, 300, (8, 5))
    a, b = Activations.from_arrays(rows), Activations.from_arrays(cols)
    found = repsim.compare(a, b, name).details
    drawn = repsim.bootstrap(a, b, name, resamples=150).details["standard_error"]
    np.testing.assert_allclose((found["ci_high"] - found["ci_low"]) / (2 * 1.96), drawn, rtol=0.25)


@pytest.mark.parametrize("name", ["cka", "cka_biased", "cka_rbf"])
def test_a_layer_without_a_number_has_no_interval(name: str) -> None:
    rows = {"flat": np.ones((50, 3)), **layers(1, 50, (4,))}
    found, alone = compare(rows, layers(2, 50, (5, 6)), name), compare(layers(1, 50, (4,)), layers(2, 50, (5, 6)), name)
    only = compare({"flat": rows["flat"]}, layers(2, 50, (5,)), name)
    for end in ("ci_low", "ci_high"):
        assert np.isnan(found.details[end][0]).all()
        np.testing.assert_allclose(found.details[end][1:], alone.details[end], atol=1e-12)
        assert np.isnan(only.details[end]).all()


def test_intervals_stay_within_the_bounds_and_shift_with_nothing() -> None:
    rng = np.random.default_rng(0)
    rows, cols = {"x": rng.standard_normal((12, 3))}, {"y": rng.standard_normal((12, 2))}
    plain = compare(rows, cols, "cka_biased").details
    assert plain["ci_low"].item() == 0
    moved = compare({"x": 1e3 * rows["x"] + 7}, {"y": 1e-3 * cols["y"] - 2}, "cka_biased").details
    assert moved["ci_high"].item() == pytest.approx(plain["ci_high"].item(), abs=1e-9)


def test_resamples_and_permutations_do_without() -> None:
    metric = get_metric("cka")
    states = metric.prepare([torch.randn(20, 3), torch.randn(20, 3)], None)
    assert "ci_low" not in metric.pairwise(states, states).details
    assert "ci_low" in metric.compared(states, states).details


def population(metric: Any, draw: Any) -> float:
    x, y = draw(np.random.default_rng(999), 8000)
    return float(compare({"x": x}, {"y": y}, metric).values.item())


def coverage(metric: Any, n: int, draw: Any, count: int = 400) -> float:
    """Share of data sets whose interval holds what 8,000 samples say."""
    truth, held = population(metric, draw), 0
    for seed in range(count):
        x, y = draw(np.random.default_rng(seed), n)
        found = compare({"x": x}, {"y": y}, metric).details
        held += found["ci_low"].item() <= truth <= found["ci_high"].item()
    return held / count


def gaussian(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    shared = rng.standard_normal((n, 3))
    x = shared @ np.array([[1, 0.5, 0, 0.3], [0, 1, 0.2, 0], [0.4, 0, 1, 0]]) + 0.7 * rng.standard_normal((n, 4))
    y = shared @ np.array([[0.2, 1], [1, 0], [0, 0.6]]) + rng.standard_normal((n, 2))
    return x, y


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 300, 1000])
@pytest.mark.parametrize("name", ["cka", "cka_biased", "cka_rbf"])
def test_nominal_95_percent_cover_nearly_that(name: str, n: int) -> None:
    assert 0.92 <= coverage(name, n, gaussian, 300) <= 0.975
