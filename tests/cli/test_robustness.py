"""`repsim robustness` and the study behind it: what is written, what is left out, and one line for every mistake."""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from repsim import ImageSet, load_data, load_model
from repsim.cli.main import main
from repsim.recipes import RECIPES, train
from repsim.recipes.adversarial.pgd import PGD
from repsim.studies.robustness.whole_study import left_out, robustness
from tests.conftest import exactly

PARTS = ["cross_layer", "over_seeds", "threat_models", "clean_and_attacked", "dynamics", "capacity"]


@dataclass(frozen=True)
class Run:
    """What one command left behind."""

    code: int
    out: str
    err: str


def ran(*arguments: object) -> Run:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["robustness", *map(str, arguments)])
    return Run(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two standard and two robust networks of one epoch or two, and the snapshots of one of each."""
    folder = tmp_path_factory.mktemp("nets")
    data, test = load_data("digits", split="train", limit=130), load_data("digits", limit=60)
    for name, recipe in (("standard", RECIPES["standard"](epochs=2)), ("robust", PGD(epochs=2, steps=1))):
        for seed in (0, 1):
            keep = folder / "epochs" / name if seed == 0 else None
            trained = train(
                recipe, data, test, seed=seed + 2 * (name == "robust"), name="", snapshots=keep, progress=False
            )
            trained.save(folder / name / f"seed{seed}.safetensors")
    return folder


def usual(nets: Path, out: Path, *more: object) -> tuple[object, ...]:
    groups = ("--networks", f"standard={nets}/standard/*.safetensors", "--networks")
    robust = (f"robust={nets}/robust/seed0.safetensors", nets / "robust" / "seed1.safetensors")
    return (*groups, *robust, "--data", "digits", "--limit", 60, "--steps", 2, "--eps", "26/255", "--out", out, *more)


def test_everything_that_can_be_done_is_done_and_written(nets: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    snapshots = [x for name in ("standard", "robust") for x in ("--snapshots", f"{name}={nets}/epochs/{name}")]
    sizes = [x for name in ("standard", "robust") for x in ("--sizes", f"{name}:one={nets}/{name}/*.safetensors")]
    layers = ("--layers", "conv1", "layer2.0", "layer3.0")
    run = ran(*usual(nets, out, *layers), *snapshots, "--train-limit", 130, *sizes)
    assert run.code == 0, run.err
    assert {f"{name}.{kind}" for name in PARTS for kind in ("png", "csv", "json")} < {f.name for f in out.iterdir()}
    summary = json.loads((out / "summary.json").read_text())
    assert [part["name"] for part in summary["parts"]] == PARTS
    assert summary["left_out"] == {}
    assert summary["data"]["n"] == 60
    assert summary["groups"] == {
        "standard": ["standard/seed0", "standard/seed1"],
        "robust": ["robust/seed0", "robust/seed1"],
    }
    lines = run.out.splitlines()
    assert lines[:3] == [
        repr(load_data("digits", limit=60)),
        "standard: standard/seed0, standard/seed1",
        "robust: robust/seed0, robust/seed1",
    ]
    pictures = ", ".join(f"{name}.png" for name in PARTS)
    assert lines[-1] == f"written to {out}: {pictures}, tables, reading.txt, report.html"
    text = (out / "reading.txt").read_text()
    for part in summary["parts"]:
        assert set(part["files"]) <= {f.name for f in out.iterdir()}
        told = json.loads((out / f"{part['name']}.json").read_text())
        assert told["reading"] == part["reading"]
        for sentence in part["reading"]:
            assert f"  {sentence}" in lines
            assert f"  {sentence}\n" in text
    told = json.loads((out / "dynamics.json").read_text())
    assert told["protocol"]["train"]["n"] == 130
    assert told["protocol"]["attack"] == "PGD-10 in linf:26/255, one random start"
    assert json.loads((out / "clean_and_attacked.json").read_text())["protocol"]["eps"] == [26 / 255]


def test_what_is_left_out_is_said(nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repsim.studies.robustness import whole_study as study

    three = {name: study.ANALYSES[name] for name in ("clean_and_attacked", "dynamics", "capacity")}
    monkeypatch.setattr(study, "ANALYSES", three)
    run = ran(*usual(nets, tmp_path, "--layers", "layer3.0"))
    assert run.code == 0
    reasons = {"dynamics": "no snapshots and no training images", "capacity": "no networks of several sizes"}
    assert left_out() == reasons
    assert run.out.splitlines()[-3:-1] == [f"left out: {name}, {why}" for name, why in reasons.items()]
    assert json.loads((tmp_path / "summary.json").read_text())["left_out"] == reasons
    assert (
        (tmp_path / "reading.txt")
        .read_text()
        .endswith(
            "Left out: dynamics, no snapshots and no training images.\n\nLeft out: capacity, no networks of several "
            "sizes.\n"
        )
    )
    assert left_out(snapshots={"a": {}}) == {**reasons, "dynamics": "no training images"}


def test_only_what_is_asked_for(nets: Path, digits: ImageSet, tmp_path: Path) -> None:
    run = ran(*usual(nets, tmp_path, "--layers", "layer*.0", "--only", "cross_layer"))
    assert run.code == 0
    assert "left out" not in run.out
    assert {f.name.split(".")[0].split("-")[0] for f in tmp_path.iterdir()} == {
        "cross_layer",
        "reading",
        "report",
        "run",
        "summary",
    }
    assert json.loads((tmp_path / "summary.json").read_text())["left_out"] == {}
    groups = {
        name: [load_model(file, name=f"{name} {file.stem}") for file in sorted((nets / name).iterdir())]
        for name in ("standard", "robust")
    }
    (part,) = robustness(groups, digits, analyses=["cross_layer"], layers="layer*.0")
    assert part.name == "cross_layer"
    with pytest.raises(ValueError, match=exactly(
        "robustness: dynamics needs more; got no snapshots and no training images. Pass it, or leave that out."
    )):  # fmt: skip
        robustness(groups, digits, analyses=["dynamics"])
    with pytest.raises(ValueError, match=exactly(
        "robustness: there must be a radius; got none. Pass, say, eps=(8/255,)."
    )):  # fmt: skip
        robustness(groups, digits, eps=())


def test_architectures_are_named_before_a_colon(nets: Path, tmp_path: Path) -> None:
    run = ran(
        *("--networks", f"one=digits_resnet8:{nets}/standard/*.safetensors", "--data", "digits", "--limit", 60),
        *("--networks", f"two=digits_resnet8:{nets}/robust/seed0.safetensors", "--out", tmp_path),
        *("--only", "clean_and_attacked", "--eps", "0.1", "--steps", 1, "--layers", "layer3.0"),
    )
    assert run.code == 0, run.err
    assert "one: standard/seed0, standard/seed1\ntwo: robust/seed0\n" in run.out


def test_every_mistake_is_one_line(nets: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    shutil.copy(nets / "standard" / "seed0.safetensors", copy)
    standard, robust = f"standard={nets}/standard/*.safetensors", f"robust={nets}/robust/*.safetensors"
    both = ("--networks", standard, "--networks", robust)
    rest = ("--data", "digits", "--limit", 60, "--out", tmp_path / "out")
    written = "Write, say, --networks standard=nets/*.safetensors."
    cases = [
        (("--networks", "standard=none/*.th", *rest), "robustness: --networks standard=… must name files; got "
         "'none/*.th'. Check the path, and quote globs."),
        (("--networks", "nets/a.th", *rest), f"robustness: --networks must be NAME=…; got 'nets/a.th'. {written}"),
        (("--networks", standard, *rest), "robustness: there must be at least two groups; got standard alone. Pass, "
         "say, standard and robust networks."),
        (("--networks", standard, copy, "--networks", robust, *rest), "robustness: every network must have weights of "
         "its own; got the same in 'standard/seed0' of 'standard' and "
         f"'{tmp_path.name}/copy' of 'standard'. A copy is no second seed; leave it out."),
        (("--networks", standard, "--networks", f"robust={copy}", *rest), "robustness: every network must have "
         "weights of its own; got the same in 'seed0' of 'standard' and 'copy' of 'robust'. A copy is no second "
         "seed; leave it out."),
        ((*both, *rest, "--eps", "8"), "ThreatModel: eps of linf must be at most 1; got 8. Pixels are in [0, 1]: write "
         "8/255 where you mean 8 of 255 grey levels."),
        ((*both, *rest, "--eps", "much"), "ThreatModel: text must be NORM:EPS; got 'linf:much'. Write, say, "
         '"linf:8/255" or "l2:0.5".'),
        ((*both, *rest, "--only", "cross_layers"), "robustness: the analysis must be known; got 'cross_layers'. Close "
         "matches: cross_layer."),
        ((*both, *rest, "--snapshots", f"standard={tmp_path}"), "robustness: --snapshots standard=… must hold "
         f"epoch-001.safetensors and more; got '{tmp_path}'. Make them with repsim train --snapshots DIR."),
        ((*both, *rest, "--snapshots", f"standard={nets}/epochs/standard"), "robustness: the training images must be "
         "those of --snapshots; got digits/train, on which 'standard, epoch 1' was not trained. Pass the --data they "
         "were trained on, and --train-limit where that was trained with --limit."),
        ((*both, *rest, "--sizes", standard), "robustness: --sizes must be KIND:SIZE=FILES; got 'standard'. Write, "
         "say, standard:width1=nets/wide1-*.safetensors."),
    ]  # fmt: skip
    for arguments, expected in cases:
        run = ran(*arguments)
        assert (run.code, run.err) == (2, f"{expected}\n"), arguments


def test_a_group_has_one_architecture(nets: Path, digits: ImageSet) -> None:
    one, other = load_model(nets / "standard" / "seed0.safetensors"), load_model("small_conv_mnist", name="small")
    with pytest.raises(ValueError, match=exactly(
        "robustness: networks of 'mixed' must have one architecture; got digits_resnet8 ('seed0' of 'mixed') and "
        "small_conv_mnist ('small' of 'mixed'). Make a group of each."
    )):  # fmt: skip
        robustness({"mixed": [one, other], "other": [load_model("digits_resnet8", seed=5)]}, digits)
    twin = load_model("digits_resnet8", seed=5, name="seed0")
    with pytest.raises(ValueError, match=exactly(
        "robustness: every network must have a name of its own; got 'seed0' twice. Set network.name."
    )):  # fmt: skip
        robustness({"one": [one], "two": [twin]}, digits)
