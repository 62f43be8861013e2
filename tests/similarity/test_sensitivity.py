"""TD over penalties and fitting sizes against TD itself, against heads fitted one by one, and its refusals."""

from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations
from repsim.metrics import TD
from repsim.probes.fit import fit_probes
from repsim.probes.folds import stratified_folds
from repsim.similarity.sensitivity import td_sensitivity
from tests.conftest import exactly
from tests.metrics.transferred.test_td import layer, task

GRID = {"penalties": (1e-4, 1e-2), "shares": (0.5, 1.0), "folds": 3}


def sides(n: int = 90) -> tuple[Activations, Activations]:
    y = task(n, 3)
    a = Activations.from_arrays({"x": layer(y, 5, 1, 0.5), "flat": np.ones((n, 2))}, labels=y, name="one")
    return a, Activations.from_arrays({"z": layer(y, 6, 2, 0.5)}, labels=y, name="two")


def test_all_rows_and_one_penalty_are_td() -> None:
    a, b = sides()
    found = td_sensitivity(a, b, **GRID)
    only = Activations.from_arrays({"x": a["x"]}, labels=a.labels)
    for p, penalty in enumerate(GRID["penalties"]):
        plain = repsim.compare(only, b, TD(penalty=penalty, folds=3, resamples=0))
        m = plain.values.item()
        assert found.td[p, 1, 0, 0] == m
        assert found.td_se[p, 1, 0, 0] == pytest.approx(np.sqrt(m * (1 - m) / 89))
        assert found.accuracy_row[p, 1, 0, 0] == plain.details["accuracy_row"].item()
        assert found.accuracy_col[p, 1, 0, 0] == plain.details["accuracy_col"].item()
    assert np.isnan(found.td[:, :, 1]).all()
    assert (found.fit_rows, found.n) == ((30, 60), 90)
    assert repr(found) == "TDSensitivity(one × two, 2 × 1 layers, 2 penalties × 2 sizes, n = 90)"


def test_a_smaller_share_is_a_fit_on_a_part_of_the_rows() -> None:
    """The held-out answers of a head that is fitted on that part alone."""
    a, b = sides()
    found = td_sensitivity(a, b, **GRID)
    y = a.labels
    assert y is not None
    train = stratified_folds(y, 3, 0)
    place = torch.randperm(90, generator=torch.Generator().manual_seed(0)).argsort()
    answered = torch.empty(2, 90, dtype=torch.long)
    for fold in train:
        part = torch.zeros(90, dtype=torch.bool)
        for label in y.unique():
            rows = sorted((fold & (y == label)).nonzero()[:, 0].tolist(), key=lambda i: int(place[i]))
            part[rows[: round(len(rows) / 2)]] = True
        kept = part | ~fold
        fits = fit_probes([a["x"][kept], b["z"][kept]], {"": y[kept]}, part[kept][None], penalties=(1e-2,))
        for k, probes in enumerate(fits):
            answered[k, ~fold] = probes.heldout[""][0].argmax(1)[~part[kept]]
    assert found.td[1, 0, 0, 0] == pytest.approx(float((answered[0] != answered[1]).double().mean()))


def test_a_network_with_itself_exceeds_its_floor_by_nothing() -> None:
    a, _ = sides()
    found = td_sensitivity(a, a, **GRID)
    np.testing.assert_array_equal(found.td[:, :, 0, 0], 0)
    np.testing.assert_allclose(found.excess[:, :, 0, 0], 0, atol=1e-12)
    assert np.all(found.floor[:, 0, 0, 0] > 0)
    assert np.all(found.floor_se[:, 0, 0, 0] > 0)


def test_the_table_has_a_line_for_every_cell() -> None:
    a, b = sides()
    found = td_sensitivity(a, b, **GRID)
    frame = found.to_frame()
    assert len(frame) == 2 * 2 * 2
    line = frame[(frame.row_layer == "x") & (frame.penalty == 1e-2) & (frame.fit_rows == 30)].iloc[0]
    assert (line["floor"], line["excess_se"]) == (found.floor[1, 0, 0, 0], found.excess_se[1, 0, 0, 0])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "penalty": (
        {"penalties": (1e-4,)},
        "td_sensitivity: penalties must be at least two values; got 0.0001. As in (1e-5, 1e-4, 1e-3, 1e-2).",
    ),
    "negative": (
        {"penalties": (1e-4, -1.0)},
        "td_sensitivity: penalties must be positive and finite; got -1. As in (1e-5, 1e-4, 1e-3, 1e-2).",
    ),
    "shares": (
        {"shares": (0.5, 1.5)},
        "td_sensitivity: shares must be positive and at most 1; got 1.5. As in (1 / 3, 2 / 3, 1).",
    ),
    "resamples": (
        {"resamples": 1},
        "td_sensitivity: resamples must be a whole number >= 2; got 1. A floor compares two heads of one layer.",
    ),
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_is_refused(call: str) -> None:
    options, text = REFUSED[call]
    with pytest.raises(ValueError, match=exactly(text)):
        td_sensitivity(*sides(), **options)


def test_labels_are_needed() -> None:
    a = Activations.from_arrays({"x": np.eye(9)})
    text = (
        "td_sensitivity: a downstream task is needed; got no labels. "
        "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        td_sensitivity(a, a)
