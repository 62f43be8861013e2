"""Live sources: what they are, what a network is left like, and comparisons in which nothing is kept."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import repsim
from repsim import Activations, CautionWarning, ImageSet, Network, extract, load_data, load_model
from repsim.features.live_activations import LiveActivations, live
from repsim.metrics import PairwiseResult, get_metric
from repsim.metrics.alignment.cka_minibatch import MinibatchCKA
from repsim.metrics.alignment.streaming import ShiftedLayer
from repsim.similarity import exact_cka as exact_module
from repsim.similarity import streamed as streaming_module
from repsim.similarity.streamed import streamed
from tests.conftest import exactly
from tests.oracles import cka as cka_oracle
from tests.oracles import cka_minibatch as minibatch_oracle
from tests.support.places import SHARED

MINIBATCH = pytest.mark.parametrize("size", [150, 64, 16])
SOME = ["conv1", "layer*.*", "linear"]
FORMS = pytest.mark.parametrize("metric", ["cka", "cka_biased"])


@pytest.fixture(scope="module")
def nets() -> tuple[Network, Network]:
    return load_model("digits_resnet8", seed=1), load_model("digits_resnet8", seed=2, name="other")


@pytest.fixture(scope="module")
def kept(nets: tuple[Network, Network], digits: ImageSet) -> tuple[Activations, Activations]:
    a, b = (extract(net, digits, layers=SOME, reduction="flatten", progress=False) for net in nets)
    return a, b


def source(net: nn.Module, data: Any, **options: Any) -> LiveActivations:
    return live(net, data, progress=False, **options)


def rows(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def table(a: Activations, b: Activations, oracle: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
    x, y = ([v.double().numpy() for v in side.features.values()] for side in (a, b))
    return np.array([[oracle(u, v) for v in y] for u in x])


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


# --- What a live source is --------------------------------------------------------------------------------------


def test_it_stands_where_activations_stand(digits: ImageSet, nets: tuple[Network, Network]) -> None:
    found, expected = source(nets[0], digits), extract(nets[0], digits, reduction="flatten", progress=False)
    assert isinstance(found, LiveActivations)
    assert found.layers == tuple(found) == expected.layers
    assert found.widths == tuple(x.shape[1] for x in expected.features.values())
    assert set(found.dtypes) == {torch.float32}
    assert len(found) == len(expected)
    assert found.n == expected.n == 150
    assert found.labels is not None
    assert torch.equal(found.labels, digits.labels)
    assert found.digest == expected.digest == digits.digest
    assert found.name == expected.name
    assert found.reduction == "flatten"
    assert found.provenance == expected.provenance
    text = "LiveActivations('digits_resnet8', 18 layers × 150 samples, width 10 to 1,024, flatten)"
    assert repr(found) == text
    assert repr(source(nets[0], digits, layers="linear", name="mine")) == (
        "LiveActivations('mine', 1 layers × 150 samples, width 10, flatten)"
    )


def test_only_a_few_samples_are_run_until_it_is_read(digits: ImageSet) -> None:
    net = load_model("digits_resnet8")
    seen: list[int] = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    side = source(net, digits)
    found_out = [2, 3, 2, 2]  # two batch sizes, a second size, and how wide the layers are
    assert seen == found_out
    assert [len(next(iter(part.values()))) for part in side.batches(100)] == [100, 50]
    assert seen == [*found_out, 64, 36, 50]


@pytest.mark.parametrize("reduction", ["flatten", "mean", "pool:2"])
@pytest.mark.parametrize("size", [1, 64, 100, 150, 1000])
def test_batches_are_the_features_of_extract(reduction: str, size: int, digits: ImageSet) -> None:
    """Up to the order of columns, where maps lie in memory with their channels last."""
    net, layers = load_model("digits_resnet8"), ["layer*.*", "linear"]
    small = digits.take(range(70)) if size == 1 else digits
    expected = extract(net, small, layers=layers, reduction=reduction, progress=False)
    parts = list(source(net, small, layers=layers, reduction=reduction).batches(size))
    assert [len(part["linear"]) for part in parts[:-1]] == [size] * (len(parts) - 1)
    for layer in expected:
        found = torch.cat([part[layer] for part in parts])
        assert found.shape == expected[layer].shape
        gram, other = found @ found.T, expected[layer] @ expected[layer].T
        torch.testing.assert_close(gram, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


class Colour(nn.Module):
    """Three channels in, so that channels can be last; a module that runs twice; an operation in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.again = nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.again(self.act(self.bn(self.conv(x)))))
        return self.head(self.again(x).mean((2, 3)))


