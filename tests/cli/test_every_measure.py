"""Every measure goes the whole way: networks in, numbers, pictures and a map of several networks out."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import repsim
from repsim.cli.main import main
from repsim.metrics import METRICS, get_metric
from repsim.plots import heatmap, mds_map
from tests.support.places import DATA
from tests.support.sides import NAMES, layers, missing

#: Persistent homology of many points takes long.
SMALL = {"rtd": "rtd(samples=12, subsets=1)"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_shell_computes_every_measure(tmp_path: Path) -> None:
    names = [SMALL.get(name, name) for name in METRICS if not missing(name)]
    files = [str(DATA / f"digits_{name}.safetensors") for name in ("standard", "pgd")]
    asked = ["compare", *files, "--data", "digits", "--limit", "60", "--layers", "layer2.0", "--out", str(tmp_path)]
    assert main([*asked, *(word for name in names for word in ("--metric", name))]) == 0
    results = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["results"]
    assert [result["metric"] for result in results] == names
    for result in results:
        matrix = repsim.SimilarityMatrix.load(tmp_path / f"{result['file']}.npz")
        assert np.isfinite(matrix.values).all()
        assert (tmp_path / f"{result['file']}.png").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
@pytest.mark.parametrize("name", NAMES)
def test_networks_are_compared_with_each_other_and_drawn(name: str) -> None:
    y = np.random.default_rng(0).permutation(np.arange(60) % 3)
    sides = {
        str(seed): repsim.Activations.from_arrays(layers(seed, 60, (4, 6)), labels=y, name=str(seed))
        for seed in range(3)
    }
    found = repsim.compare_many(sides, SMALL.get(name, name))
    assert found.values.shape == (3, 3)
    equal = get_metric(name).facts.self_value_of(60)
    np.testing.assert_allclose(np.diag(found.values), equal, atol=1e-6)
    for draw in (mds_map, heatmap):
        ax = draw(found)
        assert ax.has_data()
        plt.close("all")
