"""Nearest neighbours against sorting, CKNNA against explicit matrices, and inputs that break careless code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import Metric, get_metric, metric_name
from repsim.metrics.geometry import nearest as _nearest
from repsim.metrics.geometry import overlap as _neighbourhoods
from repsim.metrics.geometry.nearest import k_nearest
from repsim.metrics.geometry.neighbours import CKNNA, MutualKNN
from repsim.metrics.geometry.rows import points
from tests.conftest import exactly
from tests.oracles import cka
from tests.oracles import neighbors as oracle
from tests.support.sides import compare, layers, one

DISTANCES = ("cosine", "euclidean", "inner_product")
DISTANCE = pytest.mark.parametrize("distance", DISTANCES)
BOTH = pytest.mark.parametrize("metric", [MutualKNN(k=4), CKNNA(k=4)], ids=["mutual_knn", "cknna"])

# n, widths of the rows, widths of the columns
SHAPES = {
    "narrow": (40, (3, 7), (5, 2, 11)),
    "wide": (14, (30, 50), (41,)),
    "five samples": (5, (2, 9), (3,)),
}
# Sums of products of float32 features rounded once, in float64: nothing but the oracle's own rounding is left.
EXACT = 1e-9


def expected(x: np.ndarray, y: np.ndarray, metric: Metric) -> float:
    if isinstance(metric, MutualKNN):
        return oracle.mutual_knn(x, y, metric.k, metric.distance)
    assert isinstance(metric, CKNNA)
    return oracle.cknna(x, y, metric.k)


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], metric: Metric) -> np.ndarray:
    return np.array([[expected(x, y, metric) for y in cols.values()] for x in rows.values()])


def tensors(found: dict[str, np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in found.values()]


def found_neighbours(x: np.ndarray, k: int, distance: str) -> list[list[int]]:
    (state,) = MutualKNN(k, distance).prepare([torch.from_numpy(x)])  # type: ignore[arg-type]
    return state.index.tolist()


METRICS = [*(MutualKNN(k, d) for d in DISTANCES for k in (1, 4)), *(CKNNA(k) for k in (2, 4))]  # type: ignore[arg-type]
EVERY = pytest.mark.parametrize("metric", METRICS, ids=metric_name)


# --- Values ---------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_pair_matches_the_oracle_of_the_same_numbers(metric: Metric, shape: str, dtype: type) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = ({k: x.astype(dtype) for k, x in layers(*side).items()} for side in ((1, n, p), (2, n, q)))
    want = table(rows, cols, metric)
    np.testing.assert_allclose(compare(rows, cols, metric).values, want, rtol=0, atol=EXACT)
    assert want.std() > 1e-3 or n == 5  # where every sample is everyone's neighbour


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_from_what_they_are(metric: Metric, dtype: torch.dtype) -> None:
    halves = [x.to(dtype) for x in tensors(layers(1, 30, (8, 9)))]
    x, y = (half.double().numpy() for half in halves)
    states = metric.prepare(halves, None)
    assert float(metric.pairwise(states[:1], states[1:]).values) == pytest.approx(expected(x, y, metric), abs=EXACT)


@EVERY
def test_one_object_twice_gives_what_two_equal_objects_give(metric: Metric) -> None:
    rows = layers(1, 30, (3, 8, 5))
    same = compare(rows, None, metric).values
    np.testing.assert_allclose(same, compare(rows, {k: x.copy() for k, x in rows.items()}, metric).values, atol=1e-12)
    np.testing.assert_allclose(np.diag(same), 1, rtol=0, atol=1e-12)


@EVERY
def test_blocks_leave_the_values(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, cols = layers(1, 37, (3, 9)), layers(2, 37, (6,))
    monkeypatch.setattr(_nearest, "_TABLE", 5 * 37 * 8)
    monkeypatch.setattr(_nearest, "_GATHER", 7 * 9 * 8)
    monkeypatch.setattr(_neighbourhoods, "_TABLE", 6 * 37)
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=EXACT)


@pytest.mark.parametrize("shape", SHAPES)
def test_cknna_of_all_neighbours_is_debiased_cka(shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = layers(1, n, p), layers(2, n, q)
    want = [[cka.debiased(x, y) for y in cols.values()] for x in rows.values()]
    np.testing.assert_allclose(compare(rows, cols, CKNNA(k=n - 1)).values, want, rtol=0, atol=1e-10)


def test_hsic_of_masked_matrices_depends_on_the_order_of_layers_and_cknna_does_not() -> None:
    x, y = layers(1, 30, (3, 6)).values()
    a, b = oracle.masked(x, y, 4)
    assert abs(cka.hsic1(a, b) / cka.hsic1(b, a) - 1) > 1e-3
    assert one(x, y, CKNNA(4)) == pytest.approx(one(y, x, CKNNA(4)), abs=1e-12)


# --- Which neighbours -------------------------------------------------------------------------------------------


def clusters(spread: float, n: int = 120, p: int = 20) -> np.ndarray:
    """Tight groups far apart: within a group, |x|² - 2xy + |y|² keeps no digit in float32."""
    rng = np.random.default_rng(2)
    return (10 * rng.standard_normal((6, p)))[np.arange(n) % 6] + spread * rng.standard_normal((n, p))


@DISTANCE
@pytest.mark.parametrize(("spread", "dtype"), [(1e-3, np.float32), (1e-4, np.float32), (1e-9, np.float64)])
def test_neighbours_in_tight_groups_are_not_lost_to_rounding(distance: str, spread: float, dtype: type) -> None:
    x = clusters(spread).astype(dtype)
    assert found_neighbours(x, 5, distance) == oracle.neighbours(x, 5, distance)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("offset", "dtype"), [(1e3, np.float32), (1e8, np.float64)])
def test_neighbours_far_from_the_origin(distance: str, offset: float, dtype: type) -> None:
    x = (layers(1, 60, (12,))["layer0"] + offset).astype(dtype)
    assert found_neighbours(x, 5, distance) == oracle.neighbours(x, 5, distance)


@DISTANCE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_huge_row_leaves_the_others_their_neighbours(distance: str, dtype: type) -> None:
    x = layers(1, 40, (6,))["layer0"].astype(dtype)
    x[7] *= 1e10
    found, want = found_neighbours(x, 5, distance), oracle.neighbours(x, 5, distance)
    assert found[:7] + found[8:] == want[:7] + want[8:]  # from there, all others are equally far to ten digits


@DISTANCE
@pytest.mark.parametrize(("scale", "dtype"), [(1e30, np.float32), (1e-30, np.float32), (1e300, float), (1e-300, float)])
def test_neighbours_do_not_depend_on_the_scale(distance: str, scale: float, dtype: type) -> None:
    x = layers(1, 50, (6,))["layer0"]
    for features in (x, np.concatenate([x, x, x])):  # without ties, and with nothing but ties
        assert found_neighbours((scale * features).astype(dtype), 4, distance) == oracle.neighbours(
            features, 4, distance
        )


@DISTANCE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_duplicates_the_first_are_neighbours(distance: str, dtype: type) -> None:
    x = np.repeat(layers(1, 6, (5,))["layer0"], 4, axis=0)[np.random.default_rng(0).permutation(24)].astype(dtype)
    if distance == "inner_product":
        assert found_neighbours(x, 3, distance) == oracle.neighbours(x, 3, distance)
        return
    found = found_neighbours(x, 2, distance)
    twins = [[j for j in range(24) if j != i and (x[j] == x[i]).all()] for i in range(24)]
    assert found == [three[:2] for three in twins]
    for state in MutualKNN(2, distance).prepare([torch.from_numpy(x)]):  # type: ignore[arg-type]
        assert state.tied == 1
    for state in MutualKNN(3, distance).prepare([torch.from_numpy(x)]):  # type: ignore[arg-type]
        assert state.tied == 0


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(5, 30), p=st.integers(1, 4), k=st.integers(1, 4))
@settings(max_examples=60, deadline=None, derandomize=True)
@pytest.mark.parametrize("nearness", ["distance", "inner"])
def test_neighbours_on_a_grid_with_ties_match_the_oracle(seed: int, n: int, p: int, k: int, nearness: str) -> None:
    x = np.random.default_rng(seed).integers(-2, 3, (n, p)).astype(float)
    if np.ptp(x, axis=0).max() == 0:
        return
    kind = "euclidean" if nearness == "distance" else "inner_product"
    found, tied = k_nearest(points(torch.from_numpy(x), None), k, nearness)  # type: ignore[arg-type]
    assert found.tolist() == oracle.neighbours(x, k, kind)
    scores = oracle.scores(x, kind)
    np.fill_diagonal(scores, np.inf)
    ranked = np.sort(scores, axis=1)
    ties = (ranked[:, k - 1] == ranked[:, k]).mean()  # the row itself is last
    assert tied == pytest.approx(ties)


def test_rows_on_one_ray_are_all_equally_near_by_cosine() -> None:
    x = np.outer(np.arange(1.0, 9), [1, 2, 4, 0.3])
    assert found_neighbours(x, 2, "cosine") == [[1, 2], [0, 2], *[[0, 1]] * 6]


def test_unrelated_layers_share_what_chance_gives() -> None:
    rng = np.random.default_rng(0)
    rows = {str(i): rng.standard_normal((100, 5)) for i in range(10)}
    cols = {str(i): rng.standard_normal((100, 8)) for i in range(10)}
    found = compare(rows, cols, MutualKNN(10))
    chance = found.details["chance"][0, 0]
    assert chance == pytest.approx(10 / 99)
    assert found.values.mean() == pytest.approx(chance, abs=0.005)  # 1000 neighbours a pair, a hundred pairs: ±.001


# --- Where there is no number, and errors -----------------------------------------------------------------------


def test_a_zero_row_has_no_cosine_and_has_neighbours_otherwise() -> None:
    x, y = layers(1, 20, (4, 5)).values()
    x[[3, 7]] = 0
    found = compare({"y": y, "x": x}, {"x": x, "y": y}, MutualKNN(3))
    text = (
        "layer has 2 of 20 samples without a direction (all zero), first sample 3, so no cosine distance; use "
        "distance='euclidean'"
    )
    assert found.reasons == {(0, 0): f"the column {text}", (1, 0): f"the row {text}", (1, 1): f"the row {text}"}
    assert found.values[0, 1] == 1
    for distance in ("euclidean", "inner_product"):
        metric = MutualKNN(3, distance)  # type: ignore[arg-type]
        assert one(x, y, metric) == pytest.approx(expected(x, y, metric), abs=EXACT)


@BOTH
def test_nothing_but_constant_layers(metric: Metric) -> None:
    x = np.ones((20, 3))
    found = compare({"x": x}, {"x": x}, metric)
    assert found.reasons == {(0, 0): "the row layer has constant features: every sample has the same row"}
    states = metric.prepare([torch.from_numpy(x)], None)
    sample = metric.bootstrapped(states, states, torch.ones(2, 20, dtype=torch.int64))
    assert sample is not None
    assert sample.isnan().all()


def test_an_alignment_with_itself_that_is_not_positive_is_nan_with_its_reason() -> None:
    """Too few samples: nearly all of them have the same two neighbours, which do not return it."""
    x, y = (np.random.default_rng(seed).standard_normal((6, 30)) for seed in (2, 0))
    assert oracle.alignment(x, x, 2) < 0 < oracle.alignment(y, y, 2)
    found = compare({"x": x, "y": y}, {"x": x, "y": y}, CKNNA(2))
    text = "layer has a masked HSIC with itself that is not positive; choose another k"
    assert found.reasons == {(0, 0): f"the row {text}", (0, 1): f"the row {text}", (1, 0): f"the column {text}"}
    assert found.values[1, 1] == pytest.approx(1)


def test_cknna_beyond_one_is_said_and_not_cut() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((6, 30)), rng.standard_normal((6, 30))
    want = oracle.cknna(x, y, 3)
    assert want > 1.5
    a, b = Activations.from_arrays({"x": x}, name="one"), Activations.from_arrays({"y": y}, name="two")
    text = f"compare one × two, cknna(k=3): CKNNA is not bounded by 1: it reaches {want:.4f} here."
    with pytest.warns(CautionWarning, match=exactly(text)):
        found = repsim.compare(a, b, CKNNA(3))
    assert found.values[0, 0] == pytest.approx(want, abs=EXACT)


@pytest.mark.parametrize("metric", [MutualKNN(k=10), CKNNA(k=10), MutualKNN(k=1), CKNNA(k=2)], ids=metric_name)
def test_too_few_samples_for_k(metric: MutualKNN | CKNNA) -> None:
    least = {"MutualKNN": max(3, metric.k + 1), "CKNNA": max(4, metric.k + 1)}[type(metric).__name__]
    assert metric.min_samples == least
    x = torch.randn(least, 3, generator=torch.Generator().manual_seed(0))
    assert len(metric.prepare([x])) == 1
    text = (
        f"{type(metric).__name__}: at least {least} samples are needed; got {least - 1} for k = {metric.k}. "
        "Extract on more samples or choose a smaller k."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        metric.prepare([x[1:]])


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match=exactly("MutualKNN: k must be at least 1; got 0. The paper uses 10.")):
        MutualKNN(k=0)
    text = "CKNNA: k must be at least 2; got 1. A single neighbour leaves no spread to centre; the paper uses 10."
    with pytest.raises(ValueError, match=exactly(text)):
        CKNNA(k=1)
    text = "MutualKNN: distance must be one of 'cosine', 'euclidean', 'inner_product'; got 'l1'. Choose one of these."
    with pytest.raises(ValueError, match=exactly(text)):
        MutualKNN(distance="l1")  # type: ignore[arg-type]


# --- What is told -----------------------------------------------------------------------------------------------


def test_ties_are_counted_and_told_where_there_are_many() -> None:
    x, y = layers(1, 100, (4, 5)).values()
    x[:4] = x[0]  # four equal rows have three neighbours at distance 0 each
    found = compare({"x": x}, {"y": y}, MutualKNN(2, "euclidean"))
    assert found.details["tied_row"] >= 0.04
    assert found.details["tied_col"] == 0
    x[:40] = x[0]
    a, b = Activations.from_arrays({"x": x}, name="one"), Activations.from_arrays({"y": y}, name="two")
    text = (
        "compare one × two, mutual_knn(k=2, distance='euclidean'): in one layer {:.0%} of the samples have ties for "
        "the 2 nearest neighbours. The smaller sample number wins in every layer, so two layers with ties agree more "
        "often than they would by chance."
    )
    share = compare({"x": x}, {"y": y}, MutualKNN(2, "euclidean")).details["tied_row"][0, 0]
    assert share >= 0.4
    with pytest.warns(CautionWarning, match=exactly(text.format(share))):
        repsim.compare(a, b, "mutual_knn(k=2, distance='euclidean')")


def test_a_high_chance_level_is_told() -> None:
    x, y = layers(1, 21, (4, 5)).values()
    a, b = Activations.from_arrays({"x": x}, name="one"), Activations.from_arrays({"y": y}, name="two")
    text = "compare one × two, mutual_knn: unrelated layers share 0.50 of 10 neighbours at n = 21: read values against "
    with pytest.warns(CautionWarning, match=exactly(text + "`chance`.")):
        repsim.compare(a, b, "mutual_knn")


def test_names_and_titles() -> None:
    assert get_metric("mutual_knn") == MutualKNN(10, "cosine")
    assert get_metric("cknna") == CKNNA(10)
    assert get_metric("mutual_knn(k=5, distance='inner_product')") == MutualKNN(5, "inner_product")
    assert MutualKNN(5, "inner_product").title == "mutual 5-NN, inner product"
    assert CKNNA(5).title == "CKNNA, k = 5"
    assert CKNNA().bounds == (-math.inf, math.inf)


@DISTANCE
def test_invariances_of_every_distance_both_ways(distance: str) -> None:
    x, y = layers(1, 60, (6, 5)).values()
    metric = MutualKNN(5, distance)  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    changed = {
        "orthogonal": x @ np.linalg.qr(rng.standard_normal((6, 6)))[0],
        "scale": -37.5 * x,
        "shift": x + 20 * rng.standard_normal(6),
        "invertible": x * np.logspace(-1, 1.5, 6),
    }
    for name, z in changed.items():
        assert (one(z, y, metric) == one(x, y, metric)) == (name in metric.invariances), name


# --- Resampling -------------------------------------------------------------------------------------------------


@EVERY
def test_permuted_states_are_those_of_permuted_rows(metric: Metric) -> None:
    x = [*tensors(layers(1, 26, (3, 7))), torch.ones(26, 2, dtype=torch.float64)]
    order = torch.from_numpy(np.random.default_rng(3).permutation(26))
    moved, anew = metric.permuted(metric.prepare(x, None), order), metric.prepare([z[order] for z in x], None)
    assert moved is not None
    for a, b in zip(moved, anew, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.returned, b.returned)
        torch.testing.assert_close(a.values, b.values, rtol=0, atol=1e-12)
        assert (a.n, a.tied, a.undefined) == (b.n, b.tied, b.undefined)


@BOTH
def test_ties_broken_by_the_old_order_are_not_permuted(metric: Metric) -> None:
    x = torch.from_numpy(np.repeat(layers(1, 8, (5,))["layer0"], 8, axis=0))
    states = metric.prepare([x], None)
    assert states[0].tied > 0
    assert metric.permuted(states, torch.arange(64)) is None


def draws(n: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(4)])


@EVERY
def test_resamples_weigh_samples(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_neighbourhoods, "_TABLE", 3 * 20 * 4)
    rows, cols, counts = layers(1, 20, (3, 7)), layers(2, 20, (5,)), draws(20)
    states = metric.prepare(tensors(rows) + tensors(cols), None)
    found = metric.bootstrapped(states[:2], states[2:], torch.from_numpy(counts))
    assert found is not None
    for b, c in enumerate(counts):
        for i, x in enumerate(rows.values()):
            y = cols["layer0"]
            if isinstance(metric, MutualKNN):
                want = np.average(oracle.shared(x, y, metric.k, metric.distance), weights=c)
            else:
                assert isinstance(metric, CKNNA)
                own = [oracle.weighted_alignment(z, z, metric.k, c) for z in (x, y)]
                want = oracle.weighted_cknna(x, y, metric.k, c) if min(own) > 0 else math.nan
            assert float(found[b, i, 0]) == pytest.approx(want, abs=EXACT, nan_ok=True)
    once = metric.bootstrapped(states[:2], states[2:], torch.ones(1, 20, dtype=torch.int64))
    assert once is not None
    torch.testing.assert_close(once[0], metric.pairwise(states[:2], states[2:]).values, rtol=0, atol=1e-12)


def test_resampled_cknna_of_all_neighbours_is_what_a_weighted_fit_leaves() -> None:
    x, y = layers(1, 12, (3, 7)).values()
    states = CKNNA(11).prepare([torch.from_numpy(x), torch.from_numpy(y)])
    found = CKNNA(11).bootstrapped(states[:1], states[1:], torch.from_numpy(draws(12)))
    want = [oracle.weighted_debiased(cka.gram(x), cka.gram(y), c) for c in draws(12)]
    np.testing.assert_allclose(found[:, 0, 0], want, rtol=0, atol=EXACT)


def test_a_sample_that_is_half_of_all_draws_leaves_no_cknna() -> None:
    states = CKNNA(4).prepare(tensors(layers(1, 10, (3, 7))))
    counts = torch.ones(2, 10, dtype=torch.int64)
    counts[1, 3] = 9
    found = CKNNA(4).bootstrapped(states, states, counts)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()
