"""Every verb, killed at file-system events: run again, it ends with the same numbers and leaves no temporary file."""

import contextlib
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from repsim.cli.main import main
from tests.support.commands import PGD, STANDARD

DIGITS = ["--data", "digits", "--limit", "60"]
TINY = [
    "--data",
    "digits",
    "--limit",
    "60",
    "--epochs",
    "2",
    "--set",
    "eval_eps=0",
    "--set",
    "architecture=digits_conv",
]

#: Verb -> its words, given the folder; what is run after a kill, where that is not the same.
VERBS: dict[str, Callable[[Path], list[str]]] = {
    "compare": lambda f: ["compare", STANDARD, PGD, *DIGITS, "--layers", "layer2.0", "layer3.0", "--out", f"{f}/out"],
    "attack": lambda f: [
        *("compare", STANDARD, PGD, *DIGITS, "--layers", "layer3.0", "--metric", "cka"),
        *("--attack-a", "linf:0.1", "--attack-steps", "2", "--out", f"{f}/out"),
    ],
    "certify": lambda f: [
        "certify",
        STANDARD,
        *DIGITS,
        "--sigma",
        "0.25",
        "--n",
        "20",
        "--n0",
        "5",
        "--out",
        f"{f}/out",
    ],
    "train": lambda f: ["train", "standard", *TINY, "--test-limit", "20", "--out", f"{f}/net.safetensors"],
    "augment": lambda f: [
        *("augment", "--strategies", "none,flip", "--seeds", "2", *TINY, "--metric", "td(resamples=0)"),
        *("--parallel", "1", "--out", f"{f}/out"),
    ],
    "robustness": lambda f: [
        *("robustness", "--networks", f"standard={STANDARD}", "--networks", f"robust={PGD}", *DIGITS),
        *("--layers", "layer1.0", "layer2.0", "layer3.0", "--only", "cross_layer", "--out", f"{f}/out"),
    ],
    "heatmap": lambda f: ["heatmap", f"{f}/given.npz", "--out", f"{f}/picture.png"],
}

#: What changes names or contents of the file system.
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def forked(words: list[str], folder: Path, kill_at: int = 0) -> int:
    """Runs a command in a copy of this process, which is killed at an event; returns how many there were, or -1."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        count, place = 0, os.path.realpath(folder)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event not in EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
                return
            if not os.path.realpath(os.fspath(arguments[0])).startswith(place):  # type: ignore[arg-type]
                return
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        code = 70
        with contextlib.suppress(BaseException), open(os.devnull, "w") as nowhere:
            torch.set_num_threads(1)
            sys.stdout = sys.stderr = nowhere
            sys.addaudithook(hook)
            code = main(words)
        os.write(write, f"{count}".encode())
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as stream:
        told = stream.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return -1
    assert os.WEXITSTATUS(status) == 0, words
    return int(told)


def numbers(folder: Path) -> dict[str, Any]:
    """Every array and every weight under a folder, as bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz":
            with np.load(path) as stored:
                kept = [k for k in stored.files if stored[k].dtype.kind != "U"]
                found[name] = {k: stored[k].tobytes() for k in kept}
        elif path.suffix == ".safetensors":
            found[name] = {k: v.numpy().tobytes() for k, v in load_file(path).items()}
        elif path.is_file():
            found[name] = None
    return found


def prepared(folder: Path) -> Path:
    folder.mkdir()
    a = np.random.default_rng(0).normal(size=(9, 3))
    import repsim

    side = repsim.Activations.from_arrays({"l": a})
    repsim.compare(side, side, "cka").save(folder / "given.npz")
    return folder


def survive(verb: str, kills: int, tmp_path: Path) -> None:
    words = VERBS[verb]
    reference = prepared(tmp_path / "whole")
    events = forked(words(reference), reference)
    right = numbers(reference)
    assert events > 5
    rng = np.random.default_rng([kills, *verb.encode()])
    for number in range(kills):
        folder = prepared(tmp_path / f"killed{number}")
        assert forked(words(folder), folder, int(rng.integers(1, events + 1))) == -1
        more = ["--resume"] if verb == "train" else []
        forked([*words(folder), *more], folder)
        assert numbers(folder) == right, number
        left = [path.name for path in folder.rglob(".*")]
        assert left == [], number
        shutil.rmtree(folder)


@pytest.mark.parametrize("verb", ["heatmap"])
def test_a_killed_run_is_made_whole_by_the_next(verb: str, tmp_path: Path) -> None:
    survive(verb, 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_killed_runs_of_every_verb_are_made_whole_by_the_next(verb: str, tmp_path: Path) -> None:
    survive(verb, 9, tmp_path)
