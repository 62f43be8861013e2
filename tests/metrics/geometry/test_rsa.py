"""RSA against explicit loops over pairs, against closed forms, and on inputs that break careless code."""

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import get_metric, metric_name
from repsim.metrics.geometry import rsa as module
from repsim.metrics.geometry.rsa import RSA
from tests.conftest import exactly
from tests.oracles import rsa as oracle
from tests.support.sides import compare, layers, one

DISTANCES = ("euclidean", "sqeuclidean", "correlation", "cosine")
COMPARISONS = ("spearman", "pearson", "cosine")
SETTINGS = [RSA(d, c) for d in DISTANCES for c in COMPARISONS]  # type: ignore[arg-type]
EVERY = pytest.mark.parametrize("metric", SETTINGS, ids=lambda m: f"{m.distance}-{m.comparison}")

# n, widths of the rows, widths of the columns
SHAPES = {
    "narrow": (30, (3, 7), (5, 2, 11)),
    "wide": (12, (30, 50), (41,)),
    "three samples": (3, (4, 9), (5,)),
}
# Ranks of 435 float32 distances: rounding of the features, 6e-8, swaps neighbours in rank that are 1/435 apart at best.
SINGLE = 1e-5


def expected(x: np.ndarray, y: np.ndarray, metric: RSA) -> float:
    return oracle.rsa(x, y, metric.distance, metric.comparison)


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], metric: RSA) -> np.ndarray:
    return np.array([[expected(x, y, metric) for y in cols.values()] for x in rows.values()])


def tensors(found: dict[str, np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in found.values()]


# --- Values ---------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_matches_the_oracle(metric: RSA, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = layers(1, n, p), layers(2, n, q)
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=1e-9)


@EVERY
def test_float32_matches_the_oracle_of_the_same_numbers(metric: RSA) -> None:
    rows, cols = ({k: x.astype(np.float32) for k, x in layers(s, 30, (3, 40)).items()} for s in (1, 2))
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=SINGLE)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_from_what_they_are(metric: RSA, dtype: torch.dtype) -> None:
    halves = [x.to(dtype) for x in tensors(layers(1, 20, (5, 6)))]
    states = metric.prepare(halves)
    x, y = (half.double().numpy() for half in halves)
    want = expected(x, y, metric)
    assert float(metric.pairwise(states[:1], states[1:]).values) == pytest.approx(want, abs=SINGLE)


@EVERY
def test_one_object_twice_gives_what_two_equal_objects_give(metric: RSA) -> None:
    rows = layers(1, 15, (3, 8))
    same = compare(rows, None, metric).values
    np.testing.assert_allclose(same, compare(rows, {k: x.copy() for k, x in rows.items()}, metric).values, atol=1e-12)
    np.testing.assert_allclose(np.diag(same), 1, rtol=0, atol=1e-12)


@EVERY
def test_blocks_leave_the_values(metric: RSA, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, cols = layers(1, 23, (3, 40)), layers(2, 23, (5,))
    whole = compare(rows, cols, metric).values
    monkeypatch.setattr(module, "_BLOCK", 8 * 23 * 4)
    monkeypatch.setattr(module, "_CHUNK", 17)
    np.testing.assert_allclose(compare(rows, cols, metric).values, whole, rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole, table(rows, cols, metric), rtol=0, atol=1e-9)


def test_the_triangle_is_row_by_row() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    (state,) = RSA("euclidean", "cosine").prepare([x])
    distances = torch.tensor([1.0, 3, 7, 2, 6, 4], dtype=torch.float64)
    torch.testing.assert_close(state.vector / state.vector[0], distances)


def test_spearman_knows_only_the_order_of_distances() -> None:
    x, y = layers(1, 25, (4, 5)).values()
    assert one(x, y, RSA("sqeuclidean")) == pytest.approx(one(x, y, RSA("euclidean")), abs=1e-12)
    assert abs(one(x, y, RSA("sqeuclidean", "pearson")) - one(x, y, RSA("euclidean", "pearson"))) > 1e-3


# --- Ties -----------------------------------------------------------------------------------------------------


def grid(seed: int, n: int, p: int) -> np.ndarray:
    """Small integers: many distances are equal, and many rows appear twice."""
    return np.random.default_rng(seed).integers(1, 4, (n, p)).astype(float) + np.arange(p) % 2


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("dtype", "scale"), [(float, 1), (float, 0.1), (np.float32, 1), (np.float32, 2.0**66)])
def test_equal_distances_share_their_mean_rank(distance: str, dtype: type, scale: float) -> None:
    metric = RSA(distance)  # type: ignore[arg-type]
    x, y = ((scale * grid(s, 25, 3)).astype(dtype) for s in (1, 2))
    if distance == "correlation":  # rows that are constant have none
        x, y = x + np.array([0, 0, 1], dtype) * dtype(5 * scale), y + np.array([1, 0, 0], dtype) * dtype(5 * scale)
    found = compare({"x": x}, {"y": y}, metric)
    tolerance = 1e-9 if dtype is float else 1e-7
    assert found.values[0, 0] == pytest.approx(expected(x, y, metric), abs=tolerance)
    ranks = oracle.vector(x, distance, "spearman")
    _, counts = np.unique(ranks, return_counts=True)
    assert found.details["tied_row"][0, 0] == pytest.approx(counts[counts > 1].sum() / len(ranks), abs=1e-12)


