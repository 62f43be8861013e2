"""Linear algebra that several families share: centring without cancellation, products of all pairs, bases.

Three rules hold throughout. Features are centred before any product, because the differences that matter
drown in a large mean. Layers are brought to one scale, so that neither huge nor tiny features overflow. Long
float32 sums are kept short and added up in float64.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._gemm import matmul_nt

#: Bytes of one buffer of centred features while a mean or a product of narrow layers is computed.
_BUFFER = 4 * 2**20
#: Total width of the narrow layers whose products are computed together.
_GROUP = 768
#: Bytes of all layers' sample-by-sample products that are held at once.
_TILES = 256 * 2**20
#: Entries of a float32 sum before float64 takes over.
_SHORT = 62_500


@dataclass(frozen=True, eq=False)
class Centred:
    """A layer's column means and row norms. The centred features are made block by block where they are used.

    Attributes:
        x: (n, p) features as they came.
        mean: (p,) column means, in the working dtype.
        unit: A power of two that brings extreme features into the range of the working dtype; usually 1.
        squares: (n,) float64 squared norms of the centred rows, divided by unit².
        constant: Whether nothing but rounding is left after centring.
    """

    x: Float[Tensor, "n p"]
    mean: Float[Tensor, " p"]
    unit: float
    squares: Float[Tensor, " n"]
    constant: bool

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def width(self) -> int:
        return self.x.shape[1]

    @property
    def norm(self) -> float:
        """The Frobenius norm of the centred features, in units."""
        return math.sqrt(float(self.squares.sum()))

    def rows(self, start: int, stop: int, out: Tensor) -> Float[Tensor, "b p"]:
        """Centred rows start..stop, in units, written to `out` (b, p) in the working dtype."""
        torch.sub(self.x[start:stop], self.mean, out=out)
        return out if self.unit == 1 else out.mul_(1 / self.unit)


def centre(x: Float[Tensor, "n p"], dtype: torch.dtype) -> Centred:
    """Means and row norms of a layer. Cost: two passes over it; memory: one small buffer.

    Args:
        x: Finite features.
        dtype: The working dtype, float32 or float64.
    """
    n, width = x.shape
    step = max(1, min(n, _BUFFER // (width * dtype.itemsize)))
    buffer = torch.empty(step, width, dtype=dtype, device=x.device)
    blocks = [(i, min(i + step, n)) for i in range(0, n, step)]
    ones = torch.ones(1, step, dtype=dtype, device=x.device)
    # Measured from the first row, sums stay at the size of the spread however far from zero the features lie,
    # and a constant layer gives exact zeros.
    origin = x[0].to(dtype)
    total = torch.zeros(width, dtype=torch.float64, device=x.device)
    for start, stop in blocks:
        offset = torch.sub(x[start:stop], origin, out=buffer[: stop - start])
        total += (ones[:, : stop - start] @ offset)[0].double()
    mean = (origin.double() + total / n).to(dtype)
    if not bool(torch.isfinite(mean).all()):  # the sum of offsets overflowed
        mean = (x.double().mean(0)).to(dtype)

    def squares_in(unit: float) -> Tensor:
        parts = []
        for start, stop in blocks:
            offset = torch.sub(x[start:stop], mean, out=buffer[: stop - start])
            parts.append((offset if unit == 1 else offset.div_(unit)).square_().sum(1))
        return torch.cat(parts).double()

    unit, squares = 1.0, squares_in(1.0)
    mean_square = float(squares.mean()) / width
    if not 1e-24 < mean_square < 1e24:
        biggest = max(float((x[a:b].to(dtype) - mean).abs().amax()) for a, b in blocks)
        if biggest > 0:
            unit = 2.0 ** math.floor(math.log2(biggest))
            squares = squares_in(unit)
    spread = math.sqrt(float(squares.sum()))
    level = math.sqrt(n) * float(torch.linalg.vector_norm(mean.double() / unit))
    # Policy: rounding of a constant is not a spread. float64 allows 1e-12 of the norm, narrower types their own.
    rounding = max(1e-12, torch.finfo(x.dtype).eps / 2)
    return Centred(x, mean, unit, squares, spread <= rounding * math.hypot(spread, level))


def working_dtype(layers: Sequence[Tensor]) -> torch.dtype:
    """float64 where a layer has it; everything else is computed in float32 with float64 sums."""
    return torch.float64 if any(x.dtype == torch.float64 for x in layers) else torch.float32


@dataclass(frozen=True)
class GramProducts:
    """Inner products of centred Gram matrices K = XXᵀ, off the diagonal; each layer scaled to mean row norm² 1.

    Attributes:
        cross: (r, c) Σ_{a≠b} K_ab L_ab for each pair of layers.
        rows: (r,) the same of each row layer with itself.
        cols: (c,) the same of each column layer with itself.
    """

    cross: Float[Tensor, "r c"]
    rows: Float[Tensor, " r"]
    cols: Float[Tensor, " c"]


def gram_products(rows: Sequence[Centred], cols: Sequence[Centred]) -> GramProducts:
    """All pairs of inner products of Gram matrices, without ever holding the Grams of large samples.

    Two routes give the same numbers. Narrow layers: one matrix product of the concatenated features,
    n·(Σp)² operations. Wide layers: Grams in tiles over the samples, n²·Σp / 2. The cheaper one is taken.
    Layers that are constant are skipped; their entries are 0.

    Args:
        rows: r prepared layers.
        cols: c prepared layers; the same list (by identity of its members) is computed once.
    """
    same = len(rows) == len(cols) and all(a is b for a, b in zip(rows, cols, strict=True))
    layers = list(rows) if same else [*rows, *cols]
    n = layers[0].n
    wide_r, wide_c = sum(a.width for a in rows), sum(b.width for b in cols)
    feature_cost = n * (wide_r * wide_c / (2 if same else 1) + (0 if same else sum(a.width**2 for a in layers)))
    gram_cost = n * n * (0.6 * sum(a.width for a in layers) + len(rows) * len(cols))
    if feature_cost <= gram_cost:
        return _by_features(rows, cols, same)
    return _by_tiles(rows, cols, same)


def _by_features(rows: Sequence[Centred], cols: Sequence[Centred], same: bool) -> GramProducts:
    """‖XᵀY‖² for all pairs, less the diagonal's share Σ K_aa L_aa."""

    def products(left: Sequence[Centred], right: Sequence[Centred]) -> Tensor:
        norms = _block_norms(left, right)
        return norms - _norms_of_rows(left) @ _norms_of_rows(right).T

    if not same:
        own = [torch.stack([products([a], [a])[0, 0] for a in side]) for side in (rows, cols)]
        cross = torch.cat(
            [torch.cat([products(rg, cg) for cg in _groups(cols)], 1) for rg in _groups(rows)],
        )
        return GramProducts(cross, own[0], own[1])
    groups = _groups(rows)
    grid = [[products(a, b) if i <= j else None for j, b in enumerate(groups)] for i, a in enumerate(groups)]
    full = []
    for i in range(len(groups)):
        line = []
        for j in range(len(groups)):
            part, mirror = grid[i][j], grid[j][i]
            line.append(part if part is not None else mirror.T if mirror is not None else torch.empty(0))
        full.append(torch.cat(line, 1))
    cross = torch.cat(full)
    return GramProducts(cross, cross.diagonal(), cross.diagonal())


