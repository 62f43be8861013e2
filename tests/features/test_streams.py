"""Inputs that come in order and are never held whole: the same features, the same identity, nothing kept."""

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from repsim import Activations, compare, extract, live
from repsim.features.inputs.stream import Stream, open_stream
from tests.conftest import exactly

N = 150
X = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    layers: OrderedDict[str, nn.Module] = OrderedDict(one=nn.Conv2d(3, 4, 3), act=nn.ReLU(), two=nn.Conv2d(4, 2, 3))
    return nn.Sequential(layers)


class Named(nn.Module):
    """Takes pictures by name, as Hugging Face's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convolutions()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)


class Samples(Dataset[Any]):
    """Makes its samples when they are asked for."""

    def __init__(self, n: int = N, given: int = N) -> None:
        self.n, self.given = n, given

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i >= self.given:
            raise IndexError(i)
        return X[i], int(Y[i])


class InOrder(IterableDataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class Rows(Dataset[Any]):
    """Dicts, with what no network takes."""

    def __init__(self, n: int = N) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        if i >= self.n:
            raise IndexError(i)
        return {"pixel_values": X[i], "label": int(Y[i]), "file": f"{i}.png"}


@pytest.mark.parametrize(
    "data",
    [
        Samples(),
        DataLoader(Samples(), batch_size=7),
        DataLoader(Samples(), batch_size=100),
        DataLoader(Subset(Samples(), list(range(N))), batch_size=64, num_workers=0),
        InOrder([(X[i], int(Y[i])) for i in range(N)]),
        InOrder([(X[i : i + 40], Y[i : i + 40]) for i in range(0, N, 40)]),
        TensorDataset(X, Y),
        [(X[:70], Y[:70]), (X[70:], Y[70:])],
    ],
    ids=["samples", "loader", "large batches", "subset", "stream", "stream of batches", "tensors", "list"],
)
@pytest.mark.parametrize("where", ["memory", "store"])
def test_samples_in_order_are_those_at_hand(data: Any, where: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"store": tmp_path / "a"} if where == "store" else {}
    made, expected = extract(convolutions(), data, **options), extract(convolutions(), X)
    assert isinstance(open_stream(data, "extract"), Stream)
    assert made.digest == expected.digest
    assert made.labels is not None
    assert torch.equal(made.labels, Y)
    for layer in expected:
        assert torch.equal(made[layer], expected[layer])


@pytest.mark.parametrize("data", [Rows(), [Rows()[i] for i in range(N)]])
def test_samples_that_are_dicts_of_pictures(data: Any) -> None:
    made, expected = extract(Named(), data), extract(convolutions(), X)
    assert isinstance(open_stream(data, "extract"), Stream)
    assert torch.equal(made["net.two"], expected["two"])
    assert made.labels is not None
    assert torch.equal(made.labels, Y)
    assert made.provenance["inputs_left_out"] == ["file"]


def test_a_generator_is_read_once() -> None:
    made = extract(convolutions(), (X[i : i + 50] for i in range(0, N, 50)))
    assert torch.equal(made["two"], extract(convolutions(), X)["two"])


def test_a_live_side_asks_a_data_set_for_samples_by_number() -> None:
    asked: list[int] = []

    class Counted(Samples):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            asked.append(i)
            return super().__getitem__(i)

    side = live(convolutions(), DataLoader(Counted(), batch_size=9), layers="two", reduction="mean", progress=False)
    assert side.digest == extract(convolutions(), X).digest
    asked.clear()
    parts: list[Tensor] = []
    side.read(torch.tensor([100, 3]), lambda i, at, x: parts.append(x.clone()))
    assert asked == [100, 3]
    assert side.labels is not None
    assert torch.equal(side.labels, Y)
    kept = extract(convolutions(), X, layers="two")
    torch.testing.assert_close(parts[0], kept["two"][[100, 3]])
    found = compare(side, kept, "cka")
    np.testing.assert_allclose(found.values, compare(kept, kept, "cka").values, atol=1e-5)


def test_a_live_side_refuses_samples_that_change() -> None:
    class Random(Samples):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return torch.rand(3, 8, 8), 0

    text = (
        "live: data must give the same samples each time; got another sample 0 than before. "
        "Leave out what is random in it, such as augmentations."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        live(convolutions(), Random(), layers="two")


def test_what_cannot_be_read_in_order_is_one_clear_line() -> None:
    text = (
        "extract: samples must hold numbers; got object. "
        "Give the data set a transform that makes tensors, such as torchvision's ToTensor()."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        extract(convolutions(), InOrder([(object(), 0)] * 3))
    text = (
        "extract: all samples must have one shape; got (3, 8, 8), (3, 9, 9). "
        "Resize or pad them; sequences as dicts with attention_mask."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        extract(convolutions(), [torch.rand(70, 3, 8, 8), torch.rand(70, 3, 9, 9)])
    text = "extract: data must hold as many samples as its length says; got 140 of 150. "
    with pytest.raises(ValueError, match=exactly(text + "Look at what it gives in each pass.")):
        extract(convolutions(), Samples(given=140))
    text = "extract: there must be samples; got none. Pass a loader that is not empty."
    with pytest.raises(ValueError, match=exactly(text)):
        extract(convolutions(), InOrder([]))


# --- With a store ---------------------------------------------------------------------------------------------


class Breaks(IterableDataset[Any]):
    """Batches, of which some break off."""

    def __init__(self, x: Tensor, until: int = 10**9) -> None:
        self.x, self.until = x, until

    def __iter__(self) -> Iterator[Any]:
        for i in range(0, len(self.x), 10):
            if i >= self.until:
                raise RuntimeError("broken")
            yield self.x[i : i + 10], torch.zeros(len(self.x[i : i + 10]), dtype=torch.int64)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kept(folder: Path, data: Any) -> Activations:
    return extract(convolutions(), data, store=folder, batch_size=16)


def test_a_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    kept(tmp_path / "whole", Breaks(X))
    with pytest.raises(RuntimeError, match="broken"):
        kept(tmp_path / "a", Breaks(X, until=100))
    lines = (tmp_path / "a" / "journal.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["rows"][1] in (80, 96)
    kept(tmp_path / "a", Breaks(X))
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


@pytest.mark.parametrize("finished", [True, False])
def test_a_stream_of_other_samples_is_refused(finished: bool, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        kept(tmp_path / "a", Breaks(X, until=100))
    if finished:
        kept(tmp_path / "a", Breaks(X))
    before, other = contents(tmp_path / "a"), X.clone()
    other[40] += 0.5
    text = (
        f"extract: the store must be of the features that are asked for; got {tmp_path / 'a'}, which differs in "
        "samples. Name another folder, or remove this one."
    )
    for data in (Breaks(other), Breaks(X.flip(0))):
        with pytest.raises(ValueError, match=exactly(text)):
            kept(tmp_path / "a", data)
    if finished:
        with pytest.raises(ValueError, match=exactly(text)):
            kept(tmp_path / "a", Breaks(X[:140]))
    assert contents(tmp_path / "a") == before


def test_a_stream_that_has_become_shorter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        kept(tmp_path / "a", Breaks(X, until=100))
    done = json.loads((tmp_path / "a" / "journal.jsonl").read_text().splitlines()[-1])["rows"][1]
    text = (
        f"extract: data must give the same samples each time; got 30 samples after {done}. "
        "Remove the store to begin anew."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        kept(tmp_path / "a", Breaks(X[:30]))


# --- Memory ---------------------------------------------------------------------------------------------------

MEASURED = """
import sys
import torch
from torch import nn
from repsim import extract

torch.set_num_threads(1)
n, store = int(sys.argv[1]), sys.argv[2] or None

class Made(torch.utils.data.Dataset):
    def __len__(self):
        return n
    def __getitem__(self, i):
        return torch.full((3, 64, 64), i / n), i % 3

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(400, 3))
made = extract(net, Made(), layers=["2", "3"], reduction="flatten", store=store, progress=False)
assert made.n == n
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(peak // 1024, sum(made.widths) * 4 * n // 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak of this process alone")
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    def measured(n: int, store: str) -> tuple[int, int]:
        words = [sys.executable, "-c", MEASURED, f"{n}", store]
        peak, features = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        return int(peak), int(features)

    small, large = measured(2000, ""), measured(8000, "")
    # Pixels would be 94 and 375 MiB.
    assert large[0] - large[1] < small[0] - small[1] + 12
    small, large = measured(2000, str(tmp_path / "a")), measured(8000, str(tmp_path / "b"))
    assert large[0] < small[0] + 12
