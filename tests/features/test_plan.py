"""What features will take, known before they are made, and where they go when it is too much."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from repsim import Activations, CautionWarning, extract
from repsim.features import plan
from repsim.features.store.budget import Plan, smaller
from repsim.numerics.memory import bytes_of, readable
from tests.conftest import exactly

X = torch.rand(500, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


@pytest.fixture(autouse=True)
def own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("repsim.features.store.budget._NO_DISKS", ())


@pytest.mark.parametrize("options", [{}, {"reduction": "flatten"}, {"dtype": "float16"}, {"layers": ["0", "3"]}])
def test_a_plan_is_what_the_features_take(options: dict[str, Any]) -> None:
    made, found = extract(convolutions(), X, **options), plan(convolutions(), X, **options)
    assert found.bytes == {layer: made[layer].nbytes for layer in made}
    assert found.total == sum(found.bytes.values())
    assert found.n == len(X)
    assert found.outputs == (5, torch.float32)
    assert found.seconds is not None
    assert found.seconds > 0


def test_a_plan_of_unknown_length_is_one_of_a_sample() -> None:
    found = plan(convolutions(), [X[:50], X[50:]], layers="3")
    assert (found.n, found.bytes) == (None, {"3": 20})
    text = str(found).splitlines()[0]
    assert text.startswith("Sequential: 1 layers of one sample (their number is not known), 20 bytes, about ")


def test_features_above_the_budget_are_kept_on_disk_as_long_as_they_are_used(tmp_path: Path) -> None:
    whole = extract(convolutions(), X, reduction="flatten")
    size = sum(whole[layer].nbytes for layer in whole)
    with pytest.warns(CautionWarning) as caught:
        found = extract(convolutions(), X, reduction="flatten", memory=size - 1)
    (folder,) = tmp_path.iterdir()
    assert str(caught[0].message) == (
        f"extract: Sequential: {readable(size)} for 500 samples are above the {readable(size - 1)} of memory to use, "
        f"so they are kept in {folder} as long as they are used."
    )
    assert caught[0].filename == __file__
    for layer in whole:
        assert torch.equal(found[layer], whole[layer])
    del found
    assert not list(tmp_path.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(extract(convolutions(), X, reduction="flatten", memory=size), Activations)


def test_three_changes_are_named_where_features_fit_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.features.store.one_run.place_for", lambda size: None)
    size = 500 * (144 * 3 + 5) * 4
    text = (
        f"extract: the features must fit into memory; got {readable(size)} for 500 samples with {readable(size - 1)} "
        'to use. Use dtype="float16" (426.8 kiB), reduction="mean" (306.6 kiB), layers= without 0 (0.6 MiB), '
        "or store= on a disk with room."
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        extract(convolutions(), X, reduction="flatten", memory=size - 1)
    assert not list(tmp_path.iterdir())
    changes = {426.8: {"dtype": "float16"}, 306.6: {"reduction": "mean"}, 572.3: {"layers": ["1", "2", "3"]}}
    for left, change in changes.items():
        found = plan(convolutions(), X, **{"reduction": "flatten", **change})
        assert found.total == pytest.approx(left * 1024, abs=52)


def test_changes_that_do_not_help_are_not_named() -> None:
    one = Plan("net", 100, {"a": (10, torch.float16)}, None)
    assert smaller(one, 1000, None) == ["50 samples (1.0 kiB)"]
    assert smaller(one, 10, None) == []


def test_features_of_unknown_number_stop_at_the_budget() -> None:
    text = (
        "extract: the features must fit into memory; got 30.0 kiB for 192 samples, and more to come. "
        'Use store=, dtype="float16", reduction="mean", fewer layers or fewer samples.'
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        extract(nn.Sequential(nn.Linear(5, 20)), [torch.rand(64, 5) for _ in range(9)], memory="30kB")


@pytest.mark.parametrize(
    ("text", "size"), [(7, 7), ("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("500M", 5 * 10**8), ("2kB", 2000), ("9", 9)]
)
def test_bytes_as_people_write_them(text: Any, size: int) -> None:
    assert bytes_of(text, "extract") == size


@pytest.mark.parametrize("text", ["", "much", "8 G B", "-1", 0, "GB"])
def test_what_is_no_number_of_bytes(text: Any) -> None:
    with pytest.raises(
        ValueError, match=exactly(f'extract: memory must be a number of bytes; got {text!r}. Write, say, "8GB".')
    ):
        extract(convolutions(), X, memory=text)
