"""Exact chance levels of measures of directions, against all permutations of the samples."""

import itertools

import numpy as np
import pytest

from tests.support.sides import compare, one


@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_the_squared_chance_level_of_gulp_is_the_mean_square_of_all_permutations(penalty: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 2)) ** 2, rng.standard_normal((5, 1))
    name = f"gulp(penalty={penalty})"
    every = [one(x, y[list(order)], name) ** 2 for order in itertools.permutations(range(5))]
    chance = compare({"x": x}, {"y": y}, name).details["chance"].item()
    assert chance**2 == pytest.approx(np.mean(every), rel=1e-9)


def test_a_constant_layer_has_no_chance_level() -> None:
    rng = np.random.default_rng(0)
    found = compare(
        {"flat": np.ones((20, 2)), "x": rng.standard_normal((20, 2))}, {"y": rng.standard_normal((20, 3))}, "gulp"
    )
    assert np.isnan(found.details["chance"]).ravel().tolist() == [True, False]
