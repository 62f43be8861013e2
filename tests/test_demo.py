"""The demo: what it writes, and that it claims no more than its intervals carry."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from repsim import SimilarityMatrix, load_model
from repsim.demo import _PAIRS, Demo, _reading, _report, run

PURE = ("standard × standard", "robust × robust")
MIXED = "standard × robust"


def read(
    one: tuple[float, float, float], two: tuple[float, float, float], mixed: tuple[float, float, float]
) -> list[str]:
    return _reading("layer1.0", {PURE[0]: one, PURE[1]: two, MIXED: mixed})


# --- The reading of the numbers -------------------------------------------------------------------------------


def test_intervals_apart_are_said_to_differ_and_which_way() -> None:
    lines = read((0.1, 0.05, 0.15), (0.6, 0.5, 0.7), (0.3, 0.2, 0.4))
    assert lines == [
        "At layer1.0, standard × robust: answers differ more than in standard × standard: TD 0.3000 against 0.1000.",
        "At layer1.0, standard × robust: answers differ less than in robust × robust: TD 0.3000 against 0.6000.",
    ]


@pytest.mark.parametrize(
    "other",
    [
        (0.1, 0.05, 0.21),  # ends overlap from below
        (0.5, 0.39, 0.6),  # and from above
        (0.3, 0.29, 0.31),  # inside
        (0.3, 0.0, 1.0),  # around
        (0.1, 0.05, 0.2),  # touching from below
        (0.5, 0.4, 0.6),  # and from above
    ],
)
def test_intervals_that_overlap_carry_no_claim(other: tuple[float, float, float]) -> None:
    first, second = read(other, other, (0.3, 0.2, 0.4))
    for line, pair in ((first, PURE[0]), (second, PURE[1])):
        assert line == (
            f"At layer1.0, standard × robust: cannot be told apart from {pair}, the intervals overlap: "
            f"TD 0.3000 against {other[0]:.4f}."
        )
        assert "more" not in line
        assert "less" not in line


@pytest.mark.parametrize("missing", ["pure", "mixed"])
def test_a_missing_number_carries_no_claim_and_no_interval(missing: str) -> None:
    nan = float("nan")
    none, some = (nan, nan, nan), (0.3, 0.2, 0.4)
    lines = read(none, none, some) if missing == "pure" else read(some, some, none)
    for line in lines:
        assert "differ more" not in line
        assert "differ less" not in line
        assert "overlap" not in line  # there is no interval that could


# --- The table ------------------------------------------------------------------------------------------------


def td(value: float, half: float = 0.02) -> SimilarityMatrix:
    layers = ("conv1", "layer1.0", "layer1.0.conv1", "layer2.0")
    values = np.full((4, 4), 0.9)
    np.fill_diagonal(values, [0.9, value, 0.9, value + 0.3])
    details = {
        "ci_low": values - half,
        "ci_high": values + half,
        "accuracy_row": np.full((4, 4), 0.875),
        "accuracy_col": np.full((4, 4), 0.125),
        "td_ratio": np.full((4, 4), 0.625),
    }
    return SimilarityMatrix(values, layers, layers, "td", "a", "b", 597, details)


def cka(value: float) -> SimilarityMatrix:
    made = td(0.1)
    return SimilarityMatrix(np.full((4, 4), value), made.rows, made.cols, "cka", "a", "b", 597)


def report(values: dict[str, float]) -> str:
    networks: dict[str, Any] = {
        name: SimpleNamespace(record={"scores": {"n_test": 597, "accuracy": 0.75, "accuracy under attack": 0.5}})
        for name in ("standard-0", "standard-1", "robust-0", "robust-1")
    }
    matrices = {("td", pair): td(value) for pair, value in values.items()}
    matrices |= {("cka", pair): cka(0.5) for pair in values}
    return _report(networks, matrices)


def test_the_table_holds_every_pair_at_every_block() -> None:
    text = report({PURE[0]: 0.1, PURE[1]: 0.2, MIXED: 0.3})
    lines = text.splitlines()
    for block, shift in (("layer1.0", 0.0), ("layer2.0", 0.3)):
        for pair, value in ((PURE[0], 0.1), (PURE[1], 0.2), (MIXED, 0.3)):
            (row,) = [line for line in lines if line.split()[:1] == [block] and f" {pair} " in line]
            low, high = value + shift - 0.02, value + shift + 0.02
            assert f"CKA 0.500   TD {value + shift:.4f} [{low:.4f}, {high:.4f}], 0.62 of" in row
            assert row.endswith("probe accuracies 0.875, 0.125")
    assert not any(line.strip().startswith(("conv1", "layer1.0.conv1")) for line in lines)
    for name in ("standard-0", "standard-1", "robust-0", "robust-1"):
        (row,) = [line for line in lines if line.split()[:1] == [name]]
        assert "accuracy 0.750, accuracy under attack 0.500" in row
    assert "597" in text


def test_the_table_claims_nothing_where_intervals_overlap() -> None:
    text = report({PURE[0]: 0.3, PURE[1]: 0.31, MIXED: 0.32})
    assert text.count("cannot be told apart") == 4
    assert "differ more" not in text
    assert "differ less" not in text
    apart = report({PURE[0]: 0.1, PURE[1]: 0.5, MIXED: 0.3})
    assert apart.count("differ more than in standard × standard") == 2
    assert apart.count("differ less than in robust × robust") == 2
    assert "cannot be told apart" not in apart


def test_the_table_says_what_its_intervals_do_not_cover() -> None:
    assert "They do not cover the choice of networks" in report({PURE[0]: 0.1, PURE[1]: 0.2, MIXED: 0.3})


# --- The whole ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_trains_compares_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    made = run(out, progress=False)
    assert isinstance(made, Demo)
    nets = ["robust-0", "robust-1", "standard-0", "standard-1"]
    pairs = [
        f"{metric}-{kind}"
        for metric in ("cka", "td")
        for kind in ("robust-robust", "standard-robust", "standard-standard")
    ]
    expected = [
        *(f"{name}.safetensors" for name in nets),
        *(f"{name}.npz" for name in pairs),
        *("cka.png", "td.png", "td-by-layer.png", "report.txt", "summary.json"),
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(expected)
    assert sorted(made.files) == sorted(out / name for name in expected)
    assert all(path.stat().st_size > 300 for path in made.files)
    assert (out / "report.txt").read_text(encoding="utf-8") == made.text + "\n"

    assert sorted(made.networks) == nets
    for name in nets:
        back = load_model(out / f"{name}.safetensors")
        assert back.provenance["record"]["scores"] == made.networks[name].record["scores"]
        assert f"  {name}" in made.text
    robust, standard = (
        min(score for key, score in made.networks[name].record["scores"].items() if "PGD" in key)
        for name in ("robust-0", "standard-0")
    )
    assert robust > standard + 0.2

    assert "597 test images" in made.text
    for (metric, pair), matrix in made.matrices.items():
        first, second = _PAIRS[pair]
        assert (matrix.row_model, matrix.col_model, matrix.n, matrix.metric) == (first, second, 597, metric)
        assert matrix.row_model != matrix.col_model
        saved = SimilarityMatrix.load(out / f"{metric}-{pair.replace(' × ', '-')}.npz")
        np.testing.assert_array_equal(saved.values, matrix.values)
        for block in ("layer1.0", "layer2.0", "layer3.0"):
            assert any(line.split()[:1] == [block] and f" {pair} " in line for line in made.text.splitlines())
    check_claims(made)

    facts = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert sorted(facts["networks"]) == nets
    assert [(r["metric"], r["pair"], r["n"]) for r in facts["results"]] == [(m, p, 597) for m, p in made.matrices]


def check_claims(made: Demo) -> None:
    """Every sentence of the reading against the intervals of the matrices."""
    claims = [line for line in made.text.splitlines() if line.startswith("At ")]
    assert len(claims) == 6
    for line in claims:
        block = line.removeprefix("At ").partition(",")[0]
        (pair,) = [p for p in PURE if p in line]
        ends = []
        for title in (MIXED, pair):
            matrix = made.matrices["td", title]
            at = matrix.rows.index(block), matrix.cols.index(block)
            ends.append([float(matrix.details[name][at]) for name in ("ci_low", "ci_high")])
        (low, high), (other_low, other_high) = ends
        assert ("differ more" in line) == (low > other_high)
        assert ("differ less" in line) == (high < other_low)
        assert ("cannot be told apart" in line) == (low <= other_high and other_low <= high)
