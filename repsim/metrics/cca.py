"""The CCA family: do the two layers span the same directions, whatever their variances?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._progress import progress_bar
from repsim.metrics._base import Cross, Invariance, Metric, constant_reasons, pairs


@dataclass(frozen=True, eq=False)
class Subspace:
    """A layer's centred column space: X = U diag(s) Vᵀ, cut to its numerical rank or to a share of its variance.

    Attributes:
        basis: (n, r) float64 orthonormal U.
        coordinates: (r, p) diag(s) Vᵀ, what the features are in that basis; empty where no measure asks for it.
        constant: The layer had no spread; r is 0.
    """

    basis: Float[Tensor, "n r"]
    coordinates: Float[Tensor, "r p"]
    constant: bool

    @property
    def rank(self) -> int:
        return self.basis.shape[1]


@dataclass(frozen=True)
class CCA(Metric):
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
        One QR and one SVD per layer in float64, n p² + p³ for p <= n; per pair n r₁ r₂ and, but for "r2", the
        singular values of an r₁ × r₂ matrix. Memory: n r float64 per layer.
    """

    summary: Literal["mean", "r2", "pwcca"] = "mean"
    variance: float = 1.0

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0
    cost: ClassVar = "one float64 QR + SVD per layer; per pair n·r·r and an r × r SVD"

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
            return frozenset({"scale", "shift"})
        always: frozenset[Invariance] = frozenset({"orthogonal", "scale", "shift"})
        return frozenset({*always, "invertible"}) if self.variance == 1 else always

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Subspace]:
        states = []
        with progress_bar(len(layers), "bases", "layer") as bar:
            for x in layers:
                states.append(_subspace(x, self.variance, self.summary == "pwcca"))
                bar.update()
        return states

    def cross(self, rows: Sequence[Subspace], cols: Sequence[Subspace]) -> Cross:
        n = len(rows[0].basis)
        values = torch.full((len(rows), len(cols)), math.nan, dtype=torch.float64)
        every = torch.cat([c.basis for c in cols], 1)
        same = self.symmetric and rows is cols
        with progress_bar(len(rows) * len(cols), "canonical correlations", "pair") as bar:
            for i, row in enumerate(rows):
                blocks = (row.basis.T @ every).split([c.rank for c in cols], 1)
                for j, block in enumerate(blocks):
                    if not (row.constant or cols[j].constant):
                        values[i, j] = values[j, i] if same and j < i else self._summarise(block, row)
                bar.update(len(cols))
        details = {
            "rank_row": pairs(rows, cols, lambda a, b: a.rank),
            "rank_col": pairs(rows, cols, lambda a, b: b.rank),
            "chance_mean_rho2": pairs(rows, cols, lambda a, b: min(1.0, max(a.rank, b.rank) / (n - 1))),
        }
        cautions = []
        largest = max(s.rank for s in [*rows, *cols])
        if n < 10 * largest:
            cautions.append(
                f"n = {n} samples are fewer than 10 times the largest rank, {largest}: unrelated layers would reach a "
                f"mean ρ² of {min(1.0, largest / (n - 1)):.2f}. Use more samples, pooled features or debiased CKA"
            )
        return Cross(values, details, constant_reasons(rows, cols), tuple(cautions))

    def _summarise(self, block: Float[Tensor, "r q"], row: Subspace) -> Tensor:
        count = min(block.shape)
        if self.summary == "r2":
            return block.square().sum() / count
        if self.summary == "mean":
            return torch.linalg.svdvals(block).clamp_max(1).sum() / count
        left, rho, _ = torch.linalg.svd(block, full_matrices=False)
        weight = (left.T @ row.coordinates).abs().sum(1)
        return (weight * rho.clamp_max(1)).sum() / weight.sum()


def _subspace(x: Float[Tensor, "n p"], variance: float, coordinates: bool) -> Subspace:
    """Basis by QR and SVD in float64: a covariance would square the condition number."""
    n, p = x.shape
    centred = x.double()
    centred = centred / centred.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)  # squares overflow sooner
    level = torch.linalg.vector_norm(centred)
    centred = centred - centred[0]
    centred -= centred.mean(0)
    spread = centred.abs().amax()
    constant = bool(torch.linalg.vector_norm(centred) <= max(1e-12, torch.finfo(x.dtype).eps / 2) * level)
    empty = centred.new_zeros(0, 0)
    if constant:
        return Subspace(centred.new_zeros(n, 0), empty, True)
    centred /= spread
    if p <= n:
        q, r = torch.linalg.qr(centred)
        left, s, right = torch.linalg.svd(r, full_matrices=False)
        basis = q @ left
    else:
        _, r = torch.linalg.qr(centred.T, mode="r")
        basis, s, _ = torch.linalg.svd(r.T, full_matrices=False)
        right = None
    # Directions below the rounding of the features' own type, which is at the size of the features with their mean,
    # are noise of that type, not features.
    eps = torch.finfo(x.dtype).eps
    keep = int((s > torch.maximum(max(1e-10, eps) * s[0], eps * level / spread)).sum())
    if variance < 1:
        share = s.square().cumsum(0) / s.square().sum()
        keep = min(keep, int((share < variance).sum()) + 1)
    basis = basis[:, :keep].contiguous()
    if not coordinates:
        return Subspace(basis, empty, False)
    return Subspace(basis, basis.T @ centred if right is None else s[:keep, None] * right[:keep], False)


METRICS = {
    "mean_cca": CCA("mean"),
    "r2_cca": CCA("r2"),
    "svcca": CCA("mean", variance=0.99),
    "pwcca": CCA("pwcca"),
}
