"""Extraction: which layers, what is recorded, what a network is left like, and what is refused."""

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from repsim import Activations, CautionWarning, ImageSet, Network, compare, extract, load_model
from repsim.features.extraction import select_layers
from repsim.features.reductions import Output, Reductions
from repsim.numerics.memory import available_memory
from repsim.robustness import ThreatModel
from repsim.robustness.adversarial_sets import adversarial
from tests.conftest import exactly


def rows(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def perceptron(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(one=nn.Linear(4, 6), act=nn.ReLU(), two=nn.Linear(6, 3)))


def features(net: nn.Module, data: Any, **options: Any) -> dict[str, Tensor]:
    return dict(extract(net, data, **options).features)


def compiled(net: nn.Module) -> nn.Module:
    """What torch.compile wraps, without a C++ compiler."""
    return cast("nn.Module", torch.compile(net, backend="eager"))


class Function(nn.Module):
    """A module that computes any function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def answering(function: Callable[[Tensor], Any]) -> nn.Sequential:
    """A network whose layer "odd" answers with function(x)."""
    return nn.Sequential(OrderedDict(odd=Function(function)))


@pytest.fixture(scope="module")
def resnet() -> Network:
    return load_model("digits_resnet8", seed=1)


# --- Which layers -------------------------------------------------------------------------------------------

ALL = [
    *("conv1", "bn1", "layer1", "layer1.0"),
    *("layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"),
    *("layer2", "layer2.0", "layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2", "layer2.0.bn2"),
    *("layer3", "layer3.0", "layer3.0.conv1", "layer3.0.bn1", "layer3.0.conv2", "layer3.0.bn2"),
    "linear",
]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, [name for name in ALL if name not in ("layer1", "layer2", "layer3")]),
        ("linear", ["linear"]),
        ("layer2", ["layer2"]),
        ("layer*", ["layer1", "layer2", "layer3"]),
        ("layer*.*", ["layer1.0", "layer2.0", "layer3.0"]),
        ("layer[13].?", ["layer1.0", "layer3.0"]),
        ("*", ["conv1", "bn1", "layer1", "layer2", "layer3", "linear"]),
        ("**.conv*", [name for name in ALL if name.rpartition(".")[2].startswith("conv")]),
        ("layer2.**.bn2", ["layer2.0.bn2"]),
        ("**.0", ["layer1.0", "layer2.0", "layer3.0"]),
        ("layer2.**", [name for name in ALL if name.startswith("layer2.")]),
        ("**", ALL),
        (["linear", "conv1"], ["conv1", "linear"]),
        (("layer*.*", "linear", "layer3.0"), ["layer1.0", "layer2.0", "layer3.0", "linear"]),
        (lambda name, module: isinstance(module, nn.Linear) or name == "bn1", ["bn1", "linear"]),
    ],
)
def test_layers_are_chosen_by_name_glob_list_or_function(layers: Any, expected: list[str], resnet: Network) -> None:
    assert select_layers(resnet, layers)[0] == expected


def test_only_the_layers_chosen_are_recorded(resnet: Network, digits: ImageSet) -> None:
    assert extract(resnet, digits, layers="layer*.*").layers == ("layer1.0", "layer2.0", "layer3.0")


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            "layer4",
            "extract: layers must name modules of the network; got 'layer4'. "
            "Close matches: layer3, layer2, layer1, layer3.0.",
        ),
        (
            ["linear", "layer1.0.conv3"],
            "extract: layers must name modules of the network; got 'layer1.0.conv3'. "
            "Close matches: layer1.0.conv2, layer1.0.conv1, layer3.0.conv2, layer3.0.conv1.",
        ),
        (
            "conv*.*",
            "extract: layers must name modules of the network; got 'conv*.*'. Close matches: conv1.",
        ),
        (
            "§",
            "extract: layers must name modules of the network; got '§'. Known: "
            + ", ".join(ALL[:12])
            + ", … (9 more).",
        ),
        (
            lambda name, module: False,
            "extract: layers must choose a module; got no match among 21 modules. Try: repsim layers.",
        ),
    ],
)
def test_an_unknown_layer_is_met_with_the_closest_ones(
    layers: Any, text: str, resnet: Network, digits: ImageSet
) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        extract(resnet, digits, layers=layers)


def test_the_whole_name_is_a_name_even_where_it_looks_like_a_pattern() -> None:
    net = nn.Sequential()
    net.add_module("a[0]", nn.Linear(4, 4))
    net.add_module("a0", nn.Linear(4, 4))
    assert select_layers(net, "a[0]")[0] == ["a[0]", "a0"]  # as a name the first, as a pattern the second


# --- What is recorded ---------------------------------------------------------------------------------------


def test_features_are_what_the_layers_answer() -> None:
    net, x = perceptron().eval(), rows(10, 4)
    found = features(net, x)
    with torch.no_grad():
        one = net.get_submodule("one")(x)
        expected = {"one": one, "act": one.relu(), "two": net(x)}
    assert list(found) == list(expected)
    for layer, value in expected.items():
        assert torch.allclose(found[layer], value, rtol=1e-6, atol=1e-6)


def test_everything_about_a_run_is_kept(resnet: Network, digits: ImageSet) -> None:
    made = extract(resnet, digits, layers="linear", reduction="flatten")
    assert made.n == len(digits) == 150
    assert torch.equal(made["linear"].argmax(1), resnet(digits.pixels(slice(None))).argmax(1))
    assert made.labels is not None
    assert torch.equal(made.labels, digits.labels)
    assert made.digest == digits.digest
    assert made.name == "digits_resnet8"
    assert made.reduction == "flatten"
    told: dict[str, Any] = {"data": "digits/test", "layout": {"linear": "nc"}, "layers_that_never_ran": []}
    told["parameters"] = sum(p.numel() for p in resnet.parameters())
    assert made.provenance == {**resnet.provenance, **told}


@pytest.mark.parametrize(
    ("net", "name", "expected"),
    [
        (perceptron(), None, "Sequential"),
        (perceptron(), "mine", "mine"),
        (Network(perceptron(), name="its own"), None, "its own"),
        (Network(perceptron(), name="its own"), "mine", "mine"),
    ],
)
def test_a_network_goes_by_its_own_name_or_the_one_given(net: nn.Module, name: str | None, expected: str) -> None:
    assert extract(net, rows(10, 4), name=name).name == expected


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(5, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def test_layers_stand_in_the_order_in_which_they_run() -> None:
    assert extract(Backwards(), rows(10, 4)).layers == ("first", "last")
    assert extract(Backwards(), rows(10, 4), layers=["last", "first"]).layers == ("first", "last")


class Reusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.step, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.step(self.act(self.step(x))))


def test_a_module_that_runs_twice_gives_two_layers() -> None:
    net, x = Reusing().eval(), rows(70, 4)
    found = features(net, x)
    assert list(found) == ["step", "act", "step#2", "act#2"]
    with torch.no_grad():
        assert torch.allclose(found["step"], net.step(x), atol=1e-6)
        assert torch.allclose(found["step#2"], net.step(net.step(x).relu()), atol=1e-6)
        assert torch.allclose(found["act#2"], net(x), atol=1e-6)
    assert extract(net, x, layers="act").layers == ("act", "act#2")


@pytest.mark.parametrize("reduction", ["flatten", "mean"])
@pytest.mark.parametrize("n", [10, 64, 100])
def test_an_in_place_operation_does_not_change_what_was_recorded(n: int, reduction: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 3, 3), bn=nn.BatchNorm2d(3), act=nn.ReLU(inplace=True), conv2=nn.Conv2d(3, 2, 2))
    ).eval()
    x = rows(n, 1, 6, 6)
    found = features(net, x, reduction=reduction)
    with torch.no_grad():
        convolved = net.get_submodule("conv")(x)
        normalised = net.get_submodule("bn")(convolved)
    for layer, value in (("conv", convolved), ("bn", normalised), ("act", normalised.relu())):
        expected = value.flatten(1) if reduction == "flatten" else value.mean((2, 3))
        assert torch.allclose(found[layer], expected, atol=1e-6), layer
    assert float(found["bn"].min()) < 0


def test_what_is_computed_without_a_module_is_no_layer_and_changes_none() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu_(self.one(x))

    net, x = Plain(), rows(10, 4)
    made = extract(net, x)
    assert made.layers == ("one",)
    with torch.no_grad():
        assert torch.allclose(made["one"], net.one(x), atol=1e-6)
    assert float(made["one"].min()) < 0


@pytest.mark.parametrize("batch_size", [1, 3, 64, 150, 1000])
def test_features_do_not_depend_on_the_batch_size(batch_size: int, resnet: Network, digits: ImageSet) -> None:
    expected = features(resnet, digits, batch_size=50, reduction="flatten")
    found = features(resnet, digits, batch_size=batch_size, reduction="flatten")
    assert list(found) == list(expected)
    for layer, x in expected.items():
        # Other batches are summed in another order; 17 layers deep that is some units of the last place.
        assert torch.allclose(found[layer], x, rtol=1e-4, atol=1e-4 * float(x.abs().max())), layer


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 129])
def test_a_short_last_batch_is_in_its_place(n: int) -> None:
    net, x = perceptron().eval(), rows(n, 4)
    with torch.no_grad():
        expected = net.get_submodule("one")(x)
    for batch_size in (2, 64):
        found = features(net, x, batch_size=batch_size)["one"]
        assert found.shape == (n, 6)
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_layer_does_not_depend_on_which_others_are_recorded(resnet: Network, digits: ImageSet) -> None:
    everything = features(resnet, digits)
    for chosen in (["linear"], ["layer2.0", "conv1"], "**.bn2", ["linear", "layer1.0.conv1", "bn1"]):
        part = features(resnet, digits, layers=chosen)
        assert part
        for layer, x in part.items():
            assert torch.equal(x, everything[layer]), layer


def test_the_order_of_the_samples_is_kept(resnet: Network, digits: ImageSet) -> None:
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    straight = features(resnet, digits, layers="linear")["linear"]
    mixed = features(resnet, digits.take(order), layers="linear")["linear"]
    assert torch.allclose(mixed, straight[order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed, straight, rtol=1e-1, atol=1e-1)


def test_the_network_takes_pixels_between_0_and_1(digits: ImageSet) -> None:
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x

    extract(answering(look), digits, reduction="flatten")
    whole = torch.cat(seen[4:])  # the first passes are those that find out the axes and the room that is needed
    assert whole.dtype == torch.float32
    assert torch.equal(whole, digits.images / 255)


def test_features_need_no_gradient_and_may_be_changed_afterwards(resnet: Network, digits: ImageSet) -> None:
    made = extract(resnet, digits, layers=["conv1", "linear"])
    for layer in made:
        x = made[layer]
        assert not x.requires_grad
        assert not x.is_inference()
        before = x.clone()
        x.add_(1)
        assert torch.equal(x, before + 1)
    probe = nn.Linear(10, 2)
    probe(made["linear"]).sum().backward()  # features are plain inputs to what is trained on them
    assert probe.weight.grad is not None
    assert all(p.grad is None for p in resnet.parameters())


def test_features_of_two_layers_share_no_memory() -> None:
    net = nn.Sequential(OrderedDict(a=nn.Identity(), b=nn.Identity()))
    x = rows(10, 4)
    found = features(net, x)
    found["a"].zero_()
    assert torch.equal(found["b"], x)
    assert float(x.abs().sum()) > 0


# Kinds of numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_features_keep_the_networks_type(dtype: torch.dtype) -> None:
    x = rows(100, 4)
    expected = features(perceptron(), x)
    made = extract(perceptron().to(dtype), x.to(dtype))
    for layer, value in expected.items():
        assert made[layer].dtype == dtype
        assert torch.allclose(made[layer].float(), value, rtol=0, atol=2**-6 * float(value.abs().max())), layer
    assert made.digest is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("normalize", [None, ((0.5,), (0.25,))])
def test_images_go_through_a_network_of_another_type(dtype: torch.dtype, normalize: Any, digits: ImageSet) -> None:
    expected = features(load_model("digits_resnet8", normalize=normalize), digits, layers="layer*.*")
    net = load_model("digits_resnet8", normalize=normalize).to(dtype)
    made = extract(net, digits, layers="layer*.*")
    for layer, value in expected.items():
        assert made[layer].dtype == dtype
        assert torch.allclose(made[layer].float(), value, rtol=0, atol=0.05 * float(value.abs().max())), layer


# Kinds of outputs -------------------------------------------------------------------------------------------


class ModelOutput:
    """As model libraries answer: attributes, and `to_tuple`."""

    def __init__(self, **fields: Tensor | None) -> None:
        self.__dict__.update(fields)

    def to_tuple(self) -> tuple[Tensor, ...]:
        return tuple(value for value in self.__dict__.values() if value is not None)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, -x),
        lambda x: [x],
        lambda x: (None, (x, -x)),
        lambda x: {"a": x, "b": -x},
        lambda x: {"loss": x.sum(), "logits": x, "last_hidden_state": None},
        lambda x: {"logits": -x, "last_hidden_state": x},
        lambda x: OrderedDict(hidden=(x, -x)),
        lambda x: ModelOutput(loss=x.sum(), logits=x),
        lambda x: ModelOutput(pooled=-x, last_hidden_state=x),
        lambda x: ModelOutput(loss=None, first=x, second=-x),
    ],
)
def test_the_tensor_inside_an_output_is_found(wrap: Callable[[Tensor], Any]) -> None:
    x = rows(10, 4)
    assert torch.equal(features(answering(wrap), x)["odd"], x)


def test_attention_and_recurrent_layers_answer_with_their_first_output() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = rows(10, 5, 8)
    made = extract(encoder, x, layers=["self_attn", "linear1"], reduction="mean_tokens")
    with torch.no_grad():
        expected = encoder.eval().self_attn(x, x, x)[0].mean(1)
    assert torch.allclose(made["self_attn"], expected, atol=1e-6)
    assert made["linear1"].shape == (10, 16)
    lstm = nn.Sequential(nn.LSTM(8, 6, batch_first=True))
    with torch.no_grad():
        expected = lstm(x)[0].flatten(1)
    assert torch.allclose(features(lstm, x, reduction="flatten")["0"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda x: "text",
            "extract: layer 'odd' must give floating-point tensors; got str. Leave this layer out of layers=.",
        ),
        (
            lambda x: (None, {"a": 3}),
            "extract: layer 'odd' must give floating-point tensors; got tuple. Leave this layer out of layers=.",
        ),
        (
            lambda x: x > 0,
            "extract: layer 'odd' must give floating-point tensors; got torch.bool. Leave this layer out of layers=.",
        ),
        (
            lambda x: x.long(),
            "extract: layer 'odd' must give floating-point tensors; got torch.int64. Leave this layer out of layers=.",
        ),
        (
            lambda x: x[:5].mean(0, keepdim=True),
            "extract: layer 'odd' must give a row of features for each sample; got shape (1, 4) for 2 samples, where "
            "no axis grows with the batch. Leave this layer out of layers=.",
        ),
        (
            lambda x: x @ x.T,
            "extract: layer 'odd' must give a row of features for each sample; got shape (2, 2) for 2 samples, where 2 "
            "axes grow with the batch. Leave this layer out of layers=.",
        ),
        (
            lambda x: x.sum(),
            "extract: layer 'odd' must give a row of features for each sample; got shape () for 2 samples, where no "
            "axis grows with the batch. Leave this layer out of layers=.",
        ),
        (
            lambda x: x[:, 0],
            "extract: layer 'odd' must give a row of features for each sample; got shape (2) for 2 samples, one number "
            "for each. Leave this layer out of layers=.",
        ),
    ],
)
def test_an_output_that_has_no_row_per_sample_is_refused(function: Callable[[Tensor], Any], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        extract(answering(function), rows(10, 4))


def test_samples_that_stand_second_are_moved() -> None:
    x = rows(10, 4)
    assert torch.equal(features(answering(lambda x: x.T), x)["odd"], x)


def test_a_diverged_network_is_named_by_layer_and_row() -> None:
    def spoil(x: Tensor) -> Tensor:
        return torch.where(x > 2.9, torch.nan, x)

    x = torch.zeros(100, 4)
    x[70, 3] = 3
    text = (
        "Activations: layer 'odd' must be finite; got NaN or infinity, first in row 70. "
        "Look for a diverged network, an overflow in float16, or broken inputs."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(answering(spoil), x)


# Layers that do not always run --------------------------------------------------------------------------------


class WithSpare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_chosen_layer_that_never_runs_is_named() -> None:
    text = (
        "extract: every chosen layer must run; got no output of spare. "
        "Choose layers that the forward pass uses, or layers=None for all that ran."
    )
    for layers in ("spare", ["used", "spare"], "*", lambda name, module: True):
        with pytest.raises(ValueError, match=exactly(text)):
            extract(WithSpare(), rows(10, 4), layers=layers)


def test_with_all_layers_those_that_never_run_are_left_out_and_noted() -> None:
    made = extract(WithSpare(), rows(10, 4))
    assert made.layers == ("used",)
    assert made.provenance["layers_that_never_ran"] == ["spare"]


class Switching(nn.Module):
    """Runs `extra` only where the first sample of a batch says so."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.extra = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.always(x)
        return self.extra(answer) if float(x[0, 0]) > 0 else answer


@pytest.mark.parametrize("first", [1.0, -1.0])
def test_a_layer_that_runs_in_some_batches_only_is_refused(first: float) -> None:
    x = torch.full((20, 4), -first)
    x[:10] = first
    text = (
        "extract: every batch must run the same layers; got extra in some batches only. "
        "Choose layers that every sample passes through equally often."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(Switching(), x, batch_size=10)


def test_a_layer_that_changes_its_width_is_refused() -> None:
    x = rows(20, 4)
    x[:10, 0], x[10:, 0] = 1, -1
    text = (
        "extract: layer 'odd' must keep its width; got 2 after 4. "
        "Samples of unequal size need a reduction such as mean."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(answering(lambda x: x if float(x[0, 0]) > 0 else x[:, :2]), x, batch_size=10)


# --- What a network is left like ------------------------------------------------------------------------------


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def mixed_modes() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(64, 3))
    net.train()
    net[1].eval()  # a frozen normalisation inside a network that is being trained
    return net


def test_modes_hooks_and_statistics_are_as_before() -> None:
    net, x = mixed_modes(), rows(100, 1, 6, 6)
    handle = net[0].register_forward_hook(lambda *_: None)  # somebody else's
    modes = [module.training for module in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    extract(net, x, reduction="flatten")
    assert [module.training for module in net.modules()] == modes
    assert len(set(modes)) == 2
    assert hooks(net) == 1
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.is_grad_enabled()
    handle.remove()


def test_the_network_runs_in_eval_mode() -> None:
    net, x = mixed_modes().train(), rows(100, 1, 6, 6)
    found = features(net, x, reduction="flatten", batch_size=7)
    with torch.no_grad():
        expected = net.eval()(x)
    assert torch.allclose(found["4"], expected, atol=1e-5)
    assert torch.equal(found["2"], found["1"])  # dropout does nothing


class Fails(nn.Module):
    """Stops in the middle of the second batch, after the three passes that find out the axes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 5:
            raise RuntimeError("out of something")
        return x


@pytest.mark.parametrize("layers", [None, "1"])
def test_a_network_that_fails_halfway_is_left_as_it_was(layers: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Fails(), nn.Dropout())
    net.train()
    net[1].eval()
    modes = [module.training for module in net.modules()]
    with pytest.raises(RuntimeError, match=exactly("out of something")):
        extract(net, rows(100, 4), layers=layers, batch_size=10)
    assert hooks(net) == 0
    assert [module.training for module in net.modules()] == modes
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_the_network_as_it_was(error: type[BaseException]) -> None:
    def stop(x: Tensor) -> NoReturn:
        raise error

    net = nn.Sequential(nn.Linear(4, 4), Function(stop)).train()
    with pytest.raises(error):
        extract(net, rows(10, 4))
    assert hooks(net) == 0
    assert all(module.training for module in net.modules())


def test_an_output_that_is_refused_leaves_the_network_as_it_was() -> None:
    net = answering(lambda x: x @ x.T).train()
    with pytest.raises(ValueError, match="must give"):
        extract(net, rows(10, 4))
    assert hooks(net) == 0
    assert net.training


def test_a_second_extraction_gives_the_same(resnet: Network, digits: ImageSet) -> None:
    one, two = features(resnet, digits), features(resnet, digits)
    assert all(torch.equal(one[layer], two[layer]) for layer in one)


# --- Wrappers -------------------------------------------------------------------------------------------------


def test_a_network_with_normalisation_inside_shows_the_bare_layers() -> None:
    bare = perceptron()
    x = rows(10, 4, 1, 1).abs()
    wrapped = Network(nn.Sequential(nn.Flatten(), bare), name="wrapped", normalize=((0.5,), (0.25,)))
    made = extract(wrapped, x, layers="1.*")
    assert made.layers == ("1.one", "1.act", "1.two")
    expected = features(bare, ((x - 0.5) / 0.25).flatten(1))
    assert torch.allclose(made["1.two"], expected["two"], atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: nn.DataParallel(nn.DataParallel(net)),
        compiled,
        lambda net: nn.DataParallel(compiled(net)),
    ],
)
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module], digits: ImageSet) -> None:
    net = load_model("digits_resnet8", name="mine", normalize=((0.5,), (0.25,)))
    expected, made = extract(net, digits), extract(wrap(net), digits)
    assert made.layers == expected.layers
    assert all(torch.allclose(made[layer], expected[layer], rtol=1e-4, atol=1e-4) for layer in expected)
    assert hooks(net) == 0


def test_a_wrapper_inside_a_network_is_looked_through(digits: ImageSet) -> None:
    net = load_model("digits_resnet8")
    expected = extract(net, digits)
    made = extract(Network(nn.DataParallel(net.net), name="inside"), digits)
    assert made.layers == expected.layers
    assert all(torch.equal(made[layer], expected[layer]) for layer in expected)


def test_a_wrapped_network_keeps_its_name_and_its_provenance(digits: ImageSet) -> None:
    net = load_model("digits_resnet8", name="mine")
    made = extract(nn.DataParallel(net), digits)
    assert made.name == "mine"
    assert made.provenance == extract(net, digits).provenance


@pytest.mark.parametrize("inside", [False, True])
def test_a_compiled_network_that_has_run_before_is_recorded_too(inside: bool) -> None:
    # Compiled code was made without our hooks and does not call them.
    torch._dynamo.reset()
    x, bare = rows(10, 4), perceptron().eval()
    net = Network(compiled(bare), name="compiled").eval() if inside else compiled(bare)
    with torch.no_grad():
        net(x)
    made, expected = extract(net, x), extract(bare, x)
    assert made.layers == expected.layers
    assert all(torch.equal(made[layer], expected[layer]) for layer in expected)


# --- Reductions -----------------------------------------------------------------------------------------------


def adaptive(x: np.ndarray, size: int) -> np.ndarray:
    """Averages over size×size windows that overlap where the side does not divide: [floor(iH/K), ceil((i+1)H/K))."""
    n, c, h, w = x.shape
    out = np.zeros((n, c, size, size))
    for i in range(size):
        for j in range(size):
            window = x[:, :, i * h // size : -(-(i + 1) * h // size), j * w // size : -(-(j + 1) * w // size)]
            out[:, :, i, j] = window.mean((2, 3))
    return out.reshape(n, -1)


MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flatten": lambda x: x.reshape(len(x), -1),
    "auto": lambda x: x.mean((2, 3)),
    "mean": lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "max": lambda x: x.max(3).max(2),
    "pool:1": lambda x: x.mean((2, 3)),
    "pool:2": lambda x: adaptive(x, 2),
    "pool:3": lambda x: adaptive(x, 3),
}
TOKENS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flatten": lambda x: x.reshape(len(x), -1),
    "cls": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
    "mean_tokens": lambda x: x.sum(1) / x.shape[1],
    "auto": lambda x: x.mean(1),
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.max(1),
}


@pytest.mark.parametrize("reduction", MAPS)
@pytest.mark.parametrize("side", [(4, 4), (7, 5), (6, 3)])
def test_reductions_of_maps(reduction: str, side: tuple[int, int]) -> None:
    x = rows(70, 3, *side)
    made = extract(nn.Sequential(nn.Identity()), x, reduction=reduction)
    assert made.reduction == reduction
    assert np.allclose(made["0"].numpy(), MAPS[reduction](x.double().numpy()), atol=1e-6)


@pytest.mark.parametrize("reduction", TOKENS)
def test_reductions_of_tokens(reduction: str) -> None:
    x = rows(70, 5, 3)
    found = features(nn.Sequential(nn.Identity()), x, reduction=reduction, axes={"0": "ntc"})["0"]
    assert np.allclose(found.numpy(), TOKENS[reduction](x.double().numpy()), atol=1e-6)


@pytest.mark.parametrize("reduction", ["auto", "flatten", "mean", "max", "pool:2", "cls", "last", "mean_tokens"])
def test_rows_stay_rows(reduction: str) -> None:
    x = rows(10, 4)
    assert torch.equal(features(nn.Sequential(nn.Identity()), x, reduction=reduction)["0"], x)


def test_a_pool_larger_than_the_map_keeps_every_position() -> None:
    x = rows(10, 3, 2, 4)
    maps = Output("layer", x, (2, 3))
    assert torch.allclose(Reductions("pool:9").of("layer")(maps), x.flatten(1))
    assert Reductions("pool:3").of("layer")(maps).shape == (10, 3 * 2 * 3)


def test_the_default_reduction_is_the_mean_over_positions() -> None:
    x = rows(10, 3, 4, 4)
    made = extract(nn.Sequential(nn.Identity()), x)
    assert made.reduction == "auto"
    assert torch.equal(made["0"], x.mean((2, 3)))
    assert made.provenance["layout"] == {"0": "nchw"}


def layouts(x: Tensor) -> dict[str, Tensor]:
    """Maps (n, c, h, w) as layers of other layouts answer them."""
    n, c, h, w = x.shape
    heads = x.reshape(n, 2, c // 2, h * w)
    return {
        "nchw": x,
        "nhwc": x.permute(0, 2, 3, 1),
        "ntc": x.flatten(2).transpose(1, 2),
        "nct": x.flatten(2),
        "tnc": x.flatten(2).permute(2, 0, 1),
        "nctc": heads.transpose(2, 3),
        "(nk)tc": x.permute(0, 2, 3, 1).flatten(0, 1),
        "(kn)c": x.flatten(2).permute(2, 0, 1).flatten(0, 1),
        "(nc)tc": heads.transpose(2, 3).flatten(0, 1),
    }


@pytest.mark.parametrize("code", layouts(torch.zeros(4, 4, 2, 3)))
def test_every_layout_gives_the_mean_over_its_positions(code: str) -> None:
    x = rows(70, 4, 6, 5)
    net = answering(lambda x: layouts(x)[code])
    made = extract(net, x)
    assert made.provenance["layout"] == {"odd": code}
    assert torch.allclose(made["odd"], x.mean((2, 3)), atol=1e-6)
    told = (
        extract(net, x, axes={"odd": code}) if "(k" not in code else made
    )  # sizes of other folds are not in the letters
    assert torch.equal(told["odd"], made["odd"])
    largest = features(net, x, reduction="max")["odd"]
    assert torch.equal(largest, x.amax((2, 3)))


@pytest.mark.parametrize("code", ["nchw", "nhwc"])
def test_pools_of_maps_in_any_layout(code: str) -> None:
    x = rows(70, 4, 6, 5)
    found = features(answering(lambda x: layouts(x)[code]), x, reduction="pool:2")["odd"]
    assert np.allclose(found.numpy(), adaptive(x.double().numpy(), 2), atol=1e-6)


def test_reductions_layer_by_layer_and_of_ones_own() -> None:
    x = rows(10, 3, 4, 4)
    net = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 5, 1), c=nn.Conv2d(5, 2, 1))).eval()

    def spread(tokens: Tensor) -> Tensor:
        return tokens.std(1)

    made = extract(net, x, reduction={"a": "flatten", "[ab]": spread})
    assert made.reduction == "a: flatten, [ab]: spread"
    flat, maps = features(net, x, reduction="flatten"), {"b": 5, "c": 2}
    assert torch.equal(made["a"], flat["a"])
    assert torch.allclose(made["b"], flat["b"].view(10, maps["b"], 16).std(2), atol=1e-6)
    assert torch.allclose(made["c"], flat["c"].view(10, maps["c"], 16).mean(2), atol=1e-6)
    assert extract(net, x, reduction=spread, layers="c").reduction == "spread"


def test_a_reduction_of_ones_own_that_makes_no_rows_is_refused() -> None:
    text = (
        "extract: a reduction must make rows (n, p) of tokens (n, t, c), here (2, 16, 3); got shape (2, 16, 3) at "
        "layer '0'. Return, say, tokens.mean(1)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(nn.Sequential(nn.Identity()), rows(10, 3, 4, 4), reduction=lambda tokens: tokens)


@pytest.mark.parametrize("option", ["axes", "reduction"])
def test_a_glob_that_means_no_layer_is_refused(option: str) -> None:
    given: dict[str, Any] = {option: {"tow": "nc" if option == "axes" else "mean"}}
    text = f"extract: {option}= must name modules of the network; got 'tow'. Close matches: two."
    with pytest.raises(ValueError, match=exactly(text)):
        extract(perceptron(), rows(10, 4), **given)


def test_axes_that_do_not_fit_are_refused() -> None:
    text = (
        "extract: layer 'one' must keep its axes, nchw; got shape (2, 6) for 2 samples. "
        "Say which axis is which, as in axes={'one': \"nchw\"}, or choose other layers."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(perceptron(), rows(10, 4), axes={"one": "nchw"})


def test_a_layer_whose_axes_are_not_clear_is_refused_or_left_out() -> None:
    net, x = nn.Sequential(OrderedDict(odd=nn.Identity(), mix=nn.Flatten())), rows(10, 5, 4)
    text = (
        "extract: it must be clear which axes of layer 'odd' are features; got shape (2, 5, 4) for 2 samples, where "
        "axis 1 may be features or positions. Say so, as in axes={'odd': \"nchw\"} (n samples, c features, others "
        "positions), or leave it out."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(net, x, layers="odd")
    told = (
        "extract: Sequential: left out odd, as it is not clear which of their axes are features; "
        "say so, as in axes={'odd': \"nchw\"}"
    )
    with pytest.warns(CautionWarning, match=exactly(told)):
        made = extract(net, x)
    assert made.layers == ("mix",)
    seen = "shape (2, 5, 4) for 2 samples, where axis 1 may be features or positions"
    assert made.provenance["layers_left_out"] == {"odd": seen}
    assert torch.equal(features(net, x, axes={"odd": "nct"})["odd"], x.mean(2))
    assert torch.equal(features(net, x, reduction="flatten")["odd"], x.flatten(1))  # that asks for samples only


def test_attention_weights_are_rows_where_they_are_asked_for_flat() -> None:
    def weights(x: Tensor) -> Tensor:
        return (x @ x.transpose(1, 2)).softmax(-1)

    net, x = nn.Sequential(OrderedDict(embed=nn.Linear(4, 4), odd=Function(weights))), rows(10, 5, 4)
    made = extract(net, x)
    assert made.layers == ("embed",)
    why = "shape (2, 5, 5) for 2 samples, attention weights or scores, which have no features"
    assert made.provenance["layers_left_out"] == {"odd": why}
    text = (
        f"extract: layer 'odd' must give a row of features for each sample; got {why}. Leave this layer out of layers=."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(net, x, layers="odd")
    assert features(net, x, layers="odd", reduction="flatten")["odd"].shape == (10, 25)
    assert extract(net, x, reduction="flatten").layers == ("embed",)


@pytest.mark.parametrize(
    ("drawn", "reason"), [(False, "the rest of its batch"), (True, "random numbers that it draws")]
)
def test_a_network_whose_answers_depend_on_more_than_the_sample_is_told_of(drawn: bool, reason: str) -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    net = nn.Sequential(nn.Linear(4, 6), Noise() if drawn else nn.BatchNorm1d(6, track_running_stats=False))
    told = f"extract: Sequential: the answer to a sample depends on {reason}, so features change with the batches"
    with pytest.warns(CautionWarning, match=exactly(told)):
        made = extract(net, rows(20, 4))
    assert made.provenance["cautions"] == [told.removeprefix("extract: ")]


@pytest.mark.parametrize("reduction", ["cls", "last", "mean_tokens"])
def test_reductions_of_tokens_are_for_tokens(reduction: str) -> None:
    text = (
        f"extract: reduction {reduction!r} is for sequences of tokens; got shape (2, 3, 4, 4) with 2 axes of "
        'positions at layer \'odd\'. Feature maps take "mean", "max" or "pool:K"; or choose other layers.'
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(nn.Sequential(OrderedDict(odd=nn.Identity())), rows(10, 3, 4, 4), reduction=reduction)


def test_pools_have_one_to_three_axes_of_positions() -> None:
    text = (
        "extract: reduction 'pool:K' is for one to three axes of positions; got 4 axes of positions at layer 'odd'. "
        'Use "mean" or "flatten", or choose other layers.'
    )
    x, net = rows(10, 3, 2, 2, 2, 2), nn.Sequential(OrderedDict(odd=nn.Identity()))
    with pytest.raises(ValueError, match=exactly(text)):
        extract(net, x, reduction="pool:2", axes={"odd": "nctdhw"})
    for code, shape in (("nct", (3, 8)), ("ncdhw", (3, 4, 4, 4))):
        found = features(net, rows(10, *shape), reduction="pool:2", axes={"odd": code})["odd"]
        assert found.shape == (10, 3 * 2 ** (len(shape) - 1))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("average", "Known: auto, flatten, mean, max, cls, last, mean_tokens, pool:K"),
        ("pool", "Close matches: pool:K"),
        ("pool:0", "Close matches: pool:K"),
        ("pool:-1", "Close matches: pool:K"),
        ("pool:2.5", "Close matches: pool:K"),
        ("pool:²", "Close matches: pool:K"),
        ("mean_token", "Close matches: mean_tokens, mean, flatten, auto"),
    ],
)
def test_an_unknown_reduction_is_met_with_the_closest_ones(name: str, advice: str) -> None:
    text = f"extract: reduction must be known; got {name!r}. {advice}."
    with pytest.raises(ValueError, match=exactly(text)):
        extract(perceptron(), rows(10, 4), reduction=name)


# --- Where samples come from ----------------------------------------------------------------------------------


def loader(x: Tensor, y: Tensor, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), **{"batch_size": 7, **options})


@pytest.mark.parametrize("batch_size", [1, 7, 64, 200])
def test_a_loader_gives_what_the_image_set_gives(batch_size: int, resnet: Network, digits: ImageSet) -> None:
    expected = extract(resnet, digits)
    made = extract(resnet, loader(digits.pixels(slice(None)), digits.labels, batch_size=batch_size))
    assert made.layers == expected.layers
    assert all(torch.equal(made[layer], expected[layer]) for layer in expected)
    assert made.labels is not None
    assert torch.equal(made.labels, digits.labels)
    assert made.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "batches",
    [
        lambda x, y: [(x[:6], y[:6]), (x[6:], y[6:])],
        lambda x, y: ([x[i : i + 4], y[i : i + 4]] for i in range(0, 10, 4)),
        lambda x, y: [(x, y, "names")],
    ],
)
def test_batches_of_inputs_and_labels(batches: Callable[[Tensor, Tensor], Any]) -> None:
    x, y = rows(10, 4), torch.arange(10, dtype=torch.int32) % 3
    made, expected = extract(perceptron(), batches(x, y)), extract(perceptron(), x)
    assert all(torch.equal(made[layer], expected[layer]) for layer in expected)
    assert made.labels is not None
    assert made.labels.tolist() == y.tolist()
    assert made.digest == expected.digest


@pytest.mark.parametrize("batches", [lambda x: [x[:6], x[6:]], lambda x: [(x,)], lambda x: [[x[:3]], [x[3:]]]])
def test_batches_without_labels(batches: Callable[[Tensor], Any]) -> None:
    x = rows(10, 4)
    made = extract(perceptron(), batches(x))
    assert made.labels is None
    assert made.digest == extract(perceptron(), x).digest


def test_labels_of_some_batches_only_are_no_labels() -> None:
    x = rows(10, 4)
    y = torch.zeros(5, dtype=torch.int64)
    assert extract(perceptron(), [(x[:5], y), x[5:]]).labels is None


def test_targets_that_are_no_classes_are_not_rounded_to_some() -> None:
    text = (
        "extract: labels must be integers; got float32. Pass class indices, or batches without labels; several inputs "
        "as ((x1, x2), y)."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        extract(perceptron(), [(rows(10, 4), torch.rand(10))])


def test_the_digest_of_batches_is_about_the_samples_and_their_order() -> None:
    x, net = rows(10, 4), perceptron()
    digest = extract(net, x).digest
    assert digest is not None
    assert extract(net, [x[:3], x[3:]]).digest == digest
    assert extract(net, x.flip(0)).digest != digest
    assert extract(net, x + 1e-6).digest != digest
    assert extract(net, x[:9]).digest != digest
    assert len(digest) == len(hashlib.sha256().hexdigest())


def test_other_samples_or_another_order_cannot_be_compared(resnet: Network, digits: ImageSet) -> None:
    a = extract(resnet, digits, layers="linear", name="left")
    b = extract(resnet, digits.take(range(149, -1, -1)), layers="linear", name="right")
    assert a.digest is not None
    assert b.digest is not None
    text = (
        "compare: both sides must hold the same samples in the same order; "
        f"got digests {a.digest[:12]} for 'left' and {b.digest[:12]} for 'right'. "
        "Other samples, or another order: extract both sides on one ImageSet."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        compare(a, b)


def test_a_shuffling_loader_is_refused() -> None:
    text = (
        "extract: data must come in a fixed order; got a loader with a RandomSampler. "
        "Make it with shuffle=False: both networks must see the same samples in the same order."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(perceptron(), loader(rows(10, 4), torch.arange(10), shuffle=True))


def test_a_loader_that_shuffles_in_its_batch_sampler_is_refused() -> None:
    text = (
        "extract: data must come in a fixed order; got a loader with a RandomSampler. "
        "Make it with shuffle=False: both networks must see the same samples in the same order."
    )
    data = TensorDataset(rows(10, 4))
    mixed = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 5, drop_last=False))
    with pytest.raises(ValueError, match=exactly(text)):
        extract(perceptron(), mixed)


class Stream(IterableDataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)


def test_a_loader_over_a_stream_comes_in_the_streams_order() -> None:
    x = rows(10, 4)
    made, expected = extract(perceptron(), DataLoader(Stream(x), batch_size=3)), extract(perceptron(), x)
    assert made.digest == expected.digest
    assert torch.equal(made["two"], expected["two"])


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ([], ValueError, "extract: there must be samples; got none. Pass a loader that is not empty."),
        (
            np.zeros((10, 4), np.float32),
            TypeError,
            "extract: batches must be tensors; got ndarray. Pass an ImageSet, a tensor, or batches x, (x, y), or dicts "
            "of tensors.",
        ),
    ],
)
def test_what_is_no_data_is_refused(data: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=exactly(text)):
        extract(perceptron(), data)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_row(batch_size: int) -> None:
    text = f"extract: batch_size must be at least 1; got {batch_size}. Leave it out."
    with pytest.raises(ValueError, match=exactly(text)):
        extract(perceptron(), rows(10, 4), batch_size=batch_size)


# --- Memory ---------------------------------------------------------------------------------------------------


BUDGET = "repsim.features.store.budget"


def test_features_that_would_not_fit_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{BUDGET}.available_memory", lambda: 2**30)
    monkeypatch.setattr("repsim.features.store.one_run.place_for", lambda size: None)
    n, calls = 10_000, []

    def widen(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.repeat(1, 20_000)  # 160,000 bytes a row, 1.49 GiB for 10,000

    net = answering(lambda x: widen(x[:, :2]))
    text = (
        "extract: the features must fit into memory; got 1.5 GiB for 10,000 samples with 0.8 GiB to use. "
        'Use dtype="float16" (0.7 GiB), 5,368 samples (0.8 GiB), or store= on a disk with room.'
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        extract(net, torch.zeros(n, 2), batch_size=10)
    assert calls == [2, 3, 2]  # after the passes that find out the axes, two rows tell the widths
    assert hooks(net) == 0


def test_the_memory_of_every_layer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity()), rows(100, 10)
    need = 3 * 100 * 10 * 4
    monkeypatch.setattr("repsim.features.store.one_run.place_for", lambda size: None)
    assert len(extract(net, x, memory=need)) == 3
    monkeypatch.setattr(f"{BUDGET}.available_memory", lambda: need)
    with pytest.raises(MemoryError, match="the features must fit into memory"):
        extract(net, x)
    assert len(extract(net, x, layers=["0", "1"])) == 2


def test_a_system_that_does_not_tell_its_memory_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{BUDGET}.available_memory", lambda: None)
    assert isinstance(extract(perceptron(), rows(10, 4)), Activations)


def test_the_memory_that_is_free_is_a_plausible_number() -> None:
    free = available_memory()
    assert free is None or 2**20 < free < 2**50


# --- The input condition of a side ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(rows=nn.Flatten(), head=nn.Linear(64, 10))).eval()


@pytest.mark.parametrize("threat", ["linf:0.1", ThreatModel("linf", 0.1)])
def test_an_attack_moves_the_samples_against_this_network(
    threat: str | ThreatModel, linear: nn.Sequential, digits: ImageSet
) -> None:
    clean, moved = extract(linear, digits), extract(linear, digits, attack=threat, batch_size=32)
    assert moved.digest == clean.digest
    assert (clean.name, moved.name) == ("Sequential", "Sequential under pgd-20(Sequential, linf:0.1)")
    made = adversarial(linear, digits, "linf:0.1")
    assert torch.equal(moved["rows"], made.pixels(slice(0, None)).flatten(1))
    assert "condition" not in clean.provenance
    assert moved.provenance["condition"] == {**made.record, "name": made.condition}
    assert moved.provenance["pixels"] == made.pixel_digest
    assert moved.outputs is not None
    correct = float((moved.outputs.argmax(1) == digits.labels).double().mean())
    assert moved.provenance["condition"]["adversarial_accuracy"] == correct
    assert 0 < float(compare(clean, moved, "cka").values[1, 1]) < 1


def test_an_attack_with_settings_of_its_own(linear: nn.Sequential, digits: ImageSet) -> None:
    strong = functools.partial(adversarial, threat="l2:0.5", steps=3, seed=4)
    side = extract(linear, digits, attack=strong, name="mine")
    assert side.name == "mine under pgd-3(Sequential, l2:0.5)"
    assert (side.provenance["condition"]["seed"], side.provenance["condition"]["steps"]) == (4, 3)


def test_an_attack_on_data_without_labels_is_refused(linear: nn.Sequential) -> None:
    text = (
        "extract: an attack needs an ImageSet; got Tensor. "
        "Make one of images, labels and ids: repsim.ImageSet(images, labels, ids, name)."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        extract(linear, torch.rand(4, 1, 8, 8), attack="linf:0.1")
