"""Architectures by name, their parameter names and sizes, and the normalisation that goes with a network."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim import Network, load_model
from repsim.networks.architectures import ARCHITECTURES, BasicBlock, find_architecture
from repsim.networks.network import NORMALIZATIONS
from tests.conftest import exactly


def on_meta(name: str, num_classes: int = 10) -> nn.Module:
    """The architecture without its numbers: shapes cost nothing there."""
    build = find_architecture(name)
    assert build is not None
    with torch.device("meta"):
        return build(num_classes)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --- Architectures of our own -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20", (3, 32, 32)),
        ("resnet32", (3, 32, 32)),
        ("resnet44", (3, 32, 32)),
        ("resnet56", (3, 32, 32)),
        ("resnet110", (3, 32, 32)),
        ("digits_conv", (1, 8, 8)),
        ("digits_resnet8", (1, 8, 8)),
        ("small_conv_mnist", (1, 28, 28)),
        ("small_conv_cifar", (3, 32, 32)),
        ("wrn28_1", (3, 32, 32)),
        ("wrn28_2", (3, 32, 32)),
        ("wrn28_10", (3, 32, 32)),
    ],
)
@pytest.mark.parametrize("num_classes", [10, 7])
def test_every_architecture_of_our_own_gives_logits(name: str, shape: tuple[int, ...], num_classes: int) -> None:
    x = torch.zeros(5, *shape, device="meta")
    assert on_meta(name, num_classes)(x).shape == (5, num_classes)


def test_the_test_above_knows_every_architecture() -> None:
    assert set(ARCHITECTURES) == {
        *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("digits_resnet8", "digits_conv", "small_conv_mnist", "small_conv_cifar"),
    }


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million.
        ("resnet20", 0.27e6),
        ("resnet32", 0.46e6),
        ("resnet44", 0.66e6),
        ("resnet56", 0.85e6),
        ("resnet110", 1.7e6),
        # Zagoruyko and Komodakis 2016, table 4: 36.5 million.
        ("wrn28_10", 36.5e6),
    ],
)
def test_the_sizes_are_those_of_the_papers(name: str, parameters: float) -> None:
    assert f"{size(on_meta(name)):.2g}" == f"{parameters:.2g}"


def test_the_small_networks_have_the_sizes_of_their_layers() -> None:
    def expected(channels: int, side: int) -> int:
        first, second = 16 * (channels * 4 * 4 + 1), 32 * (16 * 4 * 4 + 1)
        return first + second + 100 * (32 * (side // 4) ** 2 + 1) + 10 * (100 + 1)

    assert size(on_meta("small_conv_mnist")) == expected(1, 28) == 166_406
    assert size(on_meta("small_conv_cifar")) == expected(3, 32) == 214_918


@pytest.mark.parametrize(("depth", "blocks"), [(20, 3), (32, 5), (44, 7), (56, 9), (110, 18)])
def test_a_cifar_resnet_has_its_depth_in_layers_with_weights(depth: int, blocks: int) -> None:
    net = on_meta(f"resnet{depth}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth
    assert sum(isinstance(m, BasicBlock) for m in net.modules()) == 3 * blocks


def test_the_parameters_of_a_cifar_resnet_have_the_names_of_the_weights_people_have() -> None:
    expected = {"conv1.weight", "linear.weight", "linear.bias"}
    norms = ["bn1"]
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            expected |= {f"layer{stage}.{block}.conv{k}.weight" for k in (1, 2)}
            norms += [f"layer{stage}.{block}.bn{k}" for k in (1, 2)]
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"{norm}.{kind}" for norm in norms for kind in kinds}
    assert set(on_meta("resnet20").state_dict()) == expected


def test_the_parameters_of_a_wide_resnet_have_the_names_and_shapes_of_the_weights_people_have() -> None:
    state = {key: tuple(value.shape) for key, value in on_meta("wrn28_4").state_dict().items()}
    convolutions: dict[str, tuple[int, ...]] = {"conv1.weight": (16, 3, 3, 3)}
    norms: dict[str, int] = {"bn1": 256}
    inside = 16
    for stage, width in ((1, 64), (2, 128), (3, 256)):
        for block in range(4):
            place = f"block{stage}.layer.{block}"
            convolutions[f"{place}.conv1.weight"] = (width, inside, 3, 3)
            convolutions[f"{place}.conv2.weight"] = (width, width, 3, 3)
            if block == 0:
                convolutions[f"{place}.convShortcut.weight"] = (width, inside, 1, 1)
            norms |= {f"{place}.bn1": inside, f"{place}.bn2": width}
            inside = width
    expected = {**convolutions, "fc.weight": (10, 256), "fc.bias": (10,)}
    for norm, width in norms.items():
        expected |= {f"{norm}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{norm}.num_batches_tracked"] = ()
    assert state == expected


@pytest.mark.parametrize("name", ["wrn28_2", "WRN-28-2", "wrn_28_2", "wrn-28_2"])
def test_a_wide_resnet_goes_by_the_spellings_people_use(name: str) -> None:
    assert on_meta(name).state_dict().keys() == on_meta("wrn28_10").state_dict().keys()
    assert on_meta(name).get_parameter("fc.weight").shape == (10, 128)


# What they compute, written a second time from the papers ------------------------------------------------------


def normalise(x: Tensor, state: dict[str, Tensor], place: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{place}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def unlike_fresh(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network in float64 whose normalisations are not the identity, and its parameters."""
    net = load_model(name, seed=2).net.double()
    generator = torch.Generator().manual_seed(0)
    for key, value in net.state_dict().items():
        if "bn" in key and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5)
    return net.eval(), net.state_dict()


