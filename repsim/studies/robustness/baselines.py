"""Matched layers over seeds as tables and sentences: the baselines within groups, and what lies beyond them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from repsim._common.messages import message
from repsim.metrics import Metric, get_metric, metric_name
from repsim.plots.study_panels import Line, LinePanel
from repsim.studies.common.claims import ALPHA, NO_BASELINE, claims, columns, runs, span
from repsim.studies.common.groups import SEEDS, GroupFeatures
from repsim.studies.common.jackknife import Estimate
from repsim.studies.common.layer_comparisons import Contrast, LayerComparisons, PairTable

if TYPE_CHECKING:
    from pandas import DataFrame

Contrasts = Mapping[tuple[str, str], Sequence[Contrast]]

#: Of the heads fitted on features, what a row of a table holds beside the value.
_ACCURACIES = "accuracy_row", "accuracy_col"


def pairs_table(found: LayerComparisons) -> "DataFrame":
    """Each layer's mean within each group and between each two, with standard errors; of TD with what explains it."""
    import pandas as pd

    rows = []
    for layer in found.layers:
        pairs, ratio = found.pairs(layer), found.ratio(layer, "", "independent")
        for a, b in _cells(found.grouped):
            row: dict[str, Any] = {"metric": found.name, "layer": layer, "first": a, "second": b}
            row |= columns(_of(pairs, a, b))
            if ratio is not None:
                row |= columns(_of(ratio, a, b), "td_ratio")
                row |= {f"accuracy_{side}": _accuracy(found, layer, g) for side, g in (("first", a), ("second", b))}
            rows.append(row)
    return pd.DataFrame(rows)


def differences_table(found: LayerComparisons, contrasts: Contrasts) -> "DataFrame":
    """Between groups less the baseline within each of them, layer by layer, with p-values."""
    import pandas as pd

    rows = []
    for (a, b), layers in contrasts.items():
        for each in layers:
            row: dict[str, Any] = {"metric": found.name, "layer": each.layer, "first": a, "second": b}
            for name, beyond in zip(("less_within_first", "less_within_second"), each.beyond, strict=True):
                row |= columns(beyond, name)
            rows.append({**row, "p": each.p, "p_holm": each.adjusted, "outside": each.outside})
    return pd.DataFrame(rows)


def baseline_sentences(found: LayerComparisons) -> list[str]:
    """What two networks of one group have in common."""
    said = []
    for group, sides in found.grouped.groups.items():
        if len(sides) == 1:
            said.append(f"{group} {NO_BASELINE}.")
            continue
        values = [found.pairs(layer).within(group).value for layer in found.layers]
        few = "; with two networks it has no standard error" if len(sides) == 2 else ""
        said.append(
            f"{found.name}: two networks of {group} have {span(values)} over {len(values)} layers, the seed-to-seed "
            f"baseline of {len(sides)} networks{few}."
        )
    return said


def contrast_sentences(found: LayerComparisons, contrasts: Contrasts) -> list[str]:
    """Where two groups are told apart from both of their baselines, and where they are not."""
    return [sentence for (a, b), layers in contrasts.items() for sentence in _contrast(found, a, b, layers)]


def _contrast(found: LayerComparisons, a: str, b: str, layers: Sequence[Contrast]) -> Iterator[str]:
    asked = [each for each in layers if not math.isnan(each.p)]
    values = span([each.between.value for each in layers])
    start = f"{found.name}: {a} × {b} {values}"
    same = "; all of these pairs began from the same weights" if found.grouped.one_beginning(a, b) else ""
    if not asked:
        yield (
            f"{start}{same}: no interval, for which each group must hold three networks that do not agree exactly; no "
            "difference is claimed."
        )
        return
    outside = [each.outside for each in asked]
    names = [each.layer for each in asked]
    apart = [each for each in asked if each.outside]
    how = f"Holm's correction over {len(asked)} layers, level {ALPHA:g}"
    if not apart:
        alone = sum(each.p < ALPHA for each in asked)
        taken = f" Taken one by one, without the correction, {alone} would be." if alone else ""
        where = f"at none of {len(asked)} layers outside both baselines by more than its uncertainty"
        yield f"{start}{same}: {where} ({how}).{taken}"
    for word, towards in (("less", -1), ("more", 1)):
        here = [each.outside and found.sign * each.nearest.value * towards > 0 for each in asked]
        if any(here):
            by = span([abs(each.nearest.value) for each, is_here in zip(asked, here, strict=True) if is_here])
            yield (
                f"{start}{same}: {word} alike than two networks of either group at {sum(here)} of {len(asked)} layers "
                f"({runs(names, here)}), by {by} from the nearer baseline ({how})."
            )
    if apart and not all(outside):
        rest = [not now for now in outside]
        yield (
            f"At the other {sum(rest)} ({runs(names, rest)}) {found.name} of {a} × {b} is not told apart from both "
            "baselines."
        )
    if len(asked) < len(layers):
        missing = [math.isnan(each.p) for each in layers]
        yield f"{found.name}: no number or no interval at {runs([each.layer for each in layers], missing)}."


