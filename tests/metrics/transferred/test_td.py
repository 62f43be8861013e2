"""Transferred Discrepancy against scikit-learn's heads, its closed forms, and what it refuses."""

import dataclasses
import re
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix
from repsim.metrics import TD, PairwiseResult
from repsim.metrics.transferred.base import Fit
from repsim.metrics.transferred.td import HardPredictions
from repsim.numerics.intervals import wilson
from repsim.probes.fit import DEFAULT_PENALTY
from tests.oracles import td as oracle


def task(n: int, k: int, seed: int = 0) -> np.ndarray:
    """n labels of k classes, all about equally often, in random order."""
    return np.random.default_rng(seed).permutation(np.arange(n) % k)


def layer(labels: np.ndarray, width: int, seed: int, signal: float = 1.0) -> np.ndarray:
    """Features in which the classes overlap."""
    rng = np.random.default_rng(seed)
    centres = signal * rng.standard_normal((int(labels.max()) + 1, width))
    return (centres[labels] + rng.standard_normal((len(labels), width))) * np.linspace(0.5, 2, width) + 3


def compare(
    rows: dict[str, np.ndarray], cols: dict[str, np.ndarray] | None, labels: np.ndarray, metric: str | TD = "td"
) -> SimilarityMatrix:
    """Compares two sides, or one object with itself where `cols` is None."""
    a = Activations.from_arrays(rows, labels=labels)
    return repsim.compare(a, a if cols is None else Activations.from_arrays(cols, labels=labels), metric)


def answers(predicted: np.ndarray, labels: np.ndarray, classes: int) -> HardPredictions:
    """A layer whose heads gave these answers."""
    given, true = torch.tensor(predicted), torch.tensor(labels)
    nobody = given.new_empty(0, len(given))
    return HardPredictions(
        torch.arange(len(given)), true, given, nobody, torch.arange(classes), Fit(1e-9, 1e-12, 5, True, "")
    )


def pairwise(rows: Sequence[HardPredictions], cols: Sequence[HardPredictions]) -> PairwiseResult:
    """What TD makes of answers that no probe was resampled for."""
    return TD(resamples=0).pairwise(rows, cols)


