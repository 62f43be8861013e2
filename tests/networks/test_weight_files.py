"""Weight files in the shapes that people have, files that are none, and the files that recipes write."""

import argparse
import builtins
import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from repsim import Network, load_model
from repsim.networks.fitting import fit_weights
from repsim.networks.weight_files import read_checkpoint, save_checkpoint
from tests.conftest import exactly

State = dict[str, Tensor]


def state_of(architecture: str, seed: int = 7) -> State:
    """Weights that no other seed gives; running statistics that no fresh network has."""
    net = load_model(architecture, seed=seed).net
    generator = torch.Generator().manual_seed(seed)
    for key, value in net.state_dict().items():
        if value.is_floating_point() and "running" in key:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def weights() -> State:
    return state_of("digits_resnet8")


def holds(net: Network, state: Mapping[str, Tensor]) -> bool:
    """Whether a network's every parameter and statistic is the one in a state dict."""
    own = net.net.state_dict()
    return all(torch.equal(own[key], state[key]) for key in own if not key.endswith("num_batches_tracked"))


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: value for key, value in state.items()}


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def notes_of(net: Network) -> list[str]:
    return net.provenance["notes"]


# --- State dicts and what people put around them ------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["digits_resnet8", "resnet20"])
@pytest.mark.parametrize("suffix", [".th", ".pth", ".pt", ".ckpt", ".bin", ""])
def test_a_bare_state_dict(architecture: str, suffix: str, tmp_path: Path) -> None:
    state = state_of(architecture)
    path = saved(OrderedDict(state), tmp_path / f"weights{suffix}")
    net = load_model(architecture, checkpoint=path)
    assert holds(net, state)
    assert not holds(load_model(architecture), state)
    assert notes_of(net) == []
    assert net.provenance["checkpoint"] == path.name
    assert net.provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert net.provenance["seed"] is None
    assert not net.training


def test_a_file_of_before_pytorch_1_6(weights: State, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert holds(load_model("digits_resnet8", checkpoint=str(path)), weights)


def test_a_file_without_batch_counts(weights: State, tmp_path: Path) -> None:
    old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(weights)
    assert holds(load_model("digits_resnet8", checkpoint=saved(old, tmp_path / "weights.pth")), weights)


def test_batch_counts_are_loaded_where_the_file_has_them(weights: State, tmp_path: Path) -> None:
    counted = {**weights, "bn1.num_batches_tracked": torch.tensor(1234)}
    net = load_model("digits_resnet8", checkpoint=saved(prefixed("module.", counted), tmp_path / "w.pth"))
    assert net.net.state_dict()["bn1.num_batches_tracked"] == 1234


CONTAINERS = "state_dict model_state_dict model net network weights params module ema model_ema state_dict_ema"


@pytest.mark.parametrize("container", CONTAINERS.split())
def test_a_container(container: str, weights: State, tmp_path: Path) -> None:
    path = saved({"epoch": 3, container: weights, "optimizer": {"lr": 0.1}}, tmp_path / "weights.pth")
    net = load_model("digits_resnet8", checkpoint=path)
    assert holds(net, weights)
    assert notes_of(net) == [f"weights taken from {container!r}"]


def test_containers_inside_containers(weights: State, tmp_path: Path) -> None:
    path = saved({"model": {"state_dict": prefixed("module.", weights)}}, tmp_path / "weights.pth")
    net = load_model("digits_resnet8", checkpoint=path)
    assert holds(net, weights)
    assert notes_of(net) == [
        "weights taken from 'model'",
        "weights taken from 'state_dict'",
        "prefix 'module.' removed",
    ]


def test_of_several_sets_of_weights_the_plain_one_is_taken_and_the_others_are_named(
    weights: State, tmp_path: Path
) -> None:
    averaged = {key: value + 1 for key, value in weights.items()}
    path = saved({"ema": averaged, "state_dict": weights, "model_ema": averaged}, tmp_path / "weights.pth")
    net = load_model("digits_resnet8", checkpoint=path)
    assert holds(net, weights)
    assert notes_of(net) == ["weights taken from 'state_dict' (there are also ema, model_ema)"]


def test_a_container_name_that_holds_something_else_is_passed_over(weights: State, tmp_path: Path) -> None:
    path = saved({"model": "resnet8", "net": None, "params": {}, "ema": weights}, tmp_path / "weights.pth")
    assert holds(load_model("digits_resnet8", checkpoint=path), weights)


def test_a_list_of_state_dicts_gives_the_first_and_says_so(weights: State, tmp_path: Path) -> None:
    other = {key: value + 1 for key, value in weights.items()}
    path = saved({"state_dict": [weights, other, other], "err": 0.1}, tmp_path / "weights.pth")
    net = load_model("digits_resnet8", checkpoint=path)
    assert holds(net, weights)
    assert notes_of(net) == [
        "weights taken from 'state_dict'",
        "a list of 3 sets of weights: took the first",
    ]


def test_a_list_of_one_is_nothing_to_note(weights: State, tmp_path: Path) -> None:
    net = load_model("digits_resnet8", checkpoint=saved([weights], tmp_path / "weights.pth"))
    assert holds(net, weights)
    assert notes_of(net) == []


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module.model.", "_orig_mod.module.", "net.0.", "1."]
)
@pytest.mark.parametrize("architecture", ["digits_resnet8", "small_conv_mnist"])
def test_a_prefix_is_removed(prefix: str, architecture: str, tmp_path: Path) -> None:
    state = state_of(architecture)
    net = load_model(architecture, checkpoint=saved(prefixed(prefix, state), tmp_path / "weights.pth"))
    assert holds(net, state)
    front = ["another module stood in front and left no numbers: if it normalised, pass its normalize="]
    assert notes_of(net) == [f"prefix {prefix!r} removed", *(front if prefix == "1." else [])]