def universality_sentences(found: LayerComparisons) -> list[str]:
    """Whether networks of one group are more alike among themselves than those of another."""
    said = []
    for a, b in found.grouped.pairs:
        gaps = claims([found.pairs(layer).baselines_differ(a, b) for layer in found.layers])
        if all(math.isnan(gap.adjusted) for gap in gaps):
            continue
        more = [gap.holds and found.sign * gap.found.value > 0 for gap in gaps]
        less = [gap.holds and found.sign * gap.found.value < 0 for gap in gaps]
        both = [("more", more), ("less", less)]
        parts = [f"{word} alike than among {a} at {runs(found.layers, here)}" for word, here in both if any(here)]
        verdict = " and ".join(parts) if parts else f"at no layer told apart from those among {a}"
        said.append(f"{found.name}: networks among {b} are {verdict} (Holm's correction over the layers).")
    return said


def check_metrics(function: str, metrics: Sequence[str | Metric]) -> None:
    """There must be a measure, and each once."""
    names = [metric_name(get_metric(metric)) for metric in metrics]
    if not names or len(set(names)) < len(names):
        got = ", ".join(names) or "none"
        raise ValueError(message(function, "metrics must name each measure once", got, 'Pass metrics=("cka", "td")'))


def metrics_facts(every: Sequence[LayerComparisons]) -> dict[str, Any]:
    """What comparisons of matched layers depend on, beside networks and images."""
    one = every[0]
    return {
        "metrics": {found.name: found.protocol for found in every},
        "layers": list(one.layers),
        "layer_count": len(one.layers),
        "pairs": SEEDS,
        "same_seed_pairs_only": [f"{a} × {b}" for a, b in one.grouped.pairs if one.grouped.one_beginning(a, b)],
        "errors": (
            "jackknife over networks; Student's 95 % intervals, each for one number alone; p-values of differences "
            "corrected by Holm over the layers of one measure and pair of groups"
        ),
        "heads": "fitted again on these images in folds, each asked about the fold it has not seen; penalty as of td",
    }


def curves(found: LayerComparisons, contrasts: Contrasts) -> LinePanel:
    """The means over depth: solid between groups, filled where told apart from both baselines, dashed within."""
    lines: dict[str, Line] = {}
    groups = list(found.grouped.groups)
    for group in groups:
        if len(found.grouped.groups[group]) > 1:
            every = [found.pairs(layer).within(group) for layer in found.layers]
            lines[f"within {group}"] = line(every, dashed=True, colour=groups.index(group), marked=[False] * len(every))
    for k, ((a, b), layers) in enumerate(contrasts.items()):
        every, marked = [each.between for each in layers], [each.outside for each in layers]
        lines[f"{a} × {b}"] = line(every, colour=len(groups) + k, marked=marked)
    better = "larger: more alike" if found.sign > 0 else "smaller: more alike"
    return LinePanel(lines, found.layers, found.metric.title, better, found.metric.bounds)


def line(every: Sequence[Estimate], **style: Any) -> Line:
    """Estimates with their 95 % intervals, as a line of a picture."""
    low, high = zip(*(each.interval() for each in every), strict=True)
    return Line([each.value for each in every], low, high, **style)


def _cells(grouped: GroupFeatures) -> list[tuple[str, str]]:
    return [*((group, group) for group, sides in grouped.groups.items() if len(sides) > 1), *grouped.pairs]


def _of(pairs: PairTable, a: str, b: str) -> Estimate:
    return pairs.within(a) if a == b else pairs.between(a, b)


def _accuracy(found: LayerComparisons, layer: str, group: str) -> float:
    """Mean over a group's networks; a network's own cell compares its heads with themselves."""
    own = found.matrices[layer].details[_ACCURACIES[0]].diagonal()
    return float(own[list(found.grouped.numbers[group])].mean())
