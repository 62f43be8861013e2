"""What each sample adds to the products of centred kernels: a_i = Σ_j K̃_ij L̃_ij, for every pair of layers.

K̃_ij = K_ij - u_i - u_j is a layer's kernel with rows that add up to 0: over all samples (biased), or over the others,
with zeros on the diagonal (debiased; Székely and Rizzo call it U-centred).
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.numerics.centring import to_unit_rows
from repsim.numerics.kernels import Kernel, kernel_tiles
from repsim.numerics.matmul import matmul_nt

#: Bytes of one block of all layers' features: what is made of it stays in a CPU's caches.
_BLOCK = 2 * 2**20
#: Features of row layers that meet all columns' at once.
_TOGETHER = 512
#: Bytes of what the samples add, of all pairs of layers that share one pass over the tiles.
_SUMS = 512 * 2**20


def offsets(sums: Float[Tensor, "l n"], diagonal: Float[Tensor, "l n"], *, self_pairs: bool) -> Float[Tensor, "l n"]:
    """u of every kernel.

    Args:
        sums: Σ_{j≠i} K_ij.
        diagonal: K_ii.
        self_pairs: Samples pair with themselves (biased).
    """
    n = sums.shape[1]
    if self_pairs:
        sums = sums + diagonal
        return sums / n - sums.sum(1, keepdim=True) / (2 * n * n)
    return sums / (n - 2) - sums.sum(1, keepdim=True) / (2 * (n - 1) * (n - 2))


def by_features(
    rows: Sequence[Kernel], cols: Sequence[Kernel], *, self_pairs: bool
) -> Iterator[tuple[int, slice, slice, Float[Tensor, "h k"]]]:
    """a_i of linear kernels by way of their features, x_iᵀ (XᵀY) y_i, less what centring takes off.

    Args:
        rows: Linear kernels of centred features.
        cols: More of them, of the same samples; the same objects for a layer with itself, and then only the columns
            from the row on are met.
        self_pairs: The biased form, whose kernels are centred by their features.

    Yields:
        The row, the columns that it meets, samples, and a of them.

    Cost: 2 n (Σp)(Σq) multiplications; memory: (Σp)(Σq) numbers, and the features again.
    """
    same = len(rows) == len(cols) and all(a is b for a, b in zip(rows, cols, strict=True))
    parts = [unit_features(kernel) for kernel in cols]
    y, widths = torch.cat(parts, 1), [part.shape[1] for part in parts]
    starts = [0, *itertools.accumulate(widths)]
    n, c = len(y), len(cols)
    turned = y.T.contiguous()
    t = torch.stack([kernel.diagonal for kernel in cols])
    v = offsets(-t, t, self_pairs=False).T.contiguous()
    single = v.to(y.dtype)
    # t_i = (n - 2)(e - v_i), and as much for the rows.
    e = t.sum(1) / (2 * (n - 1) * (n - 2))
    slope = (n - 1) * (n - 2) * e - n * (n - 1) * v
    step = max(16, _BLOCK // (y.shape[1] * y.dtype.itemsize))
    for a, x, products in _met(rows, parts if same else None, turned, self_pairs):
        first = a if same else 0
        at = starts[first]
        products = products[at:].contiguous()
        s = rows[a].diagonal
        u = offsets(-s[None], s[None], self_pairs=False)[0]
        d = float(s.sum()) / (2 * (n - 1) * (n - 2))
        through = None if self_pairs else x[:, :-1].T @ single[:, first:]
        level = v[:, first:].T @ u - (n - 2) ** 2 * d * e[first:]
        for start in range(0, n, step):
            here = slice(start, min(start + step, n))
            met = matmul_nt(x[here], products).mul_(y[here, at:])
            found = _by_layer(met, widths[first:])
            if through is None:
                yield a, slice(first, c), here, found.double()
                continue
            # Less Σ_j K_ij v_j, and what is left of the diagonal and of all other corrections, since Σ_{j≠i} K_ij is
            # -K_ii for centred features: s (v - t) + u (t - n v) + Σ u v.
            full = found.addmm_(x[here, :-1], through, alpha=-1).double()
            full += torch.addcmul(level, u[here, None], slope[here, first:])
            yield a, slice(first, c), here, full.add_(v[here, first:], alpha=(n - 1) * (n - 2) * d)


def _met(
    rows: Sequence[Kernel], known: Sequence[Tensor] | None, turned: Float[Tensor, "q n"], self_pairs: bool
) -> Iterator[tuple[int, Float[Tensor, "n p"], Float[Tensor, "q p"]]]:
    """Each row layer's features and YᵀX, several layers at once; one more column takes off Σ_j L_ij u_j (debiased)."""
    done = 0
    while done < len(rows):
        group: list[Tensor] = []
        weights: list[Tensor] = []
        while done + len(group) < len(rows) and (not group or sum(len(w) for w in weights) < _TOGETHER):
            kernel = rows[done + len(group)]
            x = unit_features(kernel) if known is None else known[done + len(group)]
            if self_pairs:
                group.append(x)
                weights.append(x.T)
            else:
                s = kernel.diagonal[None]
                u = offsets(-s, s, self_pairs=False).to(x.dtype)
                group.append(torch.cat([x, x.new_ones(len(x), 1)], 1))
                weights.append(torch.cat([x.T, -u]))
        products = matmul_nt(turned, torch.cat(weights))
        for x, product in zip(group, products.split([len(w) for w in weights], 1), strict=True):
            yield done, x, product
            done += 1


