"""Augmentation strategies judged by TD, on networks that are trained here: the digits study of the documentation."""

from pathlib import Path

import pandas as pd
import pytest

from repsim.cli.main import main
from tests.support.places import ROOT

STUDY = ROOT / "docs" / "studies" / "digits.toml"
HELPFUL, NEUTRAL, HARMFUL = ["noise"], ["none", "mixup"], ["shift", "flip"]


@pytest.mark.slow
def test_td_orders_augmentations_as_accuracy_does_and_cka_does_not(tmp_path: Path) -> None:
    """Eight networks of each of five strategies."""
    assert main(["augment", str(STUDY), "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "strategies.csv", na_values=[""], keep_default_na=False).set_index("strategy")
    for better, worse in ((HELPFUL, NEUTRAL), (NEUTRAL, HARMFUL)):
        for number in ("accuracy", "probe_accuracy"):
            assert table.loc[better, number].min() > table.loc[worse, number].max()
        assert table.loc[better, "td"].max() < table.loc[worse, "td"].min()
    # CKA does not see the harm of mirror images; TD does, and a part of that is accuracy alone.
    assert table.loc["flip", "cka"] > table.loc["none", "cka"] - table.loc["none", "cka_se"]
    differences = pd.read_csv(tmp_path / "strategies-differences.csv").set_index(["strategy", "measure"])
    td = differences.loc[("flip", "td")]
    assert td["p"] < 0.01
    assert differences.loc[("flip", "accuracy"), "verdict"] == "beyond its uncertainty"
    assert 0 < td["by_accuracy"] < td["difference"]
    correlations = pd.read_csv(tmp_path / "strategies-correlations.csv").set_index("with")
    assert correlations.loc["td", "spearman"] <= -0.7
    assert "A raw TD is mostly accuracy" in (tmp_path / "reading.txt").read_text(encoding="utf-8")
