"""Procrustes, GULP, TD over white-noise tasks and linear regression against n × n smoothers and closed forms."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import GULP, METRICS, LinearRegression, Metric, Procrustes, WhiteTD, get_metric
from repsim.numerics import spectrum as _spectrum
from tests.conftest import exactly
from tests.oracles import cka, spectral
from tests.support.sides import compare, layers, one, orthonormal

ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "procrustes": spectral.procrustes,
    "angular_procrustes": spectral.angular_procrustes,
    "gulp": lambda x, y: spectral.gulp(x, y, 0.01),
    "td_white": lambda x, y: spectral.td_white(x, y, 0.01),
    "linear_regression": spectral.linear_regression,
}
FAMILY = pytest.mark.parametrize("name", ORACLES)
DISTANCES = pytest.mark.parametrize("name", ["procrustes", "angular_procrustes", "gulp", "td_white"])

# n, widths of the rows, widths of the columns
SHAPES = {
    "narrow": (60, (3, 7), (5, 2, 11)),
    "wide": (20, (50, 30), (25, 41)),
    "mixed": (40, (3, 90), (60, 4)),
    "width one": (20, (1,), (1, 3)),
    "three samples": (3, (1, 4), (2, 1)),
}


def pair(n: int = 60, p: int = 7, q: int = 5) -> tuple[np.ndarray, np.ndarray]:
    return layers(1, n, (p,))["layer0"], layers(2, n, (q,))["layer0"]


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.array([[ORACLES[name](x, y) for y in cols.values()] for x in rows.values()])


def turned(x: np.ndarray, seed: int = 6) -> np.ndarray:
    return x @ np.linalg.qr(np.random.default_rng(seed).standard_normal((x.shape[1], x.shape[1])))[0]


# The oracles against one another.


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 1.0])
def test_the_two_formulas_of_gulp_agree(penalty: float) -> None:
    x, y = pair()
    squared = spectral.gulp_squared_of_covariances(x, y, penalty)
    assert spectral.gulp(x, y, penalty) ** 2 == pytest.approx(squared, rel=1e-10)


def test_the_rotation_attains_the_nuclear_norm() -> None:
    x, y = pair()
    a, b = spectral.aligned(x, y)
    nuclear = np.linalg.norm((spectral.unit_trace(x) / 60**0.5).T @ (spectral.unit_trace(y) / 60**0.5), "nuc")
    assert np.sum(a * b) == pytest.approx(nuclear, rel=1e-12)
    assert spectral.procrustes(x, y) == pytest.approx(math.sqrt(2 - 2 * nuclear), rel=1e-12)
    assert spectral.angular_procrustes(x, y) == pytest.approx(math.acos(nuclear), rel=1e-12)


# The metrics against the oracles.


@FAMILY
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_matches_the_oracle(name: str, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = layers(1, n, p), layers(2, n, q)
    found = compare(rows, cols, name)
    assert found.values.shape == (len(p), len(q))
    np.testing.assert_allclose(found.values, table(rows, cols, name), rtol=0, atol=1e-10)


@FAMILY
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_matches_the_oracle_of_the_same_numbers(name: str, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows = {k: x.astype(np.float32) for k, x in layers(1, n, p).items()}
    cols = {k: x.astype(np.float32) for k, x in layers(2, n, q).items()}
    np.testing.assert_allclose(compare(rows, cols, name).values, table(rows, cols, name), rtol=0, atol=1e-6)


@FAMILY
@pytest.mark.parametrize("shape", SHAPES)
def test_the_route_of_many_layers_matches_the_oracle(name: str, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions rounded to float32, bases from a Gram matrix: what large comparisons of float32 layers take."""
    monkeypatch.setattr(_spectrum, "_LARGE", 0)
    n, p, q = SHAPES[shape]
    rows = {k: x.astype(np.float32) for k, x in layers(1, n, p).items()}
    cols = {k: x.astype(np.float32) for k, x in layers(2, n, q).items()}
    np.testing.assert_allclose(compare(rows, cols, name).values, table(rows, cols, name), rtol=0, atol=2e-6)


