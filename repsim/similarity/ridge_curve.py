"""The λ-curve: one family of measures from CCA through TD and GULP to CKA, and where a pair of layers moves in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from repsim._common.html import ShownAsTable
from repsim._common.messages import message
from repsim.features.activations import Activations
from repsim.features.side_checks import check_same_samples
from repsim.metrics import METRICS
from repsim.metrics.spectral.ridge_smoothers import GULP, WhiteTD
from repsim.networks.correspondence import matched_layers
from repsim.numerics.precision import full_precision
from repsim.numerics.spectrum import direction_products, spectra
from repsim.similarity.sides import placed

if TYPE_CHECKING:
    import pandas as pd

#: Penalties of a curve: from where only numerical rank matters to where only the largest variances do.
DEFAULT_PENALTIES = tuple(float(x) for x in np.logspace(-6, 2, 33))


@dataclass(frozen=True, eq=False)
class LambdaCurve(ShownAsTable):
    """TD over white-noise tasks and GULP of all pairs of layers, for all penalties.

    1 − td_white/2 tends to `r2_cca` as λ → 0 and to `cka` as λ → ∞: the left end counts every direction alike, the
    right end by its variance. Where the two ends differ, CCA and CKA disagree because directions of small variance
    are shared more, or less, than those of large variance; the curve shows at which scale.

    Attributes:
        penalties: (l,) λ, increasing, for features of mean row norm² 1.
        td_white: (l, r, c), in [0, 2]; NaN for constant layers.
        gulp: (l, r, c), >= 0; NaN for constant layers.
        r2_cca: (r, c) the limit λ → 0 of the cosine, Σρ²/√(r₁r₂). (The measure `r2_cca` divides by the smaller rank.)
        cka: (r, c) the limit λ → ∞, biased linear CKA.
        rows: Layer names of the first side.
        cols: Layer names of the second side.
        row_model: What the first side is called.
        col_model: What the second side is called.
        n: Samples.
    """

    penalties: Float[np.ndarray, " l"]
    td_white: Float[np.ndarray, "l r c"]
    gulp: Float[np.ndarray, "l r c"]
    r2_cca: Float[np.ndarray, "r c"]
    cka: Float[np.ndarray, "r c"]
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    row_model: str
    col_model: str
    n: int

    def __repr__(self) -> str:
        shape = f"{len(self.penalties)} penalties × {len(self.rows)} × {len(self.cols)} layers"
        return f"LambdaCurve({self.row_model} × {self.col_model}, {shape}, n = {self.n:,})"

    def matched(self) -> list[tuple[str, str]]:
        """(row layer, column layer) of layers that correspond."""
        return [(self.rows[i], self.cols[j]) for i, j in matched_layers(self.rows, self.cols)]

    def to_frame(self) -> "pd.DataFrame":
        """One row per pair of layers and penalty: td_white, gulp, and the pair's two limits."""
        import pandas as pd

        l, r, c = self.td_white.shape
        return pd.DataFrame(
            {
                "row_layer": np.tile(np.repeat(self.rows, c), l),
                "col_layer": np.tile(self.cols, l * r),
                "penalty": np.repeat(self.penalties, r * c),
                "td_white": self.td_white.ravel(),
                "gulp": self.gulp.ravel(),
                "r2_cca_limit": np.tile(self.r2_cca.ravel(), l),
                "cka_limit": np.tile(self.cka.ravel(), l),
                "n": self.n,
            }
        )


@full_precision()
def lambda_curve(
    a: Activations,
    b: Activations,
    penalties: Sequence[float] | None = None,
    *,
    device: str | torch.device | None = None,
) -> LambdaCurve:
    """TD over white-noise tasks and GULP of every pair of layers at every penalty, from one decomposition per layer.

    Args:
        a: First side, the rows.
        b: Second side, the columns; the same samples in the same order.
        penalties: λ > 0 for features of mean row norm² 1; None takes 33 from 1e-6 to 100.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        The curves and their limits.

    Raises:
        ValueError: Different samples, fewer than 3 of them, or penalties that are not positive.

    Source:
        The interpolation is derived and tested in this project; docs/td.md. GULP: arXiv 2210.06545.

    Cost:
        One decomposition per layer, one product per pair, then r₁ r₂ multiplications per pair and penalty.
    """
    chosen = np.array(sorted(DEFAULT_PENALTIES if penalties is None else penalties), dtype=np.float64)
    if not chosen.size or not (np.isfinite(chosen) & (chosen > 0)).all():
        advice = "The limits at 0 and infinity are part of the result; pass say np.logspace(-6, 2, 33)"
        got = f"{list(penalties or [])}"
        raise ValueError(message("lambda_curve", "penalties must be finite numbers > 0", got, advice))
    check_same_samples(a, b, "lambda_curve")
    if a.n < METRICS["td_white"].min_samples:
        must = f"at least {METRICS['td_white'].min_samples} samples are needed"
        raise ValueError(message("lambda_curve", must, f"{a.n}", "Extract on more samples"))
    a, b = placed((a, b), device)
    states = spectra([side[layer] for side in ([a] if a is b else [a, b]) for layer in side.layers])
    rows = states[: len(a)]
    cols = rows if a is b else states[len(a) :]
    shape = (len(rows), len(cols))
    white, gulp = (torch.full((len(chosen), *shape), torch.nan, dtype=torch.float64) for _ in range(2))
    cca, cka = (torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(2))
    metrics = [(WhiteTD(penalty=float(x)), GULP(penalty=float(x))) for x in chosen]
    for i, j, products in direction_products(rows, cols):
        row, col = rows[i], cols[j]
        squared = products.square()
        cells = [(i, j), (j, i)] if a is b else [(i, j)]
        p, q = row.singular.square(), col.singular.square()
        ends = squared.sum() / (row.rank * col.rank) ** 0.5, p @ squared @ q / (p.norm() * q.norm())
        for k, (td_metric, gulp_metric) in enumerate(metrics):
            td_value = td_metric.distance(squared, products, row, col)
            gulp_value = gulp_metric.distance(squared, products, row, col)
            for cell in cells:
                white[(k, *cell)], gulp[(k, *cell)] = td_value, gulp_value
        for cell in cells:
            cca[cell], cka[cell] = ends[0].clamp_max(1), ends[1].clamp_max(1)
    return LambdaCurve(
        chosen,
        white.clamp_min(0).numpy(),
        gulp.numpy(),
        cca.numpy(),
        cka.numpy(),
        a.layers,
        b.layers,
        a.name,
        b.name,
        a.n,
    )
