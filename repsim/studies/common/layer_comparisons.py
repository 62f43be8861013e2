"""Networks against each other at layers that correspond: within groups, between groups, and the one less the other."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from repsim._common.messages import message
from repsim._common.provenance import CautionWarning
from repsim.metrics import Metric, get_metric, metric_name
from repsim.similarity.many import compare_many
from repsim.similarity.matrix import SimilarityMatrix
from repsim.studies.common.claims import ALPHA, holm
from repsim.studies.common.groups import GroupFeatures
from repsim.studies.common.jackknife import Estimate, NetworkNumbers, jackknife, within


@dataclass(frozen=True, eq=False)
class PairTable:
    """A number of every pair of networks.

    Attributes:
        table: Networks × networks, symmetric.
        grouped: Which networks are in which group.
        below: What the table is divided by, mean by mean; None for plain means.
    """

    table: Float[np.ndarray, "m m"]
    grouped: GroupFeatures
    below: Float[np.ndarray, "m m"] | None = None

    @property
    def plain(self) -> "PairTable":
        """The same undivided."""
        return replace(self, below=None)

    def within(self, group: str) -> Estimate:
        """Mean over pairs of different networks of a group."""
        return jackknife(lambda g: self.mean_within(g[0]), [self.grouped.numbers[group]])

    def between(self, a: str, b: str) -> Estimate:
        """Mean over pairs of a network of one group with a network of another that began from other weights."""
        used = self._used(a, b)
        return jackknife(lambda g: self._between(g[0], g[1], used), self._numbers(a, b))

    def beyond(self, a: str, b: str, baseline: str) -> Estimate:
        """What the mean between two groups has beyond the mean within one of them, as one statistic of both groups."""
        used, place = self._used(a, b), (a, b).index(baseline)

        def gap(g: NetworkNumbers) -> float:
            return self._between(g[0], g[1], used) - self.mean_within(g[place])

        return jackknife(gap, self._numbers(a, b))

    def baselines_differ(self, a: str, b: str) -> Estimate:
        """The mean within the second group less that within the first."""
        return jackknife(lambda g: self.mean_within(g[1]) - self.mean_within(g[0]), self._numbers(a, b))

    def nearer(self, one: tuple[str, str], other: tuple[str, str]) -> Estimate:
        """The mean between the groups of one pair less that of another; the pairs may share a group."""
        names = list(dict.fromkeys([*one, *other]))
        places = [(names.index(a), names.index(b), self._used(a, b)) for a, b in (one, other)]

        def gap(g: NetworkNumbers) -> float:
            first, second = (self._between(g[i], g[j], used) for i, j, used in places)
            return first - second

        return jackknife(gap, [self.grouped.numbers[name] for name in names])

    def _numbers(self, a: str, b: str) -> list[tuple[int, ...]]:
        return [self.grouped.numbers[a], self.grouped.numbers[b]]

    def _used(self, a: str, b: str) -> Bool[np.ndarray, "m m"]:
        return np.ones_like(self.grouped.apart) if self.grouped.one_beginning(a, b) else self.grouped.apart

    def mean_within(self, group: tuple[int, ...]) -> float:
        """The mean over pairs of these networks, by number; NaN for fewer than two."""
        return self._ratio(*(within(t, group) for t in self._tables))

    def _between(self, rows: tuple[int, ...], cols: tuple[int, ...], used: Bool[np.ndarray, "m m"]) -> float:
        cells = np.ix_(rows, cols)
        if not used[cells].any():
            return math.nan
        return self._ratio(*(float(t[cells][used[cells]].mean()) for t in self._tables))

    @property
    def _tables(self) -> list[Float[np.ndarray, "m m"]]:
        return [self.table] if self.below is None else [self.table, self.below]

    @staticmethod
    def _ratio(above: float, below: float = 1.0) -> float:
        return above / below if below > 0 else math.nan


@dataclass(frozen=True)
class Contrast:
    """Two groups at one layer: is a pair of networks across them unlike the pairs within both?

    Attributes:
        layer: Where.
        between: Mean between the groups.
        baselines: Means within the first and within the second group.
        beyond: `between` less each of the two.
        p: Of both differences being none or of opposite sign: the larger of the two p-values. NaN without intervals.
        adjusted: The same after Holm's correction over the layers.
    """

    layer: str
    between: Estimate
    baselines: tuple[Estimate, Estimate]
    beyond: tuple[Estimate, Estimate]
    p: float
    adjusted: float = math.nan

    @property
    def outside(self) -> bool:
        """Whether the groups are told apart: beyond both baselines, by more than the uncertainty."""
        return self.adjusted < ALPHA

    @property
    def nearest(self) -> Estimate:
        """What lies between the groups' mean and the baseline next to it."""
        return min(self.beyond, key=lambda found: abs(found.value))


