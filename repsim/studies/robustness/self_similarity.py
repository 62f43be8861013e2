"""One network against itself as numbers, and these numbers over groups of networks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from repsim._common.messages import message
from repsim.features.activations import Activations
from repsim.metrics import Metric, get_metric, metric_name
from repsim.similarity.block_structure import Blocks, blocks
from repsim.similarity.comparison import compare
from repsim.similarity.effective_dimension import dimension
from repsim.similarity.matrix import SimilarityMatrix
from repsim.studies.common.claims import Claim, claims, columns, shown
from repsim.studies.common.groups import GroupFeatures
from repsim.studies.common.jackknife import Estimate, NetworkNumbers, jackknife

if TYPE_CHECKING:
    from pandas import DataFrame

#: Number of a network -> what it says.
STATISTICS = {
    "homogeneity": "share of pairs of layers far apart that are at least as alike as the threshold",
    "block_contrast": "mean similarity inside blocks less outside, beyond as many runs with random ends",
    "mean_off_diagonal": "mean similarity of different layers",
    "mean_beyond_lag": "mean similarity of layers far apart",
    "mean_first_component": "mean share of a layer's variance in its leading component",
}

#: The same in a reading and over a picture.
WORDS = {
    "homogeneity": "homogeneity",
    "block_contrast": "block contrast beyond chance",
    "mean_off_diagonal": "mean similarity of different layers",
    "mean_beyond_lag": "mean similarity of layers far apart",
    "mean_first_component": "share of the leading components",
}


@dataclass(frozen=True, eq=False)
class SelfSimilarity:
    """One network against itself.

    Attributes:
        matrix: Layers × layers.
        blocks: Its block structure.
        numbers: Name of `STATISTICS` -> value.
        first: Layer -> share of its variance in its leading component.
    """

    matrix: SimilarityMatrix
    blocks: Blocks
    numbers: Mapping[str, float]
    first: Mapping[str, float]

    @classmethod
    def of(cls, side: Activations, metric: Metric) -> "SelfSimilarity":
        """Compares the layers of a network with each other."""
        matrix = compare(side, side, metric)
        found = blocks(matrix)
        shares = dimension(side)["top_share"].to_list()
        numbers = {
            "homogeneity": found.homogeneity,
            "block_contrast": found.contrast - found.random_contrast,
            "mean_off_diagonal": beyond_lag(matrix, 0),
            "mean_beyond_lag": beyond_lag(matrix, found.lag),
            "mean_first_component": float(np.mean(shares)),
        }
        return cls(matrix, found, numbers, dict(zip(side.layers, shares, strict=True)))


def beyond_lag(matrix: SimilarityMatrix, lag: int) -> float:
    """Mean similarity of layers more than `lag` apart, of one network or of two."""
    gap = np.abs(np.subtract.outer(np.arange(len(matrix.rows)), np.arange(len(matrix.cols))))
    return float(matrix.values[gap > lag].mean())


def of_pair(matrix: SimilarityMatrix) -> Blocks | None:
    """Blocks of the layers of two networks of one architecture; None where their layers differ.

    Layer i of one with layer j of the other, and the other way round, are averaged: which network is which means
    nothing.
    """
    if matrix.rows != matrix.cols or np.isnan(matrix.values).any():
        return None
    both = f"{matrix.row_model} × {matrix.col_model}"
    values = (matrix.values + matrix.values.T) / 2
    return blocks(replace(matrix, values=values, row_model=both, col_model=both, details={}))


def checked(function: str, metric: str | Metric) -> Metric:
    """A metric that block structure can be read from."""
    chosen = get_metric(metric)
    if chosen.kind != "similarity" or not chosen.symmetric:
        advice = "Use cka; over_seeds takes distances"
        raise ValueError(message(function, "the metric must be a symmetric similarity", metric_name(chosen), advice))
    return chosen


def facts(metric: Metric, every: Sequence[SelfSimilarity]) -> dict[str, Any]:
    """What the numbers of networks against themselves depend on."""
    chance = [float(a.matrix.details["chance"].max()) for a in every if "chance" in a.matrix.details]
    return {
        "metric": repr(metric),
        "meaning": metric.meaning,
        "source": metric.source,
        **({"chance": max(chance)} if chance else {}),
        "cautions": list(dict.fromkeys(text for a in every for text in a.matrix.cautions)),
        "statistics": STATISTICS,
        "threshold": every[0].blocks.threshold,
        "lag": {a.matrix.row_model: a.blocks.lag for a in every},
        "layers": {a.matrix.row_model: len(a.matrix.rows) for a in every},
        "errors": "jackknife over networks; Student's 95 % intervals; p-values corrected by Holm over all of a table",
    }


def group_means(grouped: GroupFeatures, every: Mapping[str, SelfSimilarity]) -> dict[tuple[str, str], Estimate]:
    """(group, statistic) -> the mean over a group's networks with its standard error over them."""
    return {
        (group, name): _mean([every[network].numbers[name] for network in sides])
        for group, sides in grouped.groups.items()
        for name in STATISTICS
    }


