"""RTD against persistent homology by matrix reduction, closed forms, and where the package that it needs is missing."""

from typing import Any

import numpy as np
import pytest

from repsim.metrics import RTD, get_metric
from tests.conftest import exactly
from tests.oracles import rtd as oracle
from tests.support.sides import compare, layers, missing, one

WITH = pytest.mark.skipif(missing("rtd"), reason="rtd needs ripser")


@WITH
@pytest.mark.parametrize("n", [4, 7, 10])
def test_it_matches_persistent_homology_by_matrix_reduction(n: int) -> None:
    """ripser computes in float32."""
    for seed in range(3):
        x, y = layers(seed, n, (3, 5)).values()
        assert one(x, y, "rtd") == pytest.approx(oracle.rtd(x, y), abs=1e-5)


@WITH
def test_a_square_and_a_line() -> None:
    square, line = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]), np.arange(4.0)[:, None]
    assert one(square, line, "rtd") == pytest.approx(1 / np.sqrt(2) - 1 / 5, abs=1e-6)
    # 0 does not mean equal.
    assert one(square, square[[1, 0, 2, 3]], "rtd") == pytest.approx(0, abs=1e-6)


@WITH
def test_a_moved_copy_has_0() -> None:
    x = layers(1, 20, (5,))["layer0"]
    assert one(x, 5 * x, "rtd") == pytest.approx(0, abs=1e-5)


@WITH
def test_subsets_are_the_same_ones_in_every_call_and_their_spread_is_told() -> None:
    x, y = layers(1, 40, (5, 3)).values()
    metric = RTD(samples=12, subsets=3)
    found = compare({"x": x}, {"y": y}, metric)
    assert found.values.item() == one(x, y, metric) == one(y, x, metric)
    assert one(x, y, RTD(samples=12, subsets=3, seed=1)) != found.values.item()
    assert found.details["m"].item() == 12
    parts = [one(x[rows], y[rows], "rtd") for rows in subsets(40, 12, 3)]
    assert found.values.item() == pytest.approx(np.mean(parts), abs=1e-9)
    assert found.details["subset_sd"].item() == pytest.approx(np.std(parts, ddof=1), abs=1e-9)
    assert "subset_sd" not in compare({"x": x[:12]}, {"y": y[:12]}, metric).details


def subsets(n: int, m: int, count: int) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randperm(n, generator=generator)[:m].numpy() for _ in range(count)]


@WITH
def test_a_layer_of_duplicates_alone_has_no_number() -> None:
    x, y = layers(1, 40, (5, 3)).values()
    x[1:] = x[1]
    found = compare({"x": x}, {"y": y}, "rtd")
    reason = "the row layer has a 0.9 quantile of the distances of 0: nearly all samples are duplicates"
    assert found.reasons == {(0, 0): reason}


def test_where_ripser_is_missing_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    x = layers(1, 10, (5,))["layer0"]
    text = "RTD: the package ripser must be installed; got none. Install it, as in pip install ripser."
    with pytest.raises(ValueError, match=exactly(text)):
        one(x, x, "rtd")


@pytest.mark.parametrize(("name", "value", "least"), [("samples", 2, 3), ("subsets", 0, 1), ("seed", 1.5, 0)])
def test_wrong_settings(name: str, value: Any, least: int) -> None:
    text = f"RTD: {name} must be a whole number >= {least}; got {value!r}. Leave it out for the default."
    with pytest.raises(ValueError, match=exactly(text)):
        RTD(**{name: value})
    assert get_metric("rtd(samples=50)").title == "RTD, 50 samples"
