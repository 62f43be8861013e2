"""The demo: what it writes, and that it claims no more than its intervals carry."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from repsim import Activations, SimilarityMatrix, disagreements, extract, load_data, load_model
from repsim.cli.demo import _PAIRS, Demo, _blocks, _report, _sentence, run
from repsim.similarity.inference import Difference

PURE = ("standard × standard", "robust × robust")
MIXED = "standard × robust"
BLOCKS = ("layer1.0", "layer2.0", "layer3.0")


def paired(mixed: float, pure: float, low: float, high: float, reason: str = "", at: int = 1) -> Difference:
    """A comparison of three blocks; the numbers stand at one of them, and others everywhere else."""

    def matrix(value: float, title: str) -> SimilarityMatrix:
        values = np.full((3, 3), 0.9)
        values[at, at] = value
        reasons = {(at, at): reason} if np.isnan(value) else {}
        return SimilarityMatrix(values, BLOCKS, BLOCKS, "td", *_PAIRS[title], 597, reasons=reasons)

    first, second = matrix(mixed, MIXED), matrix(pure, PURE[0])
    lows, highs = np.full((3, 3), 0.5), np.full((3, 3), 0.5)
    lows[at, at], highs[at, at] = low, high
    return interval(first, second, lows, highs)


def interval(first: SimilarityMatrix, second: SimilarityMatrix, low: np.ndarray, high: np.ndarray) -> Difference:
    nothing = np.zeros(low.shape)
    return Difference(first.values - second.values, low, high, nothing, nothing, first, second, 0.95, 1000)


# --- The reading of the numbers -------------------------------------------------------------------------------


def test_an_interval_above_zero_is_said_to_differ_more() -> None:
    assert _sentence("layer2.0", PURE[0], paired(0.3, 0.1, 0.15, 0.26)) == (
        "At layer2.0, standard × robust: answers differ more than in standard × standard: "
        "TD 0.3000 against 0.1000, difference +0.2000 [+0.1500, +0.2600]."
    )


def test_an_interval_below_zero_is_said_to_differ_less() -> None:
    assert _sentence("layer3.0", PURE[1], paired(0.3, 0.6, -0.35, -0.01, at=2)) == (
        "At layer3.0, standard × robust: answers differ less than in robust × robust: "
        "TD 0.3000 against 0.6000, difference -0.3000 [-0.3500, -0.0100]."
    )


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.3), (0.0, 0.3), (-0.3, 0.0), (0.0, 0.0)])
def test_an_interval_that_holds_zero_carries_no_claim(low: float, high: float) -> None:
    line = _sentence("layer1.0", PURE[0], paired(0.3, 0.2, low, high, at=0))
    assert line == (
        "At layer1.0, standard × robust: cannot be told apart from standard × standard: "
        f"TD 0.3000 against 0.2000, difference +0.1000 [{low:+.4f}, {high:+.4f}]."
    )


@pytest.mark.parametrize("missing", ["pure", "mixed"])
def test_a_missing_number_carries_no_claim_and_its_reason(missing: str) -> None:
    nan = float("nan")
    mixed, pure = (nan, 0.3) if missing == "mixed" else (0.3, nan)
    assert _sentence("layer2.0", PURE[1], paired(mixed, pure, nan, nan, "a probe gave up")) == (
        "At layer2.0, standard × robust beside robust × robust: no number, a probe gave up."
    )


def test_a_missing_interval_carries_no_claim() -> None:
    nan = float("nan")
    assert _sentence("layer2.0", PURE[1], paired(0.3, 0.1, nan, nan)) == (
        "At layer2.0, standard × robust beside robust × robust: no number, a resample has none."
    )


def test_only_residual_blocks_are_tested_on_the_same_samples() -> None:
    layers = {name: np.eye(4)[:, : k + 1] for k, name in enumerate(("conv1", "layer1.0", "layer1.0.bn1", "layer3.1"))}
    side = Activations.from_arrays(layers, labels=[0, 1, 0, 1], ids=["a", "b", "c", "d"], outputs=np.eye(4), name="net")
    cut = _blocks(side)
    assert cut.layers == ("layer1.0", "layer3.1")
    assert cut["layer3.1"] is side["layer3.1"]
    kept = ("labels", "ids", "outputs", "digest", "name", "reduction", "provenance")
    assert all(getattr(cut, name) is getattr(side, name) for name in kept)
    assert side.layers == tuple(layers)


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


def report(values: dict[str, float], half: float = 0.02) -> str:
    """A report on TDs whose differences have intervals of this half width."""
    networks: dict[str, Any] = {
        name: SimpleNamespace(record={"scores": {"n_test": 597, "accuracy": 0.75, "accuracy under attack": 0.5}})
        for name in ("standard-0", "standard-1", "robust-0", "robust-1")
    }
    matrices = {("td", pair): td(value) for pair, value in values.items()}
    matrices |= {("cka", pair): cka(0.5) for pair in values}
    differences = {}
    for pure in PURE:
        first, second = matrices["td", MIXED], matrices["td", pure]
        delta = first.values - second.values
        differences[pure] = interval(first, second, delta - half, delta + half)
    return _report(networks, matrices, differences)


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


def test_a_sentence_for_every_block_and_pair_of_one_kind() -> None:
    text = report({PURE[0]: 0.1, PURE[1]: 0.31, MIXED: 0.3})
    assert [line for line in text.splitlines() if line.startswith("At ")] == [
        f"At {block}, standard × robust: {verdict}: TD {0.3 + shift:.4f} against {pure + shift:.4f}, difference {rest}."
        for block, shift in (("layer1.0", 0.0), ("layer2.0", 0.3))
        for pure, verdict, rest in (
            (0.1, "answers differ more than in standard × standard", "+0.2000 [+0.1800, +0.2200]"),
            (0.31, "cannot be told apart from robust × robust", "-0.0100 [-0.0300, +0.0100]"),
        )
    ]


def test_the_difference_decides_and_not_whether_intervals_overlap() -> None:
    near = {PURE[0]: 0.3, PURE[1]: 0.33, MIXED: 0.315}  # every TD lies inside the intervals of the others
    assert report(near, half=0.02).count("cannot be told apart") == 4
    sharp = report(near, half=0.01)
    assert sharp.count("differ more than in standard × standard") == 2
    assert sharp.count("differ less than in robust × robust") == 2
    assert "cannot be told apart" not in sharp
    far = {PURE[0]: 0.2, PURE[1]: 0.4, MIXED: 0.3}  # and here none overlap
    assert report(far, half=0.11).count("cannot be told apart") == 4


def test_the_table_says_what_its_intervals_do_not_cover() -> None:
    text = report({PURE[0]: 0.1, PURE[1]: 0.2, MIXED: 0.3})
    assert text.splitlines()[-1] == (
        "The intervals cover the choice of the 597 test images, each for one comparison alone. "
        "They do not cover the choice of networks: there is one pair of each kind."
    )


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
        for block in BLOCKS:
            assert any(line.split()[:1] == [block] and f" {pair} " in line for line in made.text.splitlines())
    check_claims(made)
    check_intervals(made)

    facts = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert sorted(facts["networks"]) == nets
    assert [(r["metric"], r["pair"], r["n"]) for r in facts["results"]] == [(m, p, 597) for m, p in made.matrices]
    told = {(d["pair"], d["less"]): d for d in facts["differences"]}
    assert sorted(told) == sorted((MIXED, pure) for pure in PURE)
    for (_, pure), each in told.items():
        assert (each["level"], each["resamples"], each["n"]) == (0.95, 1000, 597)
        assert tuple(each["blocks"]) == BLOCKS
        for i, block in enumerate(BLOCKS):
            assert each["blocks"][block]["difference"] == made.differences[pure].values[i, i]
            assert each["blocks"][block]["ci_low"] == made.differences[pure].ci_low[i, i]


CLAIM = re.compile(
    r"At (?P<block>\S+), standard × robust: (?P<verdict>.*?) (?P<pure>(?:standard|robust) × \w+): TD (?P<mixed>\S+) "
    r"against (?P<other>\S+), difference (?P<delta>\S+) \[(?P<low>\S+), (?P<high>\S+)\]\."
)


def check_claims(made: Demo) -> None:
    """Every sentence of the reading against the matrices and the paired intervals."""
    lines = [line for line in made.text.splitlines() if line.startswith("At ")]
    claims = [CLAIM.fullmatch(line) for line in lines]
    found = {(c["block"], c["pure"]): c for c in claims if c}
    assert len(lines) == len(found) == 6
    for (block, pure), claim in found.items():
        i = BLOCKS.index(block)
        for group, title in (("mixed", MIXED), ("other", pure)):
            matrix = made.matrices["td", title]
            assert claim[group] == f"{matrix.values[matrix.rows.index(block), matrix.cols.index(block)]:.4f}"
        test = made.differences[pure]
        low, high = float(test.ci_low[i, i]), float(test.ci_high[i, i])
        assert (claim["delta"], claim["low"], claim["high"]) == (
            f"{test.values[i, i]:+.4f}",
            f"{low:+.4f}",
            f"{high:+.4f}",
        )
        assert (claim["verdict"] == "answers differ more than in") == (low > 0)
        assert (claim["verdict"] == "answers differ less than in") == (high < 0)
        assert (claim["verdict"] == "cannot be told apart from") == (low <= 0 <= high)


def check_intervals(made: Demo) -> None:
    """The paired intervals of the first block against the normal ones of the differences, image by image."""
    test = load_data("digits", split="test")
    sides = {
        name: extract(trained.network, test, layers="layer1.0", progress=False)
        for name, trained in made.networks.items()
    }
    differ = {}
    for title, (a, b) in _PAIRS.items():
        differ[title] = np.zeros(597)
        differ[title][disagreements(sides[a], sides[b], "layer1.0").rows] = 1
    for pure in PURE:
        each = differ[MIXED] - differ[pure]
        found, error = made.differences[pure], each.std(ddof=1) / np.sqrt(597)
        assert found.values[0, 0] == pytest.approx(each.mean(), abs=1e-12)
        assert found.ci_low[0, 0] == pytest.approx(each.mean() - 1.96 * error, abs=0.15 * error)
        assert found.ci_high[0, 0] == pytest.approx(each.mean() + 1.96 * error, abs=0.15 * error)