def group_gaps(
    grouped: GroupFeatures, every: Mapping[str, SelfSimilarity], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str, str], Claim[Estimate]]:
    """(first, second, statistic) -> the second group's mean less the first's, corrected over all that is asked."""
    asked = [(a, b, name) for a, b in pairs for name in STATISTICS]
    found = []
    for a, b, name in asked:
        first, second = (
            np.array([every[network].numbers[name] for network in grouped.groups[group]]) for group in (a, b)
        )
        found.append(_difference(first, second))
    return dict(zip(asked, claims(found), strict=True))


def means_table(grouped: GroupFeatures, found: Mapping[tuple[str, str], Estimate]) -> "DataFrame":
    """The group means as a table."""
    import pandas as pd

    return pd.DataFrame(
        {"group": group, "statistic": name, "networks": len(grouped.groups[group]), **columns(each)}
        for (group, name), each in found.items()
    )


def gaps_table(found: Mapping[tuple[str, str, str], Claim[Estimate]]) -> "DataFrame":
    """The differences as a table."""
    import pandas as pd

    return pd.DataFrame(
        {"first": a, "second": b, "statistic": name, **columns(gap.found, "difference")}
        | {"p": gap.found.p, "p_holm": gap.adjusted}
        for (a, b, name), gap in found.items()
    )


def mean_sentence(group: str, networks: int, found: Mapping[tuple[str, str], Estimate]) -> str:
    """What a group's networks are like, each against itself."""
    words = ", ".join(f"{WORDS[name]} {shown(found[group, name])}" for name in STATISTICS)
    return f"{group} ({networks} network{'s' if networks > 1 else ''}, means): {words}."


def gap_sentence(a: str, b: str, found: Mapping[tuple[str, str, str], Claim[Estimate]]) -> str:
    """How the second group differs from the first, as far as the networks tell."""
    gaps = {name: found[a, b, name] for name in STATISTICS}
    if not any(gap.found.exact or gap.found.p >= 0 for gap in gaps.values()):
        words = ", ".join(f"{WORDS[name]} {shown(gap.found, sign=True)}" for name, gap in gaps.items())
        return f"{b} less {a}: {words}; each group needs two networks for an interval, so no difference is claimed."
    up, down = f"larger in {b}", f"smaller in {b}"
    asked = sum(not math.isnan(gap.adjusted) for gap in found.values())
    words = "; ".join(f"{WORDS[n]} {gap.verdict(up, down)}" for n, gap in gaps.items())
    return f"{b} less {a}: {words}. Corrected by Holm over {asked} differences."


def _mean(values: Sequence[float]) -> Estimate:
    def mean(groups: NetworkNumbers) -> float:
        return float(np.mean([values[i] for i in groups[0]])) if groups[0] else math.nan

    return jackknife(mean, [range(len(values))])


def _difference(first: Float[np.ndarray, " s"], second: Float[np.ndarray, " t"]) -> Estimate:
    def gap(groups: NetworkNumbers) -> float:
        rows, cols = (list(group) for group in groups)
        return float(second[cols].mean() - first[rows].mean()) if rows and cols else math.nan

    return jackknife(gap, [range(len(first)), range(len(second))])
