"""Series (n, time, variables), whose axes nothing tells apart at first, and attention over a single place."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.features.test_layout import Does, found

#: 24 points in time of 3 variables.
SERIES = torch.rand(4, 24, 3)


def test_patches_of_each_variable_are_positions() -> None:
    """As PatchTST has it: patches of time are tokens, and each variable has features of its own."""

    def attends(s: Any, x: Tensor) -> Tensor:
        x = s.norm(s.embed(x.unfold(1, 4, 4)))  # (n, 6, 3, 4) to (n, 6, 3, 16)
        x = x.transpose(1, 2).flatten(0, 1)
        return s.out(s.attend(x, x, x)[0]).unflatten(0, (-1, 3))

    net = Does(
        attends,
        embed=nn.Linear(4, 16),
        norm=nn.LayerNorm(16),
        attend=nn.MultiheadAttention(16, 2, batch_first=True),
        out=nn.Linear(16, 8),
    )
    layouts = {"embed": "ntcc", "norm": "ntcc", "attend": "(nc)tc", "out": "(nc)tc"}
    assert {layer: code for layer, code in found(net, SERIES).items() if layer in layouts} == layouts


def test_weights_over_patches_mix_tokens() -> None:
    """As PatchTSMixer has it, with 16 features at 16 patches."""

    def mixes(s: Any, x: Tensor) -> Tensor:
        x = s.norm(s.embed(x.unfold(1, 4, 4).transpose(1, 2)))
        return x + s.second(s.act(s.first(x.transpose(2, 3)))).transpose(2, 3)

    net = Does(
        mixes,
        embed=nn.Linear(4, 16),
        norm=nn.LayerNorm(16),
        first=nn.Linear(16, 20),
        act=nn.GELU(),
        second=nn.Linear(20, 16),
    )
    mixed = dict.fromkeys(("first", "act", "second"), "ncct")
    assert found(net, torch.rand(4, 64, 3)) == {"embed": "nctc", "norm": "nctc", **mixed}


def test_patches_of_all_variables_as_rows() -> None:
    net = Does(lambda s, x: s.act(s.embed(x.reshape(len(x), -1, 12))), embed=nn.Linear(12, 16), act=nn.ReLU())
    assert found(net, SERIES) == {"embed": "ntc", "act": "ntc"}


@pytest.mark.parametrize("hidden", [4, 24])
def test_weights_over_time_alone_stay_unclear(hidden: int) -> None:
    """Two of them: what the first makes is as unclear as what it was made of."""
    net = Does(lambda s, x: s.b(s.a(x.transpose(1, 2)).relu()), a=nn.Linear(24, hidden), b=nn.Linear(hidden, 7))
    assert found(net, SERIES) == {"a": "?", "b": "?"}


def test_one_variable_does_not_make_time_features() -> None:
    net = Does(lambda s, x: s.act(x.transpose(1, 2)), act=nn.ReLU())
    assert found(net, torch.rand(4, 24, 1)) == {"act": "?"}


@pytest.mark.parametrize("side", [8, 2])
def test_attention_over_places_of_which_there_may_be_one(side: int) -> None:
    """As MobileViT v2 has it: weights (n, 1, 4, places) over the places, here 16 and 1."""

    def pools(s: Any, x: Tensor) -> Tensor:
        weights, x = (y.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).flatten(2, 3) for y in (s.query(x), s.value(x)))
        return s.out((s.softmax(weights.transpose(2, 3)) * x.transpose(2, 3)).sum(3))

    net = Does(pools, query=nn.Conv2d(3, 1, 1), value=nn.Conv2d(3, 6, 1), softmax=nn.Softmax(-1), out=nn.Linear(4, 4))
    why = found(net, torch.rand(4, 3, side, side))["softmax"]
    assert why.endswith("attention weights or scores, which have no features")
