"""Block structure: planted blocks are found, noise has none, and an exhaustive search finds no better ones."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from repsim import Activations, SimilarityMatrix, compare
from repsim.similarity.block_structure import Blocks, block_report, blocks
from tests.conftest import exactly


def own(values: Any, metric: str = "cka", **changes: Any) -> SimilarityMatrix:
    values = np.array(values, dtype=float)
    names = tuple(f"layer{k}" for k in range(len(values)))
    whole: dict[str, Any] = {"rows": names, "cols": names, "row_model": "net", "col_model": "net", "n": 500}
    holes = {(int(i), int(j)): "constant features" for i, j in np.argwhere(np.isnan(values))}
    return SimilarityMatrix(values, metric=metric, reasons=holes, **{**whole, **changes})


def planted(sizes: list[int], within: float | list[float] = 0.95, between: float = 0.2) -> np.ndarray:
    means = within if isinstance(within, list) else [within] * len(sizes)
    values = np.full((sum(sizes), sum(sizes)), between)
    start = 0
    for size, mean in zip(sizes, means, strict=True):
        values[start : start + size, start : start + size] = mean
        start += size
    np.fill_diagonal(values, 1)
    return values


def noise(depth: int, spread: float, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((depth, depth)) * spread
    values = np.triu(x, 1) + np.triu(x, 1).T
    np.fill_diagonal(values, 1)
    return values.clip(-1, 1)


def objective(values: np.ndarray, cuts: tuple[int, ...], threshold: float) -> float:
    """The docstring's sum, pair by pair."""
    total = 0.0
    for start, stop in itertools.pairwise((0, *cuts, len(values))):
        for i, j in itertools.combinations(range(start, stop), 2):
            total += float(values[i, j]) - threshold
    return total


def all_cuts(depth: int) -> list[tuple[int, ...]]:
    return [cut for count in range(depth) for cut in itertools.combinations(range(1, depth), count)]


def runs(found: Blocks) -> list[tuple[int, int]]:
    """All runs of layers, those of one layer too."""
    inside = {k: (b.start, b.stop) for b in found.blocks for k in range(b.start, b.stop)}
    return sorted({inside.get(k, (k, k + 1)) for k in range(len(found.layers))})


