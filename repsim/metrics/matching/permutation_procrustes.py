"""Permutation Procrustes: how far apart are the two layers when units are only reordered, not mixed?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import check_bool
from repsim.metrics.base import Invariance
from repsim.metrics.matching.base import MatchingMetric, Units, on_one_scale, units
from repsim.metrics.matching.transport import assigned


@dataclass(frozen=True)
class PermutationProcrustes(MatchingMetric):
    """Distance of two layers after the best reordering of the units of one: Procrustes without rotations.

    d = min over permutations P of ‖X − YP‖_F, d² = ‖X‖² + ‖Y‖² − 2 max_P tr(XᵀYP), the narrower layer padded with zero
    columns; the angular form is arccos(max_P tr(XᵀYP) / ‖X‖‖Y‖). Both are metrics on layers up to the order of their
    units. As Procrustes here, layers are centred and of Frobenius norm 1 unless said otherwise, so that the value is
    never below that of `procrustes`. Padding sets an unmatched unit against the zero vector: the distance of a layer
    to a wider copy of it is the norm of the columns that are added.

    Args:
        centred: Take each unit's mean away first.
        normalized: Divide each layer by its Frobenius norm. ReSi's form is centred=False, normalized=False.
        angular: The angle, in radians, which norms do not change; netrep's form.

    Source:
        Williams, Kunz, Kornblith, Linderman 2021, arXiv 2110.14739; Klabunde, Schumacher, Strohmaier,
        Lemmerich 2023, arXiv 2305.06329.

    Cost:
        Per pair n p q multiplications and an assignment, min(p, q)² max(p, q). Memory: n p per layer in float64, p q.
    """

    centred: bool = True
    normalized: bool = True
    angular: bool = False

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0
    cost: ClassVar = "per pair n·p·q and an assignment, min(p, q)²·max(p, q)"

    def __post_init__(self) -> None:
        for name in ("centred", "normalized", "angular"):
            check_bool("PermutationProcrustes", name, getattr(self, name))

    @property
    def _of_norm_1(self) -> bool:
        return self.normalized or self.angular

    @property
    def title(self) -> str:
        form = "angular permutation Procrustes, radians" if self.angular else "permutation Procrustes distance"
        left = [] if self.centred else ["not centred"]
        left += [] if self._of_norm_1 else ["norms as they are"]
        return ", ".join([form, *left])

    @property
    def meaning(self) -> str:
        centred = "both centred" if self.centred else "features as they came"
        norm = "of norm 1" if self._of_norm_1 else "norms as they are"
        return f"distance left after the best one-to-one match of units, {centred} and {norm}; mixing units counts"

    @property
    def source(self) -> str:
        return "Williams 2021, arXiv 2110.14739"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.pi if self.angular else 2.0 if self.normalized else math.inf

    @property
    def invariances(self) -> frozenset[Invariance]:
        found: set[Invariance] = {"permutation"}
        found |= {"positive scale"} if self._of_norm_1 else set()
        found |= {"shift"} if self.centred else set()
        return frozenset(found)

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Units]:
        found = [units(x, "centred" if self.centred else "none") for x in layers]
        if not self._of_norm_1:
            return found
        return [
            Units(
                s.columns if s.undefined else s.columns / torch.linalg.vector_norm(s.columns), 1.0, s.width, s.undefined
            )
            for s in found
        ]

    def pair(self, row: Units, col: Units) -> Tensor:
        x, y, scale = on_one_scale(row, col)
        i, j = (torch.from_numpy(index).to(x.device) for index in assigned((x @ y.T).cpu().numpy()))
        # From differences, because norms less products lose their digits where layers are nearly the same.
        square = (x[i] - y[j]).square().sum()
        for wide, used in ((x, i), (y, j)):
            alone = torch.ones(len(wide), dtype=torch.bool, device=x.device)
            alone[used] = False
            square = square + wide[alone].square().sum()
        chord = square.sqrt()
        return 2 * (chord / 2).clamp_max(1).asin() if self.angular else chord * scale

    def beside(
        self, rows: Sequence[Units], cols: Sequence[Units], values: Float[Tensor, "r c"]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        unequal = [(a.width, b.width) for a in rows for b in cols if a.width != b.width]
        if not unequal:
            return {}, []
        p, q = max(unequal, key=lambda pair: abs(pair[0] - pair[1]))
        return {}, [
            f"layers of unequal widths, such as {p} and {q}, are padded with zero units: a unit without a partner "
            "counts with its whole norm"
        ]


METRICS = {"permutation_procrustes": PermutationProcrustes()}
