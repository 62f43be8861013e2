"""Files that never end and weights that are none: refused in one line, within moments."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repsim import load_model
from repsim.networks.pickle_scan import endless
from repsim.networks.weight_files import read_checkpoint
from tests.conftest import exactly
from tests.support.places import DATA


def shared(depth: int) -> dict[str, Any]:
    """Dicts that hold one dict twice: as many paths as a tree, in a few bytes."""
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"a": deep, "b": deep}
    return deep


def inside_itself() -> dict[str, Any]:
    one: dict[str, Any] = {"x": torch.zeros(2)}
    one["state_dict"] = one
    return one


def list_inside_itself() -> list[Any]:
    one: list[Any] = [{"epoch": 1}]
    one.append(one)
    one[0]["model"] = one
    return one


def nested(depth: int) -> Any:
    one: Any = {"a": torch.zeros(1)}
    for _ in range(depth):
        one = {"model": one}
    return one


def key_of_keys(depth: int) -> dict[Any, Any]:
    """A tuple whose hash visits 2**depth parts; made by hand, as building it here would take as long."""
    key: Any = ("a", "b")
    for _ in range(depth):
        key = (key, key)
    return {"value": key}


CONTENTS = {
    "shared dicts": lambda: {"state_dict": shared(40)},
    "shared dicts in a list": lambda: [shared(40), shared(40)],
    "shared dicts in containers": lambda: {"model": {"net": [shared(30)]}, "ema": shared(40)},
    "a dict inside itself": inside_itself,
    "a list inside itself": list_inside_itself,
    "deep": lambda: nested(60),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_that_would_never_end_is_one_line(kind: str, legacy: bool, tmp_path: Path) -> None:
    torch.save(CONTENTS[kind](), tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    code = f"import repsim; repsim.load_model('resnet20', checkpoint={str(tmp_path / 'x.pth')!r})"
    if kind == "shared dicts" and not legacy:  # one of them where a hang would not stop the tests
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert "no state dict in it" in done.stderr
    with pytest.raises(ValueError, match=r"\Aload_model: .*x\.pth must be a weight file; got ") as error:
        read_checkpoint(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


def test_dicts_that_share_weights_are_read(tmp_path: Path) -> None:
    weights = {"a": torch.arange(3.0)}
    torch.save({"ema": weights, "state_dict": weights, "more": shared(40)}, tmp_path / "x.pth")
    assert torch.equal(read_checkpoint(tmp_path / "x.pth").state["a"], weights["a"])


@pytest.mark.parametrize("legacy", [False, True])
def test_a_key_that_could_not_be_hashed_is_seen_beforehand(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(key_of_keys(8), path, _use_new_zipfile_serialization=not legacy)
    assert endless(path) == ""
    torch.save(key_of_keys(30), path, _use_new_zipfile_serialization=not legacy)
    text = (
        f"load_model: {path} must be a weight file; got a tuple of tuples with more than 1,000,000 parts, which would "
        "keep a reader busy without end. Load it in the code that wrote it and save model.state_dict()."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        read_checkpoint(path)


def test_tuples_beside_each_other_are_no_tuple_of_tuples(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, 3), "shapes": [(i, (i, i)) for i in range(3000)]}, tmp_path / "x.pth")
    assert endless(tmp_path / "x.pth") == ""
    assert list(read_checkpoint(tmp_path / "x.pth").state) == ["a"]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.safetensors")), ids=lambda p: p.name)
def test_files_that_end_are_not_suspected(path: Path, tmp_path: Path) -> None:
    state = load_model(path).net.state_dict()
    for legacy in (False, True):
        torch.save({"state_dict": state}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
        assert endless(tmp_path / "x.pth") == ""


def test_an_archive_that_unpacks_to_more_than_there_is(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(4_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match="got an archive that is unpacked to more than 20 times its size, which"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_view_of_one_number_is_no_weight(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"got 1,000,000,000 numbers under 'a' in [\d,]+ bytes\. Make it again\."):
        read_checkpoint(tmp_path / "x.pth")


def test_a_file_that_is_no_pickle_is_left_to_the_reader(tmp_path: Path) -> None:
    for content in (b"", b"\x80", b"PK\3\4", pickle.dumps([1])[:-1], bytes(range(256))):
        (tmp_path / "x").write_bytes(content)
        assert endless(tmp_path / "x") == ""


# --- Weights that are none ------------------------------------------------------------------------------------


def state() -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in load_model("digits_resnet8").net.state_dict().items()}


KEY = "layer1.0.conv1.weight"


@pytest.mark.parametrize(
    ("key", "change", "got"),
    [
        (KEY, lambda v: (v * 100).to(torch.int8), "int8"),
        (KEY, lambda v: v.to(torch.complex64), "complex64"),
        (KEY, lambda v: v > 0, "bool"),
        (KEY, lambda v: (v * 100).long(), "int64"),
        (KEY, lambda v: v * np.nan, "NaN or infinity"),
        (KEY, lambda v: v.index_fill(0, torch.tensor([1]), np.inf), "NaN or infinity"),
        (KEY, lambda v: v.half().index_fill(0, torch.tensor([1]), -np.inf), "NaN or infinity"),
        ("bn1.running_var", lambda v: v - 2, "-1"),
        ("bn1.running_var", lambda v: v * np.nan, "NaN or infinity"),
        ("bn1.num_batches_tracked", lambda v: v.to(torch.complex64), "complex64"),
        (KEY, lambda v: v.to("meta"), "a tensor without numbers of its own (float32, strided)"),
    ],
)
def test_weights_that_are_none_are_named(key: str, change: Any, got: str, tmp_path: Path) -> None:
    given = state()
    given[key] = change(given[key])
    torch.save(given, tmp_path / "x.pth")
    text = (
        "load_model: weights must be finite real numbers, and running variances none below zero; got "
        f"{tmp_path / 'x.pth'} with {got} under '{key}'. Save the network again, unquantised and after a training that "
        "did not diverge."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model("digits_resnet8", checkpoint=tmp_path / "x.pth")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_weights(kind: torch.dtype, tmp_path: Path) -> None:
    torch.save({k: v.to(kind) if v.is_floating_point() else v for k, v in state().items()}, tmp_path / "x.pth")
    assert load_model("digits_resnet8", checkpoint=tmp_path / "x.pth").provenance["sha256"]


def test_counters_and_variances_of_zero_are_fine(tmp_path: Path) -> None:
    given = state()
    given["bn1.running_var"].zero_()
    given["bn1.num_batches_tracked"] = torch.tensor(7, dtype=torch.int32)
    torch.save(given, tmp_path / "x.pth")
    assert load_model("digits_resnet8", checkpoint=tmp_path / "x.pth").provenance["sha256"]
