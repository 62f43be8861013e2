"""The λ-curve against explicit smoothers, its two limits, and against the measures it joins."""

import math

import numpy as np
import pytest

from repsim import Activations
from repsim.metrics import GULP, WhiteTD
from repsim.similarity.ridge_curve import DEFAULT_PENALTIES, LambdaCurve, lambda_curve
from tests.conftest import exactly
from tests.metrics.spectral.test_spectral import compare, layers, orthonormal
from tests.oracles import cka, spectral

PENALTIES = (1e-4, 0.01, 1.0, 50.0)


def curve(
    rows: dict[str, np.ndarray], cols: dict[str, np.ndarray] | None, penalties: tuple[float, ...] | None = PENALTIES
) -> LambdaCurve:
    """The curve of two sides, or of one object with itself where `cols` is None."""
    a = Activations.from_arrays(rows, name="one")
    return lambda_curve(a, a if cols is None else Activations.from_arrays(cols, name="two"), penalties)


def test_curves_match_explicit_smoothers() -> None:
    rows, cols = layers(1, 40, (3, 7, 60)), layers(2, 40, (5, 90))
    found = curve(rows, cols)
    assert found.td_white.shape == found.gulp.shape == (4, 3, 2)
    assert found.rows == ("layer0", "layer1", "layer2")
    assert found.cols == ("layer0", "layer1")
    assert (found.row_model, found.col_model, found.n) == ("one", "two", 40)
    np.testing.assert_array_equal(found.penalties, PENALTIES)
    for measured, oracle in ((found.td_white, spectral.td_white), (found.gulp, spectral.gulp)):
        expected = [[[oracle(x, y, l) for y in cols.values()] for x in rows.values()] for l in PENALTIES]
        np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-10)
    for measured, limit in ((found.r2_cca, spectral.r2_cca), (found.cka, cka.biased)):
        np.testing.assert_allclose(measured, [[limit(x, y) for y in cols.values()] for x in rows.values()], atol=1e-10)


def test_the_curve_and_the_measures_are_one() -> None:
    rows, cols = layers(1, 40, (3, 7)), layers(2, 40, (5,))
    found = curve(rows, cols)
    for k, penalty in enumerate(PENALTIES):
        np.testing.assert_allclose(found.td_white[k], compare(rows, cols, WhiteTD(penalty)).values, rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.gulp[k], compare(rows, cols, GULP(penalty)).values, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.cka, compare(rows, cols, "cka_biased").values, atol=1e-12)
    narrow = compare(rows, cols, "r2_cca").values * [[3 / math.sqrt(15)], [5 / math.sqrt(35)]]
    np.testing.assert_allclose(found.r2_cca, narrow, atol=1e-12)


def test_both_ends_tend_to_their_limits() -> None:
    rows, cols = layers(1, 60, (7, 4)), layers(2, 60, (5,))
    found = curve(rows, cols, (1e-10, 1e-6, 1e6, 1e10))
    cosine = 1 - found.td_white / 2
    np.testing.assert_allclose(cosine[0], found.r2_cca, atol=1e-7)
    np.testing.assert_allclose(cosine[-1], found.cka, atol=1e-8)
    assert np.all(np.abs(cosine[1] - found.r2_cca) > np.abs(cosine[0] - found.r2_cca))
    assert np.all(np.abs(cosine[-2] - found.cka) > np.abs(cosine[-1] - found.cka))
    assert np.all(np.abs(found.r2_cca - found.cka) > 0.05)


def test_strong_shared_directions_rise_and_weak_ones_fall_along_the_curve() -> None:
    """Two layers that share only their strong direction are far for CCA and near for CKA, and the other way round."""
    basis = orthonormal(50, 3)
    strong = curve({"x": basis[:, :2] * [10, 1]}, {"y": basis[:, [0, 2]] * [10, 1]}, None)
    weak = curve({"x": basis[:, :2] * [1, 10]}, {"y": basis[:, [0, 2]] * [1, 10]}, None)
    assert np.all(np.diff(strong.td_white[:, 0, 0]) <= 1e-15)
    assert np.all(np.diff(weak.td_white[:, 0, 0]) >= -1e-15)
    for found in (strong, weak):
        assert found.r2_cca.item() == pytest.approx(0.5, abs=1e-12)
    assert strong.cka.item() == pytest.approx(100**2 / (100**2 + 1), abs=1e-12)
    assert weak.cka.item() == pytest.approx(1 / (100**2 + 1), abs=1e-12)