# --- Blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 4, 6, 9])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_the_blocks_are_those_of_an_exhaustive_search(depth: int, threshold: float) -> None:
    for seed in range(5):
        values = (0.5 * planted([depth // 3, depth - depth // 3]) + noise(depth, 0.4, seed)).clip(-1, 1)
        found = runs(blocks(own(values), threshold=threshold))
        most = max(objective(values, cuts, threshold) for cuts in all_cuts(depth))
        assert objective(values, tuple(start for start, _ in found[1:]), threshold) == pytest.approx(most, abs=1e-9)


@given(seed=st.integers(0, 999), depth=st.integers(3, 30), threshold=st.floats(0.1, 0.95))
@settings(max_examples=40, deadline=None)
def test_neighbours_are_joined_exactly_where_they_are_alike(seed: int, depth: int, threshold: float) -> None:
    far = np.abs(np.subtract.outer(np.arange(depth), np.arange(depth)))
    values = np.clip(np.exp(-far / 6) + noise(depth, 0.15, seed), -1, 1)
    found = blocks(own(values), threshold=threshold)
    for (start, middle), (_, stop) in itertools.pairwise(runs(found)):
        assert values[start:middle, middle:stop].mean() < threshold
    for block in found.blocks:
        assert block.mean >= threshold - 1e-9
        for middle in range(block.start + 1, block.stop):
            assert values[block.start : middle, middle : block.stop].mean() >= threshold - 1e-9


@given(sizes=st.lists(st.integers(2, 7), min_size=1, max_size=6), between=st.floats(-0.1, 0.89))
@example(sizes=[3], between=0.0)
@settings(max_examples=40, deadline=None)
def test_planted_blocks_are_recovered_exactly(sizes: list[int], between: float) -> None:
    assume(sum(sizes) >= 3)
    found = blocks(own(planted(sizes, 0.95, between)))
    starts = [0, *itertools.accumulate(sizes)]
    assert [(b.start, b.stop) for b in found.blocks] == list(itertools.pairwise(starts))
    assert list(found.change_points) == starts[1:-1]
    assert [b.mean for b in found.blocks] == pytest.approx([0.95] * len(sizes))
    assert found.within == pytest.approx(0.95)
    assert found.between == (pytest.approx(between) if len(sizes) > 1 else None)


def test_blocks_within_a_gradient_are_seen_whole() -> None:
    far = np.abs(np.subtract.outer(np.arange(24), np.arange(24)))
    values = 0.2 + 0.6 * np.exp(-((far / 8) ** 2))
    values[9:17, 9:17], values[18:, 18:] = 0.96, 0.93
    np.fill_diagonal(values, 1)
    found = blocks(own(values)).blocks
    assert [(b.start, b.stop) for b in found] == [(9, 17), (18, 24)]
    assert [b.mean for b in found] == pytest.approx([0.96, 0.93])
    assert blocks(own(values)).change_points == (9, 17, 18)


def test_runs_below_the_threshold_are_no_blocks() -> None:
    values = planted([5, 4, 6], [0.95, 0.6, 0.92])
    assert [(b.start, b.stop) for b in blocks(own(values)).blocks] == [(0, 5), (9, 15)]
    assert [(b.start, b.stop) for b in blocks(own(values), threshold=0.5).blocks] == [(0, 5), (5, 9), (9, 15)]


@pytest.mark.parametrize("spread", [0.01, 0.03, 0.3])
@pytest.mark.parametrize("depth", [5, 12, 40])
def test_noise_has_no_blocks(depth: int, spread: float) -> None:
    found = blocks(own(noise(depth, spread, 0)))
    assert found.blocks == ()
    assert found.change_points == ()
    assert found.within is None
    assert found.homogeneity < 0.01
    assert found.between == pytest.approx(0, abs=0.3)


def test_noise_on_planted_blocks_moves_no_boundary() -> None:
    values = planted([6, 9, 5], between=0.3)
    for seed in range(5):
        assert blocks(own((values + 0.03 * noise(20, 1, seed)).clip(-1, 1))).change_points == (6, 15)


def test_one_uniform_matrix_is_one_block() -> None:
    found = blocks(own(planted([9], 0.97)))
    assert [(b.start, b.stop) for b in found.blocks] == [(0, 9)]
    assert found.homogeneity == 1
    assert found.between is None
    assert found.change_points == ()


# --- Homogeneity ----------------------------------------------------------------------------------------------------


def homogeneity(values: np.ndarray, threshold: float, lag: int) -> float:
    depth = len(values)
    pairs = [values[i, j] for i in range(depth) for j in range(depth) if abs(i - j) > lag]
    return sum(v >= threshold for v in pairs) / len(pairs)


@pytest.mark.parametrize("depth", [3, 8, 9, 17])
def test_homogeneity_counts_entries_away_from_the_diagonal(depth: int) -> None:
    values = 1 - np.abs(np.subtract.outer(np.arange(depth), np.arange(depth))) / depth
    assert blocks(own(values)).homogeneity == homogeneity(values, 0.9, -(-depth // 8))
    assert blocks(own(values)).lag == -(-depth // 8)
    for lag, threshold in itertools.product((0, 1, depth - 2), (0.2, 0.5, 0.9)):
        found = blocks(own(values), lag=lag, threshold=threshold)
        assert found.homogeneity == homogeneity(values, threshold, lag)
    assert blocks(own(np.ones((depth, depth)))).homogeneity == 1


def test_a_value_at_the_threshold_counts() -> None:
    assert blocks(own(planted([6], 0.9))).homogeneity == 1
    assert len(blocks(own(planted([6], 0.9))).blocks) == 1
    assert blocks(own(planted([6], np.nextafter(0.9, 0)))).homogeneity == 0


# --- Contrast -------------------------------------------------------------------------------------------------


def contrast(values: np.ndarray, cuts: tuple[int, ...]) -> float:
    """By a loop over pairs, of runs that begin at the cuts."""
    run = [sum(cut <= i for cut in cuts) for i in range(len(values))]
    inside, outside = list[float](), list[float]()
    for i, j in itertools.combinations(range(len(values)), 2):
        (inside if run[i] == run[j] else outside).append(values[i, j])
    return float(np.mean(inside) - np.mean(outside)) if inside and outside else 0.0


@pytest.mark.parametrize(("depth", "sizes"), [(7, [3, 4]), (9, [2, 5, 2]), (12, [4, 4, 4])])
def test_contrast_is_the_mean_inside_less_outside_and_its_chance_that_of_all_ways_to_cut(
    depth: int, sizes: list[int]
) -> None:
    values = (planted(sizes) + 0.02 * noise(depth, 1, 0)).clip(-1, 1)
    found = blocks(own(values))
    assert found.contrast == pytest.approx(contrast(values, found.change_points), abs=1e-12)
    ways = [contrast(values, cuts) for cuts in itertools.combinations(range(1, depth), len(sizes) - 1)]
    assert found.random_contrast == pytest.approx(np.mean(ways), abs=4 * np.std(ways) / 1000**0.5)
    assert found.contrast == pytest.approx(max(ways))


def test_what_is_alike_throughout_or_fades_evenly_has_no_contrast_beyond_chance() -> None:
    for flat in (blocks(own(planted([9], 0.97))), blocks(own(noise(12, 0.03, 0)))):
        assert flat.contrast == flat.random_contrast == 0
    far = np.abs(np.subtract.outer(np.arange(24), np.arange(24)))
    fading = blocks(own(np.exp(-far / 40)))
    assert len(fading.blocks) > 1
    sharp = blocks(own(planted([8, 8, 8])))
    assert fading.contrast - fading.random_contrast < 0.1 < 0.4 < sharp.contrast - sharp.random_contrast


# --- What must not matter -------------------------------------------------------------------------------------


def facts(found: Blocks) -> tuple[Any, ...]:
    return found.homogeneity, found.blocks, found.within, found.between


@given(seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_transposing_changes_nothing_and_reversing_mirrors(seed: int) -> None:
    values = (planted([4, 5, 3]) + 0.1 * noise(12, 1, seed)).clip(-1, 1)
    np.fill_diagonal(values, 1)
    values[0, 5] += 4e-7 if values[0, 5] < 0.5 else -4e-7  # symmetric to rounding only
    assert facts(blocks(own(values))) == facts(blocks(own(values.T)))
    mirrored = blocks(own(values[::-1, ::-1]))
    assert mirrored.homogeneity == blocks(own(values)).homogeneity
    assert [12 - c for c in reversed(mirrored.change_points)] == list(blocks(own(values)).change_points)


# --- Words and tables -----------------------------------------------------------------------------------------


def test_the_text_says_threshold_lag_and_means() -> None:
    found = blocks(own(planted([5, 4])))
    assert repr(found) == (
        "Blocks(net: 19.0% of pairs more than 2 layers apart have cka >= 0.9; "
        "2 blocks with 9 of 9 layers; mean similarity within blocks 0.950, elsewhere 0.200; "
        f"contrast 0.750, of random runs {found.random_contrast:.3f}; n = 500)"
    )
    assert "elsewhere none" in repr(blocks(own(planted([9]))))


def test_the_table_has_a_row_per_block() -> None:
    table = blocks(own(planted([3, 4, 3], [0.95, 0.3, 0.9]))).to_frame()
    assert table["first_layer"].tolist() == ["layer0", "layer7"]
    assert table["last_layer"].tolist() == ["layer2", "layer9"]
    assert table[["start", "stop", "layers"]].to_numpy().tolist() == [[0, 3, 3], [7, 10, 3]]
    assert table["mean"].to_numpy() == pytest.approx([0.95, 0.9])
    assert len(blocks(own(np.eye(4))).to_frame()) == 0


def test_matrices_without_a_block_structure_are_refused() -> None:
    text = "blocks: the metric must be a similarity; got td. Use cka."
    with pytest.raises(ValueError, match=exactly(text)):
        blocks(own(np.zeros((4, 4)), "td"))
    text = "blocks: the matrix must be of one network with itself; got net × other. compare(a, a)."
    with pytest.raises(ValueError, match=exactly(text)):
        blocks(own(np.ones((4, 4)), col_model="other"))
    text = "blocks: there must be at least 3 layers; got 2. Extract more layers."
    with pytest.raises(ValueError, match=exactly(text)):
        blocks(own(np.ones((2, 2))))
    uneven = np.ones((4, 4))
    uneven[0, 1] = 0.5
    text = "blocks: the matrix must be symmetric; got cka, which differs by up to 0.5. Use cka."
    with pytest.raises(ValueError, match=exactly(text)):
        blocks(own(uneven))


def test_a_layer_without_numbers_is_named() -> None:
    values = np.ones((4, 4))
    values[2] = values[:, 2] = np.nan
    text = (
        "blocks: every pair of layers must have a number; got none for layer2 (constant features). "
        "Leave such layers out of extract(layers=...)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        blocks(own(values))
    values = np.ones((4, 4))
    values[0, 3] = values[3, 0] = np.nan
    with pytest.raises(ValueError, match=exactly(text.replace("layer2", "layer0 × layer3"))):
        blocks(own(values))


@pytest.mark.parametrize(
    ("given_settings", "text"),
    [
        ({"threshold": 0.0}, "blocks: threshold must be in (0, 1]; got 0.0. 0.9 is usual."),
        ({"threshold": 1.1}, "blocks: threshold must be in (0, 1]; got 1.1. 0.9 is usual."),
        ({"lag": 3}, "blocks: lag must be a whole number from 0 to 2, for 4 layers; got 3. Leave it out."),
        ({"lag": 1.5}, "blocks: lag must be a whole number from 0 to 2, for 4 layers; got 1.5. Leave it out."),
    ],
)
def test_settings_out_of_range(given_settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        blocks(own(np.ones((4, 4))), **given_settings)


# --- With and without the first component ---------------------------------------------------------------------


def dominated(n: int = 120, layers: int = 8) -> Activations:
    """Layers with nothing in common but one strong direction."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(n)
    made = {}
    for k in range(layers):
        x = rng.standard_normal((n, 12))
        made[f"layer{k}"] = torch.tensor(x + 30 * np.outer(common, rng.standard_normal(12)))
    return Activations.from_arrays(made, name="dominated")


def test_blocks_of_one_component_are_gone_without_it() -> None:
    side = dominated()
    report = block_report(side)
    assert report.whole.homogeneity == 1
    assert [(s.start, s.stop) for s in report.whole.blocks] == [(0, 8)]
    assert report.without_first.homogeneity == 0
    assert report.without_first.blocks == ()
    assert report.top_share.min() > 0.9
    assert facts(report.whole) == facts(blocks(compare(side, side, "cka")))
    assert report.matrix_without_first.metric == "cka(without_components=1)"


def test_blocks_of_many_components_stay_without_the_first() -> None:
    rng = np.random.default_rng(1)
    common = rng.standard_normal((120, 10))
    made = {f"layer{k}": torch.tensor(common @ np.linalg.qr(rng.standard_normal((10, 10)))[0]) for k in range(6)}
    report = block_report(Activations.from_arrays(made, name="many"))
    assert report.whole.homogeneity == report.without_first.homogeneity == 1


def test_the_report_is_two_rows_and_one_line() -> None:
    report = block_report(dominated(), lag=2, threshold=0.8)
    table = report.to_frame()
    assert table["components_removed"].tolist() == [0, 1]
    assert table["homogeneity"].tolist() == [1, 0]
    assert table["layers_in_blocks"].tolist() == [8, 0]
    assert table["lag"].tolist() == [2, 2]
    assert table["threshold"].tolist() == [0.8, 0.8]
    assert np.isnan(table["between"][0])
    low, high = report.top_share.min(), report.top_share.max()
    assert repr(report) == (
        "BlockReport(dominated: homogeneity 1.000, without first components 0.000; "
        f"these hold {low:.0%} to {high:.0%} of the variance; n = 120)"
    )
