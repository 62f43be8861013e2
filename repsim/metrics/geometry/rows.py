"""Rows as points: what rank correlation of distances and nearest neighbours have in common."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.numerics.centring import centre, working_dtype

Direction = Literal["cosine", "correlation"]

#: Bytes of the float64 rows that are made at once.
_ROWS = 64 * 2**20

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Rows:
    """A layer's rows in float64, moved to the middle of all rows, made block by block where they are used.

    With a `direction` rows have length 1, those of "correlation" after their own mean over the features is taken away:
    half the squared Euclidean distance of two such rows is 1 - cos, or 1 - r. Measured so, from the middle, a distance
    keeps its digits however small the angles are.

    Attributes:
        x: (n, p) features as they came.
        direction: What of a row is kept; None keeps it all.
        scale: A power of two near the largest feature. Rows are divided by it.
        mean: (p,) float64, the mean of the rows before they are moved.
        undefined: What the layer has instead of distances; empty where it has them.
    """

    x: Float[Tensor, "n p"]
    direction: Direction | None
    scale: float
    mean: Float[Tensor, " p"]
    undefined: str

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def width(self) -> int:
        return self.x.shape[1]

    def rows(self, index: slice | Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """Rows in float64, from the middle of all rows."""
        return _placed(self.x[index], self.direction, self.scale)[0] - self.mean

    def squared(self, i: Int[Tensor, " m"], j: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Squared distances of chosen pairs of rows, from differences: as exact as the features.

        Cost: m p; memory: 128 MB. Rows of length 1 are rounded, and what differs by no more is at distance 0.
        """
        found = []
        for part in _blocks(len(i), self.width, _ROWS // 2):
            left, right = (_placed(self.x[rows[part]], self.direction, self.scale)[0] for rows in (i, j))
            found.append((left - right).square_().sum(1))
        squared = torch.cat([*found, self.mean.new_zeros(0)])
        return squared if self.direction is None else torch.where(squared > (8 * _EPS) ** 2, squared, 0)

    def blocks(self, limit: int = _ROWS) -> Iterator[slice]:
        """All rows in blocks whose rows take about `limit` bytes in float64."""
        return _blocks(self.n, self.width, limit)


def points(x: Float[Tensor, "n p"], direction: Direction | None) -> Rows:
    """A layer's rows as points. Cost: five passes over it; memory: 64 MB.

    Args:
        x: Finite features.
        direction: "cosine" or "correlation" for rows of length 1.
    """
    n, width = x.shape
    undefined = centre(x, working_dtype([x])).undefined
    low, high = (abs(float(end)) for end in torch.aminmax(x))
    scale = 2.0 ** math.floor(math.log2(max(low, high))) if max(low, high) > 0 else 1.0
    first = _placed(x[:1], direction, scale)[0][0]
    total, blank = torch.zeros_like(first), []
    for span in _blocks(n, width, _ROWS):
        rows, empty = _placed(x[span], direction, scale)
        total += (rows - first).sum(0)
        blank.append(empty)
    without = torch.cat(blank).nonzero()[:, 0].tolist() if direction else []
    if without and not undefined:
        kind = "all zero" if direction == "cosine" else "the same feature throughout"
        undefined = (
            f"{len(without)} of {n} samples without a direction ({kind}), first sample {without[0]}, so no {direction} "
            "distance; use distance='euclidean'"
        )
    return Rows(x, direction, scale, first + total / n, undefined)


def _blocks(n: int, width: int, limit: int) -> Iterator[slice]:
    step = max(1, limit // (8 * width))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _placed(x: Tensor, direction: Direction | None, scale: float) -> tuple[Tensor, Tensor]:
    """Rows in float64, scaled, of length 1 where only their direction counts; and which of them have none."""
    rows = x.double() / scale
    if direction is None:
        return rows, torch.zeros(0, dtype=torch.bool)
    peak = rows.abs().amax(1, keepdim=True)
    rows = rows / torch.where(peak > 0, peak, 1)  # squares of a small row would vanish
    level = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if direction == "correlation":
        rows = rows - rows[:, :1]  # exact to rounding of the differences, so that their mean is too
        rows = rows - rows.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # As for a constant layer: rounding of a constant is not a spread.
    empty = norm <= max(1e-12, torch.finfo(x.dtype).eps / 2) * level
    return rows / torch.where(empty, 1, norm), empty[:, 0]