def test_a_cifar_resnet_computes_what_the_paper_says() -> None:
    net, state = unlike_fresh("resnet20")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = F.relu(normalise(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            place = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = F.conv2d(h, state[f"{place}.conv1.weight"], stride=stride, padding=1)
            out = F.relu(normalise(out, state, f"{place}.bn1"))
            out = normalise(F.conv2d(out, state[f"{place}.conv2.weight"], padding=1), state, f"{place}.bn2")
            if stride == 2:  # option A: every second pixel, zeros for the new channels on either side
                shortcut = torch.zeros_like(out)
                shortcut[:, width // 4 : width // 4 + width // 2] = h[:, :, ::2, ::2]
                h = shortcut
            h = F.relu(out + h)
    expected = h.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    with torch.no_grad():
        assert torch.allclose(net(x), expected, rtol=1e-10, atol=1e-10)


def test_a_wide_resnet_computes_what_the_paper_says() -> None:
    net, state = unlike_fresh("wrn28_2")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range(4):
            place = f"block{stage}.layer.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            before = F.relu(normalise(h, state, f"{place}.bn1"))
            if block == 0:  # the width changes, so the shortcut starts behind the activation
                h = F.conv2d(before, state[f"{place}.convShortcut.weight"], stride=stride)
            out = F.conv2d(before, state[f"{place}.conv1.weight"], stride=stride, padding=1)
            out = F.relu(normalise(out, state, f"{place}.bn2"))
            h = h + F.conv2d(out, state[f"{place}.conv2.weight"], padding=1)
    h = F.relu(normalise(h, state, "bn1")).mean((2, 3))
    expected = h @ state["fc.weight"].T + state["fc.bias"]
    with torch.no_grad():
        assert torch.allclose(net(x), expected, rtol=1e-10, atol=1e-10)


# --- Networks from elsewhere --------------------------------------------------------------------------------


def test_a_torchvision_network_by_name() -> None:
    net = load_model("squeezenet1_1", num_classes=6)
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 6)
    assert net.name == "squeezenet1_1"
    assert not any(module.training for module in net.modules())
    assert load_model("squeezenet1_1").net.get_submodule("classifier.1").get_parameter("bias").shape == (1000,)


USERS_CODE = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout())

def headed(num_classes):
    return nn.Linear(4, num_classes)

def text():
    return "no network"

class Zoo:
    @staticmethod
    def small():
        return nn.Linear(2, 2)
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "users_own_networks"
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / f"{name}.py").write_text(USERS_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("pack", f"pack.{name}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return f"pack.{name}"


def test_a_function_of_ones_own(users_module: str) -> None:
    net = load_model(f"{users_module}:plain")
    assert net(torch.zeros(2, 3, 2, 2)).shape == (2, 3)
    assert net.name == f"{users_module}:plain"
    assert not any(module.training for module in net.modules())
    assert load_model(f"{users_module}:headed", num_classes=9).net(torch.zeros(1, 4)).shape == (1, 9)
    assert isinstance(load_model(f"{users_module}:Zoo.small").net, nn.Linear)


def test_a_function_of_ones_own_is_seeded_too(users_module: str) -> None:
    one, two = load_model(f"{users_module}:plain", seed=1), load_model(f"{users_module}:plain", seed=1)
    assert torch.equal(one.net.get_parameter("1.weight"), two.net.get_parameter("1.weight"))


def test_a_function_that_returns_no_network_is_named(users_module: str) -> None:
    text = (
        f"load_model: {users_module}:text must return a torch.nn.Module; got str. Return the network from the function."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        load_model(f"{users_module}:text")


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("no_such_package.models:net", "No module named 'no_such_package'"),
        ("torch.nn:nothing", "module 'torch.nn' has no attribute 'nothing'"),
        (":net", ""),
        (".relative:net", ""),
    ],
)
def test_a_function_that_does_not_exist_is_named(reference: str, why: str) -> None:
    text = (
        f"load_model: package.module:function must exist; got {reference!r} ({why}). "
        "Check the name; the module must be importable from where you run."
    )
    if not why:
        text = (
            f"load_model: the name must be known; got {reference.partition(':')[0]!r}. Known: package.module:function."
        )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model(reference)


@pytest.mark.parametrize(
    ("name", "closest"), [("resnet21", "resnet20"), ("ResNet56", "resnet56"), ("wrn28-x", "wrn28_10"), ("vgg", "vgg11")]
)
def test_an_unknown_architecture_is_met_with_the_closest_ones(name: str, closest: str) -> None:
    with pytest.raises(ValueError, match=r"\Aload_model: the architecture must be known; got ") as error:
        load_model(name)
    head, _, matches = str(error.value).partition(". Close matches: ")
    assert head == f"load_model: the architecture must be known; got {name!r}"
    assert closest in matches.rstrip(".").split(", ")


def test_an_architecture_like_no_other_is_met_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"\Aload_model: the architecture must be known; got '§§§'\. ") as error:
        load_model("§§§")
    start = (
        "load_model: the architecture must be known; got '§§§'. Known: resnet20, resnet32, resnet44, resnet56, "
        "resnet110, digits_resnet8, digits_conv, small_conv_mnist, small_conv_cifar, wrn28_10, "
    )
    assert str(error.value).startswith(start)


