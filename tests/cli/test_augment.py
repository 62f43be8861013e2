"""`repsim augment`: what it trains, writes and prints; killed and run again; networks from elsewhere; its errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import repsim
from repsim import ImageSet
from repsim.cli.main import main
from repsim.networks.weight_files import save_checkpoint
from repsim.studies.augmentation.judging import judge
from repsim.studies.augmentation.networks import tasks_of
from repsim.studies.augmentation.plan import Plan, read_plan
from tests.support.places import ROOT

ROOT = ROOT
#: As little training as there can be: what is tested is everything around it.
TINY = ["--data", "digits", "--limit", "120", "--epochs", "2", "--set", "eval_eps=0", "--metric", "td(resamples=0)"]
STRATEGIES = ["--strategies", "none,noise=gaussian_noise:0.25", "--seeds", "2"]


def augment(out: Path, *options: str) -> int:
    return main(["augment", *options, "--out", str(out)])


def table(out: Path) -> pd.DataFrame:
    """The table of a study; "none" is a name in it."""
    return pd.read_csv(out / "strategies.csv", na_values=[""], keep_default_na=False).set_index("strategy")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two strategies with two networks each. Tests must not write into it."""
    out = tmp_path_factory.mktemp("study")
    assert augment(out, *TINY, *STRATEGIES, "--parallel", "1") == 0
    return out


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """The networks of that study, to be changed."""
    shutil.copytree(study / "networks", tmp_path / "networks")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], text: str, *arguments: str) -> None:
    """Exit code 2 and this one line, nothing more."""
    assert main(["augment", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"{text}\n"
    assert shown.out == ""


# --- What it does ---------------------------------------------------------------------------------------------


def test_networks_tables_pictures_and_the_reading_are_written(study: Path) -> None:
    networks = sorted(str(file.relative_to(study)) for file in (study / "networks").rglob("*") if file.is_file())
    names = [f"{strategy}/seed-{seed}.safetensors" for strategy in ("noise", "none") for seed in (0, 1)]
    assert networks == [f"networks/{name}" for name in names]
    for name in ("strategies.png", "layers.png", "layers.csv", "strategies-differences.csv"):
        assert (study / name).stat().st_size > 0
    reading = (study / "reading.txt").read_text(encoding="utf-8")
    assert reading.startswith("2 strategies, 2 networks of each, at 'layer3.0'\n  Most accurate first (own heads): ")
    facts = json.loads((study / "study.json").read_text(encoding="utf-8"))
    assert facts["strategies"]["noise"]["settings"]["augment"] == "gaussian_noise:0.25"
    assert facts["seeds"] == [0, 1]
    found = table(study)
    assert found["networks"].tolist() == [2, 2]
    assert found["n_test"].tolist() == [597, 597]


def test_the_table_is_what_judge_finds(study: Path) -> None:
    networks = {
        name: [repsim.load_model(study / f"networks/{name}/seed-{seed}.safetensors") for seed in (0, 1)]
        for name in ("none", "noise")
    }
    train, test = repsim.load_data("digits", split="train", limit=120), repsim.load_data("digits", split="test")
    found = judge(networks, train, test, metric="td(resamples=0)").table.set_index("strategy")
    numbers = ["accuracy", "train_accuracy", "td", "td_ratio", "cka", "outputs_disagree"]
    assert table(study)[numbers].to_numpy() == pytest.approx(found[numbers].to_numpy(), abs=1e-12)
    record = repsim.load_model(study / "networks/none/seed-0.safetensors").provenance["record"]
    assert found.loc["none", "accuracy"] > 0.1
    one = judge({"none": networks["none"]}, train, test, metric="td(resamples=0)").parts[0].tables["networks"]
    assert one["accuracy"][0] == pytest.approx(record["scores"]["accuracy"], abs=1e-12)


def test_what_is_there_is_not_trained_again(copy: Path, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*.safetensors")}
    assert augment(copy, *TINY, *STRATEGIES) == 0
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*.safetensors")} == before
    assert (copy / "strategies.csv").read_bytes() == (study / "strategies.csv").read_bytes()
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split()[:4] == ["strategy", "networks", "accuracy", "train"]
    assert "Most alike first, by TD ratio: " in shown
    assert shown.splitlines()[-1] == f"written to {copy}: report.html, strategies.png, layers.png, and 12 files in all"


def test_a_dry_run_says_what_is_missing_and_trains_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "networks/none/seed-1.safetensors").unlink()
    assert augment(copy, *TINY, *STRATEGIES, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["none", "standard", "2", "1", "1"],
        ["noise", "standard", "2", "2", "0"],
    ]
    assert lines[4].startswith("1 of 4 networks are to be trained: about ")
    assert lines[4].endswith(" s")
    assert not (copy / "networks/none/seed-1.safetensors").exists()
    assert not (copy / "strategies.csv").exists()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="kills a group of processes")
def test_killed_and_run_again_it_ends_with_the_same_table(study: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repsim", "augment", *TINY, *STRATEGIES, "--out", str(tmp_path), "--parallel", "1"]
    rng = np.random.default_rng(0)
    for least in (1, 2):
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while len(list(tmp_path.rglob("seed-?.safetensors"))) < least and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.4)))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert augment(tmp_path, *TINY, *STRATEGIES, "--parallel", "1") == 0
    for file in sorted((study / "networks").rglob("*.safetensors")):
        ours, theirs = (repsim.load_model(f).state_dict() for f in (tmp_path / file.relative_to(study), file))
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == [], file.name
    for name in ("strategies.csv", "layers.csv", "strategies-differences.csv", "reading.txt"):
        assert (tmp_path / name).read_bytes() == (study / name).read_bytes(), name
    # A kill may leave a temporary file, whose name begins with a dot; no unfinished training is left.
    left = [file.name for file in (tmp_path / "networks").rglob("*.state") if not file.name.startswith(".")]
    assert left == []


