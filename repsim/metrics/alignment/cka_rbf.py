"""CKA with a Gaussian kernel: do the two layers agree on which samples are near each other?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.checks import check_bool
from repsim._common.messages import message
from repsim.metrics.alignment.base import KernelAlignment, Ratio
from repsim.metrics.base import PairwiseResult, pairs
from repsim.numerics.centring import CONSTANT, CentredLayer, centre, working_dtype
from repsim.numerics.kernels import Kernel
from repsim.numerics.matmul import matmul_nt

#: Samples up to which a median is taken over all pairs; 499,500 of them.
_ALL = 1000

#: Beyond that, samples are shuffled and cut into groups of this many or a few more, and pairs are those of each group.
_GROUP = 128

#: Squared distance from the mean, in bandwidths², from which differences of float32 squares blur the distances.
_FAR = 16.0

#: The same share of the squared distance from the mean in float64: nearer pairs are duplicates.
_SAME = 1e-13


@dataclass(frozen=True, eq=False)
class RBFKernel(Kernel):
    """exp(-‖x - y‖² / 2σ²), less what HSIC does not see, so that nothing cancels in the products.

    Attributes:
        layer: The centred features.
        sigma: σ, in the layer's units.
        wide: The kernel is taken less 1, which keeps what little is left of it under a wide bandwidth.
        level: (n,) a_i, an estimate of sample i's mean, less half of the mean of all; a_i + a_j is taken off.
        undefined: Why the layer says nothing; empty where it does.
        source: As in `Kernel`.
    """

    layer: CentredLayer
    sigma: float
    wide: bool
    level: Float[Tensor, " n"]
    undefined: str = ""
    source: Kernel | None = None

    # Entries are good to some 1e-7 of the kernel before its level was taken off.
    float32_limit: ClassVar = 1e-7

    @property
    def smallest_hsic(self) -> float:
        return 1e-18 if self.layer.x.dtype == torch.float64 else 1e-12

    @property
    def diagonal(self) -> Float[Tensor, " n"]:
        own = float(not self.wide) - 2 * self.level.double()
        return torch.zeros_like(own) if self.undefined else own

    def from_gram(self, tile: Float[Tensor, "h w"], first: slice, second: slice) -> None:
        half = self._half
        tile.mul_(1 / self.sigma**2).sub_(half[first, None]).sub_(half[second]).clamp_max_(0)
        (tile.expm1_() if self.wide else tile.exp_()).sub_(self.level[first, None]).sub_(self.level[second])

    @property
    def _half(self) -> Float[Tensor, " n"]:
        return (self.layer.squares / (2 * self.sigma**2)).to(self.layer.mean.dtype)

    def background(self, weights: Float[Tensor, " n"]) -> float:
        mean = 2 * float(self.level.double().mean())
        return mean**2 * float(weights.sum() ** 2 - weights.square().sum())

    def permuted(self, order: Int[Tensor, " n"]) -> "RBFKernel":
        level = self.level[order.to(self.level.device)]
        return replace(self, layer=self.layer.reordered(order), level=level, source=self.source or self)

    def _in_float64(self) -> "RBFKernel":
        layer = centre(self.layer.x, torch.float64)
        return replace(self, layer=layer, sigma=self.sigma * self.layer.unit / layer.unit, level=self.level.double())


@dataclass(frozen=True)
class RBFCKA(KernelAlignment):
    """Centred kernel alignment of Gaussian kernels k(x, y) = exp(-‖x - y‖² / 2σ²), σ = bandwidth · median distance.

    A small bandwidth compares neighbourhoods, a large one approaches linear CKA. The median is that of the layer's
    own distances over all pairs of samples, so the scale of the features does not matter.

    Args:
        bandwidth: σ in units of the median distance. The median is exact up to n = 1000 (499,500 pairs); of more
            samples it is taken over about 64 n pairs, drawn once by a fixed seed, the same ones for every layer.
        debiased: Use Song et al.'s unbiased estimates (needs n >= 4). Otherwise Kornblith et al.'s form.

    Source:
        Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414, who state bandwidths as fractions of the median
        distance; unbiased HSIC: Song, Smola, Gretton, Bedo, Borgwardt 2012 (JMLR 13), equation 5.

    Cost:
        All pairs of r and c layers: n² (Σp + Σq) / 2 multiplications, as linear CKA of wide layers, and for the
        median n min(n, 1000) p up to n = 1000 and 128 n p beyond. Memory: 256 MB of tiles, and one tile's rows of
        the widest layer. Resamples share the tiles, b n² / 2 multiplications for each pair of layers, and keep the
        full sample's σ. Permutations share whole kernel matrices where all of them fit in 1 GB.
    """

    bandwidth: float = 1.0
    debiased: bool = True

    cost: ClassVar = "Gaussian kernels in tiles: n²·(Σp+Σq)/2 for all pairs"

    def __post_init__(self) -> None:
        advice = "Pass a positive multiple of the median distance, as in 0.5"
        if isinstance(self.bandwidth, bool) or not isinstance(self.bandwidth, int | float):
            raise TypeError(message("RBFCKA", "bandwidth must be a number", repr(self.bandwidth), advice))
        if not 0 < self.bandwidth < math.inf:
            raise ValueError(message("RBFCKA", "bandwidth must be positive and finite", repr(self.bandwidth), advice))
        check_bool("RBFCKA", "debiased", self.debiased)

    @property
    def title(self) -> str:
        return f"RBF CKA, {'debiased' if self.debiased else 'biased'}, σ = {self.bandwidth:g} median"

    @property
    def meaning(self) -> str:
        return "1: the same samples are near each other in both layers; 0: as in unrelated layers"

    @property
    def source(self) -> str:
        return "Kornblith 2019, arXiv 1905.00414" + ("; Song 2012" if self.debiased else "")

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[RBFKernel]:
        dtype = working_dtype(layers)
        found = [_prepared(x, dtype, self.bandwidth) for x in layers]
        dtypes = {kernel.layer.mean.dtype for kernel in found}
        if len(dtypes) == 1:
            return found
        return [_prepared(x, torch.float64, self.bandwidth) for x in layers]

    def _described(self, rows: Sequence[Any], cols: Sequence[Any], found: Ratio) -> PairwiseResult:
        details = {
            "width_row": pairs(rows, cols, lambda x, y: x.layer.width),
            "width_col": pairs(rows, cols, lambda x, y: y.layer.width),
            "sigma_row": pairs(rows, cols, lambda x, y: x.sigma * x.layer.unit),
            "sigma_col": pairs(rows, cols, lambda x, y: y.sigma * y.layer.unit),
        }
        return PairwiseResult(found.values, details, found.reasons)


def _prepared(x: Float[Tensor, "n p"], dtype: torch.dtype, bandwidth: float) -> RBFKernel:
    """The median distance, and the level of the kernel from the same pairs. In float64 where float32 is not enough."""
    layer = centre(x, dtype)
    wide = bandwidth >= 1
    none = RBFKernel(layer, 0.0, wide, layer.mean.new_zeros(layer.n), CONSTANT)
    if layer.constant:
        return none
    order = torch.arange(layer.n)
    if layer.n > _ALL:
        order = torch.randperm(layer.n, generator=torch.Generator().manual_seed(0))
    order = order.to(x.device)
    groups = _squared_distances(layer.reordered(order), max(1, layer.n // _GROUP) if layer.n > _ALL else 1)
    sigma = bandwidth * _median(torch.cat([d[torch.ones_like(d).triu(1).bool()] for d in groups]))
    far = float(layer.squares.median())
    if dtype == torch.float32 and sigma**2 * _FAR < far:
        double = _prepared(x, torch.float64, bandwidth)
        return replace(none, undefined=double.undefined) if double.undefined else double
    if (sigma / bandwidth) ** 2 <= _SAME * far:
        return replace(none, undefined=_why_none(layer))
    level = torch.empty_like(layer.squares)
    at = 0
    for d in groups:
        k = (d / (-2 * sigma**2)).expm1() + float(not wide)
        level[order[at : at + len(d)]] = k.fill_diagonal_(0).sum(1) / (len(d) - 1)
        at += len(d)
    return RBFKernel(layer, sigma, wide, (level - level.mean() / 2).to(dtype))


def _why_none(layer: CentredLayer) -> str:
    """Why the median distance is nothing beside the distances of a few samples."""
    counts = torch.unique(layer.x, dim=0, return_counts=True)[1].double()
    if float((counts * (counts - 1)).sum()) > 0.5 * layer.n * (layer.n - 1):
        return "a median distance of 0: more than half of all pairs are duplicates"
    return "a median distance below rounding: a few samples lie far from all others"


def _squared_distances(layer: CentredLayer, count: int) -> list[Float[Tensor, "g g"]]:
    """Float64 squared distances within `count` groups of neighbouring rows."""
    found = []
    for rows in torch.arange(layer.n).tensor_split(count):
        start, stop = int(rows[0]), int(rows[-1]) + 1
        x = layer.rows(start, stop, out=layer.mean.new_empty(stop - start, layer.width))
        squares = layer.squares[start:stop]
        found.append((squares[:, None] + squares - 2 * matmul_nt(x, x).double()).clamp_min_(0))
    return found


def _median(squared: Float[Tensor, " m"]) -> float:
    """The median of the roots; of an even number, the mean of the two in the middle."""
    middle = (len(squared) + 1) // 2
    return sum(math.sqrt(float(squared.kthvalue(k).values)) for k in (middle, len(squared) // 2 + 1)) / 2


METRICS = {"cka_rbf": RBFCKA()}
