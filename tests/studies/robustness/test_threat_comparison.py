"""Threat models against each other: who is nearest is found where it is known, and claimed with care."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from repsim import ImageSet, compare_many, load_model
from repsim.studies.robustness.threat_comparison import threat_models, threat_models_of
from tests.conftest import exactly
from tests.support.groups import group, grouped, network, side
from tests.support.pictures import assert_apart, assert_inside, written

FAR, NEAR = [0.0, 0.0, 1.5], [0.0, 0.0, 1.6]


@pytest.fixture(scope="module")
def three() -> dict:
    """Standard networks, and two kinds of others that are near each other at the last layer."""
    return {
        "standard": group("standard", 5, [0.0] * 3),
        "linf": group("linf", 5, FAR),
        "l2": group("l2", 5, NEAR),
    }


def test_the_nearest_threats_are_found(three: dict) -> None:
    part = threat_models_of(grouped(**three), metrics=("cka", "procrustes"))
    for metric in ("cka", "procrustes"):
        line = next(line for line in part.reading if line.startswith(f"{metric} at the last layer: nearest are"))
        assert "nearest are linf × l2 with" in line
        assert "nearer, beyond the uncertainty, than standard × l" in line
        assert "alone" not in line.split(".")[0]
        assert "not outside both by more than its uncertainty" in line
    assert any("standard × linf" in s and "at 1 of 3 layers (layer2)" in s for s in part.reading)
    assert any("standard × l2" in s and "at 1 of 3 layers (layer2)" in s for s in part.reading)
    assert not any("cka: linf × l2" in s for s in part.reading)  # layer by layer only the first against the others
    table = part.tables[""].set_index(["metric", "rule", "first", "second"])
    assert table.loc[("cka", "last", "standard", "linf"), "outside"]
    assert not table.loc[("cka", "last", "linf", "l2"), "outside"]
    assert part.protocol["held_against"] == "standard"
    assert set(part.tables["differences"]["first"]) == {"standard"}


@pytest.mark.parametrize(("rule", "layers"), [("matched", "matched"), ("last", "last")])
def test_tables_of_networks_are_those_of_compare_many(three: dict, rule: str, layers: str) -> None:
    made = grouped(**three)
    part = threat_models_of(made, metrics=("cka",))
    networks = part.tables["networks"]
    found = networks.loc[networks["rule"] == rule, "value"]
    np.testing.assert_allclose(found, compare_many(made.sides, "cka", layers=layers).values.ravel(), rtol=1e-9)


def test_groups_of_one_distribution_are_not_ordered() -> None:
    for seed in range(5):
        same = {name: group(name, 3, [0.0], seed=seed, n=40) for name in ("a", "b", "c")}
        part = threat_models_of(grouped(**same), metrics=("cka",))
        assert not part.tables[""]["outside"].eq(True).any()
        assert all("the order is inside its uncertainty" in line for line in part.reading if "nearest are" in line)


def test_groups_of_one_network_have_no_baseline_and_no_claim() -> None:
    made = grouped(a=group("a", 1, [0.0]), b=group("b", 1, [2.0]), c=group("c", 3, [2.0]))
    part = threat_models_of(made, metrics=("cka",))
    for name in "ab":
        assert f"{name} has one network, so there is no seed-to-seed baseline and no interval." in part.reading
    nearest = [line for line in part.reading if "nearest are" in line]
    assert all("without intervals the order is that of these networks alone" in line for line in nearest)
    assert all("without an interval for both no difference is claimed" in line for line in nearest)
    alone = threat_models_of(grouped(a=group("a", 1, [0.0]), b=group("b", 1, [2.0])), metrics=("cka",))
    assert any("Neither group has a seed-to-seed baseline" in line for line in alone.reading)
    one = threat_models_of(grouped(a=group("a", 2, [0.0])), metrics=("cka",))
    assert "differences" not in one.tables
    assert not any("nearest" in line for line in one.reading)


def test_pictures_fit(three: dict) -> None:
    more = {f"network under {k}": group(f"attack-{k}", 2, [0.0] * 3) for k in range(3)}
    figure = threat_models_of(grouped(**three, **more), metrics=("cka", "procrustes")).draw()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    canvas.draw()
    assert_inside(figure)
    (legend,) = figure.legends
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            assert_apart([text for _, text in written(axis)])
        tight = axes.get_tightbbox()
        assert tight is not None
        assert not legend.get_window_extent().overlaps(tight)


def test_a_network_with_a_constant_layer_leaves_cells_without_numbers() -> None:
    rng = np.random.default_rng(0)
    bad = side("a-0", {**network(rng, [0.0] * 3, 60, 0.4), "layer2": np.ones((60, 2))}, seed=0)
    part = threat_models_of(grouped(a={**group("a", 3, [0.0] * 3), "a-0": bad}, b=group("b", 3, FAR)), metrics=("cka",))
    networks = part.tables["networks"]
    assert networks["reason"].str.contains("constant features").any()
    assert math.isnan(part.tables[""].set_index(["rule", "first", "second"]).loc[("last", "a", "b"), "value"])
    assert "cka: no number or no interval at layer2." in part.reading
    FigureCanvasAgg(part.draw()).draw()


def test_from_networks_to_files(digits: ImageSet, tmp_path: Path) -> None:
    made = {
        k: [load_model("digits_resnet8", seed=s, name=f"{k}-{s}") for s in seeds]
        for k, seeds in (("a", (0, 1)), ("b", (2,)))
    }
    part = threat_models(made, digits, metrics=("cka",), layers="layer*.*")
    files = [file.name for file in part.save(tmp_path)]
    assert files == [
        f"threat_models{end}" for end in (".png", ".csv", "-networks.csv", "-layers.csv", "-differences.csv", ".json")
    ]
    assert part.protocol["layer_count"] == 3
    text = 'threat_models: metrics must name each measure once; got none. Pass metrics=("cka", "td").'
    with pytest.raises(ValueError, match=exactly(text)):
        threat_models(made, digits, metrics=())