def test_a_strategy_file_and_options_that_override_it(copy: Path, study: Path, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        'data = "mnist"\npreset = "digits"\nseeds = 9\nlimit = 120\n[settings]\nepochs = 2\neval_eps = 0.0\n'
        '[strategies]\nnone = "none"\nnoise = "gaussian_noise:0.25"\n'
        "[tasks]\nparity = {even = [0, 2, 4, 6, 8], odd = [1, 3, 5, 7, 9]}\n"
    )
    options = ["--data", "digits", "--seeds", "0,1", "--metric", "td(resamples=0)", "--between"]
    assert augment(copy, str(file), *options, "--layers", "layer2.0", "layer3.0") == 0
    found = table(copy)
    assert found["td"].tolist() == table(study)["td"].tolist()
    layers = pd.read_csv(copy / "layers.csv")
    assert set(layers["task"]) == {"labels", "parity"}
    assert set(layers["layer"]) == {"layer2.0", "layer3.0"}
    assert (copy / "between.png").exists()


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
def test_tasks_of_a_file_and_classes_held_out(tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    file.write_text('{"unseen": {"held_out": [8, 9]}}')
    assert augment(tmp_path / "out", *TINY, *STRATEGIES, "--tasks", str(file), "--parallel", "1") == 0
    network = repsim.load_model(tmp_path / "out/networks/none/seed-0.safetensors")
    assert network.provenance["record"]["num_classes"] == 8
    found = table(tmp_path / "out")
    test = repsim.load_data("digits", split="test").labels
    assert found["n_test"].tolist() == [int((test < 8).sum())] * 2
    assert found["accuracy"].notna().all()
    layers = pd.read_csv(tmp_path / "out/layers.csv").set_index("task")
    assert (layers.loc["unseen", "probe_accuracy"] > 0.5).all()


def test_another_data_set_is_limited_as_the_plans_own_is() -> None:
    tasks = {"parity": {"odd": [1, 3], "even": [0, 2]}, "unseen": {"held_out": [8, 9]}, "other": {"data": "digits"}}
    plan = Plan.of({"data": "digits", "limit": 50, "strategies": {"none": "none"}, "tasks": tasks})
    found = tasks_of(plan)
    assert found["parity"] == {"odd": (1, 3), "even": (0, 2)}
    assert found["unseen"] == (8, 9)
    fit, asked = found["other"]
    assert [len(part) for part in (fit, asked) if isinstance(part, ImageSet)] == [50, 597]


# --- Networks from elsewhere ----------------------------------------------------------------------------------


def elsewhere(networks: Path, **patterns: str) -> list[str]:
    given = patterns or {"none": "none/*", "noise": "noise/*"}
    return [word for name, pattern in given.items() for word in ("--checkpoints", f"{name}={networks / pattern}")]


JUDGED = ["--data", "digits", "--limit", "120", "--metric", "td(resamples=0)"]


def test_networks_trained_elsewhere_give_the_same_table(study: Path, tmp_path: Path) -> None:
    assert augment(tmp_path, *JUDGED, *elsewhere(study / "networks")) == 0
    assert (tmp_path / "strategies.csv").read_bytes() == (study / "strategies.csv").read_bytes()
    assert not (tmp_path / "networks").exists()


def test_networks_that_are_missing_are_named_with_the_command_that_trains_them(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = copy / "networks"
    shutil.copy(networks / "none/seed-1.safetensors", networks / "none/seed-2.safetensors")
    missing = networks / "noise/seed-2.safetensors"
    text = (
        f"augment: every strategy must have equally many networks; got 3 of 'none', 2 of 'noise'; missing: {missing}. "
        "Train them, as in: repsim train standard --data digits --preset digits "
        f"--set augment=gaussian_noise:0.25 --set epochs=2 --set eval_eps=0 --threads 1 "
        f"--seed 2 --out {missing}."
    )
    refused(capsys, text, *JUDGED, *elsewhere(networks), "--out", str(copy / "out"))
    assert not (copy / "out").exists()


def test_the_command_trains_what_was_missing(copy: Path) -> None:
    """The words of the message above, on the network that the study itself has trained."""
    words = "standard --data digits --preset digits --set augment=gaussian_noise:0.25 --set epochs=2 --set eval_eps=0"
    made, threads = copy / "again.safetensors", torch.get_num_threads()
    try:
        more = ["--threads", "1", "--seed", "1", "--limit", "120", "--out", str(made)]
        assert main(["train", *words.split(), *more]) == 0
    finally:
        torch.set_num_threads(threads)
    ours, theirs = (repsim.load_model(file).state_dict() for file in (made, copy / "networks/noise/seed-1.safetensors"))
    assert all(bool((ours[key] == theirs[key]).all()) for key in ours)


def test_networks_that_cannot_be_judged_together(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    networks, out = copy / "networks", ["--out", str(copy / "out")]
    pattern = str(networks / "mixup/*")
    text = f"augment: --checkpoints mixup=… must name weight files; got none by {pattern}. "
    given = [*JUDGED, "--checkpoints", f"mixup={pattern}", *out]
    refused(capsys, text + "Check the pattern; quote its stars.", *given)
    text = "augment: every strategy must have two networks; got 1 of 'none', 1 of 'noise'. "
    one = elsewhere(networks, none="none/seed-0*", noise="noise/seed-0*")
    refused(capsys, text + "One network has no pair to differ in; train more seeds.", *JUDGED, *one, *out)
    shutil.copy(networks / "none/seed-0.safetensors", networks / "none/seed-1.safetensors")
    text = "judge: every network must have weights of its own; got the same in 'seed-0' of 'none' and 'seed-1' of "
    refused(capsys, text + "'none'. A copy is no second seed; leave it out.", *JUDGED, *elsewhere(networks), *out)
    wide = repsim.load_model("small_conv_mnist", seed=1)
    record = {"architecture": "small_conv_mnist", "normalize": None, "num_classes": 10}
    save_checkpoint(networks / "none/seed-1.safetensors", wide.net, record)
    text = "judge: all networks must have one architecture; got digits_resnet8 ('seed-0' of 'none') and "
    text += "small_conv_mnist ('seed-1' of 'none'). "
    refused(capsys, text + "Judge networks of one architecture at a time.", *JUDGED, *elsewhere(networks), *out)


# --- Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "augment: there must be strategies; got none. Pass STUDY.toml, --strategies or --checkpoints."),
        (
            ["--strategies", "none,flip"],
            'plan: data must be given in the command line; got none. Write, say, data = "digits".',
        ),
        (
            ["--strategies", "none,flipp", "--data", "digits"],
            "strategy: the name must be known; got 'flipp'. Close matches: flip, flip_crop, vertical_flip, mixup.",
        ),
        (
            ["--strategies", "none,none", "--data", "digits"],
            "augment: --strategies must differ; got 'none' twice. Name each strategy once.",
        ),
        (
            ["--strategies", "none,flip", "--data", "digits", "--seeds", "1"],
            "augment: there must be two seeds; got 1. "
            "TD compares pairs of networks that differ in their seed; pass --seeds 2 or more.",
        ),
        (
            ["--strategies", "none", "--data", "digits", "--seeds", "few"],
            "augment: --seeds must be numbers; got 'few'. Write 5, or 0,1,7.",
        ),
        (["study.toml"], "plan: the strategy file must exist; got study.toml. Check the path."),
        (
            ["--strategies", "none", "--data", "digits", "--normalize", "cifar10"],
            "augment: --normalize is for --checkpoints; got it alone. Write --set normalize=NAME for what is trained.",
        ),
        (
            ["--checkpoints", "none"],
            "augment: --checkpoints must be STRATEGY=GLOB; got 'none'. Write, say, flip='runs/flip-*.safetensors'.",
        ),
        (
            ["--checkpoints", "a=b*", "--checkpoints", "a=c*"],
            "augment: --checkpoints must name a strategy once; got 'a' twice. Name all its files by one pattern.",
        ),
        (
            ["--checkpoints", "a=b*", "--seeds", "3", "--set", "epochs=2"],
            "augment: --checkpoints trains nothing; got --seeds, --set. Leave one or the other out.",
        ),
        (
            ["--checkpoints", "a=b*", "--data", "digits", "--dry-run"],
            "augment: --dry-run is for networks that are to be trained; got --checkpoints. Leave one of them out.",
        ),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, text, *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_study_stays_as_it_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy / "networks/none/seed-0.safetensors"
    changed = [*TINY, *STRATEGIES, "--set", "momentum=0.5", "--out", str(copy)]
    text = (
        f"run_jobs: networks in the folder must be of this study; got {file} with momentum=0.9 for 0.5. "
        "Choose another folder, or the settings it was made with."
    )
    refused(capsys, text, *changed)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_strategy_files_of_the_documentation_are_plans(name: str) -> None:
    plan = read_plan(ROOT / "docs/studies" / f"{name}.toml")
    assert "none" in [strategy.name for strategy in plan.strategies]
    assert len(plan.seeds) >= 3
    assert plan.tasks
