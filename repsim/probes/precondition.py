"""Approximate inverse Hessians of softmax regressions at zero weights: (XᵀX / (K n) + λ I)⁻¹, the intercept apart.

They only steer the solver; what it reports is certified without them. Narrow layers get the exact inverse by
Cholesky. For wide ones its d³ would be most of the work of a fit, and a randomised low-rank (Nyström)
approximation needs nearly as few steps: the spectra of network features fall steeply.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.numerics.matmul import matmul_nt
from repsim.probes.softmax import Inverse, Problems

#: Widths from here on are approximated at low rank, with this many directions.
_WIDE, _RANK = 1536, 256

#: The penalty counts as at least this, so that factors exist in float32.
_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class DenseInverse:
    """The exact inverse, (b, d, d)."""

    matrix: Float[Tensor, "b d d"]

    def __call__(self, gradient: Float[Tensor, "b c d"]) -> Float[Tensor, "b c d"]:
        return matmul_nt(gradient, self.matrix)

    def part(self, layers: Tensor) -> "DenseInverse":
        return DenseInverse(self.matrix[layers])


@dataclass(frozen=True, eq=False)
class LowRankInverse:
    """Uᵀ diag(scale) U + tail · I on the features, `classes` on the intercept."""

    directions: Float[Tensor, "b r d"]
    scale: Float[Tensor, "b 1 r"]
    tail: Float[Tensor, "b 1 1"]
    classes: int

    def __call__(self, gradient: Float[Tensor, "b c d"]) -> Float[Tensor, "b c d"]:
        along = matmul_nt(gradient, self.directions) * self.scale
        out = matmul_nt(along, self.directions.mT).addcmul_(gradient, self.tail)
        out[..., -1] = gradient[..., -1] * self.classes
        return out

    def part(self, layers: Tensor) -> "LowRankInverse":
        return LowRankInverse(self.directions[layers], self.scale[layers], self.tail[layers], self.classes)


def inverse_hessians(problems: Problems) -> dict[tuple[int, float], Inverse]:
    """(classes, penalty) -> the inverse that all problems with these share, for each layer."""
    pairs = {(int(k), float(v)) for k, v in zip(problems.classes, problems.level, strict=True)}
    if problems.x.shape[2] < _WIDE:
        return _dense(problems.x, pairs)
    return _low_rank(problems.x, pairs)


def _dense(x: Float[Tensor, "b n d"], pairs: set[tuple[int, float]]) -> dict[tuple[int, float], Inverse]:
    gram = matmul_nt(x.mT, x.mT) / x.shape[1]
    found: dict[tuple[int, float], Inverse] = {}
    for k, level in pairs:
        curvature = gram / k
        ridge = torch.full(curvature.shape[-1:], max(level, _FLOOR), dtype=x.dtype, device=x.device)
        ridge[-1] = 0  # the intercept is free, and its own curvature is 1 / k
        curvature.diagonal(dim1=1, dim2=2).add_(ridge)
        found[k, level] = DenseInverse(torch.cholesky_inverse(torch.linalg.cholesky(curvature)))
    return found


def _low_rank(x: Float[Tensor, "b n d"], pairs: set[tuple[int, float]]) -> dict[tuple[int, float], Inverse]:
    layers, n, d = x.shape
    # Its own seed: the same features give the same steps, and nobody's generator is touched.
    random = torch.randn(d - 1, _RANK, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    test = torch.zeros(d, _RANK, dtype=torch.float64)
    test[:-1] = torch.linalg.qr(random).Q  # the intercept's column is left to its own curvature
    test = test.to(x.device).expand(layers, -1, -1)
    answers = matmul_nt(test.mT.to(x.dtype).contiguous(), x)  # (b, r, n)
    image = matmul_nt(answers, x.mT).mT.double() / n  # (b, d, r), the Gram matrix times the test vectors
    image[:, -1] = 0
    shift = 1e-6 * torch.linalg.matrix_norm(image)[:, None, None]
    image += shift * test
    core = test.mT @ image
    factor = torch.linalg.cholesky((core + core.mT) / 2)
    half = torch.linalg.solve_triangular(factor, image.mT, upper=False)  # (b, r, d), Gram ≈ halfᵀ half
    values, vectors = torch.linalg.eigh(half @ half.mT)
    directions = (vectors.mT @ half) / values.clamp_min(1e-300).sqrt()[..., None]
    directions *= (values > 1e-12 * values[:, -1:])[..., None]
    values = (values - shift[..., 0]).clamp_min(0)
    found: dict[tuple[int, float], Inverse] = {}
    for k, level in pairs:
        penalty = max(level, _FLOOR)
        tail = 1 / (penalty + values[:, :1] / k)  # what is beyond the directions curves no more than the last of them
        scale = 1 / (values / k + penalty) - tail
        u, s, t = (v.to(x.dtype).contiguous() for v in (directions, scale[:, None], tail[:, None]))
        found[k, level] = LowRankInverse(u, s, t, k)
    return found