# n, classes, widths of the rows, widths of the columns
SHAPES = {
    "narrow": (90, 3, (4, 9), (6, 2, 11)),
    "two classes": (80, 2, (5,), (3,)),
    "wide": (60, 4, (150, 70), (80,)),
    "many classes": (120, 10, (16,), (12,)),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_folds_match_scikit_learn(shape: str, dtype: type) -> None:
    """Heads at gradient norm 1e-5 answer as exact ones do, unless a row lies that close to a boundary; none does."""
    n, k, p, q = SHAPES[shape]
    y = task(n, k)
    rows = {f"{w}": layer(y, w, w).astype(dtype) for w in p}
    cols = {f"{w}": layer(y, w, w).astype(dtype) for w in q}
    found = compare(rows, cols, y)
    train = oracle.folds(y, 5, seed=0)
    exact = [[oracle.answers(x, y, train, DEFAULT_PENALTY) for x in side.values()] for side in (rows, cols)]
    np.testing.assert_array_equal(found.values, [[np.mean(a != b) for b in exact[1]] for a in exact[0]])
    for name, side in (("accuracy_row", 0), ("accuracy_col", 1)):
        accuracy = np.array([np.mean(a == y) for a in exact[side]])
        expected = np.broadcast_to(accuracy[:, None] if side == 0 else accuracy, found.values.shape)
        np.testing.assert_allclose(found.details[name], expected, rtol=1e-14)
    assert np.all(found.details["n_heldout"] == n)
    assert np.all(found.details["classes"] == k)
    assert np.all(found.details["converged"] == 1)
    assert np.all(found.details["gradient_norm"] <= 1e-5)


def test_settings_match_scikit_learn() -> None:
    y = task(90, 3)
    x, z = layer(y, 5, 1), layer(y, 8, 2)
    assert compare({"x": x}, {"z": z}, y, TD(seed=3, folds=3, penalty=0.1)).values[0, 0] == oracle.td(
        x, z, y, oracle.folds(y, 3, seed=3), penalty=0.1
    )


def test_fitting_on_given_rows_matches_scikit_learn() -> None:
    y = task(90, 3)
    x, z = layer(y, 5, 1), layer(y, 8, 2)
    rows = tuple(range(0, 90, 2))
    train = np.isin(np.arange(90), rows)
    found = compare({"x": x}, {"z": z}, y, TD(fit_rows=rows))
    assert found.values[0, 0] == oracle.td(x, z, y, [train], DEFAULT_PENALTY)
    assert found.details["n_heldout"] == 45
    assert found.details["accuracy_row"] == np.mean(oracle.answers(x, y, [train], DEFAULT_PENALTY)[~train] == y[~train])


def test_one_object_twice_gives_what_two_equal_objects_give() -> None:
    y = task(60, 3)
    rows = {f"{w}": layer(y, w, w) for w in (3, 5, 8)}
    same = compare(rows, None, y).values
    np.testing.assert_array_equal(same, same.T)
    np.testing.assert_array_equal(np.diag(same), 0)
    np.testing.assert_array_equal(same, compare(rows, {k: x.copy() for k, x in rows.items()}, y).values)
    assert same[0, 1] > 0


def test_labels_on_one_side_are_enough() -> None:
    y = task(60, 3)
    x, z = layer(y, 5, 1), layer(y, 8, 2)
    with_labels, without = Activations.from_arrays({"x": x}, labels=y), Activations.from_arrays({"z": z})
    expected = compare({"x": x}, {"z": z}, y).values
    np.testing.assert_array_equal(repsim.compare(with_labels, without, "td").values, expected)
    np.testing.assert_array_equal(repsim.compare(without, with_labels, "td").values, expected.T)


def test_the_names_of_the_classes_do_not_matter() -> None:
    y = task(90, 3)
    x, z = layer(y, 5, 1), layer(y, 8, 2)
    renamed = np.array([400, -7, 12])[y]
    assert compare({"x": x}, {"z": z}, renamed).values == compare({"x": x}, {"z": z}, y).values > 0


def test_seeds_give_other_folds_and_the_same_seed_the_same() -> None:
    y = task(90, 3)
    x, z = layer(y, 5, 1, 0.5), layer(y, 8, 2, 0.5)
    found = [float(compare({"x": x}, {"z": z}, y, TD(seed=seed)).values[0, 0]) for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_equal_answers_and_answers_that_are_all_shifted() -> None:
    y = task(40, 4)
    a, b = answers(y, y, 4), answers((y + 1) % 4, y, 4)
    np.testing.assert_array_equal(pairwise([a, b], [a, b]).values, [[0, 1], [1, 0]])


def test_hand_counted_answers() -> None:
    """Four rows: the heads differ on the last two, and are right on 3 and 2 of the 4."""
    y = np.array([0, 1, 2, 0])
    a, b = answers(np.array([0, 1, 2, 1]), y, 3), answers(np.array([0, 1, 0, 2]), y, 3)
    found = pairwise([a], [b])
    independent = 1 - 0.75 * 0.5 - 0.25 * 0.5 / 2
    expected = {
        "accuracy_row": 0.75,
        "accuracy_col": 0.5,
        "lower_bound": 0.25,
        "upper_bound": 0.75,
        "independent": independent,
        "td_ratio": 0.5 / independent,
        "n_heldout": 4,
        "classes": 3,
        "ci_low": 0.15003898915214947,
        "ci_high": 0.8499610108478506,
    }
    assert found.values.item() == 0.5
    assert {name: found.details[name].item() for name in expected} == pytest.approx(expected, abs=1e-9)


def test_bounds_and_triangle_on_random_answers() -> None:
    rng = np.random.default_rng(0)
    y = task(60, 3)
    heads = [answers(np.where(rng.random(60) < share, y, rng.integers(0, 3, 60)), y, 3) for share in rng.random(8)]
    found = pairwise(heads, heads)
    d = found.values.numpy()
    accuracy = np.array([h.accuracy for h in heads])
    lower = np.abs(accuracy[:, None] - accuracy)
    upper = np.minimum(1, 2 - accuracy[:, None] - accuracy)
    np.testing.assert_allclose(found.details["lower_bound"], lower, atol=1e-15)
    np.testing.assert_allclose(found.details["upper_bound"], upper, atol=1e-15)
    assert np.all(d >= lower - 1e-12)
    assert np.all(d <= upper + 1e-12)
    assert np.all(d[:, None, :] <= d[:, :, None] + d[None, :, :] + 1e-12)


def test_two_classes_differ_where_exactly_one_head_is_right() -> None:
    rng = np.random.default_rng(0)
    y = task(60, 2)
    a, b = (answers(rng.integers(0, 2, 60), y, 2) for _ in range(2))
    assert pairwise([a], [b]).values.item() == (a.right != b.right).double().mean().item()


def test_independent_and_evenly_spread_errors_have_ratio_one() -> None:
    rng = np.random.default_rng(0)
    n, k = 200_000, 5
    y = rng.integers(0, k, n)
    heads = [answers(np.where(rng.random(n) < right, y, (y + rng.integers(1, k, n)) % k), y, k) for right in (0.9, 0.6)]
    found = pairwise(heads[:1], heads[1:])
    assert found.details["independent"].item() == pytest.approx(1 - 0.54 - 0.04 / 4, abs=0.005)
    assert found.details["td_ratio"].item() == pytest.approx(1, abs=0.01)


def test_two_perfect_heads_have_no_ratio() -> None:
    y = task(40, 4)
    found = pairwise([answers(y, y, 4)], [answers(y, y, 4)])
    assert found.values.item() == 0
    assert np.isnan(found.details["td_ratio"].item())
    assert found.reasons == {}


def test_answers_that_contradict_their_accuracies_are_refused() -> None:
    y = task(40, 4)
    a = answers(y, y, 4)
    misaligned = dataclasses.replace(a, predicted=a.predicted.roll(1), labels=a.labels.roll(1))
    with pytest.raises(RuntimeError, match="misaligned") as caught:
        pairwise([a], [misaligned])
    assert str(caught.value) == "TD: answers and accuracies contradict each other; rows are misaligned. Report this."


@pytest.mark.parametrize(
    ("share", "m", "low", "high"),
    [(0.0, 100, 0.0, 0.0370), (0.5, 100, 0.4038, 0.5962), (1.0, 100, 0.9630, 1.0), (0.015, 600, 0.0079, 0.0283)],
)
def test_wilson_interval(share: float, m: int, low: float, high: float) -> None:
    found = wilson(torch.tensor([[share]], dtype=torch.float64), m)
    assert [t.item() for t in found] == pytest.approx([low, high], abs=5e-5)


def test_wilson_interval_touches_the_ends_exactly_and_solves_its_equation() -> None:
    shares = torch.linspace(0, 1, 51, dtype=torch.float64)
    low, high = wilson(shares, 50)
    assert low[0] == 0
    assert high[-1] == 1
    z = 1.959963984540054
    for end in (low, high):
        np.testing.assert_allclose((shares - end) ** 2, z**2 * end * (1 - end) / 50, atol=1e-14)


def test_heads_that_did_not_converge_give_no_number() -> None:
    y = task(60, 3)
    a = Activations.from_arrays({"x": layer(y, 5, 1)}, labels=y, name="one")
    reason = (
        r"the row layer has a probe that did not converge: gradient norm \d\.\de-0\d after 1 steps, 1e-05 needed; "
        r"raise max_iter or tol"
    )
    start = re.escape("compare one × one, td(max_iter=1): 1 of 1 cells are NaN; x × x: ")
    with pytest.warns(CautionWarning, match=rf"^{start}{reason}\.$"):
        found = repsim.compare(a, a, TD(max_iter=1))
    assert re.fullmatch(reason, found.reasons[0, 0])
    assert np.isnan([found.values, *(found.details[name] for name in ("td_ratio", "ci_low", "ci_high"))]).all()
    assert found.details["converged"] == 0
    assert found.details["iterations"] == 1
    assert found.details["gradient_norm"] > 1e-5


def test_one_head_that_did_not_converge_takes_only_its_own_cells() -> None:
    y = task(40, 4)
    fine = answers(y, y, 4)
    stuck = dataclasses.replace(fine, fit=Fit(0.012, 0.3, 77, False, "a probe that did not converge"))
    found = pairwise([fine, stuck], [stuck, fine])
    np.testing.assert_array_equal(found.values, [[np.nan, 0], [np.nan, np.nan]])
    row, column = (f"the {side} layer has a probe that did not converge" for side in ("row", "column"))
    assert found.reasons == {(0, 0): column, (1, 0): row, (1, 1): row}


def test_the_features_are_not_changed() -> None:
    y = task(40, 2)
    x = torch.tensor(layer(y, 50, 1))
    kept = x.clone()
    repsim.compare(Activations.from_arrays({"x": x}, labels=y), Activations.from_arrays({"x": x}, labels=y), "td")
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_as_float32(dtype: torch.dtype) -> None:
    y = task(90, 3)
    x, z = (torch.tensor(layer(y, w, w)).to(dtype) for w in (5, 8))
    sides = [Activations.from_arrays({"x": t}, labels=y) for t in (x, z, x.float(), z.float())]
    half, single = repsim.compare(sides[0], sides[1], "td"), repsim.compare(sides[2], sides[3], "td")
    assert half.values == single.values > 0
    assert half.values == oracle.td(x.double().numpy(), z.double().numpy(), y, oracle.folds(y, 5, 0), DEFAULT_PENALTY)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e200, 1e-200])
