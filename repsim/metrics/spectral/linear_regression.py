"""Linear regression: how much of one layer can be read off the other?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from repsim.metrics.base import Invariance, pairs
from repsim.metrics.spectral.base import SpectralMetric, few_samples
from repsim.numerics.spectrum import Spectrum


@dataclass(frozen=True)
class LinearRegression(SpectralMetric):
    """Share of the first layer's variance that a least-squares fit from the second explains, on the rows fitted.

    R² = ‖U_Yᵀ X‖_F² / ‖X‖_F² with X the centred first layer (the row) and U_Y an orthonormal basis of the centred
    second one. Not symmetric: a wide layer may explain a narrow one and not the other way round.

    Source:
        Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414, section 4.

    Cost:
        One float64 decomposition per layer, n p² + p³ for p <= n; per pair n r₁ r₂. Memory: n r per layer.
    """

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0
    symmetric: ClassVar = False
    cost: ClassVar = "one decomposition per layer; per pair n·r·r"

    @property
    def title(self) -> str:
        return "linear regression, R² of rows from columns"

    @property
    def meaning(self) -> str:
        return "share of the first layer's variance that a linear map of the second layer explains"

    @property
    def source(self) -> str:
        return "Kornblith 2019, arXiv 1905.00414"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        # Any invertible map of the second layer leaves it; one of the first changes what counts as variance.
        return frozenset({"orthogonal", "scale", "shift"})

    def pair(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> Tensor:
        return row.singular.square() @ products.square().sum(1) / row.singular.square().sum()

    def beside(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> tuple[Mapping[str, Tensor], list[str]]:
        n = rows[0].n
        return {"chance": pairs(rows, cols, lambda a, b: min(1.0, b.rank / (n - 1)))}, few_samples(cols, cols, "an R²")


METRICS = {"linear_regression": LinearRegression()}
