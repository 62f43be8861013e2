"""Soft matching: how far apart are two layers' units as two heaps of tuning curves?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import message
from repsim.metrics.base import Invariance
from repsim.metrics.matching.base import (
    MatchingMetric,
    Scaling,
    Units,
    dead_units,
    on_one_scale,
    squared_distances,
    units,
)
from repsim.metrics.matching.transport import transported


@dataclass(frozen=True)
class SoftMatching(MatchingMetric):
    """Soft matching distance: the Wasserstein distance of two layers' units, each unit a point of equal weight.

    d = √(min over T of Σ T_ij ‖x_i − y_j‖²), T >= 0 with row sums 1/p and column sums 1/q: each unit is shared among
    its partners, so widths may differ. For equal widths the best T is a permutation. Units are centred and of length 1
    unless said otherwise; then d² = 2 − 2s, where s = max Σ T_ij corr(x_i, y_j) is the detail `correlation`. A layer
    whose units are all there twice is at distance 0 from the layer itself. The optimum is exact; an entropic one would
    have other values and no 0.

    With `mass` below 1 only that share of both layers is matched (row sums at most 1/p, column sums at most 1/q, Σ T =
    mass), the share that fits best: d = √(min Σ T_ij ‖x_i − y_j‖² / mass), and `correlation` is that per matched mass.
    It has no triangle inequality then. Independent units correlate too, the more the fewer the samples: read values
    against a permutation test.

    Args:
        scaling: "unit" for units centred and of length 1, "centred", or "none" for the columns as they came.
        mass: Share of each layer that is matched, in (0, 1].

    Source:
        Khosla, Williams 2024, arXiv 2311.09466; partial: Kapoor, Williams, Khosla 2026, arXiv 2602.19331.

    Cost:
        Per pair n p q multiplications and, for p = q, an assignment of p³; else a linear programme of p q unknowns, far
        faster where POT is installed. Memory: n p per layer in float64, p q, and by scipy 100 p q bytes.
    """

    scaling: Scaling = "unit"
    mass: float = 1.0

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0
    cost: ClassVar = "per pair n·p·q and an assignment of p³, or a linear programme of p·q unknowns for p ≠ q"

    def __post_init__(self) -> None:
        if self.scaling not in ("none", "centred", "unit"):
            must = "scaling must be 'none', 'centred' or 'unit'"
            raise ValueError(message("SoftMatching", must, repr(self.scaling), "Choose one of these"))
        if isinstance(self.mass, bool) or not isinstance(self.mass, int | float):
            advice = "Pass the share of each layer that is matched, as in 0.5"
            raise TypeError(message("SoftMatching", "mass must be a number", repr(self.mass), advice))
        if not 0 < self.mass <= 1:
            advice = "Pass the share of each layer that is matched, as in 0.5"
            raise ValueError(message("SoftMatching", "mass must be in (0, 1]", repr(self.mass), advice))

    @property
    def title(self) -> str:
        form = "soft matching distance" if self.mass == 1 else f"partial soft matching distance, {self.mass:g} of units"
        kept = {"unit": "", "centred": ", centred units", "none": ", units as they came"}[self.scaling]
        return form + kept

    @property
    def meaning(self) -> str:
        share = "" if self.mass == 1 else f" the best matching {self.mass:g} of"
        kept = {"unit": "centred, of length 1", "centred": "centred", "none": "as they came"}[self.scaling]
        return f"distance of{share} the units of two layers, {kept}, each shared among its best partners"

    @property
    def source(self) -> str:
        return "Khosla 2024, arXiv 2311.09466" + ("" if self.mass == 1 else "; Kapoor 2026, arXiv 2602.19331")

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 2.0 if self.scaling == "unit" else math.inf

    @property
    def invariances(self) -> frozenset[Invariance]:
        if self.scaling == "unit":
            return frozenset({"permutation", "positive scale", "unit scale", "shift"})
        return frozenset({"permutation", "shift"} if self.scaling == "centred" else {"permutation"})

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Units]:
        return [units(x, self.scaling) for x in layers]

    def pair(self, row: Units, col: Units) -> Tensor:
        x, y, scale = on_one_scale(row, col)
        cost = squared_distances(x, y).cpu().numpy()
        plan = transported(cost, self.mass)
        total = float((plan.mass * cost[plan.rows, plan.cols]).sum())
        return torch.tensor(math.sqrt(total / self.mass) * scale, dtype=torch.float64)

    def beside(
        self, rows: Sequence[Units], cols: Sequence[Units], values: Float[Tensor, "r c"]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        if self.scaling != "unit":
            return {}, []
        details, cautions = dead_units(rows, cols)
        return {**details, "correlation": 1 - values.square() / 2}, cautions


METRICS = {"soft_matching": SoftMatching()}
