"""Measures of neighbourhoods that are a mean over samples of what each sample's neighbours say."""

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.metrics.base import Invariance, PairwiseResult, undefined_cells
from repsim.metrics.geometry.neighbours import NeighbourMetric
from repsim.metrics.geometry.overlap import Neighbours

NearBy = Literal["cosine", "euclidean"]


class MeanOverSamples(NeighbourMetric):
    """A mean over samples of a number that two lists of neighbours determine."""

    distance: NearBy

    bootstrap_caution: ClassVar = (
        "neighbours stay those of the full sample, so intervals are too narrow, as for mutual_knn, and p-values of a "
        "difference are too small"
    )

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"} if self.distance == "euclidean" else {"orthogonal", "scale"})

    @property
    def min_samples(self) -> int:
        return max(3, self.k + 1)

    @abstractmethod
    def per_sample(self, row: Any, col: Any) -> Float[Tensor, " n"]:
        """The number of each sample; NaN where it has none. Both layers have numbers."""

    @property
    def without_number(self) -> str:
        """Why a sample can have no number; empty where none can."""
        return ""

    def beside(self, row: Any, col: Any) -> dict[str, float]:
        """Details of a pair; both layers have numbers."""
        return {}

    def chance(self, n: int) -> float | None:
        """The mean over all orders of one side's samples, where it is known."""
        return None

    def pairwise(self, rows: Sequence[Neighbours], cols: Sequence[Neighbours]) -> PairwiseResult:
        n = rows[0].n
        values = self._means(rows, cols, torch.ones(1, n, dtype=torch.float64))[0]
        reasons = undefined_cells([a.undefined for a in rows], [b.undefined for b in cols])
        for i, j in values.isnan().nonzero().tolist():
            reasons.setdefault((i, j), self.without_number)
        details, cautions = self.ties(rows, cols)
        for (i, a), (j, b) in itertools.product(enumerate(rows), enumerate(cols)):
            if not (a.undefined or b.undefined):
                for name, number in self.beside(a, b).items():
                    details.setdefault(name, torch.full_like(values, math.nan))[i, j] = number
        chance = self.chance(n)
        if chance is not None:
            details["chance"] = torch.full_like(values, chance)
            if chance > 0.1:
                text = f"unrelated layers reach {chance:.2f} with {self.k} neighbours at n = {n}"
                cautions.append(f"{text}: read values against `chance`")
        return PairwiseResult(values, details, reasons, tuple(cautions))

    def bootstrapped(
        self, rows: Sequence[Neighbours], cols: Sequence[Neighbours], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        """The value on resamples: a sample weighs as often as it is drawn; its neighbours stay the full sample's."""
        return self._means(rows, cols, counts.double())

    def _means(
        self, rows: Sequence[Neighbours], cols: Sequence[Neighbours], weight: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        weight = (weight / weight.sum(1, keepdim=True)).to(rows[0].index.device)
        found = weight.new_full((len(weight), len(rows), len(cols)), math.nan)
        with progress_bar(len(rows) * len(cols), "shared neighbours", "pair") as bar:
            for i, a in enumerate(rows):
                for j, b in enumerate(cols):
                    if rows is cols and j < i:
                        found[:, i, j] = found[:, j, i]
                    elif not (a.undefined or b.undefined):
                        found[:, i, j] = weight @ self.per_sample(a, b)
                bar.update(len(cols))
        return found


def check_neighbours(function: str, k: int, distance: str) -> None:
    """k is a whole number of at least 1, and the distance is known."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(message(function, "k must be an integer", repr(k), "10 is usual"))
    if k < 1:
        raise ValueError(message(function, "k must be at least 1", f"{k}", "10 is usual"))
    if distance not in ("cosine", "euclidean"):
        advice = "Choose one of these"
        raise ValueError(message(function, "distance must be 'cosine' or 'euclidean'", repr(distance), advice))


def matched(row: Neighbours, col: Neighbours) -> tuple[Int[Tensor, "n k"], Tensor]:
    """Where each neighbour of the row layer stands in the column layer's list, and whether it is there."""
    place = torch.searchsorted(col.index, row.index).clamp_max(col.index.shape[1] - 1)
    return place, col.index.gather(1, place) == row.index
