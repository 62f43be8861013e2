"""Exact moments of the permutation distribution against all permutations, and p-values against sampled ones."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from repsim import Activations, permutation_test
from repsim.metrics.alignment.cka import CKA
from repsim.numerics.kernel_traces import traces, traces_cost
from repsim.numerics.permutation_moments import Traces, moments, upper_tail
from repsim.numerics.row_products import unit_features
from tests.metrics.alignment.test_intervals import centred
from tests.support.sides import compare, layers


def of_matrix(w: np.ndarray) -> list[Any]:
    d = np.diag(w)
    sums = [np.trace(w), (w * w).sum(), np.trace(w @ w @ w), (d**2).sum(), (d**3).sum(), (w**3).sum()]
    return [*sums, (d * np.diag(w @ w)).sum(), d @ w @ d]


def whole(x: np.ndarray, *, debiased: bool) -> np.ndarray:
    x = x - x.mean(0)
    x *= np.sqrt(len(x)) / np.linalg.norm(x)
    return centred(x @ x.T, debiased=debiased)


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("kind", ["biased", "debiased", "any"])
def test_moments_are_those_of_all_permutations(kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    given = []
    for p in (2, 3):
        m = rng.standard_normal((n, n))
        x = rng.standard_normal((n, p)) ** 2
        given.append(centred(m + m.T, debiased=False) if kind == "any" else whole(x, debiased=kind == "debiased"))
    w, v = given
    every = np.array([(w * v[np.ix_(p, p)]).sum() for p in map(list, itertools.permutations(range(n)))])
    x, y = (Traces(*(torch.tensor([t], dtype=torch.float64) for t in of_matrix(each))) for each in given)
    found = [each.item() for each in moments(x, y, n)]
    assert found == pytest.approx([every.mean(), every.var(), stats.skew(every)], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("p", [5, 30])
@pytest.mark.parametrize("debiased", [True, False])
def test_traces_match_the_whole_matrix(debiased: bool, p: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.numerics.kernels._TILES", 8 * 7**2)
    x = np.random.default_rng(0).standard_normal((20, p)) ** 2 + 5
    (kernel,) = CKA(debiased=debiased).prepare([torch.from_numpy(x)])
    w = whole(x, debiased=debiased)
    np.testing.assert_allclose(unit_features(kernel).square().sum(), 20)
    if not debiased:
        w = w - np.trace(w) / 19 * (np.eye(20) - 1 / 20)
    found = [each.item() for each in traces([kernel], self_pairs=not debiased).columns]
    np.testing.assert_allclose(found, of_matrix(w), rtol=1e-9, atol=1e-8)


def test_a_matrix_that_would_not_fit_is_not_made() -> None:
    assert traces_cost([64, 30_000], 20_000) == float("inf")
    assert traces_cost([64, 512], 20_000) < float("inf")


def test_tails_are_those_of_a_shifted_gamma_distribution() -> None:
    z = torch.tensor([[-3.0, -1, 0, 1, 4, 9]], dtype=torch.float64)
    for skewness in (-0.9, -1e-3, 1e-3, 0.3, 2.0):
        found = upper_tail(z, torch.full_like(z, skewness))
        np.testing.assert_allclose(found, stats.pearson3.sf(z.numpy(), skewness), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(upper_tail(z, torch.zeros_like(z)), stats.norm.sf(z.numpy()), rtol=1e-12)
    assert torch.isnan(upper_tail(torch.full_like(z, torch.nan), torch.ones_like(z))).all()


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
@pytest.mark.parametrize("name", ["cka", "cka_biased", "cka(without_components=1)"])
def test_p_values_are_those_of_permutations(name: str) -> None:
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((40, 2))
    x = {f"{p}": 0.35 * shared @ rng.standard_normal((2, p)) + rng.standard_normal((40, p)) ** 2 for p in (2, 6, 60)}
    y = {f"{p}": 0.35 * shared @ rng.standard_normal((2, p)) + rng.standard_normal((40, p)) for p in (3, 50)}
    a, b = Activations.from_arrays(x), Activations.from_arrays(y)
    found = permutation_test(a, b, name, permutations=600).details
    error = 4 * np.sqrt(found["p_value"] * (1 - found["p_value"]) / 600) + 0.004
    assert np.all(np.abs(found["p"] - found["p_value"]) <= error)
    assert found["p"].max() > 0.05


def test_float32_and_float64_agree_and_related_layers_have_a_small_one() -> None:
    rows, cols = layers(1, 200, (5, 8)), layers(2, 200, (12, 300))
    for name in ("cka", "cka_biased"):
        double = compare(rows, cols, name).details["p"]
        single = compare(*({k: x.astype(np.float32) for k, x in side.items()} for side in (rows, cols)), metric=name)
        assert np.all(double < 1e-6)
        np.testing.assert_allclose(np.log(single.details["p"]), np.log(double), rtol=1e-2)


def test_layers_without_a_number_have_no_p_value_and_few_samples_no_detail() -> None:
    rng = np.random.default_rng(0)
    rows = {"flat": np.ones((9, 2)), "x": rng.standard_normal((9, 2))}
    cols = {"y": rng.standard_normal((9, 3)), "z": rng.standard_normal((9, 1))}
    p = compare(rows, cols, "cka").details["p"]
    assert np.isnan(p[0]).all()
    np.testing.assert_allclose(p[1:], compare({"x": rows["x"]}, cols, "cka").details["p"], rtol=1e-9)
    few = compare({"x": rows["x"][:5]}, {"y": cols["y"][:5]}, "cka")
    assert "p" not in few.details
    assert "p" not in compare(rows, cols, CKA(without_rows=0.2)).details


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cka", "cka_biased"])
def test_p_values_of_unrelated_layers_are_even(name: str) -> None:
    p = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows, cols = ({f"{i}": rng.standard_normal((30, w)) ** 2 for i, w in enumerate((2, 5, 40))} for _ in range(2))
        p.append(np.diag(compare(rows, cols, name).details["p"]))
    flat = np.concatenate(p)
    assert np.mean(flat <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(flat))
    assert stats.kstest(flat, "uniform").pvalue > 0.01


def test_the_chance_level_of_the_biased_form_is_the_mean_of_all_permutations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3)) ** 2, rng.standard_normal((6, 2))
    k, l = (whole(z, debiased=False) for z in (x, y))
    orders = map(list, itertools.permutations(range(6)))
    every = [(k * l[np.ix_(p, p)]).sum() / (np.linalg.norm(k) * np.linalg.norm(l)) for p in orders]
    assert compare({"x": x}, {"y": y}, "cka_biased").details["chance"].item() == pytest.approx(np.mean(every), rel=1e-9)
