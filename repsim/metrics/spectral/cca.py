"""The CCA family: do the two layers span the same directions, whatever their variances?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.metrics.base import Invariance, pairs
from repsim.metrics.spectral.base import SpectralMetric, few_samples, singular_values
from repsim.numerics.spectrum import Spectrum, spectra


@dataclass(frozen=True)
class CCA(SpectralMetric):
    """Canonical correlations ρ₁ ≥ ρ₂ ≥ … of two layers, summed up in one number.

    ρ are the singular values of U₁ᵀU₂ for orthonormal bases of the centred layers, r₁ and r₂ their ranks:
    "mean" is Σρ / min(r₁, r₂), "r2" is Σρ² / min(r₁, r₂), and "pwcca" is Σαᵢρᵢ / Σαᵢ over the min(r₁, r₂)
    canonical pairs with αᵢ = Σⱼ |⟨hᵢ, xⱼ⟩|, hᵢ the first argument's canonical variates and xⱼ its centred
    features. With `variance` < 1 each layer is first cut to the fewest principal components that keep that share
    of its variance (SVCCA).

    Args:
        summary: "mean", "r2" or "pwcca".
        variance: Share of Σσ² that is kept; 1 keeps the whole numerical rank.

    Source:
        Hotelling 1936; SVCCA: Raghu, Gilmer, Yosinski, Sohl-Dickstein 2017, arXiv 1706.05806; PWCCA: Morcos,
        Raghu, Bengio 2018, arXiv 1806.05759, equation 2.

    Cost:
        One float64 decomposition per layer, n p² + p³ for p <= n; per pair n r₁ r₂ and, but for "r2", the
        singular values of an r₁ × r₂ matrix. Memory: n r per layer.
    """

    summary: Literal["mean", "r2", "pwcca"] = "mean"
    variance: float = 1.0

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0
    cost: ClassVar = "one decomposition per layer; per pair n·r·r and an r × r SVD"

    def __post_init__(self) -> None:
        if self.summary not in ("mean", "r2", "pwcca"):
            raise ValueError(
                f"CCA: summary must be 'mean', 'r2' or 'pwcca'; got {self.summary!r}. Choose one of these."
            )
        if not 0 < self.variance <= 1:
            raise ValueError(f"CCA: variance must be in (0, 1]; got {self.variance}. Use 0.99 for SVCCA, 1 for all.")

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        return self.summary != "pwcca"

    @property
    def title(self) -> str:
        name = {"mean": "mean CCA", "r2": "R² CCA", "pwcca": "PWCCA"}[self.summary]
        if self.variance == 1:
            return name
        share = f"{self.variance:g} of variance"
        return f"SVCCA, {share}" if self.summary == "mean" else f"{name}, {share}"

    @property
    def meaning(self) -> str:
        return {
            "mean": "mean canonical correlation: 1 where one layer's directions all lie in the other's span",
            "r2": "mean squared canonical correlation: 1 where one layer's directions all lie in the other's span",
            "pwcca": "canonical correlations, weighted by how much of the first layer each one carries",
        }[self.summary]

    @property
    def source(self) -> str:
        if self.summary == "pwcca":
            return "Morcos 2018, arXiv 1806.05759"
        return "Hotelling 1936" if self.variance == 1 else "Raghu 2017, arXiv 1706.05806"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        if self.summary == "pwcca":  # its weights sum |⟨h, x⟩| over features, which a rotation of them changes
            return frozenset({"permutation", "scale", "shift"})
        always: frozenset[Invariance] = frozenset({"orthogonal", "scale", "shift"})
        return frozenset({*always, "invertible"}) if self.variance == 1 else always

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Spectrum]:
        return spectra(layers, variance=self.variance, coordinates=self.summary == "pwcca")

    def pair(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> Tensor:
        count = min(products.shape)
        if self.summary == "r2":
            return products.square().sum() / count
        if self.summary == "mean":
            return singular_values(products, row.single).clamp_max(1).sum() / count
        left, rho, _ = torch.linalg.svd(products, full_matrices=False)
        return _weighted(rho, left.T, row)

    def both(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> tuple[Tensor, Tensor]:
        if self.symmetric:
            return super().both(products, row, col)
        left, rho, right = torch.linalg.svd(products, full_matrices=False)
        return _weighted(rho, left.T, row), _weighted(rho, right, col)

    def beside(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> tuple[Mapping[str, Tensor], list[str]]:
        n = rows[0].n
        chance = pairs(rows, cols, lambda a, b: min(1.0, max(a.rank, b.rank) / (n - 1)))
        return {"chance_mean_rho2": chance}, few_samples(rows, cols, "a mean ρ²")


def _weighted(rho: Float[Tensor, " k"], directions: Float[Tensor, "k r"], layer: Spectrum) -> Tensor:
    """Canonical correlations, each weighted by how much of a layer its direction carries."""
    weight = (directions @ layer.coordinates).abs().sum(1)
    return (weight * rho.clamp_max(1)).sum() / weight.sum()


METRICS = {
    "mean_cca": CCA("mean"),
    "r2_cca": CCA("r2"),
    "svcca": CCA("mean", variance=0.99),
    "pwcca": CCA("pwcca"),
}
