"""The samples that two layers' heads answer differently, against scikit-learn's heads."""

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations
from repsim.data.tasks import ABSENT, held_out
from repsim.metrics import TD, SoftTD
from repsim.probes.fit import DEFAULT_PENALTY
from repsim.similarity.disagreement import Disagreements, disagreements
from tests.conftest import exactly
from tests.metrics.transferred.test_td import layer, task
from tests.oracles import td as oracle

N = 120


def sides(labels: np.ndarray | None, ids: bool = False) -> tuple[Activations, Activations]:
    y = task(N, 3)
    names = [f"image {i}" for i in range(N)] if ids else None
    a = Activations.from_arrays({"conv": layer(y, 5, 1, 0.5), "fc": layer(y, 6, 3)}, labels=labels, ids=names, name="A")
    b = Activations.from_arrays({"conv": layer(y, 8, 2, 0.5), "head": layer(y, 7, 4)}, labels=labels, name="B")
    return a, b


def find(labels: np.ndarray | None = None, **settings: object) -> Disagreements:
    labels = np.array([7, -3, 40])[task(N, 3)] if labels is None else labels
    return disagreements(*sides(labels), "conv", **settings)  # type: ignore[arg-type]


def test_samples_answers_and_confidences_match_scikit_learn() -> None:
    y = task(N, 3)
    known = np.array([7, -3, 40])
    found = find()
    # Class names in ascending order, as heads are numbered.
    classes, index = np.unique(known[y], return_inverse=True)
    train = oracle.folds(known[y], 5, 0)
    a, b = sides(None)
    p, q = (oracle.probabilities(s["conv"].numpy(), index, train, DEFAULT_PENALTY) for s in (a, b))
    differ = np.flatnonzero(p.argmax(1) != q.argmax(1))
    assert 10 < len(differ) < N
    assert sorted(found.rows.tolist()) == differ.tolist()
    np.testing.assert_array_equal(found.labels, known[y][found.rows])
    np.testing.assert_array_equal(found.answers_a, classes[p.argmax(1)[found.rows]])
    np.testing.assert_array_equal(found.answers_b, classes[q.argmax(1)[found.rows]])
    np.testing.assert_allclose(found.confidence_a, p.max(1)[found.rows], atol=1e-3)
    np.testing.assert_allclose(found.confidence_b, q.max(1)[found.rows], atol=1e-3)
    confusion = np.zeros((3, 3), dtype=int)
    for i, j in zip(p.argmax(1), q.argmax(1), strict=True):
        confusion[i, j] += 1
    np.testing.assert_array_equal(found.confusion, confusion)
    np.testing.assert_array_equal(found.classes, [-3, 7, 40])
    assert found.class_names is None
    assert (found.layer_a, found.layer_b, found.model_a, found.model_b) == ("conv", "conv", "A", "B")
    assert found.n == N
    assert found.metric == "td"


def test_their_share_is_td_and_the_table_adds_up() -> None:
    y = task(N, 3)
    a, b = sides(y)
    td = repsim.compare(a, b, TD(seed=2, folds=3))
    for i, first in enumerate(a.layers):
        for j, second in enumerate(b.layers):
            found = disagreements(a, b, first, second, metric=TD(seed=2, folds=3))
            assert len(found) / found.n == td.values[i, j]
            assert found.confusion.sum() == found.n
            assert found.confusion.sum() - np.trace(found.confusion) == len(found)
            assert found.metric == "td(seed=2, folds=3)"


def test_swapped_sides_swap_what_is_found() -> None:
    y = task(N, 3)
    a, b = sides(y)
    there, back = disagreements(a, b, "conv"), disagreements(b, a, "conv")
    np.testing.assert_array_equal(there.rows, back.rows)
    np.testing.assert_array_equal(there.answers_a, back.answers_b)
    np.testing.assert_array_equal(there.confidence_b, back.confidence_a)
    np.testing.assert_array_equal(there.confusion, back.confusion.T)


def test_those_that_both_are_surest_of_come_first() -> None:
    found = find()
    least = np.minimum(found.confidence_a, found.confidence_b)
    assert np.all(np.diff(least) <= 0)
    assert least[0] > least[-1]


def test_a_layer_agrees_with_itself() -> None:
    a, _ = sides(task(N, 3))
    found = disagreements(a, a, "conv")
    assert len(found) == 0
    assert found.ids == ()
    assert found.n == N
    assert np.trace(found.confusion) == N
    assert repr(found) == "Disagreements(A conv × A conv: 0 of 120 held-out samples)"
    assert len(found.to_frame()) == 0


def test_the_other_layer_is_the_one_that_corresponds() -> None:
    y = task(N, 3)
    short, long = ({f"blocks.{i}": layer(y, 5, i + s, 0.5) for i in range(s)} for s in (2, 4))
    a, b = Activations.from_arrays(short, labels=y, name="A"), Activations.from_arrays(long, labels=y, name="B")
    found = disagreements(a, b, "blocks.1")
    assert (found.layer_a, found.layer_b) == ("blocks.1", "blocks.3")
    given = disagreements(a, b, "blocks.1", "blocks.3")
    np.testing.assert_array_equal(found.rows, given.rows)
    text = "disagreements: layer 'blocks.1' of 'B' must correspond to one of 'A'; got none of 2 layers. Pass layer_b=."
    with pytest.raises(ValueError, match=exactly(text)):
        disagreements(b, a, "blocks.1")


