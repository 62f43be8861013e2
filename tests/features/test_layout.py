"""Which axis is what: each kind of evidence on a network made for it, held against what the network's author meant."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repsim.features.dry_runs import DryRuns, dry_runs
from repsim.features.evidence import Finding, LeftOut, Undecided
from repsim.features.layout import Layout

IMAGES, TOKENS, IDS = torch.rand(4, 3, 16, 16), torch.rand(4, 10, 16), torch.randint(0, 30, (4, 12))


def found(net: nn.Module, x: Tensor) -> dict[str, str]:
    """Layer -> the letters of its layout, or why it has none."""
    return {layer: said(finding) for layer, finding in findings(net, x).calls.items()}


def findings(net: nn.Module, x: Tensor) -> DryRuns:
    def run(batch: Tensor) -> object:
        with torch.no_grad():
            return net(batch)

    net.eval()
    tapped = {name: module for name, module in net.named_modules() if name}
    return dry_runs(run, net, tapped, lambda k: x[torch.arange(k) % len(x)])


def said(finding: Finding) -> str:
    return finding.code if isinstance(finding, Layout) else finding.why if isinstance(finding, LeftOut) else "?"


class Does(nn.Module):
    """A network whose forward pass is a function of itself and its input."""

    def __init__(self, forward, **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.does = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, x)


# ----------------------------------------------------------------------------------------------- operations
def test_convolutions_have_channels_second() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert found(net, IMAGES) == {"0": "nchw", "1": "nchw", "2": "nchw", "3": "nchw", "4": "nc"}


def test_sequences_and_volumes_of_channels() -> None:
    assert found(nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()), torch.rand(4, 3, 12)) == {"0": "nct", "1": "nct"}
    assert found(nn.Sequential(nn.Conv3d(2, 8, 3)), torch.rand(4, 2, 8, 8, 8)) == {"0": "ncdhw"}


def test_one_network_has_channels_second_and_last() -> None:
    # As many channels as rows and columns, so that no length gives them away.
    net = Does(
        lambda s, x: s.id(s.linear(s.norm(s.id(s.conv(x)).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)),
        conv=nn.Conv2d(3, 16, 3, padding=1),
        norm=nn.LayerNorm(16),
        linear=nn.Linear(16, 16),
        id=nn.Identity(),
    )
    layouts = {"conv": "nchw", "id": "nchw", "norm": "nhwc", "linear": "nhwc", "id#2": "nchw"}
    assert found(net, IMAGES) == layouts


def test_a_norm_of_channels_that_calls_itself_layer_norm() -> None:
    class LayerNorm2d(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert found(nn.Sequential(nn.Conv2d(3, 16, 1), LayerNorm2d(16)), IMAGES)["1"] == "nchw"


@pytest.mark.parametrize("batch_first", [True, False])
def test_tokens_or_samples_first(batch_first: bool) -> None:
    # Three and two tokens are as many as samples in the dry runs.
    for tokens in (2, 3, 10):
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first)
        net = Does(lambda s, x: s.layer(x if batch_first else x.transpose(0, 1)).sum(), layer=layer)
        got = found(net, torch.rand(4, tokens, 16))
        assert set(got.values()) == {"ntc" if batch_first else "tnc"}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind: Any, batch_first: bool) -> None:
    rnn = kind(16, 6, bidirectional=True, batch_first=batch_first)
    net = Does(lambda s, x: s.head(s.rnn(x if batch_first else x.transpose(0, 1))[0]), rnn=rnn, head=nn.Linear(12, 3))
    assert set(found(net, TOKENS).values()) == {"ntc" if batch_first else "tnc"}


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_as_a_layer(batch_first: bool) -> None:
    attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)
    net = Does(lambda s, x: s.a(x, x, x)[0] if batch_first else s.a(*[x.transpose(0, 1)] * 3)[0], a=attention)
    assert found(net, TOKENS) == {"a": "ntc" if batch_first else "tnc"}


def test_embeddings_make_features() -> None:
    net = nn.Sequential(nn.Embedding(30, 12), nn.LayerNorm(12), nn.Dropout())
    assert found(net, IDS) == {"0": "ntc", "1": "ntc", "2": "ntc"}


def test_windows_are_folded_into_the_samples() -> None:
    def windows(s: Any, x: Tensor) -> Tensor:
        x = s.embed(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        return s.mix(s.norm(x))

    # 16 windows of 16 tokens with 16 channels.
    net = Does(windows, embed=nn.Conv2d(3, 16, 1), norm=nn.LayerNorm(16), mix=nn.Linear(16, 16))
    got = findings(net, IMAGES).calls
    assert said(got["norm"]) == said(got["mix"]) == "(nk)tc"
    x = torch.rand(2 * 16, 16, 16)
    layout = got["mix"]
    assert isinstance(layout, Layout)
    assert torch.equal(layout.samples_first(x, 2), x.view(2, 16, 16, 16))
    assert layout.positions == (1, 2)


def test_samples_folded_behind_positions() -> None:
    # Tokens first, then all tokens of all samples as rows: (t n) c.
    net = Does(lambda s, x: s.head(x.transpose(0, 1).reshape(-1, 16)), head=nn.Linear(16, 5))
    layout = findings(net, TOKENS).calls["head"]
    assert isinstance(layout, Layout)
    assert layout.code == "(kn)c"
    x = torch.rand(4, 10, 5)
    assert torch.equal(layout.samples_first(x.transpose(0, 1).reshape(40, 5), 4), x)


def test_heads_are_features_wherever_they_stand() -> None:
    def heads(s: Any, x: Tensor) -> Tensor:
        q = s.apart(s.q(x).view(len(x), 10, 4, 8).transpose(1, 2))
        return s.folded(q.reshape(-1, 10, 8))

    net = Does(heads, q=nn.Linear(16, 32), apart=nn.LayerNorm(8), folded=nn.LayerNorm(8))
    got = findings(net, TOKENS).calls
    assert {layer: said(finding) for layer, finding in got.items()} == {"q": "ntc", "apart": "nctc", "folded": "(nc)tc"}
    x = torch.rand(2, 4, 10, 8)
    layout = got["folded"]
    assert isinstance(layout, Layout)
    assert torch.equal(layout.samples_first(x.reshape(8, 10, 8), 2), x)
    assert layout.positions == (2,)


@pytest.mark.parametrize("by", ["linear", "convolution"])
def test_mixed_tokens_are_positions(by: str) -> None:
    """The hidden units of a token mixer stand where tokens stood, as long as they are or not."""

    def mixed(s: Any, x: Tensor) -> Tensor:
        y = s.norm(s.embed(x).flatten(2).transpose(1, 2))
        return s.out(s.act(s.mix(y.transpose(1, 2))).transpose(1, 2)) if by == "linear" else s.out(s.act(s.mix(y)))

    for hidden in (16, 24, 40):  # 16 tokens of 24 channels
        mix = nn.Linear(16, hidden) if by == "linear" else nn.Conv1d(16, hidden, 1)
        layers = {"embed": nn.Conv2d(3, 24, 4, 4), "norm": nn.LayerNorm(24), "mix": mix, "act": nn.GELU()}
        got = found(Does(mixed, **layers, out=nn.Linear(24, 5)), IMAGES)
        between = "nct" if by == "linear" else "ntc"
        assert got == {"embed": "nchw", "norm": "ntc", "mix": between, "act": between, "out": "ntc"}


def test_attention_across_channels_takes_them_for_a_sequence() -> None:
    """A convolution along channels (ECA) answers (n, 1, c): channels stay channels."""
    net = Does(
        lambda s, x: s.eca(s.conv(x).mean((2, 3)).unsqueeze(1)),
        conv=nn.Conv2d(3, 8, 3),
        eca=nn.Conv1d(1, 1, 3, padding=1),
    )
    assert found(net, IMAGES)["eca"] == "ntc"


def test_patches_as_rows_and_space_to_depth() -> None:
    def patches(s: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 4, 4, w // 4, 4)
        s.deep(x.permute(0, 3, 5, 1, 2, 4).reshape(n, 16 * c, h // 4, w // 4))
        return s.rows(x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 16 * c))

    assert found(Does(patches, deep=nn.Identity(), rows=nn.Identity()), IMAGES) == {"deep": "nchw", "rows": "ntc"}


def test_depth_to_space_is_told_by_what_comes_after_or_by_the_second_size() -> None:
    def deeper(s: Any, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = s.conv(x).view(n, 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, 4, 2 * h, 2 * w)
        return s.id(x)

    assert found(Does(deeper, conv=nn.Conv2d(3, 16, 1), id=nn.Identity()), IMAGES)["id"] == "nchw"
    net = nn.Sequential(nn.Linear(6, 8 * 16), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 4, 4))
    assert found(net, torch.rand(4, 6)) == {"0": "nc", "1": "nchw", "2": "nchw"}


def test_frames_folded_into_samples() -> None:
    net = Does(lambda s, x: s.conv(x.flatten(0, 1)).mean((2, 3)), conv=nn.Conv2d(3, 8, 3))
    assert found(net, torch.rand(4, 5, 3, 8, 8)) == {"conv": "(nk)chw"}


def test_learned_queries_are_positions() -> None:
    decoder = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    net = Does(lambda s, x: s.d(s.q.expand(len(x), -1, -1), x), d=decoder, q=nn.Parameter(torch.rand(1, 5, 16)))
    assert set(found(net, TOKENS).values()) == {"ntc"}


def test_kernels_of_a_samples_own() -> None:
    def own(s: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = s.kernels(x.mean((2, 3))).view(n * 8, c, 1, 1)
        return s.id(F.conv2d(x.reshape(1, n * c, h, w), kernels, groups=n).view(n, 8, h, w))

    assert found(Does(own, kernels=nn.Linear(3, 24), id=nn.Identity()), IMAGES) == {"kernels": "nc", "id": "nchw"}


# ----------------------------------------------------------------------------------------------- second size
def test_a_second_size_tells_what_operations_do_not() -> None:
    def steps(s: Any, x: Tensor) -> Tensor:
        return s.states(torch.stack([s.cell(x[:, t]) for t in range(x.shape[1])], 1))

    ids = {"cell": nn.Embedding(30, 6), "states": nn.Dropout()}
    assert found(Does(steps, **ids), IDS)["states"] == "ntc"
    # Where the number of steps is fixed, nothing tells time from branches.
    fixed = Does(lambda s, x: steps(s, x[:, :5].contiguous()) + s.places, **ids, places=nn.Parameter(torch.zeros(5, 6)))
    assert found(fixed, IDS)["states"] == "?"


def test_features_that_change_with_the_size_are_a_contradiction() -> None:
    """As many channels as columns: operations call them features, the second size calls them positions."""

    def contradicts(s: Any, x: Tensor) -> Tensor:
        return s.id(F.conv2d(x, torch.ones(x.shape[3], 3, 1, 1)))

    seen = "shape (2, 16, 16, 16) for 2 samples, (2, 48, 48, 48) for larger ones"
    finding = findings(Does(contradicts, id=nn.Identity()), IMAGES).calls["id"]
    assert finding == Undecided(f"{seen}, where axis 1 changes with the size and holds features", 0)


def test_a_network_of_one_size() -> None:
    net = Does(
        lambda s, x: s.head(s.norm(s.embed(x).flatten(2).transpose(1, 2) + s.places)),
        embed=nn.Conv2d(3, 16, 4, 4),
        places=nn.Parameter(torch.rand(1, 16, 16)),
        norm=nn.LayerNorm(16),
        head=nn.Linear(16, 16),
    )
    assert found(net, IMAGES) == {"embed": "nchw", "norm": "ntc", "head": "ntc"}


def test_the_second_size_leaves_no_trace_in_the_network() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.size, self.table = x.shape[-1], torch.zeros(x.shape[-1])
            return x

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Keeps())
    findings(net, IMAGES)
    assert net[1].size == 16
    assert net[1].table.shape == (16,)


# ----------------------------------------------------------------------------------------------- no row per sample
def test_what_has_no_row_for_each_sample() -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 16)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table(torch.arange(10)[None])

    norm = nn.utils.parametrizations.spectral_norm
    net = nn.Sequential(norm(nn.Linear(16, 64)), nn.Linear(64, 16), Bias())
    got = found(net, TOKENS)
    assert got["2.table"] == "shape (1, 10, 16) for 2 samples, where no axis grows with the batch"
    assert got["0.parametrizations.weight"] == "shape (64, 16) for 2 samples, where no axis grows with the batch"
    assert (got["0"], got["2"]) == ("ntc", "ntc")


def test_attention_weights_have_no_features() -> None:
    def attend(s: Any, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = s.qkv(x).view(n, t, 3, 4, 8).permute(2, 0, 3, 1, 4)
        scores = s.talk(s.raw(q @ k.transpose(-1, -2)))
        return s.out((s.drop(scores.softmax(-1)) @ v).transpose(1, 2).reshape(n, t, 32))

    layers = {"qkv": nn.Linear(16, 96), "raw": nn.Identity(), "talk": nn.Conv2d(4, 4, 1), "drop": nn.Dropout()}
    got = found(Does(attend, **layers, out=nn.Linear(32, 16)), TOKENS)
    weights = "shape (2, 4, 10, 10) for 2 samples, attention weights or scores, which have no features"
    assert got == {"qkv": "ntc", "raw": weights, "talk": weights, "drop": weights, "out": "ntc"}


def test_weights_that_sum_to_one_over_features_and_are_summed_over_with_data_are_attention() -> None:
    def across(s: Any, x: Tensor) -> Tensor:
        q, k, v = s.qkv(x).unflatten(2, (3, 8)).permute(2, 0, 3, 1)
        return s.out((s.drop((q @ k.transpose(1, 2)).softmax(-1)) @ v).transpose(1, 2))

    got = found(Does(across, qkv=nn.Linear(16, 24), drop=nn.Dropout(), out=nn.Linear(8, 5)), TOKENS)
    assert got["drop"] == "shape (2, 8, 8) for 2 samples, attention weights or scores, which have no features"
    assert (got["qkv"], got["out"]) == ("ntc", "ntc")


def test_a_softmax_over_classes_keeps_its_rows() -> None:
    assert found(nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.Softmax(1)), IMAGES)["2"] == "nc"
    assert found(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Softmax(1)), IMAGES)["1"] == "nchw"


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (lambda s, x: s.id(x.mean((1, 2, 3))), "shape (2) for 2 samples, one number for each"),
        (
            lambda s, x: s.id(x.flatten(1) @ x.flatten(1).T),
            "shape (2, 2) for 2 samples, where 2 axes grow with the batch",
        ),
        (lambda s, x: s.id(x.mean(1)), "shape (2, 16, 16) for 2 samples, positions and no features"),
        (lambda s, x: s.id(x.mean(0)), "shape (3, 16, 16) for 2 samples, where no axis grows with the batch"),
        (lambda s, x: s.id(x.flatten()[: len(x) ** 2]), "shape (4) for 2 samples, where no axis grows with the batch"),
        (lambda s, x: s.id(x[..., 0] if len(x) % 2 else x), "shape (2, 3, 16, 16) for 2 samples and (3, 3, 16) for 3"),
        (lambda s, x: s.id(x > 0), "torch.bool"),
        (lambda s, x: s.id([None, "text"]), "list"),
    ],
)
def test_reasons_to_leave_a_layer_out(does, why: str) -> None:
    assert found(Does(does, id=nn.Identity()), IMAGES) == {"id": why}


# ----------------------------------------------------------------------------------------------- undecided
def test_what_is_not_clear_is_not_guessed() -> None:
    """A forecast: weights over time or over variables? Nothing says which of the input's axes is which."""
    net = Does(lambda s, x: s.mix(x.transpose(1, 2)), mix=nn.Linear(10, 4))
    finding = findings(net, torch.rand(4, 10, 6)).calls["mix"]
    seen = "shape (2, 6, 4) for 2 samples, where axis 1 may be features or positions"
    assert finding == Undecided(seen, 0)


