"""How far are groups of networks apart at each layer, beyond what their own seeds differ?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from repsim.data.image_set import ImageSet
from repsim.metrics import Metric
from repsim.metrics.transferred.td import TD
from repsim.networks.layers import Layers
from repsim.plots.study_panels import study_figure
from repsim.studies.common.claims import claims, columns, shown
from repsim.studies.common.finding import Finding
from repsim.studies.common.group_checks import Networks
from repsim.studies.common.groups import GroupFeatures
from repsim.studies.common.inputs import Extras, StudyInputs
from repsim.studies.common.jackknife import Estimate, jackknife
from repsim.studies.common.layer_comparisons import LayerComparisons, PairTable, symmetric
from repsim.studies.robustness.baselines import (
    baseline_sentences,
    check_metrics,
    contrast_sentences,
    curves,
    differences_table,
    metrics_facts,
    pairs_table,
    universality_sentences,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

#: What `repsim robustness` finds this analysis by, and when it is its turn.
NAME, ORDER, ASKS_HEADS = "over_seeds", 2, True

#: Under the picture of matched layers.
_CURVES = (
    "Bands: 95 % intervals over networks, each for one layer alone. Filled: outside the baselines of both groups by "
    "more than the uncertainty, after Holm's correction over the layers."
)


def over_seeds(
    groups: Networks,
    data: ImageSet,
    *,
    metrics: Sequence[str | Metric] = ("cka", "td"),
    layers: Layers = None,
    reduction: str = "mean",
) -> Finding:
    """At which layers do two groups of networks differ by more than two networks of one group do?

    At each layer that corresponds, the mean over pairs of networks within each group (the seed-to-seed baseline) and
    between groups. A group is told apart from another where `between` lies beyond both baselines: each of the
    differences between − within_A and between − within_B is one statistic of both groups with its jackknife error, the
    larger of the two p-values counts, and Holm's correction is over the layers. By TD also: is there less disagreement
    where heads are fitted again on the last layer than between the networks' own heads?

    Args:
        groups: Group -> its networks, which differ in seed alone. Intervals need three networks in each group.
        data: Images that all of them see.
        metrics: As for `compare`.
        layers: As for `extract`; None takes one per residual block, see `study_layers`.
        reduction: As for `extract`.

    Returns:
        The part "over_seeds" with tables of the means (""), "differences" and, where TD is asked and the networks'
        answers are known, "heads".

    Raises:
        ValueError: One network alone, networks without layers that correspond, no metric; networks of equal names or
            equal weights; as `compare_many`.

    Source:
        Cianfarani et al. 2022, arXiv 2206.09868; heads fitted again: Klabunde, Caspari, Lemmerich 2025, arXiv
        2510.19427; jackknife over networks: Efron, Stein 1981, Arvesen 1969; Holm 1979.

    Cost:
        One run of each network over the images; per metric and layer, one preparation per network and one comparison
        per pair of networks.
    """
    check_metrics("over_seeds", metrics)
    return over_seeds_of(
        GroupFeatures.of(groups, data, layers=layers, reduction=reduction, function="over_seeds"), metrics=metrics
    )


def over_seeds_of(grouped: GroupFeatures, *, metrics: Sequence[str | Metric] = ("cka", "td")) -> Finding:
    """`over_seeds` of features that are there already."""
    import pandas as pd

    check_metrics("over_seeds", metrics)
    every = [LayerComparisons.of(grouped, metric) for metric in metrics]
    contrasts = [{(a, b): found.contrasts(a, b) for a, b in grouped.pairs} for found in every]
    panels = [curves(found, apart) for found, apart in zip(every, contrasts, strict=True)]
    tables = {"": pd.concat([pairs_table(found) for found in every], ignore_index=True)}
    if grouped.pairs:
        gaps = [differences_table(found, apart) for found, apart in zip(every, contrasts, strict=True)]
        tables["differences"] = pd.concat(gaps, ignore_index=True)
    reading = grouped.unmatched()
    for found, apart in zip(every, contrasts, strict=True):
        reading += [*baseline_sentences(found), *contrast_sentences(found, apart), *universality_sentences(found)]
        heads = OwnAndRefittedHeads.of(found)
        if heads is not None and heads.groups:
            tables["heads"] = heads.table()
            reading += heads.sentences()

    def draw() -> "Figure":
        return study_figure([panels], note=_CURVES)

    return Finding(
        "over_seeds",
        "At which layers do groups differ by more than seeds do?",
        tables,
        tuple(dict.fromkeys(reading)),
        draw,
        {**grouped.protocol, **metrics_facts(every)},
    )


@dataclass(frozen=True, eq=False)
class OwnAndRefittedHeads:
    """Disagreement of all pairs of networks, by their own heads and by heads fitted again.

    A raw disagreement is mostly accuracy, so each is also taken as a share of what independent errors of the same
    accuracies would give.

    Attributes:
        own: The networks' own heads.
        again: Heads fitted on the last matched layer, asked about rows that they were not fitted on.
        layer: That layer.
    """

    own: PairTable
    again: PairTable
    layer: str

    @classmethod
    def of(cls, found: LayerComparisons) -> "OwnAndRefittedHeads | None":
        """From a comparison by TD; None for other measures and where the networks' own answers are not known."""
        layer = found.layers[-1]
        matrix = found.matrices[layer]
        sides = list(found.grouped.sides.values())
        if not isinstance(found.metric, TD) or "outputs_disagree" not in matrix.details:
            return None
        again = found.ratio(layer, "", "independent")
        labels = next(side.labels for side in sides if side.labels is not None)
        answers = [side.outputs.argmax(1).cpu() for side in sides if side.outputs is not None]
        if again is None or len(answers) < len(sides):
            return None
        right = [float((answer == labels.cpu()).double().mean()) for answer in answers]
        below = _independent(np.array(right), len(labels.unique()))
        return cls(PairTable(symmetric(matrix.details["outputs_disagree"]), found.grouped, below), again, layer)

    def gain(self, group: str) -> Estimate:
        """Share of independent disagreement by heads fitted again, less that by the networks' own heads."""
        return jackknife(lambda g: self._gain(g[0]), [self.own.grouped.numbers[group]])

    def gains_differ(self, a: str, b: str) -> Estimate:
        """The same of the second group less that of the first."""
        numbers = self.own.grouped.numbers
        return jackknife(lambda g: self._gain(g[1]) - self._gain(g[0]), [numbers[a], numbers[b]])

    def _gain(self, group: tuple[int, ...]) -> float:
        return self.again.mean_within(group) - self.own.mean_within(group)

    @property
    def groups(self) -> list[str]:
        """Those with two networks or more."""
        return [group for group, sides in self.own.grouped.groups.items() if len(sides) > 1]

    def table(self) -> "DataFrame":
        """One row per group: both disagreements as they are and as shares, and their difference."""
        import pandas as pd

        rows = []
        for group in self.groups:
            row = {"group": group, "layer": self.layer}
            for name, pairs in (("own", self.own), ("again", self.again)):
                row |= columns(pairs.plain.within(group), f"{name}_disagree")
                row |= columns(pairs.within(group), f"{name}_ratio")
            rows.append({**row, **columns(self.gain(group), "ratio_gain")})
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """What the table says, and no more."""
        if not self.groups:
            return []
        pairs = [(a, b) for a, b in self.own.grouped.pairs if {a, b} <= set(self.groups)]
        found = [*(self.gain(group) for group in self.groups), *(self.gains_differ(a, b) for a, b in pairs)]
        claimed = dict(zip([*self.groups, *pairs], claims(found), strict=True))
        less, more = "so answers become less alike", "so answers become more alike"
        said = []
        for group in self.groups:
            plain = [each.plain.within(group) for each in (self.own, self.again)]
            said.append(
                f"Two networks of {group} answer {shown(plain[0])} of the images differently with their own heads "
                f"({shown(self.own.within(group))} of what independent errors would give) and {shown(plain[1])} with "
                f"heads fitted again on {self.layer} ({shown(self.again.within(group))}). "
                f"Fitting again changes that share by {claimed[group].verdict(less, more)}."
            )
        for a, b in pairs:
            up, down = f"larger in {b}", f"smaller in {b}"
            said.append(f"That change in {b} less that in {a}: {claimed[a, b].verdict(up, down)}.")
        return said


def _independent(right: Float[np.ndarray, " m"], classes: int) -> Float[np.ndarray, "m m"]:
    """Disagreement that independent errors, spread evenly over the wrong classes, would give."""
    a, b = right[:, None], right[None, :]
    return 1 - a * b - (1 - a) * (1 - b) / (classes - 1)


def needs(extras: Extras) -> str:
    """What is lacking: nothing more than every analysis is given."""
    return ""


def run(given: StudyInputs) -> Finding:
    """The analysis of what `repsim robustness` is given."""
    return over_seeds_of(given.grouped)
