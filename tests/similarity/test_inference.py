"""Bootstrap intervals, permutation tests and paired differences against formulas, replicas and simulations."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import METRICS, TD, RegressionTD
from repsim.similarity import inference
from repsim.similarity.inference import Difference, bootstrap, difference, permutation_test
from tests.conftest import exactly
from tests.metrics.spectral.test_spectral import layers
from tests.metrics.transferred.test_td import layer, task
from tests.oracles import spectral
from tests.support.sides import NAMES

#: Persistent homology of every resample takes long.
EVERY = pytest.mark.parametrize(
    "name", [pytest.param("rtd", marks=[*p.marks, pytest.mark.slow]) if p.values == ("rtd",) else p for p in NAMES]
)
SOME = pytest.mark.parametrize("name", ["cka", "td", "td_soft", "td_regression", "procrustes", "rsa"])
ADDED = {
    "bootstrap": {"ci_low", "ci_high", "standard_error", "bootstrap_bias"},
    "permutation": {
        *("p_value", "p_adjusted", "p_max", "calibrated", "calibrated_max"),
        *("null_mean", "null_low", "null_high"),
    },
}


@pytest.fixture(autouse=True)
def _no_cautions() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        yield


def classified(n: int = 60) -> tuple[Activations, Activations]:
    """Two networks with layers on which heads err often."""
    y = task(n, 3)
    a = Activations.from_arrays({f"{w}": layer(y, w, w, 0.5) for w in (5, 8)}, labels=y, name="one")
    b = Activations.from_arrays({f"{w}": layer(y, w, 50 + w, 0.5) for w in (4,)}, labels=y, name="two")
    return a, b


def related(n: int, rho: float, pairs: int = 1) -> tuple[Activations, Activations]:
    """Layers of one column each; the squared correlation of those of one number is ρ² in the population."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((pairs, n, 1))
    z = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((pairs, n, 1))
    a, b = ({f"{i}": each for i, each in enumerate(side)} for side in (x, z))
    return Activations.from_arrays(a), Activations.from_arrays(b)


def apart(pair: tuple[Activations, Activations], metric: TD) -> np.ndarray:
    """On which held-out rows the first layers' heads differ."""
    sides = [pair[0][pair[0].layers[0]], pair[1][pair[1].layers[0]]]
    one, two = metric.prepare(sides, pair[0].labels)
    return (one.predicted != two.predicted).numpy()


# Bootstrap.


@EVERY
def test_the_values_are_those_of_compare(name: str) -> None:
    a, b = classified()
    plain, found = repsim.compare(a, b, name), bootstrap(a, b, name, resamples=20)
    np.testing.assert_array_equal(found.values, plain.values)
    assert found.details.keys() - plain.details.keys() == ADDED["bootstrap"] - plain.details.keys()
    for detail in plain.details.keys() - ADDED["bootstrap"]:
        np.testing.assert_array_equal(found.details[detail], plain.details[detail])
    low, high = plain.definition.bounds
    assert np.all(low <= found.details["ci_low"])
    assert np.all(found.details["ci_low"] < found.details["ci_high"])
    assert np.all(found.details["ci_high"] <= high)
    assert np.all(found.details["standard_error"] > 0)
    assert (found.metric, found.rows, found.cols, found.n) == (plain.metric, plain.rows, plain.cols, plain.n)