@FAMILY
@pytest.mark.parametrize("weakest", [1e-2, 1e-4, 1e-6])
def test_the_route_of_many_layers_resolves_weak_directions(
    name: str, weakest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares of singular values down to 1e-10 of the first's stand in one Gram matrix."""
    monkeypatch.setattr(_spectrum, "_LARGE", 0)
    rows = {"x": (orthonormal(80, 12, 1) * np.geomspace(1, weakest, 12)).astype(np.float32)}
    mixed = orthonormal(80, 12, 1) @ np.random.default_rng(0).standard_normal((12, 9)) + orthonormal(80, 9, 2)
    cols = {"y": turned(mixed * np.geomspace(1, weakest, 9)).astype(np.float32)}
    assert compare(rows, cols, name).values == pytest.approx(table(rows, cols, name), abs=2e-6)


def test_the_route_of_many_layers_keeps_weak_directions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two directions of a millionth of the strength, all that is asked for, mix in a Gram matrix."""
    monkeypatch.setattr(_spectrum, "_LARGE", 0)
    basis = orthonormal(80, 8)
    x = basis[:, 6:].astype(np.float32)
    y = turned(basis * [1, 1, 1, 1, 1, 1, 1.3e-6, 1e-6]).astype(np.float32)
    expected = spectral.linear_regression(x, y)
    assert expected > 0.9
    assert one(x, y, "linear_regression") == pytest.approx(expected, abs=2e-6)


@FAMILY
def test_one_object_twice_gives_what_two_equal_objects_give(name: str) -> None:
    rows = layers(1, 40, (3, 8, 60))
    same = compare(rows, None, name).values
    np.testing.assert_allclose(same, compare(rows, {k: x.copy() for k, x in rows.items()}, name).values, atol=1e-12)
    np.testing.assert_allclose(np.diag(same), METRICS[name].self_value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(same, table(rows, rows, name), rtol=0, atol=1e-9)


@pytest.mark.parametrize("penalty", [0, 1e-8, 1e-3, 0.3, 1e4])
@pytest.mark.parametrize("shape", ["narrow", "mixed"])
def test_other_penalties_match_the_oracle(penalty: float, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = layers(1, n, p), layers(2, n, q)
    expected = [[spectral.gulp(x, y, penalty) for y in cols.values()] for x in rows.values()]
    np.testing.assert_allclose(compare(rows, cols, GULP(penalty)).values, expected, rtol=1e-9, atol=1e-11)
    expected = [[spectral.td_white(x, y, penalty) for y in cols.values()] for x in rows.values()]
    np.testing.assert_allclose(compare(rows, cols, WhiteTD(penalty)).values, expected, rtol=0, atol=1e-9)


def test_names_and_settings() -> None:
    assert get_metric("procrustes") == Procrustes(angular=False)
    assert get_metric("angular_procrustes") == Procrustes(angular=True)
    assert get_metric("gulp") == GULP(penalty=0.01)
    assert get_metric("td_white(penalty=0)") == WhiteTD(penalty=0)
    assert get_metric("linear_regression") == LinearRegression()


# Exact near zero.


@DISTANCES
@pytest.mark.parametrize(("n", "p"), [(60, 7), (30, 80), (200, 64)])
def test_a_copy_is_at_distance_zero(name: str, n: int, p: int) -> None:
    x = layers(1, n, (p,))["layer0"]
    assert one(x, x.copy(), name) <= 1e-12
    assert one(x.astype(np.float32), x.astype(np.float32), name) <= 1e-6


@DISTANCES
@pytest.mark.parametrize(("n", "p"), [(60, 7), (30, 80), (200, 64)])
def test_a_copy_is_at_distance_zero_among_many_layers(
    name: str, n: int, p: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GULP is not normalised: it is measured against the norm of one smoother."""
    monkeypatch.setattr(_spectrum, "_LARGE", 0)
    x = layers(1, n, (p,))["layer0"].astype(np.float32)
    assert one(x, x.copy(), name) <= 1e-6 * (np.linalg.norm(spectral.smoother(x, 0.01)) if name == "gulp" else 1)


@DISTANCES
def test_a_layer_of_the_same_list_is_at_distance_zero_among_many_layers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_spectrum, "_LARGE", 0)
    rows = {k: x.astype(np.float32) for k, x in layers(1, 60, (3, 8, 90)).items()}
    assert np.diag(compare(rows, None, name).values).max() <= 1e-6


@DISTANCES
def test_a_rotated_scaled_and_shifted_copy_is_at_distance_zero(name: str) -> None:
    x, _ = pair()
    assert one(x, -37.5 * turned(x) + 20, name) <= 1e-10


