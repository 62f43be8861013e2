"""Procrustes: how far apart are the two layers after the best rotation of one onto the other?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.metrics.base import Invariance
from repsim.metrics.spectral.base import NEAR, SpectralMetric, few_samples, singular_values
from repsim.numerics.spectrum import Spectrum


@dataclass(frozen=True)
class Procrustes(SpectralMetric):
    """Orthogonal Procrustes distance of the centred layers at Frobenius norm 1.

    d = min over rotations Q of ‖XQ − Y‖_F = √(2 − 2‖XᵀY‖_*), unequal widths padded with zero columns; the angular form
    is arccos ‖XᵀY‖_*. Both are metrics: they obey the triangle inequality. (Some authors report d².)

    Args:
        angular: The angle, in radians, instead of the chord d.

    Source:
        Ding, Denain, Steinhardt 2021, arXiv 2108.01661, section 2; angular: Williams, Kunz, Kornblith, Linderman 2021,
        arXiv 2110.14739, equation 5.

    Cost:
        One float64 decomposition per layer, n p² + p³ for p <= n; per pair n r₁ r₂ and the singular values of an
        r₁ × r₂ matrix. Memory: n r per layer.
    """

    angular: bool = False

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0
    cost: ClassVar = "one decomposition per layer; per pair n·r·r and an r × r SVD"

    @property
    def title(self) -> str:
        return "angular Procrustes distance, radians" if self.angular else "Procrustes distance"

    @property
    def meaning(self) -> str:
        return "distance left after the best rotation of one layer onto the other, both centred and of norm 1"

    @property
    def source(self) -> str:
        return "Williams 2021, arXiv 2110.14739" if self.angular else "Ding 2021, arXiv 2108.01661"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.pi / 2 if self.angular else math.sqrt(2)

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    def pair(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> Tensor:
        weighted = row.singular[:, None] * products * col.singular
        square = 2 - 2 * singular_values(weighted, row.single).sum()
        distance = _exactly(weighted, row, col) if square < NEAR[row.single] else square.sqrt()
        return 2 * (distance / 2).clamp_max(1).asin() if self.angular else distance

    def beside(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> tuple[Mapping[str, Tensor], list[str]]:
        return {}, few_samples(rows, cols, None)


def _exactly(weighted: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> Tensor:
    """‖XQ − Y‖ itself: 2 − 2‖XᵀY‖_* has lost its digits where the layers are nearly the same."""
    if row is col:
        return weighted.new_zeros(())
    if row.rank > col.rank:  # Q must keep the norm of what it turns
        row, col, weighted = col, row, weighted.T
    left, _, right = torch.linalg.svd(weighted, full_matrices=False)
    turned = (row.singular[:, None] * (left @ right)).T @ row.directions.double()
    return torch.linalg.vector_norm(turned - col.singular[:, None] * col.directions)


METRICS = {"procrustes": Procrustes(), "angular_procrustes": Procrustes(angular=True)}
