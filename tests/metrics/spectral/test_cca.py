"""The CCA family against a generalised eigenproblem, closed forms, and inputs whose rank is in doubt."""

import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import CCA
from tests.oracles import cca as oracle
from tests.support.sides import compare, layers, one, orthonormal

ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean_cca": oracle.mean,
    "r2_cca": oracle.r2,
    "svcca": oracle.svcca,
    "pwcca": oracle.pwcca,
}
FAMILY = pytest.mark.parametrize("metric", ORACLES)

# n, widths of the rows, widths of the columns. No pair of ranks adds up to n - 1 or more with both wide: then some
# ρ are exactly 1, their canonical directions are free, and PWCCA has no single value.
SHAPES = {
    "narrow": (60, (3, 7), (5, 2, 11)),
    "wide rows": (30, (80, 40), (6,)),
    "mixed": (40, (3, 90), (8, 4)),
    "width one": (20, (1,), (1, 3)),
}


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], metric: str) -> np.ndarray:
    return np.array([[ORACLES[metric](x, y) for y in cols.values()] for x in rows.values()])


@FAMILY
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_matches_the_oracle(metric: str, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = layers(1, n, p), layers(2, n, q)
    found = compare(rows, cols, metric)
    assert found.values.shape == (len(p), len(q))
    np.testing.assert_allclose(found.values, table(rows, cols, metric), rtol=0, atol=1e-9)


@FAMILY
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_computed_in_float64(metric: str, shape: str) -> None:
    """The oracle gets the same rounded numbers; nothing but their input is single."""
    n, p, q = SHAPES[shape]
    rows = {name: x.astype(np.float32) for name, x in layers(1, n, p).items()}
    cols = {name: x.astype(np.float32) for name, x in layers(2, n, q).items()}
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", ["mean_cca", "r2_cca", "svcca"])
def test_two_wide_layers_match_the_oracle(metric: str) -> None:
    rows, cols = layers(1, 20, (50, 30)), layers(2, 20, (25, 12))
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=1e-9)


@FAMILY
def test_one_object_twice_gives_what_two_equal_objects_give(metric: str) -> None:
    rows = layers(1, 40, (3, 8, 5))
    same = compare(rows, None, metric).values
    np.testing.assert_allclose(same, compare(rows, {k: x.copy() for k, x in rows.items()}, metric).values, atol=1e-12)
    np.testing.assert_allclose(np.diag(same), 1, atol=1e-12)
    np.testing.assert_allclose(same, table(rows, rows, metric), atol=1e-9)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (CCA("r2", variance=0.9), lambda x, y: np.mean(oracle.canonical(x, y, 0.9)[0] ** 2)),
        (CCA("mean", variance=0.5), lambda x, y: np.mean(oracle.canonical(x, y, 0.5)[0])),
    ],
    ids=["r2 of 0.9", "mean of 0.5"],
)
def test_other_shares_of_variance(metric: CCA, expected: Callable[[np.ndarray, np.ndarray], float]) -> None:
    x, y = layers(1, 60, (12, 9)).values()
    assert one(x, y, metric) == pytest.approx(expected(x, y), abs=1e-10)
    assert abs(one(x, y, metric) - one(x, y, CCA(metric.summary))) > 0.01


def test_svcca_keeps_the_fewest_components_that_hold_the_share() -> None:
    """Σσ² decides, not Σσ: of σ = 10, 1, 1 the first holds 100 / 102 of the variance but 10 / 12 of the sum."""
    x = orthonormal(30, 3) * [10, 1, 1]
    y = layers(1, 30, (5,))["layer0"]
    for variance, rank in ((0.98, 1), (0.985, 2), (0.995, 3), (1.0, 3)):
        assert compare({"x": x}, {"y": y}, CCA("mean", variance=variance)).details["rank_row"] == rank


@pytest.mark.parametrize(("k1", "k2", "shared"), [(4, 4, 2), (3, 5, 2), (6, 2, 1), (3, 3, 3), (2, 3, 0)])
@pytest.mark.parametrize("metric", ["mean_cca", "r2_cca"])
def test_bases_that_share_j_directions(metric: str, k1: int, k2: int, shared: int) -> None:
    basis = orthonormal(50, k1 + k2 - shared)
    x, y = basis[:, :k1], basis[:, k1 - shared :]
    assert one(x, y, metric) == pytest.approx(shared / min(k1, k2), abs=1e-12)


