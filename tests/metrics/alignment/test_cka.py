"""CKA against explicit Gram matrices, against closed forms, and on inputs that break careless code."""

import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import get_metric, metric_name
from repsim.metrics.alignment import cka as cka_module
from repsim.metrics.alignment.cka import CKA
from repsim.numerics import centring as _linalg
from repsim.numerics import feature_products as _feature_products
from repsim.numerics import kernels as _pairs
from tests.conftest import exactly
from tests.oracles import cka as oracle
from tests.support.sides import compare, layers, one, orthonormal

ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"cka": oracle.debiased, "cka_biased": oracle.biased}
FORMS = pytest.mark.parametrize("metric", ORACLES)

# n, widths of the rows, widths of the columns
SHAPES = {
    "narrow": (40, (3, 7), (5, 2, 11)),
    "wide": (12, (30, 50), (41,)),
    "mixed": (25, (3, 60), (90, 4)),
    "width one": (20, (1,), (1, 3)),
    "four samples": (4, (2, 9), (3,)),
}
# Float32: a sum of m rounded terms is off by about √m · 6e-8 of its terms' size, here m <= 200; the corrections of
# the debiased form cancel at most nine tenths of it, so 15 · 6e-8 · 10.
SINGLE = 1e-5


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], metric: str) -> np.ndarray:
    return np.array([[ORACLES[metric](x, y) for y in cols.values()] for x in rows.values()])


@FORMS
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_matches_the_oracle(metric: str, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = layers(1, n, p), layers(2, n, q)
    found = compare(rows, cols, metric)
    assert found.values.shape == (len(p), len(q))
    np.testing.assert_allclose(found.values, table(rows, cols, metric), rtol=0, atol=1e-10)


@FORMS
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "four samples"])
def test_float32_matches_the_oracle_of_the_same_numbers(metric: str, shape: str) -> None:
    n, p, q = SHAPES[shape]
    rows = {name: x.astype(np.float32) for name, x in layers(1, n, p).items()}
    cols = {name: x.astype(np.float32) for name, x in layers(2, n, q).items()}
    np.testing.assert_allclose(compare(rows, cols, metric).values, table(rows, cols, metric), rtol=0, atol=SINGLE)


@FORMS
def test_a_float32_layer_beside_a_float64_layer_is_computed_in_float64(metric: str) -> None:
    x, y = layers(1, 30, (5, 4)).values()
    x = x.astype(np.float32)
    assert one(x, y, metric) == pytest.approx(ORACLES[metric](x, y), abs=1e-10)


@FORMS
def test_one_object_twice_gives_what_two_equal_objects_give(metric: str) -> None:
    rows = layers(1, 30, (3, 8, 5))
    same = compare(rows, None, metric).values
    np.testing.assert_allclose(same, compare(rows, {k: x.copy() for k, x in rows.items()}, metric).values, atol=1e-12)
    np.testing.assert_allclose(same, same.T, atol=1e-14)
    np.testing.assert_allclose(np.diag(same), 1, atol=1e-12)
    np.testing.assert_allclose(same, table(rows, rows, metric), atol=1e-10)


