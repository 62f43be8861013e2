"""CKA of Gaussian kernels against explicit kernel matrices, in its limits, and on inputs that break careless code."""

import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix
from repsim.metrics import get_metric, metric_name
from repsim.metrics.alignment import cka_rbf
from repsim.metrics.alignment.cka_rbf import RBFCKA
from repsim.numerics import kernels as _pairs
from tests.conftest import exactly
from tests.metrics.alignment.test_cka import drawn, layers
from tests.oracles import cka as oracle

ORACLES: dict[str, Callable[..., float]] = {
    "cka_rbf": oracle.rbf_debiased,
    "cka_rbf(debiased=False)": oracle.rbf_biased,
}
FORMS = pytest.mark.parametrize("metric", ORACLES)
SHAPES = {
    "narrow": (40, (3, 7), (5, 2, 11)),
    "wide": (12, (30, 50), (41,)),
    "mixed": (25, (3, 60), (90, 4)),
    "width one": (20, (1,), (1, 3)),
    "four samples": (4, (2, 9), (3,)),
    "a hundred": (100, (4, 200), (7,)),
}
DUPLICATES = "a median distance of 0: more than half of all pairs are duplicates"


def compare(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray] | None, metric: str | RBFCKA) -> SimilarityMatrix:
    """Compares two sides, or one object with itself where `cols` is None, whatever the cautions."""
    a = Activations.from_arrays(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return repsim.compare(a, a if cols is None else Activations.from_arrays(cols), metric)


def one(x: np.ndarray, y: np.ndarray, metric: str | RBFCKA = "cka_rbf") -> float:
    return float(compare({"x": x}, {"y": y}, metric).values[0, 0])


def single(side: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x.astype(np.float32) for name, x in side.items()}


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], metric: str, bandwidth: float = 1.0) -> np.ndarray:
    return np.array([[ORACLES[metric](x, y, bandwidth) for y in cols.values()] for x in rows.values()])


@FORMS
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_matches_the_oracle(metric: str, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = layers(1, n, p), layers(2, n, q)
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=1e-9)
    np.testing.assert_allclose(compare(rows, None, metric).values, table(rows, rows, metric), rtol=0, atol=1e-9)


@FORMS
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_matches_the_oracle_of_the_same_numbers(metric: str, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = single(layers(1, n, p)), single(layers(2, n, q))
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=2e-6)


