"""Products of all features at once: how long float32 sums are, and how much memory they take."""

import pytest
import torch
from torch import Tensor

from repsim.numerics import feature_products as _feature_products
from repsim.numerics.centring import centre
from repsim.numerics.feature_products import feature_products


def layers(seed: int, *widths: int, n: int = 20_000) -> list[Tensor]:
    """Features of one direction nearly alone: all terms of its sums are positive, which is what float32 does worst."""
    shared = 1.37 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0)).sign()
    own = torch.Generator().manual_seed(seed)
    return [shared + 0.1 * torch.randn(n, width, generator=own) for width in widths]


def products(rows: list[Tensor], cols: list[Tensor], dtype: torch.dtype) -> Tensor:
    a, b = ([centre(x, dtype) for x in side] for side in (rows, cols))
    return feature_products(a, a if rows is cols else b, rows is cols)


@pytest.mark.parametrize("twin", [False, True], ids=["two sides", "one side"])
def test_float32_sums_are_short(twin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = layers(1, 16, 32, 64)
    cols = rows if twin else layers(2, 8, 64)
    exact = products(rows, cols, torch.float64)
    error = (products(rows, cols, torch.float32) / exact - 1).nan_to_num().abs().max()
    assert float(error) < 1e-8
    monkeypatch.setattr(_feature_products, "_ROWS", 20_000)
    long = (products(rows, cols, torch.float32) / exact - 1).nan_to_num().abs().max()
    assert float(long) > 2e-8, "the features are no test of it"


@pytest.mark.parametrize("twin", [False, True], ids=["two sides", "one side"])
def test_layers_wider_than_a_group_are_cut(twin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_feature_products, "_GROUP", 16)
    rows = layers(1, 5, 40, 16, 33, n=70)
    cols = rows if twin else layers(2, 70, 3, n=70)
    found = products(rows, cols, torch.float64)
    every = rows if twin else [*rows, *cols]
    grams = []
    for x in every:
        centred = x.double() - x.double().mean(0)
        gram = centred @ centred.T
        grams.append((gram / gram.trace() * 70).fill_diagonal_(0))
    for i, k in enumerate(grams):
        for j, other in enumerate(grams):
            asked = twin or i == j or (i < len(rows) <= j)
            expected = float((k * other).sum()) if asked else 0.0
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-10)
