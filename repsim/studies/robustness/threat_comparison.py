"""Networks trained against different threats, all against each other: whose representations are near each other?"""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from repsim.data.image_set import ImageSet
from repsim.metrics import Metric
from repsim.networks.layers import Layers
from repsim.plots.study_panels import Drawing, Panel, study_figure
from repsim.similarity.matrix import SimilarityMatrix
from repsim.studies.common.claims import claims, columns, shown
from repsim.studies.common.finding import Finding
from repsim.studies.common.group_checks import Networks
from repsim.studies.common.groups import GroupFeatures
from repsim.studies.common.inputs import Extras, StudyInputs
from repsim.studies.common.layer_comparisons import (
    Contrast,
    LayerComparisons,
    PairTable,
    contrast,
    corrected,
    symmetric,
)
from repsim.studies.robustness.baselines import (
    baseline_sentences,
    check_metrics,
    contrast_sentences,
    curves,
    differences_table,
    metrics_facts,
    pairs_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What `repsim robustness` finds this analysis by, and when it is its turn.
NAME, ORDER, ASKS_HEADS = "threat_models", 3, True

_NOTE = (
    "Left: mean over the layers that correspond; middle: the last of them. Right: each group against the first; bands "
    "are 95 % intervals over networks, filled where outside both baselines after Holm's correction over the layers. "
    "Pairs of networks that began from the same weights count in no mean where there are others."
)


def threat_models(
    groups: Networks,
    data: ImageSet,
    *,
    metrics: Sequence[str | Metric] = ("cka", "td"),
    layers: Layers = None,
    reduction: str = "mean",
) -> Finding:
    """Which threat models lead to representations near each other, and how far beyond what seeds alone do?

    Networks × networks, as the mean over the layers that correspond and at the last of them. Two groups are as near as
    the mean over their pairs of networks; what that has beyond each group's own seed-to-seed baseline is one
    jackknifed statistic of both groups. Layer by layer the first group is held against every other one.

    Args:
        groups: Threat model -> networks trained against it; the first is what the others are held against.
        data: Images that all of them see.
        metrics: As for `compare`.
        layers: As for `extract`; None takes one per residual block, see `study_layers`.
        reduction: As for `extract`.

    Returns:
        The part "threat_models" with tables of the groups (""), of the "networks", of the "layers" and of the
        "differences" from the first group's baseline and each other one's, layer by layer.

    Raises:
        ValueError: One network alone, networks without layers that correspond, no metric; networks of equal names or
            equal weights; as `compare_many`.

    Source:
        Cianfarani, Bhagoji, Sehwag, Zhao, Mittal, Zheng 2022, arXiv 2206.09868.

    Cost:
        One run of each network over the images; per metric and layer, one preparation per network and one comparison
        per pair of networks.
    """
    check_metrics("threat_models", metrics)
    grouped = GroupFeatures.of(groups, data, layers=layers, reduction=reduction, function="threat_models")
    return threat_models_of(grouped, metrics=metrics)


def threat_models_of(grouped: GroupFeatures, *, metrics: Sequence[str | Metric] = ("cka", "td")) -> Finding:
    """`threat_models` of features that are there already."""
    import pandas as pd

    check_metrics("threat_models", metrics)
    every = [LayerComparisons.of(grouped, metric) for metric in metrics]
    first = next(iter(grouped.groups))
    rules = {found.name: {"matched": found.mean, "last": found.matrices[found.layers[-1]]} for found in every}
    rows: list[dict[str, Any]] = []
    networks, gaps, drawn, reading = [], [], [], grouped.unmatched()
    for found in every:
        reading += baseline_sentences(found)
        for rule, matrix in rules[found.name].items():
            pairs = PairTable(symmetric(matrix.values), grouped)
            contrasts = dict(
                zip(grouped.pairs, corrected([contrast(rule, pairs, *p) for p in grouped.pairs]), strict=True)
            )
            rows += [{"metric": found.name, "rule": rule, **row} for row in _rows(grouped, pairs, contrasts)]
            networks.append(matrix.to_frame().assign(rule=rule))
            reading += _nearest(found, rule, pairs, contrasts)
        others = {(first, b): found.contrasts(first, b) for b in list(grouped.groups)[1:]}
        reading += contrast_sentences(found, others)
        gaps.append(differences_table(found, others))
        drawn.append((rules[found.name], curves(found, others)))
    tables = {
        "": pd.DataFrame(rows),
        "networks": pd.concat(networks, ignore_index=True),
        "layers": pd.concat([pairs_table(found) for found in every], ignore_index=True),
        **({"differences": pd.concat(gaps, ignore_index=True)} if grouped.pairs else {}),
    }

    def draw() -> "Figure":
        sizes = [len(own) for own in grouped.groups.values()]
        rows: list[list[Drawing]] = [[*(_panel(r, m, sizes) for r, m in own.items()), lines] for own, lines in drawn]
        return study_figure(rows, note=_NOTE)

    return Finding(
        "threat_models",
        "Whose representations are near each other?",
        tables,
        tuple(dict.fromkeys(reading)),
        draw,
        {**grouped.protocol, **metrics_facts(every), "held_against": first},
    )


def _rows(grouped: GroupFeatures, pairs: PairTable, contrasts: dict[tuple[str, str], Contrast]) -> list[dict[str, Any]]:
    """Groups × groups: the mean within each, and between two with what lies beyond both baselines."""
    rows: list[dict[str, Any]] = []
    for group, sides in grouped.groups.items():
        if len(sides) > 1:
            rows.append({"first": group, "second": group, **columns(pairs.within(group))})
    for (a, b), each in contrasts.items():
        row: dict[str, Any] = {"first": a, "second": b, **columns(each.between)}
        for name, beyond in zip(("less_within_first", "less_within_second"), each.beyond, strict=True):
            row |= columns(beyond, name)
        rows.append({**row, "p": each.p, "p_holm": each.adjusted, "outside": each.outside})
    return rows


def _nearest(
    found: LayerComparisons, rule: str, pairs: PairTable, contrasts: dict[tuple[str, str], Contrast]
) -> list[str]:
    """Which two groups are nearest, from which others that can be told, and what lies beyond their baselines."""
    order = sorted(
        (p for p in contrasts if not math.isnan(contrasts[p].between.value)),
        key=lambda p: -found.sign * contrasts[p].between.value,
    )
    if not order:
        return []
    nearest = order[0]
    each = contrasts[nearest]
    where = "at the last layer" if rule == "last" else f"as the mean over {len(found.layers)} layers"
    said = f"{found.name} {where}: nearest are {_named(nearest)} with {shown(each.between)}"
    if len(order) > 1:
        said += f", then {', '.join(f'{_named(p)} {contrasts[p].between.value:.3f}' for p in order[1:])}"
        # All orders that chance might have shown are asked, not only the one that it did show.
        asked = list(itertools.combinations(order, 2))
        claimed = dict(zip(asked, claims([pairs.nearer(*two) for two in asked]), strict=True))
        told = [p for p in order[1:] if claimed[nearest, p].holds]
        if all(math.isnan(claim.adjusted) for claim in claimed.values()):
            said += "; without intervals the order is that of these networks alone"
        elif told:
            said += f"; nearer, beyond the uncertainty, than {', '.join(map(_named, told))}"
            said += "" if len(told) == len(order) - 1 else " alone"
        else:
            said += "; the order is inside its uncertainty"
    return [f"{said}. {_beyond(found, each, len(order))}"]


def _beyond(found: LayerComparisons, each: Contrast, asked: int) -> str:
    known = [beyond for beyond in each.beyond if not math.isnan(beyond.value)]
    if not known:
        return "Neither group has a seed-to-seed baseline to hold that against."
    gaps = " and ".join(shown(beyond, sign=True) for beyond in known)
    if math.isnan(each.p):
        baseline = "the one baseline that there is" if len(known) == 1 else "the two groups' baselines"
        return f"From {baseline} that lies {gaps}; without an interval for both no difference is claimed."
    if not each.outside:
        return f"From the two groups' baselines that lies {gaps}: not outside both by more than its uncertainty."
    word = "less" if found.sign * each.nearest.value < 0 else "more"
    return f"From the two groups' baselines that lies {gaps}: {word} alike than seeds alone (Holm over {asked} pairs)."


def _named(pair: tuple[str, str]) -> str:
    return " × ".join(pair)


def _panel(rule: str, matrix: SimilarityMatrix, sizes: Sequence[int]) -> Panel:
    where = "last layer" if rule == "last" else "mean over layers"
    return Panel(matrix, f"{matrix.definition.title}, {where}", groups=sizes)


def needs(extras: Extras) -> str:
    """What is lacking: nothing more than every analysis is given."""
    return ""


def run(given: StudyInputs) -> Finding:
    """The analysis of what `repsim robustness` is given."""
    return threat_models_of(given.grouped)