@EVERY
def test_duplicate_rows_are_at_distance_zero(metric: RSA) -> None:
    x, y = (np.concatenate([z, z[:4], z[:4]]) for z in layers(1, 15, (4, 40)).values())
    for offset in (0.0, 1e4):
        assert one(x + offset, y, metric) == pytest.approx(expected(x + offset, y, metric), abs=1e-7)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 12), p=st.integers(1, 6), top=st.integers(1, 5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_ranks_of_small_integers_match_the_oracle(seed: int, n: int, p: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, top + 1, (n, p)).astype(float), rng.integers(0, 9, (n, p)).astype(float)
    found = compare({"x": x}, {"y": y}, RSA())
    if np.isnan(found.values[0, 0]):
        assert min(len(set(oracle.vector(z, "euclidean", "spearman"))) for z in (x, y)) == 1
    else:
        assert found.values[0, 0] == pytest.approx(expected(x, y, RSA()), abs=1e-9)


# --- What changes the value, and what does not ------------------------------------------------------------------

TRANSFORMATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "orthogonal": lambda x: x @ np.linalg.qr(np.random.default_rng(6).standard_normal((x.shape[1],) * 2))[0],
    "scale": lambda x: -37.5 * x,
    "shift": lambda x: x + 20 * np.random.default_rng(5).standard_normal(x.shape[1]),
    "invertible": lambda x: x * np.logspace(-1, 1.5, x.shape[1]),
}


@EVERY
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_invariances_of_every_setting_both_ways(metric: RSA, transformation: str) -> None:
    x, y = layers(1, 30, (6, 5)).values()
    change = TRANSFORMATIONS[transformation]
    move = abs(one(change(x), y, metric) - one(x, y, metric))
    assert move <= 1e-9 if transformation in metric.invariances else move > 1e-4


@EVERY
@pytest.mark.parametrize(("scale", "dtype"), [(1e30, np.float32), (1e-30, np.float32), (1e300, float), (1e-300, float)])
def test_huge_and_tiny_features(metric: RSA, scale: float, dtype: type) -> None:
    x, y = layers(1, 15, (4, 7)).values()
    base = one(x, y, metric)
    assert one((scale * x).astype(dtype), y, metric) == pytest.approx(base, abs=SINGLE)


@EVERY
def test_rows_of_very_different_sizes(metric: RSA) -> None:
    x, y = layers(1, 15, (4, 7)).values()
    x = x * np.logspace(-4, 4, 15)[:, None]
    assert one(x, y, metric) == pytest.approx(expected(x, y, metric), abs=1e-9)


@pytest.mark.parametrize("distance", ["euclidean", "sqeuclidean"])
def test_a_huge_offset_costs_only_what_the_features_have_lost(distance: str) -> None:
    x, y = layers(1, 30, (6, 5)).values()
    metric = RSA(distance)  # type: ignore[arg-type]
    far = (x + 1000).astype(np.float32)
    assert one(far, y, metric) == pytest.approx(expected(far, y, metric), abs=SINGLE)


