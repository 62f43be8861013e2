"""Networks of other libraries by name, from files made here; each against the library's own answers."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import repsim
from repsim import load_model
from repsim.cli.arguments import named_network
from tests.conftest import exactly

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MEANS, STDS = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def normalised() -> Tensor:
    return (IMAGES - torch.tensor(MEANS).view(1, 3, 1, 1)) / torch.tensor(STDS).view(1, 3, 1, 1)


# --- A module -------------------------------------------------------------------------------------------------


def test_a_module_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 900, 5))
    net = load_model(module, normalize=(MEANS, STDS), name="mine")
    assert net.net is module
    assert (net.name, net.provenance["architecture"], net.provenance["seed"]) == ("mine", "Sequential", None)
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), module(normalised()))
    again = load_model(net)
    assert again.net is module
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGES), net(IMAGES))


def test_a_module_is_filled_from_a_file(tmp_path: Path) -> None:
    one, two = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    torch.save({"state_dict": {"module." + k: v for k, v in one.state_dict().items()}}, tmp_path / "x.pth")
    net = load_model(two, checkpoint=tmp_path / "x.pth")
    assert torch.equal(net.net.get_parameter("0.weight"), one.get_parameter("0.weight"))
    assert net.provenance["checkpoint"] == "x.pth"


# --- timm -----------------------------------------------------------------------------------------------------


def test_timm_by_name() -> None:
    timm = pytest.importorskip("timm")
    net = load_model("timm:resnet10t", num_classes=4, seed=3)
    own: Any = net.net
    mean, std = (torch.tensor(own.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), own((IMAGES - mean) / std))
    assert type(own) is type(timm.create_model("resnet10t"))
    (note,) = net.provenance["notes"]
    assert note == "untrained; timm/resnet10t.c3_in1k has weights for it, which were not downloaded"
    again: Any = load_model("timm:resnet10t", num_classes=4, seed=3).net
    assert torch.equal(again.conv1[0].weight, own.conv1[0].weight)


def test_timm_with_a_file(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    own: Any = load_model("timm:resnet10t", num_classes=4, seed=5).net
    torch.save(own.state_dict(), tmp_path / "x.pth")
    net = load_model("timm:resnet10t", checkpoint=tmp_path / "x.pth", num_classes=4)
    loaded: Any = net.net
    assert torch.equal(loaded.conv1[0].weight, own.conv1[0].weight)
    assert net.provenance["normalize"] == [list(own.pretrained_cfg[k]) for k in ("mean", "std")]
    found = named_network(f"short=timm:resnet10t:{tmp_path / 'x.pth'}", None)
    assert found.name == "short"
    assert found.provenance["head"] is False  # of 1,000 classes, which the file has not


def test_what_timm_has_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = (
        "load_model: the weights must be on this machine; got none of timm/resnet10t.c3_in1k in this machine's cache. "
    )
    with pytest.raises(ValueError, match=exactly(text + "Download model.safetensors and pass checkpoint=.")):
        load_model("timm:resnet10t.c3_in1k")
    with pytest.raises(ValueError, match=r"load_model: timm must know the name; got 'resnet10z'\. Close matches: "):
        load_model("timm:resnet10z")


# --- Hugging Face ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    looks = {"image_mean": MEANS, "image_std": STDS, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(looks))
    return folder


def test_hugging_face_by_its_folder(vit: Path) -> None:
    import transformers

    net = load_model(f"hf:{vit}", name="vit")
    own = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    found = repsim.extract(net, IMAGES, progress=False)
    with torch.no_grad():
        right = own(normalised()).logits
    assert found.outputs is not None
    torch.testing.assert_close(found.outputs, right, atol=1e-5, rtol=1e-4)
    assert net.provenance["checkpoint"] == "model.safetensors"
    assert net.provenance["seed"] is None
    assert any(layer.startswith("vit.") for layer in found.layers)


def test_code_of_a_folders_own_is_never_run(vit: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for file in vit.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    config = json.loads((vit / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Net"}}))
    text = (
        f"load_model: hf: takes architectures of transformers; got {tmp_path} with ViTForImageClassification and code "
        "of its own. Load it yourself and pass the module."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(f"hf:{tmp_path}")
    assert not mark.exists()


def test_what_hugging_face_has_not(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = (
        "load_model: hf: takes a folder or a downloaded id; got no folder some/thing, and nothing of that id in the "
        "cache. Download config.json and model.safetensors of it into a folder."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        load_model("hf:some/thing")
    (tmp_path / "config.json").write_text((vit / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    text = (
        f"load_model: hf: takes weights as safetensors; got none in {tmp_path}. "
        "Save it again with model.save_pretrained(folder)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(f"hf:{tmp_path}")
    with pytest.raises(ValueError, match="hf: networks have the head of their file; got num_classes=3"):
        load_model(f"hf:{vit}", num_classes=3)


# --- Texts ----------------------------------------------------------------------------------------------------

WORDS = ["[PAD]", "[UNK]", "a", "good", "bad", "film", "the", "plot", "was", "dull", "bright"]
TEXTS = "label,text,id\n1,a good film,x\n0,the plot was dull,y\n1,bright,z\n0,a bad plot,w\n"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    transformers.BertModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    fast.model_max_length = 12
    fast.save_pretrained(folder)
    return folder


def test_texts_of_a_file_go_through_a_network_of_texts(bert: Path, tmp_path: Path) -> None:
    import transformers

    path = tmp_path / "films.csv"
    path.write_text(TEXTS, encoding="utf-8")
    data = repsim.load_data(f"text:{path}")
    net = load_model(f"hf:{bert}", name="bert")
    found = repsim.extract(net, data, layers="encoder.layer.*", progress=False)
    own, kept = transformers.BertModel.from_pretrained(bert).eval(), []
    for text in data.texts:  # one by one: no padding anywhere
        ids = torch.tensor([[WORDS.index(w) for w in text.split()]])
        with torch.no_grad():
            kept.append(own(ids, output_hidden_states=True).hidden_states[1].mean(1)[0])
    torch.testing.assert_close(found["encoder.layer.0"], torch.stack(kept), atol=1e-5, rtol=1e-4)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert (found.ids, found.digest) == (("x", "y", "z", "w"), data.digest)
    assert found.outputs is None
    text = (
        "extract: texts need a tokenizer; got none for text:films.csv. "
        "Pass a network of hf:FOLDER with its tokenizer, or [data.encoded(tokenizer)]."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        repsim.extract(nn.Sequential(nn.Linear(2, 2)), data)


# --- ONNX, and libraries that are not there -------------------------------------------------------------------


#: Not ours: how onnx2torch cuts tensors.
CUTS = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")


class Small(nn.Module):
    """A network whose functions have no modules: ONNX knows operations alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.head = (
            nn.Conv2d(3, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, 3),
            nn.Linear(6, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


class Tokens(nn.Module):
    """Patches that look at each other, reshaped with the batch written out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 48)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(2, 3), -1)
        return self.head((x + (weights @ v).transpose(1, 2).reshape(n, t, 16)).mean(1))


def exported(net: nn.Module, path: Path, version: int, *, batches: bool = True) -> Path:
    """An ONNX file as people write them."""
    options: dict[str, Any] = {"input_names": ["x"], "opset_version": version}
    if batches:
        options["dynamic_axes"] = {"x": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of values that it writes down as constants
        torch.onnx.export(net.eval(), (IMAGES[:1],), str(path), dynamo=False, **options)
    return path


@CUTS
@pytest.mark.parametrize("kind", [Small, Tokens])
def test_onnx_answers_as_the_network_that_it_was_made_of(kind: type[nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    torch.manual_seed(0)
    own = kind()
    net = load_model(f"onnx:{exported(own, tmp_path / 'x.onnx', 17)}")
    found = repsim.extract(net, IMAGES, progress=False)
    with torch.no_grad():
        torch.testing.assert_close(found.outputs, own(IMAGES))
        if isinstance(own, Small):
            first = own.a(IMAGES)
            assert any(torch.allclose(found[layer], own.norm(first).mean((2, 3)), atol=1e-5) for layer in found.layers)
    assert (net.provenance["checkpoint"], net.provenance["notes"]) == ("x.onnx", [])
    layouts = found.provenance["layout"]
    assert all(layouts[layer] == "nchw" for layer in layouts if layer.endswith("Conv"))
    assert any(why.endswith("no features") for why in found.provenance.get("layers_left_out", {}).values()) == (
        kind is Tokens
    )


def test_onnx_of_a_newer_version_is_read_as_an_older_one(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    torch.manual_seed(0)
    own = Small()
    net = load_model(f"onnx:{exported(own, tmp_path / 'x.onnx', 20)}")
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), own(IMAGES))
    assert net.provenance["notes"] == ["its operations of ONNX 20 were read as those of 17"]


@CUTS
def test_onnx_files_that_cannot_be_read(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    text = f"load_model: the ONNX file must exist; got {tmp_path / 'y.onnx'}. Check the path."
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        load_model(f"onnx:{tmp_path / 'y.onnx'}")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(
        ValueError, match=r"load_model: the file must be ONNX; got .*bad\.onnx: .*\. Check the path, or"
    ):
        load_model(f"onnx:{tmp_path / 'bad.onnx'}")
    fixed = exported(Tokens(), tmp_path / "fixed.onnx", 17, batches=False)
    text = (
        f"load_model: an ONNX file must take batches of any size; got {fixed}, for batches of 1. "
        'Export it with dynamic_axes={"x": {0: "n"}}, input_names=["x"].'
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(f"onnx:{fixed}")
    assert load_model(f"onnx:{exported(Small(), tmp_path / 'small.onnx', 17, batches=False)}")(IMAGES).shape == (3, 4)


def test_operations_that_onnx2torch_lacks(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    helper = pytest.importorskip("onnx.helper")
    onnx: Any = pytest.importorskip("onnx")
    ends = [helper.make_tensor_value_info(name, 1, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mish", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = tmp_path / "mish.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    with pytest.raises(
        ValueError, match=r"load_model: onnx2torch must know the file's operations; got .*Mish"
    ) as raised:
        load_model(f"onnx:{path}")
    assert str(raised.value).endswith("Export it again: torch.onnx.export(…, dynamo=False, opset_version=17).")


@pytest.mark.parametrize(
    ("module", "name"),
    [("timm", "timm:resnet10t"), ("transformers", "hf:folder"), ("onnx2torch", "onnx:pyproject.toml")],
)
def test_a_library_that_is_not_installed(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    kind = name.partition(":")[0]
    text = f'load_model: {kind}: needs {module}; got none installed. Install it: pip install "repsim-toolkit[{kind}]".'
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(name)


def test_a_name_on_the_command_line(tmp_path: Path) -> None:
    torch.save(load_model("digits_conv", seed=1).net.state_dict(), tmp_path / "a.pth")
    assert named_network(f"first=digits_conv:{tmp_path / 'a.pth'}", None).name == "first"
    assert named_network(f"digits_conv:{tmp_path / 'a.pth'}", None).name == "a"
    other = tmp_path / "x=y.pth"
    other.write_bytes((tmp_path / "a.pth").read_bytes())
    assert named_network(f"digits_conv:{other}", None).name == "x=y"
