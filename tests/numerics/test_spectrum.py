"""Which directions of a layer count: rounding of storing in half precision, feature by feature, against float64."""

import warnings

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning
from repsim.numerics.spectrum import spectra, storage_noise

N = 400


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both(x: torch.Tensor, y: torch.Tensor, metric: str, dtype: torch.dtype) -> float:
    """The measure of two layers as they are stored in `dtype`, told that they are of float64 or not."""
    a, b = (Activations.from_arrays({"l": v.to(dtype)}) for v in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return float(repsim.compare(a, b, metric).values[0, 0])


MEASURES = ["mean_cca", "r2_cca", "svcca", "pwcca", "procrustes", "linear_regression", "gulp", "td_white"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("level", "spread", "width"), [(300, 3, 48), (-2000, 300, 20), (9000, 0, 30), (800, 5, 500)])
def test_one_large_feature_hides_no_other(dtype: torch.dtype, level: float, spread: float, width: int) -> None:
    """The same stored numbers in float64 say what is right; width 500 has more features than samples."""
    x = randn(1, N, width)
    y = x @ torch.linalg.qr(randn(2, width, width))[0] + 0.5 * randn(3, N, width)
    large = level + spread * randn(4, N, 1)
    x, y = (torch.cat([v, large], 1).to(dtype) for v in (x, y))
    for metric in MEASURES:
        right = both(x.double(), y.double(), metric, torch.float64)
        assert both(x, y, metric, dtype) == pytest.approx(right, rel=0.02, abs=0.02), metric


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 20.0])
@pytest.mark.parametrize("width", [40, 600])
def test_rounding_of_a_low_rank_layer_is_no_feature(dtype: torch.dtype, offset: float, width: int) -> None:
    x = (30 * randn(1, N, 5) @ randn(2, 5, width) + offset).to(dtype)
    (found,) = spectra([x])
    assert found.rank == 5
    exact = np.linalg.matrix_rank(x.double().numpy() - x.double().numpy().mean(0))
    assert exact > 30  # in float64 rounding counts
    facts = repsim.dimension(Activations.from_arrays({"l": x}))
    assert facts["rank"].tolist() == [5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_of_storing_is_what_rounding_measures(dtype: torch.dtype) -> None:
    scales = torch.tensor([1e-6, 0.01, 1.0, 300.0, 2e4])
    exact = (randn(5, 20_000, 5).double() / 6 + 1) * scales
    stored = exact.to(dtype)
    noise = storage_noise(stored)
    assert noise is not None
    moved = (stored.double() - exact).square().mean(0).sqrt()
    torch.testing.assert_close(noise, 3**0.5 * moved, rtol=0.03, atol=0)
    assert storage_noise(exact) is None
    assert storage_noise(exact.float()) is None
    none = storage_noise(torch.zeros(4, 2, dtype=dtype))
    assert none is not None
    assert none.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", ["cka", "cka_biased", "mean_cca", "procrustes"])
def test_small_features_beside_a_constant_one_are_no_constant_layer(dtype: torch.dtype, metric: str) -> None:
    x, y = 0.01 * randn(1, N, 6), 0.01 * randn(2, N, 6)
    wide = torch.cat([x, torch.full((N, 1), 4096.0)], 1)
    assert both(wide, y, metric, dtype) == pytest.approx(both(x, y, metric, dtype), abs=1e-3)


def test_a_layer_of_rounding_alone_is_constant() -> None:
    flat = (torch.full((N, 4), 7.0) + 0.001 * randn(1, N, 4)).bfloat16()
    toggled = (torch.full((N, 4), 7.0156) + 0.001 * randn(2, N, 4)).bfloat16()
    assert len(toggled.unique()) == 2
    assert [s.constant for s in spectra([flat, toggled])] == [True, True]
