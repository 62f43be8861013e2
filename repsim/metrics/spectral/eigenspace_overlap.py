"""Eigenspace overlap: how much of the two layers' column spaces is the same?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import check_bool
from repsim._common.messages import message
from repsim.metrics.base import Invariance, pairs
from repsim.metrics.spectral.base import SpectralMetric, few_samples
from repsim.numerics.spectrum import Spectrum, spectra


@dataclass(frozen=True)
class EigenspaceOverlap(SpectralMetric):
    """Eigenspace overlap score: ‖UᵀV‖² / max(r₁, r₂), for orthonormal bases U, V of the two layers' column spaces.

    Features are not centred, so that a mean that all samples share is a direction like any other; centred and with
    equal ranks it is the mean squared canonical correlation, `r2_cca`. The paper takes layers of full column rank; r is
    the numerical rank here, so that a layer has 1 with itself whatever its rank. Over all orders of one side's samples
    its mean is the detail `chance`, exact; min(r₁, r₂) / n for independent Gaussian features.

    Args:
        centred: Take each feature's mean away first.
        divisor: "rank" max(r₁, r₂), or "width" max(p, q), as ReSi divides: a layer has less than 1 with itself there
            where features depend on each other or outnumber the samples.

    Source:
        May, Zhang, Dao, Ré 2019, arXiv 1909.01264.

    Cost:
        One float64 decomposition per layer, n p² + p³ for p <= n; per pair n r₁ r₂. Memory: n r per layer.
    """

    centred: bool = False
    divisor: Literal["rank", "width"] = "rank"

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0
    cost: ClassVar = "one decomposition per layer; per pair n·r·r"

    def __post_init__(self) -> None:
        check_bool("EigenspaceOverlap", "centred", self.centred)
        if self.divisor not in ("rank", "width"):
            must = "divisor must be 'rank' or 'width'"
            raise ValueError(message("EigenspaceOverlap", must, repr(self.divisor), "Choose one of these"))

    @property
    def title(self) -> str:
        left = [", centred"] if self.centred else []
        left += [", divided by width"] if self.divisor == "width" else []
        return "".join(["eigenspace overlap", *left])

    @property
    def meaning(self) -> str:
        return "share of the larger column space that lies in the other one, however weak its directions"

    @property
    def source(self) -> str:
        return "May 2019, arXiv 1909.01264"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        always: set[Invariance] = {"orthogonal", "scale", "invertible"}
        always |= {"shift"} if self.centred else set()
        return frozenset(always)

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Spectrum]:
        return spectra(layers, centred=self.centred)

    def pair(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> Tensor:
        return products.square().sum() / self._divisor(row, col)

    def _divisor(self, row: Spectrum, col: Spectrum) -> int:
        return max(row.rank, col.rank) if self.divisor == "rank" else max(row.width, col.width)

    def beside(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> tuple[Mapping[str, Tensor], list[str]]:
        details = {"chance": pairs(rows, cols, self._chance)}
        return details, few_samples(rows, cols, None)

    def _chance(self, row: Spectrum, col: Spectrum) -> float:
        """The mean of ‖UᵀΠV‖² over all permutations Π: that of ΠVVᵀΠᵀ is a multiple of I plus one of 11ᵀ."""
        if row.constant or col.constant:
            return float("nan")
        n = row.n
        level = [float(s.directions.double().sum(1).square().sum()) / n for s in (row, col)]  # 1ᵀUUᵀ1 / n
        rest = (row.rank - level[0]) * (col.rank - level[1]) / (n - 1)
        return (level[0] * level[1] + rest) / self._divisor(row, col)


METRICS = {"eigenspace_overlap": EigenspaceOverlap()}
