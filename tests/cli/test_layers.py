"""`repsim layers` with inputs: the layout that a run finds of each layer, as provenance has it."""

from pathlib import Path

import pytest
import torch

import repsim
from repsim.cli.main import main

MODULE = """
import torch
from torch import nn


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.ReLU()
        self.softmax, self.unused = nn.Softmax(-1), nn.Linear(2, 2)

    def forward(self, x):
        maps = self.act(self.conv(x))
        x = self.norm(maps.flatten(2).transpose(1, 2))
        weights = self.softmax(x @ x.transpose(1, 2))
        return self.act(weights @ x).mean(1)


def made():
    torch.manual_seed(0)
    return Mixed()
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_mixed.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_mixed:made"


def test_the_layout_of_each_layer_stands_beside_its_name(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", network, "--input-size", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:1] + lines[2:7]] == [
        ["layer", "class", "parameters", "axes", "features"],
        ["conv", "Conv2d", "392", "nchw", "8"],
        ["norm", "LayerNorm", "16", "ntc", "8"],
        ["act", "ReLU", "0", "nchw", "8"],
        ["act#2", "ReLU", "0", "ntc", "8"],
        ["softmax", "Softmax", "0", "-", "left", "out"],
    ]
    legend = "axes: n samples, c features, others positions, (nk) k of each sample in one axis; reduction: auto"
    why = "left out: softmax: shape (2, 16, 16) for 2 samples, attention weights or scores, which have no features"
    assert lines[7:] == ["", legend, why, "never ran: unused"]


def test_layouts_are_those_of_a_run(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = repsim.extract(repsim.load_model(network), torch.rand(9, 3, 16, 24), reduction="pool:2", progress=False)
    assert main(["layers", network, "--input-size", "3x16x24", "--reduction", "pool:2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:6]]
    assert {row[0]: row[3] for row in rows} == found.provenance["layout"]
    assert {row[0]: int(row[4]) for row in rows} == {layer: found[layer].shape[1] for layer in found.layers}


def test_layouts_with_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "digits_conv", "--data", "digits", "--layers", "conv*", "--reduction", "flatten"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[2:4]]
    assert rows == [["conv1", "Conv2d", "160", "nchw", "1,024"], ["conv2", "Conv2d", "4,640", "nchw", "512"]]
    assert out.splitlines()[-1].endswith("reduction: flatten")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--data", "digits", "--input-size", "8"],
            "repsim: layers are looked at with data or with random images; got --data digits --input-size 8. "
            "Leave one of them out.\n",
        ),
        (
            ["--reduction", "mean"],
            "repsim: --reduction needs inputs to look at; got --reduction mean. "
            "Add --data digits or --input-size 32.\n",
        ),
        *(
            (
                ["--input-size", size],
                f"repsim: --input-size must be a side or channels x height x width; got {size!r}. "
                "Write 32 or 3x224x224.\n",
            )
            for size in ("8x8", "0", "a", "3x0x8", "1x2x3x4")
        ),
    ],
)
def test_mistakes_are_one_line(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "digits_conv", *words]) == 2
    assert capsys.readouterr().err == text