@EVERY
def test_every_row_once_reproduces_the_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_draw", lambda n, resamples, seed: torch.ones(resamples, n, dtype=torch.int64))
    a, b = classified()
    for second in (a, b):
        found = bootstrap(a, second, name, resamples=20)
        np.testing.assert_allclose(found.details["bootstrap_bias"], 0, atol=1e-9)
        np.testing.assert_allclose(found.details["standard_error"], 0, atol=1e-9)
        for end in ("ci_low", "ci_high"):
            np.testing.assert_allclose(found.details[end], found.values, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "oracle"), [("procrustes", spectral.procrustes), ("linear_regression", spectral.linear_regression)]
)
def test_intervals_match_values_of_the_drawn_rows(name: str, oracle: Any) -> None:
    rows, cols = layers(1, 60, (3, 7)), layers(2, 60, (5,))
    a, b = Activations.from_arrays(rows), Activations.from_arrays(cols)
    found = bootstrap(a, b, name, resamples=25, level=0.8, seed=3)
    draws = [np.repeat(np.arange(60), counts) for counts in inference._draw(60, 25, 3).numpy()]
    for i, x in enumerate(rows.values()):
        y = cols["layer0"]
        value, moved = oracle(x, y), np.array([oracle(x[r], y[r]) for r in draws])
        bias = moved.mean() - value
        expected = {
            "bootstrap_bias": bias,
            "standard_error": moved.std(ddof=1),
            "ci_low": np.quantile(moved, 0.1) - bias,
            "ci_high": np.quantile(moved, 0.9) - bias,
        }
        assert {k: found.details[k][i, 0] for k in expected} == pytest.approx(expected, abs=1e-9)


def test_rows_are_drawn_evenly_and_with_replacement() -> None:
    counts = inference._draw(50, 2000, 0)
    assert counts.shape == (2000, 50)
    assert bool((counts.sum(1) == 50).all())
    torch.testing.assert_close(counts.double().mean(0), torch.ones(50, dtype=torch.float64), rtol=0, atol=0.12)
    assert float(counts.double().var()) == pytest.approx(1 - 1 / 50, abs=0.03)
    assert float((counts == 0).double().mean()) == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


def test_the_standard_error_of_td_is_that_of_a_share() -> None:
    a, b = classified(300)
    found = bootstrap(a, b, "td", resamples=2000)
    p = found.values
    np.testing.assert_allclose(found.details["standard_error"], np.sqrt(p * (1 - p) / 300), rtol=0.1)
    np.testing.assert_allclose(found.details["bootstrap_bias"], 0, atol=4 * np.sqrt(0.25 / 300 / 2000))
    half = 1.96 * np.sqrt(p * (1 - p) / 300)
    np.testing.assert_allclose(found.details["ci_low"], p - half, atol=0.012)
    np.testing.assert_allclose(found.details["ci_high"], p + half, atol=0.012)


def test_only_held_out_answers_are_drawn() -> None:
    """Of 300 rows 60 are answered, and the error is that of 60."""
    a, b = classified(300)
    found = bootstrap(a, b, TD(fit_rows=tuple(range(240))), resamples=2000)
    p = found.values
    assert np.all(found.details["n_heldout"] == 60)
    np.testing.assert_allclose(found.details["standard_error"], np.sqrt(p * (1 - p) / 60), rtol=0.15)


@pytest.mark.parametrize("name", ["cka_biased", "cka"])
def test_errors_and_intervals_fit_a_known_value(name: str) -> None:
    """25 data sets correlated by ρ = 0.7: an estimate of ρ² has the standard deviation 2ρ(1 − ρ²) / √n.

    All share their 60 draws, so that coverage by itself is a coarse measure.
    """
    details = bootstrap(*related(80, 0.7, pairs=25), name, resamples=60, level=0.9).details
    error, low, high = (np.diag(details[name]) for name in ("standard_error", "ci_low", "ci_high"))
    assert error.mean() == pytest.approx(2 * 0.7 * 0.51 / math.sqrt(80), rel=0.12)
    assert (high - low).mean() == pytest.approx(2 * 1.645 * error.mean(), rel=0.12)
    assert 0.65 <= np.mean((low <= 0.49) & (high >= 0.49)) <= 0.99


