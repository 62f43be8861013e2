"""Does more width or depth change how alike a network's layers are, and differently in robust networks?"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from repsim._common.messages import message
from repsim.data.image_set import ImageSet
from repsim.metrics import Metric
from repsim.networks.layers import Layers
from repsim.networks.network import Network
from repsim.plots.study_panels import LinePanel, study_figure
from repsim.studies.augmentation.ranks import LEAST_GROUPS
from repsim.studies.common.claims import ALPHA, NO_BASELINE, holm
from repsim.studies.common.finding import Finding
from repsim.studies.common.groups import GroupFeatures
from repsim.studies.common.inputs import Extras, StudyInputs
from repsim.studies.robustness.baselines import line
from repsim.studies.robustness.self_similarity import (
    STATISTICS,
    WORDS,
    SelfSimilarity,
    checked,
    facts,
    gap_sentence,
    gaps_table,
    group_gaps,
    group_means,
    mean_sentence,
    means_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What `repsim robustness` finds this analysis by, and when it is its turn.
NAME, ORDER, ASKS_HEADS = "capacity", 6, True

#: A network's blocks are runs of its layers.
LEAST_LAYERS = 3

#: Orders of the sizes that are drawn for a p-value.
_PERMUTATIONS = 9_999

_NOTE = (
    "Means over the networks of a size with 95 % intervals, each for one number alone, cut at the frame; grey: each "
    "network."
)


def capacity(
    networks: Mapping[str, Mapping[str, Sequence[Network]]],
    data: ImageSet,
    *,
    metric: str | Metric = "cka",
    layers: Layers = None,
    reduction: str = "mean",
) -> Finding:
    """How alike are a network's layers to each other as networks grow wider or deeper?

    Each network is compared with itself as in `cross_layer`; homogeneity, block contrast, the mean similarities of its
    layers and the share of leading components are averaged over the networks of a size, with jackknife errors. From
    four sizes on Spearman's ρ between the place of a size and each statistic, over networks, with a permutation
    p-value.

    Args:
        networks: Kind (standard, robust, …) -> size, from small to large -> networks, which differ in seed alone.
        data: Images that all of them see.
        metric: A symmetric similarity.
        layers: As for `extract`; None takes one per residual block, see `study_layers`.
        reduction: As for `extract`.

    Returns:
        The part "capacity" with tables of the networks (""), "groups" (means), "differences" (of a kind's largest and
        smallest size, and of two kinds of one size) and, from four sizes on, "ranks".

    Raises:
        ValueError: A metric that is no symmetric similarity, fewer than three layers, a layer without numbers; a kind
            without sizes; networks of equal names or equal weights.

    Source:
        Cianfarani, Bhagoji, Sehwag, Zhao, Mittal, Zheng 2022, arXiv 2206.09868; block structure and capacity: Nguyen,
        Raghu, Kornblith 2021, arXiv 2010.15327.

    Cost:
        One run of each network over the images, one comparison of L × L layers and one QR per layer and network.
    """
    checked("capacity", metric)
    kinds = {kind: {size: list(own) for size, own in sizes.items()} for kind, sizes in networks.items()}
    flat = {_group(kind, size): own for kind, sizes in kinds.items() for size, own in sizes.items()}
    grouped = GroupFeatures.of(flat, data, layers=layers, reduction=reduction, function="capacity")
    return capacity_of(grouped, {kind: list(sizes) for kind, sizes in kinds.items()}, metric=metric)


def capacity_of(grouped: GroupFeatures, sizes: Mapping[str, Sequence[str]], *, metric: str | Metric = "cka") -> Finding:
    """`capacity` of features that are there already.

    Args:
        grouped: Groups called "kind, size".
        sizes: Kind -> its sizes, from small to large.
        metric: A symmetric similarity.
    """
    import pandas as pd

    chosen = checked("capacity", metric)
    if not sizes or not all(sizes.values()):
        got = next((f"none of {kind!r}" for kind, own in sizes.items() if not own), "no kind")
        raise ValueError(message("capacity", "every kind must have a size", got, "Leave the kind out"))
    every = {name: SelfSimilarity.of(side, chosen) for name, side in grouped.sides.items()}
    pairs = [(_group(kind, own[0]), _group(kind, own[-1])) for kind, own in sizes.items() if len(own) > 1]
    kinds = list(sizes)
    pairs += [
        (_group(a, size), _group(b, size))
        for i, a in enumerate(kinds)
        for b in kinds[i + 1 :]
        for size in sizes[a]
        if size in sizes[b]
    ]
    means, gaps = group_means(grouped, every), group_gaps(grouped, every, pairs)
    rows = [
        {"kind": kind, "size": size, "network": name, **every[name].numbers, "layers": len(every[name].matrix.rows)}
        for kind, own in sizes.items()
        for size in own
        for name in grouped.groups[_group(kind, size)]
    ]
    ranks = _ranks(grouped, every, sizes)
    tables = {
        "": pd.DataFrame(rows),
        "groups": means_table(grouped, means),
        **({"differences": gaps_table(gaps)} if gaps else {}),
        **({"ranks": pd.DataFrame(ranks)} if ranks else {}),
    }
    reading = [mean_sentence(group, len(own), means) for group, own in grouped.groups.items()]
    reading += [f"{group} {NO_BASELINE}." for group, own in grouped.groups.items() if len(own) == 1]
    reading += [gap_sentence(a, b, gaps) for a, b in pairs]
    reading += _rank_sentences(sizes, ranks)

    def draw() -> "Figure":
        return study_figure([[_panel(grouped, every, means, sizes, name) for name in STATISTICS]], note=_NOTE)

    return Finding(
        "capacity",
        "Does more capacity change how alike a network's layers are?",
        tables,
        tuple(reading),
        draw,
        {
            **grouped.protocol,
            **facts(chosen, list(every.values())),
            "sizes": {kind: list(own) for kind, own in sizes.items()},
            "lag_rule": "an eighth of a network's layers, rounded up, so it grows with depth",
        },
    )


def spearman(
    places: Float[np.ndarray, " m"], values: Float[np.ndarray, " m"], *, permutations: int = _PERMUTATIONS
) -> tuple[float, float]:
    """Spearman's ρ and its two-sided p-value under all orders of the places being as likely.

    Args:
        places: One number per network, with ties.
        values: The other.
        permutations: Random orders, the same ones each time.

    Returns:
        ρ and p; NaN where all values are equal.

    Source:
        Spearman 1904; the p-value of a random permutation test, which counts the order found: Phipson, Smyth 2010.
    """
    from scipy.stats import rankdata

    x, y = (rankdata(side) - (len(side) + 1) / 2 for side in (places, values))
    size = float(np.sqrt((x @ x) * (y @ y)))
    if size == 0:
        return math.nan, math.nan
    drawn = np.random.default_rng(0).permuted(np.tile(x, (permutations, 1)), axis=1) @ y
    found = float(x @ y)
    as_far = int((np.abs(drawn) >= abs(found) * (1 - 1e-12)).sum())
    return found / size, (1 + as_far) / (1 + permutations)


def _group(kind: str, size: str) -> str:
    return f"{kind}, {size}"


def _ranks(
    grouped: GroupFeatures, every: Mapping[str, SelfSimilarity], sizes: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind, own in sizes.items():
        if len(own) < LEAST_GROUPS:
            continue
        names = [(place, name) for place, size in enumerate(own) for name in grouped.groups[_group(kind, size)]]
        places = np.array([place for place, _ in names], dtype=float)
        for statistic in STATISTICS:
            rho, p = spearman(places, np.array([every[name].numbers[statistic] for _, name in names]))
            rows.append({"kind": kind, "statistic": statistic, "networks": len(names), "spearman": rho, "p": p})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _rank_sentences(sizes: Mapping[str, Sequence[str]], ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for kind, own in sizes.items():
        if len(own) < LEAST_GROUPS:
            count = f"{len(own)} size{'s' if len(own) > 1 else ''}"
            said.append(f"{kind}: {count}, too few for a rank correlation, which needs {LEAST_GROUPS}.")
            continue
        words = []
        for row in (row for row in ranks if row["kind"] == kind):
            if math.isnan(row["spearman"]):
                words.append(f"{WORDS[row['statistic']]} the same in all networks")
                continue
            word = "told from 0" if row["p_holm"] < ALPHA else "not told from 0"
            words.append(f"{WORDS[row['statistic']]} {row['spearman']:+.2f}, {word} (p = {row['p_holm']:.2g})")
        start = f"{kind}: rank correlation with size over networks"
        asked = sum(not math.isnan(row["p"]) for row in ranks)
        said.append(f"{start}: {'; '.join(words)}. Corrected by Holm over {asked}.")
    return said


def _panel(
    grouped: GroupFeatures,
    every: Mapping[str, SelfSimilarity],
    means: Mapping[tuple[str, str], Any],
    sizes: Mapping[str, Sequence[str]],
    statistic: str,
) -> LinePanel:
    places = list(dict.fromkeys(size for own in sizes.values() for size in own))
    lines = {}
    for k, (kind, own) in enumerate(sizes.items()):
        groups = [_group(kind, size) for size in own]
        numbers = [[every[name].numbers[statistic] for name in grouped.groups[group]] for group in groups]
        drawn = line([means[group, statistic] for group in groups], colour=k, own=numbers)
        lines[kind] = drawn.at([places.index(size) for size in own], len(places))
    # Debiased CKA may dip below 0; shares may not.
    low = -1.0 if "similarity" in WORDS[statistic] else 0.0
    return LinePanel(lines, places, WORDS[statistic], "", (low, 1.0), xlabel="size", joined=False, ordered=True)


def needs(extras: Extras) -> str:
    """What is lacking: networks of several sizes."""
    return "" if extras.sizes else "no networks of several sizes"


def run(given: StudyInputs) -> Finding:
    """The analysis of what `repsim robustness` is given."""
    return capacity(given.extras.sizes or {}, given.data, layers=given.layers, reduction=given.reduction)