@pytest.mark.parametrize("name", ["procrustes", "angular_procrustes", "gulp"])
@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("turn", [False, True])
def test_a_small_change_has_its_size(name: str, noise: float, turn: bool) -> None:
    """2 − 2‖XᵀY‖_* would know a distance of 1e-9 to no digit: its square is below the rounding of 2."""
    x, _ = pair()
    y = x + noise * np.random.default_rng(4).standard_normal(x.shape)
    y = turned(y) if turn else y
    assert one(x, y, name) == pytest.approx(ORACLES[name](x, y), rel=1e-3)


@pytest.mark.parametrize("name", ["procrustes", "angular_procrustes"])
def test_a_weak_further_direction_on_either_side_has_its_size(name: str) -> None:
    """The narrower layer is turned into the wider one's space; the other way round would lose a direction."""
    x, _ = pair()
    wider = np.hstack([x, 1e-6 * np.random.default_rng(4).standard_normal((60, 2))])
    for p, q in ((x, wider), (wider, x)):
        assert one(p, q, name) == pytest.approx(ORACLES[name](p, q), rel=1e-3)


# Closed forms.

SHARED = pytest.mark.parametrize(("k1", "k2", "shared"), [(4, 4, 2), (3, 5, 2), (6, 2, 1), (3, 3, 3), (2, 3, 0)])