def test_a_higher_level_is_a_wider_interval_and_more_samples_a_narrower_one() -> None:
    widths = []
    for n, level in ((60, 0.5), (60, 0.9), (60, 0.99), (540, 0.9)):
        details = bootstrap(*related(n, 0.7, pairs=4), "cka_biased", resamples=60, level=level).details
        widths.append(np.diag(details["ci_high"] - details["ci_low"]).mean())
    assert widths[0] < widths[1] < widths[2]
    assert widths[1] / widths[3] == pytest.approx(3, rel=0.3)


def test_the_interval_is_freed_of_what_repeated_rows_add() -> None:
    """Wide layers look more alike where rows repeat: R² of 30 random columns rises from 30 / 99 by far."""
    rng = np.random.default_rng(0)
    a, b = (Activations.from_arrays({"x": rng.standard_normal((100, 30))}) for _ in range(2))
    details = bootstrap(a, b, "linear_regression").details
    value = repsim.compare(a, b, "linear_regression").values.item()
    assert details["bootstrap_bias"].item() > 0.1
    assert details["ci_low"].item() < value < details["ci_high"].item()


def test_unrelated_layers_stay_at_zero_debiased_cka() -> None:
    """A row drawn twice counts twice; as two rows, each other's twins, it would make unrelated layers alike."""
    rng = np.random.default_rng(0)
    x, z = (rng.standard_normal((60, 200)) for _ in range(2))
    details = bootstrap(Activations.from_arrays({"x": x}), Activations.from_arrays({"z": z}), "cka").details
    assert abs(details["bootstrap_bias"].item()) < 0.02
    assert details["ci_low"].item() < 0 < details["ci_high"].item()
    counts = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60))
    twins = np.repeat(np.arange(60), counts)
    naive = repsim.compare(Activations.from_arrays({"x": x[twins]}), Activations.from_arrays({"z": z[twins]}), "cka")
    assert naive.values.item() > 0.2