def test_extreme_scales_leave_it(scale: float) -> None:
    y = task(90, 3)
    dtype = np.float32 if 1e-38 < scale < 1e38 else np.float64
    x, z = layer(y, 5, 1).astype(dtype), layer(y, 8, 2).astype(dtype)
    assert compare({"x": x * dtype(scale)}, {"z": z}, y).values == compare({"x": x}, {"z": z}, y).values > 0


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_large_mean_in_float32_does_not_drown_the_differences(offset: float) -> None:
    y = task(90, 3)
    x, z = (layer(y, 5, 1) + offset).astype(np.float32), layer(y, 8, 2).astype(np.float32)
    assert compare({"x": x}, {"z": z}, y).values[0, 0] == oracle.td(x, z, y, oracle.folds(y, 5, 0), DEFAULT_PENALTY)


def test_constant_columns_rank_deficient_layers_and_duplicate_rows_match_scikit_learn() -> None:
    y = np.tile(task(45, 3), 2)
    rng = np.random.default_rng(0)
    x = np.tile(layer(y[:45], 3, 1), (2, 1))
    low = np.hstack([x @ rng.standard_normal((3, 100)), np.zeros((90, 1)), np.full((90, 1), 7.3)])
    z = layer(y, 8, 2)
    assert compare({"low": low}, {"z": z}, y).values[0, 0] == oracle.td(
        low, z, y, oracle.folds(y, 5, 0), DEFAULT_PENALTY
    )


