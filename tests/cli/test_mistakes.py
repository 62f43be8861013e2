"""Mistakes are met before the work: a plan that cannot be judged is refused by a dry run and before any training."""

from pathlib import Path
from typing import Any

import pytest

from repsim import load_data, load_model
from repsim.cli.main import main
from repsim.studies.robustness.attack_effects import default_radii
from tests.support.commands import PGD, STANDARD

AUGMENT = ["augment", "--strategies", "none,flip", "--seeds", "2", "--data", "digits", "--limit", "60", "--epochs", "1"]

ROBUSTNESS = [
    "robustness",
    "--networks",
    f"a={STANDARD}",
    "--networks",
    f"b={PGD}",
    "--data",
    "digits",
    "--limit",
    "60",
]


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes time fails the test."""

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("the work has begun")

    for place in (
        "recipes.training.jobs.train",
        "studies.robustness.cross_layers.cross_layer_of",
        "studies.robustness.attack_effects.clean_and_attacked",
    ):
        monkeypatch.setattr(f"repsim.{place}", work)
    monkeypatch.setattr("repsim.recipes.training.jobs.time_estimate", lambda *_, **__: 1.0)


def refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*words, "--out", str(out)]) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert not out.exists() or list(out.iterdir()) == []
    return shown


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--layers", "nosuch"], "extract: layers must name modules of the network; got 'nosuch'"),
        (["--layers", "linear"], "judge: layers must hold one before the networks' own head; got 'linear' alone"),
        (["--metric", "cka_nosuch"], "metric: the metric must be known; got 'cka_nosuch'"),
        (["--metric", "cka"], "judge: metric must be TD, fitted on the training images"),
        (["--metric", "td(folds='x')"], "metric: settings must be name=value"),
        (["--reduction", "pool:x"], "extract: reduction must be known; got 'pool:x'"),
        (["--fit-limit", "3"], "load_data: limit must leave every class an image; got limit=3 for 10 classes"),
        (["--set", "architecture=nosuch"], "load_model: the architecture must be known; got 'nosuch'"),
        (["--set", "architecture=small_conv_cifar"], ""),
        (
            ["--set", "architecture=digits_conv", "--architecture", "digits_resnet8"],
            "plan: the architecture must be named once; got 'digits_resnet8' and, in settings, 'digits_conv'.",
        ),
    ],
)
def test_a_plan_that_cannot_be_judged_is_refused(
    words: list[str], text: str, dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused([*AUGMENT, *words, *dry], tmp_path / "out", capsys).startswith(text)


def test_tasks_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tasks.json").write_text('{"life": {"a": [0], "b": [77]}}')
    words = [*AUGMENT, "--tasks", str(tmp_path / "tasks.json"), "--dry-run"]
    assert "class 77" in refused(words, tmp_path / "out", capsys)


def test_an_architecture_may_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*AUGMENT, "--set", "architecture=digits_conv", "--dry-run", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "4 of 4 networks are to be trained" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--layers", "nosuch"], "extract: layers must name modules of the network; got 'nosuch'"),
        (["--reduction", "pool:x"], "extract: reduction must be known; got 'pool:x'"),
        (["--eps", "2"], "ThreatModel: eps of linf must be at most 1; got 2"),
        (["--threat", "l2", "--eps", "99"], "robustness: eps of l2 must be at most √(pixels) = 8"),
        (["--steps", "0"], "robustness: steps must be at least 1; got 0"),
        (
            ["--layers", "layer2.0", "layer3.0"],
            "robustness: cross_layer must have at least 3 layers of each network; got layer2.0, layer3.0 of 'digits",
        ),
        (["--limit", "20"], "stratified_folds: every class must have a sample in every fold"),
        (["--only", "nosuch"], "robustness: the analysis must be known; got 'nosuch'"),
    ],
)
def test_a_study_that_cannot_be_done_is_refused(
    words: list[str], text: str, dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused([*ROBUSTNESS, *words, *dry], tmp_path / "out", capsys).startswith(text)


def test_a_study_that_can_be_done_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ROBUSTNESS, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all of it can be done; nothing was written"
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file")
    for words in ([*AUGMENT, "--dry-run"], AUGMENT, ROBUSTNESS, [*ROBUSTNESS, "--dry-run"]):
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err == (
            f"save: {tmp_path / 'out'} must be a folder; {tmp_path / 'out'} is a file. Choose another place.\n"
        )


def test_radii_are_those_of_the_networks_or_of_the_data() -> None:
    robust, standard, other = load_model(PGD), load_model(STANDARD), load_model("digits_conv")
    assert default_radii("linf", [standard, robust]) == (0.025, 0.05, 0.1)
    assert default_radii("linf", [standard]) == (0.025, 0.05, 0.1)  # what it was tested at
    digits = load_data("digits", limit=10)
    assert default_radii("linf", [other], digits) == (0.025, 0.05, 0.1)
    assert default_radii("linf", [other]) == (2 / 255, 4 / 255, 8 / 255)
    assert default_radii("l2", [robust], digits) == (0.25, 0.5, 1.0)
