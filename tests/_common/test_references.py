"""No file runs code: what a file names is imported by no reader, only what a caller names is."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import repsim
from repsim import Activations, load_model
from repsim._common.references import known_name
from repsim.cli.arguments import read_tasks
from repsim.networks.weight_files import weights_digest
from repsim.recipes.standard import Standard
from repsim.studies.augmentation.networks import networks_of, tasks_of, trained_networks
from repsim.studies.augmentation.plan import read_plan
from tests.support.places import DATA

NAME = "named_by_a_file"

#: What a file may say instead of a name.
EVIL = (
    f"{NAME}:go",
    f"{NAME}:go:go",
    "this_process:go",
    "os:abort",
    f"{NAME}.inner:go",
    f" {NAME}:go",
    f"none+{NAME}:go",
)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """A module that files name, importable from here; tells whether it was imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{NAME}.py").write_text("import os\nos.environ['TRAPPED'] = '1'\ndef go(*a, **k): raise ValueError\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    yield lambda: os.environ.get("TRAPPED") is not None
    sys.modules.pop(NAME, None)
    os.environ.pop("TRAPPED", None)


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["repsim"])


def written(path: Path, **changes: Any) -> Path:
    """A shipped network under another record."""
    source = DATA / "digits_standard.safetensors"
    state = load_file(source)
    record = {**header(source), **changes, "weights_sha256": weights_digest(state)}
    save_file(state, path, metadata={"repsim": json.dumps(record)})
    return path


