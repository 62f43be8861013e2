"""How alike are different layers of one network, and is there block structure?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from repsim.data.image_set import ImageSet
from repsim.metrics import Metric, metric_name
from repsim.networks.layers import Layers
from repsim.plots.study_panels import Drawing, LinePanel, Panel, study_figure
from repsim.similarity.comparison import compare
from repsim.similarity.matrix import SimilarityMatrix
from repsim.studies.common.claims import NO_BASELINE
from repsim.studies.common.finding import Finding
from repsim.studies.common.group_checks import Networks
from repsim.studies.common.groups import SEEDS, GroupFeatures
from repsim.studies.common.inputs import Extras, StudyInputs
from repsim.studies.common.jackknife import Estimate
from repsim.studies.robustness.baselines import line
from repsim.studies.robustness.self_similarity import (
    SelfSimilarity,
    beyond_lag,
    checked,
    facts,
    gap_sentence,
    gaps_table,
    group_gaps,
    group_means,
    mean_sentence,
    means_table,
    of_pair,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What `repsim robustness` finds this analysis by, and when it is its turn.
NAME, ORDER = "cross_layer", 1

#: A network's blocks are runs of its layers.
LEAST_LAYERS = 3

#: Under the picture of all layers.
_BLOCKS = (
    "Frames: runs of layers that look alike, {metric} of at least {threshold:g}. Block contrast: mean inside the runs "
    "less outside, beyond as many runs with random ends."
)


def cross_layer(
    groups: Networks, data: ImageSet, *, metric: str | Metric = "cka", layers: Layers = None, reduction: str = "mean"
) -> Finding:
    """Every layer with every other one: is there block structure in one group of networks and not in another?

    For each network s_ij, the similarity of its layers i and j, and from it its homogeneity (share of pairs with
    |i − j| > lag and s_ij ≥ 0.9), its block contrast beyond runs with random ends, the means over i ≠ j and over
    |i − j| > lag, and the share of variance in each layer's leading component. Group means and their differences have
    jackknife errors over networks.

    Args:
        groups: Group -> its networks, which differ in seed alone.
        data: Images that all of them see.
        metric: A symmetric similarity.
        layers: As for `extract`; None takes one per residual block, see `study_layers`.
        reduction: As for `extract`.

    Returns:
        The part "cross_layer" with tables of the networks (""), "groups", "differences", "first_components" and
        "matrices". Its picture has two networks of each group and of each two groups, from different seeds where there
        are such; below them one network of each group against itself, and the block contrast of all.

    Raises:
        ValueError: A metric that is no symmetric similarity, fewer than three layers, a layer without numbers; networks
            without a group, of equal names or equal weights.

    Source:
        Cianfarani, Bhagoji, Sehwag, Zhao, Mittal, Zheng 2022, arXiv 2206.09868; block structure: Nguyen, Raghu,
        Kornblith 2021, arXiv 2010.15327; leading components: Nguyen, Raghu, Kornblith 2022, arXiv 2202.07184.

    Cost:
        One run of each network over the images, one comparison of L × L layers per network and per pair in the picture,
        one QR per layer and network.
    """
    checked("cross_layer", metric)
    return cross_layer_of(
        GroupFeatures.of(groups, data, layers=layers, reduction=reduction, function="cross_layer"), metric=metric
    )


def cross_layer_of(grouped: GroupFeatures, *, metric: str | Metric = "cka") -> Finding:
    """`cross_layer` of features that are there already."""
    import pandas as pd

    chosen = checked("cross_layer", metric)
    every = {name: SelfSimilarity.of(side, chosen) for name, side in grouped.sides.items()}
    means, gaps = group_means(grouped, every), group_gaps(grouped, every, grouped.pairs)
    sides = grouped.sides
    chosen_pairs = {f"two of {group}": list(own)[:2] for group, own in grouped.groups.items() if len(own) > 1}
    chosen_pairs |= {f"{a} × {b}": _apart(grouped, a, b) for a, b in grouped.pairs}
    across = {title: compare(sides[a], sides[b], chosen) for title, (a, b) in chosen_pairs.items()}
    alone = {f"one of {group}": every[next(iter(own))] for group, own in grouped.groups.items()}
    drawn = across | {title: each.matrix for title, each in alone.items()}
    networks = [
        {"group": group, "network": name, **every[name].numbers, "blocks": len(every[name].blocks.blocks)}
        | {"threshold": every[name].blocks.threshold, "lag": every[name].blocks.lag}
        for group, own in grouped.groups.items()
        for name in own
    ]
    first = [
        {"network": name, "layer": layer, "share": share}
        for name in sides
        for layer, share in every[name].first.items()
    ]
    tables = {
        "": pd.DataFrame(networks),
        "groups": means_table(grouped, means),
        **({"differences": gaps_table(gaps)} if gaps else {}),
        "first_components": pd.DataFrame(first),
        "matrices": pd.concat([m.to_frame().assign(panel=title) for title, m in drawn.items()], ignore_index=True),
    }
    reading = [mean_sentence(group, len(own), means) for group, own in grouped.groups.items()]
    reading += [f"{group} {NO_BASELINE}." for group, own in grouped.groups.items() if len(own) == 1]
    reading += [gap_sentence(a, b, gaps) for a, b in grouped.pairs]
    reading += [
        f"{a} × {b}: all pairs began from the same weights." for a, b in grouped.pairs if grouped.one_beginning(a, b)
    ]
    threshold = next(iter(every.values())).blocks.threshold
    panels = {title: [m.row_model, m.col_model] for title, m in drawn.items()}

    def draw() -> "Figure":
        row: list[Drawing] = [_across(title, m) for title, m in across.items()]
        row += [_alone(title, each) for title, each in alone.items()]
        if any(len(own) > 1 for own in grouped.groups.values()):  # else each panel has its score under it already
            row.append(_scores(grouped, every, means))
        return study_figure([row], note=_BLOCKS.format(metric=metric_name(chosen), threshold=threshold))

    return Finding(
        "cross_layer",
        "Is there block structure, and in which group of networks?",
        tables,
        tuple(reading),
        draw,
        {**grouped.protocol, **facts(chosen, list(every.values())), "pairs": SEEDS, "panels": panels},
    )


def _apart(grouped: GroupFeatures, a: str, b: str) -> list[str]:
    """The first two networks of two groups with different seeds; where there are none, the first ones."""
    pairs = [(x, y) for x in grouped.numbers[a] for y in grouped.numbers[b]]
    known = [(x, y) for x, y in pairs if grouped.apart[x, y]]
    # Without records of seeds, networks at the same place in their groups most likely share one.
    elsewhere = [(x, y) for x, y in known if x - grouped.numbers[a][0] != y - grouped.numbers[b][0]]
    x, y = (elsewhere or known or pairs)[0]
    return [grouped.names[x], grouped.names[y]]


def _across(title: str, matrix: SimilarityMatrix) -> Panel:
    found = of_pair(matrix)
    lines = (
        [f"contrast {found.contrast - found.random_contrast:.2f}"]
        if found is not None
        else ["layers do not correspond: no blocks"]
    )
    lines += [f"mean {beyond_lag(matrix, 0):.2f}"]
    return Panel(matrix, title, ", ".join(lines), found)


def _alone(title: str, each: SelfSimilarity) -> Panel:
    numbers = each.numbers
    note = f"contrast {numbers['block_contrast']:.2f}, mean {numbers['mean_off_diagonal']:.2f}"
    return Panel(each.matrix, title, note, each.blocks)


def _scores(
    grouped: GroupFeatures, every: Mapping[str, SelfSimilarity], means: Mapping[tuple[str, str], Estimate]
) -> LinePanel:
    """The block contrast of every network beside its group's mean."""
    groups = list(grouped.groups)
    mean = [means[group, "block_contrast"] for group in groups]
    own = [[every[name].numbers["block_contrast"] for name in sides] for sides in grouped.groups.values()]
    lines = {"group mean, 95 % interval": line(mean, colour=3, own=own)}
    return LinePanel(
        lines,
        groups,
        "block contrast beyond random runs; grey: each network",
        "block contrast",
        (-1.0, 1.0),
        xlabel="",
        joined=False,
    )


def needs(extras: Extras) -> str:
    """What is lacking: nothing more than every analysis is given."""
    return ""


def run(given: StudyInputs) -> Finding:
    """The analysis of what `repsim robustness` is given."""
    return cross_layer_of(given.grouped)