@FORMS
@pytest.mark.parametrize("bandwidth", [0.2, 0.5, 0.99, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_bandwidth_matches_the_oracle(metric: str, bandwidth: float, dtype: type) -> None:
    rows, cols = ({k: x.astype(dtype) for k, x in layers(s, 90, (3, 60)).items()} for s in (1, 2))
    setting = metric.rstrip(")") + (", " if "(" in metric else "(") + f"bandwidth={bandwidth})"
    expected = table(rows, cols, metric, bandwidth)
    tolerance = 1e-9 if dtype is np.float64 else 2e-6
    np.testing.assert_allclose(compare(rows, cols, setting).values, expected, rtol=0, atol=tolerance)


@FORMS
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_wide_bandwidths_tend_to_linear_cka(metric: str, dtype: type) -> None:
    """The difference falls with the square of the bandwidth, until nothing but rounding is left of it."""
    x, y = (z.astype(dtype) for z in layers(1, 80, (5, 30)).values())
    debiased = metric == "cka_rbf"
    linear = (oracle.debiased if debiased else oracle.biased)(x, y)
    gaps = [abs(one(x, y, RBFCKA(b, debiased)) - linear) for b in (1.0, 3.0, 10.0, 30.0)]
    for near, far in zip(gaps[1:], gaps[:-1], strict=True):
        assert near < far / 3
    for bandwidth in (1e4, 1e6):
        assert one(x, y, RBFCKA(bandwidth, debiased)) == pytest.approx(linear, abs=2e-6)


def test_near_neighbours_alone_count_under_a_narrow_bandwidth() -> None:
    """Pairs of twins in both layers, the pairs far apart, in no relation to each other."""
    rng = np.random.default_rng(0)
    x, y = (np.repeat(rng.standard_normal((30, 5)), 2, 0) + 0.01 * rng.standard_normal((60, 5)) for _ in range(2))
    assert one(x, y, RBFCKA(0.1)) > 0.9
    assert one(x, y, "cka") < 0.3


@FORMS
def test_tiles_of_any_size_match_the_oracle(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, cols = layers(1, 37, (3, 9, 60)), layers(2, 37, (6, 17))
    monkeypatch.setattr(_pairs, "_TILES", 5 * 8 * 100)
    monkeypatch.setattr(_pairs, "_SHORT", 30)
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), atol=1e-9)
    np.testing.assert_allclose(compare(rows, None, metric).values, table(rows, rows, metric), atol=1e-9)


@pytest.mark.parametrize("n", [5, 6, 7, 1000])
def test_sigma_is_the_median_distance_over_pairs(n: int) -> None:
    rows = layers(1, n, (3, 8))
    found = compare(rows, {"y": rows["layer0"]}, RBFCKA(0.5)).details
    for i, x in enumerate(rows.values()):
        distances = np.concatenate([np.linalg.norm(x[i + 1 :] - x[i], axis=1) for i in range(n)])
        assert found["sigma_row"][i, 0] == pytest.approx(0.5 * np.median(distances), rel=1e-12)
    assert found["sigma_col"][1, 0] == found["sigma_row"][0, 0]
    np.testing.assert_array_equal(found["width_row"][:, 0], [3, 8])
    np.testing.assert_array_equal(found["width_col"][:, 0], [3, 3])


def test_of_many_samples_the_median_is_that_of_a_seeded_sample_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = single(layers(1, 1500, (3, 40)))
    drawn_twice = [compare(rows, None, "cka_rbf") for _ in range(2)]
    np.testing.assert_array_equal(drawn_twice[0].values, drawn_twice[1].values)
    monkeypatch.setattr(cka_rbf, "_ALL", 1500)
    exact = compare(rows, None, "cka_rbf")
    np.testing.assert_allclose(drawn_twice[0].details["sigma_row"], exact.details["sigma_row"], rtol=0.02)
    assert (drawn_twice[0].details["sigma_row"] != exact.details["sigma_row"]).all()
    # The level that is taken off the kernels comes from the same sample and leaves the values alone.
    state = RBFCKA().prepare([torch.tensor(x) for x in rows.values()])
    monkeypatch.setattr(cka_rbf, "_ALL", 1000)
    sampled = RBFCKA().prepare([torch.tensor(x) for x in rows.values()])
    mixed = [cka_rbf.replace(a, sigma=b.sigma) for a, b in zip(state, sampled, strict=True)]
    values = RBFCKA().pairwise(sampled, sampled).values
    np.testing.assert_allclose(RBFCKA().pairwise(mixed, mixed).values, values, rtol=0, atol=1e-6)


def test_float32_of_many_samples_is_good_to_2e_6() -> None:
    rows = single(layers(1, 1500, (3, 40, 900)))
    found = compare(rows, None, "cka_rbf").values
    expected = compare({k: x.astype(np.float64) for k, x in rows.items()}, None, "cka_rbf").values
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@FORMS
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_extreme_scales_in_float32_leave_it(metric: str, scale: float) -> None:
    x, y = single(layers(1, 40, (6, 5))).values()
    scaled = x * np.float32(scale)
    assert one(scaled, y, metric) == pytest.approx(one(x, y, metric), abs=1e-6)
    assert one(scaled, scaled.copy(), metric) == pytest.approx(1, abs=1e-6)
    sigma = compare({"x": scaled}, {"y": y}, metric).details["sigma_row"][0, 0]
    assert sigma == pytest.approx(scale * compare({"x": x}, {"y": y}, metric).details["sigma_row"][0, 0], rel=1e-6)


@FORMS
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_extreme_scales_in_float64_leave_it(metric: str, scale: float) -> None:
    x, y = layers(1, 40, (6, 5)).values()
    assert one(x * scale, y, metric) == pytest.approx(one(x, y, metric), abs=1e-9)


@FORMS
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_large_mean_in_float32_does_not_drown_the_distances(metric: str, offset: float) -> None:
    x, y = layers(1, 80, (6, 5)).values()
    x, y = (x + offset).astype(np.float32), y.astype(np.float32)
    assert one(x, y, metric) == pytest.approx(ORACLES[metric](x, y), abs=2e-6)


@FORMS
def test_one_far_sample_leaves_the_others_their_distances(metric: str) -> None:
    x, y = single(layers(1, 100, (6, 5))).values()
    x[17] += 1e4
    assert one(x, y, metric) == pytest.approx(ORACLES[metric](x, y), abs=2e-6)


@FORMS
@pytest.mark.parametrize("apart", [1e2, 1e3, 1e4])
def test_two_far_groups_in_float32_are_compared_in_float64(metric: str, apart: float) -> None:
    """More than half of all pairs lie within a group, so the median is that of near pairs."""
    x, y = layers(1, 100, (6, 5)).values()
    x[:20] += apart
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert one(x, y, metric) == pytest.approx(ORACLES[metric](x, y), abs=2e-6)


@FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_as_float32(metric: str, dtype: torch.dtype) -> None:
    x, y = (torch.tensor(z).to(dtype) for z in layers(1, 40, (6, 5)).values())
    half = repsim.compare(Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y}), metric).values[0, 0]
    assert half == pytest.approx(ORACLES[metric](x.double().numpy(), y.double().numpy()), abs=2e-6)


