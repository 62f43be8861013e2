"""Centred kernel alignment: do the two layers agree on which samples are alike?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from repsim._linalg import Centred, centre, gram_products, working_dtype
from repsim.metrics._base import Cross, Invariance, Metric, constant_reasons, pairs


@dataclass(frozen=True)
class CKA(Metric):
    """Linear centred kernel alignment, ⟨K, L⟩ / (‖K‖ ‖L‖) of the centred Gram matrices K = XXᵀ, L = YYᵀ.

    The biased form rises towards 1 for unrelated features as their width grows beyond the number of samples;
    the debiased form replaces each product by Song et al.'s unbiased estimate of HSIC, which is 0 on average
    for unrelated features and may dip below it. It corrects for few samples, not for few features.

    Args:
        debiased: Use the unbiased estimates (needs n >= 4). Otherwise Kornblith et al.'s form.

    Source:
        Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414; unbiased HSIC: Song, Smola, Gretton, Bedo,
        Borgwardt 2012 (JMLR 13), equation 5, in its feature-space form for centred X.

    Cost:
        All pairs of r and c layers: min(n (Σp)(Σq), n² (Σp + Σq) / 2) multiplications; memory beside the
        features: 256 MB of Gram tiles at most, and one tile's rows of the widest layer.
    """

    debiased: bool = True

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0
    cost: ClassVar = "one matrix product for all pairs: min(n·Σp·Σq, n²·(Σp+Σq)/2)"

    @property
    def title(self) -> str:
        return "CKA, debiased" if self.debiased else "CKA, biased"

    @property
    def meaning(self) -> str:
        return "1: the same samples are alike in both layers, weighted by variance; 0: as in unrelated layers"

    @property
    def source(self) -> str:
        return "Kornblith 2019, arXiv 1905.00414" + ("; Song 2012" if self.debiased else "")

    @property
    def bounds(self) -> tuple[float, float]:
        # U-centred Grams are vectors too, so Cauchy-Schwarz bounds the debiased form from both sides.
        return (-1.0, 1.0) if self.debiased else (0.0, 1.0)

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    @property
    def min_samples(self) -> int:
        return 4 if self.debiased else 3

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Centred]:
        dtype = working_dtype(layers)
        return [centre(x, dtype) for x in layers]

    def cross(self, rows: Sequence[Centred], cols: Sequence[Centred]) -> Cross:
        n = rows[0].n
        products = gram_products(rows, cols)
        a, b = _unit_squares(rows), _unit_squares(cols)
        shared = a @ b.T  # Σ_a K_aa L_aa
        if self.debiased:
            scale, level = 2 / (n - 2), n * n / ((n - 1) * (n - 2))
            cross = products.cross - scale * shared + level
            own_a = products.rows - scale * a.square().sum(1) + level
            own_b = products.cols - scale * b.square().sum(1) + level
            left = torch.cat([own_a / (products.rows + a.square().sum(1)), own_b / (products.cols + b.square().sum(1))])
            if rows[0].mean.dtype != torch.float64 and (n < 64 or bool((left < 0.05).any())):
                # What is left of ‖K‖² after debiasing is near float32's rounding: few samples, where float64 costs
                # nothing, very wide layers, or rows that are all equally far apart.
                exact = {id(x): centre(x.x, torch.float64) for x in [*rows, *cols]}
                return self.cross([exact[id(x)] for x in rows], [exact[id(x)] for x in cols])
        else:
            cross = products.cross + shared
            own_a = products.rows + a.square().sum(1)
            own_b = products.cols + b.square().sum(1)
        reasons = constant_reasons(rows, cols)
        # An estimate that is zero to rounding has no direction.
        hollow = (own_a <= 1e-10 * products.rows.add(n))[:, None] | (own_b <= 1e-10 * products.cols.add(n))[None, :]
        for i, j in hollow.nonzero().tolist():
            reasons.setdefault((i, j), "the unbiased estimate of a layer's own HSIC is not positive")
        values = cross / (own_a.clamp_min(0)[:, None] * own_b.clamp_min(0)[None, :]).sqrt()
        for cell in reasons:
            values[cell] = math.nan
        details = {
            "width_row": pairs(rows, cols, lambda x, y: x.width),
            "width_col": pairs(rows, cols, lambda x, y: y.width),
            "chance": pairs(rows, cols, lambda x, y: 0.0 if self.debiased else _chance(x.width, y.width, n)),
        }
        cautions = []
        if not self.debiased and (high := float(details["chance"].max())) > 0.1:
            cautions.append(
                f"biased CKA of unrelated Gaussian features of these widths reaches {high:.2f} at n = {n}: "
                "read values against `chance`, or use the debiased form"
            )
        return Cross(values, details, reasons, tuple(cautions))


def _unit_squares(layers: Sequence[Centred]) -> Tensor:
    """Squared norms of the centred rows, scaled to mean 1; (layers, n)."""
    return torch.stack(
        [a.squares / a.squares.mean() if not a.constant else torch.zeros_like(a.squares) for a in layers]
    )


def _chance(p: int, q: int, n: int) -> float:
    """Biased CKA of independent isotropic Gaussian features: Murphy, Zylberberg, Fyshe 2024."""
    return math.sqrt(p * q / ((n + p) * (n + q)))


METRICS = {"cka": CKA(), "cka_biased": CKA(debiased=False)}
