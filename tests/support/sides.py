"""What tests of measures share: layers that are alike to a degree, and one pair or two sides compared."""

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix
from repsim.metrics import METRICS, Metric

#: What a measure needs beside the package's own requirements.
EXTRAS = {"rtd": "ripser"}


def missing(name: str) -> bool:
    return name in EXTRAS and importlib.util.find_spec(EXTRAS[name]) is None


#: Every measure by name, those that cannot run here marked to be skipped.
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(missing(name), reason=f"{name} needs {EXTRAS.get(name)}"))
    for name in METRICS
]


def layers(seed: int, n: int, widths: Sequence[int]) -> dict[str, np.ndarray]:
    """Layers that share a signal, with columns of unequal spread and a mean that is not 0."""
    shared = np.random.default_rng(1000 + n).standard_normal((n, 4))
    found = {}
    for i, p in enumerate(widths):
        rng = np.random.default_rng(100 * seed + i)
        mixed = shared @ rng.standard_normal((4, p)) + rng.standard_normal((n, p))
        found[f"layer{i}"] = mixed * np.linspace(0.2, 2, p) + rng.standard_normal(p)
    return found


def compare(rows: Mapping[str, Any], cols: Mapping[str, Any] | None, metric: str | Metric) -> SimilarityMatrix:
    """Compares two sides, or one object with itself where `cols` is None, whatever the cautions."""
    a = Activations.from_arrays(rows)
    b = a if cols is None else Activations.from_arrays(cols)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return repsim.compare(a, b, metric)


def one(x: np.ndarray, y: np.ndarray, metric: str | Metric) -> float:
    """The value of one pair of layers."""
    return float(compare({"x": x}, {"y": y}, metric).values[0, 0])


def orthonormal(n: int, k: int, seed: int = 0) -> np.ndarray:
    """k orthonormal columns of mean 0."""
    x = np.random.default_rng(seed).standard_normal((n, k))
    return np.linalg.qr(x - x.mean(axis=0))[0]
