"""CKA against explicit Gram matrices, against closed forms, and on inputs that break careless code."""

import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix, _linalg
from repsim.metrics import cka as cka_module
from tests.oracles import cka as oracle

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


def layers(seed: int, n: int, widths: Sequence[int]) -> dict[str, np.ndarray]:
    """Layers that share a signal, with columns of unequal spread."""
    shared = np.random.default_rng(1000 + n).standard_normal((n, 4))
    found = {}
    for i, p in enumerate(widths):
        rng = np.random.default_rng(100 * seed + i)
        mixed = shared @ rng.standard_normal((4, p)) + rng.standard_normal((n, p))
        found[f"layer{i}"] = mixed * np.linspace(0.2, 2, p) + rng.standard_normal(p)
    return found


def compare(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray] | None, metric: str) -> SimilarityMatrix:
    """Compares two sides, or one object with itself where `cols` is None, whatever the cautions."""
    a = Activations.from_arrays(rows)
    b = a if cols is None else Activations.from_arrays(cols)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return repsim.compare(a, b, metric)


def one(x: np.ndarray, y: np.ndarray, metric: str) -> float:
    return float(compare({"x": x}, {"y": y}, metric).values[0, 0])


def table(rows: dict[str, np.ndarray], cols: dict[str, np.ndarray], metric: str) -> np.ndarray:
    return np.array([[ORACLES[metric](x, y) for y in cols.values()] for x in rows.values()])


def orthonormal(n: int, k: int, seed: int = 0) -> np.ndarray:
    """k orthonormal columns of mean 0."""
    x = np.random.default_rng(seed).standard_normal((n, k))
    return np.linalg.qr(x - x.mean(axis=0))[0]


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


def by_route(name: str) -> Callable[..., _linalg.GramProducts]:
    def products(rows: Sequence[_linalg.Centred], cols: Sequence[_linalg.Centred]) -> _linalg.GramProducts:
        same = len(rows) == len(cols) and all(a is b for a, b in zip(rows, cols, strict=True))
        return getattr(_linalg, name)(rows, cols, same)

    return products


# Bytes and widths so small that 37 rows of these layers take several tiles, row blocks, groups and partial sums.
CRAMPED = {"_TILES": 7 * 8 * 100, "_BUFFER": 5 * 8 * 20, "_GROUP": 12, "_SHORT": 30}


@FORMS
@pytest.mark.parametrize("route", ["_by_features", "_by_tiles"])
@pytest.mark.parametrize("limit", [None, *CRAMPED, "all"])
@pytest.mark.parametrize("twin", [False, True], ids=["two sides", "one side"])
def test_both_routes_match_the_oracle_in_any_blocks(
    metric: str, route: str, limit: str | None, twin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CRAMPED.items():
        if limit in (name, "all"):
            monkeypatch.setattr(_linalg, name, value)
    monkeypatch.setattr(cka_module, "gram_products", by_route(route))
    rows, cols = layers(1, 37, (3, 9, 4, 8)), layers(2, 37, (6, 17, 2))
    found = compare(rows, None if twin else cols, metric).values
    np.testing.assert_allclose(found, table(rows, rows if twin else cols, metric), rtol=0, atol=1e-10)


@pytest.mark.parametrize("route", ["_by_features", "_by_tiles"])
def test_tiles_and_blocks_leave_float32_values(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: x.astype(np.float32) for name, x in layers(1, 200, (3, 9, 40)).items()}
    monkeypatch.setattr(cka_module, "gram_products", by_route(route))
    for name, value in {**CRAMPED, "_TILES": 3 * 4 * 60**2}.items():
        monkeypatch.setattr(_linalg, name, value)
    np.testing.assert_allclose(compare(rows, None, "cka").values, table(rows, rows, "cka"), rtol=0, atol=SINGLE)


@pytest.mark.parametrize(("n", "p", "expected"), [(60, 4, "_by_features"), (10, 90, "_by_tiles")])
def test_the_cheaper_route_is_taken(n: int, p: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for route in ("_by_features", "_by_tiles"):
        original = getattr(_linalg, route)
        monkeypatch.setattr(_linalg, route, lambda *a, r=route, f=original: (taken.append(r), f(*a))[1])
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
    np.testing.assert_allclose(biased.details["chance"], expected, rtol=1e-12)
    debiased = compare(rows, cols, "cka")
    assert debiased.values.mean() == pytest.approx(0, abs=0.03)
    assert debiased.values.min() < 0
    np.testing.assert_array_equal(debiased.details["chance"], 0)


def test_a_high_chance_level_is_a_caution() -> None:
    rng = np.random.default_rng(0)
    a = Activations.from_arrays({"x": rng.standard_normal((50, 100))}, name="one")
    b = Activations.from_arrays({"y": rng.standard_normal((50, 40))}, name="two")
    caution = (
        "biased CKA of unrelated Gaussian features of these widths reaches 0.54 at n = 50: "
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


HOLLOW = "the unbiased estimate of a layer's own HSIC is not positive"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [4, 50, 200, 1000])
@pytest.mark.parametrize("turned", [False, True], ids=["one-hot", "rotated"])
def test_equidistant_rows_have_no_debiased_value(dtype: type, n: int, turned: bool) -> None:
    """Of n equidistant points no pair is more alike than another: numerator and denominator are 0."""
    rng = np.random.default_rng(n)
    x = (np.linalg.qr(rng.standard_normal((n, n)))[0] if turned else np.eye(n)).astype(dtype)
    y = rng.standard_normal((n, 3)).astype(dtype)
    with pytest.warns(CautionWarning, match=re.escape(f"1 of 2 cells are NaN; x × y: {HOLLOW}")):
        found = repsim.compare(
            Activations.from_arrays({"x": x, "fine": y + x[:, :3]}), Activations.from_arrays({"y": y}), "cka"
        )
    assert np.isnan(found.values[0, 0])
    assert np.isfinite(found.values[1, 0])
    assert found.reasons == {(0, 0): HOLLOW}
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