def test_safetensors(weights: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(prefixed("module.", weights), path)
    net = load_model("digits_resnet8", checkpoint=path)
    assert holds(net, weights)
    assert notes_of(net) == ["prefix 'module.' removed"]


def test_safetensors_under_another_suffix(weights: State, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "weights.pth")
    assert holds(load_model("digits_resnet8", checkpoint=tmp_path / "weights.pth"), weights)


def test_half_precision_weights_become_the_networks_own_type(weights: State, tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    net = load_model("digits_resnet8", checkpoint=saved(half, tmp_path / "weights.pth"))
    assert net.net.state_dict()["conv1.weight"].dtype == torch.float32
    assert torch.equal(net.net.state_dict()["conv1.weight"], weights["conv1.weight"].half().float())


def test_pickle_protocol_3_is_read_without_a_warning(weights: State, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "weights.pth", pickle_protocol=3)
    assert holds(load_model("digits_resnet8", checkpoint=path), weights)


def test_pickle_protocol_4_is_named_for_what_it_is(weights: State, tmp_path: Path) -> None:
    # PyTorch's safe reader does not know it: neither damaged nor dangerous, and a second download does not help.
    path = saved(weights, tmp_path / "weights.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match=r"\Aload_model: .* must be a weight file; got .*pickle protocol 4"):
        load_model("digits_resnet8", checkpoint=path)


# What stands beside the weights -----------------------------------------------------------------------------


def beside(weights: State) -> dict[str, Any]:
    return {
        "state_dict": weights,
        "best": np.float64(0.91),
        "scores": [np.float32(0.5), np.int64(3), np.bool_(True)],
        "args": argparse.Namespace(lr=0.1, layers=[1, 2], name="run"),
        "nested": {"inner": argparse.Namespace(acc=np.float64(0.1))},
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_scalars_and_a_namespace_beside_the_weights(zipped: bool, weights: State, tmp_path: Path) -> None:
    path = saved(beside(weights), tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    assert holds(load_model("digits_resnet8", checkpoint=path), weights)


def test_scalars_that_numpy_1_wrote(weights: State, tmp_path: Path) -> None:
    # numpy 2 renamed the module that its pickles name; files of before then are most of what there is.
    path = saved(beside(weights), tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    new, old = b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.multiarray\nscalar\n"
    content = path.read_bytes().replace(old, new)  # the same file whichever numpy wrote it
    assert new in content
    for name in (new, old):
        path.write_bytes(content.replace(new, name))
        assert holds(load_model("digits_resnet8", checkpoint=path), weights)


def test_what_is_let_through_while_reading_is_not_let_through_afterwards(weights: State, tmp_path: Path) -> None:
    path = saved(beside(weights), tmp_path / "weights.pth")
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == before


# --- A normaliser in the file -------------------------------------------------------------------------------

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.2, 0.3])
ASKED = ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


@pytest.fixture(scope="module")
def colour() -> State:
    return state_of("resnet20")


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ("0.mean", "0.std"),
        ("normalize.mean", "normalize.std"),
        ("module.0.new_mean", "module.0.new_std"),
        ("0.means", "0.sds"),
        ("norm._mean", "norm._std"),
    ],
)
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
def test_a_normaliser_in_front_is_read_off(
    mean: str, std: str, shape: tuple[int, ...], colour: State, tmp_path: Path
) -> None:
    content = {mean: MEAN.view(shape), std: STD.view(shape), **prefixed("module.1.", colour)}
    net = load_model("resnet20", checkpoint=saved(content, tmp_path / "weights.pth"), normalize=ASKED)
    assert holds(net, colour)
    assert torch.equal(net.mean.flatten(), MEAN)
    assert torch.equal(net.std.flatten(), STD)


def test_a_sequential_of_normaliser_and_network_answers_as_before(tmp_path: Path) -> None:
    class Normaliser(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", MEAN.view(3, 1, 1))
            self.register_buffer("std", STD.view(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.mean) / self.std

    whole = nn.Sequential(Normaliser(), load_model("resnet20", seed=3).net).eval()
    path = saved(whole.state_dict(), tmp_path / "weights.pth")
    net = load_model("resnet20", checkpoint=path, normalize=ASKED)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(net(x), whole(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("asked", ["none", "cifar10", ((0.5,), (0.25,)), ((0.5, 0.4), (0.25, 0.2))])
def test_another_normalisation_than_the_files_is_refused(asked: Any, colour: State, tmp_path: Path) -> None:
    # Numbers that float32 holds exactly, so that the message is what was written.
    content = {"0.mean": torch.tensor([0.5, 0.25, 0.125]), "0.std": torch.tensor([0.25, 0.5, 0.75])}
    path = saved({**content, **prefixed("1.", colour)}, tmp_path / "weights.pth")
    carries = "((0.5, 0.25, 0.125), (0.25, 0.5, 0.75))"
    text = (
        "load_model: normalize must be what the weight file carries; "
        f"got normalize={asked!r} for weights.pth, which carries {carries}. Leave it out."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model("resnet20", checkpoint=path, normalize=asked)


def robust(state: State, mean: Tensor, attacker: State, attacker_mean: Tensor) -> dict[str, Any]:
    """As the `robustness` package saves: the network and the attacker's copy of it, each with a normaliser."""
    return {
        "epoch": 90,
        "model": {
            "module.normalizer.new_mean": mean.view(3, 1, 1),
            "module.normalizer.new_std": STD.view(3, 1, 1),
            **prefixed("module.model.", state),
            "module.attacker.normalize.new_mean": attacker_mean.view(3, 1, 1),
            "module.attacker.normalize.new_std": STD.view(3, 1, 1),
            **prefixed("module.attacker.model.", attacker),
        },
    }


def test_the_same_weights_under_two_prefixes_are_taken_once(colour: State, tmp_path: Path) -> None:
    path = saved(robust(colour, MEAN, colour, MEAN), tmp_path / "weights.pt")
    net = load_model("resnet20", checkpoint=path, normalize=ASKED)
    assert holds(net, colour)
    assert torch.equal(net.mean.flatten(), MEAN)
    assert notes_of(net) == [
        "weights taken from 'model'",
        "prefix 'module.model.' removed",
        "the same weights stand under 'module.attacker.model.' too",
        "normalisation of the file: means (0.5, 0.4, 0.3), stds (0.25, 0.2, 0.3)",
    ]


def test_different_weights_under_two_prefixes_are_refused(colour: State, tmp_path: Path) -> None:
    other = {**colour, "linear.bias": colour["linear.bias"] + 1e-6}
    path = saved(robust(colour, MEAN, other, MEAN), tmp_path / "weights.pt")
    text = (
        f"load_model: a file must hold one set of weights; got {path} with different weights under "
        "'module.model.' and 'module.attacker.model.'. Save the set you mean as a file of its own."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model("resnet20", checkpoint=path, normalize=ASKED)


def test_different_normalisers_under_two_prefixes_are_refused(colour: State, tmp_path: Path) -> None:
    path = saved(robust(colour, torch.tensor([0.1, 0.2, 0.3]), colour, MEAN), tmp_path / "weights.pt")
    text = (
        f"load_model: a file must hold one normaliser; got {path} with different numbers under "
        "'module.normalizer.new_mean' and 'module.attacker.normalize.new_mean'. "
        "Save the set you mean as a file of its own."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model("resnet20", checkpoint=path, normalize=ASKED)


# --- Weights that do not fit --------------------------------------------------------------------------------


def misfit(path: Path, missing: str, unexpected: str, shapes: str, closest: str) -> str:
    return (
        f"load_model: the weight file must fit the architecture; got {path.name}: missing {missing}; "
        f"unexpected {unexpected}; other shapes {shapes}. Closest known architecture: {closest}. "
        "If only the head differs, pass num_classes=."
    )


def test_weights_of_another_depth_name_the_architecture_that_they_fit(colour: State, tmp_path: Path) -> None:
    path = saved({"state_dict": prefixed("module.", colour)}, tmp_path / "weights.pth")
    missing = "layer1.3.bn1.bias, layer1.3.bn1.running_mean, layer1.3.bn1.running_var, layer1.3.bn1.weight, … (56 more)"
    text = misfit(path, missing, "none", "none", "resnet20, which fits 100% of its own parameters")
    with pytest.raises(ValueError, match=exactly(text)):
        load_model("resnet32", checkpoint=path)


def test_weights_of_another_family_name_the_architecture_that_they_fit(tmp_path: Path) -> None:
    path = saved(state_of("wrn28_2"), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="the weight file must fit the architecture") as error:
        load_model("resnet20", checkpoint=path)
    assert "Closest known architecture: wrn28_2, which fits 100% of its own parameters." in str(error.value)


def test_unexpected_weights_are_named(weights: State, tmp_path: Path) -> None:
    path = saved({**weights, "head.weight": torch.zeros(9, 9)}, tmp_path / "weights.pth")
    closest = "digits_resnet8, which fits 100% of its own parameters"
    with pytest.raises(ValueError, match=exactly(misfit(path, "none", "head.weight", "none", closest))):
        load_model("digits_resnet8", checkpoint=path)


def test_a_missing_weight_is_named(weights: State, tmp_path: Path) -> None:
    part = {key: value for key, value in weights.items() if key != "linear.bias"}
    path = saved(part, tmp_path / "weights.pth")
    closest = "digits_resnet8, which fits 96% of its own parameters"
    with pytest.raises(ValueError, match=exactly(misfit(path, "linear.bias", "none", "none", closest))):
        load_model("digits_resnet8", checkpoint=path)


def test_a_missing_statistic_is_named(weights: State, tmp_path: Path) -> None:
    part = {key: value for key, value in weights.items() if key != "bn1.running_var"}
    path = saved(part, tmp_path / "weights.pth")
    closest = "digits_resnet8, which fits 100% of its own parameters"
    with pytest.raises(ValueError, match=exactly(misfit(path, "bn1.running_var", "none", "none", closest))):
        load_model("digits_resnet8", checkpoint=path)


def test_another_number_of_classes_is_named_and_num_classes_mends_it(tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in load_model("digits_resnet8", num_classes=7).net.state_dict().items()}
    path = saved(state, tmp_path / "weights.pth")
    shapes = "linear.bias (7,) for (10,), linear.weight (7, 64) for (10, 64)"
    closest = "digits_resnet8, which fits 91% of its own parameters"
    with pytest.raises(ValueError, match=exactly(misfit(path, "none", "none", shapes, closest))):
        load_model("digits_resnet8", checkpoint=path)
    assert holds(load_model("digits_resnet8", checkpoint=path, num_classes=7), state)


def test_tensors_that_belong_to_no_known_network(tmp_path: Path) -> None:
    path = saved({"foo": torch.zeros(30), "bar": torch.zeros(30)}, tmp_path / "weights.pth")
    missing = "0.bias, 0.weight, 2.bias, 2.weight, … (4 more)"
    with pytest.raises(ValueError, match=exactly(misfit(path, missing, "bar, foo", "none", "none"))):
        load_model("small_conv_mnist", checkpoint=path)


def test_a_failed_load_gives_no_network_with_half_its_weights(weights: State, tmp_path: Path) -> None:
    net = load_model("digits_resnet8")
    before = {key: value.clone() for key, value in net.net.state_dict().items()}
    path = saved({**weights, "head.weight": torch.zeros(9, 9)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"unexpected head\.weight;"):
        fit_weights(read_checkpoint(path), net.net, lambda state: "none")
    assert holds(net, before)


# --- Files that are no weights ------------------------------------------------------------------------------


def refused(path: Path, got: str, advice: str) -> None:
    text = f"load_model: {path} must be a weight file; got {got}. {advice}."
    with pytest.raises(ValueError, match=exactly(text)):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        text = f"load_model: the weight file must exist; got {path}. Check the path."
        with pytest.raises(FileNotFoundError, match=exactly(text)):
            load_model("resnet20", checkpoint=path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_an_empty_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    refused(tmp_path / name, "an empty file", "Download it again")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_truncated_file(zipped: bool, share: float, weights: State, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "a damaged or truncated file", "Download it again")


@pytest.mark.parametrize("size", [1, 2, 4, 30])
def test_the_first_bytes_of_a_file(size: int, weights: State, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:size])
    refused(path, "a damaged or truncated file", "Download it again")


@pytest.mark.parametrize(
    "page", ["<!DOCTYPE html><html></html>", "\n  <html lang=en>", '<?xml version="1.0"?><Error/>']
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_web_page_saved_as_weights(page: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(page)
    refused(tmp_path / name, "a web page", "The download link led to a page; fetch the file itself")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_git_lfs_pointer(name: str, tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    refused(tmp_path / name, "a Git LFS pointer", "Fetch the file itself with: git lfs pull")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"message": "Not Found", "status": "404"}', id="json"),
        pytest.param(b"weights: none\n", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(200), id="png"),
        pytest.param(b"\x1f\x8b\x08\x00" + bytes(200), id="gzip"),
        pytest.param(np.random.default_rng(0).bytes(500), id="noise"),
    ],
)
def test_other_files_are_not_taken_for_dangerous_ones(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    refused(tmp_path / "weights.pth", "a damaged or truncated file", "Download it again")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (3, "int"),
        ([], "list"),
        ([torch.zeros(3)], "list"),
        (torch.zeros(3), "Tensor"),
        ({}, "dict with none"),
        ({"epoch": 3, "model": {}}, "dict with epoch, model"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, "dict with a, b, c, d, … (1 more)"),
    ],
)
def test_a_file_without_weights(content: Any, got: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path / "weights.pth")
    advice = "Save model.state_dict(), or put it under one of state_dict, model_state_dict, model, net, … (7 more)"
    refused(path, f"no state dict in it ({got})", advice)


# Code in a file -----------------------------------------------------------------------------------------------


class Touch:
    """Pickled, this makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return builtins.open, (str(self.path), "w")


CODE = "Where you trust it, load it in the code that wrote it and save model.state_dict()"


def test_the_trap_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "trap"))).close()
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_never_runs(zipped: bool, weights: State, tmp_path: Path) -> None:
    content = {"state_dict": weights, "extra": Touch(tmp_path / "trap")}
    path = saved(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    refused(path, "a pickle that asks for code to run (io.open), which is never done", CODE)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_bare_pickle_never_runs(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "trap"), protocol))
    with pytest.raises(ValueError, match=r"\Aload_model: .* must be a weight file; got "):
        read_checkpoint(path)
    assert not (tmp_path / "trap").exists()


def test_a_whole_pickled_module_is_not_unpickled(tmp_path: Path) -> None:
    path = saved(load_model("digits_resnet8").net, tmp_path / "weights.pth")
    got = "a pickle that asks for code to run (repsim.networks.architectures.CifarResNet), which is never done"
    refused(path, got, CODE)


def test_an_object_of_a_class_beside_the_weights_is_named(weights: State, tmp_path: Path) -> None:
    path = saved({"state_dict": weights, "out": Path("runs")}, tmp_path / "weights.pth")
    got = f"a pickle that asks for code to run (pathlib.{type(Path()).__name__}), which is never done"
    refused(path, got, CODE)


# safetensors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: b[: len(b) // 2], "Error while deserializing header: incomplete metadata, file not fully covered"),
        (lambda b: b[:5], "Error while deserializing header: header too small"),
        (lambda b: b"\xff" * 100, "Error while deserializing header: header too large"),
    ],
)
def test_a_damaged_safetensors_file(
    damage: Callable[[bytes], bytes], reason: str, weights: State, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    path.write_bytes(damage(path.read_bytes()))
    refused(path, f"a damaged safetensors file ({reason})", "Download or make it again")


# --- The files that recipes write -----------------------------------------------------------------------------


def recipe_file(path: Path, normalize: Any = "cifar10", seed: int = 5) -> tuple[Path, Network]:
    net = load_model("resnet20", normalize=normalize, num_classes=7, seed=seed)
    record = {
        "architecture": "resnet20",
        "num_classes": 7,
        "normalize": net.provenance["normalize"],
        "recipe": "standard",
        "scores": {"test": 0.5},
    }
    return save_checkpoint(path, net.net, record), net


@pytest.mark.parametrize("normalize", [None, "cifar10", ((0.5, 0.25, 0.1), (0.2, 0.3, 0.4))])
def test_a_file_of_a_recipe_needs_nothing_but_its_path(normalize: Any, tmp_path: Path) -> None:
    path, net = recipe_file(tmp_path / "runs" / "mine.safetensors", normalize)
    assert path == tmp_path / "runs" / "mine.safetensors"
    for given in (path, str(path)):
        again = load_model(given)
        assert holds(again, net.net.state_dict())
        assert again.name == "mine"
        assert again.normalized == (normalize is not None)
        assert torch.equal(again.mean, net.mean)
        assert torch.equal(again.std, net.std)
        x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(again(x), net(x))
        assert again.provenance["architecture"] == "resnet20"
        assert again.provenance["record"]["recipe"] == "standard"
        assert again.provenance["record"]["scores"] == {"test": 0.5}
    assert [file.name for file in path.parent.iterdir()] == ["mine.safetensors"]


def test_the_normalisation_of_a_recipe_holds_where_the_architecture_is_named_too(tmp_path: Path) -> None:
    path, net = recipe_file(tmp_path / "mine.safetensors")
    again = load_model("resnet20", checkpoint=path, num_classes=7)
    assert again.name == "resnet20"
    assert torch.equal(again.mean, net.mean)
    assert torch.equal(load_model("resnet20", checkpoint=path, num_classes=7, normalize="cifar10").mean, net.mean)


def test_a_name_of_ones_own(tmp_path: Path) -> None:
    path, _ = recipe_file(tmp_path / "mine.safetensors")
    assert load_model(path, name="standard").name == "standard"


def test_another_normalisation_than_the_recipes_is_refused(tmp_path: Path) -> None:
    path, _ = recipe_file(tmp_path / "mine.safetensors")
    carries = "[[0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]]"
    text = (
        "load_model: normalize must be what the weight file carries; "
        f"got normalize='imagenet' for mine.safetensors, which carries {carries}. Leave it out."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(path, normalize="imagenet")
    path, _ = recipe_file(tmp_path / "bare.safetensors", None)
    text = (
        "load_model: normalize must be what the weight file carries; "
        "got normalize='imagenet' for bare.safetensors, which carries None. Leave it out."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(path, normalize="imagenet")


def test_the_same_network_and_record_give_the_same_bytes(tmp_path: Path) -> None:
    one, _ = recipe_file(tmp_path / "one.safetensors")
    two, _ = recipe_file(tmp_path / "two.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_a_file_that_does_not_say_its_architecture(weights: State, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError,
        match=r"\Aload_model: the architecture must be known; got .*weights\.pth, which does not say\. ",
    ):
        load_model(path)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rename_parameters(path: Path) -> None:
    """Lets two parameters of one shape change places, which no size or shape shows."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    one, two = "layer1.0.conv1.weight", "layer1.0.conv2.weight"
    header[one], header[two] = header[two], header[one]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize("alter", [flip_last_byte, rename_parameters])
def test_altered_weights_are_refused(alter: Callable[[Path], None], tmp_path: Path) -> None:
    path, _ = recipe_file(tmp_path / "mine.safetensors")
    load_model(path)
    alter(path)
    text = (
        f"load_model: {path} must be a weight file; "
        "got weights that differ from the digest recorded with them. Make the file again."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="a limit on file sizes is a Unix thing")
    path, _ = recipe_file(tmp_path / "mine.safetensors")
    before = path.read_bytes()
    text = (
        f"save: {path} could not be written (File too large); nothing was changed. "
        "Free some space or choose another place."
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=exactly(text)):
            recipe_file(path, seed=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mine.safetensors"]
