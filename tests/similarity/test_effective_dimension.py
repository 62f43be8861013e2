"""How many directions a layer uses, against numpy's singular values and closed forms."""

import numpy as np
import pytest
import torch

from repsim import Activations
from repsim.similarity.effective_dimension import dimension

COLUMNS = ["layer", "n", "width", "rank", "participation_ratio", "top_share", "components_99", "largest_row_share"]


def facts(x: np.ndarray) -> dict[str, float]:
    """From the definitions, by numpy's SVD of the centred features."""
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(axis=0)
    variance = np.linalg.svd(x, compute_uv=False) ** 2
    share = variance / variance.sum()
    return {
        "rank": np.linalg.matrix_rank(x, rtol=1e-10),
        "participation_ratio": 1 / np.sum(share**2),
        "top_share": share[0],
        "components_99": next(k for k in range(1, len(share) + 1) if share[:k].sum() >= 0.99),
        "largest_row_share": np.max(np.sum(x**2, axis=1)) / np.sum(x**2),
    }


def found(x: np.ndarray | torch.Tensor) -> dict[str, float]:
    (row,) = dimension(Activations.from_arrays({"x": x})).drop(columns=["layer", "n", "width"]).to_dict("records")
    return {str(name): value for name, value in row.items()}


def features(n: int, p: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)) @ (rng.standard_normal((p, p)) * np.logspace(0, -2, p)) + 3


@pytest.mark.parametrize(("n", "p"), [(50, 7), (7, 50), (20, 20), (3, 2), (2, 5), (30, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_column_matches_the_oracle(n: int, p: int, dtype: type) -> None:
    x = features(n, p).astype(dtype)
    assert found(x) == pytest.approx(facts(x), rel=1e-8)


def test_one_row_per_layer_in_order() -> None:
    layers = {"deep": features(20, 5), "early": features(20, 30, 1), "flat": np.full((20, 3), 0.1)}
    table = dimension(Activations.from_arrays(layers))
    assert list(table.columns) == COLUMNS
    assert list(table["layer"]) == ["deep", "early", "flat"]
    assert list(table["width"]) == [5, 30, 3]
    assert list(table["n"]) == [20, 20, 20]
    for name, row in zip(layers, table.to_dict("records"), strict=True):
        if name != "flat":
            expected = facts(layers[name])
            assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-8)


def test_equally_strong_directions_are_counted_by_all() -> None:
    n, k = 60, 5
    x = np.random.default_rng(0).standard_normal((n, k))
    basis = np.linalg.qr(x - x.mean(axis=0))[0]
    wide = 7 * basis @ np.linalg.qr(np.random.default_rng(1).standard_normal((40, k)))[0].T
    expected = {"rank": k, "participation_ratio": k, "top_share": 1 / k, "components_99": k}
    for layer in (basis, wide):
        assert {name: found(layer)[name] for name in expected} == pytest.approx(expected)


def test_components_are_counted_until_the_share_is_reached() -> None:
    basis = np.linalg.qr(np.vstack([np.eye(3), -np.eye(3)]))[0]  # columns of mean 0
    for shares, count in (((0.99, 0.005, 0.005), 1), ((0.98, 0.0101, 0.0099), 2), ((0.9, 0.06, 0.04), 3)):
        assert found(basis * np.sqrt(shares))["components_99"] == count


def test_one_sample_or_one_direction_may_carry_it_all() -> None:
    x = features(50, 8)
    x[17] += 1e4
    table = found(x)
    assert table["largest_row_share"] == pytest.approx(0.98, abs=1e-3)  # 49 / 50, the others share its mean
    assert table["top_share"] > 0.99
    assert table["participation_ratio"] == pytest.approx(1, abs=1e-3)
    assert table["components_99"] == 1
    assert table["rank"] == 8


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_the_rank_ignores_duplicate_constant_and_dependent_columns(shape: tuple[int, int]) -> None:
    n, p = shape
    rng = np.random.default_rng(0)
    low = rng.standard_normal((n, 3)) @ rng.standard_normal((3, p))
    assert found(low)["rank"] == 3
    assert found(np.hstack([low, low, np.full((n, 2), 1e5)]))["rank"] == 3
    assert found(low.astype(np.float32))["rank"] == 3
    assert found((low + 1e3).astype(np.float32))["rank"] == 3
    assert found(torch.tensor(low).half())["rank"] == 3
    assert found(np.vstack([low[:2], low[:2], low[:2]]))["rank"] == 1


def test_weak_directions_above_rounding_count() -> None:
    """Their variances differ by 1e-16, which a covariance would lose."""
    basis = np.linalg.qr(np.vstack([np.eye(4), -np.eye(4)]))[0]
    assert found(basis * [1, 1e-4, 1e-8, 1e-13])["rank"] == 3


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_scale_and_offset_leave_it(scale: float) -> None:
    x = features(30, 6).astype(np.float32)
    base = found(x)
    assert found(x * np.float32(scale)) == pytest.approx(base, rel=1e-5)
    assert found(x.astype(np.float64) * scale**6) == pytest.approx(base, rel=1e-10)
    assert found(x.astype(np.float64) + 1e6) == pytest.approx(base, rel=1e-7)


@pytest.mark.parametrize("fill", [0.0, 0.1, -1e30])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_constant_layer_has_rank_0_and_nothing_else(fill: float, dtype: type) -> None:
    table = found(np.full((10, 4), fill, dtype))
    assert table.pop("rank") == 0
    assert all(np.isnan(value) for value in table.values())
