"""Exact nearest neighbours: a fast product screens, float64 differences decide."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim.metrics.geometry.rows import Rows
from repsim.numerics.centring import working_dtype
from repsim.numerics.matmul import matmul_nt

#: What is near: a small Euclidean distance, or a large inner product with the row as it came or from the middle.
Nearness = Literal["distance", "inner", "centred"]

#: Bytes of one block of the sample-by-sample table in the working precision.
_TABLE = 32 * 2**20

#: Bytes of the float64 rows that are gathered at once for chosen pairs.
_GATHER = 32 * 2**20


def k_nearest(placed: Rows, k: int, nearness: Nearness) -> tuple[Int[Tensor, "n k"], float]:
    """The k nearest other rows of every row, as float64 arithmetic has them.

    One product in the working precision bounds every distance from both sides. Rows whose k nearest these bounds
    leave open, and only they, are decided by float64 differences. Squared distances that agree with the k-th to ten
    digits are ties, and so are inner products that agree to their rounding; the smaller row number wins.

    Returns:
        Row numbers, ascending in each row, and the share of rows that had ties for the k-th place.
    """
    n, dtype = placed.n, working_dtype([placed.x])
    keys = torch.cat([placed.rows(span).to(dtype) for span in placed.blocks()])
    lengths = torch.linalg.vector_norm(keys, dim=1)
    # Rounding of a sum of p products grows like √p; 8 covers the rounding of the rows, their norms and the rest.
    noise = (8 + math.sqrt(placed.width)) * torch.finfo(dtype).eps
    vanished = placed.width * torch.finfo(dtype).tiny
    index = torch.empty(n, k, dtype=torch.int64, device=keys.device)
    tied = 0
    step = max(1, min(n, _TABLE // (n * dtype.itemsize)))
    for start in range(0, n, step):
        stop = min(start + step, n)
        span, rows = slice(start, stop), torch.arange(start, stop, device=keys.device)
        queries = keys[span] if nearness != "inner" else (placed.rows(span) + placed.mean).to(dtype)
        score = matmul_nt(queries, keys)
        if nearness == "distance":
            squares = lengths[span].square()[:, None] + lengths.square()
            score = score.mul_(-2).add_(squares)
            doubt = squares.mul_(noise).add_(vanished)
        else:
            score = score.neg_()
            doubt = torch.linalg.vector_norm(queries, dim=1)[:, None] * lengths
            doubt = doubt.mul_(noise).add_(vanished)
        score[rows - start, rows] = math.inf
        reach = (score + doubt).topk(k, largest=False).values.amax(1, keepdim=True)
        candidate = score.sub_(doubt) <= reach
        open_ = candidate.sum(1) > k
        index[span][~open_] = candidate[~open_].nonzero()[:, 1].view(-1, k)
        if bool(open_.any()):
            index[rows[open_]], ties = _decided(placed, rows[open_], candidate[open_], k, nearness)
            tied += ties
    return index, tied / n


def products(placed: Rows, index: Int[Tensor, "n k"], *, centred: bool = True) -> Float[Tensor, "n k"]:
    """Inner products of every row with the rows that `index` names, in float64.

    Args:
        placed: The rows.
        index: Row numbers.
        centred: From the middle of all rows; otherwise rows must have length 1, and products are their cosines.
    """
    i = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
    if not centred:
        return 1 - placed.squared(i, index.flatten()).view(index.shape) / 2
    return -_scores(placed, i, index.flatten(), "centred")[0].view(index.shape)


def ranks_of_nearest(placed: Rows, index: Int[Tensor, "n k"]) -> tuple[Int[Tensor, "n k"], bool]:
    """The rank by distance of each row's neighbours, 1 for the nearest, and whether any were equally near.

    Squared distances that agree to ten digits are equal, and then the smaller row number comes first.

    Args:
        placed: The rows.
        index: (n, k) neighbours, ascending in each row.
    """
    i = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
    near, order = placed.squared(i, index.flatten()).view(index.shape).sort(dim=1, stable=True)
    apart = near[:, 1:] - near[:, :-1] > 1e-10 * near[:, 1:]
    group = torch.nn.functional.pad(apart.cumsum(1), (1, 0))
    # Those of one group by row number: `order` is the place in a list that ascends by row number.
    order = order.gather(1, (group * index.shape[1] + order).argsort(1))
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(1, index.shape[1] + 1, device=index.device).expand_as(order))
    return rank, not bool(apart.all())


def _decided(
    placed: Rows, rows: Int[Tensor, " b"], candidate: Bool[Tensor, "b n"], k: int, nearness: Nearness
) -> tuple[Int[Tensor, "b k"], int]:
    """The k nearest among the candidates of some rows, and how many of these rows had ties for the k-th place."""
    at, j = candidate.nonzero().unbind(1)
    score = torch.full(candidate.shape, math.inf, dtype=torch.float64, device=rows.device)
    slack = torch.zeros_like(score)
    score[at, j], slack[at, j] = _scores(placed, rows[at], j, nearness)
    last = score.topk(k, largest=False).values.amax(1, keepdim=True)
    before = score < last - slack
    level = (score - last).abs() <= slack
    room = k - before.sum(1, keepdim=True)
    chosen = before | (level & (level.cumsum(1) <= room))
    return chosen.nonzero()[:, 1].view(-1, k), int((level.sum(1, keepdim=True) > room).sum())


def _scores(
    placed: Rows, i: Int[Tensor, " m"], j: Int[Tensor, " m"], nearness: Nearness
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """What orders chosen pairs of rows, the smallest nearest, and how near to it a tie is.

    Squared distances, to ten digits; or inner products with the sign turned, to the rounding of the product of lengths.
    """
    if nearness == "distance":
        squared = placed.squared(i, j)
        return squared, 1e-10 * squared
    score, slack = placed.mean.new_empty(2, len(i))
    step = max(1, _GATHER // (8 * placed.width))
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        query, key = placed.rows(i[part]), placed.rows(j[part])
        query = query + placed.mean if nearness == "inner" else query
        score[part] = -(query * key).sum(1)
        slack[part] = torch.linalg.vector_norm(query, dim=1) * torch.linalg.vector_norm(key, dim=1)
    return score, slack.mul_((8 + math.sqrt(placed.width)) * torch.finfo(torch.float64).eps)