def test_columns_keep_one_order_whatever_the_batch() -> None:
    x = rows(70, 3, 5, 5)
    net, order = Colour().eval(), None
    side = source(net, x)
    assert side.layers == ("conv", "bn", "act", "again", "act#2", "again#2", "head")
    expected = extract(net, x, reduction="flatten", progress=False)
    for size in (70, 64, 33, 1):
        found = torch.cat([part["again#2"] for part in side.batches(size)])
        if order is None:
            order = found
            sorted_rows = [torch.sort(y, 1).values for y in (found, expected["again#2"])]
            torch.testing.assert_close(sorted_rows[0], sorted_rows[1], rtol=1e-4, atol=1e-5)
            # Channels are last: the first three columns are one position's.
            torch.testing.assert_close(found[:, :4], expected["again#2"][:, ::25], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, order, rtol=1e-4, atol=1e-5)


def test_columns_keep_one_order_where_the_network_changes_its_own() -> None:
    def lie(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last if len(x) > 20 else torch.contiguous_format)

    x = rows(70, 3, 5, 5)
    side = source(answering(lie), x, batch_size=30)  # passes of 30, 30 and 10
    found = torch.cat([part["odd"] for part in side.batches(70)])
    again = torch.cat([part["odd"] for part in side.batches(10)])
    assert torch.equal(found, again)


def test_an_operation_in_place_after_a_layer_changes_nothing() -> None:
    x = rows(70, 3, 5, 5)
    part = next(source(Colour(), x).batches(70))
    assert float(part["bn"].min()) < 0 <= float(part["act"].min())


