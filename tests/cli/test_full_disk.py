"""A disk that runs full while a network is trained: what was written stays whole, and the training goes on from it."""

import dataclasses
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from repsim import load_model
from repsim.recipes import Recipe, train
from tests.support import commands
from tests.support.commands import Run

STATE, NETWORK = "net.state.safetensors", "net.safetensors"


def ran(folder: Path, *words: Any, recipe: str = "standard") -> Run:
    """Three epochs of 130 digits, with a state after each."""
    data = ["--data", "digits", "--limit", 130, "--test-limit", 20]
    done = commands.ran("train", folder / NETWORK, recipe, *data, "--epochs", 3, *words)
    # What a training will take depends on the machine.
    out = [line for line in done.out.splitlines(keepends=True) if " gradient evaluations: about " not in line]
    return dataclasses.replace(done, out="".join(out))


@pytest.fixture(scope="module", autouse=True)
def after_every_epoch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repsim.recipes.train", lambda *a, **k: train(*a, **{**k, "save_every": 0, "progress": False}))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of one run."""
    folder = tmp_path_factory.mktemp("whole")
    assert ran(folder).code == 0
    return folder / NETWORK


def same(a: Path, b: Path) -> bool:
    one, two = (load_model(path).net.state_dict() for path in (a, b))
    return all(torch.equal(one[key], two[key]) for key in one)


class Disk:
    """Refuses one write: of the nth file of a name, halfway through it or when it is to get its name."""

    def __init__(self, name: str, nth: int, when: str, patch: pytest.MonkeyPatch) -> None:
        self.name, self.left = name, nth
        write, replace = Path.write_bytes, Path.replace

        def writing(path: Path, content: bytes) -> int:
            if when == "write" and path.name.endswith(f".{name}") and self._is_it(path):
                write(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, content)

        def renaming(path: Path, target: Path) -> Path:
            if when == "rename" and target.name == name and self._is_it(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            return replace(path, target)

        patch.setattr(Path, "write_bytes", writing)
        patch.setattr(Path, "replace", renaming)

    def _is_it(self, path: Path) -> bool:
        self.left -= 1
        return self.left == 0


def refused(folder: Path, name: str) -> str:
    return (
        f"save: {folder / name} could not be written (No space left on device); nothing was changed. "
        "Free some space or choose another place.\n"
    )


@pytest.mark.parametrize("when", ["write", "rename"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_state_that_cannot_be_written_leaves_the_one_before(
    nth: int, when: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disk = Disk(STATE, nth, when, patch)
        found = ran(tmp_path)
    assert disk.left == 0
    assert (found.code, found.out, found.err) == (2, "", refused(tmp_path, STATE))
    assert [file.name for file in tmp_path.iterdir()] == ([STATE] if nth > 1 else [])
    epochs: list[int] = []
    update = Recipe.update

    def counted(self: Recipe, run: Any, *rest: Any) -> None:
        epochs.append(run.epoch)
        update(self, run, *rest)

    monkeypatch.setattr(Recipe, "update", counted)
    assert ran(tmp_path, "--resume").code == 0
    assert sorted(set(epochs)) == [0, 1, 2][nth - 1 :]
    assert same(tmp_path / NETWORK, whole)
    assert [file.name for file in tmp_path.iterdir()] == [NETWORK]


@pytest.mark.parametrize("when", ["write", "rename"])
@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_that_cannot_be_written_loses_no_training(
    before: bool, when: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before:
        assert ran(tmp_path, "--seed", 5).code == 0
    stood = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        disk = Disk(NETWORK, 1, when, patch)
        found = ran(tmp_path, *["--force"] * before)
    assert disk.left == 0
    assert (found.code, found.err) == (2, refused(tmp_path, NETWORK))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*stood, STATE])
    assert all((tmp_path / name).read_bytes() == content for name, content in stood.items())
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "update", None)  # nothing is trained twice
        assert ran(tmp_path, "--resume").code == 0
    assert same(tmp_path / NETWORK, whole)
    assert [file.name for file in tmp_path.iterdir()] == [NETWORK]


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["--epochs", 4], "epochs=3 for 4"),
        (["--seed", 1], "seed=0 for 1"),
        (["--set", "learning_rate=0.05", "--set", "momentum=0.5"], "learning_rate=0.1 for 0.05, momentum=0.9 for 0.5"),
    ],
)
def test_an_unfinished_training_is_not_gone_on_with_under_other_settings(
    words: list[Any], got: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Disk(STATE, 2, "write", patch)
        assert ran(tmp_path).code == 2
    state = (tmp_path / STATE).read_bytes()
    found = ran(tmp_path, "--resume", *words)
    text = (
        f"train: the state file must be of the training that is asked for; got {tmp_path / STATE} with {got}. "
        "Train with the file's settings, or name another file to begin anew.\n"
    )
    assert (found.code, found.out, found.err) == (2, "", text)
    assert [file.name for file in tmp_path.iterdir()] == [STATE]
    assert (tmp_path / STATE).read_bytes() == state
