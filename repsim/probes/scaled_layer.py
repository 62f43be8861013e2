"""A layer as the probes' solver sees it: centred, on one scale, never wider than it has rows."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.numerics.centring import centre


@dataclass(frozen=True, eq=False)
class ScaledLayer:
    """A layer as the solver sees it: centred, scaled to mean row norm² 1, at most n wide, a column of ones last."""

    layer: Tensor
    x: Float[Tensor, "n d"]
    mean: Float[Tensor, " p"]
    scale: float
    rank: int  # columns of x that carry features
    constant: bool

    @classmethod
    def make(cls, layer: Tensor) -> "ScaledLayer":
        dtype = torch.float64 if layer.dtype == torch.float64 else torch.float32
        centred = centre(layer, dtype)
        n, width = layer.shape
        scale = 1.0 if centred.constant else centred.norm / n**0.5 * centred.unit
        rank = min(width, n)
        x = torch.zeros(n, padded(width, n), dtype=dtype, device=layer.device)
        if width <= n:
            centred.rows(0, n, out=x[:, :width]).mul_(centred.unit / scale)
        else:
            x[:, :n] = torch.linalg.qr(cls._scaled(centred, scale).T, mode="r").R.T
        if centred.constant:
            x.zero_()
        x[:, -1] = 1
        return cls(layer, x, centred.mean, scale, rank, centred.constant)

    @staticmethod
    def _scaled(centred, scale: float) -> Tensor:
        out = torch.empty(centred.x.shape, dtype=centred.mean.dtype, device=centred.x.device)
        return centred.rows(0, centred.n, out=out).mul_(centred.unit / scale)

    def head(self, w: Float[Tensor, "k d"]) -> tuple[Tensor, Tensor]:
        coefficients = w[:, : self.rank]
        if self.rank < self.layer.shape[1]:
            # The same factor as in `make`, now with the directions its rows stand for.
            scaled = self._scaled(centre(self.layer, self.mean.dtype), self.scale)
            coefficients = coefficients @ torch.linalg.qr(scaled.T, mode="reduced").Q.double().T
        coefficients = coefficients / self.scale
        return coefficients, w[:, -1] - coefficients @ self.mean.double()


def padded(width: int, n: int) -> int:
    """Columns of a layer in the solver: at most n features, the ones, and zeros up to a multiple of 16."""
    return (min(width, n) + 1 + 15) // 16 * 16
