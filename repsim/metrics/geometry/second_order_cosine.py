"""Second-order cosine: is a sample as near to its neighbours in one layer as in the other?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim.metrics.geometry.overlap import Neighbours
from repsim.metrics.geometry.per_sample import MeanOverSamples, NearBy, check_neighbours, matched
from repsim.metrics.geometry.rows import Rows

#: A vector of cosines below this length is rounding.
_NONE = 1e-12


@dataclass(frozen=True, eq=False)
class NeighboursOfRows(Neighbours):
    """Neighbours, and the rows of length 1 that they are neighbours by."""

    placed: Rows


@dataclass(frozen=True)
class SecondOrderCosine(MeanOverSamples):
    """Mean over samples of the cosine between the two layers' vectors of a sample's cosines to its neighbours.

    With u = N_X(i) ∪ N_Y(i), the k nearest other samples in either layer by cosine, it is the cosine of (cos(x_i,
    x_j))_j and (cos(y_i, y_j))_j, j in u. Hamilton et al. compare similarities so; ReSi's code puts cosine distances 1
    − cos in these vectors, which is another measure: of independent Gaussian rows (n = 60, 8 features) the first gives
    −0.07 and the second 0.69. Neither is 0 in unrelated layers with features that are not negative: compare with
    permuted samples.

    Args:
        k: Neighbours of each sample, at most n - 1.
        form: "similarity", or "distance" for ReSi's form. That one has no value where all neighbours of a sample are
            duplicates of it.

    Source:
        Hamilton, Leskovec, Jurafsky 2016, arXiv 1606.02821; "distance": Klabunde et al. 2024, arXiv 2408.00531.

    Cost:
        Per layer n² p multiplications and a selection from n² numbers; per pair of layers 2 n k (p + q). Memory: n k
        numbers per layer, one layer in the working precision, and 256 MB.
    """

    k: int = 10
    form: Literal["similarity", "distance"] = "similarity"

    distance: ClassVar[NearBy] = "cosine"  # type: ignore[misc]
    cost: ClassVar = "n²·p and a selection from n² per layer; n·k·(p+q) per pair"

    def __post_init__(self) -> None:
        check_neighbours("SecondOrderCosine", self.k, self.distance)
        if self.form not in ("similarity", "distance"):
            must = "form must be 'similarity' or 'distance'"
            raise ValueError(message("SecondOrderCosine", must, repr(self.form), "Choose one of these"))

    @property
    def title(self) -> str:
        form = "" if self.form == "similarity" else ", of distances"
        return f"second-order cosine, {self.k} neighbours{form}"

    @property
    def meaning(self) -> str:
        what = "cosines" if self.form == "similarity" else "cosine distances"
        return f"how alike a sample's {what} to its neighbours are in both layers; not 0 in unrelated layers"

    @property
    def source(self) -> str:
        return "Hamilton 2016, arXiv 1606.02821" + ("" if self.form == "similarity" else "; Klabunde 2024")

    @property
    def bounds(self) -> tuple[float, float]:
        return (-1.0, 1.0) if self.form == "similarity" else (0.0, 1.0)

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def without_number(self) -> str:
        if self.form == "distance":
            return "samples whose neighbours are all at cosine distance 0; use form='similarity'"
        return "samples at right angles to all of their neighbours"

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[NeighboursOfRows]:
        return [
            NeighboursOfRows(**vars(s), placed=placed)
            for s, placed in self.placed_neighbours(layers, "cosine", "distance")
        ]

    @staticmethod
    def moved(state: NeighboursOfRows, order: Int[Tensor, " n"]) -> NeighboursOfRows:  # type: ignore[override]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        placed = replace(state.placed, x=state.placed.x[order])
        return replace(state, index=place[state.index[order]].sort(1).values, placed=placed)

    def per_sample(self, row: NeighboursOfRows, col: NeighboursOfRows) -> Float[Tensor, " n"]:
        both = torch.cat([row.index, col.index], 1)
        own = torch.ones_like(row.index, dtype=torch.bool)
        counts = torch.cat([own, ~matched(col, row)[1]], 1)  # a shared neighbour counts once
        i, at = counts.nonzero().unbind(1)
        j = both[i, at]
        x, y = (torch.zeros(both.shape, dtype=torch.float64, device=both.device) for _ in range(2))
        for vector, placed in ((x, row.placed), (y, col.placed)):
            halved = placed.squared(i, j) / 2
            vector[i, at] = halved if self.form == "distance" else 1 - halved
        lengths = [torch.linalg.vector_norm(vector, dim=1) for vector in (x, y)]
        sound = (lengths[0] > self._rounding) & (lengths[1] > self._rounding)
        cosine = (x * y).sum(1) / (lengths[0] * lengths[1])
        return torch.where(sound, cosine.clamp(-1, 1), math.nan)

    @property
    def _rounding(self) -> float:
        return 0.0 if self.form == "distance" else _NONE


METRICS = {"second_order_cosine": SecondOrderCosine()}