@FORMS
def test_duplicate_rows_and_rank_deficient_layers_match_the_oracle(metric: str) -> None:
    rng = np.random.default_rng(3)
    x, y = layers(1, 30, (2, 9)).values()
    low, repeated = x @ rng.standard_normal((2, 12)), np.vstack([y[:10], y[:10], y[10:20]])
    assert one(low, repeated, metric) == pytest.approx(ORACLES[metric](low, repeated), abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [20, 200, 1500])
def test_a_median_of_zero_has_no_value(dtype: type, n: int) -> None:
    """Nine tenths of all rows are one row, so that eight tenths of all pairs are duplicates."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 30))
    x[rng.permutation(n)[: 9 * n // 10]] = x[0]
    y = rng.standard_normal((n, 4)).astype(dtype)
    a = Activations.from_arrays({"x": x.astype(dtype), "y": y}, name="one")
    b = Activations.from_arrays({"y": y}, name="two")
    with pytest.warns(CautionWarning, match=re.escape(f"1 of 2 cells are NaN; x × y: the row layer has {DUPLICATES}.")):
        found = repsim.compare(a, b, "cka_rbf")
    assert found.reasons == {(0, 0): f"the row layer has {DUPLICATES}"}
    assert found.values[1, 0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_duplicates_are_told_from_near_rows_whatever_the_rounding(seed: int) -> None:
    """Their distances are differences of squares that round either way."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 300)) + 10
    x[8:] = x[0]
    y = rng.standard_normal((40, 4))
    assert compare({"x": x}, {"y": y}, "cka_rbf").reasons == {(0, 0): f"the row layer has {DUPLICATES}"}
    near = x + 1e-4 * rng.standard_normal((40, 300))
    assert one(near, y) == pytest.approx(oracle.rbf_debiased(near, y), abs=1e-6)


@pytest.mark.parametrize("spread", [1e-6, 1e-5, 1e-3])
def test_nearly_equidistant_rows_in_float32_are_compared_in_float64(spread: float) -> None:
    rng = np.random.default_rng(0)
    x = (np.eye(100) + spread * rng.standard_normal((100, 100))).astype(np.float32)
    y = (x @ np.linalg.qr(rng.standard_normal((100, 100)))[0]).astype(np.float32)
    assert one(x, y) == pytest.approx(oracle.rbf_debiased(x, y), abs=2e-6)


