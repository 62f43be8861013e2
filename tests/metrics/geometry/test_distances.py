"""Distance correlation, RSM norms, eigenspace overlap: explicit matrices, closed forms, all orders of the samples."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from repsim.metrics import DistanceCorrelation, EigenspaceOverlap, Metric, RSMNormDifference, get_metric, metric_name
from repsim.metrics.geometry import rsa as triangle
from tests.conftest import exactly
from tests.oracles import distances as oracle
from tests.support.sides import compare, layers, one, orthonormal

SHAPES = {"narrow": (25, (3, 7), (5, 2)), "wide": (12, (30,), (41,)), "four samples": (4, (4, 9), (5,))}
METRICS = [
    *(DistanceCorrelation(debiased) for debiased in (False, True)),
    *(RSMNormDifference(s, f) for s in ("norm", "mean", "none") for f in ("frobenius", "spectral")),  # type: ignore[arg-type]
    *(EigenspaceOverlap(c, d) for c in (False, True) for d in ("rank", "width")),  # type: ignore[arg-type]
]
EVERY = pytest.mark.parametrize("metric", METRICS, ids=metric_name)


def expected(x: np.ndarray, y: np.ndarray, metric: Metric) -> float:
    if isinstance(metric, DistanceCorrelation):
        return oracle.distance_correlation(x, y, debiased=metric.debiased)
    if isinstance(metric, RSMNormDifference):
        return oracle.rsm_norm_difference(x, y, metric.scaling, metric.norm)
    assert isinstance(metric, EigenspaceOverlap)
    return oracle.eigenspace_overlap(x, y, center=metric.centred, divisor=metric.divisor)


# --- Values ---------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_pair_matches_the_oracle_of_the_same_numbers(metric: Metric, shape: str, dtype: type) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = ({name: x.astype(dtype) for name, x in layers(s, n, w).items()} for s, w in ((1, p), (2, q)))
    table = [[expected(x, y, metric) for y in cols.values()] for x in rows.values()]
    # Distances of float32 features are kept in float32.
    rtol = 1e-6 if dtype == np.float32 and isinstance(metric, RSMNormDifference) else 1e-9
    np.testing.assert_allclose(compare(rows, cols, metric).values, table, rtol=rtol, atol=1e-9)


@EVERY
def test_blocks_leave_the_values(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = layers(1, 25, (6, 9)).values()
    base = one(x, y, metric)
    monkeypatch.setattr(triangle, "_CHUNK", 17)
    monkeypatch.setattr(triangle, "_BLOCK", 2000)
    monkeypatch.setattr("repsim.numerics.kernels._TILES", 1000)
    assert one(x, y, metric) == pytest.approx(base, rel=1e-12)


@EVERY
def test_permuted_states_are_those_of_permuted_rows(metric: Metric) -> None:
    x, y = (torch.from_numpy(z) for z in layers(1, 20, (6, 9)).values())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    moved = metric.permuted(metric.prepare([y], None), order)
    assert moved is not None
    anew = metric.prepare([x, y[order]], None)
    np.testing.assert_allclose(
        metric.pairwise(anew[:1], moved).values, metric.pairwise(anew[:1], anew[1:]).values, rtol=1e-10
    )


@EVERY
@pytest.mark.parametrize(("scale", "dtype"), [(1e30, np.float32), (1e-30, np.float32), (1e150, float), (1e-150, float)])
def test_huge_and_tiny_features(metric: Metric, scale: float, dtype: type) -> None:
    x, y = (z.astype(np.float32) for z in layers(1, 15, (4, 7)).values())
    base = one(x, y, metric)
    found = one((scale * x.astype(float)).astype(dtype), (scale * y.astype(float)).astype(dtype), metric)
    assert found == pytest.approx(base * (1 if "scale" in metric.invariances else scale), rel=1e-5)


@pytest.mark.parametrize("debiased", [False, True])
def test_distances_of_duplicates_and_far_from_the_origin(debiased: bool) -> None:
    x = np.repeat(np.random.default_rng(0).standard_normal((6, 4)), 4, axis=0)
    y = np.random.default_rng(1).standard_normal((24, 4))
    metric = DistanceCorrelation(debiased)
    assert one(x, y, metric) == pytest.approx(expected(x, y, metric), abs=1e-9)
    assert one(x + 1e8, y, metric) == pytest.approx(one(x, y, metric), abs=1e-6)


# --- Closed forms ---------------------------------------------------------------------------------------------


def test_distance_correlation_of_two_bits_is_phi() -> None:
    rng = np.random.default_rng(0)
    x = (rng.random(40) < 0.4).astype(float)
    y = np.where(rng.random(40) < 0.7, x, 1 - x)
    phi = abs(np.corrcoef(x, y)[0, 1])
    assert one(x[:, None], y[:, None], "distance_correlation") == pytest.approx(phi, abs=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_distance_correlation_of_a_moved_copy_is_1(debiased: bool) -> None:
    x = layers(1, 30, (5,))["layer0"]
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    assert one(x, 3 * x @ turn + 7, DistanceCorrelation(debiased)) == pytest.approx(1, abs=1e-12)


def test_three_rows_of_two_places() -> None:
    """As two points at distances 3 and 1, one of them twice: |D_X − D_Y| has four entries of 2."""
    x, y = np.array([[0.0], [3], [3]]), np.array([[0.0], [1], [1]])
    assert one(x, y, RSMNormDifference("none")) == pytest.approx(4, abs=1e-12)
    assert one(x, y, RSMNormDifference("none", "spectral")) == pytest.approx(2 * np.sqrt(2), abs=1e-12)


def test_a_norm_of_1_makes_it_the_cosine_of_rsa() -> None:
    x, y = layers(1, 20, (4, 6)).values()
    cosine = one(x, y, "rsa(comparison='cosine')")
    assert one(x, y, "rsm_norm_difference") == pytest.approx(np.sqrt(2 - 2 * cosine), abs=1e-9)


def test_overlap_of_coordinate_subspaces() -> None:
    x, y = np.eye(8)[:, :3], np.eye(8)[:, 2:6]
    assert one(x, y, "eigenspace_overlap") == pytest.approx(1 / 4, abs=1e-12)


def test_overlap_of_a_layer_whose_features_are_there_twice() -> None:
    x = layers(1, 20, (4,))["layer0"]
    x = np.hstack([x, x])
    assert one(x, x.copy(), EigenspaceOverlap(divisor="width")) == pytest.approx(0.5, abs=1e-12)
    assert one(x, x.copy(), "eigenspace_overlap") == pytest.approx(1, abs=1e-12)


def test_overlap_of_centred_layers_of_equal_rank_is_the_mean_squared_canonical_correlation() -> None:
    x, y = layers(1, 30, (5, 5)).values()
    assert one(x, y, EigenspaceOverlap(centred=True)) == pytest.approx(one(x, y, "r2_cca"), abs=1e-12)
    assert abs(one(x, y, "eigenspace_overlap") - one(x, y, "r2_cca")) > 0.005


def orders(x: np.ndarray, y: np.ndarray, metric: Metric) -> np.ndarray:
    states = metric.prepare([torch.from_numpy(x), torch.from_numpy(y)], None)
    found = []
    for order in itertools.permutations(range(len(x))):
        moved = metric.permuted(states[1:], torch.tensor(order))
        assert moved is not None
        found.append(metric.pairwise(states[:1], moved).values.item())
    return np.array(found)


def test_chance_is_the_mean_over_all_orders() -> None:
    x, y = layers(1, 5, (3, 2)).values()

    def chance(metric: Metric) -> float:
        return compare({"x": x}, {"y": y}, metric).details["chance"].item()

    biased, debiased = DistanceCorrelation(), DistanceCorrelation(True)
    assert np.sqrt((orders(x, y, biased) ** 2).mean()) == pytest.approx(chance(biased), abs=1e-9)
    assert orders(x, y, debiased).mean() == pytest.approx(chance(debiased), abs=1e-9) == pytest.approx(0, abs=1e-9)
    for overlap in (EigenspaceOverlap(), EigenspaceOverlap(True), EigenspaceOverlap(False, "width")):
        assert orders(x, y, overlap).mean() == pytest.approx(chance(overlap), abs=1e-9)


def test_chance_of_overlap_of_gaussian_layers() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((100, 8)), rng.standard_normal((100, 12))) for _ in range(50)]
    assert np.mean([one(x, y, "eigenspace_overlap") for x, y in pairs]) == pytest.approx(8 / 100, abs=0.006)


# --- Resamples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["norm", "mean", "none"])
def test_resamples_weigh_pairs_of_samples(scaling: Any) -> None:
    x, y = layers(1, 20, (6, 9)).values()
    counts = np.random.default_rng(0).multinomial(20, np.ones(20) / 20, 3)
    metric = RSMNormDifference(scaling)
    states = metric.prepare([torch.from_numpy(x), torch.from_numpy(y)], None)
    found = metric.bootstrapped(states[:1], states[1:], torch.from_numpy(counts))
    assert found is not None
    want = [oracle.weighted_rsm_norm_difference(x, y, w, scaling) for w in counts]
    np.testing.assert_allclose(found[:, 0, 0], want, rtol=1e-9)


def test_resamples_of_distance_correlation_leave_out_samples_that_were_not_drawn() -> None:
    """Weights of 0 and 1 are the estimate on a subset."""
    x, y = layers(1, 20, (6, 9)).values()
    kept = np.arange(20) % 3 != 0
    for debiased in (False, True):
        metric = DistanceCorrelation(debiased)
        states = metric.prepare([torch.from_numpy(x), torch.from_numpy(y)], None)
        found = metric.bootstrapped(states[:1], states[1:], torch.from_numpy(kept.astype(int))[None])
        assert found.item() == pytest.approx(expected(x[kept], y[kept], metric), abs=1e-9)


# --- Settings -------------------------------------------------------------------------------------------------


def test_names_titles_and_facts() -> None:
    assert get_metric("rsm_norm_difference(norm='spectral')") == RSMNormDifference(norm="spectral")
    assert metric_name(EigenspaceOverlap(divisor="width")) == "eigenspace_overlap(divisor='width')"
    assert EigenspaceOverlap(True, "width").title == "eigenspace overlap, centred, divided by width"
    assert DistanceCorrelation(True).title == "distance correlation, debiased square"
    assert DistanceCorrelation(True).bounds == (-1, 1)
    assert RSMNormDifference("none", "spectral").title == "RSM norm difference, spectral, distances as they are"
    assert RSMNormDifference("none").invariances == {"orthogonal", "shift"}
    assert EigenspaceOverlap(centred=True).invariances == {"orthogonal", "scale", "shift", "invertible"}


def test_equal_columns_of_orthonormal_features_overlap_wholly() -> None:
    basis = orthonormal(20, 5)
    assert one(basis[:, :3], basis[:, :3] @ np.diag([1, 1e-3, 5]), "eigenspace_overlap") == pytest.approx(1, abs=1e-12)


# A measure, its settings, and the whole message after its name.
WRONG = [
    (
        DistanceCorrelation,
        {"debiased": 1},
        "debiased must be True or False; got 1. Pass debiased=True or debiased=False.",
    ),
    (EigenspaceOverlap, {"divisor": "z"}, "divisor must be 'rank' or 'width'; got 'z'. Choose one of these."),
    (RSMNormDifference, {"norm": "z"}, "norm must be one of 'frobenius', 'spectral'; got 'z'. Choose one of these."),
    (RSMNormDifference, {"scaling": 2}, "scaling must be one of 'norm', 'mean', 'none'; got 2. Choose one of these."),
]


@pytest.mark.parametrize(("kind", "given", "text"), WRONG)
def test_wrong_settings(kind: type, given: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=exactly(f"{kind.__name__}: {text}")):
        kind(**given)
