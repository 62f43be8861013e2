"""Labels from anywhere are class indices, and "no label" is one thing however it was written."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from repsim import Activations, ImageSet, compare, extract
from repsim._common.labels import class_labels
from repsim.data.tasks import coarser, held_out, one_vs_rest
from tests.conftest import exactly

NONE = -100


@pytest.mark.parametrize(
    ("labels", "right"),
    [
        ([0, 1, -1, -100], [0, 1, NONE, NONE]),
        (np.array([2, -1], np.int8), [2, NONE]),
        (np.array([2, 1], np.uint64), [2, 1]),
        (np.array([True, False]), [1, 0]),
        (np.array([3, 4], ">i4"), [3, 4]),
        (torch.tensor([5, -1], dtype=torch.int16), [5, NONE]),
        (pd.Series([1, 2, -1], index=[7, 8, 9]), [1, 2, NONE]),
        (pd.Series([1, None, 2], dtype="Int64"), [1, NONE, 2]),
        (pd.Series([1, None, 2], dtype=object), [1, NONE, 2]),
        (np.ma.masked_array([1, 2, 3], [False, True, False]), [1, NONE, 3]),
        ((), []),
    ],
)
def test_labels_are_class_indices(labels: Any, right: list[int]) -> None:
    if len(labels) == 0:
        with pytest.raises(TypeError, match="f: labels must be integers; got float64"):
            class_labels(labels, "f")
        return
    found = class_labels(labels, "f")
    assert found.dtype == torch.int64
    assert found.tolist() == right


NAMES = (
    "Pass class indices, as numpy.unique(labels, return_inverse=True)[1] makes of names; both sides need the same "
    "numbers."
)


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        (["cat", "dog"], TypeError, f"f: labels must be integers; got 'cat', of type str. {NAMES}"),
        (pd.Series(["cat", None]), TypeError, None),
        (pd.Categorical(["cat", "dog"]), TypeError, None),
        (pd.Series([1, None]), TypeError, "f: labels must be integers; got 1.0, of type float. Pass class indices."),
        ([0.0, 1.0], TypeError, "f: labels must be integers; got float64. Pass class indices."),
        ([1j], TypeError, "f: labels must be integers; got complex128. Pass class indices."),
        ([[1], [1, 2]], TypeError, None),
        ([2**70, 1], TypeError, None),
        (np.array([2**63], np.uint64), TypeError, None),
        (np.datetime64("2020"), TypeError, None),
        ([[0, 1]], ValueError, "f: labels must be (n,) class indices; got shape (1, 2). Pass one integer per sample."),
    ],
)
def test_what_is_no_label_is_refused(labels: Any, kind: type[Exception], text: str | None) -> None:
    with pytest.raises(kind, match=exactly(text) if text else r"\Af: labels must be ") as error:
        class_labels(labels, "f")
    assert "\n" not in str(error.value)


def test_no_label_is_one_thing_wherever_labels_are_taken() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    right = [0, 1, NONE, NONE]
    given = [0, 1, -1, -100]
    assert Activations.from_arrays({"l": x}, labels=given).labels.tolist() == right  # type: ignore[union-attr]
    images = ImageSet(torch.zeros(4, 1, 2, 2), torch.tensor(given), tuple("abcd"), "x")
    assert images.labels.tolist() == right
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    batches = [(images.images, torch.tensor(given))]
    assert extract(net, batches, progress=False).labels.tolist() == right  # type: ignore[union-attr]
    assert coarser(given, {"a": [0], "b": [1]}).tolist() == right
    assert held_out(given, [0, 1]).tolist() == right
    assert list(one_vs_rest(given)) == ["class 0", "class 1"]


@pytest.mark.parametrize("metric", ["td", "td_soft", "td_regression"])
def test_unlabelled_rows_have_no_part_in_a_task(metric: str) -> None:
    rng = np.random.default_rng(1)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 4)) + 2 * np.eye(4)[y]
    values = []
    for absent in (-1, -100):
        labels = np.where(np.arange(90) < 60, y, absent)
        a, b = (Activations.from_arrays({"l": x * scale}, labels=labels) for scale in (1, [1, 2, 3, 4]))
        values.append(float(compare(a, b, metric).values[0, 0]))
        values.append(float(compare(a, b, metric, tasks={"t": labels}).values[0, 0]))
    assert len(set(values)) == 1


def test_features_with_gaps_are_refused() -> None:
    masked = np.ma.masked_array(np.ones((3, 2)), np.array([[False, True], [False, False], [False, False]]))
    text = "Activations: layer 'l' must be numbers; got masked entries. Leave out what is missing, and convert it."
    with pytest.raises(TypeError, match=exactly(text)):
        Activations.from_arrays({"l": masked})
    text = (
        "Activations: layer 'l' must be numbers; got entries of type object. Leave out what is missing, and convert it."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        Activations.from_arrays({"l": pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})})
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]})
    assert Activations.from_arrays({"l": table})["l"].tolist() == [[1.0, 3.0], [2.0, 5.0]]
    assert Activations.from_arrays({"l": np.eye(3)[::-1]})["l"].shape == (3, 3)
    assert Activations.from_arrays({"l": np.eye(3, dtype=">f8")})["l"].dtype == torch.float64