def test_pwcca_weighs_by_the_first_argument() -> None:
    """One shared direction, which carries 3 of the first layer's 3 + 1 and 1 of the second's 1 + 4."""
    basis = orthonormal(50, 3)
    x, y = basis[:, :2] * [3, 1], basis[:, [0, 2]] * [1, 4]
    assert one(x, y, "pwcca") == pytest.approx(3 / 4, abs=1e-12)
    assert one(y, x, "pwcca") == pytest.approx(1 / 5, abs=1e-12)


def test_pwcca_weights_are_normalised_after_truncation() -> None:
    """Of the wider first layer only the pairs that the second can match have a say."""
    basis = orthonormal(50, 5)
    assert one(basis[:, :4] * [1, 2, 30, 40], basis[:, :2], "pwcca") == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("metric", ["mean_cca", "r2_cca", "pwcca"])
@pytest.mark.parametrize(("p", "q"), [(19, 19), (40, 25), (19, 3), (3, 60)])
def test_as_many_features_as_samples_make_every_correlation_one(metric: str, p: int, q: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, p)), rng.standard_normal((20, q))
    assert one(x, y, metric) == pytest.approx(1, abs=1e-9)


def test_chance_level_of_unrelated_gaussian_features() -> None:
    """225 pairs: the mean of ρ² is the larger width over n - 1."""
    n, p, q = 60, 12, 5
    rng = np.random.default_rng(0)
    rows = {f"{i}": rng.standard_normal((n, p)) for i in range(15)}
    cols = {f"{i}": rng.standard_normal((n, q)) for i in range(15)}
    found = compare(rows, cols, "r2_cca")
    assert found.values.mean() == pytest.approx(p / (n - 1), abs=0.006)
    np.testing.assert_allclose(found.details["chance_mean_rho2"], p / (n - 1), rtol=1e-12)


def test_few_samples_are_a_caution() -> None:
    a = Activations.from_arrays(layers(1, 50, (6, 3)), name="one")
    caution = (
        "n = 50 samples are fewer than 10 times the largest rank, 6: unrelated layers would reach a mean ρ² of 0.12. "
        "Use more samples, pooled features or debiased CKA"
    )
    with pytest.warns(CautionWarning, match=f"^{re.escape(f'compare one × one, mean_cca: {caution}.')}$"):
        found = repsim.compare(a, a, "mean_cca")
    assert found.cautions == (caution,)
    enough = Activations.from_arrays(layers(1, 60, (6, 3)))
    assert repsim.compare(enough, enough, "mean_cca").cautions == ()


def test_ranks_stand_beside_the_values() -> None:
    x, y = layers(1, 40, (3, 60)).values()
    deficient = np.hstack([x, x @ np.ones((3, 2)), np.zeros((40, 1))])
    found = compare({"x": x, "y": y}, {"deficient": deficient, "one": x[:, :1]}, "mean_cca")
    np.testing.assert_array_equal(found.details["rank_row"], [[3, 3], [39, 39]])
    np.testing.assert_array_equal(found.details["rank_col"], [[3, 1], [3, 1]])


@FAMILY
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rank_deficient_layers_match_the_oracle_of_their_rank(metric: str, dtype: type) -> None:
    rng = np.random.default_rng(3)
    x, y = layers(1, 60, (3, 9)).values()
    low = x @ rng.standard_normal((3, 12))
    # Rounding to float32 moves the low-rank layer by 6e-8 of itself, and ρ in proportion.
    tolerance = 1e-9 if dtype is np.float64 else 1e-6
    found = compare({"low": low.astype(dtype)}, {"y": y.astype(dtype)}, metric)
    assert found.details["rank_row"] == 3
    assert found.values[0, 0] == pytest.approx(ORACLES[metric](low, y), abs=tolerance)


@FAMILY
@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_rank_deficient_float32_layers_with_a_large_mean_keep_their_rank(metric: str, offset: float) -> None:
    """Rounding at the size of the mean adds directions of noise, which no layer has."""
    rng = np.random.default_rng(3)
    x, y = layers(1, 60, (3, 9)).values()
    low = x @ rng.standard_normal((3, 12))
    found = compare({"low": (low + offset).astype(np.float32)}, {"y": y}, metric)
    assert found.details["rank_row"] == 3
    # Rounding moves the layer by 6e-8 of its mean, and ρ by about as much of its spread, which is about 1.
    assert found.values[0, 0] == pytest.approx(ORACLES[metric](low, y), abs=1e-6 * offset)


@FAMILY
def test_duplicate_rows_match_the_oracle(metric: str) -> None:
    x, y = layers(1, 40, (4, 9)).values()
    x, y = np.vstack([x[:20], x[:20]]), np.vstack([y[:20], y[:10], y[30:]])
    assert one(x, y, metric) == pytest.approx(ORACLES[metric](x, y), abs=1e-9)


