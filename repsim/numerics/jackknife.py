"""The infinitesimal jackknife of an alignment of kernels: its standard error over the choice of samples."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def alignment_errors(
    values: Float[Tensor, "r c"],
    added: Iterable[tuple[int, slice, slice, Float[Tensor, "h k"]]],
    own_rows: Float[Tensor, "r n"],
    own_cols: Float[Tensor, "c n"],
    *,
    same: bool,
) -> Float[Tensor, "r c"]:
    """Standard errors of θ = A / √(BC), A = Σ a_i, B = Σ b_i, C = Σ c_i over samples i.

    What sample i moves θ by is ψ_i = 2 a_i / √(BC) - θ (b_i / B + c_i / C), to first order, and se² = Σ ψ_i². Under
    unrelated layers the debiased numerator has no first order, and se is up to √2 too large.

    Args:
        values: θ.
        added: a of one row and some columns for some samples, as `row_products` gives it.
        own_rows: b of every row layer.
        own_cols: c of every column layer.
        same: Both sides are the same, and only the columns from a row on are given.

    Source:
        Jaeckel 1972; Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6.
    """
    b, c = own_rows.sum(1), own_cols.sum(1)
    share_rows, share_cols = own_rows / b[:, None], (own_cols / c[:, None]).T.contiguous()
    scale = 2 / torch.sqrt(torch.outer(b, c))
    squared = torch.zeros_like(values)
    for a, some, here, found in added:
        psi = found * scale[a, some] - values[a, some] * (share_rows[a, here, None] + share_cols[here, some])
        squared[a, some] += psi.square_().sum(0)
    if same:
        upper = squared.triu()
        squared = upper + upper.triu(1).T
    return squared.sqrt()