@dataclass(frozen=True, eq=False)
class LayerComparisons:
    """Every network against every other one, layer by layer, by one measure.

    Attributes:
        grouped: The networks.
        metric: The measure.
        matrices: Layer -> networks × networks.
    """

    grouped: GroupFeatures
    metric: Metric
    matrices: dict[str, SimilarityMatrix]

    @classmethod
    def of(cls, grouped: GroupFeatures, metric: str | Metric) -> "LayerComparisons":
        """Compares all networks at each matched layer.

        Args:
            grouped: At least two networks.
            metric: As for `compare`.

        Raises:
            ValueError: As `compare_many`; no layers that correspond.
        """
        if len(grouped.names) < 2:
            advice = "A network alone has no other to be like"
            raise ValueError(message(grouped.function, "there must be at least two networks", "1", advice))
        chosen = get_metric(metric)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CautionWarning)  # they are kept, once each, in `cautions`
            found = {layer: compare_many(grouped.at(layer), chosen, layers=layer) for layer in grouped.matched}
        return cls(grouped, chosen, found)

    @property
    def name(self) -> str:
        """What tables call the measure."""
        return metric_name(self.metric)

    @property
    def layers(self) -> tuple[str, ...]:
        """The matched layers, by the first network's names."""
        return tuple(self.matrices)

    @property
    def sign(self) -> int:
        """1 where larger is more alike, else −1."""
        return 1 if self.metric.kind == "similarity" else -1

    @cached_property
    def mean(self) -> SimilarityMatrix:
        """The mean over the matched layers; without a number where a layer has none."""
        every = list(self.matrices.values())
        reasons = {cell: f"{layer}: {why}" for layer, m in self.matrices.items() for cell, why in m.reasons.items()}
        provenance = {**every[0].provenance, "layers": "matched"}
        values = np.mean([m.values for m in every], axis=0)
        return replace(every[0], values=values, details={}, reasons=reasons, cautions=(), provenance=provenance)

    def pairs(self, layer: str) -> PairTable:
        """The values at one layer, of measures that are not symmetric the mean of both directions."""
        return PairTable(symmetric(self.matrices[layer].values), self.grouped)

    def ratio(self, layer: str, above: str, below: str) -> PairTable | None:
        """The ratio of the values (`above` is "") or a detail to a detail, mean by mean; None where there is none."""
        matrix = self.matrices[layer]
        if below not in matrix.details:
            return None
        # TD's `independent` has no number where both heads are perfect: then no error is expected.
        under = np.where(np.isnan(matrix.values), math.nan, np.nan_to_num(matrix.details[below]))
        return PairTable(symmetric(matrix.details[above] if above else matrix.values), self.grouped, symmetric(under))

    def contrasts(self, a: str, b: str) -> list[Contrast]:
        """Two groups layer by layer; p-values are corrected over the layers."""
        return corrected([contrast(layer, self.pairs(layer), a, b) for layer in self.layers])

    @property
    def cautions(self) -> list[str]:
        """What the comparisons warn of, each once, with its layer."""
        found: dict[str, str] = {}
        for layer, matrix in self.matrices.items():
            for caution in matrix.cautions:
                found.setdefault(caution, f"{layer}: {caution}")
        return list(found.values())

    @property
    def protocol(self) -> dict[str, Any]:
        """The measure, its chance level where it knows one, and its cautions."""
        chance = [float(m.details["chance"].max()) for m in self.matrices.values() if "chance" in m.details]
        return {
            "metric": repr(self.metric),
            "meaning": self.metric.meaning,
            "source": self.metric.source,
            **({"chance": max(chance)} if chance else {}),
            "cautions": self.cautions,
        }


def contrast(name: str, pairs: PairTable, a: str, b: str) -> Contrast:
    """Two groups' mean against both of their baselines; the p-value is not corrected yet."""
    beyond = pairs.beyond(a, b, a), pairs.beyond(a, b, b)
    both = [found.p for found in beyond]
    p = 1.0 if beyond[0].value * beyond[1].value < 0 else max(both)
    known = not any(map(math.isnan, both))
    return Contrast(name, pairs.between(a, b), (pairs.within(a), pairs.within(b)), beyond, p if known else math.nan)


def corrected(every: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts that are read together, with Holm's correction over them."""
    adjusted = holm([each.p for each in every])
    return [replace(each, adjusted=p) for each, p in zip(every, adjusted, strict=True)]


def symmetric(table: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
    """The mean of both directions."""
    return (table + table.T) / 2
