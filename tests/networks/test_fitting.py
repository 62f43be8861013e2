"""Robust networks as other toolkits save them: wrapped as they wrap, saved, loaded, and asked for the same logits."""

import builtins
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repsim import Network, load_model
from tests.conftest import exactly

#: What the networks were trained with: numbers that no binary fraction equals, as people's are.
MEANS, STDS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)
CARRIED = f"normalisation of the file: means {MEANS}, stds {STDS}"
IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def bare(architecture: str = "resnet20", seed: int = 7) -> nn.Module:
    """A network whose running statistics no fresh one has."""
    net = load_model(architecture, seed=seed).net
    generator = torch.Generator().manual_seed(seed)
    for key, value in net.state_dict().items():
        if "running" in key:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return net.eval()


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """What the network answers with its normalisation in front, here."""
    return logits(Network(bare(), name="own", normalize=(MEANS, STDS)).eval())


def logits(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(IMAGES)


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def loads(path: Path, expected: Tensor, *notes: str, architecture: str = "resnet20", **options: Any) -> Network:
    net = load_model(architecture, checkpoint=path, **options)
    assert torch.equal(logits(net), expected)
    assert net.provenance["normalize"] == [list(MEANS), list(STDS)]
    assert net.provenance["notes"] == list(notes)
    return net


def refuses(path: Path, text: str, architecture: str = "resnet20", **options: Any) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(architecture, checkpoint=path, **options)


class Normalise(nn.Module):
    """Subtracts a mean and divides by a deviation; the two are buffers of these names and this shape."""

    def __init__(self, mean: str, std: str, shape: tuple[int, ...] = (3, 1, 1)) -> None:
        super().__init__()
        self.names = mean, std
        self.register_buffer(mean, torch.tensor(MEANS).view(shape))
        self.register_buffer(std, torch.tensor(STDS).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (getattr(self, name) for name in self.names)
        return (x - mean) / std


# --- The robustness package -----------------------------------------------------------------------------------


class Attacker(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.normalize, self.model = Normalise("new_mean", "new_std"), net


class AttackerModel(nn.Module):
    """A normaliser, a network, and an attacker that holds both of them again."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.normalizer, self.model, self.attacker = Normalise("new_mean", "new_std"), net, Attacker(net)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.normalizer(x))


def robustness() -> dict[str, Tensor]:
    """The keys and tensors of such a model behind DataParallel."""
    return {f"module.{key}": value.clone() for key, value in AttackerModel(bare()).state_dict().items()}


@pytest.mark.parametrize("container", ["model", "state_dict"])
@pytest.mark.parametrize("asked", [{}, {"normalize": (MEANS, STDS)}, {"normalize": ((0.4914, 0.4822, 0.4465), STDS)}])
def test_robustness(container: str, asked: dict[str, Any], expected: Tensor, tmp_path: Path) -> None:
    state = robustness()
    assert "module.attacker.normalize.new_mean" in state
    path = saved({container: state, "optimizer": {}, "epoch": 150, "amp": None}, tmp_path / "weights.pt")
    notes = [
        f"weights taken from {container!r}",
        "prefix 'module.model.' removed",
        "the same weights stand under 'module.attacker.model.' too",
        CARRIED,
    ]
    loads(path, expected, *notes, **asked)


def test_robustness_on_one_device(expected: Tensor, tmp_path: Path) -> None:
    whole = AttackerModel(bare())
    path = saved({"model": whole.state_dict()}, tmp_path / "weights.pt")
    notes = ["weights taken from 'model'", "prefix 'model.' removed"]
    net = loads(path, expected, *notes, "the same weights stand under 'attacker.model.' too", CARRIED)
    assert torch.equal(logits(whole.eval()), logits(net))


@pytest.mark.parametrize("key", ["conv1.weight", "bn1.running_var", "layer3.2.bn2.bias", "linear.bias"])
def test_an_attackers_copy_that_differs_is_refused(key: str, tmp_path: Path) -> None:
    state = robustness()
    state[f"module.attacker.model.{key}"][0] += 1e-3
    path = saved({"model": state}, tmp_path / "weights.pt")
    text = (
        f"load_model: a file must hold one set of weights; got {path} with different weights under "
        "'module.model.' and 'module.attacker.model.'. Save the set you mean as a file of its own."
    )
    refuses(path, text)


def test_an_attackers_copy_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    state = robustness()
    del state["module.attacker.model.linear.bias"]
    path = saved({"model": state}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"missing none; unexpected module\.attacker\.model\.bn1\.bias, "):
        load_model("resnet20", checkpoint=path)


def test_an_attackers_normaliser_that_differs_is_refused(tmp_path: Path) -> None:
    state = robustness()
    state["module.attacker.normalize.new_std"][1] = 0.25
    path = saved({"model": state}, tmp_path / "weights.pt")
    text = (
        f"load_model: a file must hold one normaliser; got {path} with different numbers under "
        "'module.normalizer.new_std' and 'module.attacker.normalize.new_std'. "
        "Save the set you mean as a file of its own."
    )
    refuses(path, text)


@pytest.mark.parametrize("asked", ["none", "imagenet", ((0.5,), (0.5,))])
def test_another_normalisation_than_the_files_is_refused(asked: Any, tmp_path: Path) -> None:
    path = saved({"model": robustness()}, tmp_path / "weights.pt")
    text = (
        "load_model: normalize must be what the weight file carries; "
        f"got normalize={asked!r} for weights.pt, which carries {(MEANS, STDS)!r}. Leave it out."
    )
    refuses(path, text, normalize=asked)


def shorter(state: dict[str, Tensor]) -> None:
    for name in ("module.normalizer.new_std", "module.attacker.normalize.new_std"):
        state[name] = state[name][:2]


def filled(kind: str, value: float) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        for name in ("module.normalizer", "module.attacker.normalize"):
            state[f"{name}.{kind}"][1] = value

    return change


@pytest.mark.parametrize(
    ("change", "means", "stds"),
    [
        (filled("new_std", 0.0), MEANS, (0.2023, 0.0, 0.201)),
        (filled("new_std", -0.5), MEANS, (0.2023, -0.5, 0.201)),
        (filled("new_std", float("nan")), MEANS, "(0.2023, nan, 0.201)"),
        (filled("new_std", float("inf")), MEANS, "(0.2023, inf, 0.201)"),
        (filled("new_mean", float("nan")), "(0.4914, nan, 0.4465)", STDS),
        (shorter, MEANS, STDS[:2]),
    ],
)
def test_a_normaliser_that_cannot_be_one_is_refused(
    change: Callable[[dict[str, Tensor]], None], means: Any, stds: Any, tmp_path: Path
) -> None:
    state = robustness()
    change(state)
    path = saved({"model": state}, tmp_path / "weights.pt")
    text = (
        f"load_model: a file's normaliser must have finite means and as many positive stds; got {path} with "
        f"'module.normalizer.new_mean' {means} and 'module.normalizer.new_std' {stds}. "
        "Save the network again with the numbers it was trained on."
    )
    refuses(path, text)


class Touch:
    """Pickled, this makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return builtins.open, (str(self.path), "w")


def test_code_beside_the_weights_never_runs(tmp_path: Path) -> None:
    path = saved({"model": robustness(), "schedule": Touch(tmp_path / "trap")}, tmp_path / "weights.pt")
    text = (
        f"load_model: {path} must be a weight file; got a pickle that asks for code to run (io.open), which is never "
        "done. Where you trust it, load it in the code that wrote it and save model.state_dict()."
    )
    refuses(path, text)
    assert not (tmp_path / "trap").exists()


# --- RobustBench ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [("mean", "std"), ("mu", "sigma"), ("_mean", "_std")])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 1, 1), (3,)])
@pytest.mark.parametrize("names", [("normalize", "model"), ("0", "1")])
def test_a_normaliser_and_a_model(
    mean: str, std: str, shape: tuple[int, ...], names: tuple[str, str], expected: Tensor, tmp_path: Path
) -> None:
    layer = Normalise(mean, std, shape)
    whole = nn.Sequential(OrderedDict(zip(names, (layer, bare()), strict=True))).eval()
    assert {f"{names[0]}.{mean}", f"{names[1]}.conv1.weight"} <= set(whole.state_dict())
    path = saved(whole.state_dict(), tmp_path / "weights.pt")
    net = loads(path, expected, f"prefix '{names[1]}.' removed", CARRIED)
    if shape != (3,):  # which would be taken for columns
        torch.testing.assert_close(logits(whole), logits(net), atol=0, rtol=0)


def test_a_module_that_normalises_inside_its_own_forward(expected: Tensor, tmp_path: Path) -> None:
    state = {"mu": torch.tensor(MEANS).view(1, 3, 1, 1), "sigma": torch.tensor(STDS).view(1, 3, 1, 1)}
    path = saved({"state_dict": {**state, **bare().state_dict()}}, tmp_path / "weights.pt")
    loads(path, expected, "weights taken from 'state_dict'", CARRIED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_numbers_of_a_normaliser_are_read_in_their_own_type(dtype: torch.dtype, tmp_path: Path) -> None:
    mean, std = (torch.tensor(v, dtype=dtype) for v in (MEANS, STDS))
    content = {"normalize.mean": mean, "normalize.std": std}
    content |= {f"model.{key}": value for key, value in bare().state_dict().items()}
    net = load_model("resnet20", checkpoint=saved(content, tmp_path / "weights.pt"))
    assert torch.equal(net.mean.flatten(), mean.float())
    assert torch.equal(net.std.flatten(), std.float())


@pytest.mark.parametrize("name", ["mean", "std"])
def test_half_of_a_normaliser_is_none(name: str, tmp_path: Path) -> None:
    content = {f"normalize.{name}": torch.ones(3)}
    content |= {f"model.{key}": value for key, value in bare().state_dict().items()}
    path = saved(content, tmp_path / "weights.pt")
    refuses(path, misfit(path, "none", f"normalize.{name}"))


# --- Randomised smoothing -------------------------------------------------------------------------------------


def smoothing(prefix: str, net: nn.Module, head: str = "fc") -> dict[str, Any]:
    """A container whose normaliser has left nothing in the file, for its numbers were plain tensors."""
    names = {key: key.replace("linear.", f"{head}.") for key in net.state_dict()}
    state = {prefix + names[key]: value for key, value in net.state_dict().items()}
    return {"epoch": 90, "arch": "cifar_resnet20", "state_dict": state, "optimizer": {"param_groups": []}}


@pytest.mark.parametrize("prefix", ["1.module.", "module.1.", "1."])
def test_smoothing(prefix: str, expected: Tensor, tmp_path: Path) -> None:
    path = saved(smoothing(prefix, bare()), tmp_path / "checkpoint.pth.tar")
    notes = ["weights taken from 'state_dict'", "'fc' taken for 'linear'", f"prefix {prefix!r} removed"]
    loads(path, expected, *notes, normalize=(MEANS, STDS))
    front = "another module stood in front and left no numbers: if it normalised, pass its normalize="
    for asked, more in ((None, [front]), ("none", [])):
        plain = load_model("resnet20", checkpoint=path, normalize=asked)
        assert not plain.normalized
        assert plain.provenance["notes"] == [*notes, *more]
        assert torch.equal(logits(plain), logits(bare()))


@pytest.mark.parametrize(
    ("architecture", "theirs", "ours"), [("resnet20", "fc", "linear"), ("wrn28_1", "linear", "fc")]
)
def test_a_head_of_another_name(architecture: str, theirs: str, ours: str, tmp_path: Path) -> None:
    net = bare(architecture)
    state = {key.replace(f"{ours}.", f"{theirs}."): value for key, value in net.state_dict().items()}
    assert f"{theirs}.weight" in state
    loaded = load_model(architecture, checkpoint=saved(state, tmp_path / "weights.pt"))
    assert torch.equal(logits(loaded), logits(net))
    assert loaded.provenance["notes"] == [f"{theirs!r} taken for {ours!r}"]


def misfit(path: Path, missing: str, unexpected: str, shapes: str = "none", fits: int = 100) -> str:
    return (
        f"load_model: the weight file must fit the architecture; got {path.name}: missing {missing}; unexpected "
        f"{unexpected}; other shapes {shapes}. Closest known architecture: resnet20, which fits {fits}% of its own "
        "parameters. If only the head differs, pass num_classes=."
    )


def test_a_residual_network_with_convolutions_in_its_shortcuts_is_another_one(tmp_path: Path) -> None:
    content = smoothing("1.module.", bare())
    shortcut = "1.module.layer2.0.downsample"
    content["state_dict"] |= {f"{shortcut}.0.weight": torch.zeros(32, 16, 1, 1), f"{shortcut}.1.bias": torch.zeros(32)}
    path = saved(content, tmp_path / "checkpoint.pth.tar")
    refuses(path, misfit(path, "none", f"{shortcut}.0.weight, {shortcut}.1.bias", fits=97))


def test_a_head_of_another_name_and_width_is_named_as_the_network_has_it(tmp_path: Path) -> None:
    state = {
        key.replace("linear.", "fc."): v for key, v in load_model("resnet20", num_classes=7).net.state_dict().items()
    }
    path = saved(state, tmp_path / "weights.pt")
    refuses(path, misfit(path, "none", "none", "linear.bias (7,) for (10,), linear.weight (7, 64) for (10, 64)", 97))
    assert load_model("resnet20", checkpoint=path, num_classes=7)(IMAGES).shape == (5, 7)


def test_a_part_of_a_head_is_missing_under_the_networks_own_name(tmp_path: Path) -> None:
    content = smoothing("1.", bare())
    del content["state_dict"]["1.fc.bias"]
    path = saved(content, tmp_path / "weights.pt")
    refuses(path, misfit(path, "linear.bias", "none", fits=97))


def test_a_layer_called_like_a_head_beside_the_head_is_not_renamed(tmp_path: Path) -> None:
    net = bare()
    for extra in ("layer1.0.gate.fc.weight", "fc.weight"):  # the second in the head's own place, and of its shape
        state = {**net.state_dict(), extra: torch.zeros(10, 64)}
        path = saved(state, tmp_path / "weights.pt")
        refuses(path, misfit(path, "none", extra))


def test_what_is_left_over_is_named_as_the_file_has_it(tmp_path: Path) -> None:
    content = smoothing("1.", bare())
    content["state_dict"]["1.layer1.0.gate.fc.weight"] = torch.zeros(2, 2)
    path = saved(content, tmp_path / "weights.pt")
    refuses(path, misfit(path, "none", "1.layer1.0.gate.fc.weight", fits=97))