def by_route(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    costs = {"features": (0.0, 1.0), "tiles": (1.0, 0.0)}[route]
    monkeypatch.setattr(cka_module, "_costs", lambda *_: costs)


# Bytes and widths so small that 37 rows of these layers take several tiles, row blocks, groups and partial sums.
CRAMPED = {"_TILES": 7 * 8 * 100, "_BUFFER": 5 * 8 * 20, "_GROUP": 12, "_ROWS": 5, "_PARTNERS": 2, "_SHORT": 30}


def cramp(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    owner = next(module for module in (_feature_products, _pairs, _linalg) if hasattr(module, name))
    monkeypatch.setattr(owner, name, value)


@FORMS
@pytest.mark.parametrize("route", ["features", "tiles"])
@pytest.mark.parametrize("limit", [None, *CRAMPED, "all"])
@pytest.mark.parametrize("twin", [False, True], ids=["two sides", "one side"])
def test_both_routes_match_the_oracle_in_any_blocks(
    metric: str, route: str, limit: str | None, twin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CRAMPED.items():
        if limit in (name, "all"):
            cramp(monkeypatch, name, value)
    by_route(monkeypatch, route)
    rows, cols = layers(1, 37, (3, 9, 4, 8)), layers(2, 37, (6, 17, 2))
    found = compare(rows, None if twin else cols, metric).values
    np.testing.assert_allclose(found, table(rows, rows if twin else cols, metric), rtol=0, atol=1e-10)


@pytest.mark.parametrize("route", ["features", "tiles"])
def test_tiles_and_blocks_leave_float32_values(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: x.astype(np.float32) for name, x in layers(1, 200, (3, 9, 40)).items()}
    by_route(monkeypatch, route)
    for name, value in {**CRAMPED, "_TILES": 3 * 4 * 60**2}.items():
        cramp(monkeypatch, name, value)
    np.testing.assert_allclose(compare(rows, None, "cka").values, table(rows, rows, "cka"), rtol=0, atol=SINGLE)


@pytest.mark.parametrize(("n", "p", "expected"), [(60, 4, "feature_products"), (10, 90, "pair_products")])
def test_the_cheaper_route_is_taken(n: int, p: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for route in ("feature_products", "pair_products"):
        original = getattr(cka_module, route)
        monkeypatch.setattr(cka_module, route, lambda *a, r=route, f=original: (taken.append(r), f(*a))[1])
    compare(layers(1, n, (p, p)), layers(2, n, (p,)), "cka")
    assert taken == [expected]


@pytest.mark.parametrize(("k1", "k2", "shared"), [(4, 4, 2), (3, 5, 2), (6, 2, 0), (3, 3, 3)])
def test_orthonormal_bases_that_share_j_directions(k1: int, k2: int, shared: int) -> None:
    basis = orthonormal(50, k1 + k2 - shared)
    x, y = basis[:, :k1], basis[:, k1 - shared :]
    assert one(x, y, "cka_biased") == pytest.approx(shared / np.sqrt(k1 * k2), abs=1e-12)


def test_rank_one_layers_give_the_squared_correlation() -> None:
    rng = np.random.default_rng(0)
    u = rng.standard_normal(80)
    v = u + rng.standard_normal(80)
    x, y = np.outer(u, rng.standard_normal(5)), np.outer(v, rng.standard_normal(3))
    assert one(x, y, "cka_biased") == pytest.approx(np.corrcoef(u, v)[0, 1] ** 2, abs=1e-12)


def test_chance_level_of_unrelated_gaussian_features() -> None:
    """64 pairs each: the biased form rises to its closed form, the debiased one stays at 0."""
    n, p, q = 50, 100, 40
    rng = np.random.default_rng(0)
    rows = {f"{i}": rng.standard_normal((n, p)) for i in range(8)}
    cols = {f"{i}": rng.standard_normal((n, q)) for i in range(8)}
    biased = compare(rows, cols, "cka_biased")
    expected = np.sqrt(p * q / ((n + p) * (n + q)))
    assert biased.values.mean() == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(biased.details["chance"], expected, rtol=0.03)
    debiased = compare(rows, cols, "cka")
    assert debiased.values.mean() == pytest.approx(0, abs=0.03)
    assert debiased.values.min() < 0
    np.testing.assert_array_equal(debiased.details["chance"], 0)


def test_a_high_chance_level_is_a_caution() -> None:
    rng = np.random.default_rng(0)
    a = Activations.from_arrays({"x": rng.standard_normal((50, 100))}, name="one")
    b = Activations.from_arrays({"y": rng.standard_normal((50, 40))}, name="two")
    caution = (
        "biased CKA of these layers with their samples permuted reaches 0.53 on average at n = 50: "
        "read values against `chance`, or use the debiased form"
    )
    with pytest.warns(CautionWarning, match=f"^{re.escape(f'compare one × two, cka_biased: {caution}.')}$"):
        found = repsim.compare(a, b, "cka_biased")
    assert found.cautions == (caution,)
    assert repsim.compare(a, b, "cka").cautions == ()


def test_widths_stand_beside_the_values() -> None:
    found = compare(layers(1, 30, (3, 8)), layers(2, 30, (5, 2, 7)), "cka")
    np.testing.assert_array_equal(found.details["width_row"], [[3] * 3, [8] * 3])
    np.testing.assert_array_equal(found.details["width_col"], [[5, 2, 7]] * 2)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_moving_a_part_of_the_rows_far_away_tends_to_the_closed_form(share: float) -> None:
    """Davari et al. 2022: the limit depends on where the subset lay, not on what the layers have in common."""
    rng = np.random.default_rng(1)
    n, p = 100, 6
    x = rng.standard_normal((n, p)) * np.arange(1, p + 1)
    x -= x.mean(axis=0)
    moved = np.arange(n) < share * n
    y = x + 1e6 * np.outer(moved, rng.standard_normal(p))
    eigenvalues = np.linalg.eigvalsh(x.T @ x)
    participation = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    offset = np.sum(x[moved].mean(axis=0) ** 2) / np.mean(np.sum(x**2, axis=1))
    expected = share / (1 - share) * offset * np.sqrt(participation)
    assert one(x, y, "cka_biased") == pytest.approx(expected, abs=1e-5)


@FORMS
def test_duplicated_columns_and_constant_columns_leave_it(metric: str) -> None:
    x, y = layers(1, 40, (6, 5)).values()
    base = one(x, y, metric)
    assert one(np.hstack([x, x]), y, metric) == pytest.approx(base, abs=1e-12)
    for fill in (0.0, 7.3, -1e8):
        assert one(np.hstack([x, np.full((40, 2), fill)]), y, metric) == pytest.approx(base, abs=1e-10)


@FORMS
def test_scaling_one_column_changes_it(metric: str) -> None:
    x, y = layers(1, 40, (6, 5)).values()
    assert abs(one(x * [1, 1, 1, 1, 1, 9], y, metric) - one(x, y, metric)) > 0.02


@FORMS
def test_noise_columns_lower_it(metric: str) -> None:
    x, y = layers(1, 200, (6, 5)).values()
    noise = 3 * np.random.default_rng(0).standard_normal((200, 6))
    assert one(np.hstack([x, noise]), y, metric) < one(x, y, metric) - 0.05


@FORMS
def test_rank_deficient_layers_and_duplicate_rows_match_the_oracle(metric: str) -> None:
    rng = np.random.default_rng(3)
    x, y = layers(1, 30, (2, 9)).values()
    low = x @ rng.standard_normal((2, 12))
    repeated = np.vstack([y[:10], y[:10], y[10:20]])
    assert one(low, repeated, metric) == pytest.approx(ORACLES[metric](low, repeated), abs=1e-10)


@FORMS
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e18, 1e-18])
def test_extreme_scales_in_float32_leave_it(metric: str, scale: float) -> None:
    x, y = (z.astype(np.float32) for z in layers(1, 40, (6, 5)).values())
    scaled = x * np.float32(scale)
    assert np.isfinite(scaled).all()
    assert one(scaled, y, metric) == pytest.approx(one(x, y, metric), abs=1e-6)
    assert one(scaled, scaled.copy(), metric) == pytest.approx(1, abs=1e-6)


@FORMS
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_extreme_scales_in_float64_leave_it(metric: str, scale: float) -> None:
    x, y = layers(1, 40, (6, 5)).values()
    assert one(x * scale, y, metric) == pytest.approx(one(x, y, metric), abs=1e-10)


@FORMS
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_large_mean_in_float32_does_not_drown_the_differences(metric: str, offset: float) -> None:
    x, y = layers(1, 60, (6, 5)).values()
    x = (x + offset).astype(np.float32)
    # A mean rounded to float32 is off by 6e-8 of itself, in units of the features' spread, which is about 1; the
    # values feel that through third moments, at most in proportion.
    assert one(x, y.astype(np.float32), metric) == pytest.approx(ORACLES[metric](x, y), abs=SINGLE + 6e-8 * offset)


@FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_as_float32(metric: str, dtype: torch.dtype) -> None:
    x, y = (torch.tensor(z).to(dtype) for z in layers(1, 40, (6, 5)).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        half = repsim.compare(Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y}), metric)
    assert half.values[0, 0] == pytest.approx(one(x.float().numpy(), y.float().numpy(), metric), abs=1e-12)
    assert half.values[0, 0] == pytest.approx(ORACLES[metric](x.double().numpy(), y.double().numpy()), abs=SINGLE)


def test_half_precision_sums_beyond_its_range_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(2e4 * rng.standard_normal((50, 8))).clamp(-6e4, 6e4).half()
    y = torch.tensor(rng.standard_normal((50, 8))) + x.double() / 2e4
    expected = oracle.debiased(x.double().numpy(), y.numpy())
    assert one(x.numpy(), y.float().numpy(), "cka") == pytest.approx(expected, abs=SINGLE)


NO_HSIC = "the row layer has an unbiased estimate of its own HSIC that is not positive"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [4, 50, 200, 1000])
@pytest.mark.parametrize("turned", [False, True], ids=["one-hot", "rotated"])
def test_equidistant_rows_have_no_debiased_value(dtype: type, n: int, turned: bool) -> None:
    """Of n equidistant points no pair is more alike than another: numerator and denominator are 0."""
    rng = np.random.default_rng(n)
    x = (np.linalg.qr(rng.standard_normal((n, n)))[0] if turned else np.eye(n)).astype(dtype)
    y = rng.standard_normal((n, 3)).astype(dtype)
    with pytest.warns(CautionWarning, match=re.escape(f"1 of 2 cells are NaN; x × y: {NO_HSIC}")):
        found = repsim.compare(
            Activations.from_arrays({"x": x, "fine": y + x[:, :3]}), Activations.from_arrays({"y": y}), "cka"
        )
    assert np.isnan(found.values[0, 0])
    assert np.isfinite(found.values[1, 0])
    assert found.reasons == {(0, 0): NO_HSIC}
    assert np.isfinite(one(x, y, "cka_biased"))