def test_branches_that_are_stacked_are_not_guessed() -> None:
    net = Does(lambda s, x: s.id(torch.stack([s.a(x), s.a(-x)], 1)), a=nn.Conv2d(3, 6, 1), id=nn.Identity())
    assert found(net, IMAGES) == {"a": "nchw", "a#2": "nchw", "id": "?"}


def test_operators_without_a_rule_fall_back_on_other_evidence() -> None:
    class Opaque(nn.Module):
        """Sorts its entries' bits through numpy: nothing follows it."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy().copy())

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.opaque, self.act = nn.Conv2d(3, 8, 3), Opaque(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.opaque(self.conv(x)))

    # (n, 8, 14, 10): the second size leaves 8 alone.
    assert found(nn.Sequential(Block()), torch.rand(4, 3, 16, 12))["0.opaque"] == "nchw"


def test_without_a_trace_declared_widths_and_surroundings_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    from repsim.features import dry_runs as module

    def refuses(*_: object) -> None:
        raise RuntimeError("cannot be watched")

    monkeypatch.setattr(module.AxisTrace, "__torch_dispatch__", refuses)

    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.b = nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 10)
            self.places = nn.Parameter(torch.zeros(10, 16))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.act(self.a(x + self.places)))

    # 10 tokens: the width 6 is that of one axis only, 10 is not.
    assert found(Mixes(), TOKENS) == {"a": "ntc", "act": "ntc", "b": "?"}


# ----------------------------------------------------------------------------------------------- the runs themselves
def test_nothing_is_left_behind() -> None:
    net = nn.Sequential(nn.Linear(16, 4), nn.LSTM(4, 4, batch_first=True))
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    findings(net, TOKENS)
    assert torch.equal(torch.rand(1), first)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())

    def fails(s: Any, x: Tensor) -> Tensor:
        raise ArithmeticError("of the network's own")

    bad = Does(fails, id=nn.Identity())
    with pytest.raises(ArithmeticError, match="of the network's own"):
        findings(bad, IMAGES)
    assert not any(m._forward_hooks for m in bad.modules())


def test_answers_and_random_numbers_are_told() -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    runs = findings(nn.Sequential(nn.Conv2d(3, 4, 1), norm), IMAGES)
    assert not runs.random
    few, more = runs.answers
    assert not torch.allclose(few, more[:2])
    runs = findings(nn.Sequential(nn.Conv2d(3, 4, 1)), IMAGES)
    assert torch.allclose(runs.answers[0], runs.answers[1][:2], atol=1e-6)
    noise = Does(lambda s, x: s.id(x) + torch.rand_like(x), id=nn.Identity())
    assert findings(noise, IMAGES).random


def test_one_sample_is_enough() -> None:
    assert found(nn.Sequential(nn.Conv2d(3, 4, 1)), IMAGES[:1]) == {"0": "nchw"}


# ----------------------------------------------------------------------------------------------- layouts
@pytest.mark.parametrize(
    ("code", "shape", "moved", "positions"),
    [
        ("nchw", (2, 3, 4, 5), (2, 3, 4, 5), (2, 3)),
        ("nhwc", (2, 3, 4, 5), (2, 3, 4, 5), (1, 2)),
        ("tnc", (7, 2, 3), (2, 7, 3), (1,)),
        ("nct", (2, 3, 7), (2, 3, 7), (2,)),
        ("nctc", (2, 4, 7, 3), (2, 4, 7, 3), (2,)),
        ("nc", (2, 3), (2, 3), ()),
        ("(nk)tc", (6, 7, 3), (2, 3, 7, 3), (1, 2)),
        ("t(nk)c", (7, 6, 3), (2, 7, 3, 3), (1, 2)),
    ],
)
def test_layouts_that_users_write(code: str, shape: tuple[int, ...], moved: tuple[int, ...], positions: tuple) -> None:
    layout, x = Layout.parse(code), torch.arange(math.prod(shape)).view(shape)
    assert layout.fits(x, 2)
    assert layout.samples_first(x, 2).shape == moved
    assert layout.positions == positions
    assert not layout.fits(x, 5)
    assert not layout.fits(x[None], 2)


@pytest.mark.parametrize("code", ["", "chw", "nnc", "N", "n", "nc1", "(nk", "n(c)", 3])
def test_layouts_that_are_none(code: str) -> None:
    advice = 'Write a letter per axis, n for samples, c for features: "nchw", "nhwc", "ntc", "tnc", "(nk)tc"'
    import re

    with pytest.raises(
        ValueError, match=f"^{re.escape(f'extract: axes must give a layout; got {code!r}. {advice}.')}$"
    ):
        Layout.parse(code)
