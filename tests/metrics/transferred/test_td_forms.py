"""What stands beside TD, soft TD and regression TD, against other heads, slow loops and closed forms."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix
from repsim.metrics import GULP, TD, Metric, RegressionTD, SoftTD, WhiteTD, get_metric
from repsim.metrics.transferred.base import Fit, HeldOutLogits, SoftmaxHeads
from repsim.metrics.transferred.td import HardPredictions
from repsim.metrics.transferred.td_soft import SoftPredictions
from repsim.probes.fit import DEFAULT_PENALTY
from repsim.probes.folds import bootstrap_folds, strata, stratified_folds
from tests.conftest import exactly
from tests.metrics.transferred.test_td import layer, task
from tests.oracles import spectral
from tests.oracles import td as oracle

FITTED = Fit(1e-9, 1e-12, 5, True, "")


def overlapping(n: int = 120, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two layers on which heads err often, and the labels."""
    y = task(n, k)
    return layer(y, 5, 1, 0.5), layer(y, 8, 2, 0.5), y


def compare(x: np.ndarray, z: np.ndarray, y: np.ndarray, metric: str | Metric = "td") -> SimilarityMatrix:
    a, b = Activations.from_arrays({"x": x}, labels=y), Activations.from_arrays({"z": z}, labels=y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return repsim.compare(a, b, metric)


def details(found: SimilarityMatrix) -> dict[str, float]:
    return {name: array[0, 0] for name, array in found.details.items()}


def answers(predicted: np.ndarray, labels: np.ndarray, k: int, resampled: np.ndarray | None = None) -> HardPredictions:
    """A layer whose heads gave these answers."""
    m = len(labels)
    other = np.stack([predicted, predicted]) if resampled is None else resampled
    rows, y, p, r = (torch.tensor(t) for t in (np.arange(m), labels, predicted, other))
    return HardPredictions(rows, y, p, r, torch.arange(k), FITTED)


def beliefs(chances: np.ndarray, labels: np.ndarray) -> SoftPredictions:
    """A layer whose heads gave these probabilities."""
    p = torch.tensor(chances, dtype=torch.float64)
    entropies = np.array([-sum(v * math.log2(v) for v in row if v > 0) for row in chances.tolist()])
    return SoftPredictions(torch.arange(len(p)), torch.tensor(labels), p, torch.tensor(entropies), FITTED)


# TD: what stands beside it.


@pytest.mark.parametrize("k", [2, 3, 6])
def test_corrections_match_loops_over_the_answers_of_scikit_learn(k: int) -> None:
    x, z, y = overlapping(120, k)
    found = details(compare(x, z, y))
    a, b = (oracle.answers(w, y, oracle.folds(y, 5, 0), DEFAULT_PENALTY) for w in (x, z))
    p, q = np.mean(a == y), np.mean(b == y)
    expected = {
        "accuracy_row": p,
        "accuracy_col": q,
        "lower_bound": abs(p - q),
        "upper_bound": min(1, 2 - p - q),
        "independent": 1 - p * q - (1 - p) * (1 - q) / (k - 1),
        "td_ratio": np.mean(a != b) / (1 - p * q - (1 - p) * (1 - q) / (k - 1)),
        "td_minmax": oracle.minmax(a, b, y),
        "kappa": oracle.kappa(a, b),
        "error_consistency": oracle.error_consistency(a, b, y),
        "confusion_expected": oracle.confusion_expected(a, b, y),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert len({round(v, 6) for v in expected.values()}) == len(expected)


@st.composite
def answered(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Labels and two sequences of answers, some of them perfect, constant or equal."""
    m, k = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = rng.integers(0, k, m)
    shares = st.sampled_from([0.0, 0.5, 0.9, 1.0])
    a, b = (np.where(rng.random(m) < draw(shares), y, rng.integers(0, k, m)) for _ in range(2))
    constant = np.zeros(m, dtype=int)
    return y, draw(st.sampled_from([a, a, constant])), draw(st.sampled_from([b, b, a, constant])), k


@given(drawn=answered())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_corrections_match_loops_over_any_answers(drawn: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> None:
    y, a, b, k = drawn
    found = TD().pairwise([answers(a, y, k)], [answers(b, y, k)])
    assert found.values.item() == pytest.approx(np.mean(a != b), abs=1e-15)
    expected = {
        "td_minmax": oracle.minmax(a, b, y),
        "kappa": oracle.kappa(a, b),
        "error_consistency": oracle.error_consistency(a, b, y),
        "confusion_expected": oracle.confusion_expected(a, b, y),
    }
    measured = {name: found.details[name].item() for name in expected}
    assert measured == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert found.reasons == {}
    low, high = found.details["lower_bound"].item(), found.details["upper_bound"].item()
    assert low - 1e-12 <= found.values.item() <= high + 1e-12
    if not math.isnan(measured["td_minmax"]):
        assert -1e-9 <= measured["td_minmax"] <= 1 + 1e-9


def test_equal_answers_have_kappa_one_and_shuffled_ones_none() -> None:
    rng = np.random.default_rng(0)
    m, k = 100_000, 4
    y = rng.integers(0, k, m)
    a = np.where(rng.random(m) < 0.7, y, rng.integers(0, k, m))
    same, shuffled = answers(a, y, k), answers(rng.permutation(a), y, k)
    found = TD().pairwise([same], [same, shuffled]).details
    assert found["kappa"][0].tolist() == pytest.approx([1, 0], abs=3 / math.sqrt(m))
    assert found["error_consistency"][0, 0] == 1


def test_errors_shuffled_within_classes_give_what_the_confusions_expect() -> None:
    rng = np.random.default_rng(0)
    m, k = 100_000, 4
    y = rng.integers(0, k, m)
    # Errors that are anything but evenly spread: class 0 is always taken for class 1.
    a = np.where((y == 0) & (rng.random(m) < 0.5), 1, y)
    b = a.copy()
    for c in range(k):
        b[y == c] = rng.permutation(a[y == c])
    found = TD().pairwise([answers(a, y, k)], [answers(b, y, k)])
    assert found.values.item() == pytest.approx(found.details["confusion_expected"].item(), abs=4 / math.sqrt(m))
    assert abs(found.values.item() - found.details["independent"].item()) > 0.03


def test_the_names_of_the_classes_change_nothing() -> None:
    """Resamples are drawn class by class, so only names in another order give other ones."""
    x, z, y = overlapping()
    plain, renamed = (details(compare(x, z, labels)) for labels in (y, np.array([-3, 7, 40])[y]))
    assert plain == renamed
    without = TD(resamples=0)
    plain, mixed = (details(compare(x, z, labels, without)) for labels in (y, np.array([7, -3, 40])[y]))
    mixed["iterations"] = plain["iterations"]
    assert mixed == pytest.approx(plain, abs=1e-5)


def test_given_logits_differ_where_their_largest_entries_do() -> None:
    rng = np.random.default_rng(0)
    y = torch.tensor(task(60, 4))
    held = [
        HeldOutLogits(torch.arange(60), y, torch.arange(4), logits, logits[None].repeat(2, 1, 1), FITTED)
        for logits in torch.tensor(rng.standard_normal((2, 60, 4)))
    ]
    found = TD().pairwise([HardPredictions.of(held[0])], [HardPredictions.of(held[1])]).values.item()
    assert found == np.mean(np.argmax(held[0].logits.numpy(), 1) != np.argmax(held[1].logits.numpy(), 1))


def test_td_of_each_class_and_their_mean() -> None:
    x, z, y = overlapping()
    labels = np.array([7, -3, 40])[y]
    found = details(compare(x, z, labels, TD(per_class=True)))
    a, b = (oracle.answers(w, y, oracle.folds(labels, 5, 0), DEFAULT_PENALTY) for w in (x, z))
    for c, label in enumerate([7, -3, 40]):
        assert found[f"td_class_{label}"] == pytest.approx(np.mean(a[y == c] != b[y == c]), abs=1e-15)
    assert not any(name.startswith("td_class_") for name in details(compare(x, z, labels)))


def test_a_class_without_held_out_rows_has_no_td_of_its_own() -> None:
    x, z, y = overlapping(60)
    rows = tuple(np.flatnonzero((y == 2) | (np.arange(60) % 2 == 0)))
    found = details(compare(x, z, y, TD(per_class=True, fit_rows=rows)))
    assert math.isnan(found["td_class_2"])
    assert np.isfinite([found["td_class_0"], found["td_class_1"], found["confusion_expected"]]).all()


# TD: the noise floor.


def test_floors_match_scikit_learn_on_the_same_resamples() -> None:
    x, z, y = overlapping(90)
    metric = TD(folds=3, resamples=3, penalty=1e-2)
    found = details(compare(x, z, y, metric))
    labels = torch.tensor(y)
    train = stratified_folds(labels, 3, 0)
    counts = bootstrap_folds(train, strata({"labels": labels}), 3, 0).numpy()
    heads = []
    for w in (x, z):
        given = np.full((3, 90), -1)
        for s, f in itertools.product(range(3), range(3)):
            held = ~train[f].numpy()
            drawn = np.repeat(np.arange(90), counts[s, f])
            given[s, held] = oracle.fit(w, y, drawn, 1e-2).logits(w[held]).argmax(axis=1)
        heads.append(given)
    others = [(i, j) for i in range(3) for j in range(3) if i != j]
    floors = [np.mean([np.mean(given[i] != given[j]) for i, j in others]) for given in heads]
    between = np.mean([np.mean(heads[0][i] != heads[1][j]) for i, j in others])
    expected = {
        "floor_row": floors[0],
        "floor_col": floors[1],
        "td_boot": between,
        "excess": between - np.mean(floors),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert min(floors) > 0.02
    assert expected["excess"] > 0.02


def test_resamples_keep_every_class_and_the_number_of_rows() -> None:
    y = torch.tensor(np.repeat([0, 1, 2], [80, 5, 35]))
    train = stratified_folds(y, 5, 0)
    counts = bootstrap_folds(train, y, 4, 0)
    assert counts.shape == (4, 5, 120)
    assert not counts[:, ~train].any()
    for c in range(3):
        expected = (train & (y == c)).sum(1).expand(4, -1)
        torch.testing.assert_close((counts * (y == c)).sum(2), expected)
    assert len({tuple(each.flatten().tolist()) for each in counts}) == 4
    # A row is left out of a resample of m rows with probability (1 - 1/m)^m.
    assert float((counts[:, train] == 0).double().mean()) == pytest.approx(math.exp(-1), abs=0.03)


@pytest.mark.parametrize("resamples", [2, 5])
def test_a_layer_exceeds_its_own_floor_by_nothing(resamples: int) -> None:
    x, z, y = overlapping(90)
    a = Activations.from_arrays({"x": x, "z": z}, labels=y)
    found = repsim.compare(a, a, TD(resamples=resamples)).details
    np.testing.assert_array_equal(np.diag(found["excess"]), 0)
    np.testing.assert_array_equal(np.diag(found["td_boot"]), np.diag(found["floor_row"]))
    np.testing.assert_array_equal(found["floor_row"], found["floor_col"].T)
    np.testing.assert_allclose(found["excess"], found["excess"].T, atol=1e-15)
    assert found["floor_row"].min() > 0
    turned = x @ np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0] * -3 + 1
    assert details(compare(x, turned, y, TD(resamples=resamples)))["excess"] == pytest.approx(0, abs=1 / 90)


def test_unrelated_layers_exceed_the_floor_and_noisy_heads_raise_it() -> None:
    y = task(300, 2)
    x, z = layer(y, 2, 1, 0.7), layer(y, 2, 5, 0.7)
    wide = np.hstack([x, np.random.default_rng(0).standard_normal((300, 60))])
    clear, noisy = details(compare(x, z, y)), details(compare(x, wide, y))
    assert clear["excess"] > 0.02
    assert noisy["floor_col"] > clear["floor_row"] + 0.02


def test_hand_counted_floors() -> None:
    """Four rows; the heads of A differ on one of them, those of B on two, and across on 2 and 1."""
    y = np.array([0, 1, 0, 1])
    a = answers(y, y, 2, np.array([[0, 1, 0, 1], [0, 1, 0, 0]]))
    b = answers(y, y, 2, np.array([[0, 1, 1, 0], [0, 1, 1, 1]]))
    found = {k: v.item() for k, v in TD().pairwise([a], [b]).details.items()}
    expected = {"floor_row": 0.25, "floor_col": 0.25, "td_boot": (0.25 + 0.25) / 2, "excess": 0.0}
    b_other = answers(y, y, 2, np.array([[0, 1, 1, 0], [1, 0, 1, 0]]))
    other = {k: v.item() for k, v in TD().pairwise([a], [b_other]).details.items()}
    assert {name: found[name] for name in expected} == expected
    # First of A against second of B differs on all four, second of A against first of B on one.
    assert {name: other[name] for name in expected} == {
        "floor_row": 0.25,
        "floor_col": 0.5,
        "td_boot": (1 + 0.25) / 2,
        "excess": 0.625 - 0.375,
    }


def test_without_resamples_there_is_no_floor_and_the_same_td() -> None:
    x, z, y = overlapping()
    with_floor, without = compare(x, z, y), compare(x, z, y, TD(resamples=0))
    assert without.values == with_floor.values
    assert with_floor.details.keys() - without.details.keys() == {"floor_row", "floor_col", "td_boot", "excess"}


def test_other_seeds_draw_other_resamples() -> None:
    x, z, y = overlapping()
    rows = tuple(range(0, 120, 2))
    found = [details(compare(x, z, y, TD(seed=seed, fit_rows=rows)))["td_boot"] for seed in (0, 0, 1, 2)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


@pytest.mark.parametrize("resamples", [1, -1, 2.5])
def test_numbers_of_resamples_that_are_refused(resamples: float) -> None:
    text = (
        f"TD: resamples must be 0 or a whole number >= 2; got {resamples!r}. "
        "A floor compares at least two heads of one layer."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        TD(resamples=resamples)  # type: ignore[arg-type]


# Soft TD.


@pytest.mark.parametrize("distance", ["jsd", "tv"])
@pytest.mark.parametrize("k", [2, 4])
def test_soft_td_matches_the_probabilities_of_scikit_learn(distance: str, k: int) -> None:
    x, z, y = overlapping(120, k)
    metric = SoftTD(distance=distance, penalty=1e-2, tol=1e-8)  # type: ignore[arg-type]
    found = compare(x, z, y, metric)
    train = oracle.folds(y, 5, 0)
    p, q = (oracle.probabilities(w, y, train, 1e-2) for w in (x, z))
    rows = {"jsd": oracle.jsd(p, q), "tv": oracle.tv(p, q)}
    assert found.values.item() == pytest.approx(rows[distance].mean(), abs=1e-6)
    beside = details(found)
    assert {"jsd", "tv"} - beside.keys() == {distance}
    half = 1.959964 * rows[distance].std(ddof=1) / math.sqrt(120)
    expected = {
        "td": np.mean(p.argmax(1) != q.argmax(1)),
        ("tv" if distance == "jsd" else "jsd"): rows["tv" if distance == "jsd" else "jsd"].mean(),
        "accuracy_row": np.mean(p.argmax(1) == y),
        "accuracy_col": np.mean(q.argmax(1) == y),
        "log_loss_row": -np.mean(np.log(p[np.arange(120), y])),
        "log_loss_col": -np.mean(np.log(q[np.arange(120), y])),
        "ci_low": rows[distance].mean() - half,
        "ci_high": rows[distance].mean() + half,
        "n_heldout": 120,
    }
    assert {name: beside[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_soft_td_on_given_rows_matches_scikit_learn() -> None:
    x, z, y = overlapping(90)
    train = np.arange(90) % 3 > 0
    found = compare(x, z, y, SoftTD(fit_rows=tuple(np.flatnonzero(train)), penalty=1e-2, tol=1e-8))
    p, q = (oracle.probabilities(w, y, [train], 1e-2)[~train] for w in (x, z))
    assert found.values.item() == pytest.approx(oracle.jsd(p, q).mean(), abs=1e-6)
    assert details(found)["n_heldout"] == 30


def test_the_td_beside_soft_td_is_td() -> None:
    x, z, y = overlapping()
    assert details(compare(x, z, y, "td_soft"))["td"] == compare(x, z, y, "td").values.item() > 0


def test_certain_probabilities_make_both_distances_td() -> None:
    rng = np.random.default_rng(0)
    y = task(50, 3)
    a, b = (np.eye(3)[rng.integers(0, 3, 50)] for _ in range(2))
    differ = np.mean(a.argmax(1) != b.argmax(1))
    assert 0 < differ < 1
    for distance in ("jsd", "tv"):
        found = SoftTD(distance=distance).pairwise([beliefs(a, y)], [beliefs(b, y)])
        assert found.values.item() == pytest.approx(differ, abs=1e-15)
        assert found.details["td"].item() == pytest.approx(differ, abs=1e-15)


def test_a_sure_head_beside_an_undecided_one() -> None:
    """JSD of (1, 0) and (½, ½): the entropy of (¾, ¼) less half a bit."""
    y = np.zeros(4, dtype=int)
    sure, undecided = beliefs(np.tile([1.0, 0.0], (4, 1)), y), beliefs(np.full((4, 2), 0.5), y)
    assert SoftTD().pairwise([sure], [undecided]).values.item() == pytest.approx(0.311278, abs=1e-6)
    assert SoftTD(distance="tv").pairwise([sure], [undecided]).values.item() == pytest.approx(0.5, abs=1e-15)


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6), sharp=st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_soft_distances_of_any_probabilities(seed: int, k: int, sharp: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, 12)
    chances = rng.dirichlet(np.full(k, 1 / sharp), (3, 12))
    heads = [beliefs(p, y) for p in chances]
    for distance, rowwise in (("jsd", oracle.jsd), ("tv", oracle.tv)):
        found = SoftTD(distance=distance).pairwise(heads, heads).values.numpy()  # type: ignore[arg-type]
        expected = [[rowwise(p, q).mean() for q in chances] for p in chances]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(np.diag(found), 0, rtol=0, atol=1e-15)
        if distance == "tv":
            assert np.all(found[:, None, :] <= found[:, :, None] + found[None, :, :] + 1e-12)


def test_the_divergence_lies_below_the_total_variation() -> None:
    x, z, y = overlapping()
    found = compare(x, z, y, "td_soft")
    assert 0 < found.values.item() <= details(found)["tv"]


def test_the_interval_of_soft_td_covers_a_known_mean() -> None:
    """Rows are 0 or 1 apart with probability 0.3, so the interval is that of a share."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        apart = rng.random(80) < 0.3
        p = np.tile([1.0, 0.0], (80, 1))
        q = np.where(apart[:, None], [0.0, 1.0], p)
        y = np.zeros(80, dtype=int)
        found = SoftTD().pairwise([beliefs(p, y)], [beliefs(q, y)]).details
        hits += found["ci_low"].item() <= 0.3 <= found["ci_high"].item()
    assert 0.9 <= hits / 300 <= 0.98


def test_one_held_out_row_has_no_interval() -> None:
    x, z, y = overlapping(30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(x, z, y, SoftTD(fit_rows=tuple(range(29))))
    assert np.isfinite(found.values).all()
    assert details(found)["n_heldout"] == 1


def test_soft_distances_that_are_refused() -> None:
    text = "SoftTD: distance must be 'jsd' or 'tv'; got 'kl'. Choose one of these."
    with pytest.raises(ValueError, match=exactly(text)):
        SoftTD(distance="kl")  # type: ignore[arg-type]
    assert get_metric("td_soft(distance='tv')") == SoftTD(distance="tv")


# Regression TD.


def regression(
    x: np.ndarray, z: np.ndarray, targets: np.ndarray, metric: RegressionTD
) -> tuple[float, dict[str, float]]:
    """The value of one pair of layers for measured targets, and its details."""
    states = metric.prepare_tasks([torch.tensor(x), torch.tensor(z)], {"t": torch.tensor(targets)})["t"]
    found = metric.pairwise(states[:1], states[1:])
    return found.values.item(), {name: array.item() for name, array in found.details.items()}


def measured(x: np.ndarray, z: np.ndarray, t: int, seed: int = 3) -> np.ndarray:
    """Targets that both layers know something of."""
    rng = np.random.default_rng(seed)
    signal = x @ rng.standard_normal((x.shape[1], t)) + z @ rng.standard_normal((z.shape[1], t))
    return signal * np.geomspace(1, 5, t) + 2 * rng.standard_normal((len(x), t)) + 7


@pytest.mark.parametrize("normalize", ["cosine", "target"])
@pytest.mark.parametrize("penalty", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("widths", [(5, 8), (150, 3), (90, 200)])
def test_regressions_of_measured_targets_match_least_squares(
    normalize: str, penalty: float, widths: tuple[int, int]
) -> None:
    y = task(90, 3)
    x, z = (layer(y, w, w, 0.5) for w in widths)
    targets = measured(x, z, 4)
    train = oracle.folds(np.zeros(90), 5, 0)
    p, q = (oracle.ridge_predictions(w, targets, train, penalty) for w in (x, z))
    value, beside = regression(x, z, targets, RegressionTD(penalty=penalty, normalize=normalize))  # type: ignore[arg-type]
    assert value == pytest.approx(oracle.regression_td(p, q, targets, normalize), rel=1e-7)
    spread = np.sum((targets - targets.mean(axis=0)) ** 2)
    assert beside["r2_row"] == pytest.approx(1 - np.sum((targets - p) ** 2) / spread, abs=1e-7)
    assert beside["r2_col"] == pytest.approx(1 - np.sum((targets - q) ** 2) / spread, abs=1e-7)
    assert beside["n_heldout"] == 90
    assert beside["targets"] == 4


def test_one_target_is_a_column_of_one() -> None:
    x, z, _ = overlapping(90)
    targets = measured(x, z, 1)
    train = oracle.folds(np.zeros(90), 5, 0)
    p, q = (oracle.ridge_predictions(w, targets, train, DEFAULT_PENALTY) for w in (x, z))
    flat, column = (regression(x, z, t, RegressionTD())[0] for t in (targets[:, 0], targets))
    assert flat == column == pytest.approx(oracle.regression_td(p, q, targets, "cosine"), rel=1e-9)


@pytest.mark.parametrize("normalize", ["cosine", "target"])
def test_class_labels_are_regressed_as_indicators(normalize: str) -> None:
    x, z, y = overlapping()
    labels = np.array([7, -3, 40])[y]
    found = compare(x, z, labels, RegressionTD(normalize=normalize))  # type: ignore[arg-type]
    targets, train = np.eye(3)[y], oracle.folds(labels, 5, 0)
    p, q = (oracle.ridge_predictions(w, targets, train, DEFAULT_PENALTY) for w in (x, z))
    assert found.values.item() == pytest.approx(oracle.regression_td(p, q, targets, normalize), rel=1e-9)
    assert details(found)["targets"] == 3


def test_regression_on_given_rows_matches_least_squares() -> None:
    x, z, _ = overlapping(90)
    targets = measured(x, z, 2)
    train = np.arange(90) % 3 > 0
    p, q = (oracle.ridge_predictions(w, targets, [train], 0.1) for w in (x, z))
    metric = RegressionTD(fit_rows=tuple(np.flatnonzero(train)), penalty=0.1)
    value, beside = regression(x, z, targets, metric)
    assert value == pytest.approx(oracle.regression_td(p, q, targets, "cosine"), rel=1e-9)
    assert beside["n_heldout"] == 30


@pytest.mark.parametrize("normalize", ["cosine", "target"])
def test_without_a_penalty_it_is_least_squares_and_sees_no_invertible_map(normalize: str) -> None:
    x, z, _ = overlapping(90)
    targets = measured(x, z, 2)
    metric = RegressionTD(penalty=0, normalize=normalize)  # type: ignore[arg-type]
    train = oracle.folds(np.zeros(90), 5, 0)
    p, q = (oracle.ridge_predictions(w, targets, train, 0) for w in (x, z))
    value, _ = regression(x, z, targets, metric)
    assert value == pytest.approx(oracle.regression_td(p, q, targets, normalize), rel=1e-9)
    mixed = (x * np.logspace(-2, 2, 5)) @ np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    assert regression(mixed, z, targets, metric)[0] == pytest.approx(value, rel=1e-7)
    assert regression(x, mixed, targets, metric)[0] <= 1e-12
    assert "invertible" in metric.invariances
    assert "invertible" not in RegressionTD().invariances


def in_sample(x: np.ndarray, z: np.ndarray, targets: np.ndarray, metric: RegressionTD) -> float:
    """The same rows are fitted and, as a second copy of them, predicted."""
    twice = [np.tile(w, (2, 1)) for w in (x, z, targets)]
    return regression(*twice, metric)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("penalty", [1e-3, 0.01, 1.0])
def test_over_all_indicators_of_rows_it_is_td_white_and_gulp(penalty: float) -> None:
    """Targets I: predictions are the smoothers themselves, and ‖I − mean‖² = n − 1. An exact average over tasks."""
    x, z, y = overlapping(40)
    settings = {"penalty": penalty, "fit_rows": tuple(range(40))}
    cosine, target = RegressionTD(**settings), RegressionTD(**settings, normalize="target")  # type: ignore[arg-type]
    white, gulp = (compare(x, z, y, family(penalty=penalty)).values.item() for family in (WhiteTD, GULP))
    assert in_sample(x, z, np.eye(40), cosine) == pytest.approx(white, rel=1e-9)
    assert in_sample(x, z, np.eye(40), target) * 39 == pytest.approx(gulp**2, rel=1e-9)
    assert white == pytest.approx(spectral.td_white(x, z, penalty), rel=1e-9)


def test_over_white_noise_tasks_it_tends_to_td_white_and_gulp() -> None:
    x, z, y = overlapping(40)
    tasks = np.random.default_rng(0).standard_normal((40, 4000))
    rows = tuple(range(40))
    white, gulp = (compare(x, z, y, family(penalty=0.01)).values.item() for family in (WhiteTD, GULP))
    assert in_sample(x, z, tasks, RegressionTD(penalty=0.01, fit_rows=rows)) == pytest.approx(white, rel=0.03)
    target = RegressionTD(penalty=0.01, fit_rows=rows, normalize="target")
    assert in_sample(x, z, tasks, target) * 39 == pytest.approx(gulp**2, rel=0.03)


def test_signs_of_ridge_heads_differ_by_the_angle_of_their_operators() -> None:
    """For white-noise targets two heads' answers at a point are Gaussian, so signs differ with P = angle / π."""
    x, z, _ = overlapping(60)
    fit, asked = np.arange(60) < 40, np.arange(60) >= 40
    rng = np.random.default_rng(0)
    tasks = rng.standard_normal((60, 20_000))
    metric = RegressionTD(penalty=0.01, fit_rows=tuple(np.flatnonzero(fit)))
    states = metric.prepare_tasks([torch.tensor(x), torch.tensor(z)], {"t": torch.tensor(tasks)})["t"]
    differ = (states[0].predicted > 0) != (states[1].predicted > 0)
    operators = []
    for w in (x, z):
        # The head's answers to every indicator of a fitting row are the columns of its operator.
        answers_to = oracle.ridge_predictions(w, np.eye(60)[:, fit], [fit], 0.01)
        operators.append(answers_to[asked] / np.linalg.norm(answers_to[asked], axis=1, keepdims=True))
    expected = np.arccos(np.sum(operators[0] * operators[1], axis=1)) / np.pi
    np.testing.assert_allclose(differ.double().mean(1), expected, atol=5 * 0.5 / math.sqrt(20_000))
    assert np.ptp(expected) > 0.1


def test_opposite_and_uncorrelated_predictions() -> None:
    """Held out, the second layer says the opposite of what it said in the fitting rows, or something unrelated."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 1))
    x[100:] -= x[100:].mean()
    opposite, unrelated = x.copy(), x.copy()
    opposite[100:] *= -1
    unrelated[100:, 0] = rng.standard_normal(100)
    unrelated[100:] -= unrelated[100:].mean()
    unrelated[100:] -= x[100:] * (x[100:, 0] @ unrelated[100:, 0]) / (x[100:, 0] @ x[100:, 0])
    metric = RegressionTD(fit_rows=tuple(range(100)))
    assert regression(x, opposite, x[:, 0], metric)[0] == pytest.approx(4, abs=1e-12)
    assert regression(x, unrelated, x[:, 0], metric)[0] == pytest.approx(2, abs=1e-12)
    assert regression(x, -3 * x + 5, x[:, 0], metric)[0] == pytest.approx(0, abs=1e-12)


def test_roots_of_the_share_of_the_target_obey_the_triangle_inequality() -> None:
    y = task(60, 3)
    layers = [torch.tensor(layer(y, w, w, 0.5)) for w in (2, 5, 9, 80)]
    targets = torch.tensor(measured(layers[0].numpy(), layers[1].numpy(), 3))
    metric = RegressionTD(normalize="target")
    states = metric.prepare_tasks(layers, {"t": targets})["t"]
    root = metric.pairwise(states, states).values.sqrt().numpy()
    assert np.all(np.diag(root) == 0)
    assert np.all(root[:, None, :] <= root[:, :, None] + root[None, :, :] + 1e-12)


def test_a_small_change_has_its_size() -> None:
    """2 − 2cos of nearly equal predictions keeps its digits."""
    x, z, _ = overlapping(90)
    targets = measured(x, z, 2)
    train = oracle.folds(np.zeros(90), 5, 0)
    near = x + 1e-7 * np.random.default_rng(4).standard_normal(x.shape)
    p, q = (oracle.ridge_predictions(w, targets, train, 0.01) for w in (x, near))
    found = regression(x, near, targets, RegressionTD(penalty=0.01))[0]
    assert found == pytest.approx(oracle.regression_td(p, q, targets, "cosine"), rel=1e-5)
    assert 0 < found < 1e-12


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize("side", ["features", "targets"])
def test_scales_of_features_and_targets_leave_the_regression(side: str, scale: float) -> None:
    x, z, _ = overlapping(90)
    targets = measured(x, z, 2)
    for normalize in ("cosine", "target"):
        metric = RegressionTD(normalize=normalize)  # type: ignore[arg-type]
        base = regression(x, z, targets, metric)[0]
        moved = (scale * x, z, targets) if side == "features" else (x, z, scale * targets)
        assert regression(*moved, metric)[0] == pytest.approx(base, rel=1e-9)


def test_a_large_mean_of_features_and_targets_leaves_the_regression() -> None:
    x, z, _ = overlapping(90)
    targets = measured(x, z, 2)
    base = regression(x, z, targets, RegressionTD())[0]
    assert regression(x + 1e8, z, targets + 1e8, RegressionTD())[0] == pytest.approx(base, rel=1e-5)


def test_dead_and_repeated_columns_and_duplicate_rows_match_least_squares() -> None:
    x, z, y = overlapping(45)
    x, z, y = (np.tile(w, (2, *[1] * (w.ndim - 1))) for w in (x, z, y))
    low = np.hstack([x, x, np.zeros((90, 1)), np.full((90, 1), 7.3)])
    targets = measured(x, z, 2)
    train = oracle.folds(np.zeros(90), 5, 0)
    p, q = (oracle.ridge_predictions(w, targets, train, 0.01) for w in (low, z))
    found = regression(low, z, targets, RegressionTD(penalty=0.01))[0]
    assert found == pytest.approx(oracle.regression_td(p, q, targets, "cosine"), rel=1e-9)
    least = regression(low, z, targets, RegressionTD(penalty=0))[0]
    assert least == pytest.approx(regression(x, z, targets, RegressionTD(penalty=0))[0], rel=1e-7)


@pytest.mark.parametrize("penalty", [1e-10, 1e-13, 1e-20])
def test_a_penalty_of_nearly_nothing_is_exact_or_refused(penalty: float) -> None:
    """Wide layers: the normal equations have the condition number 1 / λ."""
    y = task(40, 2)
    x, z = (layer(y, w, w, 0.5) for w in (60, 80))
    targets = measured(x, z, 1)
    train = oracle.folds(np.zeros(40), 5, 0)
    p, q = (oracle.ridge_predictions(w, targets, train, penalty) for w in (x, z))
    try:
        found = regression(x, z, targets, RegressionTD(penalty=penalty))[0]
    except ValueError as error:
        assert str(error).startswith("RegressionTD: ")  # noqa: PT017  # either outcome is right, a crash is not
        return
    assert found == pytest.approx(oracle.regression_td(p, q, targets, "cosine"), rel=1e-3)


def test_least_squares_with_too_many_features_is_refused() -> None:
    x, z, _ = overlapping(60)
    targets = measured(x, z, 1)
    wide = np.random.default_rng(0).standard_normal((60, 48))
    text = (
        "RegressionTD: a penalty of 0 needs fewer features than fitting rows; got 48 features and 48 rows. "
        "Use a penalty > 0, narrower layers or more samples."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        regression(x, wide, targets, RegressionTD(penalty=0))
    assert math.isfinite(regression(x, wide[:, :30], targets, RegressionTD(penalty=0))[0])


def test_a_layer_that_knows_nothing_of_the_fitting_rows_has_no_direction() -> None:
    """Its head predicts the mean for all: of 2 − 2cos there is no number, of the share of the target there is."""
    x, _, _ = overlapping(60)
    flat = np.ones((60, 2))
    flat[30:] = np.random.default_rng(0).standard_normal((30, 2))
    rows = tuple(range(30))
    targets = x[:, :1]
    metric = RegressionTD(fit_rows=rows)
    states = metric.prepare_tasks([torch.tensor(x), torch.tensor(flat)], {"t": torch.tensor(targets)})["t"]
    found = metric.pairwise(states, states)
    text = "the {} layer has a head that predicts the same for every sample: no direction"
    assert found.reasons == {(0, 1): text.format("column"), (1, 0): text.format("row"), (1, 1): text.format("row")}
    np.testing.assert_array_equal(found.values.isnan(), [[False, True], [True, True]])
    target = RegressionTD(fit_rows=rows, normalize="target")
    shares = target.pairwise(states, states)
    assert shares.reasons == {}
    assert shares.values[1, 1] == 0
    assert shares.values[0, 1] > 0


def test_a_target_that_is_constant_among_the_held_out_rows_has_no_share() -> None:
    x, z, _ = overlapping(60)
    targets = np.where(np.arange(60) < 30, np.random.default_rng(0).standard_normal(60), 1.0)
    metric = RegressionTD(fit_rows=tuple(range(30)), normalize="target")
    states = metric.prepare_tasks([torch.tensor(x), torch.tensor(z)], {"t": torch.tensor(targets)})["t"]
    found = metric.pairwise(states[:1], states[1:])
    assert math.isnan(found.values.item())
    assert set(found.reasons) == {(0, 0)}


REFUSED: dict[str, tuple[np.ndarray, str]] = {
    "another length": (
        np.ones(59),
        "targets must be (60,) or (60, t) and finite; got shape (59,). Pass one finite row of targets per sample.",
    ),
    "three axes": (
        np.ones((60, 2, 2)),
        "targets must be (60,) or (60, t) and finite; got shape (60, 2, 2). Pass one finite row of targets per sample.",
    ),
    "not finite": (
        np.where(np.arange(60) == 3, np.nan, 1.0),
        "targets must be (60,) or (60, t) and finite; got shape (60,) with NaN or infinity. "
        "Pass one finite row of targets per sample.",
    ),
    "constant": (np.ones((60, 2)), "every target must vary; got a constant one. Leave it out."),
    "one class": (
        np.zeros(60, dtype=int),
        "labels must hold at least two classes; got 1. "
        "A task with one class has no answer to disagree on; pass other labels or more samples.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_targets_that_are_refused(case: str) -> None:
    x, z, _ = overlapping(60)
    targets, text = REFUSED[case]
    with pytest.raises(ValueError, match=exactly(f"RegressionTD: {text}")):
        regression(x, z, targets, RegressionTD())


@pytest.mark.parametrize("penalty", [-1.0, math.nan, math.inf])
def test_penalties_of_a_regression_that_are_refused(penalty: float) -> None:
    text = f"RegressionTD: penalty must be a finite number >= 0; got {penalty}. Use 0 for least squares."
    with pytest.raises(ValueError, match=exactly(text)):
        RegressionTD(penalty=penalty)


def test_normalisations_that_are_refused() -> None:
    text = "RegressionTD: normalize must be 'cosine' or 'target'; got 'rows'. Choose one of these."
    with pytest.raises(ValueError, match=exactly(text)):
        RegressionTD(normalize="rows")  # type: ignore[arg-type]


# All forms: resampling from prepared answers.

FORMS = pytest.mark.parametrize(
    "metric",
    [TD(resamples=0), SoftTD(), SoftTD(distance="tv"), RegressionTD(), RegressionTD(normalize="target")],
    ids=str,
)


@FORMS
def test_counting_every_row_once_gives_the_value(metric: TD) -> None:
    x, z, y = overlapping()
    states = metric.prepare([torch.tensor(x), torch.tensor(z), torch.tensor(x + 1)], torch.tensor(y))
    ones = torch.ones(2, 120, dtype=torch.int64)
    found = metric.bootstrapped(states[:2], states[2:], ones)
    expected = metric.pairwise(states[:2], states[2:]).values
    torch.testing.assert_close(found, expected.expand(2, -1, -1), rtol=0, atol=1e-12)


@FORMS
def test_counting_rows_is_repeating_their_answers(metric: TD) -> None:
    x, z, y = overlapping(60)
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 3)
    rows, cols = ([s] for s in metric.prepare([torch.tensor(x), torch.tensor(z)], torch.tensor(y)))
    found = metric.bootstrapped(rows, cols, torch.tensor(counts))[:, 0, 0].tolist()
    train = oracle.folds(y, 5, 0)
    for each, value in zip(counts, found, strict=True):
        drawn = np.repeat(np.arange(60), each)
        if isinstance(metric, RegressionTD):
            p, q = (oracle.ridge_predictions(w, np.eye(3)[y], train, DEFAULT_PENALTY)[drawn] for w in (x, z))
            expected = oracle.regression_td(p, q, np.eye(3)[y][drawn], metric.normalize)
        else:
            p, q = (oracle.probabilities(w, y, train, DEFAULT_PENALTY)[drawn] for w in (x, z))
            apart = {"jsd": oracle.jsd, "tv": oracle.tv}
            score = apart[metric.distance](p, q) if isinstance(metric, SoftTD) else p.argmax(1) != q.argmax(1)
            expected = np.mean(score)
        assert value == pytest.approx(expected, abs=1e-4 if isinstance(metric, SoftTD) else 1e-9)


@pytest.mark.parametrize("metric", [TD(), SoftTD()], ids=str)
def test_permuting_answers_keeps_them_within_their_classes(metric: SoftmaxHeads) -> None:
    x, z, y = overlapping()
    states = metric.prepare([torch.tensor(x), torch.tensor(z)], torch.tensor(y))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    permuted = metric.permuted(states[:1], order)
    assert permuted is not None
    (moved,) = permuted
    before, after = (
        s.predicted if isinstance(s, HardPredictions) else s.probabilities.argmax(1) for s in (states[0], moved)
    )
    assert not torch.equal(before, after)
    for c in range(3):
        here = torch.tensor(y) == c
        torch.testing.assert_close(before[here].sort().values, after[here].sort().values)
    assert moved.accuracy == states[0].accuracy
    # Other orders give other permutations, the order of the rows themselves gives none.
    permuted = metric.permuted(states[:1], torch.arange(120))
    assert permuted is not None
    (same,) = permuted
    assert metric.pairwise([same], states[:1]).values.item() == 0
    assert metric.pairwise([moved], states[:1]).values.item() > 0


def test_the_mean_over_permutations_is_what_the_confusions_expect() -> None:
    x, z, y = overlapping()
    metric = TD(resamples=0)
    states = metric.prepare([torch.tensor(x), torch.tensor(z)], torch.tensor(y))
    generator = torch.Generator().manual_seed(0)
    null = [
        metric.pairwise(metric.permuted(states[:1], torch.randperm(120, generator=generator)), states[1:]).values.item()
        for _ in range(400)
    ]
    expected = metric.pairwise(states[:1], states[1:]).details["confusion_expected"].item()
    assert np.mean(null) == pytest.approx(expected, abs=4 * np.std(null) / 20)
    assert np.std(null) > 0