def test_one_object_twice_gives_what_two_equal_objects_give() -> None:
    rows = layers(1, 40, (3, 8, 60))
    same, twice = curve(rows, None), curve(rows, {k: x.copy() for k, x in rows.items()})
    for name in ("td_white", "gulp", "r2_cca", "cka"):
        np.testing.assert_allclose(getattr(same, name), getattr(twice, name), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(getattr(same, name), getattr(same, name).swapaxes(-1, -2))
    np.testing.assert_allclose(same.td_white.diagonal(axis1=1, axis2=2), 0, atol=1e-14)
    np.testing.assert_array_equal(same.gulp.diagonal(axis1=1, axis2=2), 0)


def test_penalties_are_sorted_and_a_usual_range_is_given() -> None:
    rows, cols = layers(1, 40, (3,)), layers(2, 40, (5,))
    mixed, ordered = curve(rows, cols, (1.0, 1e-3)), curve(rows, cols, (1e-3, 1.0))
    np.testing.assert_array_equal(mixed.penalties, [1e-3, 1])
    np.testing.assert_array_equal(mixed.td_white, ordered.td_white)
    usual = curve(rows, cols, None)
    assert tuple(usual.penalties) == DEFAULT_PENALTIES
    assert usual.td_white.shape == (len(DEFAULT_PENALTIES), 1, 1)


def test_a_constant_layer_has_no_curve_and_takes_no_other_with_it() -> None:
    rows, cols = layers(1, 40, (3,)), layers(2, 40, (5,))
    found, alone = curve({**rows, "flat": np.ones((40, 2))}, cols), curve(rows, cols)
    for name in ("td_white", "gulp", "r2_cca", "cka"):
        array = getattr(found, name)
        assert np.isnan(array[..., 1, :]).all()
        np.testing.assert_allclose(array[..., 0, :], getattr(alone, name)[..., 0, :], rtol=0, atol=1e-14)


def test_the_frame_holds_a_row_per_pair_and_penalty() -> None:
    found = curve(layers(1, 40, (3, 7)), layers(2, 40, (5, 4, 6)))
    frame = found.to_frame()
    assert len(frame) == 4 * 2 * 3
    for k, penalty in enumerate(PENALTIES):
        for i, row in enumerate(found.rows):
            for j, col in enumerate(found.cols):
                at = (frame.row_layer == row) & (frame.col_layer == col) & (frame.penalty == penalty)
                assert at.sum() == 1
                record = frame[at].iloc[0]
                assert record["td_white"] == found.td_white[k, i, j]
                assert record["gulp"] == found.gulp[k, i, j]
                assert record["r2_cca_limit"] == found.r2_cca[i, j]
                assert record["cka_limit"] == found.cka[i, j]
                assert record["n"] == 40


def test_the_repr_says_what_it_holds() -> None:
    found = curve(layers(1, 40, (3, 7)), layers(2, 40, (5,)))
    assert repr(found) == "LambdaCurve(one × two, 4 penalties × 2 × 1 layers, n = 40)"


@pytest.mark.parametrize("penalties", [[], [0.0], [1.0, -1.0], [math.nan], [math.inf]])
def test_penalties_that_are_refused(penalties: list[float]) -> None:
    a = Activations.from_arrays(layers(1, 40, (3,)))
    text = (
        f"lambda_curve: penalties must be finite numbers > 0; got {penalties}. The limits at 0 and infinity are part "
        "of the result; pass say np.logspace(-6, 2, 33)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        lambda_curve(a, a, penalties)


def test_other_samples_are_refused() -> None:
    a, b = (Activations.from_arrays(layers(1, n, (3,)), name=f"{n}") for n in (40, 39))
    text = (
        "lambda_curve: both sides must hold the same samples; got 40 samples for '40' and 39 for '39'. "
        "Extract both on one set."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        lambda_curve(a, b)


def test_too_few_samples_are_refused() -> None:
    a = Activations.from_arrays({"x": np.eye(2)})
    text = "lambda_curve: at least 3 samples are needed; got 2. Extract on more samples."
    with pytest.raises(ValueError, match=exactly(text)):
        lambda_curve(a, a)