# --- Where there is no number -----------------------------------------------------------------------------------


def reason(x: np.ndarray, metric: RSA) -> str:
    y = layers(1, len(x), (4,))["layer0"]
    found = compare({"x": x}, {"y": y, "x": x}, metric)
    assert np.isnan(found.values).all()
    assert found.reasons[0, 0] == found.reasons[0, 1]
    return found.reasons[0, 0]


def test_a_zero_row_has_no_cosine_distance() -> None:
    x = layers(1, 10, (4,))["layer0"]
    x[[3, 7]] = 0
    assert reason(x, RSA("cosine")) == (
        "the row layer has 2 of 10 samples without a direction (all zero), first sample 3, so no cosine distance; "
        "use distance='euclidean'"
    )
    assert one(x, x, RSA("euclidean")) == pytest.approx(1)


@pytest.mark.parametrize("row", [0.1, 1e-200, 12345.678])
def test_a_constant_row_has_no_correlation_distance(row: float) -> None:
    x = layers(1, 10, (7,))["layer0"]
    x[4] = row
    assert reason(x, RSA("correlation")) == (
        "the row layer has 1 of 10 samples without a direction (the same feature throughout), first sample 4, so no "
        "correlation distance; use distance='euclidean'"
    )
    assert np.isfinite(one(x, x, RSA("cosine")))


def test_one_feature_has_no_correlation_distance_and_a_cosine() -> None:
    x = layers(1, 10, (1,))["layer0"]
    assert reason(x, RSA("correlation")).startswith("the row layer has 10 of 10 samples without a direction")
    x, y = x - x.mean(), layers(2, 10, (4,))["layer0"]
    assert one(x, y, RSA("cosine")) == pytest.approx(expected(x, y, RSA("cosine")), abs=1e-9)


@pytest.mark.parametrize("comparison", ["spearman", "pearson"])
def test_distances_that_are_all_equal_correlate_with_nothing(comparison: str) -> None:
    metric = RSA("euclidean", comparison)  # type: ignore[arg-type]
    text = "the row layer has distances that are all equal, which nothing correlates with"
    assert reason(3 * np.eye(10) - 0.7, metric) == text
    assert one(np.eye(10), np.eye(10), RSA("euclidean", "cosine")) == pytest.approx(1)


def test_rows_on_one_ray_have_no_cosine_distances_to_compare() -> None:
    x = np.outer(np.arange(1.0, 11), [1, 2, 4])
    for comparison in COMPARISONS:
        text = "the row layer has distances that are all equal, which nothing correlates with"
        assert reason(x, RSA("cosine", comparison)) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["distance", "comparison"])
def test_unknown_settings_are_refused(setting: str) -> None:
    known = {"distance": DISTANCES, "comparison": COMPARISONS}[setting]
    text = f"RSA: {setting} must be one of {', '.join(map(repr, known))}; got 'kendall'. Choose one of these."
    with pytest.raises(ValueError, match=exactly(text)):
        RSA(**{setting: "kendall"})  # type: ignore[arg-type]