def plan(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def state_that_names(path: Path, text: str) -> None:
    from repsim.recipes import train

    data, test = (repsim.load_data("digits", split=split, limit=40) for split in ("train", "test"))
    header = {"training": {"settings": {"augment": text, "architecture": text}, "recipe": text}, "counts": {}}
    tensors = {"weights.x": torch.zeros(2)}
    save_file(tensors, path, metadata={"repsim_training": json.dumps({**header, "digest": weights_digest(tensors)})})
    train(Standard(epochs=1), data, test, seed=0, name="x", resume=path, progress=False)


def matrix_that_names(path: Path, text: str) -> None:
    a = Activations.from_arrays({"l": np.random.default_rng(0).normal(size=(9, 3))})
    repsim.compare(a, a, "cka").save(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    facts = {**json.loads(str(arrays.pop("facts"))), "metric": text}
    with open(path, "wb") as stream:
        np.savez(stream, facts=np.array(json.dumps(facts)), **arrays)
    repr(repsim.SimilarityMatrix.load(path))


def study_of_a_folder(path: Path, text: str) -> None:
    """A trained network whose record names something else is no network of the study."""
    work = plan(path.with_suffix(".toml"), 'data="digits"\nseeds=1\nlimit=40\n[strategies]\nnone="none"')
    made = read_plan(work)
    (path.parent / "none").mkdir()
    written(path.parent / "none" / "seed-0.safetensors", architecture=text, settings={"augment": text}, recipe=text)
    data, test = made.images()
    networks_of(made, path.parent, data, test, progress=False)


#: Every reader of a file that says names: (file, what it says) -> reads it.
LOADERS: dict[str, Callable[[Path, str], Any]] = {
    "architecture of a weight file": lambda p, t: load_model(written(p, architecture=t)),
    "recipe of a weight file": lambda p, t: load_model(written(p, recipe=t, settings={"augment": t})),
    "settings of a weight file": lambda p, t: trained_networks(
        {"a": str(written(p, recipe=t, settings={"augment": t, "architecture": t}))}, load_model
    ),
    "normalisation of a weight file": lambda p, t: load_model(written(p, normalize=t)),
    "classes of a weight file": lambda p, t: load_model(written(p, num_classes=t)),
    "strategy of a plan": lambda p, t: read_plan(plan(p, f'data="digits"\n[strategies]\nmine="{t}"')),
    "part of a strategy": lambda p, t: read_plan(plan(p, f'data="digits"\n[strategies]\nmine="flip+{t}"')),
    "architecture of a plan": lambda p, t: read_plan(
        plan(p, f'data="digits"\narchitecture="{t}"\n[strategies]\nnone="none"')
    ),
    "settings of a plan": lambda p, t: read_plan(
        plan(p, f'data="digits"\n[settings]\narchitecture="{t}"\n[strategies]\nnone="none"')
    ),
    "augmentation of a plan": lambda p, t: read_plan(
        plan(p, f'data="digits"\n[settings]\naugment="{t}"\n[strategies]\nnone="none"')
    ),
    "data of a plan": lambda p, t: read_plan(
        plan(p, f'data="{t}"\npreset="digits"\n[strategies]\nnone="none"')
    ).images(),
    "data of a task": lambda p, t: tasks_of(
        read_plan(plan(p, f'data="digits"\n[strategies]\nnone="none"\n[tasks]\nother={{data="{t}"}}'))
    ),
    "state of a training": state_that_names,
    "metric of a matrix": matrix_that_names,
    "network in a study's folder": study_of_a_folder,
}


@contextlib.contextmanager
def suppressed() -> Iterator[None]:
    """Refusing and reading are both right; importing is not."""
    with contextlib.suppress(ValueError, TypeError, OSError):
        yield


@pytest.mark.parametrize("loader", LOADERS)
def test_no_loader_imports_what_a_file_names(loader: str, tmp_path: Path, trap: Callable[[], bool]) -> None:
    for number, text in enumerate(EVIL):
        folder = tmp_path / str(number)
        folder.mkdir()
        with suppressed():
            LOADERS[loader](folder / "file.bin", text)
        assert not trap(), text
    assert NAME not in sys.modules


def test_the_trap_springs_for_a_caller(trap: Callable[[], bool]) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        load_model(f"{NAME}:go")
    assert trap()


@pytest.mark.parametrize(
    "text", ["os:abort", f"{NAME}:go", "wrn28_100000", "wrn28_0", "resnet21", 7, ["resnet20"], None]
)
def test_an_architecture_in_a_file_is_a_known_name(text: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", architecture=text)
    with pytest.raises(
        ValueError, match="load_model: the architecture that a file names must be one that repsim knows"
    ):
        load_model(path)


def test_the_message_says_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", architecture="os:abort")
    with pytest.raises(ValueError, match="load_model") as error:
        load_model(path)
    assert str(error.value) == (
        f"load_model: the architecture that a file names must be one that repsim knows; got 'os:abort' in {path}. "
        "Pass load_model(ARCHITECTURE, checkpoint=FILE), on the command line ARCHITECTURE:FILE; nothing was imported."
    )


@pytest.mark.parametrize("architecture", ["wrn28_99", "resnet110", "regnet_y_128gf"])
def test_a_file_is_built_for_no_more_than_it_holds(architecture: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", architecture=architecture)
    with pytest.raises(
        ValueError, match=r"^load_model: a file must hold the network it records; got .* Make the file again\.$"
    ):
        load_model(path)


@pytest.mark.parametrize("classes", [0, -1, 10**7, 10**400, 2.5, "ten", True, [10]])
def test_classes_of_a_file_are_a_number(classes: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", num_classes=classes)
    with pytest.raises(
        ValueError, match=r"^load_model: a file's num_classes must be an integer from 1 to 100000; got "
    ):
        load_model(path)


@pytest.mark.parametrize("record", ["[]", "3", '"text"', "[" * 100_000, "{"])
def test_a_record_that_is_none_is_named(record: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"repsim": record})
    with pytest.raises(ValueError, match=r"^load_model: .*x\.safetensors must be a weight file; got a record"):
        load_model(path)


def test_what_the_caller_names_is_loaded_from_a_file_that_names_it_too(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "users_own.py").write_text(
        "from repsim.networks.architectures import CifarResNet\n"
        "def net(num_classes=10): return CifarResNet(8, num_classes, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = written(tmp_path / "x.safetensors", architecture="users_own:net")
    with pytest.raises(ValueError, match="repsim knows"):
        load_model(path)
    assert load_model("users_own:net", checkpoint=path).provenance["architecture"] == "users_own:net"


def test_a_strategy_of_ones_own_stands_beside_a_file(tmp_path: Path) -> None:
    path = plan(tmp_path / "p.toml", 'data="digits"\n[strategies]\nmine="os:abort"')
    with pytest.raises(ValueError, match="plan") as error:
        read_plan(path)
    assert str(error.value) == (
        f"plan: the strategy that a file names must be one that repsim knows; got 'os:abort' in {path}. Write what is "
        "your own on the command line, as in --strategies mine=package.module:function; nothing was imported."
    )
    given = read_plan(path, {"strategies": {"mine": "tests._common.test_references:brighter"}})
    assert given.strategies[0].settings["augment"] == "tests._common.test_references:brighter"


def brighter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (x * 1.1).clamp(0, 1)


def test_known_names_pass() -> None:
    assert known_name("a", ("a", "b"), "f", what="thing", path="x") == "a"
    with pytest.raises(ValueError, match="f") as error:
        known_name("bb", ("a", "b"), "f", what="thing", path="x")
    assert (
        str(error.value)
        == "f: the thing that a file names must be one that repsim knows; got 'bb' in x. Close matches: b."
    )


def test_the_largest_architecture_of_the_package_has_a_bound() -> None:
    for name in ("wrn28_101", "wrn28_100000", "wrn28_" + "9" * 5000, "WRN-28-0"):
        with pytest.raises(ValueError, match="load_model: the architecture must be known"):
            load_model(name)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a" + ".a" * 3000 + " = 1\n[settings]\nb = 1", "\xff", "= 1"])
def test_a_plan_that_is_no_toml_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"\Aplan: ") as error:
        read_plan(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\xff", "{"])
def test_tasks_that_are_no_json_are_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"\Arepsim: the file of --tasks must hold tasks as JSON; got ") as error:
        read_tasks(path)
    assert "\n" not in str(error.value)
