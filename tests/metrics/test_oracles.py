"""Every measure of the package has an oracle: the same number once more, from its definition, in numpy and float64."""

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import METRICS
from tests import oracles

Oracle = Callable[[np.ndarray, np.ndarray, np.ndarray, Any], float]


def found() -> dict[str, Oracle]:
    """The tables `MEASURES` of all files in `tests/oracles`."""
    pages = [importlib.import_module(f"tests.oracles.{info.name}") for info in pkgutil.iter_modules(oracles.__path__)]
    return {name: oracle for page in pages for name, oracle in getattr(page, "MEASURES", {}).items()}


ORACLES = found()


def lacking(metrics: list[str]) -> str:
    """What there is no oracle for, in words; empty where there is one for all."""
    missing = sorted(set(metrics) - set(ORACLES))
    return f"no oracle for {', '.join(missing)}: add it to a table MEASURES in tests/oracles" if missing else ""


def test_every_measure_has_an_oracle_and_every_oracle_a_measure() -> None:
    assert lacking(list(METRICS)) == ""
    assert set(ORACLES) - set(METRICS) == set()


def test_a_measure_without_one_is_told_by_name() -> None:
    told = "no oracle for frobnicate: add it to a table MEASURES in tests/oracles"
    assert lacking([*METRICS, "frobnicate"]) == told


@pytest.mark.parametrize("name", METRICS)
def test_the_measure_is_what_its_oracle_says(name: str) -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(30) % 3
    x = rng.standard_normal((3, 5))[labels] + rng.standard_normal((30, 5))
    y = x[:, :4] + rng.standard_normal((30, 4)) + 3
    a, b = (Activations.from_arrays({"layer": z}, labels=labels) for z in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        value = float(repsim.compare(a, b, name).values[0, 0])
    expected = ORACLES[name](x, y, labels, METRICS[name])
    assert value == pytest.approx(expected, abs=1e-5 if name in ("td_soft", "rtd") else 1e-9)
    assert abs(value - METRICS[name].self_value) > 0.01
