"""Interrupted trainings: the same weights as in one run, no file half written, no file trusted blindly."""

import errno
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from repsim import CautionWarning, ImageSet, load_data, load_model
from repsim.recipes import RECIPES, Recipe, Run, TrainedNetwork, train
from repsim.recipes.standard import Standard
from repsim.recipes.training import state as state_file
from tests.conftest import exactly

#: Three epochs each, of a recipe that is not here too; where there are stages, the interruption falls into the second
#: and the state between them.
TRAININGS: dict[str, dict[str, Any]] = {
    **{name: {"epochs": 3} for name in RECIPES},
    "standard": {"epochs": 3, "augment": "crop:1+flip"},
    "pgd": {"epochs": 3, "steps": 1},
    "trades": {"epochs": 3, "steps": 1},
    "fast": {"epochs": 3, "check_fall": 1.0},
    "free": {"epochs": 6, "replays": 2},
    "noise": {"epochs": 3, "momentum": 0.0, "certify_images": 0},
    "mixup": {"epochs": 3, "decay_epochs": (1,)},
    "cutmix": {"epochs": 3, "label_noise": 0.2},
    "macer": {"epochs": 1, "warmup_epochs": 2, "copies": 2, "certify_images": 0},
    "noisy_pretraining": {"epochs": 2, "finetune_epochs": 1, "certify_images": 0},
}


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", split="train", limit=130), load_data("digits", limit=30)


def made(recipe: Recipe, images: tuple[ImageSet, ImageSet], *, seed: int = 0, **options: Any) -> TrainedNetwork:
    return train(recipe, *images, seed=seed, name="net", progress=False, **options)


def same(a: TrainedNetwork, b: TrainedNetwork) -> bool:
    other = b.network.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.network.state_dict().items())


class Stopped(Exception):
    """What ends a training from outside."""


