"""Block structure as numbers: runs of layers that look alike, in a network compared with itself."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from repsim._common.html import ShownAsTable
from repsim._common.messages import message, some
from repsim.features.activations import Activations
from repsim.metrics.alignment.cka import CKA
from repsim.similarity.comparison import compare
from repsim.similarity.effective_dimension import dimension
from repsim.similarity.matrix import SimilarityMatrix

if TYPE_CHECKING:
    import pandas as pd

#: How many random ways to cut the depth a contrast is held against.
_RANDOM = 1000


@dataclass(frozen=True)
class Block:
    """A run of two or more layers that look alike.

    Attributes:
        start: Its first layer's number.
        stop: One more than its last layer's number.
        mean: Mean similarity of its pairs of layers.
    """

    start: int
    stop: int
    mean: float

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Blocks(ShownAsTable):
    """Block structure of one network.

    Attributes:
        homogeneity: Share of pairs of layers more than `lag` apart whose similarity is at least `threshold`: 1 for a
            network whose layers are all alike, which has no blocks to tell apart.
        contrast: Mean similarity of pairs of layers in one block less that of all other pairs; 0 where one of the two
            has no pair, as in a network whose layers are all alike.
        random_contrast: The mean contrast of as many runs with random ends: what runs have because near layers are
            more alike than far ones.
        blocks: Runs of layers that look alike, in order; layers in none of them stand alone.
        within: Mean similarity of pairs of layers in one block; None where there is no block.
        between: Mean similarity of all other pairs; None where one block holds all layers.
        threshold: From where on two layers count as alike.
        lag: In layers.
        layers: In execution order.
        model: What the network is called.
        metric: Of the similarities.
        n: Samples.
    """

    homogeneity: float
    contrast: float
    random_contrast: float
    blocks: tuple[Block, ...]
    within: float | None
    between: float | None
    threshold: float
    lag: int
    layers: tuple[str, ...]
    model: str
    metric: str
    n: int

    @property
    def change_points(self) -> tuple[int, ...]:
        """Numbers of the layers at which a block begins or has just ended, without the ends of the network."""
        ends = {end for block in self.blocks for end in (block.start, block.stop)}
        return tuple(sorted(ends - {0, len(self.layers)}))

    def __repr__(self) -> str:
        share = f"{self.homogeneity:.1%} of pairs more than {self.lag} layers apart have "
        share += f"{self.metric} >= {self.threshold:g}"
        counts = f"{len(self.blocks)} blocks with {sum(map(len, self.blocks))} of {len(self.layers)} layers"
        means = f"within blocks {_shown(self.within)}, elsewhere {_shown(self.between)}"
        random = f"contrast {self.contrast:.3f}, of random runs {self.random_contrast:.3f}"
        return f"Blocks({self.model}: {share}; {counts}; mean similarity {means}; {random}; n = {self.n:,})"

    def to_frame(self) -> "pd.DataFrame":
        """One row per block: its layers and their mean similarity."""
        import pandas as pd

        table = {
            "start": [b.start for b in self.blocks],
            "stop": [b.stop for b in self.blocks],
            "first_layer": [self.layers[b.start] for b in self.blocks],
            "last_layer": [self.layers[b.stop - 1] for b in self.blocks],
            "layers": [len(b) for b in self.blocks],
            "mean": [b.mean for b in self.blocks],
        }
        settings = {"threshold": self.threshold, "model": self.model, "metric": self.metric, "n": self.n}
        return pd.DataFrame({**table, **settings})


@dataclass(frozen=True, eq=False)
class BlockReport(ShownAsTable):
    """Block structure of one network, with and without the leading principal component of each layer.

    Attributes:
        whole: Of the layers as they are.
        without_first: Of what is left of them without that component.
        matrix: The similarities that `whole` is of.
        matrix_without_first: Those that `without_first` is of.
        top_share: Share of each layer's variance in its leading component.
    """

    whole: Blocks
    without_first: Blocks
    matrix: SimilarityMatrix
    matrix_without_first: SimilarityMatrix
    top_share: Float[np.ndarray, " l"]

    def __repr__(self) -> str:
        scores = (
            f"homogeneity {self.whole.homogeneity:.3f}, without first components {self.without_first.homogeneity:.3f}"
        )
        share = f"these hold {self.top_share.min():.0%} to {self.top_share.max():.0%} of the variance"
        return f"BlockReport({self.whole.model}: {scores}; {share}; n = {self.whole.n:,})"

    def to_frame(self) -> "pd.DataFrame":
        """Two rows, `components_removed` 0 and 1: homogeneity, contrast, counts, means (NaN where no pair)."""
        import pandas as pd

        rows = []
        for removed, found in enumerate((self.whole, self.without_first)):
            means = {name: getattr(found, name) for name in ("within", "between")}
            rows.append(
                {
                    "model": found.model,
                    "components_removed": removed,
                    "homogeneity": found.homogeneity,
                    "contrast": found.contrast,
                    "random_contrast": found.random_contrast,
                    "blocks": len(found.blocks),
                    "layers_in_blocks": sum(map(len, found.blocks)),
                    **{name: math.nan if mean is None else mean for name, mean in means.items()},
                    "threshold": found.threshold,
                    "lag": found.lag,
                    "n": found.n,
                }
            )
        return pd.DataFrame(rows)


def blocks(matrix: SimilarityMatrix, *, threshold: float = 0.9, lag: int | None = None) -> Blocks:
    """How much of a network's depth looks alike, and from which layer to which?

    The blocks maximise, over all ways to cut the depth into runs of layers,

        Σ_{pairs i < j of layers in one run} (similarity_ij − threshold)

    so each pair kept together pays a penalty of `threshold`, and no number of blocks has to be chosen: the mean
    similarity between two runs side by side is below the threshold, and between the two parts of a block, wherever it
    is cut, it is not. The maximum is exact; of equal ones the last block is the longest. Where
    similarity fades smoothly along depth there are blocks as well, of runs near enough, and their ends mean little:
    their contrast, the mean inside less the mean outside, is then near that of runs with random ends. Homogeneity, the
    share of pairs more than `lag` apart whose similarity is at least `threshold`, says how much is alike at all.

    Args:
        matrix: Of one network with itself, as `compare(a, a, "cka")`; a similarity.
        threshold: From where on layers count as alike, for homogeneity and for the blocks.
        lag: Layers this near or nearer are left out of homogeneity, for neighbours are alike in any network. None is an
            eighth of the depth, rounded up.

    Returns:
        Blocks, mean similarities inside and outside of them, contrast and homogeneity.

    Raises:
        ValueError: Two networks, a distance, a matrix that is not symmetric, a layer without numbers, settings out of
            range.

    Source:
        Block structure: Nguyen, Raghu, Kornblith 2021, arXiv 2010.15327; its loss in robust networks: Cianfarani et al.
        2022, arXiv 2206.09868. The sum is the constant Potts model of Traag, Van Dooren, Nesterov 2011, arXiv
        1104.3083, whose parts are runs here and found by dynamic programming. Contrast and homogeneity are
        this project's.

    Cost:
        L² for L layers, and a thousand random cuts of the depth.

    Example:
        >>> values = np.full((7, 7), 0.2)
        >>> values[:4, :4] = values[5:, 5:] = 0.95
        >>> np.fill_diagonal(values, 1)
        >>> names = tuple("abcdefg")
        >>> blocks(SimilarityMatrix(values, names, names, "cka", "net", "net", 100))  # doctest: +ELLIPSIS
        Blocks(net: ...; 2 blocks with 6 of 7 layers; mean similarity within blocks 0.950, ...; n = 100)
    """
    values = _checked(matrix)
    depth = len(values)
    lag = math.ceil(depth / 8) if lag is None else lag
    if not 0 < threshold <= 1:
        raise ValueError(message("blocks", "threshold must be in (0, 1]", f"{threshold}", "0.9 is usual"))
    if isinstance(lag, bool) or not isinstance(lag, int) or not 0 <= lag <= depth - 2:
        must = f"lag must be a whole number from 0 to {depth - 2}, for {depth} layers"
        raise ValueError(message("blocks", must, repr(lag), "Leave it out"))
    cuts = _cuts(values - threshold)
    runs = [(start, stop) for start, stop in pairwise(cuts) if stop - start > 1]
    together = np.zeros(values.shape, dtype=bool)
    for start, stop in runs:
        together[start:stop, start:stop] = True
    return Blocks(
        homogeneity=float((_pairs(values, lag) >= threshold).mean()),
        contrast=float(_contrasts(values, np.array([cuts]))[0]),
        random_contrast=float(_contrasts(values, _random_cuts(depth, len(cuts) - 1)).mean()),
        blocks=tuple(Block(i, j, float(_pairs(values[i:j, i:j]).mean())) for i, j in runs),
        within=_mean(_pairs(values)[_pairs(together)]),
        between=_mean(_pairs(values)[~_pairs(together)]),
        threshold=threshold,
        lag=lag,
        layers=matrix.rows,
        model=matrix.row_model,
        metric=matrix.metric,
        n=matrix.n,
    )


def block_report(a: Activations, *, threshold: float = 0.9, lag: int | None = None) -> BlockReport:
    """Is a network's block structure the work of one component per layer?

    Debiased CKA of the network with itself, as it is and without the leading principal component of each layer. Where
    homogeneity or contrast fall without them, few samples along one direction make the blocks.

    Args:
        a: Features of one network.
        threshold: As for `blocks`.
        lag: As for `blocks`.

    Returns:
        Both block structures, their matrices, and how much variance the removed components hold.

    Raises:
        ValueError: As `compare` and `blocks`; a layer of one component has nothing left without it.

    Source:
        Nguyen, Raghu, Kornblith 2022, arXiv 2202.07184, on what the leading component does to block structure.

    Cost:
        Two comparisons, and one QR and one eigendecomposition per layer.
    """
    matrix, without = (compare(a, a, CKA(without_components=count)) for count in (0, 1))
    found, left = (blocks(each, threshold=threshold, lag=lag) for each in (matrix, without))
    return BlockReport(found, left, matrix, without, dimension(a)["top_share"].to_numpy())


def _cuts(gains: Float[np.ndarray, "l l"]) -> list[int]:
    """Where the best runs begin, and the depth, by dynamic programming over where the last run begins."""
    depth = len(gains)
    best, begins, inside = np.zeros(depth + 1), np.zeros(depth + 1, dtype=int), np.zeros(depth)
    for stop in range(1, depth + 1):
        # The new layer's pairs with all layers from `start` on, for every start at once.
        inside[: stop - 1] += gains[: stop - 1, stop - 1][::-1].cumsum()[::-1]
        total = best[:stop] + inside[:stop]
        # Equal maxima differ by rounding; the earliest begin makes the longest run.
        begins[stop] = int(np.flatnonzero(total >= total.max() - 1e-12)[0])
        best[stop] = total[begins[stop]]
    cuts = [depth]
    while cuts[-1] > 0:
        cuts.append(int(begins[cuts[-1]]))
    return cuts[::-1]


def _random_cuts(depth: int, runs: int) -> Int[np.ndarray, "r k"]:
    """Ways to cut a depth into as many runs, all as likely; the same ones each time."""
    order = np.random.default_rng(0).random((_RANDOM, depth - 1)).argsort(1)[:, : runs - 1]
    return np.hstack([np.zeros((_RANDOM, 1), int), np.sort(order + 1), np.full((_RANDOM, 1), depth)])


def _contrasts(values: Float[np.ndarray, "l l"], cuts: Int[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
    """Mean over pairs of layers in one run less that over all other pairs, for each way to cut; 0 without either."""
    depth = len(values)
    # above[s, t]: the sum over pairs i < j with i < s and j < t, so that a run's own pairs are a difference of four.
    above = np.zeros((depth + 1, depth + 1))
    above[1:, 1:] = np.triu(values, 1).cumsum(0).cumsum(1)
    start, stop = cuts[:, :-1], cuts[:, 1:]
    inside = (above[stop, stop] - above[start, stop] - above[stop, start] + above[start, start]).sum(1)
    count, every = ((stop - start) * (stop - start - 1) // 2).sum(1), depth * (depth - 1) // 2
    known = (count > 0) & (count < every)
    outside = (above[-1, -1] - inside) / np.where(known, every - count, 1)
    return np.where(known, inside / np.where(known, count, 1) - outside, 0.0)


def _pairs(values: Shaped[np.ndarray, "l l"], lag: int = 0) -> Shaped[np.ndarray, " m"]:
    """What belongs to pairs of layers more than `lag` apart, each pair once."""
    return values[np.triu_indices(len(values), lag + 1)]


def _checked(matrix: SimilarityMatrix) -> Float[np.ndarray, "l l"]:
    """The values of one network with itself, exactly symmetric."""
    pair = f"{matrix.row_model} × {matrix.col_model}"
    if matrix.definition.kind != "similarity":
        raise ValueError(message("blocks", "the metric must be a similarity", matrix.metric, "Use cka"))
    if (matrix.rows, matrix.row_model) != (matrix.cols, matrix.col_model):
        raise ValueError(message("blocks", "the matrix must be of one network with itself", pair, "compare(a, a)"))
    if len(matrix.rows) < 3:
        got = f"{len(matrix.rows)}"
        raise ValueError(message("blocks", "there must be at least 3 layers", got, "Extract more layers"))
    values = matrix.values
    if np.isnan(values).any():
        bare = [name for name, row in zip(matrix.rows, values, strict=True) if np.isnan(row).all()]
        i, j = np.argwhere(np.isnan(values))[0]
        got = f"none for {some(bare)}" if bare else f"none for {matrix.rows[i]} × {matrix.cols[j]}"
        advice = "Leave such layers out of extract(layers=...)"
        must = "every pair of layers must have a number"
        raise ValueError(message("blocks", must, f"{got} ({matrix.reasons[int(i), int(j)]})", advice))
    if not np.allclose(values, values.T, atol=1e-6):
        got = f"{matrix.metric}, which differs by up to {np.abs(values - values.T).max():.2g}"
        raise ValueError(message("blocks", "the matrix must be symmetric", got, "Use cka"))
    return (values + values.T) / 2


def _mean(values: Float[np.ndarray, " m"]) -> float | None:
    return float(values.mean()) if len(values) else None


def _shown(mean: float | None) -> str:
    return "none" if mean is None else f"{mean:.3f}"
