"""Float32 is float32 while repsim computes, and what the program around has set afterwards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repsim
from repsim import Activations, ImageSet, compare, fit_probes, lambda_curve
from repsim.metrics import METRICS
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.base import Metric, TaskMetric
from repsim.numerics.precision import full_precision
from repsim.probes import fit as probes
from repsim.similarity import ridge_curve as ridge

OF_EACH = hasattr(torch.backends.cuda.matmul, "fp32_precision")
BACKENDS: list[Any] = [getattr(torch.backends, name).matmul for name in ("cuda", "mkldnn")] if OF_EACH else []


def state() -> tuple[object, ...]:
    """Every switch that decides what float32 products are made of."""
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:  # the switches of the backends alone were set
        overall = "mixed"
    return overall, *(backend.fp32_precision for backend in BACKENDS)


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def allow(value: str) -> Callable[[], None]:
    return lambda: torch.set_float32_matmul_precision(value)


def allow_on_cuda() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


CHOICES = [allow("highest"), allow("high"), allow("medium"), *([allow_on_cuda] if OF_EACH else [])]


def layers() -> Activations:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator)
    return Activations.from_arrays({"a": x, "b": x.relu()}, labels=np.arange(40) % 2)


@pytest.mark.parametrize("choice", CHOICES)
def test_switches_are_off_inside_and_as_they_were_outside(choice: Callable[[], None]) -> None:
    choice()
    before = state()
    with full_precision(), full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
        assert set(state()[1:]) <= {"ieee"}
    assert state() == before
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert state() == before


def test_measures_of_others_compute_in_full_precision_too() -> None:
    seen: dict[str, str] = {}

    @dataclass(frozen=True)
    class Noted(CKA):
        def prepare(self, layers: Any, labels: Tensor | None = None) -> Any:
            seen["prepare"] = torch.get_float32_matmul_precision()
            return super().prepare(layers, labels)

        def pairwise(self, rows: Any, cols: Any) -> Any:
            seen["pairwise"] = torch.get_float32_matmul_precision()
            return super().pairwise(rows, cols)

    torch.set_float32_matmul_precision("high")
    states = Noted().prepare([layers()["a"]])
    Noted().pairwise(states, states)
    assert seen == {"prepare": "highest", "pairwise": "highest"}
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("metric", ["cka", "cka_minibatch"])
def test_live_comparisons_are_in_full_precision(metric: str) -> None:
    seen: set[str] = set()

    class Noted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.get_float32_matmul_precision())
            return x

    net = nn.Sequential(nn.Flatten(), Noted(), nn.Linear(16, 4)).eval()
    images = ImageSet(torch.rand(12, 1, 4, 4), torch.arange(12) % 2, tuple(map(str, range(12))), "twelve")
    torch.set_float32_matmul_precision("medium")
    side = repsim.live(net, images, layers="2", progress=False)
    seen.clear()
    compare(side, side, metric)
    assert seen == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"


def test_probes_and_the_curve_are_fitted_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(torch.get_float32_matmul_precision())
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr("repsim.probes.fit._check", noted(probes._check))
    monkeypatch.setattr("repsim.similarity.ridge_curve.spectra", noted(ridge.spectra))
    torch.set_float32_matmul_precision("high")
    side = layers()
    assert side.labels is not None
    fit_probes([side["a"]], {"task": side.labels}, torch.arange(40)[None] < 30, penalties=[0.01])
    lambda_curve(side, side, [0.1])
    assert seen == ["highest", "highest"]


def test_every_computation_of_every_measure_is_watched() -> None:
    watched = set()
    for metric in METRICS.values():
        for name in ("prepare", "prepare_tasks", "pairwise", "permuted", "bootstrapped", "update"):
            found = getattr(type(metric), name, None)
            defaults = [getattr(kind, name, None) for kind in (Metric, TaskMetric)]
            if found is not None and found not in defaults:
                assert hasattr(found, "__wrapped__")
                watched.add(name)
    assert len(watched) == 6


@pytest.mark.skipif(not OF_EACH, reason="this PyTorch has one switch for all")
def test_a_backend_that_follows_the_switch_above_it_still_does() -> None:
    above: Any = torch.backends
    for backend in BACKENDS:
        backend.fp32_precision = "none"
    above.fp32_precision = "tf32"
    with full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
    assert state()[1:] == ("tf32", "tf32")
    above.fp32_precision = "ieee"
    assert state()[1:] == ("ieee", "ieee")
    above.fp32_precision = "none"


def test_threads_that_overlap_leave_the_switches_as_they_were() -> None:
    torch.set_float32_matmul_precision("high")
    first, second = full_precision(), full_precision()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "highest"
    second.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "high"
