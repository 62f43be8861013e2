"""Activations: what they check, features from elsewhere, and which two sides may be compared."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from repsim import Activations, compare
from repsim.features.side_checks import check_same_samples, common_labels
from tests.conftest import exactly


def rows(n: int, p: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed))


# --- What must hold -------------------------------------------------------------------------------------------


def test_activations_are_layers_in_order() -> None:
    features = {"b": rows(1500, 3), "a": rows(1500, 1200)}
    made = Activations(features, name="mine", reduction="mean")
    assert made.layers == tuple(made) == ("b", "a")
    assert len(made) == 2
    assert made.n == 1500
    assert made["a"] is features["a"]
    assert repr(made) == "Activations('mine', 2 layers × 1,500 samples, width 3 to 1,200, mean)"
    assert repr(Activations({"a": rows(4, 7)})) == "Activations('features', 1 layers × 4 samples, width 7, given)"


def test_a_layer_that_is_not_there_is_met_with_the_closest_ones() -> None:
    made = Activations({"layer1": rows(4, 3), "layer2": rows(4, 3)})
    with pytest.raises(KeyError) as error:
        made["layer3"]
    text = "Activations: the layer must exist; got 'layer3'. Close matches: layer2, layer1."
    assert error.value.args == (text,)


BAD_SHAPE = (
    "Activations: layer 'x' must be (n, p), floating point, detached; got {}. "
    "Flatten or pool to two axes, convert with .float(), detach."
)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(4), BAD_SHAPE.format("float32 of shape (4,)")),
        (torch.zeros(4, 3, 2), BAD_SHAPE.format("float32 of shape (4, 3, 2)")),
        (torch.zeros(4, 3, dtype=torch.int64), BAD_SHAPE.format("int64 of shape (4, 3)")),
        (torch.zeros(4, 3, dtype=torch.complex64), BAD_SHAPE.format("complex64 of shape (4, 3)")),
        (torch.zeros(4, 0), BAD_SHAPE.format("float32 of shape (4, 0)")),
        (torch.zeros(0, 3), BAD_SHAPE.format("float32 of shape (0, 3)")),
        (torch.zeros(4, 3, requires_grad=True), BAD_SHAPE.format("float32 of shape (4, 3), requires grad")),
        (
            torch.zeros(5, 3),
            "Activations: layer 'x' must have 4 rows; got 5. Every layer must hold the same samples.",
        ),
    ],
)
def test_features_that_cannot_be_are_refused(x: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        Activations({"first": rows(4, 3), "x": x})


def test_there_must_be_a_layer() -> None:
    with pytest.raises(ValueError, match=exactly("Activations: there must be a layer; got none. Choose other layers.")):
        Activations({})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_number_that_is_none_is_named_by_layer_and_row(bad: float, dtype: torch.dtype) -> None:
    x = rows(6, 3).to(dtype)
    x[4, 1] = x[5, 0] = bad
    text = (
        "Activations: layer 'deep' must be finite; got NaN or infinity, first in row 4. "
        "Look for a diverged network, an overflow in float16, or broken inputs."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        Activations({"first": rows(6, 3), "deep": x})


@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 6e4), (torch.float32, 3e38), (torch.float64, 1e308)])
def test_large_numbers_are_finite_even_where_their_sum_is_not(dtype: torch.dtype, large: float) -> None:
    x = torch.full((10, 10), large, dtype=dtype)
    assert not bool(torch.isfinite(x.sum()))
    assert Activations({"x": x}).n == 10
    x[3] = -large  # sums that meet as infinity minus infinity are no reason either
    assert Activations({"x": x}).n == 10


@pytest.mark.parametrize("shape", [(3,), (4, 1), ()])
def test_labels_are_one_per_row(shape: tuple[int, ...]) -> None:
    text = f"Activations: labels must be (4,); got shape {shape}. One label per row."
    with pytest.raises(ValueError, match=exactly(text)):
        Activations({"x": rows(4, 3)}, labels=torch.zeros(shape, dtype=torch.int64))


# --- Features from elsewhere ----------------------------------------------------------------------------------


def test_arrays_become_tensors_that_share_their_memory() -> None:
    x, z = np.arange(12.0).reshape(4, 3), torch.ones(4, 2, requires_grad=True)
    made = Activations.from_arrays({"x": x, "z": z}, labels=[3, 1, 2, 1], name="mine")
    assert made.layers == ("x", "z")
    assert made["x"].dtype == torch.float64
    assert np.shares_memory(made["x"].numpy(), x)
    assert not made["z"].requires_grad
    assert made.labels is not None
    assert made.labels.dtype == torch.int64
    assert made.labels.tolist() == [3, 1, 2, 1]
    assert (made.name, made.reduction, made.digest) == ("mine", "given", None)


@pytest.mark.parametrize(
    "labels", [np.array([0, 1, 1, 0], np.int32), torch.tensor([0, 1, 1, 0], dtype=torch.uint8), (0, 1, 1, 0)]
)
def test_labels_of_any_integer_type(labels: Any) -> None:
    made = Activations.from_arrays({"x": np.eye(4)}, labels=labels)
    assert made.labels is not None
    assert made.labels.dtype == torch.int64
    assert made.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_that_are_no_integers_are_refused(dtype: str) -> None:
    text = f"Activations: labels must be integers; got {dtype}. Pass class indices."
    with pytest.raises(TypeError, match=exactly(text)):
        Activations.from_arrays({"x": np.eye(4)}, labels=np.array([0, 1, 1, 0], dtype))


@pytest.mark.parametrize("x", [np.arange(4.0), np.zeros((4, 3, 2)), np.zeros((4, 3), int), np.zeros((4, 3), bool)])
def test_arrays_are_checked_like_any_features(x: np.ndarray) -> None:
    text = BAD_SHAPE.format(f"{x.dtype} of shape {x.shape}")
    with pytest.raises(ValueError, match=exactly(text)):
        Activations.from_arrays({"x": x})


def test_arrays_with_a_hole_are_refused() -> None:
    x = np.eye(4)
    x[2, 0] = np.nan
    text = (
        "Activations: layer 'x' must be finite; got NaN or infinity, first in row 2. "
        "Look for a diverged network, an overflow in float16, or broken inputs."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        Activations.from_arrays({"x": x})


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        (["a", "b", "c"], "3 ids, 3 of them different"),
        (["a", "b", "c", "a"], "4 ids, 3 of them different"),
        (["a", "b", "c", "d", "e"], "5 ids, 5 of them different"),
    ],
)
def test_ids_name_every_row_once(ids: list[str], got: str) -> None:
    text = f"Activations: ids must name every row once; got {got}. One id per row."
    with pytest.raises(ValueError, match=exactly(text)):
        Activations.from_arrays({"x": np.eye(4)}, ids=ids)


def test_ids_decide_the_digest() -> None:
    def digest(*ids: Any) -> str | None:
        return Activations.from_arrays({"x": np.eye(3)}, ids=ids).digest

    assert digest("a", "b", "c") == digest("a", "b", "c")
    assert len({digest("a", "b", "c"), digest("b", "a", "c"), digest("a", "b", "d"), digest(1, 2, 3)}) == 4


# --- Which two sides may be compared --------------------------------------------------------------------------


def side(n: int = 20, seed: int = 0, **options: Any) -> Activations:
    return Activations.from_arrays({"x": rows(n, 5, seed)}, **options)


def test_sides_of_unequal_length_are_refused() -> None:
    text = (
        "compare: both sides must hold the same samples; got 20 samples for 'left' and 21 for 'right'. "
        "Extract both on one set."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        compare(side(20, name="left"), side(21, name="right"))


def test_sides_of_other_samples_or_another_order_are_refused() -> None:
    ids = [f"image {i}" for i in range(20)]
    left = side(ids=ids, name="left")
    for other in (ids[::-1], [f"picture {i}" for i in range(20)]):
        right = side(ids=other, name="right")
        assert left.digest is not None
        assert right.digest is not None
        text = (
            "compare: both sides must hold the same samples in the same order; "
            f"got digests {left.digest[:12]} for 'left' and {right.digest[:12]} for 'right'. "
            "Other samples, or another order: extract both sides on one ImageSet."
        )
        with pytest.raises(ValueError, match=exactly(text)):
            compare(left, right)


def test_sides_without_ids_are_taken_at_their_word() -> None:
    ids = [str(i) for i in range(20)]
    for a, b in ((side(), side()), (side(ids=ids), side()), (side(), side(ids=ids)), (side(ids=ids), side(ids=ids))):
        check_same_samples(a, b, "compare")
        assert compare(a, b).values[0, 0] == pytest.approx(1, abs=1e-6)


def test_contradicting_labels_are_refused() -> None:
    left, right = side(labels=[0, 1] * 10), side(labels=[0, 1] * 9 + [1, 0])
    text = (
        "compare: both sides must carry the same labels; got labels that differ in 2 of 20 rows. "
        "Give both sides the same labels, in the same order."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        compare(left, right)


def test_the_labels_of_either_side_serve_both() -> None:
    labelled, bare = side(labels=[0, 1] * 10), side()
    for a, b in ((labelled, bare), (bare, labelled), (labelled, labelled)):
        found = common_labels(a, b, "compare")
        assert found is not None
        assert found.tolist() == [0, 1] * 10
    assert common_labels(bare, bare, "compare") is None


def test_activations_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        side().name = "other"  # type: ignore[misc]