class Viewing(nn.Module):
    """Takes its maps for rows without asking how they lie in memory, as small networks do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).view(-1, 36))


def test_a_network_that_cannot_take_channels_last_is_run_without() -> None:
    x, net = rows(70, 3, 5, 5), Viewing()
    expected = extract(net, x, reduction="flatten", progress=False)
    for part in source(net, x).batches(70):
        for layer, found in part.items():
            torch.testing.assert_close(found, expected[layer], rtol=1e-5, atol=1e-6)
    assert hooks(net) == 0


def test_data_come_as_for_extract() -> None:
    net, x, y = Colour(), rows(30, 3, 5, 5), torch.arange(30) % 3
    expected = source(net, x)
    for data in (DataLoader(TensorDataset(x, y), batch_size=7), [(x[:9], y[:9]), (x[9:], y[9:])]):
        found = source(net, data)
        assert found.digest == expected.digest
        assert found.labels is not None
        assert torch.equal(found.labels, y)
    assert expected.labels is None


def test_asking_for_a_layer_says_that_nothing_is_kept() -> None:
    text = (
        "LiveActivations: live features are not kept; got a request for layer 'conv'. "
        "Use extract(...) for this, or read them with .batches(size)."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        source(Colour(), rows(4, 3, 5, 5))["conv"]


# --- What is refused --------------------------------------------------------------------------------------------


def answering(function: Callable[[Tensor], Any]) -> nn.Sequential:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    return nn.Sequential(OrderedDict(odd=Odd()))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: live(Colour(), rows(4, 3, 5, 5), layers="convv"),
            ValueError,
            "live: layers must name modules of the network; got 'convv'. Close matches: conv.",
        ),
        (
            lambda: live(answering(lambda x: x > 0), rows(4, 5)),
            ValueError,
            "live: layer 'odd' must give floating-point tensors; got torch.bool. Leave this layer out of layers=.",
        ),
        (
            lambda: live(answering(lambda x: x @ x.T), rows(4, 5)),
            ValueError,
            "live: layer 'odd' must give a row of features for each sample; got shape (2, 2) for 2 samples, where 2 "
            "axes grow with the batch. Leave this layer out of layers=.",
        ),
        (
            lambda: live(Colour(), rows(4, 3, 5, 5), batch_size=0),
            ValueError,
            "live: batch_size must be at least 1; got 0. Leave it out.",
        ),
        (
            lambda: live(Colour(), []),
            ValueError,
            "live: there must be samples; got none. Pass a loader that is not empty.",
        ),
        (
            lambda: live(Colour(), DataLoader(TensorDataset(rows(4, 3, 5, 5)), shuffle=True)),
            ValueError,
            "live: data must come in a fixed order; got a loader with a RandomSampler. "
            "Make it with shuffle=False: both networks must see the same samples in the same order.",
        ),
        (
            lambda: next(live(Colour(), rows(4, 3, 5, 5)).batches(0)),
            ValueError,
            "LiveActivations.batches: size must be at least 1; got 0. Ask for a few hundred.",
        ),
    ],
)
def test_errors_say_what_to_do(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=exactly(text)):
        make()


def test_a_chosen_layer_that_never_runs_is_named() -> None:
    net = Colour()
    net.spare = nn.Linear(2, 2)
    text = (
        "live: every chosen layer must run; got no output of spare. "
        "Choose layers that the forward pass uses, or layers=None for all that ran."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        live(net, rows(4, 3, 5, 5), layers=["conv", "spare"])
    assert live(net, rows(4, 3, 5, 5)).provenance["layers_that_never_ran"] == ["spare"]


NARROWER = (
    "live: layer 'odd' must keep its width; got 2 after 4. Samples of unequal size need a reduction such as mean."
)
INFINITE = (
    "compare: layer 'odd' of Sequential, {}, must be finite; got NaN or infinity. "
    "Look for a diverged network, an overflow in float16, or broken inputs."
)


@pytest.mark.parametrize(
    ("metric", "place"), [("cka_minibatch(batch_size=20)", "samples 20 to 39"), ("cka", "sample 20")]
)
@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x if float(x[0, 0]) < 8 else x[:, :2], NARROWER),
        (lambda x: torch.where(x > 8, torch.nan, x), INFINITE),
        (lambda x: torch.where(x > 8, torch.inf, x), INFINITE),
    ],
)
def test_trouble_in_a_later_batch_is_named(
    metric: str,
    place: str,
    sampled: bool,
    function: Callable[[Tensor], Tensor],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whether or not the broken one is among the samples that give the point features are measured from.
    monkeypatch.setattr(exact_module, "_SAMPLE", (60, 60) if sampled else (3, 3))
    monkeypatch.setattr(exact_module, "_AGAIN", 20)
    x = rows(60, 4).clamp(-3, 3)
    x[20] = 9.0
    net = answering(function)
    side = source(net, x, batch_size=20)
    with pytest.raises(ValueError, match=exactly(text.format(place))):
        streamed(side, side, get_metric(metric))
    assert hooks(net) == 0


class Switching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.always, self.extra = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.always(x)
        return self.extra(answer) if float(x[0, 0]) > 8 else answer


def test_a_layer_that_runs_in_some_batches_only_is_refused() -> None:
    x = rows(60, 4)
    x[20] = 9.0
    text = (
        "live: every batch must run the same layers; got extra in some batches only. "
        "Choose layers that every sample passes through equally often."
    )
    side = source(Switching(), x, batch_size=20)
    with pytest.raises(ValueError, match=exactly(text)):
        streamed(side, side, MinibatchCKA(20))


@pytest.mark.parametrize(
    ("metric", "got"), [("td", "td"), ("svcca", "svcca"), ("cka(without_components=1)", "cka(without_components=1)")]
)
def test_measures_that_need_all_features_at_once_are_refused(metric: str, got: str, digits: ImageSet) -> None:
    side = source(load_model("digits_resnet8"), digits, layers="linear")
    text = (
        f"compare: live features take measures that need no more than a batch at a time; got {got}. "
        'Use "cka_minibatch", "cka" or "cka_biased", or keep smaller features: extract(..., reduction="mean").'
    )
    with pytest.raises(ValueError, match=exactly(text)):
        streamed(side, side, get_metric(metric))


# --- What a network is left like --------------------------------------------------------------------------------


def mixed_modes() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(36, 3))
    net.train()
    net[1].eval()
    return net


def test_hooks_and_modes_are_as_before_even_where_the_reader_stops_early() -> None:
    net, x = mixed_modes(), rows(70, 3, 5, 5)
    handle = net[0].register_forward_hook(lambda *_: None)  # somebody else's
    modes = [module.training for module in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}

    def unchanged() -> bool:
        same = all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        now = [module.training for module in net.modules()]
        return hooks(net) == 1 and now == modes and same and torch.is_grad_enabled()

    side = source(net, x)
    assert unchanged()
    parts = side.batches(16)
    next(parts)
    assert unchanged()  # between two batches, whether or not there is another one
    del parts
    assert unchanged()
    streamed(side, side, MinibatchCKA(16))
    streamed(side, side, get_metric("cka"))
    assert unchanged()
    handle.remove()


def test_a_measure_that_fails_halfway_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mixed_modes()
    side = source(net, rows(70, 3, 5, 5))
    modes = [module.training for module in net.modules()]

    def fail(self: MinibatchCKA, sums: Any, rows: Any, cols: Any) -> None:
        assert isinstance(next(iter(rows)), ShiftedLayer)
        raise KeyboardInterrupt

    monkeypatch.setattr(MinibatchCKA, "update", fail)
    with pytest.raises(KeyboardInterrupt):
        streamed(side, side, MinibatchCKA(16))
    assert hooks(net) == 0
    assert [module.training for module in net.modules()] == modes


# --- Minibatch CKA ----------------------------------------------------------------------------------------------


def passes(net: nn.Module, work: Callable[[], Any]) -> list[int]:
    """How many samples each forward pass of `work` takes."""
    seen: list[int] = []
    handle = net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    work()
    handle.remove()
    return seen


@MINIBATCH
@pytest.mark.parametrize("batch_size", [256, 7])
def test_minibatch_cka_is_that_of_the_features_kept(
    size: int, batch_size: int, nets: tuple[Network, Network], kept: tuple[Activations, Activations], digits: ImageSet
) -> None:
    a, b = (source(net, digits, layers=SOME, batch_size=batch_size) for net in nets)
    found = streamed(a, b, MinibatchCKA(size))
    expected = table(*kept, lambda x, y: minibatch_oracle.minibatch(x, y, size))
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-6)
    assert found.reasons == {}
    stored = streamed(kept[0], b, MinibatchCKA(size))  # one side of each kind
    np.testing.assert_allclose(stored.values, expected, rtol=0, atol=1e-6)
    assert {name: x.tolist() for name, x in stored.details.items()} == {
        "batch_size": np.full((5, 5), size).tolist(),
        "batches": np.full((5, 5), len(minibatch_oracle.batches(150, size))).tolist(),
    }


def test_each_sample_is_run_once_and_one_network_is_run_once(nets: tuple[Network, Network], digits: ImageSet) -> None:
    a, b = (source(net, digits) for net in nets)
    assert passes(nets[0], lambda: streamed(a, b, MinibatchCKA(100))) == [64, 36, 50]
    assert passes(nets[1], lambda: streamed(a, b, MinibatchCKA(100))) == [64, 36, 50]
    assert passes(nets[0], lambda: streamed(a, a, MinibatchCKA(100))) == [64, 36, 50]


def test_one_network_twice_is_symmetric(nets: tuple[Network, Network], digits: ImageSet) -> None:
    a, twin = source(nets[0], digits), source(nets[0], digits)
    found = streamed(a, a, MinibatchCKA(64)).values
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.diagonal(), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(streamed(a, twin, MinibatchCKA(64)).values, found, rtol=0, atol=1e-6)


def test_networks_of_other_types_and_widths_meet(digits: ImageSet) -> None:
    x = digits.pixels(slice(None))
    wide, narrow = load_model("digits_resnet8", seed=3).double(), nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    torch.manual_seed(0)
    a, b = source(wide, digits, layers="layer*.*"), source(narrow, x)
    assert set(a.dtypes) == {torch.float64}
    fa, fb = (
        extract(net, data, layers=layers, reduction="flatten", progress=False)
        for net, data, layers in ((wide, digits, "layer*.*"), (narrow, x, None))
    )
    expected = table(fa, fb, lambda u, v: minibatch_oracle.minibatch(u, v, 70))
    np.testing.assert_allclose(streamed(a, b, MinibatchCKA(70)).values, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(streamed(b, a, MinibatchCKA(70)).values, expected.T, rtol=0, atol=1e-7)
    exact = table(fa, fb, cka_oracle.debiased)
    np.testing.assert_allclose(streamed(a, b, get_metric("cka")).values, exact, rtol=0, atol=1e-7)


class Affine(nn.Module):
    """Rows in, rows out, far from zero and on any scale."""

    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset, self.inside = factor, offset, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(self.factor * x + self.offset)


@pytest.mark.parametrize(("factor", "offset"), [(1e30, 0), (1e-30, 0), (1e10, 0), (1e-10, 0), (1, 1e4), (1, -1e6)])
@pytest.mark.parametrize("metric", ["cka_minibatch(batch_size=70)", "cka", "cka_biased"])
def test_scales_and_offsets_cost_no_digits(factor: float, offset: float, metric: str) -> None:
    # Multiples of 1/16, so that no digit is lost before the measure sees them; sorted, so that blocks differ.
    x = (16 * rows(150, 300)).round() / 16 + torch.linspace(-2, 2, 150).mul(16).round().div(16)[:, None]
    y = rows(150, 20, seed=1) + x[:, :20]
    a = source(Affine(factor, offset), x, batch_size=8)
    oracles = {"cka": cka_oracle.debiased, "cka_biased": cka_oracle.biased}
    oracle = oracles.get(metric, lambda u, v: minibatch_oracle.minibatch(u, v, 70))
    expected = oracle(x.double().numpy(), y.double().numpy())
    found = streamed(a, Activations({"y": y}), get_metric(metric)).values
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_a_first_row_far_from_all_others_costs_no_digits() -> None:
    """A network that takes one row at a time: its first one is no point to measure the others from."""
    x, y = rows(150, 300), rows(150, 300, seed=1)
    y[:, :100] += x[:, :100]
    x[0] += 300
    found = streamed(source(nn.Sequential(nn.Identity()), x, batch_size=1), Activations({"y": y}), MinibatchCKA(150))
    assert float(found.values) == pytest.approx(
        minibatch_oracle.minibatch(x.double().numpy(), y.double().numpy(), 150), abs=1e-6
    )


@pytest.mark.parametrize("metric", ["cka_minibatch(batch_size=70)", "cka", "cka_biased"])
@pytest.mark.parametrize("fill", [0.0, 0.1, -1e30])
def test_a_constant_layer_has_its_reason(metric: str, fill: float) -> None:
    x = rows(150, 6)
    flat = source(answering(lambda x: torch.full_like(x, fill)), x)
    text = "the row layer has constant features: every sample has the same row"
    found = streamed(flat, source(nn.Sequential(nn.Identity()), x), get_metric(metric))
    assert found.reasons == {(0, 0): text}
    assert torch.isnan(found.values).all()
    other = streamed(source(nn.Sequential(nn.Identity()), x), Activations({"x": x}), get_metric(metric))
    assert other.reasons == {}


# --- Exact CKA --------------------------------------------------------------------------------------------------

# Bytes allowed: all samples at once; a few blocks; blocks of a few samples.
BUDGETS = pytest.mark.parametrize("budget", [2**30, 10 * 2**20, 2 * 2**20])


def same_details(found: PairwiseResult, kept: tuple[Activations, Activations], metric: str) -> None:
    """What stands beside the values is what stands there for features that are kept."""
    chosen = get_metric(metric)
    states = chosen.prepare([x.double() for side in kept for x in side.features.values()], None)
    expected = chosen.pairwise(states[: len(kept[0])], states[len(kept[0]) :])
    assert found.details.keys() == expected.details.keys()
    for name, value in expected.details.items():
        np.testing.assert_allclose(found.details[name], value, rtol=1e-5, err_msg=name)
    assert found.cautions == expected.cautions


@FORMS
@BUDGETS
def test_exact_cka_is_that_of_the_features_kept(
    metric: str,
    budget: int,
    nets: tuple[Network, Network],
    kept: tuple[Activations, Activations],
    digits: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exact_module, "_BUDGET", budget)
    monkeypatch.setattr(exact_module, "_AGAIN", 40)
    oracle = cka_oracle.debiased if metric == "cka" else cka_oracle.biased
    a, b = (source(net, digits, layers=SOME) for net in nets)
    for left, right in ((a, b), (kept[0], b), (a, kept[1])):
        found = streamed(left, right, get_metric(metric))
        np.testing.assert_allclose(found.values, table(*kept, oracle), rtol=0, atol=1e-6)
        same_details(found, kept, metric)
    own = streamed(a, a, get_metric(metric))
    np.testing.assert_allclose(own.values, table(kept[0], kept[0], oracle), rtol=0, atol=1e-6)
    np.testing.assert_allclose(own.values.diagonal(), 1, rtol=0, atol=1e-9)


@BUDGETS
def test_later_samples_are_run_again_for_each_block(
    budget: int, nets: tuple[Network, Network], digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_module, "_BUDGET", budget)
    monkeypatch.setattr(exact_module, "_AGAIN", 16)
    a, b = (source(net, digits) for net in nets)
    tiles = exact_module._Tiles([a, b], torch.float32)
    count = len(tiles._edges) - 1
    assert {2**30: count == 1, 10 * 2**20: 2 <= count <= 8, 2 * 2**20: count > 8}[budget]
    assert max(np.diff(tiles._edges)) * sum([*a.widths, *b.widths]) * 4 <= budget
    run = passes(nets[0], lambda: streamed(a, b, get_metric("cka")))
    # The sample that gives the mean, all samples once, and those after each block again.
    assert sum(run) == 16 + 150 + sum(150 - edge for edge in tiles._edges[1:])


def test_float64_is_exact_to_rounding(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "_BUDGET", 5 * 2**20)
    net = load_model("digits_resnet8", seed=5).double()
    side = source(net, digits, layers="layer*.*")
    features = extract(net, digits, layers="layer*.*", reduction="flatten", progress=False)
    for metric, oracle in (("cka", cka_oracle.debiased), ("cka_biased", cka_oracle.biased)):
        found = streamed(side, side, get_metric(metric)).values
        np.testing.assert_allclose(found, table(features, features, oracle), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [4, 5, 20, 63])
def test_few_samples_are_computed_in_float64(n: int) -> None:
    x, y = rows(n, 300), rows(n, 40, seed=1)
    a, b = source(nn.Sequential(nn.Identity()), x), source(nn.Sequential(nn.Identity()), y)
    expected = cka_oracle.debiased(x.double().numpy(), y.double().numpy())
    assert float(streamed(a, b, get_metric("cka")).values) == pytest.approx(expected, abs=1e-10)


def test_where_little_is_left_after_debiasing_float64_is_used() -> None:
    """Independent wide rows: nearly all of ‖K‖² is its diagonal."""
    x, y = rows(70, 20_000), rows(70, 20_000, seed=1)
    a, b = source(nn.Sequential(nn.Identity()), x), source(nn.Sequential(nn.Identity()), y)
    expected = cka_oracle.debiased(x.double().numpy(), y.double().numpy())
    assert float(streamed(a, b, get_metric("cka")).values) == pytest.approx(expected, abs=1e-9)


def test_rows_that_are_all_equally_far_apart_have_no_direction() -> None:
    a = source(nn.Sequential(nn.Identity()), torch.eye(70))
    found = streamed(a, a, get_metric("cka"))
    assert found.reasons == {(0, 0): "the row layer has an unbiased estimate of its own HSIC that is not positive"}


# --- Memory and the bar -----------------------------------------------------------------------------------------


def test_batches_that_would_not_fit_are_refused(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    side = source(load_model("digits_resnet8"), digits)

    monkeypatch.setattr("repsim.numerics.memory.available_memory", lambda: 10**6)
    text = (
        "compare: the features of one batch must fit into memory; got 0.0 GiB with 0.0 GiB free. "
        "Lower batch_size, or choose fewer layers."
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        streamed(side, side, MinibatchCKA(150))


def test_layers_that_no_block_could_hold_are_refused(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "_BUDGET", 40_000)
    side = source(load_model("digits_resnet8"), digits)
    text = (
        "compare: the layers of a few samples must fit into 0.0 GiB; got 11,018 features per sample. "
        "Choose fewer layers."
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        streamed(side, side, get_metric("cka"))


def test_the_default_blocks_of_a_large_comparison_fit() -> None:
    """Two ResNet-20 with 28 flattened layers each, 10,000 images: see the plan, not the comparison."""
    net = load_model("resnet20")
    data = ImageSet(
        torch.zeros(10_000, 3, 32, 32, dtype=torch.uint8),
        torch.arange(10_000) % 10,
        tuple(map(str, range(10_000))),
        "x",
    )
    a, b = (source(net, data, layers=["**.conv*", "layer*.*"]) for _ in range(2))
    assert sum(a.widths) == 274_432
    tiles = exact_module._Tiles([a, b], torch.float32)
    bytes_held = sum(pool._flat.nbytes for pool in [*tiles._held, *tiles._pools.values()]) + tiles._room.nbytes
    assert bytes_held <= 3 * 2**30
    assert len(tiles._edges) - 1 <= 10


@pytest.mark.parametrize("metric", ["cka_minibatch(batch_size=16)", "cka"])
def test_the_bar_ends_where_it_should(
    metric: str, nets: tuple[Network, Network], digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[int, list[int], bool]] = []

    class Bar:
        def __init__(self, total: int, what: str, unit: str, *, show: bool) -> None:
            assert what == "compare digits_resnet8 × other"
            bars.append((total, [], show))

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, count: int = 1) -> None:
            bars[-1][1].append(count)

    monkeypatch.setattr(streaming_module, "progress_bar", Bar)
    monkeypatch.setattr(exact_module, "progress_bar", Bar)
    monkeypatch.setattr(exact_module, "_BUDGET", 10 * 2**20)
    for progress in (True, False):
        a, b = live(nets[0], digits, progress=progress), live(nets[1], digits, progress=False)
        streamed(a, b, get_metric(metric))
    assert [show for *_, show in bars] == [True, False]
    for total, updates, _ in bars:
        assert sum(updates) == total
        assert len(updates) > 5


# --- Real networks ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")  # two of its ten classes are shown
def test_a_network_that_other_people_trained(tmp_path: Path) -> None:
    """Flattened feature maps of CIFAR images: far from zero, strongly correlated, sorted by class."""
    checkpoint, archive = SHARED / "checkpoints/resnet20-12fca82f.th", SHARED / "data/cifar10-jpeg.tar.xz"
    for file in (checkpoint, archive):
        if not file.is_file():
            pytest.skip(f"NOT TESTED: {file.name} is missing under the folder {SHARED}; the real network was not run")
    import tarfile

    classes = [f"test/{name}/" for name in ("airplane", "cat")]
    with tarfile.open(archive) as stream:
        for member in stream:
            if member.name.startswith(tuple(classes)):
                stream.extract(member, tmp_path, filter="data")
    data = load_data(f"imagefolder:{tmp_path}", split="test", limit=200, root=tmp_path / "cache", progress=False)
    net = load_model("resnet20", checkpoint=checkpoint, normalize="imagenet")
    layers = ["conv1", "layer2.1", "layer3.2"]
    side = source(net, data, layers=layers)
    kept = extract(net, data, layers=layers, reduction="flatten", progress=False)
    oracles: Sequence[tuple[str, Callable[[np.ndarray, np.ndarray], float]]] = [
        ("cka_minibatch(batch_size=64)", lambda x, y: minibatch_oracle.minibatch(x, y, 64)),
        ("cka", cka_oracle.debiased),
        ("cka_biased", cka_oracle.biased),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        for metric, oracle in oracles:
            found = streamed(side, side, get_metric(metric)).values
            np.testing.assert_allclose(found, table(kept, kept, oracle), rtol=0, atol=1e-6)


def test_a_live_side_names_the_condition_of_its_images(digits: ImageSet) -> None:
    from repsim.robustness.corruptions import corrupt

    net = repsim.load_model("digits_resnet8", name="net")
    noisy = corrupt(digits, "gaussian_noise:2")
    stored = repsim.extract(net, noisy, layers="layer*.*", reduction="flatten", progress=False)
    side = live(net, noisy, layers="layer*.*", progress=False)
    assert side.name == stored.name == f"net under {noisy.condition}"
    for fact in ("data", "condition", "pixels"):
        assert side.provenance[fact] == stored.provenance[fact]
    clean = live(net, digits, layers="layer*.*", progress=False)
    found = repsim.compare(clean, side, "cka_minibatch(batch_size=50)")
    assert 0 < found.values[0, 0] < 1