def bases(k1: int, k2: int, shared: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases that share their last and first directions."""
    basis = orthonormal(50, k1 + k2 - shared)
    return basis[:, :k1], basis[:, k1 - shared :]


@SHARED
def test_procrustes_of_bases_that_share_j_directions(k1: int, k2: int, shared: int) -> None:
    x, y = bases(k1, k2, shared)
    nuclear = shared / math.sqrt(k1 * k2)
    assert one(x, y, "procrustes") == pytest.approx(math.sqrt(2 - 2 * nuclear), abs=1e-7)
    assert one(x, y, "angular_procrustes") == pytest.approx(math.acos(min(1, nuclear)), abs=1e-7)


@SHARED
@pytest.mark.parametrize("penalty", [0, 0.01, 0.5])
def test_gulp_of_bases_that_share_j_directions(k1: int, k2: int, shared: int, penalty: float) -> None:
    """Each of k directions has the share 1 / k of a unit trace, so S keeps 1 / (1 + kλ) of it."""
    x, y = bases(k1, k2, shared)
    a, b = 1 / (1 + k1 * penalty), 1 / (1 + k2 * penalty)
    squared = k1 * a**2 + k2 * b**2 - 2 * shared * a * b
    assert one(x, y, GULP(penalty)) == pytest.approx(math.sqrt(squared), abs=1e-7)


@SHARED
@pytest.mark.parametrize("penalty", [0, 0.01, 100])
def test_td_white_of_bases_that_share_j_directions(k1: int, k2: int, shared: int, penalty: float) -> None:
    x, y = bases(k1, k2, shared)
    assert one(x, y, WhiteTD(penalty)) == pytest.approx(2 - 2 * shared / math.sqrt(k1 * k2), abs=1e-12)


@SHARED
def test_regression_on_bases_that_share_j_directions(k1: int, k2: int, shared: int) -> None:
    x, y = bases(k1, k2, shared)
    assert one(x, y, "linear_regression") == pytest.approx(shared / k1, abs=1e-12)
    assert one(y, x, "linear_regression") == pytest.approx(shared / k2, abs=1e-12)


def test_regression_weighs_by_the_variance_that_is_predicted() -> None:
    """The row layer is predicted from the column layer: 9 of its 9 + 1 lie in the column layer's span."""
    basis = orthonormal(50, 3)
    x, y = basis[:, :2] * [3, 1] + 5, basis[:, [0, 2]] * [1, 4] - 8
    assert one(x, y, "linear_regression") == pytest.approx(9 / 10, abs=1e-12)
    assert one(y, x, "linear_regression") == pytest.approx(1 / 17, abs=1e-12)


def test_one_column_each_is_the_squared_correlation() -> None:
    x, y = pair(p=1, q=1)
    r = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert one(x, y, "linear_regression") == pytest.approx(r**2, abs=1e-12)
    assert one(x, y, "procrustes") == pytest.approx(math.sqrt(2 - 2 * abs(r)), abs=1e-12)
    assert one(x, y, "angular_procrustes") == pytest.approx(math.acos(abs(r)), abs=1e-12)
    assert one(x, y, "td_white") == pytest.approx(2 - 2 * r**2, abs=1e-12)
    assert one(x, y, "gulp") == pytest.approx(math.sqrt(2 - 2 * r**2) / 1.01, abs=1e-12)


@FAMILY
def test_mirrored_features_are_the_same(name: str) -> None:
    x, _ = pair()
    assert one(x, -x, name) == pytest.approx(METRICS[name].self_value, abs=1e-10)


def test_orthogonal_layers_are_as_far_as_can_be() -> None:
    basis = orthonormal(50, 6)
    x, y = basis[:, :4] * [4, 3, 2, 1], basis[:, 4:]
    expected = {"procrustes": math.sqrt(2), "angular_procrustes": math.pi / 2, "td_white": 2, "linear_regression": 0}
    for name, value in expected.items():
        assert one(x, y, name) == pytest.approx(value, abs=1e-12)


# GULP and TD as averages over tasks.


@pytest.mark.parametrize("penalty", [0, 0.01, 1])
def test_gulp_is_the_mean_square_of_what_ridge_heads_answer_differently_to_white_noise(penalty: float) -> None:
    x, y = pair()
    tasks = np.random.default_rng(0).standard_normal((60, 20_000))
    gaps = np.sum(((spectral.smoother(x, penalty) - spectral.smoother(y, penalty)) @ tasks) ** 2, axis=0)
    error = gaps.std() / math.sqrt(len(gaps))
    assert one(x, y, GULP(penalty)) ** 2 == pytest.approx(gaps.mean(), abs=4 * error)
    assert error < 0.02 * gaps.mean()


def test_the_worst_task_is_bounded_by_gulp() -> None:
    x, y = pair()
    operator = np.linalg.norm(spectral.smoother(x, 0.01) - spectral.smoother(y, 0.01), 2)
    assert operator <= one(x, y, "gulp")


def test_td_white_goes_from_squared_cca_to_cka() -> None:
    """1 − TD_λ / 2 is Σρ² / √(r₁ r₂) without a penalty and biased linear CKA as the penalty grows."""
    x, y = pair(p=7, q=5)
    r2 = one(x, y, "r2_cca") * 5 / math.sqrt(35)
    assert spectral.r2_cca(x, y) == pytest.approx(r2, abs=1e-12)
    for penalty, limit in ((0, r2), (1e-9, r2), (1e8, cka.biased(x, y))):
        assert 1 - one(x, y, WhiteTD(penalty)) / 2 == pytest.approx(limit, abs=1e-6)
    assert abs(r2 - cka.biased(x, y)) > 0.1


def test_gulp_goes_from_squared_cca_to_the_distance_of_covariances() -> None:
    x, y = pair(p=7, q=5)
    assert one(x, y, GULP(0)) ** 2 == pytest.approx(7 + 5 - 2 * 5 * one(x, y, "r2_cca"), abs=1e-9)
    a, b = (spectral.unit_trace(z) for z in (x, y))
    limit = np.linalg.norm(a @ a.T - b @ b.T) / 60
    assert 1e6 * one(x, y, GULP(1e6)) == pytest.approx(limit, rel=1e-5)


def test_unrelated_layers_without_a_penalty_are_at_the_expected_distance() -> None:
    """E Σρ² = p q / (n − 1) for independent Gaussians."""
    rng = np.random.default_rng(0)
    n, p = 200, 10
    rows = {f"{i}": rng.standard_normal((n, p)) for i in range(12)}
    cols = {f"{i}": rng.standard_normal((n, p)) for i in range(12)}
    assert compare(rows, cols, WhiteTD(0)).values.mean() == pytest.approx(2 * (1 - p / (n - 1)), abs=0.01)
    found = compare(rows, cols, "linear_regression").values.mean()
    assert found == pytest.approx(p / (n - 1), abs=0.005)


# What changes the values, and what does not.


@pytest.mark.parametrize("name", ["procrustes", "angular_procrustes", "gulp"])
def test_distances_obey_the_triangle_inequality(name: str) -> None:
    found = compare(layers(1, 40, (3, 8, 5, 60, 1, 20)), None, name).values
    assert np.all(found[:, None, :] <= found[:, :, None] + found[None, :, :] + 1e-12)


@pytest.mark.parametrize("metric", [GULP(0), WhiteTD(0)], ids=str)
def test_without_a_penalty_no_invertible_map_is_seen(metric: Metric) -> None:
    x, y = pair()
    mixed = turned(x * np.logspace(-1, 1, x.shape[1]))
    assert one(mixed, y, metric) == pytest.approx(one(x, y, metric), abs=1e-9)
    assert one(x, mixed, metric) <= 1e-7
    assert "invertible" in metric.invariances
    assert "invertible" not in type(metric)().invariances


def test_regression_sees_any_map_of_the_predicted_layer_and_no_invertible_one_of_the_predicting() -> None:
    x, y = pair()
    base = one(x, y, "linear_regression")
    assert one(x, turned(y * np.logspace(-1, 1, 5)), "linear_regression") == pytest.approx(base, abs=1e-10)
    assert abs(one(turned(x * np.logspace(1, -1, 7)), y, "linear_regression") - base) > 0.01


def test_more_predictors_never_predict_less() -> None:
    x, y = pair()
    found = [one(x, y[:, :q], "linear_regression") for q in range(1, 6)]
    assert found == sorted(found)
    assert found[0] < found[-1]


@FAMILY
def test_constant_and_repeated_columns_leave_it(name: str) -> None:
    x, y = pair()
    base = one(x, y, name)
    assert one(np.hstack([x, np.full((60, 2), 7.3)]), y, name) == pytest.approx(base, abs=1e-10)
    assert one(np.hstack([x, x]), np.hstack([y, y, y]), name) == pytest.approx(base, abs=1e-10)


@FAMILY
def test_rank_deficient_layers_match_the_oracle(name: str) -> None:
    x, y = pair()
    low = x[:, :3] @ np.random.default_rng(0).standard_normal((3, 30))
    found = compare({"low": low}, {"y": y}, name)
    assert found.values[0, 0] == pytest.approx(ORACLES[name](low, y), abs=1e-9)
    assert found.details["rank_row"] == 3
    assert found.details["rank_col"] == 5


@FAMILY
def test_duplicate_rows_match_the_oracle(name: str) -> None:
    x, y = (np.tile(z, (2, 1)) for z in pair(30))
    assert one(x, y, name) == pytest.approx(ORACLES[name](x, y), abs=1e-10)


@FAMILY
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e200, 1e-200])
def test_extreme_scales_leave_it(name: str, scale: float) -> None:
    dtype = np.float32 if 1e-38 < scale < 1e38 else np.float64
    x, y = (z.astype(dtype) for z in pair())
    for p, q in ((x * dtype(scale), y), (x, y * dtype(scale))):
        assert one(p, q, name) == pytest.approx(one(x, y, name), abs=1e-6)


