"""What two layers' neighbourhoods have in common: how many neighbours, and how alike these are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Entries of the table of samples by neighbours, and of gathered neighbours, that are worked on at once.
_TABLE = 2**22


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest neighbours of every sample in one layer.

    Attributes:
        n: Samples.
        index: (n, k) sample numbers, ascending in each row; (0, k) where there is no number.
        tied: Share of the samples whose k-th and (k + 1)-th neighbour are equally near.
        undefined: What the layer has instead of a number; empty where it has one.
        values: (n, k) kernel values at the neighbours, and
        returned: (n, k) whether the neighbour has the sample as its own neighbour: both for CKNNA alone.
    """

    n: int
    index: Int[Tensor, "n k"]
    tied: float
    undefined: str
    values: Float[Tensor, "n k"]
    returned: Bool[Tensor, "n k"]


def returned(index: Int[Tensor, "n k"]) -> Bool[Tensor, "n k"]:
    """Whether each neighbour has the sample as its own neighbour."""
    n = len(index)
    sample = torch.arange(n, device=index.device)[:, None]
    edges = (sample * n + index).flatten()  # ascending
    back = index * n + sample
    return edges[torch.searchsorted(edges, back).clamp_max(edges.numel() - 1)] == back


def overlap(
    rows: Sequence[Neighbours], cols: Sequence[Neighbours], weight: Float[Tensor, "b n"]
) -> Float[Tensor, "b r c"]:
    """Shared neighbours of every pair of layers, summed over the samples with weights; 0 where there are none."""
    device = rows[0].index.device
    weight = weight.to(device)
    total = weight.new_zeros(len(weight), len(rows), len(cols))
    live = [i for i, s in enumerate(rows) if not s.undefined]
    if not live:
        return total
    n, k = rows[live[0]].index.shape
    near = torch.cat([rows[i].index for i in live], 1)
    step = max(1, _TABLE // max(n, near.shape[1]))
    for start in range(0, n, step):
        span = slice(start, min(start + step, n))
        table = torch.zeros(span.stop - start, n, dtype=torch.bool, device=device)
        for j, col in enumerate(cols):
            if not col.undefined:
                table.scatter_(1, col.index[span], True)
                found = table.gather(1, near[span]).view(len(table), len(live), k).sum(2)
                total[:, live, j] += weight[:, span] @ found.double()
                table.scatter_(1, col.index[span], False)
    return total


def own_hsic(state: Neighbours, weight: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """The masked HSIC of a layer with itself; NaN where it is not positive beyond rounding."""
    found = masked_hsic(state, state, weight)
    return torch.where(found > 1e-10 * state.values.square().sum(), found, math.nan)


def masked_hsic(a: Neighbours, b: Neighbours, weight: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Unbiased HSIC of A = K∘M and B = L∘M, the mean of both orders, times n(n - 3), for weighted samples.

    Song et al. take from tr AB the share of additive matrices u_i + v_j, i ≠ j. With pair weights w_i w_j and W = Σw
    that share of B's row sums r is f_j = (r_j - P) / (W - 2 w_j), P = Σ w_j f_j; at w = 1 this is equation 5.
    """
    place = torch.searchsorted(b.index, a.index).clamp_max(a.index.shape[1] - 1)
    shared = b.index.gather(1, place) == a.index
    left, right = a.values * shared, b.values.gather(1, place) * shared
    both = left * right * (a.returned & b.returned.gather(1, place))  # A_ij B_ji
    found = []
    for w in weight.split(max(1, _TABLE // a.index.numel())):
        near = w[:, a.index]
        free = w.sum(1, keepdim=True) - 2 * w

        def additive(first: Tensor, second: Tensor, w: Tensor = w, near: Tensor = near, free: Tensor = free) -> Tensor:
            sums = (near * second).sum(2)
            level = (w * sums / free).sum(1) / (1 + (w / free).sum(1))
            part = w * (sums - level[:, None]) / free
            return 2 * (w * (part[:, a.index] * first).sum(2)).sum(1)

        value = (w * (near * both).sum(2)).sum(1) - (additive(left, right) + additive(right, left)) / 2
        # A sample that is half of all draws leaves nothing to centre with.
        found.append(torch.where((free > 0).all(1), value, math.nan))
    return torch.cat(found)