@pytest.mark.parametrize("name", ["cka", "td", "procrustes"])
def test_the_same_seed_gives_the_same_interval(name: str) -> None:
    a, b = classified()
    one, two, other = (bootstrap(a, b, name, resamples=30, seed=s).details["ci_low"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.any(one != other)


@pytest.mark.parametrize("name", ["cka", "td", "td_soft", "td_regression", "procrustes", "mean_cca", "rsa"])
def test_a_network_with_itself_has_its_self_value_in_every_resample(name: str) -> None:
    a, _ = classified()
    found = bootstrap(a, a, name, resamples=20)
    for detail, expected in (("standard_error", 0), ("ci_low", found.values[0, 0]), ("ci_high", found.values[0, 0])):
        np.testing.assert_allclose(np.diag(found.details[detail]), expected, atol=1e-7)
    np.testing.assert_allclose(found.details["ci_low"], found.details["ci_low"].T, atol=1e-9)
    assert found.details["standard_error"][0, 1] > 0


@EVERY
def test_a_constant_layer_has_no_interval_and_takes_no_other_with_it(name: str) -> None:
    a, b = classified()
    flat = Activations.from_arrays({"flat": np.ones((60, 3)), **a.features}, labels=a.labels)
    found, alone = bootstrap(flat, b, name, resamples=20), bootstrap(a, b, name, resamples=20)
    for detail in ADDED["bootstrap"]:
        assert np.isnan(found.details[detail][0]).all()
        np.testing.assert_allclose(found.details[detail][1:], alone.details[detail], atol=1e-9)


def test_what_was_done_is_written_down_and_read_back(tmp_path: Any) -> None:
    a, b = classified()
    found = bootstrap(a, b, "td", resamples=30, level=0.9, seed=4)
    assert found.provenance["bootstrap"] == {"resamples": 30, "level": 0.9, "seed": 4}
    again = repsim.SimilarityMatrix.load(found.save(tmp_path / "x.npz"))
    np.testing.assert_array_equal(again.details["standard_error"], found.details["standard_error"])
    assert {"ci_low", "ci_high", "standard_error"} <= set(found.to_frame().columns)


# Permutation.


@EVERY
def test_a_permutation_test_adds_to_what_compare_gives(name: str) -> None:
    a, b = classified()
    plain, found = repsim.compare(a, b, name), permutation_test(a, b, name, permutations=20)
    np.testing.assert_array_equal(found.values, plain.values)
    assert found.details.keys() - plain.details.keys() == ADDED["permutation"]
    p = found.details["p_value"] * 21
    np.testing.assert_allclose(p, p.round(), atol=1e-9)
    assert np.all((p >= 1) & (p <= 21))
    assert np.all(found.details["null_low"] <= found.details["null_mean"])
    assert np.all(found.details["null_mean"] <= found.details["null_high"])


@pytest.mark.parametrize(
    ("name", "oracle"), [("procrustes", spectral.procrustes), ("linear_regression", spectral.linear_regression)]
)
def test_chance_matches_values_of_permuted_rows(name: str, oracle: Any) -> None:
    """The second pair of layers is unrelated, so that its value lies among those of chance."""
    shared = layers(1, 40, (3,))["layer0"]
    cols = {"own": shared[:, :2] + 0.1, "other": np.random.default_rng(0).standard_normal((40, 4))}
    a, b = Activations.from_arrays({"x": shared}), Activations.from_arrays(cols)
    found = permutation_test(a, b, name, permutations=30, seed=2)
    generator = torch.Generator().manual_seed(2)
    orders = [torch.randperm(40, generator=generator).numpy() for _ in range(30)]
    for j, y in enumerate(cols.values()):
        value, null = oracle(shared, y), np.array([oracle(shared, y[order]) for order in orders])
        alike = null >= value if METRICS[name].kind == "similarity" else null <= value
        expected = {
            "p_value": (1 + alike.sum()) / 31,
            "null_mean": null.mean(),
            "null_low": np.quantile(null, 0.025),
            "null_high": np.quantile(null, 0.975),
        }
        assert {k: found.details[k][0, j] for k in expected} == pytest.approx(expected, abs=1e-9)
    assert found.details["p_value"][0, 0] == 1 / 31
    assert found.details["p_value"][0, 1] > 0.05


@pytest.mark.parametrize("name", ["cka", "linear_regression", "gulp"])
def test_p_values_of_unrelated_layers_are_even(name: str) -> None:
    """19 permutations: each of 20 p-values is equally likely."""
    rng = np.random.default_rng(0)
    a = Activations.from_arrays({f"{i}": rng.standard_normal((40, 3)) for i in range(12)})
    b = Activations.from_arrays({f"{i}": rng.standard_normal((40, 3)) for i in range(12)})
    p = permutation_test(a, b, name, permutations=39).details["p_value"].ravel()
    assert p.mean() == pytest.approx(0.5125, abs=0.1)
    assert np.mean(p <= 0.1) == pytest.approx(0.1, abs=0.08)
    assert np.mean(p > 0.9) == pytest.approx(0.1, abs=0.08)


@EVERY
def test_related_layers_have_the_smallest_p_value(name: str) -> None:
    """Networks whose heads err on the same samples: agreement beyond the confusion matrices."""
    y = task(120, 3)
    x = layer(y, 6, 1, 0.5)
    z = x + 0.2 * x.std(axis=0) * np.random.default_rng(0).standard_normal(x.shape)
    a, b = (Activations.from_arrays({"x": w}, labels=y) for w in (x, z))
    found = permutation_test(a, b, name, permutations=30).details
    assert found["p_value"].item() == pytest.approx(1 / 31)
    value = repsim.compare(a, b, name).values.item()
    end = "null_high" if METRICS[name].kind == "similarity" else "null_low"
    assert (value > found[end].item()) == (METRICS[name].kind == "similarity")


def test_the_chance_level_of_measures_that_know_it() -> None:
    rng = np.random.default_rng(0)
    a, b = (Activations.from_arrays({"x": rng.standard_normal((80, w))}) for w in (6, 10))
    for name, expected in (("cka", 0), ("linear_regression", 10 / 79), ("mutual_knn", 10 / 79)):
        found = permutation_test(a, b, name, permutations=200).details
        assert found["null_mean"].item() == pytest.approx(expected, abs=0.01)


def test_chance_of_td_is_agreement_through_the_confusion_matrices() -> None:
    a, b = classified(200)
    found = permutation_test(a, b, "td", permutations=200).details
    spread = found["null_high"] - found["null_low"]
    np.testing.assert_allclose(found["null_mean"], found["confusion_expected"], atol=spread.max() / 15)
    # Heads that err independently of each other within the classes are not told apart from chance.
    assert found["p_value"].min() > 1 / 201


def test_answers_are_permuted_within_classes_by_every_form_of_td() -> None:
    """Unrelated noise on top of the same clear classes: nothing but the labels is shared, and that is not counted."""
    rng = np.random.default_rng(0)
    y = task(200, 2)
    signal = np.eye(2)[y] @ rng.standard_normal((2, 4)) * 3
    a, b = (Activations.from_arrays({"x": signal + rng.standard_normal((200, 4))}, labels=y) for _ in range(2))
    for metric in ("td_soft", "td_regression"):
        found = permutation_test(a, b, metric, permutations=99).details
        assert found["p_value"].item() > 0.01, metric


def test_predictions_of_measured_targets_are_permuted_as_a_whole() -> None:
    x, z = classified()
    targets = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    metric = RegressionTD()
    states = metric.prepare_tasks([x["5"], z["4"]], {"t": targets})["t"]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    moved = metric.permuted(states[1:], order)
    assert moved is not None
    torch.testing.assert_close(moved[0].predicted[order], states[1].predicted)


@EVERY
def test_a_constant_layer_has_no_p_value_and_takes_no_other_with_it(name: str) -> None:
    a, b = classified()
    flat = Activations.from_arrays({**b.features, "flat": np.ones((60, 3))}, labels=b.labels)
    found, alone = permutation_test(a, flat, name, permutations=20), permutation_test(a, b, name, permutations=20)
    for detail in ADDED["permutation"]:
        assert np.isnan(found.details[detail][:, -1]).all()
        np.testing.assert_allclose(found.details[detail][:, :-1], alone.details[detail], atol=1e-9)


@pytest.mark.parametrize("name", ["cka", "td", "procrustes"])
def test_the_same_seed_gives_the_same_permutations(name: str) -> None:
    a, b = classified()
    one, two, other = (permutation_test(a, b, name, permutations=20, seed=s).details["null_mean"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.any(one != other)


# Differences.


def noisy(n: int, levels: Sequence[float], seed: int = 0) -> list[Activations]:
    """A network and others that hear it through noise."""
    rng = np.random.default_rng(seed)
    y = task(n, 3, seed)
    x = layer(y, 5, seed, 0.6)
    first = Activations.from_arrays({"x": x}, labels=y, name="clean")
    return [first] + [
        Activations.from_arrays({"x": x + s * rng.standard_normal(x.shape)}, labels=y, name=f"noise {s:g}")
        for s in levels
    ]


@SOME
def test_a_difference_is_that_of_the_two_values(name: str) -> None:
    a, b, c = noisy(60, (0.3, 1.0))
    found = difference((a, b), (a, c), name, resamples=20)
    np.testing.assert_array_equal(found.first.values, repsim.compare(a, b, name).values)
    np.testing.assert_array_equal(found.second.values, repsim.compare(a, c, name).values)
    np.testing.assert_array_equal(found.values, found.first.values - found.second.values)
    assert np.all(found.ci_low < found.ci_high)
    assert (found.level, found.resamples) == (0.95, 20)


@SOME
def test_a_comparison_does_not_differ_from_itself(name: str) -> None:
    a, b, _ = noisy(60, (0.3, 1.0))
    found = difference((a, b), (a, b), name, resamples=20)
    for array in (found.values, found.ci_low, found.ci_high, found.standard_error):
        np.testing.assert_allclose(array, 0, atol=1e-12)
    np.testing.assert_array_equal(found.p_value, 1)


def test_swapped_comparisons_swap_the_sign() -> None:
    a, b, c = noisy(60, (0.3, 1.0))
    one, two = difference((a, b), (a, c), "td"), difference((a, c), (a, b), "td")
    np.testing.assert_array_equal(one.values, -two.values)
    np.testing.assert_allclose(one.ci_low, -two.ci_high, atol=1e-12)
    np.testing.assert_array_equal(one.p_value, two.p_value)


def test_the_error_of_a_difference_of_td_is_that_of_paired_rows() -> None:
    a, b, c = noisy(400, (0.6, 0.8))
    gaps = apart((a, b), TD()).astype(float) - apart((a, c), TD()).astype(float)
    found = difference((a, b), (a, c), "td", resamples=3000)
    assert found.values.item() == pytest.approx(gaps.mean(), abs=1e-12)
    error = gaps.std() / math.sqrt(400)
    assert found.standard_error.item() == pytest.approx(error, rel=0.07)
    assert found.ci_low.item() == pytest.approx(gaps.mean() - 1.96 * error, abs=0.3 * error)
    assert found.ci_high.item() == pytest.approx(gaps.mean() + 1.96 * error, abs=0.3 * error)
    z = abs(gaps.mean()) / error
    assert found.p_value.item() == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.05)


def test_pairing_narrows_the_interval() -> None:
    a, b, c = noisy(300, (0.5, 0.6))
    found = difference((a, b), (a, c), "cka", resamples=200)
    alone = [bootstrap(a, side, "cka").details["standard_error"].item() for side in (b, c)]
    assert found.standard_error.item() < 0.9 * math.hypot(*alone)


def test_p_values_of_no_difference_are_even_and_of_a_clear_one_small() -> None:
    """20 layers and two that hear each of them through equally much noise."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((20, 60, 3))
    a, b, c = (
        Activations.from_arrays({f"{i}": x + s * rng.standard_normal(x.shape) for i, x in enumerate(first)})
        for s in (0, 0.7, 0.7)
    )
    found = difference((a, b), (a, c), "cka_biased", resamples=60)
    p = np.diag(found.p_value)
    assert p.mean() == pytest.approx(0.5, abs=0.15)
    assert np.mean(p <= 0.1) <= 0.25
    assert np.mean((np.diag(found.ci_low) <= 0) & (np.diag(found.ci_high) >= 0)) >= 0.8
    x, y, z = noisy(100, (0.1, 2.0))
    assert difference((x, y), (x, z), "cka", resamples=99).p_value.item() == pytest.approx(2 / 100)


def test_what_resampling_adds_to_all_resamples_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = noisy(60, (0.1,))
    level = repsim.compare(a, b, "cka").values
    around = level + np.linspace(-0.1, 0.1, 101)[:, None, None]
    resamples = iter([around + 0.5, np.broadcast_to(level, around.shape)])
    monkeypatch.setattr("repsim.similarity.inference._resampled", lambda *given: next(resamples))
    found = difference((a, b), (a, b), "cka", resamples=101)
    assert found.p_value.item() == 1
    assert found.ci_low.item() < 0 < found.ci_high.item()


def test_intervals_of_shared_neighbours_say_that_they_are_narrow() -> None:
    a, b, c = noisy(60, (0.1, 0.5))
    text = "neighbours stay those of the full sample, so intervals are too narrow: nominal 95 % covered 0.87"
    with pytest.warns(CautionWarning, match=text):
        found = bootstrap(a, b, "mutual_knn", resamples=20)
    assert any(caution.startswith(text) for caution in found.cautions)
    with pytest.warns(CautionWarning, match=text):
        difference((a, b), (a, c), "mutual_knn", resamples=20)
    assert not any(text in caution for caution in permutation_test(a, b, "mutual_knn", permutations=20).cautions)


def test_layers_are_matched_by_place_and_constant_ones_have_no_difference() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    a = Activations.from_arrays({"x": x, "flat": np.ones((60, 2))}, name="A")
    b = Activations.from_arrays({"p": x + rng.standard_normal((60, 4))}, name="B")
    c = Activations.from_arrays({"q": x + 2 * rng.standard_normal((60, 4))}, name="C")
    found = difference((a, b), (a, c), "cka", resamples=20)
    assert found.values.shape == (2, 1)
    for array in (found.values, found.ci_low, found.ci_high, found.standard_error, found.p_value):
        assert np.isfinite(array[0, 0])
        assert np.isnan(array[1, 0])
    assert repr(found) == "Difference(cka, A × B less A × C, n = 60)"


def test_the_frame_of_a_difference() -> None:
    a, b = classified()
    found = difference((a, b), (a, b), "td", resamples=20)
    frame = found.to_frame()
    assert len(frame) == 2
    assert set(frame.columns) >= {"first", "second", "difference", "ci_low", "ci_high", "p_value", "metric", "n"}
    np.testing.assert_array_equal(frame["difference"], frame["first"] - frame["second"])
    np.testing.assert_array_equal(frame["first"], found.first.values.ravel())
    assert frame["first_rows"].tolist() == ["5", "8"]
    assert frame["first_cols"].tolist() == ["4", "4"]
    assert isinstance(found, Difference)


# What is refused: a call, and the whole message.


def refused(call: str) -> Any:
    a, b = classified()
    other = Activations.from_arrays({"x": np.eye(7), "z": np.eye(7)}, name="other")
    return {
        "few resamples": lambda: bootstrap(a, b, "td", resamples=19),
        "no whole number": lambda: bootstrap(a, b, "td", resamples=100.0),  # type: ignore[arg-type]
        "level": lambda: bootstrap(a, b, "td", level=1.0),
        "few permutations": lambda: permutation_test(a, b, "td", permutations=5),
        "few resamples of a difference": lambda: difference((a, b), (a, b), "td", resamples=1),
        "level of a difference": lambda: difference((a, b), (a, b), "td", level=95),
        "other numbers of layers": lambda: difference((a, b), (a, a), "td"),
        "other samples": lambda: difference((a, a), (other, other), "cka"),
        "other samples on two sides": lambda: bootstrap(a, other, "cka"),
    }[call]()


REFUSED = {
    "few resamples": "bootstrap: resamples must be a whole number >= 20; got 19. 200 is usual.",
    "no whole number": "bootstrap: resamples must be a whole number >= 20; got 100.0. 200 is usual.",
    "level": "bootstrap: level must be in (0, 1); got 1.0. 0.95 is usual.",
    "few permutations": "permutation_test: permutations must be a whole number >= 20; got 5. 200 is usual.",
    "few resamples of a difference": "difference: resamples must be a whole number >= 20; got 1. 200 is usual.",
    "level of a difference": "difference: level must be in (0, 1); got 95. 0.95 is usual.",
    "other numbers of layers": (
        "difference: both pairs must have equally many layers; got 2 × 1 and 2 × 2. "
        "Extract the same layers of both pairs."
    ),
    "other samples": (
        "difference: both sides must hold the same samples; got 60 samples for 'one' and 7 for 'other'. "
        "Extract both on one set."
    ),
    "other samples on two sides": (
        "bootstrap: both sides must hold the same samples; got 60 samples for 'one' and 7 for 'other'. "
        "Extract both on one set."
    ),
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_is_refused(call: str) -> None:
    with pytest.raises(ValueError, match=exactly(REFUSED[call])):
        refused(call)
