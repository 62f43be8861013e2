"""Sums over pairs of samples: kernels in tiles, their products for all pairs of layers, HSIC, resamples of that.

A kernel matrix of n samples is never held as a whole. Tiles of it are, of all layers at once, so that every pair
of layers meets while both are at hand: Σ K_ij L_ij of all layers is one matrix product per tile.
"""

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.numerics.centring import CentredLayer
from repsim.numerics.matmul import matmul_nt

#: Bytes of the tiles of all layers that are held at once.
_TILES = 256 * 2**20

#: Bytes of whole kernel matrices that are kept while their samples are permuted.
_WHOLE = 2**30

#: Entries of a float32 sum before float64 takes over.
_SHORT = 8192

#: Bytes of all layers' weighted row sums on the resamples that share one pass over the tiles.
_SUMS = 384 * 2**20

#: Bytes of the products of all pairs of layers that are weighted at once, and the most rows of a tile for it.
_BLOCK, _BLOCK_ROWS = 32 * 2**20, 128


class Kernel(ABC):
    """A similarity of pairs of samples, k(x_i, x_j), of one prepared layer.

    Attributes:
        layer: The centred features that it is a function of.
        undefined: Why it says nothing of the samples; empty where it does.
        source: The kernel of which this is one with its samples in another order; None for one as prepared.
        float32_limit: Share of ‖K‖² that centring must leave for float32 to be enough.
    """

    layer: CentredLayer
    undefined: str
    source: "Kernel | None"
    float32_limit: ClassVar[float]

    @property
    @abstractmethod
    def smallest_hsic(self) -> float:
        """Share of ‖K‖² below which what centring leaves is rounding."""

    @property
    @abstractmethod
    def diagonal(self) -> Float[Tensor, " n"]:
        """k(x_i, x_i) in float64; zeros where it is undefined."""

    @abstractmethod
    def from_gram(self, tile: Float[Tensor, "h w"], first: slice, second: slice) -> None:
        """Turns inner products of the centred rows `first` and `second` into the kernel, in place."""

    @abstractmethod
    def background(self, weights: Float[Tensor, " n"]) -> float:
        """The part of the kernel's weighted squared norm that is taken off before the products are formed."""

    @abstractmethod
    def permuted(self, order: Int[Tensor, " n"]) -> "Kernel":
        """The same kernel with its samples in another order."""

    @property
    def in_float64(self) -> "Kernel":
        """The same kernel prepared in float64."""
        if self.source is None or self.layer.order is None:
            return self._finer
        return self.source.in_float64.permuted(self.layer.order)

    @functools.cached_property
    def _finer(self) -> "Kernel":
        return self._in_float64()

    @abstractmethod
    def _in_float64(self) -> "Kernel":
        """`in_float64` of a kernel as prepared."""

    @functools.cached_property
    def matrix(self) -> Float[Tensor, "n n"]:
        """All of it, of a kernel as prepared, made once."""
        whole = self.layer.mean.new_empty(self.layer.n, self.layer.n)
        for first, second, (tile,) in kernel_tiles([self]):
            whole[first, second] = tile
            whole[second, first] = tile.T
        return whole


