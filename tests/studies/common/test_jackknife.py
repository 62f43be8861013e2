"""What studies share: the jackknife over networks, and answers that become files."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from repsim.studies.common.finding import Finding
from repsim.studies.common.jackknife import Estimate, NetworkNumbers, between, jackknife, within


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=9)
    found = jackknife(lambda g: float(values[list(g[0])].mean()), [range(9)])
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / 3)
    assert found.degrees_of_freedom == 8


def test_the_errors_of_two_groups_add_up_as_variances() -> None:
    values = np.random.default_rng(1).normal(size=11)

    def gap(groups: NetworkNumbers) -> float:
        return float(values[list(groups[0])].mean() - values[list(groups[1])].mean())

    found = jackknife(gap, [range(5), range(5, 11)])
    assert found.error == pytest.approx(math.hypot(values[:5].std(ddof=1) / 5**0.5, values[5:].std(ddof=1) / 6**0.5))
    assert found.degrees_of_freedom == 4


def test_pairs_that_share_networks_do_not_count_as_independent() -> None:
    """Each network has a number, a pair the mean of its two: the pairs' mean is as sure as the networks' is."""
    own = np.random.default_rng(2).normal(size=8)
    table = (own[:, None] + own[None]) / 2
    found = jackknife(lambda g: within(table, g[0]), [range(8)])
    assert found.value == pytest.approx(own.mean())
    assert found.error == pytest.approx(own.std(ddof=1) / 8**0.5)
    pairs = table[np.triu_indices(8, 1)]
    assert found.error > 1.5 * pairs.std(ddof=1) / 28**0.5


def test_means_over_pairs() -> None:
    table = np.array([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, 6.0, 9.0]])
    assert within(table, [0, 1]) == 2
    assert within(table, [0, 1, 2]) == pytest.approx(3.5)
    assert math.isnan(within(table, [1]))
    assert between(table, [0], [1, 2]) == 1.5
    assert math.isnan(between(table, [], [1]))


def test_two_networks_have_a_mean_and_no_error() -> None:
    found = jackknife(lambda g: within(np.full((2, 2), 0.25), g[0]), [range(2)])
    assert found.value == 0.25
    assert math.isnan(found.error)
    assert math.isnan(found.interval()[0])
    assert math.isnan(jackknife(lambda g: 1.0, [[0]]).error)


def test_intervals_are_students() -> None:
    low, high = Estimate(1.0, 0.5, 4).interval()
    assert (low, high) == pytest.approx((1 - 0.5 * 2.7764451, 1 + 0.5 * 2.7764451))
    assert Estimate(1.0, 0.5, 4).p > 0.05
    assert Estimate(1.5, 0.5, 4).p < 0.05


def test_a_part_becomes_files(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    part = Finding(
        "heat",
        "Is it warm?",
        {"": pd.DataFrame({"layer": ["a"], "value": [1.5]}), "seeds": pd.DataFrame({"seed": [0]})},
        ("It is.",),
        Figure,
        {"n": 5, "share": np.float64(0.5)},
    )
    assert str(part) == "Is it warm?\n  It is."
    files = part.save(tmp_path / "out")
    assert [file.name for file in files] == ["heat.png", "heat.csv", "heat-seeds.csv", "heat.json"]
    assert files[0].read_bytes()[:4] == b"\x89PNG"
    assert files[1].read_text() == "layer,value\na,1.5\n"
    found = json.loads(files[3].read_text())
    assert found == {"title": "Is it warm?", "reading": ["It is."], "protocol": {"n": 5, "share": 0.5}}


def test_networks_that_agree_exactly_give_no_interval() -> None:
    found = jackknife(lambda g: within(np.full((3, 3), 0.25), g[0]), [range(3)])
    assert (found.value, found.error) == (0.25, 0.0)
    assert found.exact
    assert all(math.isnan(end) for end in found.interval())
    assert math.isnan(found.interval()[0])
    assert not Estimate(0.25, 1e-6, 2).exact
    assert not Estimate(0.25, math.nan, 0).exact
