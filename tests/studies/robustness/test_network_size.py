"""Capacity: numbers of networks against their sizes, and a trend only where there are sizes enough to see one."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from repsim import Activations, ImageSet, load_model
from repsim.studies.robustness.network_size import capacity, capacity_of, spearman
from tests.conftest import exactly
from tests.support.groups import grouped, side
from tests.support.pictures import assert_apart, assert_inside, written


def stepping(name: str, networks: int, step: float, *, depth: int = 6, width: int = 6) -> dict[str, Activations]:
    """Networks whose layers move away from the one before by a step: the smaller, the more alike they are."""
    found = {}
    for k in range(networks):
        rng = np.random.default_rng([k, *name.encode()])
        x = rng.standard_normal((80, width))
        layers = {}
        for i in range(depth):
            layers[f"layer{i}"] = x = x + step * rng.standard_normal((80, width))
        found[f"{name}-{k}"] = side(f"{name}-{k}", layers, seed=k)
    return found


def sized(kinds: Mapping[str, Mapping[str, float]], networks: int) -> dict[str, dict[str, Activations]]:
    return {
        f"{kind}, {size}": stepping(f"{kind} {size}", networks, step)
        for kind, sizes in kinds.items()
        for size, step in sizes.items()
    }


WIDER = {"width 1": 1.2, "width 2": 0.8, "width 4": 0.5, "width 8": 0.2}
SAME = dict.fromkeys(WIDER, 0.5)
SIZES = {"robust": list(WIDER), "standard": list(SAME)}


def test_a_trend_is_found_where_there_is_one() -> None:
    part = capacity_of(grouped(**sized({"robust": WIDER, "standard": SAME}, 3)), SIZES)
    ranks = part.tables["ranks"].set_index(["kind", "statistic"])
    assert ranks.loc[("robust", "mean_off_diagonal"), "spearman"] > 0.9
    assert ranks.loc[("robust", "mean_off_diagonal"), "p_holm"] < 0.05
    assert ranks.loc["standard", "p_holm"].min() > 0.05
    assert ranks["networks"].tolist() == [12] * 10
    line = next(line for line in part.reading if line.startswith("robust: rank correlation with size"))
    assert "mean similarity of different layers +0.9" in line
    assert ", told from 0 (p = " in line
    line = next(line for line in part.reading if line.startswith("standard: rank correlation with size"))
    assert "told from 0" not in line.replace("not told from 0", "")
    line = next(line for line in part.reading if line.startswith("robust, width 8 less robust, width 1"))
    assert "mean similarity of different layers +" in line
    assert "larger in robust, width 8" in line
    line = next(line for line in part.reading if line.startswith("standard, width 8 less standard, width 1"))
    assert "larger in" not in line
    assert "smaller in" not in line
    first = part.tables["differences"][["first", "second"]].drop_duplicates().to_numpy().tolist()
    assert first[:2] == [[f"{kind}, width 1", f"{kind}, width 8"] for kind in SIZES]
    assert first[2:] == [[f"robust, {size}", f"standard, {size}"] for size in WIDER]


def test_fewer_than_four_sizes_have_no_rank_correlation() -> None:
    few = {"width 1": 0.9, "width 2": 0.3}
    part = capacity_of(grouped(**sized({"robust": few}, 2)), {"robust": list(few)})
    assert "ranks" not in part.tables
    assert "robust: 2 sizes, too few for a rank correlation, which needs 4." in part.reading
    one = capacity_of(grouped(**sized({"robust": {"width 1": 0.5}}, 1)), {"robust": ["width 1"]})
    assert "robust: 1 size, too few for a rank correlation, which needs 4." in one.reading
    assert "robust, width 1 has one network, so there is no seed-to-seed baseline and no interval." in one.reading
    assert "differences" not in one.tables


def test_means_and_errors_are_over_the_networks_of_a_size() -> None:
    part = capacity_of(grouped(**sized({"robust": WIDER}, 4)), {"robust": list(WIDER)})
    own = part.tables[""]
    own = own[own["size"] == "width 4"]["mean_beyond_lag"]
    assert len(own) == 4
    row = part.tables["groups"].set_index(["group", "statistic"]).loc[("robust, width 4", "mean_beyond_lag")]
    assert row["value"] == pytest.approx(own.mean())
    assert row["error"] == pytest.approx(own.std(ddof=1) / 2)


def test_spearman_is_scipys_and_its_p_value_that_of_permutations() -> None:
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(4.0), 3)
    values = places + 2.5 * rng.standard_normal(12)
    rho, p = spearman(places, values)
    expected_rho, expected_p = stats.spearmanr(places, values)
    assert rho == pytest.approx(expected_rho)
    assert p == pytest.approx(expected_p, abs=0.03)
    small = np.array([0.0, 1, 2, 3])
    rho, p = spearman(small, small**2)
    assert rho == pytest.approx(1)
    assert p == pytest.approx(2 / 24, abs=0.01)  # two of the 24 orders are as far from none
    assert all(map(math.isnan, spearman(places, np.ones(12))))


def test_a_random_order_is_seldom_told_from_none() -> None:
    places = np.repeat(np.arange(4.0), 2)
    small = [
        spearman(places, np.random.default_rng(k).standard_normal(8), permutations=499)[1] < 0.05 for k in range(200)
    ]
    assert sum(small) <= 20


def test_kinds_may_have_other_sizes_and_depths() -> None:
    made = grouped(
        **{
            "robust, depth 6": stepping("r6", 2, 0.5),
            "robust, depth 20": stepping("r20", 2, 0.5, depth=20),
            "standard, depth 6": stepping("s6", 2, 0.5),
            "standard, depth 9": stepping("s9", 2, 0.5, depth=9),
        }
    )
    part = capacity_of(made, {"robust": ["depth 6", "depth 20"], "standard": ["depth 6", "depth 9"]})
    assert part.protocol["lag"]["r6-0"] == 1
    assert part.protocol["lag"]["r20-0"] == 3
    assert part.tables[""]["layers"].tolist() == [6, 6, 20, 20, 6, 6, 9, 9]
    figure = part.draw()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    canvas.draw()
    assert_inside(figure)
    (legend,) = figure.legends
    for axes in figure.axes:
        assert [text.get_text() for _, text in written(axes.xaxis)] == ["depth 6", "depth 20", "depth 9"]
        assert_apart([text for _, text in written(axes.xaxis)])
        tight = axes.get_tightbbox()
        assert tight is not None
        assert not legend.get_window_extent().overlaps(tight)


def test_from_networks_to_files(digits: ImageSet, tmp_path: Path) -> None:
    sizes = {
        "a": [load_model("digits_resnet8", seed=s, name=f"a-{s}") for s in (0, 1)],
        "b": [load_model("digits_resnet8", seed=2, name="b")],
    }
    part = capacity({"standard": sizes}, digits)
    assert [file.name for file in part.save(tmp_path)] == [
        f"capacity{end}" for end in (".png", ".csv", "-groups.csv", "-differences.csv", ".json")
    ]
    assert part.protocol["sizes"] == {"standard": ["a", "b"]}
    with pytest.raises(
        ValueError, match=exactly("capacity: every kind must have a size; got none of 'x'. Leave the kind out.")
    ):
        capacity({"standard": sizes, "x": {}}, digits)
    with pytest.raises(
        ValueError,
        match=exactly(
            "capacity: the metric must be a symmetric similarity; got td. Use cka; over_seeds takes distances."
        ),
    ):
        capacity({"standard": sizes}, digits, metric="td")
