"""Weights of encoders as training saves them: heads, queues, averages, teachers; each against the trunk itself."""

import argparse
import json
from collections import OrderedDict
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import repsim
from repsim import Network, load_model
from repsim.networks.answers import logits_of
from repsim.networks.weight_files import read_checkpoint, save_checkpoint
from tests.conftest import exactly

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NET = "digits_resnet8"


def weights(seed: int = 5) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in load_model(NET, seed=seed).net.state_dict().items()}


def body(prefix: str = "", seed: int = 5) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights(seed).items() if not key.startswith("linear")}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def trunk(net: nn.Module) -> Tensor:
    return repsim.extract(net, IMAGES, layers="layer3.0", progress=False)["layer3.0"]


QUEUE = {"module.queue": torch.randn(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
ENCODERS: dict[str, tuple[dict[str, Tensor], list[str]]] = {
    "nothing else": (body(), []),
    "a projection of two layers": (
        body("module.encoder.") | {f"module.encoder.linear.{i}.weight": torch.ones(3, 3) for i in (0, 2)},
        [
            "prefix 'module.encoder.' removed",
            "left out: module.encoder.linear.0.weight, module.encoder.linear.2.weight",
        ],
    ),
    "a projection in the head's place": (
        body() | {"linear.weight": torch.ones(128, 64), "linear.bias": torch.ones(128)},
        ["left out: linear.weight, linear.bias"],
    ),
    "a queue": (
        body("module.encoder_q.") | QUEUE,
        ["prefix 'module.encoder_q.' removed", "left out: module.queue, module.queue_ptr"],
    ),
    "an average": (
        body("model.") | body("ema_model.", seed=8),
        [
            "prefix 'model.' removed",
            "left out: ema_model.conv1.weight, ema_model.bn1.weight, ema_model.bn1.bias, ema_model.bn1.running_mean, "
            f"… ({len(body()) - 4} more)",
        ],
    ),
    "counters": (
        body("module.") | {"n_averaged": torch.tensor(3), "module.step": torch.tensor(7)},
        ["prefix 'module.' removed", "left out: n_averaged, module.step"],
    ),
    "prototypes and a predictor": (
        body("backbone.") | {"prototypes.weight": torch.ones(4, 4), "predictor.0.weight": torch.ones(4, 4)},
        ["prefix 'backbone.' removed", "left out: prototypes.weight, predictor.0.weight"],
    ),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_fits_is_loaded_and_the_rest_is_named(kind: str, tmp_path: Path) -> None:
    content, notes = ENCODERS[kind]
    net = load_model(NET, checkpoint=saved(content, tmp_path / "x.pth"))
    assert torch.equal(trunk(net), trunk(load_model(NET, seed=5)))
    headless = "no head of its own: the file has no weights for linear, so the network has no outputs"
    assert net.provenance["notes"] == [*notes, headless]
    assert net.provenance["head"] is False
    assert repsim.extract(net, IMAGES, progress=False).outputs is None
    text = (
        "certify: the network must have outputs of its own; got an encoder without head. "
        "Load weights with a head, or pass num_classes= and train one."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        logits_of(net, IMAGES, "certify")


def test_a_whole_network_beside_other_things_keeps_its_outputs(tmp_path: Path) -> None:
    content = {"module." + k: v for k, v in weights().items()} | {"module.aux_head.weight": torch.ones(2, 2)}
    net = load_model(NET, checkpoint=saved(content, tmp_path / "x.pth"))
    right = load_model(NET, seed=5)
    with torch.no_grad():
        assert torch.equal(net(IMAGES), right(IMAGES))
    assert net.provenance["head"] is True
    assert not net.headless


@pytest.mark.parametrize(
    "extra", ["layer4.0.conv1.weight", "layer1.0.downsample.0.weight", "layer1.1.conv1.weight", "stem.weight"]
)
def test_more_of_the_network_itself_is_another_network(extra: str, tmp_path: Path) -> None:
    path = saved({**weights(), extra: torch.ones(3, 3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"missing none; unexpected {extra}; other shapes none\."):
        load_model(NET, checkpoint=path)


@pytest.mark.parametrize("gone", ["conv1.weight", "linear.bias", "layer3.0.bn2.running_var"])
def test_less_than_the_encoder_is_refused(gone: str, tmp_path: Path) -> None:
    path = saved({key: value for key, value in weights().items() if key != gone}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"missing {gone}; unexpected none"):
        load_model(NET, checkpoint=path)


def test_a_head_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    path = saved(body(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"missing linear\.bias, linear\.weight; unexpected none"):
        load_model(NET, checkpoint=path, num_classes=10)


# --- Several networks in a file -------------------------------------------------------------------------------


def two() -> dict[str, Any]:
    return {
        "student": body("module.backbone.", seed=1),
        "teacher": body("backbone.", seed=5),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}},
        "dino_loss": {"center": torch.ones(1, 4)},
        "epoch": 3,
        "args": argparse.Namespace(out=Path("/x/y")),
    }


def test_one_of_several_networks_is_chosen_by_its_key(tmp_path: Path) -> None:
    path = saved(two(), tmp_path / "x.pth")
    text = f"load_model: one network must be meant; got {path} with student, teacher. Say which, as in part='student'."
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(NET, checkpoint=path)
    for part, seed in (("teacher", 5), ("student", 1)):
        net = load_model(NET, checkpoint=path, part=part)
        assert torch.equal(trunk(net), trunk(load_model(NET, seed=seed)))
        assert net.provenance["part"] == part
        assert net.provenance["notes"][0] == f"part {part!r} taken"


def test_one_of_several_networks_is_chosen_by_its_prefix(tmp_path: Path) -> None:
    content = {"state_dict": body("module.encoder_q.", seed=5) | body("module.other_net.", seed=1) | QUEUE}
    path = saved(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"got .* with different weights under 'module\.encoder_q\.' and"):
        load_model(NET, checkpoint=path)
    for part, seed in (("module.encoder_q", 5), ("encoder_q", 5), ("other_net", 1)):
        net = load_model(NET, checkpoint=path, part=part)
        assert torch.equal(trunk(net), trunk(load_model(NET, seed=seed))), part
    text = (
        f"load_model: part 'nosuch' must be in the file; got {path} with names that begin with module. "
        "Choose one of these."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(NET, checkpoint=path, part="nosuch")


def test_any_mapping_of_tensors_is_a_container(tmp_path: Path) -> None:
    for content in (
        {"my_own_name": weights(), "optimizer_g": {"m": torch.ones(2)}, "step": torch.tensor(3)},
        OrderedDict(outer={"inner": OrderedDict(weights())}),
        {"generator": weights(), "center": {"c": torch.ones(3)}},
    ):
        net = load_model(NET, checkpoint=saved(content, tmp_path / "x.pth"))
        assert torch.equal(trunk(net), trunk(load_model(NET, seed=5)))


def test_plain_data_beside_the_weights_is_read(tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(path=Path("/a/b"), lr=0.1),
        "curve": np.arange(5.0),
        "table": np.array([[1, 2], [3, 4]], dtype=np.int16),
        "names": np.array(["one", "two"]),
        "best": np.float32(0.5),
        "windows": PureWindowsPath("c:/x"),
        "flags": {"a": {1, 2}, "b": (None, True, 1j)},
    }
    net = load_model(NET, checkpoint=saved({"state_dict": weights(), **beside}, tmp_path / "x.pth"))
    assert torch.equal(trunk(net), trunk(load_model(NET, seed=5)))


# --- Files in parts, and tensors that share their numbers ---------------------------------------------------------


def sharded(folder: Path) -> Path:
    state = weights()
    first = set(list(state)[: len(state) // 2])
    files = {"a-1.safetensors": first, "a-2.safetensors": set(state) - first}
    for name, keys in files.items():
        save_file({key: state[key] for key in keys}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, keys in files.items() for key in keys}}))
    return index


def test_safetensors_in_several_files(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    net = load_model(NET, checkpoint=index)
    with torch.no_grad():
        assert torch.equal(net(IMAGES), load_model(NET, seed=5)(IMAGES))
    assert net.provenance["notes"] == ["weights taken from 2 files"]
    digest = net.provenance["sha256"]
    save_file(
        {k: v + 1 for k, v in read_checkpoint(tmp_path / "a-2.safetensors").state.items()}, tmp_path / "a-2.safetensors"
    )
    assert load_model(NET, checkpoint=index).provenance["sha256"] != digest
    (tmp_path / "a-2.safetensors").unlink()
    text = (
        f"load_model: every file of an index must be there; got no a-2.safetensors beside {index}. "
        "Put all files of the index into one folder."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        load_model(NET, checkpoint=index)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"weight_map": {"a": "../x"}}', '{"weight_map": 3}', "{"])
def test_an_index_that_is_none(content: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=r"must be a weight file; got an index (without a weight_map|that names no)"):
        load_model(NET, checkpoint=index)


class Tied(nn.Module):
    """An embedding whose numbers are the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight


def tied_net(**_: Any) -> nn.Module:
    return Tied()


def test_tensors_that_share_their_numbers_are_saved_and_loaded(tmp_path: Path) -> None:
    net = Network(Tied(), name="tied")
    path = save_checkpoint(tmp_path / "x.safetensors", net.net, {"architecture": "resnet20", "normalize": None})
    assert set(read_checkpoint(path).state) == set(net.net.state_dict())
    reference = f"{__name__}:tied_net"
    for state in (net.net.state_dict(), {k: v for k, v in net.net.state_dict().items() if k != "head.weight"}):
        found = load_model(reference, checkpoint=saved(dict(state), tmp_path / "x.pth"))
        assert torch.equal(found.net.get_parameter("head.weight"), net.net.get_parameter("embed.weight"))
        assert found.provenance["head"] is True