@pytest.mark.parametrize(("n", "p"), [(5, 20_000), (20, 20_000)])
def test_few_samples_of_wide_float32_layers_stay_within_the_bounds(n: int, p: int) -> None:
    """Independent wide features are nearly equidistant; in another order of columns, or scaled, they are the same."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.standard_normal((n, p)).astype(np.float32)
        for y in (3 * x[:, ::-1] + 1, 0.3 * x):
            # All entries are good to 1e-7 of the mean squared row, and about n / p of that is left of the estimate.
            assert one(x, y, "cka") == pytest.approx(1, abs=1e-6 * p / n)


@pytest.mark.parametrize(("n", "p"), [(5, 50), (8, 400)])
def test_a_handful_of_samples_in_float32_stays_within_the_bounds(n: int, p: int) -> None:
    for seed in range(60):
        x = np.random.default_rng(seed).standard_normal((n, p)).astype(np.float32)
        for y in (3 * x[:, ::-1] + 1, 0.3 * x):
            assert one(x, y, "cka") == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("spread", [1e-4, 1e-3, 1e-2])
def test_nearly_one_hot_rows_in_float32_give_the_oracle_or_no_number(spread: float) -> None:
    rng = np.random.default_rng(0)
    for n in (7, 28, 65, 128):
        x = np.eye(n) + spread * rng.standard_normal((n, n))
        y = (x @ np.linalg.qr(rng.standard_normal((n, n)))[0]).astype(np.float32)
        x = x.astype(np.float32)
        value = one(x, y, "cka")
        assert np.isnan(value) or value == pytest.approx(oracle.debiased(x, y), abs=1e-2)


@pytest.mark.parametrize(("metric", "least"), [("cka", 4), ("cka_biased", 3)])
def test_too_few_samples(metric: str, least: int) -> None:
    for n in range(1, least):
        a = Activations.from_arrays({"x": np.arange(2.0 * n).reshape(n, 2)})
        with pytest.raises(ValueError, match="needs at least") as caught:
            repsim.compare(a, a, metric)
        assert (
            str(caught.value) == f"compare: {metric} needs at least {least} samples; got {n}. Extract on more samples."
        )


def test_the_features_are_not_changed() -> None:
    x, y = (torch.tensor(z) for z in layers(1, 30, (4, 60)).values())
    kept = x.clone(), y.clone()
    repsim.compare(Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y}), "cka")
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


# --- What stands beside the values, and settings --------------------------------------------------------------


@FORMS
def test_participation_ratios_stand_beside_the_values(metric: str) -> None:
    rows, cols = layers(1, 30, (3, 80)), layers(2, 30, (5, 2, 70))
    found = compare(rows, cols, metric)
    expected_row = np.array([oracle.participation(x) for x in rows.values()])
    expected_col = np.array([oracle.participation(x) for x in cols.values()])
    np.testing.assert_allclose(found.details["pr_row"], expected_row[:, None].repeat(3, 1), rtol=1e-10)
    np.testing.assert_allclose(found.details["pr_col"], expected_col[None].repeat(2, 0), rtol=1e-10)
    same = compare(rows, None, metric)
    np.testing.assert_allclose(same.details["pr_col"], same.details["pr_row"].T)


BAD_SETTINGS = {
    "debiased number": (
        {"debiased": 3},
        TypeError,
        "CKA: debiased must be True or False; got 3. Pass debiased=True or debiased=False.",
    ),
    "half a component": (
        {"without_components": 1.5},
        TypeError,
        "CKA: without_components must be an integer; got 1.5. Pass how many components to remove.",
    ),
    "a switch for components": (
        {"without_components": True},
        TypeError,
        "CKA: without_components must be an integer; got True. Pass how many components to remove.",
    ),
    "negative components": (
        {"without_components": -1},
        ValueError,
        "CKA: without_components must be 0 or more; got -1. Pass how many components to remove.",
    ),
    "rows as text": (
        {"without_rows": "0.1"},
        TypeError,
        "CKA: without_rows must be a number; got '0.1'. Pass a share of the samples, as in 0.01.",
    ),
    "all rows": (
        {"without_rows": 1.0},
        ValueError,
        "CKA: without_rows must be in [0, 1); got 1.0. Pass a share of the samples, as in 0.01.",
    ),
    "negative rows": (
        {"without_rows": -0.1},
        ValueError,
        "CKA: without_rows must be in [0, 1); got -0.1. Pass a share of the samples, as in 0.01.",
    ),
    "no number of rows": (
        {"without_rows": float("nan")},
        ValueError,
        "CKA: without_rows must be in [0, 1); got nan. Pass a share of the samples, as in 0.01.",
    ),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_settings_that_make_no_sense(case: str) -> None:
    settings, kind, text = BAD_SETTINGS[case]
    with pytest.raises(kind, match=exactly(text)):
        CKA(**settings)


def test_settings_that_change_the_meaning_are_in_title_and_source() -> None:
    assert CKA().title == "CKA, debiased"
    assert CKA(without_components=1).title == "CKA, debiased, without 1 component"
    both = CKA(debiased=False, without_components=2, without_rows=0.05)
    assert both.title == "CKA, biased, without 2 components, without 5 % of rows"
    assert both.source == "Kornblith 2019, arXiv 1905.00414; Nguyen 2022, Davari 2022"
    assert "Nguyen" not in CKA().source
    assert get_metric(metric_name(both)) == both


# --- Without components ---------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [25, 100])
def test_leading_components_are_removed(metric: str, count: int, dtype: type, n: int) -> None:
    """Widths on both sides of n; the first component is made to carry nearly everything."""
    rng = np.random.default_rng(0)
    dominant = 30 * rng.standard_normal((n, 1))
    rows = {k: (x + dominant).astype(dtype) for k, x in layers(1, n, (6, 60)).items()}
    cols = {k: (x - dominant).astype(dtype) for k, x in layers(2, n, (120, 5)).items()}
    setting = f"{metric}(without_components={count})"
    found = compare(rows, cols, setting).values
    less, other = [{k: oracle.without_components(x, count) for k, x in side.items()} for side in (rows, cols)]
    np.testing.assert_allclose(found, table(less, other, metric), rtol=0, atol=1e-9 if dtype is np.float64 else SINGLE)
    assert (found < compare(rows, cols, metric).values - 0.05).all()
    np.testing.assert_allclose(np.diag(compare(rows, None, setting).values), 1, atol=1e-6)


@pytest.mark.parametrize(("n", "p"), [(40, 9), (9, 40)])
def test_a_layer_without_any_of_its_components_has_no_value(n: int, p: int) -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal((n, 3)) @ rng.standard_normal((3, p)) + 5
    a = Activations.from_arrays({"low": low, "single": low.astype(np.float32), "flat": np.ones((n, 2))}, name="one")
    b = Activations.from_arrays({"y": rng.standard_normal((n, 7))}, name="two")
    text = "a rank of 3 or less: all of its components are removed"
    with pytest.warns(CautionWarning, match=re.escape(f"3 of 3 cells are NaN; low × y: the row layer has {text}.")):
        found = repsim.compare(a, b, CKA(without_components=3))
    assert found.reasons == {
        (0, 0): f"the row layer has {text}",
        (1, 0): f"the row layer has {text}",
        (2, 0): "the row layer has constant features: every sample has the same row",
    }
    assert np.isfinite(compare({"low": low}, {"y": rng.standard_normal((n, 7))}, "cka(without_components=2)").values)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_components_of_extreme_scale_are_removed_as_well(scale: float) -> None:
    x, y = (z.astype(np.float32) for z in layers(1, 70, (6, 90)).values())
    metric = "cka(without_components=2)"
    assert one(x * np.float32(scale), y, metric) == pytest.approx(one(x, y, metric), abs=1e-5)
    assert one(x, y * np.float32(scale), metric) == pytest.approx(one(x, y, metric), abs=1e-5)


def test_components_in_blocks_of_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = layers(1, 37, (5, 60))
    whole = compare(rows, None, "cka(without_components=2)").values
    monkeypatch.setattr(_linalg, "_ROWS", 8 * 60 * 7)
    np.testing.assert_allclose(compare(rows, None, "cka(without_components=2)").values, whole, atol=1e-12)


# --- Without rows ---------------------------------------------------------------------------------------------


@FORMS
def test_the_rows_with_the_largest_shares_of_all_layers_are_left_out_of_every_pair(metric: str) -> None:
    rows, cols = layers(1, 50, (3, 90)), layers(2, 50, (5, 8))
    rows["layer0"][7] *= 40
    cols["layer1"][[30, 31]] *= 60
    for x in rows.values():
        x[12] += 100
    out = oracle.largest_rows([*rows.values(), *cols.values()], 4)
    assert {7, 12, 30, 31} == set(out)
    kept = np.setdiff1d(np.arange(50), out)
    caution = "4 of 50 samples are left out, those with the largest shares of the layers' norms: rows 7, 12, 30, 31"
    found = compare(rows, cols, f"{metric}(without_rows=0.08)")
    assert caution in found.cautions
    less, other = [{k: x[kept] for k, x in side.items()} for side in (rows, cols)]
    np.testing.assert_allclose(found.values, table(less, other, metric), atol=1e-10)
    components = f"{metric}(without_rows=0.08, without_components=1)"
    less, other = [{k: oracle.without_components(x, 1) for k, x in side.items()} for side in (less, other)]
    np.testing.assert_allclose(compare(rows, cols, components).values, table(less, other, metric), atol=1e-9)


def test_a_share_is_rounded_down_and_none_means_none() -> None:
    x, y = layers(1, 100, (3, 5)).values()
    a, b = Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y})
    with pytest.warns(CautionWarning, match="29 of 100 samples are left out"):
        repsim.compare(a, b, CKA(without_rows=0.29))  # in floats 0.29 · 100 is less than 29
    assert repsim.compare(a, b, CKA(without_rows=0.0099)).values == repsim.compare(a, b, CKA()).values


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("debiased", [True, False])
def test_enough_rows_must_be_left(share: float, debiased: bool) -> None:
    metric = CKA(debiased, without_rows=share)
    least, needed = metric.min_samples, 4 if debiased else 3
    assert least - int(share * least * (1 + 1e-12)) >= needed
    assert least - 1 - int(share * (least - 1) * (1 + 1e-12)) < needed
    x, y = layers(1, least, (3, 5)).values()
    assert np.isfinite(one(x, y, metric_name(metric)))


# --- Resamples ------------------------------------------------------------------------------------------------


def resamples(
    rows: dict[str, np.ndarray], cols: dict[str, np.ndarray] | None, counts: np.ndarray, metric: str | CKA
) -> np.ndarray:
    chosen = get_metric(metric)
    every = [torch.tensor(x) for x in [*rows.values(), *({} if cols is None else cols).values()]]
    states = chosen.prepare(every, None)
    sides = (states, states) if cols is None else (states[: len(rows)], states[len(rows) :])
    found = chosen.bootstrapped(*sides, torch.tensor(counts))
    assert found is not None
    assert found.dtype == torch.float64
    return found.numpy()


def drawn(n: int, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=count)


def expected_resamples(
    rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], counts: np.ndarray, metric: str
) -> np.ndarray:
    biased = metric == "cka_biased"
    return np.array(
        [
            [
                [oracle.weighted(oracle.gram(x), oracle.gram(y), w, self_pairs=biased) for y in cols.values()]
                for x in rows.values()
            ]
            for w in counts
        ]
    )


@FORMS
@pytest.mark.parametrize("route", ["features", "tiles"])
@pytest.mark.parametrize("twin", [False, True], ids=["two sides", "one side"])
def test_counts_of_one_give_the_value(metric: str, route: str, twin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    by_route(monkeypatch, route)
    rows, cols = layers(1, 41, (3, 60)), None if twin else layers(2, 41, (5, 4, 50))
    found = resamples(rows, cols, np.ones((2, 41), dtype=int), metric)
    for values in found:
        np.testing.assert_allclose(values, compare(rows, cols, metric).values, rtol=0, atol=1e-12)


@FORMS
@pytest.mark.parametrize("route", ["features", "tiles"])
def test_counts_of_zero_and_one_give_the_value_of_the_subset(
    metric: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_route(monkeypatch, route)
    rows, cols = layers(1, 41, (3, 60)), layers(2, 41, (5, 4, 50))
    counts = (np.random.default_rng(1).random((4, 41)) < np.array([0.9, 0.5, 0.3, 0.15])[:, None]).astype(int)
    for w, values in zip(counts, resamples(rows, cols, counts, metric), strict=True):
        some, others = [{k: x[w == 1] for k, x in side.items()} for side in (rows, cols)]
        np.testing.assert_allclose(values, compare(some, others, metric).values, rtol=0, atol=1e-12)


@FORMS
@pytest.mark.parametrize("route", ["features", "tiles"])
@pytest.mark.parametrize("cramped", [False, True])
@pytest.mark.parametrize("twin", [False, True], ids=["two sides", "one side"])
def test_resamples_are_the_projections_of_weighted_kernels(
    metric: str, route: str, cramped: bool, twin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_route(monkeypatch, route)
    if cramped:
        for name, value in {**CRAMPED, "_SUMS": 8 * 25 * 5 * 2, "_BLOCK": 8 * 8 * 30 * 3, "_BLOCK_ROWS": 3}.items():
            cramp(monkeypatch, name, value)
    rows, cols = layers(1, 25, (3, 40)), layers(2, 25, (5, 4, 50))
    counts = drawn(25, 5)
    found = resamples(rows, None if twin else cols, counts, metric)
    expected = expected_resamples(rows, rows if twin else cols, counts, metric)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert np.ptp(found, axis=0).max() > 0.01


@FORMS
@pytest.mark.parametrize("route", ["features", "tiles"])
@pytest.mark.parametrize("n", [40, 90])
def test_resamples_of_float32_features(metric: str, route: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    by_route(monkeypatch, route)
    single, double = layers(1, n, (3, 60)), layers(2, n, (5,))
    sides = [{k: x.astype(t) for k, x in {**single, "y": double["layer0"]}.items()} for t in (np.float32, np.float64)]
    sides[1] = {k: x.astype(np.float64) for k, x in sides[0].items()}
    found, expected = (resamples(side, None, drawn(n, 6), metric) for side in sides)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_wide_float32_layers_are_resampled_in_float64() -> None:
    """What is left of their norms after debiasing is some 100 / 10,000."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 10_000)).astype(np.float32)
    y = (x[:, :100] + 3 * rng.standard_normal((100, 100))).astype(np.float32)
    found = resamples({"x": x}, {"y": y}, drawn(100, 3), "cka")
    exact = resamples({"x": x.astype(np.float64)}, {"y": y.astype(np.float64)}, drawn(100, 3), "cka")
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


