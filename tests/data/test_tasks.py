"""Tasks made from labels, and comparisons by several tasks at once."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix
from repsim.data.tasks import ABSENT, coarser, held_out, one_vs_rest
from repsim.metrics import TD, RegressionTD, SoftTD
from repsim.probes.fit import DEFAULT_PENALTY
from tests.conftest import exactly
from tests.metrics.transferred.test_td import layer, task
from tests.metrics.transferred.test_td_forms import measured
from tests.oracles import td as oracle

N = 120


def sides(labels: np.ndarray | None = None) -> tuple[Activations, Activations]:
    """Two networks with two and three layers that tell four classes apart to some degree."""
    y = task(N, 4)
    a = Activations.from_arrays({f"{w}": layer(y, w, w, 0.5) for w in (5, 8)}, labels=labels, name="one")
    b = Activations.from_arrays({f"{w}": layer(y, w, 50 + w, 0.5) for w in (4, 5, 90)}, labels=labels, name="two")
    return a, b


def compare(metric: Any, tasks: Any, labels: np.ndarray | None = None) -> SimilarityMatrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return repsim.compare(*sides(labels), metric, tasks=tasks)


# Tasks from labels.


def test_coarser_classes() -> None:
    y = np.array([3, 1, 0, 2, 9, 3])
    found = coarser(y, {"odd": [1, 3], "even": (2, 0)})
    assert found.tolist() == [0, 0, 1, 1, ABSENT, 0]
    assert found.dtype == torch.int64


def test_one_against_the_rest() -> None:
    found = one_vs_rest([7, -2, 7, ABSENT])
    assert {name: y.tolist() for name, y in found.items()} == {
        "class -2": [0, 1, 0, ABSENT],
        "class 7": [1, 0, 1, ABSENT],
    }


def test_held_out_classes_are_renumbered_and_the_others_absent() -> None:
    y = torch.tensor([3, 7, 1, 7, 1])
    assert held_out(y, [7, 1]).tolist() == [ABSENT, 0, 1, 0, 1]
    assert held_out(y, np.array([1, 3])).tolist() == [1, ABSENT, 0, ABSENT, 0]


def test_the_labels_are_not_changed() -> None:
    y = torch.tensor([3, 7, 1, 7, 1])
    kept = y.clone()
    coarser(y, {"a": [3], "b": [7]})
    held_out(y, [7, 1])
    one_vs_rest(y)
    assert torch.equal(y, kept)


# What is called, and the whole message.
WRONG: dict[str, tuple[Any, str]] = {
    "a class in two groups": (
        lambda: coarser([0, 1, 2], {"a": [0, 1], "b": [1, 2]}),
        "coarser: groups must split classes of these labels; got 2 groups, class 1 in two of them. "
        "Name at least two groups that share no class.",
    ),
    "a class that no sample has": (
        lambda: coarser([0, 1, 2], {"a": [0], "b": [5]}),
        "coarser: groups must split classes of these labels; got 2 groups, class 5 that no sample has. "
        "Name at least two groups that share no class.",
    ),
    "one group": (
        lambda: coarser([0, 1, 2], {"a": [0, 1]}),
        "coarser: groups must split classes of these labels; got 1 groups. "
        "Name at least two groups that share no class.",
    ),
    "one class against nothing": (
        lambda: one_vs_rest([4, 4, ABSENT]),
        "one_vs_rest: there must be two classes; got 1. Pass other labels.",
    ),
    "one held-out class": (
        lambda: held_out([0, 1, 2], [1]),
        "held_out: classes must be among the labels; got 1. Name at least two different classes of these labels.",
    ),
    "a held-out class twice": (
        lambda: held_out([0, 1, 2], [1, 1]),
        "held_out: classes must be among the labels; got 1, 1. Name at least two different classes of these labels.",
    ),
    "a held-out class that no sample has": (
        lambda: held_out([0, 1, 2], [1, 8]),
        "held_out: classes must be among the labels; got class 8, which no sample has. "
        "Name at least two different classes of these labels.",
    ),
    "labels that are no integers": (
        lambda: one_vs_rest([0.5, 1.0]),
        "tasks: labels must be integers; got float64. Pass class indices.",
    ),
    "labels in columns": (
        lambda: held_out([[0, 1]], [0, 1]),
        "tasks: labels must be (n,) class indices; got shape (1, 2). Pass one integer per sample.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_tasks_that_cannot_be_made(case: str) -> None:
    call, text = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=exactly(text)):
        call()


# Comparisons by tasks.


@pytest.mark.parametrize("metric", [TD(), SoftTD(), RegressionTD()], ids=str)
def test_the_values_are_the_mean_over_the_tasks(metric: TD) -> None:
    y = task(N, 4)
    tasks = {"all": y, "coarse": coarser(y, {"low": [0, 1], "high": [2, 3]})}
    found = compare(metric, tasks)
    assert list(found.tasks) == ["all", "coarse"]
    assert found.values.shape == (2, 3)
    np.testing.assert_allclose(found.values, (found.tasks["all"].values + found.tasks["coarse"].values) / 2, rtol=1e-14)
    assert np.abs(found.tasks["all"].values - found.tasks["coarse"].values).max() > 0.01
    for name, part in found.tasks.items():
        np.testing.assert_array_equal(found.details[f"task: {name}"], part.values)
        assert part.rows == found.rows
        assert part.details["n_heldout"][0, 0] == N
        assert not part.tasks


def test_each_task_matches_scikit_learn_on_the_folds_that_all_tasks_share() -> None:
    """The second task's classes are unions of the first's, so folds of all combinations are folds of the first."""
    y = task(N, 4)
    coarse = y // 2
    found = compare("td", {"all": y, "coarse": coarse})
    train = oracle.folds(y, 5, 0)
    a, b = sides()
    for name, labels in (("all", y), ("coarse", coarse)):
        answers = [
            [oracle.answers(x.numpy(), labels, train, DEFAULT_PENALTY) for x in side.features.values()]
            for side in (a, b)
        ]
        expected = [[np.mean(p != q) for q in answers[1]] for p in answers[0]]
        np.testing.assert_array_equal(found.tasks[name].values, expected)
        assert found.tasks[name].details["accuracy_row"][0, 0] == np.mean(answers[0][0] == labels)


def test_one_task_is_what_the_labels_give() -> None:
    y = task(N, 4)
    by_labels = compare("td", None, labels=y)
    by_task = compare("td", {"mine": y})
    np.testing.assert_array_equal(by_task.values, by_labels.values)
    for name, array in by_labels.details.items():
        np.testing.assert_array_equal(by_task.tasks["mine"].details[name], array)
    assert not by_labels.tasks


def test_tasks_stand_in_for_the_labels_that_the_samples_came_with() -> None:
    y = task(N, 4)
    other = np.random.default_rng(1).integers(0, 2, N)
    found = compare("td", {"mine": other}, labels=y)
    np.testing.assert_array_equal(found.values, compare("td", None, labels=other).values)
    assert np.all(found.tasks["mine"].details["classes"] == 2)


@pytest.mark.parametrize("family", [TD, SoftTD])
def test_absent_samples_are_neither_fitted_nor_answered(family: type[TD] | type[SoftTD]) -> None:
    """As if they were not there at all."""
    metric = family(fit_rows=tuple(range(0, N, 2)), tol=1e-8)
    y = task(N, 4)
    some = held_out(y, [3, 1])
    here = (some != ABSENT).numpy()
    found = compare(metric, {"some": some})
    a, b = sides()
    left = [Activations.from_arrays({k: x[torch.tensor(here)] for k, x in s.features.items()}) for s in (a, b)]
    rows = tuple(np.flatnonzero(np.flatnonzero(here) % 2 == 0))
    alone = repsim.compare(
        left[0], left[1], dataclasses.replace(metric, fit_rows=rows), tasks={"some": some[torch.tensor(here)]}
    )
    np.testing.assert_allclose(found.values, alone.values, rtol=0, atol=1e-7)
    part = found.tasks["some"].details
    assert np.all(part["n_heldout"] == alone.tasks["some"].details["n_heldout"])
    assert part["n_heldout"][0, 0] == np.sum(here & (np.arange(N) % 2 == 1))
    np.testing.assert_allclose(part["accuracy_row"], alone.tasks["some"].details["accuracy_row"])


def test_absent_samples_of_a_regression_on_classes_are_left_out() -> None:
    y = task(N, 4)
    some = held_out(y, [3, 1])
    here = (some != ABSENT).numpy()
    train = np.arange(N) % 2 == 0
    found = compare(RegressionTD(fit_rows=tuple(np.flatnonzero(train)), penalty=0.01), {"some": some})
    a, b = sides()
    targets = np.eye(2)[some.numpy()[here]]
    p, q = (oracle.ridge_predictions(s["5"].numpy()[here], targets, [train[here]], 0.01) for s in (a, b))
    assert found.values[0, 1] == pytest.approx(oracle.regression_td(p, q, targets, "cosine"), rel=1e-9)
    assert found.tasks["some"].details["n_heldout"][0, 0] == np.sum(here & ~train)


def test_one_against_the_rest_as_tasks() -> None:
    y = task(N, 4)
    found = compare(TD(resamples=0), one_vs_rest(y))
    assert list(found.tasks) == [f"class {c}" for c in range(4)]
    assert np.all(found.values > 0)
    for part in found.tasks.values():
        assert np.all(part.details["classes"] == 2)


def test_measured_targets_beside_class_labels() -> None:
    y = task(N, 4)
    a, b = sides()
    targets = measured(a["5"].numpy(), b["4"].numpy(), 2)
    found = compare(RegressionTD(penalty=0.01), {"classes": y, "targets": targets, "one": targets[:, 0]})
    train = oracle.folds(y, 5, 0)
    for name, columns in (("classes", np.eye(4)[y]), ("targets", targets), ("one", targets[:, :1])):
        p, q = (oracle.ridge_predictions(x.numpy(), columns, train, 0.01) for x in (a["8"], b["90"]))
        expected = oracle.regression_td(p, q, columns, "cosine")
        assert found.tasks[name].values[1, 2] == pytest.approx(expected, rel=1e-9)
    assert [found.tasks[name].details["targets"][0, 0] for name in found.tasks] == [4, 2, 1]


def test_a_task_without_a_number_takes_the_mean_and_says_which() -> None:
    y = task(N, 4)
    flat = Activations.from_arrays({"flat": np.ones((N, 3)), "x": layer(y, 5, 5, 0.5)}, name="one")
    with pytest.warns(CautionWarning, match="task '(all|coarse)'"):
        found = repsim.compare(flat, flat, "td", tasks={"all": y, "coarse": y // 2})
    np.testing.assert_array_equal(np.isnan(found.values), [[True, True], [True, False]])
    assert set(found.reasons) == {(0, 0), (0, 1), (1, 0)}
    for why in found.reasons.values():
        assert why.startswith("task '")
        assert why.endswith("constant features: every sample has the same row")


def test_a_matrix_of_several_tasks_is_written_and_read(tmp_path: Path) -> None:
    y = task(N, 4)
    found = compare("td", {"all/of them": y, "coarse": y // 2})
    again = SimilarityMatrix.load(found.save(tmp_path / "td.npz"))
    np.testing.assert_array_equal(again.values, found.values)
    assert list(again.tasks) == list(found.tasks)
    for name, part in found.tasks.items():
        np.testing.assert_array_equal(again.tasks[name].values, part.values)
        assert again.tasks[name].details.keys() == part.details.keys()
        for detail, array in part.details.items():
            np.testing.assert_array_equal(again.tasks[name].details[detail], array)
        assert again.tasks[name].metric == part.metric
        assert again.tasks[name].n == part.n
    assert again.details.keys() == found.details.keys()


def test_the_frame_of_several_tasks_has_a_column_for_each() -> None:
    y = task(N, 4)
    frame = compare("td", {"all": y, "coarse": y // 2}).to_frame()
    np.testing.assert_allclose(frame["value"], (frame["task: all"] + frame["task: coarse"]) / 2)


# Tasks, a metric, and the whole message.
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "another length": (
        "td",
        {"all": task(N, 4), "short": task(N - 1, 4)},
        "compare: every task must have 120 rows; got shape (119,) for 'short'. One label or target per sample.",
    ),
    "none": ("td", {}, 'compare: tasks must name each task; got none. Pass tasks={"name": labels}.'),
    "one class": (
        "td",
        {"all": np.zeros(N, dtype=int)},
        "TD: labels must hold at least two classes; got 1. "
        "A task with one class has no answer to disagree on; pass other labels or more samples.",
    ),
    "one class beside the absent": (
        "td_soft",
        {"all": np.where(np.arange(N) % 2, ABSENT, 3)},
        "SoftTD: labels must hold at least two classes; got 1. "
        "A task with one class has no answer to disagree on; pass other labels or more samples.",
    ),
    "measured targets for answers": (
        "td",
        {"all": np.linspace(0, 1, N)},
        "TD: labels must be 120 integers, one per sample; got float64 of shape (120,). Pass one class index per row.",
    ),
    "a measure without tasks": (
        "cka",
        {"all": task(N, 4)},
        "compare: tasks are for measures of answers; got cka. "
        "Leave tasks out, or compare by td, td_soft or td_regression.",
    ),
    "a class with fewer members than folds": (
        "td",
        {"all": task(N, 4), "rare": np.where(np.arange(N) < 3, 7, np.arange(N) % 2)},
        "stratified_folds: every class must have a sample in every fold; got class 7 of 'rare' with 3 and 5 folds. "
        "Use at least 2 folds and at most as many as the smallest class has samples, or add samples.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tasks_that_are_refused(case: str) -> None:
    metric, tasks, text = REFUSED[case]
    with pytest.raises(ValueError, match=exactly(text)):
        compare(metric, tasks)


def test_a_class_of_which_no_fitting_row_is_left_is_refused() -> None:
    y = task(N, 4)
    rows = tuple(np.flatnonzero(y != 2))
    with pytest.raises(ValueError, match=r"^fit_probes: training rows must hold every class; got none of class 2"):
        compare(TD(fit_rows=rows), {"all": y})


def test_no_labels_and_no_tasks() -> None:
    for name, metric in (("TD", "td"), ("SoftTD", "td_soft"), ("RegressionTD", "td_regression")):
        with pytest.raises(ValueError, match=rf"^{name}: a downstream task is needed; got no labels\. Give the act"):
            compare(metric, None)


# What the networks themselves answer.


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
def test_the_networks_own_disagreement_stands_beside_td() -> None:
    y = task(N, 4)
    rng = np.random.default_rng(0)
    logits = [rng.standard_normal((N, 4)) for _ in range(2)]
    given = [
        Activations.from_arrays(dict(side.features), labels=y, outputs=out)
        for side, out in zip(sides(), logits, strict=True)
    ]
    expected = np.mean(logits[0].argmax(1) != logits[1].argmax(1))
    for metric in ("td", "td_soft", "td_regression"):
        found = repsim.compare(given[0], given[1], metric)
        np.testing.assert_array_equal(found.details["outputs_disagree"], np.full((2, 3), expected))
        both = repsim.compare(given[0], given[1], metric, tasks={"all": y})
        np.testing.assert_array_equal(both.tasks["all"].details["outputs_disagree"], np.full((2, 3), expected))
        np.testing.assert_array_equal(repsim.compare(given[0], given[0], metric).details["outputs_disagree"], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        assert "outputs_disagree" not in repsim.compare(given[0], given[1], "cka").details
    # Known of one side only, or of networks with other classes: nothing to compare.
    alone = Activations.from_arrays(dict(given[1].features), labels=y)
    other = Activations.from_arrays(dict(given[1].features), labels=y, outputs=rng.standard_normal((N, 7)))
    for second in (alone, other):
        assert "outputs_disagree" not in repsim.compare(given[0], second, "td").details