# --- Normalisation ------------------------------------------------------------------------------------------


class Echo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


PIXELS = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normalize", ["cifar10", "imagenet", ((0.1, 0.2, 0.3), (2.0, 0.5, 1.0)), ([0.5], [0.25])])
def test_the_network_gets_pixels_minus_mean_over_standard_deviation(normalize: Any) -> None:
    mean, std = NORMALIZATIONS[normalize] if isinstance(normalize, str) else normalize
    shown = Network(Echo(), name="echo", normalize=normalize)(PIXELS).double().numpy()
    expected = (PIXELS.double().numpy().transpose(0, 2, 3, 1) - np.array(mean)) / np.array(std)
    assert np.allclose(shown, expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-5)


def test_the_normalisations_are_the_published_ones() -> None:
    assert NORMALIZATIONS["imagenet"] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert NORMALIZATIONS["cifar10"] == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def test_without_normalisation_the_pixels_go_in_as_they_are() -> None:
    assert torch.equal(Network(Echo(), name="echo")(PIXELS), PIXELS)


def test_the_normalisation_is_no_weight_and_follows_the_network() -> None:
    net = Network(nn.Linear(2, 2), name="x", normalize=((0.5,), (0.25,)))
    assert set(net.state_dict()) == {"net.weight", "net.bias"}
    assert net.double().mean.dtype == torch.float64


@pytest.mark.parametrize(
    "normalize",
    [(1, 2), ((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((0.5, 0.5), (1.0,)), ((), ()), ((0.5,), ("x",)), 3, ((0.5,),)],
)
def test_a_normalisation_that_cannot_be_is_refused(normalize: Any) -> None:
    text = (
        f"load_model: normalize must be (means, positive stds) per channel; got {normalize!r}. "
        "Write, say, normalize=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_model("digits_resnet8", normalize=normalize)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("cifar", "Close matches: cifar10"), ("ImageNet", "Close matches: imagenet"), ("§", "Known: cifar10, imagenet")],
)
def test_an_unknown_normalisation_is_met_with_the_closest_ones(name: str, advice: str) -> None:
    text = f"load_model: normalize must be known by name; got {name!r}. {advice}."
    with pytest.raises(ValueError, match=exactly(text)):
        load_model("digits_resnet8", normalize=name)


# --- Untrained networks and seeds ---------------------------------------------------------------------------


def parameters(net: Network) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("name", ["digits_resnet8", "squeezenet1_1"])
def test_the_seed_decides_the_weights(name: str) -> None:
    one = parameters(load_model(name, seed=1))
    torch.rand(3)  # what the global generator did before does not matter
    assert torch.equal(one, parameters(load_model(name, seed=1)))
    assert not torch.equal(one, parameters(load_model(name, seed=2)))


def test_the_global_generators_are_not_touched() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    load_model("digits_resnet8", seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert random.getstate() == before[2]


def test_the_generators_of_other_devices_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    load_model("digits_resnet8", seed=1)
    assert seeded == []


def test_an_untrained_network_says_so() -> None:
    net = load_model("digits_resnet8", seed=4, normalize=((0.5,), (0.25,)), name="fresh")
    assert net.name == "fresh"
    assert net.provenance == {
        "architecture": "digits_resnet8",
        "normalize": [[0.5], [0.25]],
        "checkpoint": None,
        "sha256": None,
        "record": {},
        "seed": 4,
        "notes": ["untrained: random weights"],
        "head": True,
        "part": None,
    }
