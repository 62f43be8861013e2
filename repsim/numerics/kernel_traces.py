"""Sums over one linear kernel's entries that say how ⟨K̃, L̃⟩ is spread under permutations of the samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.numerics.kernels import Kernel
from repsim.numerics.matmul import matmul_nt
from repsim.numerics.permutation_moments import Traces
from repsim.numerics.row_products import centred_tiles, offsets, unit_features

#: Bytes of a whole kernel matrix that may be held for a layer that is wider than there are samples.
_WHOLE = 2**30
#: Cubes of p features are summed where p³ is no more than this many times n; else those of n² kernel entries.
_NARROW = 1000


def traces_cost(widths: Sequence[int], n: int) -> float:
    """Multiplications of `traces`; infinity where a whole kernel matrix would be too large."""
    if max(widths) > n and n * n * 8 > _WHOLE:
        return float("inf")
    entries = [n * p**3 / 3 if p**3 <= _NARROW * n else n * n * (0.6 * p + 100) for p in widths]
    return sum(entries) + sum(n * min(n, p) ** 2 for p in widths)


def traces(kernels: Sequence[Kernel], *, self_pairs: bool) -> Traces:
    """The traces of linear kernels of centred features.

    The biased form is given without its trace, K̃ - (tr K̃ / (n - 1)) H, which moves ⟨K̃, L̃⟩ by the same amount under
    every permutation, and keeps the moments of wide layers from cancelling.

    Args:
        kernels: None of them void.
        self_pairs: The biased form, whose samples pair with themselves.

    Cost: of each layer n p³ / 3 or n² p / 2 multiplications, and n p².
    """
    return Traces(*torch.stack([_traces(kernel, self_pairs) for kernel in kernels], 1))


@dataclass(frozen=True, eq=False)
class _LowRank:
    """K̃ = M - D of a linear kernel: M = F C Fᵀ of one or two columns more than there are features, D a diagonal.

    Attributes:
        f: (n, p) F.
        swapped: C exchanges the last two columns' places and signs; otherwise it is 1.
        d: (n,) diagonal of M.
        own: (n,) diagonal of K̃.
        u: (n,) what is taken off rows and columns.
    """

    f: Float[Tensor, "n p"]
    swapped: bool
    d: Float[Tensor, " n"]
    own: Float[Tensor, " n"]
    u: Float[Tensor, " n"]

    @classmethod
    def of(cls, kernel: Kernel, self_pairs: bool) -> "_LowRank":
        x, s = unit_features(kernel), kernel.diagonal
        n = len(s)
        if self_pairs:
            mean = s.sum() / (n - 1)
            f = torch.cat([x, (mean / n).sqrt().to(x.dtype).expand(n, 1)], 1)
            return cls(f, False, s + mean / n, s - mean + mean / n, (-mean / (2 * n)).expand(n))
        (u,) = offsets(-s[None], s[None], self_pairs=False)
        f = torch.cat([x, torch.stack([torch.ones_like(u), u], 1).to(x.dtype)], 1)
        return cls(f, True, s - 2 * u, torch.zeros_like(s), u)

    def turned(self, x: Tensor, axis: int) -> Tensor:
        """C along an axis."""
        if not self.swapped:
            return x
        head, tail = x.split([x.shape[axis] - 2, 2], axis)
        return torch.cat([head, -tail.flip(axis)], axis)

    def squares(self) -> tuple[Float[Tensor, " n"], Tensor]:
        """Σ_j K̃_ij² of every sample, and tr K̃³."""
        f = self.f.double()
        step = self.turned(f.T @ f, 0)
        squares = ((f @ self.turned(step, 1)) * f).sum(1)  # Σ_j M_ij²
        less = self.d - self.own
        third = torch.trace(step @ step @ step) - 3 * less @ squares + 3 * less**2 @ self.d - (less**3).sum()
        return squares - self.d**2 + self.own**2, third

    def mixed(self) -> Tensor:
        """Σ_ij K̃_ii K̃_ij K̃_jj."""
        through = self.own @ self.f.double()
        return through @ self.turned(through, 0) - self.own**2 @ (self.d - self.own)

    def cubes(self) -> Tensor:
        """Σ_ij K̃_ij³: that of M is ⟨T, T turned along all its axes⟩ with T = Σ_i f_i ⊗ f_i ⊗ f_i."""
        p, columns = self.f.shape[1], self.f.T.contiguous()
        whole = self.f.new_zeros(p, p, p, dtype=torch.float64)
        for a in range(p):
            part = matmul_nt(columns[a:] * columns[a], columns[a:]).double()
            whole[a, a:, a:] = part
            whole[a:, a, a:] = part
            whole[a:, a:, a] = part
        turned = self.turned(self.turned(self.turned(whole, 0), 1), 2)
        return (whole * turned).sum() - (self.d**3).sum() + (self.own**3).sum()


def _traces(kernel: Kernel, self_pairs: bool) -> Float[Tensor, " 8"]:
    low, n = _LowRank.of(kernel, self_pairs), kernel.layer.n
    own = low.own
    if kernel.layer.width > n:
        x = unit_features(kernel).double()
        k = x @ x.T - low.u[:, None] - low.u
        k.diagonal().copy_(own)
        square = k @ k
        squares, third, cubes = square.diagonal(), (square * k).sum(), (k**3).sum()
    else:
        squares, third = low.squares()
        cubes = low.cubes() if kernel.layer.width**3 <= _NARROW * n else _cubes_by_tiles(kernel, low)
    sums = [squares.sum(), third, own @ own, (own**3).sum(), cubes, own @ squares, low.mixed()]
    return torch.stack([torch.zeros_like(third), *sums])


def _cubes_by_tiles(kernel: Kernel, low: _LowRank) -> Tensor:
    total = (low.own**3).sum()
    for one, two, (tile,) in centred_tiles([kernel], low.u[None], self_pairs=False):
        total = total + (tile * tile).mul_(tile).sum(1).double().sum() * (1 if one == two else 2)
    return total
