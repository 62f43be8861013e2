"""Augmentation strategies judged by TD, on networks that are trained here."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "digits_augmentations.py"


@pytest.mark.slow
def test_td_orders_augmentations_as_accuracy_does_and_cka_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise helps on the digits, flipping them left to right harms; five networks of each kind."""
    spec = importlib.util.spec_from_file_location("digits_augmentations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "digits_augmentations", study)  # its network is loaded by name
    spec.loader.exec_module(study)
    noise, none, flip = (study.judge(strategy, 5) for strategy in ("noise", "none", "flip"))
    assert noise.accuracy > none.accuracy > flip.accuracy
    assert noise.td < none.td < flip.td
    assert flip.td - none.td > 2 * (flip.td_error**2 + none.td_error**2) ** 0.5
    assert flip.cka > none.cka - none.cka_error
    text = study.reading({"noise": noise, "none": none, "flip": flip})
    assert text.splitlines()[1] == "Most alike first, by TD:        noise, none, flip"
    assert "A raw TD is mostly accuracy" in text