@FORMS
def test_resamples_of_too_few_samples_have_no_number(metric: str) -> None:
    rows = layers(1, 12, (3,))
    least = 4 if metric == "cka" else 3
    counts = np.zeros((4, 12), dtype=int)
    counts[0, : least - 1] = 12 // (least - 1)
    counts[1, :least] = 12 // least
    counts[2, 0], counts[2, 1:7] = 6 if metric == "cka" else 8, 1
    counts[3, 0], counts[3, 1:8] = 5, 1
    found = resamples(rows, None, counts, metric)[:, 0, 0]
    np.testing.assert_array_equal(np.isnan(found), [True, False, True, False])
    np.testing.assert_allclose(found[[1, 3]], 1, atol=1e-12)


@FORMS
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_layers_without_spread_have_no_number_on_a_resample(metric: str, dtype: type) -> None:
    """One is constant everywhere; another just on the samples that the first resample draws."""
    x, y = layers(1, 30, (3, 50)).values()
    y[:10] = y[0]
    rows = {"x": x.astype(dtype), "flat": np.full((30, 2), 0.1, dtype)}
    cols = {"y": y.astype(dtype), "flat": np.full((30, 2), 0.1, dtype)}
    counts = np.vstack([np.r_[np.full(10, 3), np.zeros(20)], drawn(30, 1)[0]]).astype(int)
    found = resamples(rows, cols, counts, metric)
    np.testing.assert_array_equal(np.isnan(found), [[[True, True], [True, True]], [[False, True], [True, True]]])
    assert np.isnan(resamples({"flat": rows["flat"]}, {"y": cols["y"]}, counts, metric)).all()


