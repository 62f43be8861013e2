"""Correlation match: does every unit of one layer have its like in the other?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import check_bool
from repsim.metrics.base import Invariance, pairs
from repsim.metrics.matching.base import MatchingMetric, Units, dead_units, units
from repsim.metrics.matching.transport import assigned


@dataclass(frozen=True)
class CorrelationMatch(MatchingMetric):
    """Mean correlation of each unit with its partner in the other layer.

    With R_ij = corr(x_i, y_j) over the samples, the hard form is the mean of R over the min(p, q) pairs of the best
    one-to-one assignment; units of the wider layer without a partner do not count. The soft form lets a unit be the
    partner of many: (mean_i max_j R_ij + mean_j max_i R_ij) / 2. Signs count: a unit turned round is no match.
    Unrelated layers reach more than 0, the soft form at most about √(2 ln q / n), and no closed form is known: compare
    with a permutation test.

    A unit that is constant has no correlation. It is left out and counted in `dead_row` and `dead_col`.

    Args:
        soft: A unit may be the partner of several.

    Source:
        Li, Yosinski, Clune, Lipson, Hopcroft 2015, arXiv 1511.07543, who report the values of single units in
        one direction; the symmetric means: Klabunde et al. 2024, arXiv 2408.00531.

    Cost:
        Per pair n p q multiplications; hard: and an assignment, min(p, q)² max(p, q). Memory: n p per layer in float64,
        and p q.
    """

    soft: bool = False

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0

    def __post_init__(self) -> None:
        check_bool("CorrelationMatch", "soft", self.soft)

    @property
    def cost(self) -> str:  # type: ignore[override]
        return "per pair n·p·q" + ("" if self.soft else " and an assignment, min(p, q)²·max(p, q)")

    @property
    def title(self) -> str:
        return "soft correlation match" if self.soft else "correlation match, one to one"

    @property
    def meaning(self) -> str:
        partner = (
            "with the unit of the other layer that is most like it" if self.soft else "of units matched one to one"
        )
        return f"mean correlation {partner}; above 0 even in unrelated layers"

    @property
    def source(self) -> str:
        return "Li 2015, arXiv 1511.07543"

    @property
    def bounds(self) -> tuple[float, float]:
        return -1.0, 1.0

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"permutation", "positive scale", "unit scale", "shift"})

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Units]:
        return [units(x, "unit") for x in layers]

    def pair(self, row: Units, col: Units) -> Tensor:
        r = row.columns @ col.columns.T
        if self.soft:
            return (r.amax(1).mean() + r.amax(0).mean()) / 2
        i, j = (torch.from_numpy(index).to(r.device) for index in assigned(r.cpu().numpy()))
        return r[i, j].mean()

    def beside(
        self, rows: Sequence[Units], cols: Sequence[Units], values: Float[Tensor, "r c"]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        details, cautions = dead_units(rows, cols)
        if not self.soft:
            details["matched"] = pairs(rows, cols, lambda a, b: min(len(a.columns), len(b.columns)))
        return details, cautions


METRICS = {"correlation_match": CorrelationMatch(), "soft_correlation_match": CorrelationMatch(soft=True)}