def test_more_distances_than_memory_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 2**20)
    x = torch.zeros(2000, 3)
    m = 2000 * 1999 // 2
    text = (
        f"RSA: the distances of all layers must fit in memory; got {m * 64 / 2**30:.1f} GB for 2 layers of 1,999,000 "
        "distances, with 0.0 GB free. Use fewer samples."
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        RSA().prepare([x, x])
    monkeypatch.setattr(module, "available_memory", lambda: None)
    assert RSA().prepare([x[:10], x[:10]])[0].undefined


# --- Chance -----------------------------------------------------------------------------------------------------


@EVERY
def test_chance_is_the_mean_over_all_orders(metric: RSA) -> None:
    x, y = layers(1, 5, (3, 4)).values()
    found = compare({"x": x}, {"y": y}, metric)
    orders = list(itertools.permutations(range(5)))
    rows = {str(order): x[list(order)] for order in orders}
    mean = compare(rows, {"y": y}, metric).values.mean()
    assert found.details["chance"][0, 0] == pytest.approx(mean, abs=1e-9)
    assert (mean > 0.1) == (metric.comparison == "cosine")


def test_the_cosine_is_told_to_be_high_in_unrelated_layers() -> None:
    x, y = layers(1, 20, (3, 4)).values()
    a, b = Activations.from_arrays({"x": x}, name="one"), Activations.from_arrays({"y": y}, name="two")
    text = (
        "compare one × two, rsa(comparison='cosine'): the cosine of unrelated layers' distances reaches {:.2f} here: "
        "read values against `chance`, or use comparison='pearson'."
    )
    high = compare({"x": x}, {"y": y}, RSA(comparison="cosine")).details["chance"][0, 0]
    with pytest.warns(CautionWarning, match=exactly(text.format(high))):
        repsim.compare(a, b, "rsa(comparison='cosine')")
    repsim.compare(a, b, "rsa")  # warns of nothing


# --- Resampling -------------------------------------------------------------------------------------------------


@EVERY
def test_permuted_states_are_those_of_permuted_rows(metric: RSA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 50)
    x = [*tensors(layers(1, 16, (3, 7))), torch.ones(16, 2, dtype=torch.float64)]
    order = torch.from_numpy(np.random.default_rng(3).permutation(16))
    moved, anew = metric.permuted(metric.prepare(x), order), metric.prepare([z[order] for z in x])
    for a, b in zip(moved, anew, strict=True):
        torch.testing.assert_close(a.vector, b.vector, rtol=0, atol=1e-9)
        assert (a.n, a.tied, a.undefined) == (b.n, b.tied, b.undefined)
        assert a.mean == pytest.approx(b.mean)


@EVERY
def test_resamples_are_lists_of_the_pairs_that_are_drawn(metric: RSA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 50)
    rows, cols = layers(1, 14, (3, 7)), layers(2, 14, (5,))
    drawn = np.random.default_rng(4).integers(0, 14, (4, 14))
    counts = np.stack([np.bincount(d, minlength=14) for d in drawn])
    states = metric.prepare(tensors({**rows, **{f"c{k}": x for k, x in cols.items()}}))
    found = metric.bootstrapped(states[:2], states[2:], torch.from_numpy(counts))
    for b, c in enumerate(counts):
        for i, x in enumerate(rows.values()):
            want = oracle.resampled(x, cols["layer0"], c, metric.distance, metric.comparison)
            assert float(found[b, i, 0]) == pytest.approx(want, abs=1e-9)
    once = metric.bootstrapped(states[:2], states[2:], torch.ones(1, 14, dtype=torch.int64))
    torch.testing.assert_close(once[0], metric.pairwise(states[:2], states[2:]).values, rtol=0, atol=1e-12)


@EVERY
def test_resamples_without_a_number_are_nan(metric: RSA) -> None:
    x = [*tensors(layers(1, 8, (3, 4))), torch.ones(8, 2, dtype=torch.float64)]
    states = metric.prepare(x)
    counts = torch.zeros(2, 8, dtype=torch.int64)
    counts[0, 2] = 8  # no pair of samples is left
    counts[1] = 1
    found = metric.bootstrapped(states[:1], states[1:], counts)
    assert found.isnan().tolist() == [[[True, True]], [[False, True]]]


# --- Names ------------------------------------------------------------------------------------------------------


@EVERY
def test_names_titles_and_bounds(metric: RSA) -> None:
    name = metric_name(metric)
    assert get_metric(name) == metric
    assert metric.distance in metric.title
    assert re.search(metric.comparison, metric.title, re.IGNORECASE)
    assert metric.bounds == ((0, 1) if metric.comparison == "cosine" else (-1, 1))
    assert metric.meaning.endswith("unrelated layers")


def test_the_default_is_spearman_of_euclidean_distances() -> None:
    assert get_metric("rsa") == RSA("euclidean", "spearman")
    assert RSA().title == "RSA, Spearman of euclidean distances"
    assert RSA("cosine", "cosine").title == "RSA, cosine of cosine distances"
