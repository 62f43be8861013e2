"""k-NN Jaccard: of all that is near a sample in either layer, how much is near it in both?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from repsim.metrics.geometry.overlap import Neighbours
from repsim.metrics.geometry.per_sample import MeanOverSamples, NearBy, check_neighbours, matched


@dataclass(frozen=True)
class KNNJaccard(MeanOverSamples):
    """Mean over samples of |N_X ∩ N_Y| / |N_X ∪ N_Y|, N the k nearest other samples.

    With m shared neighbours it is m / (2k − m), so it counts the same as `mutual_knn` and punishes misses more.
    Unrelated layers reach Σ_m P(m) m / (2k − m), P hypergeometric (k draws from n − 1, k of them right): the detail
    `chance`, exact over all orders of one side's samples. k = n − 1 gives 1 always. Ties as in `mutual_knn`.

    Args:
        k: Neighbours of each sample, at most n - 1.
        distance: "cosine", features not centred, or "euclidean".

    Source:
        Schumacher, Wolf, Ritzert, Lemmerich, Bachmann, Frantzen, Klabunde, Grohe, Strohmaier 2020, arXiv 2005.10039;
        Hryniowski, Wong 2020, arXiv 2001.04063; ReSi: Klabunde et al. 2024, arXiv 2408.00531.

    Cost:
        Per layer n² p multiplications and a selection from n² numbers; per pair of layers n k log k. Memory: n k
        numbers per layer, one layer in the working precision, and 256 MB.
    """

    k: int = 10
    distance: NearBy = "cosine"

    cost: ClassVar = "n²·p and a selection from n² per layer; n·k·log k per pair"

    def __post_init__(self) -> None:
        check_neighbours("KNNJaccard", self.k, self.distance)

    @property
    def title(self) -> str:
        return f"{self.k}-NN Jaccard, {self.distance}"

    @property
    def meaning(self) -> str:
        return (
            "of the neighbours a sample has in either layer, the share that it has in both; unrelated layers: `chance`"
        )

    @property
    def source(self) -> str:
        return "Schumacher 2020, arXiv 2005.10039; Klabunde 2024, arXiv 2408.00531"

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Neighbours]:
        return self.neighbours(layers, "cosine" if self.distance == "cosine" else None, "distance")

    def per_sample(self, row: Neighbours, col: Neighbours) -> Float[Tensor, " n"]:
        shared = matched(row, col)[1].sum(1).double()
        return shared / (2 * self.k - shared)

    def chance(self, n: int) -> float:
        from scipy.stats import hypergeom

        k = self.k
        return float(sum(hypergeom.pmf(m, n - 1, k, k) * m / (2 * k - m) for m in range(1, k + 1)))


METRICS = {"knn_jaccard": KNNJaccard()}
