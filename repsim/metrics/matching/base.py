"""What measures of matched units share: columns prepared once per layer, one match per pair of layers."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.progress import progress_bar
from repsim.metrics.base import Metric, PairwiseResult, pairs, undefined_cells
from repsim.numerics.centring import CONSTANT, centre, working_dtype

#: What is kept of a unit: its column as it came, without its mean, or that at length 1.
Scaling = Literal["none", "centred", "unit"]

#: Squared distances below this share of the squared lengths are computed again from differences.
_NEAR = 1e-4
#: Bytes of the columns that are gathered at once for it.
_GATHER = 32 * 2**20


@dataclass(frozen=True, eq=False)
class Units:
    """A layer's units as vectors over the samples.

    Attributes:
        columns: (p, n) float64, one unit each, divided by `scale`; without units that are constant where units have
            length 1.
        scale: A power of two near the largest feature; 1 where units have length 1.
        width: How many units the layer has, constant ones included.
        undefined: What the layer has instead of a number; empty where it has one.
    """

    columns: Float[Tensor, "p n"]
    scale: float
    width: int
    undefined: str

    @property
    def dead(self) -> int:
        """How many units are left out because they are constant."""
        return self.width - len(self.columns)


def units(x: Float[Tensor, "n p"], scaling: Scaling) -> Units:
    """A layer's columns. Cost: a few passes; memory: two float64 copies while they are made, one kept."""
    undefined = centre(x, working_dtype([x])).undefined
    if undefined:
        return Units(x.new_zeros(0, len(x), dtype=torch.float64), 1.0, x.shape[1], undefined)
    columns = x.T.to(torch.float64, copy=True)
    scale = 2.0 ** math.floor(math.log2(float(columns.abs().amax())))
    columns /= scale  # squares overflow sooner
    if scaling == "none":
        return Units(columns.contiguous(), scale, x.shape[1], "")
    level = torch.linalg.vector_norm(columns, dim=1)
    columns -= columns[:, :1].clone()  # sums stay at the size of the spread, however far from zero the unit lies
    columns -= columns.mean(1, keepdim=True)
    if scaling == "centred":
        return Units(columns.contiguous(), scale, x.shape[1], "")
    peak = columns.abs().amax(1, keepdim=True)
    columns /= torch.where(peak > 0, peak, 1)  # squares of a small unit would vanish
    norm = torch.linalg.vector_norm(columns, dim=1)
    # As for a constant layer: rounding of a constant is not a spread.
    live = norm * peak[:, 0] > max(1e-12, torch.finfo(x.dtype).eps / 2) * level
    return Units((columns[live] / norm[live, None]).contiguous(), 1.0, x.shape[1], "" if bool(live.any()) else CONSTANT)


class MatchingMetric(Metric):
    """A measure that is a function of which units of two layers belong together."""

    def pairwise(self, rows: Sequence[Units], cols: Sequence[Units]) -> PairwiseResult:
        values = torch.full((len(rows), len(cols)), math.nan, dtype=torch.float64)
        details = {
            "width_row": pairs(rows, cols, lambda a, b: a.width),
            "width_col": pairs(rows, cols, lambda a, b: b.width),
        }
        with progress_bar(len(rows) * len(cols), "matched units", "pair") as bar:
            for i, a in enumerate(rows):
                for j, b in enumerate(cols):
                    if rows is cols and j < i:
                        values[i, j] = values[j, i]
                    elif not (a.undefined or b.undefined):
                        values[i, j] = self.pair(a, b)
                bar.update(len(cols))
        more, cautions = self.beside(rows, cols, values)
        return PairwiseResult(
            values,
            {**details, **more},
            undefined_cells([a.undefined for a in rows], [b.undefined for b in cols]),
            tuple(cautions),
        )

    @abstractmethod
    def pair(self, row: Units, col: Units) -> Tensor:
        """The value of two layers, both of which have one."""

    @abstractmethod
    def beside(
        self, rows: Sequence[Units], cols: Sequence[Units], values: Float[Tensor, "r c"]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        """Details and cautions."""

    def permuted(self, states: Sequence[Units], order: Int[Tensor, " n"]) -> list[Units]:
        return [replace(s, columns=s.columns[:, order.to(s.columns.device)]) for s in states]


def dead_units(rows: Sequence[Units], cols: Sequence[Units]) -> tuple[dict[str, Tensor], list[str]]:
    """How many units are left out on each side, and the caution that some are."""
    details = {
        "dead_row": pairs(rows, cols, lambda a, b: a.dead),
        "dead_col": pairs(rows, cols, lambda a, b: b.dead),
    }
    worst = max((s for s in [*rows, *cols] if not s.undefined), key=lambda s: s.dead, default=None)
    if worst is None or not worst.dead:
        return details, []
    text = f"units that are constant have no correlation and are left out, in one layer {worst.dead} of {worst.width}"
    return details, [text]


def on_one_scale(row: Units, col: Units) -> tuple[Float[Tensor, "p n"], Float[Tensor, "q n"], float]:
    """Both layers' columns divided by the larger of their scales, and that scale."""
    scale = max(row.scale, col.scale)
    return row.columns * (row.scale / scale), col.columns * (col.scale / scale), scale


def squared_distances(a: Float[Tensor, "p n"], b: Float[Tensor, "q n"]) -> Float[Tensor, "p q"]:
    """Squared distances of all units of two layers; those of near units from differences, 0 where they are equal."""
    sums = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(sums, a, b.T, alpha=-2).clamp_min_(0)
    i, j = (squared < _NEAR * sums).nonzero().unbind(1)
    step = max(1, _GATHER // (8 * a.shape[1]))
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        squared[i[part], j[part]] = (a[i[part]] - b[j[part]]).square().sum(1)
    return squared