def test_kernels_that_are_nearly_the_identity_keep_what_is_beside_it() -> None:
    """Under this bandwidth even the nearest pair has a kernel below 1e-6."""
    x, y = layers(1, 90, (60, 80)).values()
    k, l = (oracle.rbf(z, 0.05) for z in (x, y))
    assert max((k - np.eye(90)).max(), (l - np.eye(90)).max()) < 1e-6
    expected = oracle.hsic1(k, l) / np.sqrt(oracle.hsic1(k, k) * oracle.hsic1(l, l))
    assert one(x, y, RBFCKA(0.05)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [4, 50, 200, 1500])
@pytest.mark.parametrize("turned", [False, True], ids=["one-hot", "rotated"])
def test_equidistant_rows_have_no_debiased_value(dtype: type, n: int, turned: bool) -> None:
    rng = np.random.default_rng(n)
    x = (np.linalg.qr(rng.standard_normal((n, n)))[0] if turned else np.eye(n)).astype(dtype)
    y = rng.standard_normal((n, 3)).astype(dtype)
    found = compare({"x": x}, {"y": y}, "cka_rbf")
    assert found.reasons == {(0, 0): "the row layer has an unbiased estimate of its own HSIC that is not positive"}
    assert np.isfinite(one(x, y, "cka_rbf(debiased=False)"))


def test_a_bandwidth_under_which_no_pair_is_alike_has_no_debiased_value() -> None:
    x, y = layers(1, 40, (30, 30)).values()
    metric = RBFCKA(1e-3)
    reasons = {(0, 0): "the row layer has an unbiased estimate of its own HSIC that is not positive"}
    assert compare({"x": x}, {"y": y}, metric).reasons == reasons
    assert one(x, y, RBFCKA(1e-3, debiased=False)) == pytest.approx(1)  # both kernels are the identity


