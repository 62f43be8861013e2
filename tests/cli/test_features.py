"""`repsim compare` keeps features: where, for whom, when not; and says what they will take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from repsim import Activations, Network, SimilarityMatrix, extract, load_data, load_model
from tests.support import commands
from tests.support.commands import PGD, STANDARD, Run

INPUT = ["--data", "digits", "--limit", 60, "--layers", "layer*.*"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimilarityMatrix, "save_picture", lambda self, path: path)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through a network, pass by pass."""
    seen: list[int] = []
    forward = Network.forward

    def counted(self: Network, x: Tensor, *rest: Any, **named: Any) -> Any:
        seen.append(len(x))
        return forward(self, x, *rest, **named)

    monkeypatch.setattr(Network, "forward", counted)
    return seen


def ran(folder: Path, *words: Any, b: str = PGD) -> Run:
    return commands.ran("compare", folder, STANDARD, b, *INPUT, *words)


def values(run: Run, name: str) -> np.ndarray:
    return SimilarityMatrix.load(run.folder / f"{name}.npz").values


def test_a_second_metric_runs_no_network(tmp_path: Path, passes: list[int]) -> None:
    first = ran(tmp_path, "--metric", "cka")
    assert (first.code, first.err) == (0, "")
    assert sum(passes) > 120
    assert f"features kept in {tmp_path / 'features'}: another metric runs no network" in first.out
    passes.clear()
    second = ran(tmp_path, "--metric", "cka_minibatch", "--batch-size", 7)
    assert (second.code, second.err) == (0, "")
    assert passes == []
    assert second.summary["features"] == first.summary["features"]
    kept = [Activations.load(folder) for folder in first.summary["features"]]
    for side, file in zip(kept, (STANDARD, PGD), strict=True):
        made = extract(load_model(file), load_data("digits", limit=60), layers="layer*.*")
        assert all((side[layer] == made[layer]).all() for layer in made)


def test_other_images_are_other_features_beside_the_first(tmp_path: Path, passes: list[int]) -> None:
    ran(tmp_path, "--metric", "cka")
    passes.clear()
    found = ran(tmp_path, "--metric", "cka", "--attack-a", "blur:2")
    assert sum(passes) > 60
    assert len(list((tmp_path / "features").iterdir())) == 3
    plain = ran(tmp_path / "plain", "--metric", "cka", "--attack-a", "blur:2", "--no-features")
    np.testing.assert_array_equal(values(found, "cka"), values(plain, "cka"))


def test_features_are_kept_where_they_are_asked_for_or_not_at_all(tmp_path: Path, passes: list[int]) -> None:
    none = ran(tmp_path / "a", "--metric", "cka", "--no-features")
    assert not (tmp_path / "a" / "features").exists()
    assert none.summary["features"] == [None, None]
    assert "features kept" not in none.out
    for out in ("b", "c"):
        passes.clear()
        found = ran(tmp_path / out, "--metric", "cka", "--keep-features", tmp_path / "kept")
        assert f"features kept in {tmp_path / 'kept'}: " in found.out
        np.testing.assert_array_equal(values(found, "cka"), values(none, "cka"))
    assert passes == []
    assert not (tmp_path / "b" / "features").exists()


@pytest.mark.filterwarnings("always::repsim.CautionWarning")
def test_features_that_would_fill_the_disk_are_not_kept_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repsim.features.store.one_run.free_at", lambda folder: 200_000)
    found = ran(tmp_path / "out", "--metric", "cka", b=STANDARD)
    assert found.code == 0
    text = (
        "caution: extract: digits_standard: 26.2 kiB of features are not kept, as they would take more than 19.5 kiB, "
        "10 % of the free disk\n"
    )
    assert found.err == text
    assert found.summary["features"] == [None, None]
    assert not (tmp_path / "out" / "features").exists()
    asked = ran(tmp_path / "out", "--metric", "cka", "--keep-features", tmp_path / "kept", b=STANDARD)
    assert asked.err == ""
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_plan_is_printed_and_nothing_done(tmp_path: Path) -> None:
    found = ran(tmp_path / "out", "--plan", "--memory", "2GB")
    assert (found.code, found.err) == (0, "")
    assert not (tmp_path / "out").exists()
    lines = found.out.splitlines()
    assert lines[0].startswith("digits_standard: 3 layers of 60 samples, 26.2 kiB, about ")
    assert lines[1:4] == [
        "  layer1.0  16  float32   3.8 kiB",
        "  layer2.0  32  float32   7.5 kiB",
        "  layer3.0  64  float32  15.0 kiB",
    ]
    assert lines[4].startswith("digits_pgd: 3 layers of 60 samples, 26.2 kiB, about ")
    assert lines[-1].startswith("free: 1.9 GiB of memory to use, ")


@pytest.mark.filterwarnings("always::repsim.CautionWarning")
def test_features_above_the_budget_are_read_from_disk(tmp_path: Path) -> None:
    kept = ran(tmp_path / "a", "--metric", "cka")
    found = ran(tmp_path / "b", "--metric", "cka", "--no-features", "--memory", "20kB")
    assert found.code == 0
    assert found.err.count("26.2 kiB for 60 samples are above the 19.5 kiB of memory to use, so they are kept in ") == 2
    np.testing.assert_array_equal(values(found, "cka"), values(kept, "cka"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--live", "--keep-features", "somewhere", "--memory", "2GB", "--plan"],
            "repsim: --live keeps no features to go back to; got --keep-features, --memory, --plan. "
            "Leave --live out, or the others.",
        ),
        (
            ["--keep-features", "somewhere", "--no-features"],
            "repsim: features are kept, or not; got --keep-features and --no-features. Leave one of them out.",
        ),
        (["--memory", "much"], "extract: memory must be a number of bytes; got 'much'. Write, say, \"8GB\"."),
    ],
)
def test_options_that_do_not_go_together(words: list[str], text: str, tmp_path: Path) -> None:
    found = ran(tmp_path / "out", *words)
    assert (found.code, found.out, found.err) == (2, "", text + "\n")
