"""Minibatch CKA against its definition, its state of plain sums, and inputs that break careless code."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repsim.metrics import METRICS, get_metric, metric_name
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.alignment.cka_minibatch import MinibatchCKA
from repsim.metrics.alignment.streaming import ShiftedLayer, Sums, shifted
from tests.conftest import exactly
from tests.oracles import cka as cka_oracle
from tests.oracles import cka_minibatch as oracle
from tests.support.sides import compare, layers


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], size: int) -> np.ndarray:
    return np.array([[oracle.minibatch(x, y, size) for y in cols.values()] for x in rows.values()])


def single(side: dict[str, np.ndarray], factor: float = 1) -> dict[str, np.ndarray]:
    return {name: (factor * x).astype(np.float32) for name, x in side.items()}


# --- The definition ---------------------------------------------------------------------------------------------


def test_the_oracle_agrees_with_itself() -> None:
    """The sum over different samples, and the closed form for it."""
    x, y = layers(1, 7, (3, 9)).values()
    k, l = x @ x.T, y @ y.T
    assert oracle.hsic_of_different_samples(k, l) == pytest.approx(cka_oracle.hsic1(k, l), rel=1e-10)
    assert [list(r) for r in oracle.batches(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]


@pytest.mark.parametrize("n", [4, 7, 8, 11, 12, 40])
@pytest.mark.parametrize("size", [4, 5, 8, 16, 40, 1000])
def test_float64_matches_the_oracle(n: int, size: int) -> None:
    rows, cols = layers(1, n, (3, 60, 1)), layers(2, n, (5, 30))
    found = compare(rows, cols, MinibatchCKA(size))
    np.testing.assert_allclose(found.values, table(rows, cols, size), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(found.details["batch_size"], np.full((3, 2), size))
    np.testing.assert_array_equal(found.details["batches"], np.full((3, 2), len(oracle.batches(n, size))))


@pytest.mark.parametrize(("n", "size"), [(300, 64), (300, 100), (130, 256), (131, 128), (60, 16)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_narrow_types_match_the_oracle_of_the_same_numbers(n: int, size: int, dtype: type) -> None:
    rows = {name: x.astype(dtype) for name, x in layers(1, n, (3, 500, 20)).items()}
    cols = {name: x.astype(dtype) for name, x in layers(2, n, (50, 1)).items()}
    found = compare(rows, cols, MinibatchCKA(size)).values
    np.testing.assert_allclose(found, table(rows, cols, size), rtol=0, atol=1e-6)


def test_bfloat16_has_a_value() -> None:
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = compare({"x": x}, {"y": x[:, :3]}, MinibatchCKA(40)).values
    expected = oracle.minibatch(x.double().numpy(), x[:, :3].double().numpy(), 40)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [4, 5, 30, 200])
@pytest.mark.parametrize("size", [200, 256])
def test_one_batch_of_all_rows_is_debiased_cka(n: int, size: int) -> None:
    rows, cols = layers(1, n, (3, 60, 1)), layers(2, n, (5, 300))
    np.testing.assert_allclose(
        compare(rows, cols, MinibatchCKA(size)).values, compare(rows, cols, "cka").values, rtol=0, atol=1e-10
    )


def test_the_order_of_batches_and_of_samples_inside_them_does_not_matter() -> None:
    rows, cols = layers(1, 40, (3, 60)), layers(2, 40, (5,))
    rng = np.random.default_rng(0)
    order = np.concatenate([10 * b + rng.permutation(10) for b in (2, 0, 3, 1)])
    base = compare(rows, cols, MinibatchCKA(10)).values
    mixed = [{name: x[order] for name, x in side.items()} for side in (rows, cols)]
    np.testing.assert_allclose(compare(mixed[0], mixed[1], MinibatchCKA(10)).values, base, rtol=0, atol=1e-12)
    # Samples that change their batch change the value: the test above could fail.
    moved = [{name: np.roll(x, 5, axis=0) for name, x in side.items()} for side in (rows, cols)]
    assert np.abs(compare(moved[0], moved[1], MinibatchCKA(10)).values - base).min() > 1e-6


def test_small_batches_aim_at_the_same_number_as_all_samples() -> None:
    """Unbiased sums: biased CKA in batches of 16 is far off (science: 0.76 against 0.60)."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((2048, 8))
    x, y = (shared + 1.2 * rng.standard_normal((2048, 8)) for _ in range(2))
    exact = compare({"x": x}, {"y": y}, "cka").values[0, 0]
    for size in (16, 64):
        assert compare({"x": x}, {"y": y}, MinibatchCKA(size)).values[0, 0] == pytest.approx(exact, abs=0.01)
    biased = [cka_oracle.biased(x[i : i + 16], y[i : i + 16]) for i in range(0, 2048, 16)]
    assert np.mean(biased) > exact + 0.1