def kernel_tiles(kernels: Sequence[Kernel]) -> Iterator[tuple[slice, slice, Float[Tensor, "l h w"]]]:
    """The upper half of all kernels, none of them undefined, tile by tile, with zeros on the diagonal.

    Yields:
        Samples of the tile's rows and columns (the same, or the rows come before the columns, and then the tile
        stands for its mirror image too), and the tiles of all kernels, in memory that the next ones overwrite.

    Cost: n² Σp / 2 multiplications; memory: `_TILES` bytes and one tile's rows of the widest layer.
    """
    layers = [kernel.layer for kernel in kernels]
    n, device, dtype = layers[0].n, layers[0].x.device, layers[0].mean.dtype
    side = math.isqrt(_TILES // (len(layers) * dtype.itemsize))
    count = math.ceil(n / min(n, max(side, 1)))
    edges = [round(i * n / count) for i in range(count + 1)]
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    longest = max(span.stop - span.start for span in spans)
    tiles = torch.empty(len(layers), longest * longest, dtype=dtype, device=device)
    # Who permutes samples does it many times over, and each time it is the same matrix in another order.
    permuted = any(kernel.source for kernel in kernels) and len(kernels) * n * n * dtype.itemsize <= _WHOLE
    widest = 0 if permuted else max(a.width for a in layers)
    buffers = [torch.empty(longest * widest, dtype=dtype, device=device) for _ in range(min(count, 2))]
    for i, first in enumerate(spans):
        for second in spans[i:]:
            height, width = first.stop - first.start, second.stop - second.start
            held = tiles[:, : height * width].view(len(layers), height, width)
            for kernel, tile in zip(kernels, held, strict=True):
                if permuted:
                    _copy(kernel, first, second, tile)
                    continue
                _gram_tile(kernel.layer, first, second, buffers, tile)
                kernel.from_gram(tile, first, second)
                if first == second:
                    tile.fill_diagonal_(0)
            yield first, second, held


def _copy(kernel: Kernel, first: slice, second: slice, tile: Float[Tensor, "h w"]) -> None:
    """A tile of a kernel whose matrix is there already, or of that matrix in another order."""
    order = kernel.layer.order
    if kernel.source is None or order is None:
        tile.copy_(kernel.matrix[first, second])
    else:
        tile.copy_(kernel.source.matrix.index_select(0, order[first]).index_select(1, order[second]))


def _gram_tile(layer: CentredLayer, first: slice, second: slice, buffers: list[Tensor], tile: Tensor) -> None:
    """Inner products of centred rows. On the diagonal the lower blocks are copies of the upper ones."""

    def features(span: slice, buffer: Tensor) -> Tensor:
        height = span.stop - span.start
        return layer.rows(span.start, span.stop, out=buffer[: height * layer.width].view(height, layer.width))

    left = features(first, buffers[0])
    if first != second:
        tile.copy_(matmul_nt(left, features(second, buffers[1])))
        return
    size = math.ceil(len(left) / 4)
    for a in range(0, len(left), size):
        tile[a : a + size, a:] = matmul_nt(left[a : a + size], left[a:])
        tile[a + size :, a : a + size] = tile[a : a + size, a + size :].T


def pair_products(kernels: Sequence[Kernel], sums: Float[Tensor, "l n"] | None = None) -> Float[Tensor, "l l"]:
    """Σ_{i≠j} K_ij L_ij of every pair of kernels, in float64.

    Args:
        kernels: l kernels of the same samples.
        sums: Where given, Σ_{j≠i} K_ij of every kernel is added to it.
    """
    device = kernels[0].layer.x.device
    total = torch.zeros(len(kernels), len(kernels), dtype=torch.float64, device=device)
    for first, second, tiles in kernel_tiles(kernels):
        for part in tiles.flatten(1).split(_SHORT, 1):
            total += matmul_nt(part, part).double() * (1 if first == second else 2)
        if sums is not None:
            sums[:, first] += tiles.sum(2)
            if first != second:
                sums[:, second] += tiles.sum(1)
    return total


def resampled_products(
    kernels: Sequence[Kernel], r: int, weights: Float[Tensor, "b n"]
) -> Iterator[tuple[Float[Tensor, "g l l"], Float[Tensor, "l n g"]]]:
    """Σ_{i≠j} w_i w_j K_ij L_ij and Σ_{j≠i} w_j K_ij under many weightings of the samples.

    Args:
        kernels: l kernels; the first r are the rows and the others the columns. With r = l they are both.
        r: How many are rows.
        weights: One weighting per resample.

    Yields:
        For groups of resamples, in order: the products, as in `feature_products`, and the sums.

    Cost: the tiles once per group, and b n² / 2 multiplications for each pair of layers. Memory: `_TILES`, `_SUMS`
    and a few `_BLOCK` bytes.
    """
    n, dtype, device = kernels[0].layer.n, kernels[0].layer.mean.dtype, kernels[0].layer.x.device
    links = _links(len(kernels), r)
    left = torch.cat([torch.full((b.stop - b.start,), a) for a, b in links])
    right = torch.cat([torch.arange(b.start, b.stop) for _, b in links])
    for some in weights.split(max(1, _SUMS // (len(kernels) * n * dtype.itemsize))):
        w = some.to(device, dtype)
        found = torch.zeros(len(left), len(w), dtype=torch.float64, device=device)
        sums = torch.zeros(len(kernels), n, len(w), dtype=dtype, device=device)
        for first, second, tiles in kernel_tiles(kernels):
            for tile, total in zip(tiles, sums, strict=True):
                total[first] += tile @ w[:, second].T
                if first != second:
                    total[second] += tile.T @ w[:, first].T
            _add_weighted(found, tiles, links, w[:, first], w[:, second], first == second)
        products = torch.zeros(len(w), len(kernels), len(kernels), dtype=torch.float64, device=device)
        products[:, left, right] = found.T
        products[:, right, left] = found.T
        yield products, sums


def _links(count: int, r: int) -> list[tuple[int, slice]]:
    """Which kernels meet which: every row every column, and every kernel itself."""
    if r == count:
        return [(a, slice(a, count)) for a in range(count)]
    own = [(a, slice(a, a + 1)) for a in range(count)]
    return own + [(a, slice(r, count)) for a in range(r)]


def _add_weighted(
    found: Float[Tensor, "k b"],
    tiles: Float[Tensor, "l h w"],
    links: list[tuple[int, slice]],
    first: Float[Tensor, "b h"],
    second: Float[Tensor, "b w"],
    diagonal: bool,
) -> None:
    """Adds u_i v_j K_ij L_ij, summed over a tile and its mirror image, for each link and each pair of weightings.

    K ∘ L of all links is one matrix whose product with the columns' weights serves all resamples.
    """
    links_count, resamples = found.shape
    height, width = tiles.shape[1:]
    step = _BLOCK // (links_count * (width + resamples) * tiles.dtype.itemsize)
    step = max(1, min(step, _BLOCK_ROWS, height))
    buffer = tiles.new_empty(links_count * step * width)
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        # On the diagonal a block of columns mirrors the block of rows; of the others, only those beyond are taken.
        pieces = [(rows, 1), (slice(rows.stop, width), 2)] if diagonal else [(slice(0, width), 2)]
        for columns, times in pieces:
            shape = links_count, rows.stop - rows.start, columns.stop - columns.start
            if shape[2] == 0:
                continue
            block, at = buffer[: math.prod(shape)].view(shape), 0
            for a, partners in links:
                count = partners.stop - partners.start
                torch.mul(tiles[a, rows, columns], tiles[partners, rows, columns], out=block[at : at + count])
                at += count
            weighted = matmul_nt(block.view(-1, shape[2]), second[:, columns].contiguous())
            found += times * weighted.view(*shape[:2], resamples).mul_(first[:, rows].T).sum(1).double()