@FORMS
def test_resamples_are_bounded_whatever_the_weights(metric: str) -> None:
    rng = np.random.default_rng(0)
    rows, cols = layers(1, 8, (3, 60)), layers(2, 8, (2,))
    found = resamples(rows, cols, rng.multinomial(8, rng.dirichlet(np.full(8, 0.5)), size=300), metric)
    assert np.nanmax(np.abs(found)) <= 1 + 1e-9


def test_twins_would_make_unrelated_layers_alike() -> None:
    """Debiased CKA of unrelated layers is 0 on average, on resamples too; with rows drawn twice taken as two, not."""
    rng = np.random.default_rng(0)
    n, p = 40, 60
    rows = {f"{i}": rng.standard_normal((n, p)) for i in range(8)}
    cols = {f"{i}": rng.standard_normal((n, p)) for i in range(8)}
    counts = drawn(n, 20)
    assert resamples(rows, cols, counts, "cka").mean() == pytest.approx(0, abs=0.02)
    twins = []
    for w in counts[:4]:
        left, right = ({k: x.repeat(w, axis=0) for k, x in side.items()} for side in (rows, cols))
        twins.append(compare(left, right, "cka").values.mean())
    assert np.mean(twins) > 0.2


def test_resamples_keep_components_and_rows_of_the_full_sample() -> None:
    rows, cols = layers(1, 40, (5, 60)), layers(2, 40, (8,))
    rows["layer0"][3] *= 50
    metric = CKA(without_components=1, without_rows=0.03)
    counts = drawn(40, 3)
    kept = np.arange(40) != 3
    less, other = [{k: oracle.without_components(x[kept], 1) for k, x in side.items()} for side in (rows, cols)]
    expected = expected_resamples(less, other, counts[:, kept], "cka")
    np.testing.assert_allclose(resamples(rows, cols, counts, metric), expected, atol=1e-9)
    # From few float32 samples it is computed again in float64; the row must not be left out twice.
    rows, cols = [{k: x.astype(np.float32) for k, x in side.items()} for side in (rows, cols)]
    np.testing.assert_allclose(resamples(rows, cols, counts, metric), expected, atol=1e-5)