def test_unrelated_layers_are_at_zero_on_average_and_may_be_below() -> None:
    rng = np.random.default_rng(0)
    rows, cols = ({f"{i}": rng.standard_normal((64, 200)) for i in range(12)} for _ in range(2))
    found = compare(rows, cols, MinibatchCKA(16)).values
    assert abs(found.mean()) < 4 * found.std() / 12
    assert found.min() < -0.001


def test_a_network_with_itself_is_symmetric_and_one_on_the_diagonal() -> None:
    side = layers(1, 50, (3, 60, 7))
    found, twin = compare(side, None, MinibatchCKA(16)), compare(side, dict(side), MinibatchCKA(16))
    np.testing.assert_allclose(found.values, found.values.T, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.diag(found.values), 1, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.values, twin.values, rtol=0, atol=1e-12)


@given(st.integers(4, 40), st.integers(4, 45), st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_shape_matches_the_oracle(n: int, size: int, p: int, q: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-3, 3)
    y = rng.standard_normal((n, q)) + 3 * x[:, :1] / x.std()
    found = compare({"x": x}, {"y": y}, MinibatchCKA(size)).values[0, 0]
    assert found == pytest.approx(oracle.minibatch(x, y, size), abs=1e-9)


# --- Hard inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e30, 1e15, 1e10, 1e-10, 1e-15, 1e-30])
@pytest.mark.parametrize("size", [16, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scales_near_the_ends_of_the_range(scale: float, size: int, dtype: type) -> None:
    rows, cols = layers(1, 100, (3, 400)), layers(2, 100, (5, 2))
    expected = table(rows, cols, size)
    far = {name: (scale * x).astype(dtype) for name, x in rows.items()}
    near = {name: x.astype(dtype) for name, x in cols.items()}
    tolerance = 1e-10 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(compare(far, near, MinibatchCKA(size)).values, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(compare(far, None, MinibatchCKA(size)).values, table(rows, rows, size), atol=tolerance)


def test_batches_of_unlike_scale_are_weighed_as_they_are() -> None:
    """The second batch has its own unit, and almost all of the variance."""
    x, y = layers(1, 80, (30, 30)).values()
    x, y = x.copy(), y.copy()
    x[40:] *= 1e12
    y[40:] *= 1e12
    both = compare({"x": x}, {"y": y}, MinibatchCKA(40)).values[0, 0]
    assert both == pytest.approx(oracle.minibatch(x, y, 40), abs=1e-10)
    assert both == pytest.approx(oracle.minibatch(x[40:], y[40:], 40), abs=1e-10)
    low = compare({"x": x.astype(np.float32)}, {"y": y.astype(np.float32)}, MinibatchCKA(40)).values[0, 0]
    assert low == pytest.approx(both, abs=1e-6)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_a_large_mean_costs_no_digits(offset: float) -> None:
    rng = np.random.default_rng(0)
    # Multiples of 1/16 survive the addition exactly, so that all error is the measure's own.
    rows, cols = ({name: np.round(16 * x) / 16 for name, x in layers(seed, 200, (50, 300)).items()} for seed in (1, 2))
    far = {name: (x + offset * rng.integers(-1, 2, x.shape[1])).astype(np.float32) for name, x in rows.items()}
    found = compare(far, single(cols), MinibatchCKA(100)).values
    np.testing.assert_allclose(found, table(rows, cols, 100), rtol=0, atol=1e-6)


def test_rows_that_repeat_columns_that_are_constant_and_low_ranks() -> None:
    x = layers(1, 60, (30,))["layer0"]
    repeated, with_constant = x[np.arange(60) // 2], np.hstack([x, np.full((60, 3), 7.0)])
    low = x[:, :2] @ np.random.default_rng(0).standard_normal((2, 90))
    side = {"repeated": repeated, "constant columns": with_constant, "low": low}
    np.testing.assert_allclose(compare(side, None, MinibatchCKA(12)).values, table(side, side, 12), rtol=0, atol=1e-10)


CONSTANT = "constant features: every sample has the same row"
NO_HSIC = "the row layer has an unbiased estimate of its own HSIC that is not positive"


@pytest.mark.parametrize("fill", [0.0, 0.1, 12345.678, -1e30])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [5, 20, 100])
def test_a_constant_layer_has_its_reason_and_takes_no_other_with_it(fill: float, dtype: type, size: int) -> None:
    x = layers(1, 100, (6,))["layer0"].astype(dtype)
    flat = np.full((100, 5), max(fill, float(np.finfo(dtype).min)), dtype=dtype)
    found = compare({"x": x, "flat": flat}, {"y": x[:, :3], "flat": flat}, MinibatchCKA(size))
    assert found.reasons == {
        (0, 1): f"the column layer has {CONSTANT}",
        (1, 0): f"the row layer has {CONSTANT}",
        (1, 1): f"the row layer has {CONSTANT}",
    }
    assert np.isfinite(found.values[0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [10, 120])
def test_a_spread_of_one_rounding_is_constant(dtype: type, size: int) -> None:
    one = dtype(1.9)
    flat = np.where(np.arange(120)[:, None] % 2, one, np.nextafter(one, dtype(2))) * np.ones((1, 4), dtype)
    x = layers(1, 120, (6,))["layer0"].astype(dtype)
    found = compare({"flat": flat}, {"x": x}, MinibatchCKA(size))
    assert found.reasons == {(0, 0): f"the row layer has {CONSTANT}"}


def test_a_layer_that_is_constant_in_each_batch_only_is_not_called_constant() -> None:
    x = np.repeat(np.arange(5.0), 10)[:, None] * np.ones((1, 3))
    found = compare({"x": x}, {"y": layers(1, 50, (4,))["layer0"]}, MinibatchCKA(10))
    assert found.reasons == {(0, 0): NO_HSIC}
    assert np.isfinite(compare({"x": x}, {"y": layers(1, 50, (4,))["layer0"]}, MinibatchCKA(50)).values).all()


def test_rows_that_are_all_equally_far_apart_have_no_direction() -> None:
    """One-hot rows: the Gram matrix is constant off the diagonal, and its unbiased estimate is zero."""
    x = np.tile(np.eye(10), (4, 1))
    found = compare({"x": x}, {"y": layers(1, 40, (4,))["layer0"]}, MinibatchCKA(10))
    assert found.reasons == {(0, 0): NO_HSIC}
    assert found.cautions == (f"1 of 1 cells are NaN; x × y: {NO_HSIC}",)


def test_an_estimate_that_is_nothing_but_rounding_has_no_direction() -> None:
    """The same rows in a turned space: their Gram matrix is constant up to rounding."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))[0]
    x = np.tile(np.eye(10) @ turn, (4, 1))
    k = x[:10] @ x[:10].T
    assert np.abs(k - np.eye(10)).max() > 0
    found = compare({"x": x}, {"y": layers(1, 40, (4,))["layer0"]}, MinibatchCKA(10))
    assert found.reasons == {(0, 0): NO_HSIC}


# --- Sums -------------------------------------------------------------------------------------------------------


def stream(metric: MinibatchCKA, rows: Sequence[Tensor], cols: Sequence[Tensor] | None) -> Sums:
    """The state after all batches, fed by hand."""
    sums = metric.start(len(rows), len(rows if cols is None else cols))
    for start, stop in metric.batches(len(rows[0])):

        def part(side: Sequence[Tensor], start: int = start, stop: int = stop) -> Iterator[ShiftedLayer]:
            return (shifted(x[start:stop], torch.empty(stop - start, x.shape[1], dtype=torch.float64)) for x in side)

        metric.update(sums, part(rows), None if cols is None else part(cols))
    return sums


def tensors(side: dict[str, np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(x) for x in side.values()]


@pytest.mark.parametrize("same", [False, True])
def test_the_states_of_two_streams_add_up_to_the_state_of_both(same: bool) -> None:
    metric = MinibatchCKA(8)
    rows = tensors(layers(1, 48, (3, 40)) | {"flat": np.full((48, 2), 0.1)})
    cols = None if same else tensors(layers(2, 48, (5,)))
    whole = stream(metric, rows, cols)
    # Two processes: each takes some of the batches, in any order.
    halves = [
        stream(metric, [x[part] for x in rows], None if cols is None else [x[part] for x in cols])
        for part in (slice(24, 48), slice(0, 24))
    ]
    added = {name: halves[0][name] + halves[1][name] for name in whole}
    for name, value in whole.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(added[name], value, rtol=1e-12, atol=1e-12)
    found, expected = metric.finish(added), metric.finish(whole)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-12, equal_nan=True)
    assert found.reasons == expected.reasons
    assert len(found.reasons) == (5 if same else 1)
    assert {name: x.tolist() for name, x in found.details.items()} == {
        name: x.tolist() for name, x in expected.details.items()
    }
    assert float(found.details["batches"][0, 0]) == 6
    # One half alone is another number: the addition above does something.
    assert float((metric.finish(halves[0]).values - expected.values).nan_to_num().abs().max()) > 1e-6


def test_finishing_leaves_the_state_for_more_batches() -> None:
    metric = MinibatchCKA(8)
    rows, cols = tensors(layers(1, 16, (3,))), tensors(layers(2, 16, (5,)))
    sums = stream(metric, rows, cols)
    before = {name: x.clone() for name, x in sums.items()}
    metric.finish(sums)
    assert all(torch.equal(x, before[name]) for name, x in sums.items())


def test_a_state_that_has_seen_nothing_has_no_value() -> None:
    found = MinibatchCKA().finish(MinibatchCKA().start(1, 2))
    assert torch.isnan(found.values).all()
    assert set(found.reasons) == {(0, 0), (0, 1)}


def test_a_batch_of_three_is_refused() -> None:
    metric, x = MinibatchCKA(), torch.randn(3, 2)
    text = "cka_minibatch: a batch must hold at least 4 samples; got 3. Leave it out, or merge it with another."
    with pytest.raises(ValueError, match=exactly(text)):
        metric.update(metric.start(1, 1), [shifted(x, torch.empty(3, 2))], None)


def test_features_are_never_changed() -> None:
    rows, cols = layers(1, 30, (3, 60)), layers(2, 30, (5,))
    before = [x.copy() for x in [*rows.values(), *cols.values()]]
    compare(rows, cols, MinibatchCKA(8))
    assert all(np.array_equal(x, y) for x, y in zip(before, [*rows.values(), *cols.values()], strict=True))


def test_gram_matrices_that_would_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.numerics.memory.available_memory", lambda: 2**20)
    rng = np.random.default_rng(0)
    rows = {f"{i}": rng.standard_normal((400, 2)) for i in range(3)}
    text = (
        "compare: the Gram matrices of one batch must fit into memory; got 0.0 GiB with 0.0 GiB free. "
        "Lower batch_size, or choose fewer layers."
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        compare(rows, None, MinibatchCKA(400))
    assert np.isfinite(compare(rows, None, MinibatchCKA(100)).values).all()


# --- What it says of itself -------------------------------------------------------------------------------------


def test_the_name_and_the_title_tell_the_batch_size() -> None:
    assert METRICS["cka_minibatch"] == MinibatchCKA(256) == get_metric("cka_minibatch")
    assert metric_name(MinibatchCKA(64)) == "cka_minibatch(batch_size=64)"
    assert get_metric("cka_minibatch(batch_size=64)").title == "CKA, debiased in batches of 64"
    assert CKA().title != MinibatchCKA().title


@pytest.mark.parametrize("size", [3, 0, -5])
def test_a_batch_holds_at_least_four(size: int) -> None:
    text = (
        f"cka_minibatch: batch_size must be at least 4; got {size}. "
        "HSIC has no unbiased estimate from fewer; 256 is usual."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        MinibatchCKA(size)
    with pytest.raises(ValueError, match=exactly(text)):
        get_metric(f"cka_minibatch(batch_size={size})")


@pytest.mark.parametrize("size", [16.0, True, "16", None])
def test_a_batch_size_is_an_integer(size: Any) -> None:
    text = f"cka_minibatch: batch_size must be an integer; got {size!r}. Pass how many samples make a batch, as in 256."
    with pytest.raises(TypeError, match=exactly(text)):
        MinibatchCKA(size)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("cka_minibatch needs at least 4 samples; got 3.")):
        compare(layers(1, 3, (2,)), None, "cka_minibatch")