def interrupted(
    recipe: Recipe, images: tuple[ImageSet, ImageSet], path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """Trains for a number of batches and ends as by Ctrl-C."""
    count = 0
    update: Callable[..., None] = type(recipe).update

    def watched(self: Recipe, run: Run, *rest: Any) -> None:
        nonlocal count
        count += 1
        if count > batches:
            raise Stopped
        update(self, run, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(type(recipe), "update", watched)
        with pytest.raises(Stopped):
            made(recipe, images, resume=path, save_every=0)


@pytest.mark.parametrize("name", TRAININGS)
def test_an_interrupted_training_gives_the_weights_of_one_run(
    name: str, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[name](**TRAININGS[name])
    whole = made(recipe, images)
    path = tmp_path / "new" / "state.safetensors"
    interrupted(recipe, images, path, monkeypatch, batches=5)  # two epochs of two batches, and one batch
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    draws = torch.get_rng_state()
    resumed = made(recipe, images, resume=path)
    assert torch.equal(torch.get_rng_state(), draws)
    assert same(resumed, whole)
    for key in ("scores", "settings", "stopped"):
        assert resumed.record[key] == whole.record[key]
    costs = [made.record["cost"] for made in (resumed, whole)]
    assert [cost["epochs"] for cost in costs] == [3, 3]
    assert costs[0]["gradient_evaluations"] == costs[1]["gradient_evaluations"]


def forgetful(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(OrderedDict(flat=nn.Flatten(), drop=nn.Dropout(0.5), fc=nn.Linear(64, num_classes)))


def test_dropout_depends_on_the_seed_alone(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = Standard(architecture=f"{__name__}:forgetful", epochs=3), tmp_path / "state.safetensors"
    whole = made(recipe, images)
    torch.rand(7)  # the program's own numbers are elsewhere now
    assert same(made(recipe, images), whole)
    interrupted(recipe, images, path, monkeypatch, batches=3)
    torch.rand(7)
    assert same(made(recipe, images, resume=path), whole)
    assert not same(made(recipe, images, seed=1), whole)


def test_a_training_may_be_interrupted_before_its_first_state_and_often(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = Standard(epochs=3), tmp_path / "state.safetensors"
    interrupted(recipe, images, path, monkeypatch, batches=1)
    assert not path.exists()
    for _ in range(2):
        interrupted(recipe, images, path, monkeypatch, batches=3)
        assert path.exists()
    assert same(made(recipe, images, resume=path), made(recipe, images))


def test_a_finished_training_is_not_repeated(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = Standard(epochs=2), tmp_path / "state.safetensors"
    first = made(recipe, images, resume=path)
    monkeypatch.setattr(Recipe, "update", None)
    again = made(recipe, images, resume=path)
    assert same(again, first)
    assert again.record == first.record


def test_an_early_end_stays_one(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Standard, "after_epoch", lambda self, run: "enough" if run.epoch == 2 else "")
    recipe, path = Standard(epochs=4), tmp_path / "state.safetensors"
    first = made(recipe, images, resume=path)
    assert first.record["stopped"] == "enough"
    assert first.record["cost"]["epochs"] == 2
    again = made(recipe, images, resume=path)
    assert same(again, first)
    assert again.record == first.record


@pytest.mark.parametrize(("seconds", "writes"), [(0, 4), (3600, 1)])
def test_the_state_is_written_as_often_as_asked_and_at_the_end(
    seconds: float, writes: int, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    write = state_file.write_state

    def counted(path: Path, run: Run, *rest: Any) -> None:
        epochs.append(run.epoch)
        write(path, run, *rest)

    monkeypatch.setattr("repsim.recipes.training.loop.write_state", counted)
    made(Standard(epochs=4), images, resume=tmp_path / "state.safetensors", save_every=seconds)
    assert epochs == [1, 2, 3, 4][-writes:]


# --- Files that must not be used ------------------------------------------------------------------------------


@pytest.fixture
def begun(images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a standard training after one of two epochs."""
    path = tmp_path / "state.safetensors"
    interrupted(Standard(epochs=2), images, path, monkeypatch, batches=3)
    return path


def refused(
    images: tuple[ImageSet, ImageSet], path: Path, got: str, *, recipe: Recipe | None = None, seed: int = 0
) -> None:
    before = path.read_bytes()
    text = (
        f"train: the state file must be of the training that is asked for; got {path} with {got}. "
        "Train with the file's settings, or name another file to begin anew."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        made(recipe or Standard(epochs=2), images, resume=path, seed=seed)
    assert path.read_bytes() == before


def test_a_state_of_another_training_is_refused_and_says_how_it_differs(
    images: tuple[ImageSet, ImageSet], begun: Path
) -> None:
    refused(images, begun, "epochs=2 for 3", recipe=Standard(epochs=3))
    refused(images, begun, "seed=0 for 1", seed=1)
    other = replace(Standard(epochs=2), learning_rate=0.05, augment="flip")
    refused(images, begun, "learning_rate=0.1 for 0.05, augment=none for flip", recipe=other)
    fewer = images[0].take(list(range(129)))
    refused((fewer, images[1]), begun, f"train_digest={images[0].digest} for {fewer.digest}")
    got = "recipe=standard for noise, sigma=None for 0.25"
    refused(images, begun, got, recipe=RECIPES["noise"](epochs=2))


def test_other_test_images_are_no_other_training(images: tuple[ImageSet, ImageSet], begun: Path) -> None:
    whole = made(Standard(epochs=2), images)
    assert same(made(Standard(epochs=2), (images[0], images[0]), resume=begun), whole)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickle", "another kind", "changed"])
def test_a_file_that_is_no_state_is_refused(
    damage: str, images: tuple[ImageSet, ImageSet], begun: Path, tmp_path: Path
) -> None:
    content = begun.read_bytes()
    reason = r"a damaged file \(.*\)"
    if damage == "truncated":
        begun.write_bytes(content[:-100])
    elif damage == "empty":
        begun.write_bytes(b"")
    elif damage == "text":
        begun.write_text("not a state, though it is long enough to hold a header")
    elif damage == "pickle":
        begun.write_bytes(pickle.dumps(Bomb(str(tmp_path / "boom"))))
    elif damage == "another kind":
        save_file({"weights.x": torch.zeros(3)}, begun)
        reason = "a file of another kind"
    else:
        begun.write_bytes(content[:-8] + bytes(v ^ 1 for v in content[-8:]))
        reason = "tensors that differ from the digest written with them"
    advice = r"Delete it, or name another file, to begin anew\."
    text = rf"\Atrain: {re.escape(str(begun))} must be the state of a training; got {reason}\. {advice}\Z"
    with pytest.raises(ValueError, match=text):
        made(Standard(epochs=2), images, resume=begun)
    assert not (tmp_path / "boom").exists()


@dataclass
class Bomb:
    """Makes a file when it is unpickled."""

    path: str

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def test_another_torch_is_said(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    now = state_file.versions()
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "versions", lambda: {**now, "torch": "1.0"})
        interrupted(Standard(epochs=2), images, path, monkeypatch, batches=3)
    text = (
        f"train: {path} was written under torch 1.0, this is {now['torch']}: the weights may not be those of one run."
    )
    with pytest.warns(CautionWarning, match=exactly(text)):
        made(Standard(epochs=2), images, resume=path)


def test_a_full_disk_loses_nothing(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = Standard(epochs=3), tmp_path / "state.safetensors"
    written: list[Path] = []
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) > 1:
            write(self, data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        text = (
            f"save: {path} could not be written (No space left on device); nothing was changed. "
            "Free some space or choose another place."
        )
        with pytest.raises(OSError, match=exactly(text)):
            made(recipe, images, resume=path, save_every=0)
    assert len(written) == 2
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert same(made(recipe, images, resume=path), made(recipe, images))


def test_the_state_holds_tensors_and_json_alone(begun: Path) -> None:
    from safetensors import safe_open

    with safe_open(begun, framework="pt") as file:
        names = {key.split(".")[0] for key in file.keys()}  # noqa: SIM118 - not a dict
        tensors: list[Tensor] = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
        assert list(file.metadata()) == ["repsim_training"]
    assert names == {"weights", "momentum", "random"}
    assert sum(value.numel() * value.element_size() for value in tensors) < begun.stat().st_size


def test_snapshots_are_the_network_after_each_epoch(images: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    recipe = Standard(epochs=3)
    made = train(recipe, *images, seed=2, name="net", snapshots=tmp_path / "kept", progress=False)
    files = sorted((tmp_path / "kept").iterdir())
    assert [file.name for file in files] == ["epoch-001.safetensors", "epoch-002.safetensors", "epoch-003.safetensors"]
    first, *_, last = (load_model(file, name=file.stem) for file in files)
    assert {k: v.tolist() for k, v in last.net.state_dict().items()} == {
        k: v.tolist() for k, v in made.network.net.state_dict().items()
    }
    assert not torch.equal(next(first.parameters()), next(last.parameters()))
    record = last.provenance["record"]
    assert (record["epoch"], record["recipe"], record["seed"], record["settings"]["epochs"]) == (3, "standard", 2, 3)
    train(recipe, *images, seed=2, name="net", snapshots=tmp_path / "kept", progress=False)  # the same once more
    text = (
        f"train: {tmp_path / 'kept'} must hold no snapshots of another training; got epoch-001.safetensors of seed 2. "
        "Choose another folder, or empty this one."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        train(recipe, *images, seed=3, name="net", snapshots=tmp_path / "kept", progress=False)
    assert [load_model(file).provenance["record"]["seed"] for file in files] == [2, 2, 2]


def test_colour_images_train_in_another_layout_of_memory_and_end_in_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageSet(pixels, torch.arange(40) % 2, tuple(map(str, range(40))), "noise")
    recipe, path = Standard(epochs=2, architecture="resnet20", batch_size=20), tmp_path / "state.safetensors"
    whole = made(recipe, (data, data))
    assert all(p.is_contiguous() for p in whole.network.parameters())
    interrupted(recipe, (data, data), path, monkeypatch, 3)
    assert same(made(recipe, (data, data), resume=path), whole)