# What is passed, and the whole message.
REFUSED: dict[str, tuple[np.ndarray | None, str | TD, str]] = {
    "no labels": (
        None,
        "td",
        "TD: a downstream task is needed; got no labels. "
        "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y).",
    ),
    "one class": (
        np.zeros(12, dtype=int),
        "td",
        "TD: labels must hold at least two classes; got 1. "
        "A task with one class has no answer to disagree on; pass other labels or more samples.",
    ),
    "fewer members than folds": (
        np.array([0] * 9 + [1] * 3),
        "td",
        "stratified_folds: every class must have a sample in every fold; got class 1 with 3 and 5 folds. "
        "Use at least 2 folds and at most as many as the smallest class has samples, or add samples.",
    ),
    "a class by its own name": (
        np.array([7] * 9 + [9] * 3),
        "td",
        "stratified_folds: every class must have a sample in every fold; got class 9 with 3 and 5 folds. "
        "Use at least 2 folds and at most as many as the smallest class has samples, or add samples.",
    ),
    "one fold": (
        np.arange(12) % 2,
        TD(folds=1),
        "stratified_folds: every class must have a sample in every fold; got class 0 with 6 and 1 folds. "
        "Use at least 2 folds and at most as many as the smallest class has samples, or add samples.",
    ),
    "rows too high": (
        np.arange(12) % 2,
        TD(fit_rows=(3, 12)),
        "TD: fit_rows must be row numbers 0..11; got 2 rows from 3 to 12. Mark rows of this set.",
    ),
    "rows below zero": (
        np.arange(12) % 2,
        TD(fit_rows=(-1, 3, 4)),
        "TD: fit_rows must be row numbers 0..11; got 3 rows from -1 to 4. Mark rows of this set.",
    ),
    "no rows": (
        np.arange(12) % 2,
        TD(fit_rows=()),
        "TD: fit_rows must be row numbers 0..11; got 0 rows. Mark rows of this set.",
    ),
    "all rows": (
        np.arange(12) % 2,
        TD(fit_rows=tuple(range(12))),
        "fit_probes: every fold must train on some rows and hold out some; got [12] training rows of 12. "
        "Mark some rows for fitting and leave some to be predicted.",
    ),
    "rows of one class": (
        np.arange(12) % 2,
        TD(fit_rows=(0, 2, 4)),
        "fit_probes: training rows must hold every class; got none of class 1 in fold 0 of 'labels'. "
        "Number the classes 0..k-1 without gaps and mark training rows of every class.",
    ),
    "no penalty": (
        np.arange(12) % 2,
        TD(penalty=0),
        "fit_probes: every penalty must be > 0; got [0]. "
        "Without a penalty the optimum need not exist; use a small one, say 1e-6.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    labels, metric, expected = REFUSED[case]
    a = Activations.from_arrays({"x": np.random.default_rng(0).standard_normal((12, 3))}, labels=labels)
    with pytest.raises(ValueError, match=r"^(TD|fit_probes|stratified_folds): ") as caught:
        repsim.compare(a, a, metric)
    assert str(caught.value) == expected


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_samples(n: int) -> None:
    a = Activations.from_arrays({"x": np.arange(2.0 * n).reshape(n, 2)}, labels=np.arange(n))
    with pytest.raises(ValueError, match="needs at least") as caught:
        repsim.compare(a, a, "td")
    assert str(caught.value) == f"compare: td needs at least 3 samples; got {n}. Extract on more samples."


def test_labels_that_contradict_each_other() -> None:
    y = task(40, 2)
    other = y.copy()
    other[[3, 8]] = 1 - other[[3, 8]]
    a, b = (Activations.from_arrays({"x": layer(y, 4, 1)}, labels=labels) for labels in (y, other))
    with pytest.raises(ValueError, match="labels") as caught:
        repsim.compare(a, b, "td")
    assert str(caught.value) == (
        "compare: both sides must carry the same labels; got labels that differ in 2 of 40 rows. "
        "Give both sides the same labels, in the same order."
    )


def test_no_caution_is_due_to_layers_that_are_fine() -> None:
    y = task(60, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare({"x": layer(y, 5, 1)}, {"z": layer(y, 8, 2)}, y).cautions == ()