@FAMILY
def test_constant_columns_leave_it(metric: str) -> None:
    x, y = layers(1, 60, (6, 5)).values()
    for fill in (0.0, 7.3, -1e6):
        wider = np.hstack([x, np.full((60, 2), fill)])
        assert one(wider, y, metric) == pytest.approx(one(x, y, metric), abs=1e-9)
        assert one(y, wider, metric) == pytest.approx(one(y, x, metric), abs=1e-9)


@FAMILY
def test_duplicated_columns_leave_it(metric: str) -> None:
    x, y = layers(1, 60, (6, 5)).values()
    assert one(np.hstack([x, x]), y, metric) == pytest.approx(one(x, y, metric), abs=1e-9)


def test_scaling_one_column_leaves_the_correlations_and_changes_what_weighs_by_variance() -> None:
    x, y = layers(1, 60, (6, 5)).values()
    scaled = x * [1, 1, 100, 1, 1, 1]
    for metric, moves in {"mean_cca": False, "r2_cca": False, "svcca": True, "pwcca": True}.items():
        assert (abs(one(scaled, y, metric) - one(x, y, metric)) > 1e-3) is moves


def test_ill_conditioned_layers_keep_their_directions() -> None:
    """A covariance would square a condition number of 1e9 and lose the weak directions."""
    x, y = layers(1, 60, (6, 5)).values()
    for metric in ("mean_cca", "r2_cca"):
        assert one(x * np.logspace(0, -9, 6), y, metric) == pytest.approx(one(x, y, metric), abs=1e-5)


@FAMILY
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_extreme_scales_in_float32_leave_it(metric: str, scale: float) -> None:
    x, y = (z.astype(np.float32) for z in layers(1, 40, (6, 5)).values())
    scaled = x * np.float32(scale)
    assert np.isfinite(scaled).all()
    assert one(scaled, y, metric) == pytest.approx(one(x, y, metric), abs=1e-6)
    assert one(y, scaled, metric) == pytest.approx(one(y, x, metric), abs=1e-6)


@FAMILY
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_extreme_scales_in_float64_leave_it(metric: str, scale: float) -> None:
    x, y = layers(1, 40, (6, 5)).values()
    assert one(x * scale, y, metric) == pytest.approx(one(x, y, metric), abs=1e-9)


@FAMILY
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_large_mean_in_float32_does_not_drown_the_differences(metric: str, offset: float) -> None:
    x, y = layers(1, 60, (6, 5)).values()
    x, y = (x + offset).astype(np.float32), y.astype(np.float32)
    assert one(x, y, metric) == pytest.approx(ORACLES[metric](x, y), abs=1e-9)


@FAMILY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float64(metric: str, dtype: torch.dtype) -> None:
    x, y = (torch.tensor(z).to(dtype) for z in layers(1, 40, (6, 5)).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        half = repsim.compare(Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y}), metric)
    assert half.values[0, 0] == pytest.approx(ORACLES[metric](x.double().numpy(), y.double().numpy()), abs=1e-9)


@FAMILY
def test_three_samples_have_two_directions(metric: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4)), rng.standard_normal((3, 2))
    assert one(x, y, metric) == pytest.approx(1, abs=1e-9)


@FAMILY
@pytest.mark.parametrize("n", [1, 2])
def test_too_few_samples(metric: str, n: int) -> None:
    a = Activations.from_arrays({"x": np.arange(2.0 * n).reshape(n, 2)})
    with pytest.raises(ValueError, match="needs at least") as caught:
        repsim.compare(a, a, metric)
    assert str(caught.value) == f"compare: {metric} needs at least 3 samples; got {n}. Extract on more samples."


def test_settings_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="summary") as caught:
        CCA("median")  # type: ignore[arg-type]
    assert str(caught.value) == "CCA: summary must be 'mean', 'r2' or 'pwcca'; got 'median'. Choose one of these."
    for variance in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match="variance") as caught:
            CCA("mean", variance=variance)
        advice = "Use 0.99 for SVCCA, 1 for all."
        assert str(caught.value) == f"CCA: variance must be in (0, 1]; got {variance}. {advice}"


@FAMILY
def test_the_features_are_not_changed(metric: str) -> None:
    x, y = (torch.tensor(z) for z in layers(1, 30, (4, 60)).values())
    kept = x.clone(), y.clone()
    compare({"x": x.numpy()}, {"y": y.numpy()}, metric)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