def test_given_rows_are_fitted_and_the_others_answered() -> None:
    rows = tuple(range(0, N, 2))
    found = find(metric=TD(fit_rows=rows))
    assert found.n == N // 2
    assert found.confusion.sum() == N // 2
    assert np.all(found.rows % 2 == 1)
    assert len(found) > 0


def test_soft_td_has_the_same_heads() -> None:
    hard, soft = find(), find(metric=SoftTD())
    np.testing.assert_array_equal(hard.rows, soft.rows)
    np.testing.assert_allclose(hard.confidence_a, soft.confidence_a, atol=1e-12)
    assert soft.metric == "td_soft"


def test_a_task_stands_in_for_the_labels() -> None:
    y = task(N, 3)
    by_labels, by_task = find(labels=y % 2), disagreements(*sides(y), "conv", task=y % 2)
    np.testing.assert_array_equal(by_task.rows, by_labels.rows)
    np.testing.assert_array_equal(by_task.classes, [0, 1])
    as_list = disagreements(*sides(None), "conv", task=(y % 2).tolist())
    np.testing.assert_array_equal(as_list.rows, by_labels.rows)


def test_absent_samples_are_never_among_them() -> None:
    y = task(N, 3)
    some = held_out(y, [2, 0])
    found = disagreements(*sides(y), "conv", task=some)
    assert found.n == int((some != ABSENT).sum()) == 80
    assert np.all(y[found.rows] != 1)
    np.testing.assert_array_equal(found.labels, some.numpy()[found.rows])
    assert set(found.answers_a.tolist()) <= {0, 1}


def test_samples_have_the_names_that_one_side_knows() -> None:
    y = task(N, 3)
    named = disagreements(*sides(y, ids=True), "conv")
    assert named.ids == tuple(f"image {i}" for i in named.rows)
    numbered = disagreements(*sides(y), "conv")
    assert numbered.ids == tuple(str(i) for i in numbered.rows)
    frame = named.to_frame()
    assert frame.columns.tolist() == ["id", "row", "label", "answers_a", "answers_b", "confidence_a", "confidence_b"]
    assert frame["id"].tolist() == list(named.ids)
    np.testing.assert_array_equal(frame["label"], named.labels)


def test_classes_may_have_names() -> None:
    found = find(class_names=("cat", "dog", "eel"))
    assert found.class_names == ("cat", "dog", "eel")
    text = "disagreements: every class must have its name; got 2 names for 3 classes. Name them in label order."
    with pytest.raises(ValueError, match=exactly(text)):
        find(class_names=("cat", "dog"))


def test_what_is_refused() -> None:
    y = task(N, 3)
    a, b = sides(y)
    for metric in ("cka", "td_regression"):
        text = f"disagreements: metric must be one of answers to classes; got {metric}. Use td or td_soft."
        with pytest.raises(ValueError, match=exactly(text)):
            disagreements(a, b, "conv", metric=metric)
    text = "disagreements: a downstream task is needed; got no labels. Pass task=labels."
    with pytest.raises(ValueError, match=exactly(text)):
        disagreements(*sides(None), "conv")
    with pytest.raises(KeyError, match="the layer must exist; got 'none'"):
        disagreements(a, b, "none")
    with pytest.raises(KeyError, match="the layer must exist; got 'none'"):
        disagreements(a, b, "none", "head")
    short = Activations.from_arrays({"conv": np.ones((5, 2))}, name="C")
    text = (
        "disagreements: both sides must hold the same samples; got 120 samples for 'A' and 5 for 'C'. "
        "Extract both on one set."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        disagreements(a, short, "conv")


def test_layers_without_heads_are_refused() -> None:
    y = task(N, 3)
    a, _ = sides(y)
    flat = Activations.from_arrays({"conv": np.ones((N, 3))})
    text = (
        "disagreements: both layers must have probes; got the column layer has constant features: every sample has the "
        "same row. Choose another layer or other settings."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        disagreements(a, flat, "conv")
    with pytest.raises(ValueError, match="the row layer has a probe that did not converge"):
        disagreements(a, a, "conv", metric=TD(max_iter=1))


@pytest.mark.parametrize(
    "wrong",
    [np.linspace(0, 1.99, N), task(N - 1, 3), np.zeros((N, 2), dtype=int)],
    ids=["fractions", "too few", "two axes"],
)
def test_tasks_that_are_no_class_labels_are_refused(wrong: np.ndarray) -> None:
    """Fractions are not cut off."""
    with pytest.raises(ValueError, match=r"labels must be 120 integers, one per sample"):
        disagreements(*sides(task(N, 3)), "conv", task=wrong)


def test_tensors_are_not_changed() -> None:
    y = task(N, 3)
    a, b = sides(y)
    kept = a["conv"].clone()
    disagreements(a, b, "conv")
    assert torch.equal(a["conv"], kept)
