"""Networks that people use run by default: the truth is found another way (`tests/support/layout_truth.py`)."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from repsim import extract
from tests.support import layout_truth
from tests.support.layout_truth import check
from tests.support.networks import ARCHITECTURES

ROOT = Path(__file__).parents[2]
BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}


@pytest.mark.parametrize(
    ("name", "right", "left"),
    [("GRU, time first", 2, 0), ("attention in windows", 6, 0), ("U-Net, nested, normalised weights", 7, 0)],
)
def test_every_layer_of_a_few_small_networks(name: str, right: int, left: int) -> None:
    found = check(BY_NAME[name])
    assert (found.right, found.tables + found.weights) == (right, left)
    assert (found.unsettled, found.refused, found.wrong) == (0, [], [])


def test_the_check_sees_a_wrong_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps with channels last, taken for maps with channels second."""
    wrong = functools.partial(extract, axes={"norm": "nchw"})
    monkeypatch.setattr(layout_truth, "extract", wrong)
    found = check(BY_NAME["attention in windows"])
    assert (found.right, found.wrong) == (5, ["norm"])


@pytest.mark.slow
def test_every_layer_of_every_network_is_right_and_the_page_says_so() -> None:
    """Minutes: 157 architectures of torchvision, timm, transformers and plain PyTorch."""
    script = [sys.executable, "docs/make_networks.py", "--check"]
    done = subprocess.run(script, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
