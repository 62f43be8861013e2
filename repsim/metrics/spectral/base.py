"""What measures of two layers' spans share: one decomposition per layer, one product per pair."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.metrics.base import Metric, PairwiseResult, pairs, undefined_cells
from repsim.numerics.spectrum import Spectrum, direction_products, spectra

#: Share of its largest value below which a squared distance has lost its digits to cancellation and is computed
#: without it; by whether directions are float32.
NEAR = {False: 1e-6, True: 1e-3}


class SpectralMetric(Metric):
    """A measure that is a function of both layers' singular values and of the products of their directions."""

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Spectrum]:
        return spectra(layers)

    def pairwise(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> PairwiseResult:
        values = torch.full((len(rows), len(cols)), math.nan, dtype=torch.float64)
        for i, j, products in direction_products(rows, cols):
            if rows is cols and i != j:
                values[i, j], values[j, i] = self.both(products, rows[i], cols[j])
            else:
                values[i, j] = self.pair(products, rows[i], cols[j])
        details, cautions = self.beside(rows, cols)
        shared = {
            "rank_row": pairs(rows, cols, lambda a, b: a.rank),
            "rank_col": pairs(rows, cols, lambda a, b: b.rank),
        }
        return PairwiseResult(
            values,
            {**shared, **details},
            undefined_cells([a.undefined for a in rows], [b.undefined for b in cols]),
            tuple(cautions),
        )

    @abstractmethod
    def pair(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> Tensor:
        """The value of two layers.

        Args:
            products: Inner products of the row layer's directions with the column layer's.
            row: The row layer.
            col: The column layer.
        """

    def both(self, products: Float[Tensor, "r q"], row: Spectrum, col: Spectrum) -> tuple[Tensor, Tensor]:
        """The value of two layers, and that of the two in the other order."""
        value = self.pair(products, row, col)
        return value, value if self.symmetric else self.pair(products.T, col, row)

    @abstractmethod
    def beside(self, rows: Sequence[Spectrum], cols: Sequence[Spectrum]) -> tuple[Mapping[str, Tensor], list[str]]:
        """Details and cautions."""

    def permuted(self, states: Sequence[Spectrum], order: Int[Tensor, " n"]) -> list[Spectrum]:
        return [replace(s, directions=s.directions[:, order.to(s.directions.device)]) for s in states]


def singular_values(matrix: Float[Tensor, "r q"], single: bool) -> Float[Tensor, " k"]:
    """Of a float64 matrix; where its entries are float32 products, to the 1e-8 that squares allow: half the time."""
    if not single:
        return torch.linalg.svdvals(matrix)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()


def few_samples(rows: Sequence[Spectrum], cols: Sequence[Spectrum], reach: str | None) -> list[str]:
    """The caution that spans fill the samples: fewer than ten per direction.

    `reach` names what rises by chance, to the largest rank / (n − 1); None where there is no such formula.
    """
    n, largest = rows[0].n, max(s.rank for s in [*rows, *cols])
    if n >= 10 * largest:
        return []
    if reach is None:
        chance = "look closer than they are; permutation_test tells how close"
    else:
        chance = f"reach {reach} of {min(1.0, largest / (n - 1)):.2f}"
    return [
        f"n = {n} samples are fewer than 10 times the largest rank, {largest}: unrelated layers would {chance}. "
        "Use more samples, pooled features or debiased CKA"
    ]