BAD_SETTINGS = {
    "zero": (0, ValueError, "positive and finite; got 0"),
    "negative": (-1.0, ValueError, "positive and finite; got -1.0"),
    "infinite": (float("inf"), ValueError, "positive and finite; got inf"),
    "no number": (float("nan"), ValueError, "positive and finite; got nan"),
    "text": ("1", TypeError, "a number; got '1'"),
    "a switch": (True, TypeError, "a number; got True"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bandwidths_that_make_no_sense(case: str) -> None:
    bandwidth, kind, text = BAD_SETTINGS[case]
    advice = "Pass a positive multiple of the median distance, as in 0.5"
    with pytest.raises(kind, match=exactly(f"RBFCKA: bandwidth must be {text}. {advice}.")):
        RBFCKA(bandwidth)


def test_a_form_is_a_switch() -> None:
    text = "RBFCKA: debiased must be True or False; got 1. Pass debiased=True or debiased=False."
    with pytest.raises(TypeError, match=exactly(text)):
        RBFCKA(debiased=1)  # type: ignore[arg-type]


def test_settings_are_in_name_and_title() -> None:
    metric = RBFCKA(0.5, debiased=False)
    assert metric.title == "RBF CKA, biased, σ = 0.5 median"
    assert metric_name(metric) == "cka_rbf(bandwidth=0.5, debiased=False)"
    assert get_metric(metric_name(metric)) == metric
    assert RBFCKA().min_samples == 4
    assert metric.min_samples == 3
    assert metric.bounds == (0, 1)


# --- Resamples and permutations -------------------------------------------------------------------------------


def resamples(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], counts: np.ndarray, metric: str) -> np.ndarray:
    chosen = get_metric(metric)
    states = chosen.prepare([torch.tensor(x) for x in [*rows.values(), *cols.values()]], None)
    found = chosen.bootstrapped(states[: len(rows)], states[len(rows) :], torch.tensor(counts))
    assert found is not None
    return found.numpy()


@FORMS
@pytest.mark.parametrize("n", [30, 90])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_resamples_are_the_projections_of_weighted_kernels(metric: str, n: int, dtype: type) -> None:
    """They keep the full sample's bandwidth: another sample's kernel would be another measure."""
    rows, cols = ({k: x.astype(dtype) for k, x in layers(s, n, p).items()} for s, p in ((1, (3, 40)), (2, (5,))))
    counts = np.vstack([np.ones(n, dtype=int), drawn(n, 2)])
    found = resamples(rows, cols, counts, metric)
    tolerance = 1e-10 if dtype is np.float64 else 2e-6
    biased = metric != "cka_rbf"
    for w, values in zip(counts, found, strict=True):
        for i, x in enumerate(rows.values()):
            expected = oracle.weighted(oracle.rbf(x), oracle.rbf(cols["layer0"]), w, self_pairs=biased)
            assert values[i, 0] == pytest.approx(expected, abs=tolerance)
    tolerance = 1e-12 if dtype is np.float64 else 2e-6
    np.testing.assert_allclose(found[0], compare(rows, cols, metric).values, rtol=0, atol=tolerance)


def test_subsets_under_the_full_bandwidth_are_debiased_cka_of_the_subset() -> None:
    x, y = layers(1, 40, (3, 30)).values()
    w = (np.random.default_rng(0).random(40) < 0.5).astype(int)
    kept = np.flatnonzero(w)
    k, l = (oracle.rbf(z)[np.ix_(kept, kept)] for z in (x, y))
    expected = oracle.hsic1(k, l) / np.sqrt(oracle.hsic1(k, k) * oracle.hsic1(l, l))
    assert resamples({"x": x}, {"y": y}, w[None], "cka_rbf")[0, 0, 0] == pytest.approx(expected, abs=1e-12)


def test_unrelated_layers_stay_unrelated_on_resamples() -> None:
    rng = np.random.default_rng(0)
    rows, cols = ({f"{i}": rng.standard_normal((40, 20)) for i in range(8)} for _ in range(2))
    assert resamples(rows, cols, drawn(40, 20), "cka_rbf").mean() == pytest.approx(0, abs=0.02)


def test_constant_layers_have_no_number_on_resamples() -> None:
    x, y = layers(1, 30, (3, 50)).values()
    found = resamples({"x": x, "flat": np.ones((30, 2))}, {"y": y}, drawn(30, 3), "cka_rbf")
    np.testing.assert_array_equal(np.isnan(found[:, :, 0]), [[False, True]] * 3)


@FORMS
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("n", [40, 80])
def test_permuted_states_are_those_of_permuted_rows(
    metric: str, dtype: type, whole: bool, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(_pairs, "_WHOLE", 0)
    chosen = get_metric(metric)
    x, y = (torch.tensor(v.astype(dtype)) for v in layers(1, n, (6, 90)).values())
    rows, cols = chosen.prepare([x], None), chosen.prepare([y], None)
    for seed in range(2):
        order = torch.tensor(np.random.default_rng(seed).permutation(n))
        permuted = chosen.permuted(cols, order)
        assert permuted is not None
        cols, y = permuted, y[order]
    expected = chosen.pairwise(rows, chosen.prepare([y], None)).values
    np.testing.assert_allclose(
        chosen.pairwise(rows, cols).values, expected, atol=1e-11 if dtype is np.float64 else 1e-6
    )


def test_the_features_are_not_changed() -> None:
    x: Sequence[torch.Tensor] = [torch.tensor(z) for z in layers(1, 30, (4, 60)).values()]
    kept = [z.clone() for z in x]
    repsim.compare(Activations.from_arrays({"x": x[0]}), Activations.from_arrays({"y": x[1]}), "cka_rbf")
    assert all(torch.equal(a, b) for a, b in zip(x, kept, strict=True))
