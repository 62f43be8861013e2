"""`repsim train`: what it writes and prints, how it goes on, and what it refuses."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from repsim import load_data, load_model
from repsim.cli.train import add_arguments, run
from repsim.recipes import RECIPES, Recipe, Run, train
from repsim.recipes.noise import Noise
from tests.conftest import exactly


def command(*words: Any) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(word) for word in words]))


def short(out: Path, *more: Any, recipe: str = "noise") -> None:
    """Two epochs of 130 digits, scored on 60; of recipes that train for certificates nothing is certified."""
    certified = ["--set", "certify_images=0"]
    given = ["--data", "digits", "--limit", 130, "--test-limit", 60, "--epochs", 2, *certified]
    command(recipe, *given, "--out", out, *more)


def test_it_trains_and_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs" / "mine.safetensors"
    short(
        out,
        "--seed",
        3,
        "--set",
        "sigma=0.5",
        "--set",
        "eval_eps=8/255",
        "--set",
        "augment=flip",
        "--set",
        "certify_images=9",
    )
    net = load_model(out)
    record = net.provenance["record"]
    assert net.name == "mine"
    assert (record["recipe"], record["seed"]) == ("noise", 3)
    settings = record["settings"]
    assert (settings["epochs"], settings["sigma"], settings["augment"]) == (2, 0.5, "flip")
    assert settings["eval_eps"] == 8 / 255
    data = load_data("digits", split="train", limit=130), load_data("digits", limit=60)
    recipe = Noise(epochs=2, sigma=0.5, augment="flip", eval_eps=8 / 255, certify_images=0)
    same = train(recipe, *data, seed=3, name="mine", progress=False)
    assert all(torch.equal(v, net.net.state_dict()[k]) for k, v in same.network.net.state_dict().items())
    assert [file.name for file in out.parent.iterdir()] == ["mine.safetensors"]
    scores = record["scores"]
    seconds = f"{record['cost']['seconds_per_epoch']:.1f}"
    told, *lines = capsys.readouterr().out.splitlines()
    assert told.startswith("digits_resnet8, 75,002 parameters, 2 epochs, 256 gradient evaluations: about ")
    assert lines == [
        f"noise on {data[0]!r}, preset digits ({RECIPES['noise'].PRESETS['digits'].source})",
        f"2 epochs of {seconds} s, 256 gradient evaluations",
        f"accuracy on 60 test images: {scores['accuracy']:.4f}",
        "accuracy under linf PGD-20, eps 0.0313725 on 60 test images: "
        f"{scores['accuracy under linf PGD-20, eps 0.0313725']:.4f}",
        "smoothed by sigma 0.5, 10 test images, n = 1,000: "
        + ", ".join(f"{name} {value:.4f}" for name, value in scores["certified"]["sigma 0.5"].items()),
        f"written to {out}",
    ]


def test_the_number_of_threads_is_set_and_recorded(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        short(tmp_path / "net.safetensors", "--threads", 1, recipe="standard")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert load_model(tmp_path / "net.safetensors").provenance["record"]["cost"]["threads"] == 1
    with pytest.raises(ValueError, match=exactly("train: --threads must be at least 1; got 0. Leave it out.")):
        short(tmp_path / "other.safetensors", "--threads", 0)


def test_an_early_end_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noise, "after_epoch", lambda self, run: "enough")
    short(tmp_path / "net.safetensors")
    assert "stopped early: enough" in capsys.readouterr().out.splitlines()


def test_it_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "net.safetensors", tmp_path / "whole.safetensors"
    short(whole, "--resume")  # nothing to go on with: it begins
    count = 0
    update = Recipe.update

    def watched(self: Recipe, run: Run, *rest: Any) -> None:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        update(self, run, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "update", watched)
        patch.setattr("repsim.recipes.training.estimate.estimate", lambda *a, **k: "an estimate")  # takes steps too
        patch.setattr("repsim.recipes.train", lambda *a, **k: train(*a, **{**k, "save_every": 0}))
        with pytest.raises(KeyboardInterrupt):
            short(out)
    state = tmp_path / "net.state.safetensors"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.state.safetensors", "whole.safetensors"]
    text = (
        f"train: an unfinished training must not be lost; got {state}. "
        "Pass --resume to go on with it, or delete the file to begin anew."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        short(out)
    short(out, "--resume")
    assert not state.exists()
    a, b = (load_model(path).net.state_dict() for path in (out, whole))
    assert all(torch.equal(a[key], b[key]) for key in a)
    capsys.readouterr()


def test_a_finished_training_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.safetensors"
    short(out)
    before, stamp = out.read_bytes(), out.stat().st_mtime_ns
    text = (
        f"train: a finished training must not be lost; got {out}. Pass --force to train it anew, or name another file."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        short(out, "--seed", 1)
    capsys.readouterr()
    short(out, "--resume")
    assert capsys.readouterr().out == f"{out} is finished; nothing was done\n"
    text = (
        f"train: --resume must find the training that is asked for; got {out} with seed=0 for 1. "
        "Name another file, or pass --force instead of --resume to train anew."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        short(out, "--resume", "--seed", 1)
    with pytest.raises(
        ValueError,
        match=exactly("train: --force begins anew and --resume goes on; got both. Leave one of the two out."),
    ):
        short(out, "--resume", "--force")
    assert (out.read_bytes(), out.stat().st_mtime_ns) == (before, stamp)
    short(out, "--force", "--seed", 1)
    assert out.read_bytes() != before


def test_it_begins_at_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    short(first)
    short(second, "--start", first, "--set", "learning_rate=0", recipe="standard")
    a, b = (dict(load_model(path).net.named_parameters()) for path in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert load_model(second).provenance["record"]["start"]["name"] == "first"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["pdg", "--data", "digits"],
            "train: the recipe must be known; got 'pdg'. Close matches: pgd, pruning.",
        ),
        (
            ["pgd", "--data", "svhn"],
            "train: --preset must be given for --data svhn; got none. Choose one: digits, mnist, cifar10.",
        ),
        (
            ["pgd", "--data", "digits", "--preset", "cifar"],
            "preset: PGD must have a preset of this name; got 'cifar'. Close matches: cifar10.",
        ),
        (
            ["pgd", "--data", "digits", "--set", "eps"],
            "train: --set must be NAME=VALUE; got 'eps'. Write, say, eps=0.05.",
        ),
        (
            ["pgd", "--data", "digits", "--set", "eps=8/0"],
            "recipe: PGD.eps must be a number; got '8/0'. Correct the setting.",
        ),
        (
            ["pgd", "--data", "digits", "--epochs", "0"],
            "recipe: PGD.epochs must be >= 1 and finite; got 0. Correct the setting.",
        ),
        (
            ["pgd", "--data", "digits", "--set", "eps=8"],
            "recipe: PGD.eps must be >= 0 and <= 1; got 8. Pixels are in [0, 1]: write 8/255 for 8 grey levels.",
        ),
    ],
)
def test_what_it_refuses(words: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=exactly(text)):
        command(*words, "--out", tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_is_safetensors(tmp_path: Path) -> None:
    out = tmp_path / "net.pt"
    with pytest.raises(ValueError, match=exactly(f"train: --out must end in .safetensors; got {out}. Rename it.")):
        short(out)


def test_the_help_names_every_recipe() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = " ".join(parser.format_help().split())
    for name in RECIPES:
        assert name in text


def test_a_dry_run_says_the_cost_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short(tmp_path / "net.safetensors", "--dry-run")
    (told,) = capsys.readouterr().out.splitlines()
    assert told.startswith("digits_resnet8, 75,002 parameters, ")
    assert not list(tmp_path.iterdir())
