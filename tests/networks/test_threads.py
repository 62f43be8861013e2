"""The same seed gives the same weights in every thread; files load in threads; threads take turns at one network."""

import concurrent.futures
import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from repsim import extract, load_data, load_model
from repsim._common.random_numbers import Drawn, seeded
from repsim.recipes import RECIPES, train


def at_once(work: Callable[[int], Any], count: int, threads: int = 6) -> list[Any]:
    """Results of work(0), …, begun together."""
    start = threading.Barrier(threads)

    def begin(number: int) -> Any:
        if number < threads:
            start.wait()
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(count)))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_same_seed_gives_the_same_weights_in_every_thread() -> None:
    right = [load_model("digits_conv", seed=seed) for seed in range(3)]
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.0005):
            torch.rand(7)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        found = at_once(lambda k: load_model("digits_conv", seed=k % 3), 36)
    finally:
        stop.set()
        other.join()
    assert all(same(net, right[k % 3]) for k, net in enumerate(found))


class Drawing(nn.Module):
    """All kinds of draws."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.attention = nn.LSTM(3, 4), nn.MultiheadAttention(8, 2)
        kinds = {
            "randn": torch.randn(3, 4),
            "rand": torch.rand(3),
            "randint": torch.randint(5, (3,)),
            "between": torch.randint(2, 9, (3,)),
            "randperm": torch.randperm(7),
            "normal": torch.normal(torch.zeros(3), 1.0),
            "bernoulli": torch.bernoulli(torch.full((4,), 0.5)),
            "exponential": torch.empty(3).exponential_(),
            "multinomial": torch.multinomial(torch.ones(5), 3),
            "truncated": nn.init.trunc_normal_(torch.empty(9)),
            "orthogonal": nn.init.orthogonal_(torch.empty(4, 4)),
        }
        for name, value in kinds.items():
            self.register_buffer(name, value)


def test_draws_are_those_of_the_global_generator_which_stays() -> None:
    with seeded(3):
        right = Drawing()
    before = torch.get_rng_state()
    with Drawn(3):
        found = Drawing()
    assert same(found, right)
    assert torch.equal(torch.get_rng_state(), before)
    with Drawn(4):
        assert not same(Drawing(), right)


def test_files_load_in_threads(tmp_path: Path) -> None:
    right = load_model("digits_conv", seed=1)
    # numpy's numbers are safe by a list that is global in PyTorch.
    content = {"state_dict": right.net.state_dict(), "best": np.float64(0.5), "epochs": np.int64(3)}
    torch.save(content, tmp_path / "x.pth")
    found = at_once(lambda _: load_model("digits_conv", checkpoint=tmp_path / "x.pth"), 30)
    assert all(same(net, right) for net in found)


def test_two_threads_that_extract_one_network_wait_for_each_other() -> None:
    net = load_model("digits_conv", seed=0)
    data = load_data("digits", limit=120)
    parts = [data.take(list(range(k * 30, k * 30 + 30))) for k in range(4)]
    alone = [extract(copy.deepcopy(net), part, progress=False) for part in parts]
    found = at_once(lambda k: extract(net, parts[k % 4], batch_size=7, progress=False), 12, threads=4)
    for k, side in enumerate(found):
        for layer in side.layers:
            assert torch.allclose(side[layer], alone[k % 4][layer], atol=1e-5), (k, layer)
    assert not any(module._forward_hooks for module in net.modules())
    assert not net.training


def test_trainings_in_threads_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    data, test = (load_data("digits", split=split, limit=64) for split in ("train", "test"))
    monkeypatch.setattr("repsim.recipes.training.loop.scores_of", lambda *_, **__: {})

    def work(seed: int) -> nn.Module:
        recipe = RECIPES["standard"](architecture="digits_conv", epochs=2, augment="color_jitter+flip")
        return train(recipe, data, test, seed=seed % 2, name="x", progress=False).network

    right = [work(0), work(1)]
    assert all(same(net, right[k % 2]) for k, net in enumerate(at_once(work, 4, threads=4)))
