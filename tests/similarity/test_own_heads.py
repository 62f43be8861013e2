"""What is said of a network's own answers: beside the labels, and beside heads that are fitted anew."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning
from repsim.features.activations import normalisation_of
from repsim.features.side_checks import outputs_caution
from tests.conftest import exactly

N = 300
TRAINED = {"checkpoint": "x.pth", "seed": None, "normalize": None}


def side(right: float, *, outputs: int = 3, provenance: dict[str, Any] | None = None, classes: int = 3) -> Activations:
    """Features that tell the classes apart, and own answers that are right as often as said."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % classes
    x = 4 * np.eye(classes)[y] + rng.normal(size=(N, classes))
    answers = np.where(np.arange(N) < right * N, y, (y + 1) % classes)
    made = Activations.from_arrays({"early": x + 9, "last": x}, labels=y, outputs=np.eye(outputs)[answers], name="net")
    return Activations(made.features, made.labels, None, "net", "mean", provenance or TRAINED, outputs=made.outputs)


def said(a: Activations, metric: str = "td", **options: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return [text for text in repsim.compare(a, a, metric, **options).cautions if "refitted" in text]


def test_accuracy_and_normalisation_are_shown() -> None:
    one = side(0.4)
    assert one.accuracy == pytest.approx(0.4)
    assert repr(one) == (
        "Activations('net', 2 layers × 300 samples, width 3, mean, own head 0.400 right, no normalisation)"
    )
    known = side(0.4, provenance={**TRAINED, "normalize": [[0.5, 0.25, 0.1], [0.2, 0.2, 0.3]]})
    assert repr(known).endswith("own head 0.400 right, normalised by means 0.5 0.25 0.1, stds 0.2 0.2 0.3)")
    assert normalisation_of({}) == "no normalisation"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        provenance = repsim.compare(one, one, "cka").provenance
    assert provenance["rows"]["accuracy"] == pytest.approx(0.4)
    assert one.labels is not None
    some = Activations(one.features, torch.where(torch.arange(N) < 150, one.labels, -1), outputs=one.outputs)
    assert some.accuracy == pytest.approx(0.8)
    assert Activations(one.features, one.labels).accuracy is None
    assert Activations(one.features, one.labels, outputs=torch.zeros(N, 2)).accuracy is None


@pytest.mark.parametrize("metric", ["td", "td_soft"])
def test_refitted_heads_that_are_far_better_ask_about_the_input(metric: str) -> None:
    (text,) = said(side(0.4), metric)
    begin = "heads refitted on last of net answer "
    assert text.startswith(begin)
    assert 0.9 < float(text.removeprefix(begin)[:4]) <= 1
    assert text.endswith(
        " right, its own head 0.40: is its input normalised as in training (here: no normalisation), and do its "
        "classes stand in the labels' order?"
    )
    assert not said(side(0.95), metric)


def test_nothing_is_asked_where_wrong_answers_are_expected() -> None:
    assert not said(side(0.4, provenance={"checkpoint": None, "seed": 3, "normalize": None}))
    assert not said(side(0.4, provenance={**TRAINED, "condition": {"name": "linf:8/255"}}))
    assert not said(side(0.4), "cka")
    assert said(side(0.4, provenance={"architecture": "Net"}))


@pytest.mark.parametrize(
    ("made", "classes", "text"),
    [
        (side(0.9), None, ""),
        (side(0.9), 3, ""),
        (side(0.34), None, ""),
        (
            side(0.9, outputs=10),
            3,
            "net has 10 outputs and the labels 3 classes, so its answers say nothing of these labels; give data whose "
            "classes are the network's, in its order",
        ),
        (
            side(0.9),
            4,
            "net has 3 outputs and the labels 4 classes, so its answers say nothing of these labels; give data whose "
            "classes are the network's, in its order",
        ),
        (side(0.9, outputs=10), None, ""),
        (
            side(0.1),
            None,
            "net answers 0.10 of the samples right, fewer than by chance, 0.33: do its classes stand in the labels' "
            "order, and is its input normalised as in training (here: no normalisation)?",
        ),
        (side(0.1, provenance={"checkpoint": None, "seed": 3}), None, ""),
    ],
)
def test_outputs_that_do_not_fit_the_labels(made: Activations, classes: int | None, text: str) -> None:
    assert outputs_caution(made, classes) == text


def test_extraction_says_so() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    x, y = torch.rand(40, 4), torch.arange(40) % 5
    text = (
        "extract: Sequential has 2 outputs and the labels 5 classes, so its answers say nothing of these labels; give "
        "data whose classes are the network's, in its order"
    )
    with pytest.warns(CautionWarning, match=exactly(text)):
        repsim.extract(net, [(x, y)], progress=False)
