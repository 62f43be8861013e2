"""Distance correlation: are the same pairs of samples far apart, with 0 for independence alone?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.checks import check_bool
from repsim.metrics.alignment.base import KernelAlignment, Ratio
from repsim.metrics.base import PairwiseResult
from repsim.numerics.centring import CentredLayer, centre
from repsim.numerics.kernels import Kernel

#: Share of the squared lengths below which a squared distance is rounding: the samples are duplicates.
_SAME = 1e-13


@dataclass(frozen=True, eq=False)
class DistanceKernel(Kernel):
    """-‖x - y‖, in units of the root mean squared row norm: a kernel once it is centred.

    Attributes:
        layer: The centred features, in float64.
        undefined: Why the layer says nothing; empty where it does.
        source: As in `Kernel`.
    """

    layer: CentredLayer
    undefined: str = ""
    source: Kernel | None = None

    float32_limit: ClassVar = 0.0  # it is in float64 already

    @property
    def smallest_hsic(self) -> float:
        return 1e-13

    @property
    def _unit(self) -> float:
        return 0.0 if self.undefined else self.layer.n / self.layer.norm**2

    @property
    def diagonal(self) -> Float[Tensor, " n"]:
        return torch.zeros_like(self.layer.squares)

    def from_gram(self, tile: Float[Tensor, "h w"], first: slice, second: slice) -> None:
        sums = self.layer.squares[first, None] + self.layer.squares[second]
        squared = tile.mul_(-2).add_(sums)
        squared.mul_(squared > _SAME * sums).mul_(self._unit).sqrt_().neg_()

    def background(self, weights: Float[Tensor, " n"]) -> float:
        return 0.0

    def permuted(self, order: Int[Tensor, " n"]) -> "DistanceKernel":
        return replace(self, layer=self.layer.reordered(order), source=self.source or self)

    def _in_float64(self) -> "DistanceKernel":
        return self


@dataclass(frozen=True)
class DistanceCorrelation(KernelAlignment):
    """Distance correlation of two layers: 0, in the population, just where they are independent.

    With A and B the double-centred matrices of Euclidean distances (not squared), dCov² = mean(A ∘ B) and
    dCor = √(dCov²(X, Y) / √(dCov²(X, X) dCov²(Y, Y))). With squared distances in their place the ratio is biased linear
    CKA. Few samples or wide features raise it, to 1 in the end, even in unrelated layers: the detail `chance` is the
    root of the mean of dCor² over all orders of one side's samples, which is exact.

    The debiased form replaces double centring by U-centring and takes no root, because it can be negative:
    R* = ⟨A~, B~⟩ / (‖A~‖ ‖B~‖), an estimate of the square dCor² that is 0 on average in unrelated layers.

    Args:
        debiased: R*, the bias-corrected square (needs n >= 4). Otherwise dCor.

    Source:
        Székely, Rizzo, Bakirov 2007, Ann. Statist. 35(6), arXiv 0803.4101; R*: Székely, Rizzo 2013, J. Multivariate
        Anal. 117, in the form of 2014, Ann. Statist. 42(6), arXiv 1310.2926.

    Cost:
        All pairs of r and c layers: n² (Σp + Σq) / 2 float64 multiplications and n² r c / 2. Memory: 256 MB of tiles,
        and one tile's rows of the widest layer. Resamples and permutations as for `cka_rbf`.
    """

    debiased: bool = False

    cost: ClassVar = "distances in float64 tiles: n²·(Σp+Σq)/2 for all pairs"

    def __post_init__(self) -> None:
        check_bool("DistanceCorrelation", "debiased", self.debiased)

    @property
    def title(self) -> str:
        return "distance correlation" + (", debiased square" if self.debiased else "")

    @property
    def meaning(self) -> str:
        chance = (
            "as in unrelated layers" if self.debiased else "independent; above 0 in few samples of unrelated layers"
        )
        return f"1: the same pairs of samples are far apart in both layers; 0: {chance}"

    @property
    def source(self) -> str:
        return "Székely 2014, arXiv 1310.2926" if self.debiased else "Székely 2007, arXiv 0803.4101"

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[DistanceKernel]:
        centred = [centre(x, torch.float64) for x in layers]
        # What is constant to the features' own type, not to float64.
        return [DistanceKernel(layer, layer.undefined) for layer in centred]

    def _described(self, rows: Sequence[Any], cols: Sequence[Any], found: Ratio) -> PairwiseResult:
        if self.debiased:
            zero = torch.zeros_like(found.values)
            return PairwiseResult(found.values, {"chance": zero}, found.reasons)
        values = self._rooted(found.values)
        n, r = rows[0].layer.n, len(rows)
        traces = (found.traces / found.own.sqrt() / math.sqrt(n - 1)).tolist()
        left, right = traces[:r], traces[-len(cols) :]
        chance = values.new_tensor([[math.sqrt(a * b) if a * b > 0 else math.nan for b in right] for a in left])
        cautions = []
        if (high := float(chance.nan_to_num(0).max())) > 0.3:
            cautions.append(
                f"distance correlation of unrelated layers reaches {high:.2f} here: read values against `chance`, or "
                "use the debiased form"
            )
        return PairwiseResult(values, {"chance": chance}, found.reasons, tuple(cautions))

    def bootstrapped(
        self, rows: Sequence[Any], cols: Sequence[Any], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        found = super().bootstrapped(rows, cols, counts)
        return found if self.debiased else self._rooted(found)

    def _beside(self, found: Ratio) -> dict[str, Tensor]:
        ends = super()._beside(found)
        return ends if self.debiased else {name: self._rooted(end) for name, end in ends.items()}

    @staticmethod
    def _rooted(squares: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return squares.clamp(0, 1).sqrt()  # only rounding is beyond


METRICS = {"distance_correlation": DistanceCorrelation()}
