"""The tetrachoric correlation against closed forms, an optimiser, and draws of the model."""

import math

import numpy as np
import pytest
from scipy import stats

from repsim.numerics.tetrachoric import joint_tail, tetrachoric


def one(both: float, first: float, second: float, n: int = 1000) -> tuple[float, float, float]:
    found = tetrachoric(*(np.array([x]) for x in (both, first, second)), n=n)
    return float(found[0][0]), float(found[1][0]), float(found[2][0])


@pytest.mark.parametrize("rho", [-0.99, -0.6, 0.0, 0.3, 0.9, 0.999])
def test_the_tail_is_that_of_a_bivariate_normal_distribution(rho: float) -> None:
    for h, k in ((0.0, 0.0), (1.2, 0.7), (-0.5, 2.0), (2.3, 2.3)):
        expected = stats.multivariate_normal(np.zeros(2), np.array([[1, rho], [rho, 1]])).cdf([-h, -k])
        assert float(joint_tail(np.array(h), np.array(k), np.array(rho))) == pytest.approx(expected, abs=2e-6)


def test_closed_forms() -> None:
    for both in (0.05, 0.2, 0.25, 0.4, 0.49):
        assert one(both, 0.5, 0.5)[0] == pytest.approx(math.sin(2 * math.pi * (both - 0.25)), abs=1e-10)
    assert one(0.03 * 0.2, 0.03, 0.2)[0] == pytest.approx(0, abs=1e-9)
    rho, low, high = one(0.25, 0.5, 0.5, n=100)
    assert math.atanh(high) / 1.959963984540054 == pytest.approx(math.pi / (2 * math.sqrt(100)))
    assert (rho, low) == pytest.approx((0, -high), abs=1e-12)


def test_what_the_estimate_says_is_the_table_again() -> None:
    for both, first, second in ((0.02, 0.06, 0.08), (0.3, 0.35, 0.6), (0.001, 0.1, 0.05)):
        rho, low, high = one(both, first, second)
        h, k = -stats.norm.ppf(first), -stats.norm.ppf(second)
        assert float(joint_tail(h, k, np.array(rho))) == pytest.approx(both, abs=1e-10)
        assert -1 < low < rho < high < 1
        assert one(both, second, first) == pytest.approx((rho, low, high))
        turned = one(first - both, first, 1 - second)
        assert turned == pytest.approx((-rho, -high, -low), abs=1e-8)


def test_empty_cells_and_errors_that_are_not_there() -> None:
    rho, low, high = one(0.05, 0.05, 0.08)
    assert (rho, high) == (1, 1)
    assert 0.5 < low < 1
    rho, low, high = one(0.0, 0.05, 0.08)
    assert (rho, low) == (-1, -1)
    assert -1 < high < 0.3
    assert one(0.05, 0.05, 0.05)[0] == 1
    for given in ((0.0, 0.0, 0.1), (0.1, 1.0, 0.1), (0.0, 0.0, 0.0)):
        assert np.isnan(one(*given)).all()


def errors(rng: np.random.Generator, n: int, rho: float, first: float, second: float) -> tuple[float, float, float]:
    u = rng.standard_normal(n)
    v = rho * u + math.sqrt(1 - rho**2) * rng.standard_normal(n)
    a, b = u > -stats.norm.ppf(first), v > -stats.norm.ppf(second)
    return float((a & b).mean()), float(a.mean()), float(b.mean())


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95, 0.99])
def test_it_does_not_move_with_accuracy(accuracy: float) -> None:
    """The dependence is held at 0.7 while the accuracies change."""
    rng = np.random.default_rng(0)
    found = one(*errors(rng, 400_000, 0.7, 1 - accuracy, min(0.5, 1.5 * (1 - accuracy))), 400_000)
    assert found[0] == pytest.approx(0.7, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "first", "second", "rho"),
    [(1000, 0.06, 0.08, 0.6), (1000, 0.06, 0.08, 0.9), (500, 0.05, 0.05, 0.5), (10_000, 0.06, 0.08, 0.6)],
)
def test_nominal_95_percent_cover_nearly_that(n: int, first: float, second: float, rho: float) -> None:
    rng = np.random.default_rng(0)
    tables = np.array([errors(rng, n, rho, first, second) for _ in range(600)]).T
    _, low, high = tetrachoric(*tables, n=n)
    assert 0.925 <= np.mean((low <= rho) & (rho <= high)) <= 0.98