def by_tiles(
    rows: Sequence[Kernel], cols: Sequence[Kernel], u: Float[Tensor, "l n"], *, self_pairs: bool
) -> Iterator[tuple[int, slice, slice, Float[Tensor, "n k"]]]:
    """a_i of any kernels, from tiles of all of them.

    Args:
        rows: Kernels.
        cols: More of them, of the same samples; the same objects for layers with themselves.
        u: `offsets` of the rows, and then of the columns unless they are the same.
        self_pairs: The biased form.

    Yields:
        The row, the columns that it meets, samples (all of them), and a of them.

    Cost: n² (Σp + Σq) / 2 multiplications for the tiles and n² for each pair of layers; memory: tiles and `_SUMS`.
    """
    same = len(rows) == len(cols) and all(a is b for a, b in zip(rows, cols, strict=True))
    n, r, c = rows[0].layer.n, len(rows), len(cols)
    at_once = max(1, _SUMS // (n * r * rows[0].layer.mean.dtype.itemsize))
    for first in range(0, c, at_once):
        some = slice(first, min(first + at_once, c))
        kernels = list(rows) if same else [*rows, *cols[some]]
        level = u if same else torch.cat([u[:r], u[r:][some]])
        total = kernels[0].layer.mean.new_zeros(n, r, some.stop - some.start)
        right = some if same else slice(r, None)
        for one, two, tiles in centred_tiles(kernels, level, self_pairs=self_pairs):
            total[one] += torch.bmm(tiles[:r].permute(1, 0, 2), tiles[right].permute(1, 2, 0))
            if one != two:
                total[two] += torch.bmm(tiles[:r].permute(2, 0, 1), tiles[right].permute(2, 1, 0))
        for a in range(r):
            yield a, some, slice(0, n), total[:, a].double()


def own_by_tiles(kernels: Sequence[Kernel], u: Float[Tensor, "l n"], *, self_pairs: bool) -> Float[Tensor, "l n"]:
    """Σ_j K̃_ij² of every kernel, from tiles of all of them."""
    total = torch.zeros_like(u)
    for one, two, tiles in centred_tiles(kernels, u, self_pairs=self_pairs):
        tiles.square_()
        total[:, one] += tiles.sum(2)
        if one != two:
            total[:, two] += tiles.sum(1)
    return total


def centred_tiles(
    kernels: Sequence[Kernel], u: Float[Tensor, "l n"], *, self_pairs: bool
) -> Iterator[tuple[slice, slice, Float[Tensor, "l h w"]]]:
    """K̃ of all kernels, as `kernel_tiles` gives K."""
    level = u.to(kernels[0].layer.mean.dtype)
    diagonal = torch.stack([kernel.diagonal for kernel in kernels]) - 2 * u
    for one, two, tiles in kernel_tiles(kernels):
        tiles.sub_(level[:, one, None]).sub_(level[:, None, two])
        if one == two:
            tiles.diagonal(dim1=1, dim2=2).copy_(diagonal[:, one] if self_pairs else torch.zeros_like(diagonal[:, one]))
        yield one, two, tiles


def unit_features(kernel: Kernel) -> Float[Tensor, "n p"]:
    """Centred features, scaled to mean row norm² 1."""
    layer = kernel.layer
    x = layer.mean.new_empty(layer.n, layer.width)
    return layer.rows(0, layer.n, out=x).mul_(to_unit_rows(layer))


def _by_layer(x: Float[Tensor, "h q"], widths: Sequence[int]) -> Float[Tensor, "h c"]:
    """Sums over each layer's columns; neighbours of one width together."""
    found, at = [], 0
    for width, run in itertools.groupby(widths):
        count = len(list(run))
        found.append(x[:, at : at + count * width].unflatten(1, (count, width)).sum(2))
        at += count * width
    return torch.cat(found, 1)
