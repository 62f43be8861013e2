"""`device=`: every function that computes takes the features there, one side that stands twice stays one."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from repsim import (
    Activations,
    CautionWarning,
    bootstrap,
    difference,
    dimension,
    disagreements,
    lambda_curve,
    permutation_test,
)
from repsim.similarity.sides import placed

N = 90


def side(seed: int) -> Activations:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % 3
    x = torch.randn(N, 8, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 8)
    return Activations.from_arrays({"one": x, "two": x.relu()}, labels=labels)


A, B = side(0), side(1)
ASKED: dict[str, Callable[[Any], Any]] = {
    "bootstrap": lambda device: bootstrap(A, B, "svcca", resamples=20, device=device).details["ci_low"],
    "permutation_test": lambda device: permutation_test(A, B, permutations=20, device=device).details["p_value"],
    "difference": lambda device: difference((A, B), (A, A), "cka", resamples=20, device=device).ci_low,
    "lambda_curve": lambda device: lambda_curve(A, B, device=device).to_frame().select_dtypes("number").to_numpy(),
    "disagreements": lambda device: disagreements(A, B, "two", device=device).confusion,
    "dimension": lambda device: dimension(A, device=device)["participation_ratio"].to_numpy(),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_device_changes_nothing_but_the_place(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        here, there = ASKED[name](None), ASKED[name]("cpu")
        np.testing.assert_array_equal(here, there)
        with pytest.raises(RuntimeError, match="nowhere"):
            ASKED[name]("nowhere")


def test_sides_are_placed_once_each() -> None:
    assert placed([A, B, A], None) == [A, B, A]
    made = placed([A, B, A], "cpu")
    assert made[0] is made[2]
    assert made[0] is not made[1]