# --- Permutations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cka", "cka_biased", "cka(without_components=2)"])
@pytest.mark.parametrize("route", ["features", "tiles"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("n", [40, 80])
def test_permuted_states_are_those_of_permuted_rows(
    name: str, route: str, dtype: type, whole: bool, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_route(monkeypatch, route)
    cramp(monkeypatch, "_TILES", 3 * 8 * 30**2)
    if not whole:
        cramp(monkeypatch, "_WHOLE", 0)
    metric = get_metric(name)
    x, y, z = (torch.tensor(v.astype(dtype)) for v in layers(1, n, (6, 90, 4)).values())
    orders = [torch.tensor(np.random.default_rng(i).permutation(n)) for i in range(2)]
    rows, cols = metric.prepare([x], None), metric.prepare([y, z], None)
    for order in orders:  # one after the other
        permuted = metric.permuted(cols, order)
        assert permuted is not None
        cols, y, z = permuted, y[order], z[order]
    expected = metric.pairwise(rows, metric.prepare([y, z], None)).values
    np.testing.assert_allclose(
        metric.pairwise(rows, cols).values, expected, atol=1e-11 if dtype is np.float64 else 1e-6
    )


def test_rows_that_are_left_out_are_chosen_anew_for_permuted_sides() -> None:
    metric = CKA(without_rows=0.1)
    states = metric.prepare([torch.randn(30, 3)], None)
    assert metric.permuted(states, torch.arange(30).flip(0)) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [40, 80])
def test_permutations_share_their_gram_matrices(dtype: torch.dtype, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where float32 features are computed in float64, as those of 40 samples are."""
    by_route(monkeypatch, "tiles")
    made = []
    original = _pairs._gram_tile
    monkeypatch.setattr(_pairs, "_gram_tile", lambda *a: (made.append(a[4].dtype), original(*a))[1])
    metric = CKA()
    x, y = (torch.tensor(v).to(dtype) for v in layers(1, n, (60, 90)).values())
    rows, cols = metric.prepare([x], None), metric.prepare([y], None)
    for seed in range(4):
        permuted = metric.permuted(cols, torch.tensor(np.random.default_rng(seed).permutation(n)))
        assert permuted is not None
        metric.pairwise(rows, permuted)
    once = [dtype] * 2
    assert made == (once if dtype == torch.float64 or n == 80 else once + [torch.float64] * 2)