@FAMILY
def test_a_large_mean_in_float32_leaves_what_the_type_still_holds(name: str) -> None:
    x, y = ((z + 1e4).astype(np.float32) for z in pair())
    assert one(x, y, name) == pytest.approx(ORACLES[name](x, y), abs=1e-6)


@FAMILY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_without_further_rounding(name: str, dtype: torch.dtype) -> None:
    x, y = (torch.tensor(z).to(dtype) for z in pair())
    a, b = Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        found = repsim.compare(a, b, name).values
    assert found == pytest.approx(ORACLES[name](x.double().numpy(), y.double().numpy()), abs=1e-6)


@FAMILY
def test_the_features_are_not_changed(name: str) -> None:
    x, y = (torch.tensor(z) for z in pair())
    kept = x.clone(), y.clone()
    one(x, y, name)  # type: ignore[arg-type]
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


@FAMILY
def test_prepared_layers_in_another_order_are_those_of_the_other_order(name: str) -> None:
    metric = METRICS[name]
    x, y = (torch.tensor(z) for z in pair())
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    rows, cols = metric.prepare([x], None), metric.prepare([y], None)
    moved = metric.permuted(rows, order)
    assert moved is not None
    expected = metric.pairwise(metric.prepare([x[order]], None), cols).values
    torch.testing.assert_close(metric.pairwise(moved, cols).values, expected, rtol=0, atol=1e-12)
    assert abs(expected.item() - metric.pairwise(rows, cols).values.item()) > 1e-3


# What stands beside the values, and what is refused.


