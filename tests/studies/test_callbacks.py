"""Similarity during a training: what is compared when, and that the training does not notice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import repsim
from repsim import ImageSet
from tests.conftest import exactly

Similarity = repsim.callbacks.Similarity


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10)
    )


def trained(data: ImageSet, watch: "repsim.callbacks.Similarity | None", steps: int = 7) -> nn.Sequential:
    net = network()
    optimiser = torch.optim.SGD(net.parameters(), 0.5)
    net.train()
    x, y = data.pixels(slice(0, len(data))), data.labels
    for step in range(steps):
        if watch is not None:
            watch(net, step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def test_the_values_are_those_of_compare_and_the_training_does_not_notice(digits: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "similarity.csv"
    watch = Similarity("start", digits, every=3, layers=["1", "5"], path=path)
    with_it, without = trained(digits, watch), trained(digits, None)
    for one, two in zip(with_it.state_dict().values(), without.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert with_it.training
    table = watch.to_frame()
    assert list(table["step"].unique()) == [0, 3, 6]
    assert list(table["layer"]) == ["1", "5"] * 3
    np.testing.assert_allclose(table["value"][:2], 1, atol=1e-6)
    late = trained(digits, None, 6)
    first, last = (repsim.extract(net, digits, layers=["1", "5"], progress=False) for net in (network(), late))
    expected = repsim.compare(first, last, "cka")
    np.testing.assert_allclose(table["value"][4:], np.diag(expected.values), atol=1e-6)
    assert (table["value"][4:] < 0.999).all()
    saved = pd.read_csv(path, dtype={"layer": str, "reference_layer": str})
    assert list(saved.columns) == list(table.columns)
    assert list(saved["layer"]) == list(table["layer"])
    np.testing.assert_allclose(saved["value"], table["value"])
    assert "table" in watch._repr_html_()


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
def test_a_reference_is_a_network_or_its_features(digits: ImageSet) -> None:
    other = network(1)
    features = repsim.extract(other, digits, layers="1", progress=False)
    for reference in (other, features):
        watch = Similarity(reference, digits, layers="1", metric="procrustes")
        found = watch(network(), 0)
        assert found is not None
        assert found.values[0, 0] > 0.1
        same = watch(other, 1)
        assert same is not None
        assert same["1", "1"] == pytest.approx(0, abs=1e-3)
    assert Similarity("start", digits, every=2)(other, 1) is None


def test_the_trainer_of_transformers_asks_it_step_by_step(digits: ImageSet) -> None:
    watch = Similarity("start", digits, every=2, layers="1")
    callback: Any = watch.for_transformers()
    net = network()
    callback.on_train_begin(None, SimpleNamespace(global_step=0), None, model=net)
    for step in (1, 2, 3, 4):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None, model=net)
    assert list(watch.to_frame()["step"]) == [0, 2, 4]


def test_what_is_no_reference_or_no_step(digits: ImageSet) -> None:
    text = (
        "Similarity: reference must be a network, Activations or \"start\"; got 'begin'. "
        'Pass a network, or "start" for the network itself as it was.'
    )
    with pytest.raises(ValueError, match=exactly(text)):
        Similarity("begin", digits)  # type: ignore[arg-type]
    text = "Similarity: every must be at least 1; got 0. Count in steps."
    with pytest.raises(ValueError, match=exactly(text)):
        Similarity("start", digits, every=0)
