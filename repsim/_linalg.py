"""Linear algebra that several families share: centring without cancellation, products of all features.

Three rules hold throughout. Features are centred before any product, because the differences that matter
drown in a large mean. Layers are brought to one scale, so that neither huge nor tiny features overflow. Long
float32 sums are kept short and added up in float64.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._gemm import matmul_nt

#: Bytes of one buffer of centred features while a mean or a product of narrow layers is computed.
_BUFFER = 4 * 2**20
#: Total width of the narrow layers whose products are computed together.
_GROUP = 768
#: Bytes of the float64 rows of a layer that are multiplied at once where its Gram matrix is wanted in float64.
_ROWS = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Centred:
    """A layer's column means and row norms. The centred features are made block by block where they are used.

    Attributes:
        x: (n, p) features as they came.
        mean: (p,) column means, in the working dtype.
        unit: A power of two that brings extreme features into the range of the working dtype; usually 1.
        squares: (n,) float64 squared norms of the centred rows, divided by unit².
        constant: Whether nothing but rounding is left after centring.
        order: (n,) the order in which rows are given; None for the order in which they came.
        removed: Orthonormal (n, k) U and (k, p) UᵀX of principal components that rows are given without.
    """

    x: Float[Tensor, "n p"]
    mean: Float[Tensor, " p"]
    unit: float
    squares: Float[Tensor, " n"]
    constant: bool
    order: Int[Tensor, " n"] | None = None
    removed: tuple[Float[Tensor, "n k"], Float[Tensor, "k p"]] | None = None

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
        torch.sub(self.x[start:stop] if self.order is None else self.x[self.order[start:stop]], self.mean, out=out)
        if self.unit != 1:
            out.mul_(1 / self.unit)
        return out if self.removed is None else out.addmm_(self.removed[0][start:stop], self.removed[1], alpha=-1)

    def blocks(self, size: int) -> Iterator[tuple[slice, Float[Tensor, "b p"]]]:
        """All centred rows in blocks of about `size` bytes, each in the same memory."""
        step = max(1, min(self.n, size // (self.width * self.mean.dtype.itemsize)))
        buffer = self.mean.new_empty(step, self.width)
        for start in range(0, self.n, step):
            stop = min(start + step, self.n)
            yield slice(start, stop), self.rows(start, stop, buffer[: stop - start])

    def reordered(self, order: Int[Tensor, " n"]) -> "Centred":
        """The same layer with its rows in another order; nothing of its features is copied."""
        order = order.to(self.x.device)
        removed = None if self.removed is None else (self.removed[0][order], self.removed[1])
        rows = order if self.order is None else self.order[order]
        return replace(self, squares=self.squares[order], order=rows, removed=removed)


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


def without_components(layer: Centred, count: int) -> Centred:
    """The layer less its leading principal components, X - U(UᵀX). Constant where nothing but rounding is left.

    The decomposition is made in float64, on the side of the samples or of the features, whichever is smaller.
    Cost: n p min(n, p) + min(n, p)³ in float64; memory: one min(n, p)² matrix and 128 MB.
    """
    if layer.constant:
        return layer
    if layer.width <= layer.n:
        covariance = layer.mean.new_zeros(layer.width, layer.width, dtype=torch.float64)
        for _, rows in layer.blocks(_ROWS):
            covariance += rows.double().T @ rows.double()
        values, vectors = torch.linalg.eigh(covariance)
        top = vectors[:, -count:]
        scores = torch.cat([rows.double() @ top for _, rows in layer.blocks(_ROWS)])
        # A component of no variance has no direction over the samples, and nothing to remove.
        lengths = torch.linalg.vector_norm(scores, dim=0)
        basis = scores[:, lengths > 1e-12 * values[-1].sqrt()]
        basis = torch.linalg.qr(basis)[0]
    else:
        gram = layer.mean.new_zeros(layer.n, layer.n, dtype=torch.float64)
        for first, rows in layer.blocks(_ROWS):
            left = rows.double()
            for second, others in layer.blocks(_ROWS):
                if second.start >= first.start:
                    gram[first, second] = left @ others.double().T
        basis = torch.linalg.eigh(gram, UPLO="U")[1][:, -count:]
    loads = layer.mean.new_zeros(basis.shape[1], layer.width, dtype=torch.float64)
    for span, rows in layer.blocks(_ROWS):
        loads += basis[span].T @ rows.double()
    less = replace(layer, removed=(basis.to(layer.mean.dtype), loads.to(layer.mean.dtype)))
    squares = torch.cat([rows.square().sum(1).double() for _, rows in less.blocks(_BUFFER)])
    # As the rank is cut elsewhere: below this share of the norm a direction is rounding of the features' own type.
    rounding = max(1e-10, 4 * torch.finfo(layer.x.dtype).eps)
    left = math.sqrt(float(squares.sum()))
    return replace(less, squares=squares, constant=left <= rounding * layer.norm)


def feature_products(rows: Sequence[Centred], cols: Sequence[Centred], same: bool) -> Float[Tensor, "l l"]:
    """Σ_{a≠b} K_ab L_ab = ‖XᵀY‖² - Σ_a K_aa L_aa of centred Gram matrices, each layer scaled to mean row norm² 1.

    Args:
        rows: r prepared layers.
        cols: c prepared layers.
        same: The columns are the rows again.

    Returns:
        (l, l) over the rows, followed by the columns unless they are the same: every row layer with every column
        layer, and every layer with itself. Other entries are 0, and so are those of constant layers.
    """

    def products(left: Sequence[Centred], right: Sequence[Centred]) -> Tensor:
        norms = _block_norms(left, right)
        return norms - norms_of_rows(left) @ norms_of_rows(right).T

    if not same:
        full = torch.diag(torch.stack([products([a], [a])[0, 0] for a in [*rows, *cols]]))
        full[: len(rows), len(rows) :] = torch.cat(
            [torch.cat([products(rg, cg) for cg in _groups(cols)], 1) for rg in _groups(rows)]
        )
        return full
    groups = _groups(rows)
    grid = [[products(a, b) if i <= j else None for j, b in enumerate(groups)] for i, a in enumerate(groups)]
    lines = []
    for i in range(len(groups)):
        line = []
        for j in range(len(groups)):
            part, mirror = grid[i][j], grid[j][i]
            line.append(part if part is not None else mirror.T if mirror is not None else torch.empty(0))
        lines.append(torch.cat(line, 1))
    return torch.cat(lines)


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
    factors = [torch.tensor([to_unit_rows(a) ** 2 for a in side], dtype=torch.float64) for side in (left, right)]
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


def to_unit_rows(layer: Centred) -> float:
    """The factor that makes the mean squared norm of the centred rows 1; 0 for a constant layer."""
    return 0.0 if layer.constant else math.sqrt(layer.n) / layer.norm


def norms_of_rows(layers: Sequence[Centred]) -> Float[Tensor, "l n"]:
    """Squared norms of the centred rows, scaled to mean 1; 0 for a constant layer."""
    return torch.stack([a.squares * to_unit_rows(a) ** 2 for a in layers])