@pytest.mark.parametrize("penalty", [0, 0.01, 2])
@pytest.mark.parametrize("family", [GULP, WhiteTD])
def test_effective_degrees_of_freedom_stand_beside_ridge_measures(family: type[Metric], penalty: float) -> None:
    rows, cols = layers(1, 40, (3, 60)), layers(2, 40, (8,))
    found = compare(rows, cols, family(penalty=penalty)).details  # type: ignore[call-arg]
    expected = [np.trace(spectral.smoother(x, penalty)) for x in (*rows.values(), *cols.values())]
    np.testing.assert_allclose(found["freedom_row"][:, 0], expected[:2], rtol=1e-9)
    np.testing.assert_allclose(found["freedom_col"][:, 0], expected[2], rtol=1e-9)
    np.testing.assert_array_equal(found["rank_row"][:, 0], [3, 39])
    np.testing.assert_array_equal(found["rank_col"][:, 0], 8)


@pytest.mark.parametrize("metric", [WhiteTD(0), WhiteTD(0.01), WhiteTD(1), LinearRegression()], ids=str)
def test_the_chance_level_is_the_mean_of_unrelated_layers(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    scale = np.geomspace(1, 0.1, 12)
    rows = {f"{i}": rng.standard_normal((80, 12)) * scale for i in range(25)}
    cols = {f"{i}": rng.standard_normal((80, 8)) * scale[:8] for i in range(25)}
    found = compare(rows, cols, metric)
    assert found.values.mean() == pytest.approx(found.details["chance"].mean(), abs=0.01)


RANK = "n = 60 samples are fewer than 10 times the largest rank, 7: unrelated layers would "
FREEDOM = "n = 60 samples are fewer than 10 times the most degrees of freedom, 7.0: unrelated layers would "
CLOSER = "look closer than they are; permutation_test tells how close. Use "

# A measure and its caution for layers of rank 7 and 5; none where they use fewer degrees of freedom than 6.
CAUTIONS = {
    "gulp(penalty=0)": FREEDOM + CLOSER + "a larger penalty, more samples or pooled features",
    "td_white(penalty=0)": FREEDOM + CLOSER + "a larger penalty, more samples or pooled features",
    "gulp(penalty=0.1)": None,
    "td_white(penalty=0.1)": None,
    "linear_regression": RANK + "reach an R² of 0.12. Use more samples, pooled features or debiased CKA",
    "procrustes": RANK + CLOSER + "more samples, pooled features or debiased CKA",
    "angular_procrustes": RANK + CLOSER + "more samples, pooled features or debiased CKA",
}


@pytest.mark.parametrize("name", CAUTIONS)
def test_a_caution_where_spans_fill_the_samples(name: str) -> None:
    x, y = pair()
    text = CAUTIONS[name]
    assert compare({"y": y}, {"x": x}, name).cautions == (() if text is None else (text,))
    assert compare({"y": y}, {"x": x[:, :6]}, name).cautions == ()


def test_how_many_columns_are_predicted_does_not_raise_what_chance_predicts() -> None:
    """R² of unrelated layers is the rank of the predicting one over n − 1, whatever is predicted."""
    x, y = pair()
    assert compare({"x": x}, {"y": y}, "linear_regression").cautions == ()


@pytest.mark.parametrize("family", [GULP, WhiteTD])
@pytest.mark.parametrize("penalty", [-0.1, math.nan, math.inf])
def test_penalties_that_are_refused(family: type[Metric], penalty: float) -> None:
    text = (
        f"{family.__name__}: penalty must be a finite number >= 0; got {penalty}. It is relative to features of mean "
        "row norm² 1: from 1e-4 to 1 is usual, 0 leaves the spans alone."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        family(penalty=penalty)  # type: ignore[call-arg]


def test_a_penalty_of_a_text_that_is_refused_says_why() -> None:
    with pytest.raises(ValueError, match="penalty must be a finite number >= 0; got -1"):
        get_metric("gulp(penalty=-1)")


@st.composite
def shapes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, p, q = draw(st.integers(3, 30)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-3, 3)
    return x, rng.standard_normal((n, q)) + draw(st.sampled_from([0.0, 1.0, 10.0])) * x[:, :1]


@FAMILY
@given(drawn=shapes())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_shape_matches_the_oracle(name: str, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = drawn
    assert one(x, y, name) == pytest.approx(ORACLES[name](x, y), abs=1e-8)
