"""Ridge regressions on two layers: GULP and TD over white-noise tasks, two ways to compare the same smoothers."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import message
from repsim.metrics.base import Invariance, pairs
from repsim.metrics.spectral.base import NEAR, SpectralMetric
from repsim.numerics.spectrum import Spectrum


@dataclass(frozen=True)
class _RidgeMetric(SpectralMetric):
    """A comparison of the smoothers S = K (K + nλI)⁻¹ that ridge regression with penalty λ applies to any target."""

    penalty: float = 1e-2

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0
    cost: ClassVar = "one decomposition per layer; per pair n·r·r"

    def __post_init__(self) -> None:
        if not isinstance(self.penalty, int | float) or not 0 <= self.penalty < math.inf:
            advice = "It is relative to features of mean row norm² 1: from 1e-4 to 1 is usual, 0 leaves the spans alone"
            name = type(self).__name__
            raise ValueError(message(name, "penalty must be a finite number >= 0", repr(self.penalty), advice))

    @property
    def invariances(self) -> frozenset[Invariance]:
        always: frozenset[Invariance] = frozenset({"orthogonal", "scale", "shift"})
        return always if self.penalty else frozenset({*always, "invertible"})

    def pair(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> Tensor:
        return self.distance(products.square(), products, row, col)

    @abstractmethod
    def distance(
        self, squared: Float[Tensor, "r q"], products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum
    ) -> Tensor:
        """As `pair`, with the products squared, which serve every penalty."""

    def beside(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> tuple[Mapping[str, Tensor], list[str]]:
        freedom = {id(s): float(smoother(s, self.penalty).sum()) for s in [*rows, *cols]}
        details = {
            "freedom_row": pairs(rows, cols, lambda a, b: freedom[id(a)]),
            "freedom_col": pairs(rows, cols, lambda a, b: freedom[id(b)]),
        }
        # A ridge regression uses as many directions as it has degrees of freedom.
        n, most = rows[0].n, max(freedom.values())
        if n >= 10 * most:
            return details, []
        caution = (
            f"n = {n} samples are fewer than 10 times the most degrees of freedom, {most:.1f}: unrelated layers would "
            "look closer than they are; permutation_test tells how close. Use a larger penalty, more samples or pooled "
            "features"
        )
        return details, [caution]


@dataclass(frozen=True)
class GULP(_RidgeMetric):
    """How far apart the predictions of ridge regressions on the two layers lie, over all tasks at once.

    GULP_λ = ‖S₁ − S₂‖_F with S = K(K + nλI)⁻¹, K the centred Gram matrix of a layer at mean row norm² 1; its square
    is the expected squared gap, summed over the samples, of the two predictions of a white-noise target. It is a
    metric up to rotation, scale and shift, and √(r₁ + r₂ − 2Σρ²) at λ = 0. It grows with the ranks, so that a wide
    pair lies further apart than a narrow one that is no more alike.

    Args:
        penalty: λ for features of mean row norm² 1, >= 0.

    Source:
        Boix-Adserà, Lawrence, Stepaniants, Rigollet 2022, arXiv 2210.06545, section 2 (its code returns the square).

    Cost:
        One float64 decomposition per layer, n p² + p³ for p <= n; per pair n r₁ r₂. Memory: n r per layer.
    """

    @property
    def title(self) -> str:
        return f"GULP distance, λ = {self.penalty:g}"

    @property
    def meaning(self) -> str:
        return "how differently ridge regressions on the two layers predict random targets, root of the summed squares"

    @property
    def source(self) -> str:
        return "Boix-Adserà 2022, arXiv 2210.06545"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.inf

    def distance(
        self, squared: Float[Tensor, "r q"], products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum
    ) -> Tensor:
        a, b = smoother(row, self.penalty), smoother(col, self.penalty)
        total = a.square().sum() + b.square().sum()
        square = total - 2 * (a @ squared @ b)
        return _exactly(products, a, b, row, col) if square < NEAR[row.single] * total else square.sqrt()


@dataclass(frozen=True)
class WhiteTD(_RidgeMetric):
    """Transferred Discrepancy averaged over all tasks at once: white-noise targets, ridge heads, no labels.

    TD_λ = 2 − 2⟨S₁, S₂⟩_F / (‖S₁‖_F ‖S₂‖_F) with S = K(K + nλI)⁻¹, K the centred Gram matrix of a layer at mean row
    norm² 1: 0 for equal smoothers, 2 for unrelated ones. It joins CCA to CKA: 1 − TD_λ/2 tends to Σρ²/√(r₁r₂) as
    λ → 0 and to biased linear CKA as λ → ∞. In-sample: the rows that are fitted are the rows that are predicted.

    Args:
        penalty: λ for features of mean row norm² 1, >= 0.

    Source:
        The idea of TD: Feng, Zhai, He, Wang, Dong 2020, arXiv 2007.12446. This form is the project's own, docs/td.md.

    Cost:
        One float64 decomposition per layer, n p² + p³ for p <= n; per pair n r₁ r₂. Memory: n r per layer.
    """

    @property
    def title(self) -> str:
        return f"TD over white-noise tasks, λ = {self.penalty:g}"

    @property
    def meaning(self) -> str:
        return "how differently ridge regressions on the two layers predict random targets: 0 equally, 2 unrelatedly"

    @property
    def source(self) -> str:
        return "after Feng 2020, arXiv 2007.12446"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 2.0

    def distance(
        self, squared: Float[Tensor, "r q"], products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum
    ) -> Tensor:
        a, b = smoother(row, self.penalty), smoother(col, self.penalty)
        return 2 - 2 * (a @ squared @ b) / (a.square().sum() * b.square().sum()).sqrt()

    def beside(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> tuple[Mapping[str, Tensor], list[str]]:
        details, cautions = super().beside(rows, cols)
        n = rows[0].n
        share = {id(s): _share(s, self.penalty) for s in [*rows, *cols]}
        # Independent features: E⟨S₁, S₂⟩ = tr S₁ tr S₂ / (n − 1).
        chance = pairs(rows, cols, lambda a, b: max(0.0, 2 - 2 * share[id(a)] * share[id(b)] / (n - 1)))
        return {**details, "chance": chance}, cautions


def smoother(layer: Spectrum, penalty: float) -> Float[Tensor, " r"]:
    """Eigenvalues of the ridge smoother, s²/(s² + λ); 1 for λ = 0."""
    square = layer.singular.square()
    return square / (square + penalty)


def _share(layer: Spectrum, penalty: float) -> float:
    values = smoother(layer, penalty)
    return float(values.sum() / torch.linalg.vector_norm(values)) if layer.rank else 0.0


def _exactly(
    products: Float[Tensor, "r q"], a: Float[Tensor, " r"], b: Float[Tensor, " q"], row: Spectrum, col: Spectrum
) -> Tensor:
    """‖S₁ − S₂‖ itself, in the second layer's directions and what the first one has outside of them."""
    if row is col:
        return a.new_zeros(())
    outside = row.directions.double() - products @ col.directions.double()  # (r, n)
    gram = outside @ outside.T
    inside = products.T @ (a[:, None] * products) - b.diag()
    mixed = (a[:, None] * products).T @ gram @ (a[:, None] * products)
    beyond = (a[:, None] * gram) @ (a[:, None] * gram)
    return (inside.square().sum() + 2 * mixed.trace() + beyond.trace()).clamp_min(0).sqrt()


METRICS = {"gulp": GULP(), "td_white": WhiteTD()}