def _groups(layers: Sequence[Centred]) -> list[list[Centred]]:
    """Neighbours whose widths add up to about `_GROUP`."""
    groups: list[list[Centred]] = [[]]
    for layer in layers:
        if groups[-1] and sum(a.width for a in groups[-1]) + layer.width > _GROUP:
            groups.append([])
        groups[-1].append(layer)
    return groups


def _block_norms(left: Sequence[Centred], right: Sequence[Centred]) -> Float[Tensor, "l r"]:
    """‖XᵀY‖_F² of every pair of two groups of layers, each scaled to mean row norm² 1."""
    n, device = left[0].n, left[0].x.device
    dtype = torch.promote_types(left[0].mean.dtype, right[0].mean.dtype)
    wide_l, wide_r = sum(a.width for a in left), sum(b.width for b in right)
    step = max(1, min(n, _BUFFER // (max(wide_l, wide_r) * dtype.itemsize)))
    buffers = [torch.empty(step, w, dtype=dtype, device=device) for w in (wide_l, wide_r)]
    twin = all(a is b for a, b in zip(left, right, strict=False)) and len(left) == len(right)
    total = torch.zeros(wide_l, wide_r, dtype=torch.float64, device=device)
    for start in range(0, n, step):
        stop = min(start + step, n)
        filled = [_fill(buffers[0], left, start, stop)]
        filled.append(filled[0] if twin else _fill(buffers[1], right, start, stop))
        total += matmul_nt(filled[0].T, filled[1].T)
    sums = _segments(left, device) @ total.square_() @ _segments(right, device).T
    factors = [torch.tensor([_to_unit_rows(a) ** 2 for a in side], dtype=torch.float64) for side in (left, right)]
    return sums * torch.outer(*factors).to(device)


def _fill(buffer: Tensor, layers: Sequence[Centred], start: int, stop: int) -> Tensor:
    at = 0
    for layer in layers:
        out = buffer[: stop - start, at : at + layer.width]
        layer.rows(start, stop, out)
        at += layer.width
    return buffer[: stop - start]


def _segments(layers: Sequence[Centred], device: torch.device) -> Float[Tensor, "l w"]:
    """1 where a column of the concatenated features belongs to the layer."""
    owner = torch.repeat_interleave(torch.tensor([a.width for a in layers]))
    return torch.nn.functional.one_hot(owner, len(layers)).T.double().to(device)


def _to_unit_rows(layer: Centred) -> float:
    """The factor that makes the mean squared norm of the centred rows 1; 0 for a constant layer."""
    return 0.0 if layer.constant else math.sqrt(layer.n) / layer.norm


def _norms_of_rows(layers: Sequence[Centred]) -> Float[Tensor, "l n"]:
    return torch.stack([a.squares * _to_unit_rows(a) ** 2 for a in layers])


def _by_tiles(rows: Sequence[Centred], cols: Sequence[Centred], same: bool) -> GramProducts:
    """Σ_{a≠b} K_ab L_ab from tiles of the Grams; only the upper half is computed."""
    layers = list(rows) if same else [*rows, *cols]
    n, device, dtype = layers[0].n, layers[0].x.device, layers[0].mean.dtype
    side = math.isqrt(_TILES // (len(layers) * dtype.itemsize))
    count = math.ceil(n / min(n, side))
    edges = [round(i * n / count) for i in range(count + 1)]
    longest = max(b - a for a, b in itertools.pairwise(edges))
    tiles = torch.empty(len(layers), longest * longest, dtype=dtype, device=device)
    widest = max(a.width for a in layers)
    buffers = [torch.empty(longest * widest, dtype=dtype, device=device) for _ in range(min(count, 2))]
    total = torch.zeros(len(layers), len(layers), dtype=torch.float64, device=device)
    for i in range(count):
        for j in range(i, count):
            spans = (edges[i], edges[i + 1]), (edges[j], edges[j + 1])
            shape = tuple(b - a for a, b in spans)
            held = tiles[:, : shape[0] * shape[1]]
            for layer, tile in zip(layers, held, strict=True):
                _gram_tile(layer, spans, buffers, tile.view(shape))
            for part in held.split(_SHORT, 1):
                total += matmul_nt(part, part).double() * (1 if i == j else 2)
    r = len(rows)
    own = total.diagonal()
    return GramProducts(total, own, own) if same else GramProducts(total[:r, r:], own[:r], own[r:])


def _gram_tile(
    layer: Centred, spans: tuple[tuple[int, int], tuple[int, int]], buffers: list[Tensor], tile: Tensor
) -> None:
    """Fills a tile of the Gram. On the diagonal the lower blocks are left 0 and the upper ones stand for both."""
    first, second = spans
    factor = _to_unit_rows(layer) ** 2

    def features(span: tuple[int, int], buffer: Tensor) -> Tensor:
        height = span[1] - span[0]
        return layer.rows(*span, out=buffer[: height * layer.width].view(height, layer.width))

    left = features(first, buffers[0])
    if first != second:
        tile.copy_(matmul_nt(left, features(second, buffers[1]))).mul_(factor)
        return
    size = math.ceil(len(left) / 4)
    tile.zero_()
    for a in range(0, len(left), size):
        upper = left[a : a + size]
        tile[a : a + size, a:] = matmul_nt(upper, left[a:])
        tile[a : a + size, a + size :] *= math.sqrt(2)
    tile.mul_(factor).fill_diagonal_(0)
