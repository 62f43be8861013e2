"""Intervals for means over held-out rows. They cover the choice of rows only, not of networks or fits."""

import torch
from torch import Tensor

#: Standard normal quantile of two-sided 95 %.
Z = 1.959963984540054


def wilson(share: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Wilson's 95 % interval for a share of m independent rows: (low, high), each in [0, 1].

    For the mean of any scores in [0, 1] it is conservative: none of equal mean has a larger variance.

    Source:
        Wilson 1927, J. Am. Stat. Assoc. 22.
    """
    z2 = Z**2
    centre = (share + z2 / (2 * m)) / (1 + z2 / m)
    half = (z2 * (share * (1 - share) / m + z2 / (4 * m * m))).sqrt() / (1 + z2 / m)
    # At 0 and 1 the ends are exact; rounding must not push them past.
    return torch.where(share > 0, centre - half, 0.0), torch.where(share < 1, centre + half, 1.0)
