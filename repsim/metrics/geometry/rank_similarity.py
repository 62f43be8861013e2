"""Rank similarity: are the neighbours that both layers share equally near in both?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.metrics.geometry.nearest import ranks_of_nearest
from repsim.metrics.geometry.overlap import Neighbours
from repsim.metrics.geometry.per_sample import MeanOverSamples, NearBy, check_neighbours, matched


@dataclass(frozen=True, eq=False)
class RankedNeighbours(Neighbours):
    """Neighbours with their places.

    Attributes:
        rank: (n, k) 1 for the nearest; equally near ones in the order of their sample numbers.
        level: Whether any two of a sample's neighbours are equally near.
    """

    rank: Int[Tensor, "n k"]
    level: bool


@dataclass(frozen=True)
class RankSimilarity(MeanOverSamples):
    """Mean over samples of Σ_v 2 / ((1 + |r − r'|)(r + r')) / H_m, v the m shared of k neighbours, r and r' its ranks.

    Shared neighbours count by how near they are and by how little their rank differs; H_m = 1 + 1/2 + … + 1/m makes
    equal ranks 1. A sample without shared neighbours has 0. As it is divided by H_m and not by H_k, a single shared
    neighbour that comes first in both lists gives 1 whatever the others do: read it beside `knn_jaccard`, whose product
    with it, sample by sample, is the detail `joint`.

    Args:
        k: Neighbours of each sample, at most n - 1.
        distance: "cosine", features not centred, or "euclidean".

    Source:
        Wang, Hu, Gu, Wu, Hu, He, Hopcroft 2020 (IJCAI), after Klabunde et al. 2023, arXiv 2305.06329, and 2024, arXiv
        2408.00531, whose form this is.

    Cost:
        Per layer n² p multiplications and a selection from n² numbers; per pair of layers n k log k. Memory: n k
        numbers per layer, one layer in the working precision, and 256 MB.
    """

    k: int = 10
    distance: NearBy = "cosine"

    cost: ClassVar = "n²·p and a selection from n² per layer; n·k·log k per pair"

    def __post_init__(self) -> None:
        check_neighbours("RankSimilarity", self.k, self.distance)

    @property
    def title(self) -> str:
        return f"rank similarity of {self.k} neighbours, {self.distance}"

    @property
    def meaning(self) -> str:
        return "how alike the ranks of the neighbours are that a sample has in both layers, however few these are"

    @property
    def source(self) -> str:
        return "Wang 2020 (IJCAI); Klabunde 2024, arXiv 2408.00531"

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[RankedNeighbours]:
        found = []
        for s, placed in self.placed_neighbours(layers, "cosine" if self.distance == "cosine" else None, "distance"):
            rank, level = (s.index, False) if s.undefined else ranks_of_nearest(placed, s.index)
            found.append(RankedNeighbours(**vars(s), rank=rank, level=level))
        return found

    def permuted(self, states: Sequence[Any], order: Int[Tensor, " n"]) -> list[Neighbours] | None:
        """None where ties were broken by the old order."""
        return None if any(s.level for s in states) else super().permuted(states, order)

    @staticmethod
    def moved(state: RankedNeighbours, order: Int[Tensor, " n"]) -> RankedNeighbours:  # type: ignore[override]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        index, sort = place[state.index[order]].sort(1)
        return replace(state, index=index, rank=state.rank[order].gather(1, sort))

    def per_sample(self, row: RankedNeighbours, col: RankedNeighbours) -> Float[Tensor, " n"]:
        place, shared = matched(row, col)
        r, s = row.rank.double(), col.rank.gather(1, place).double()
        weighted = (shared * 2 / ((1 + (r - s).abs()) * (r + s))).sum(1)
        harmonic = torch.cat([r.new_ones(1), (1 / torch.arange(1, self.k + 1, device=r.device).double()).cumsum(0)])
        return weighted / harmonic[shared.sum(1)]

    def beside(self, row: RankedNeighbours, col: RankedNeighbours) -> dict[str, float]:
        shared = matched(row, col)[1].sum(1).double()
        jaccard = shared / (2 * self.k - shared)
        return {"joint": float((self.per_sample(row, col) * jaccard).mean()), "jaccard": float(jaccard.mean())}


METRICS = {"rank_similarity": RankSimilarity()}
