"""Linear algebra that several families share: layers centred without cancellation, and what is made of their norms.

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

#: Bytes of one buffer of centred features while a mean is computed.
_BUFFER = 4 * 2**20

#: Bytes of the float64 rows of a layer that are multiplied at once where its Gram matrix is wanted in float64.
_ROWS = 64 * 2**20


#: What a layer without any spread has instead of a number.
CONSTANT = "constant features: every sample has the same row"


@dataclass(frozen=True, eq=False)
class CentredLayer:
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
    def undefined(self) -> str:
        """What the layer has instead of a number; empty where it has a spread."""
        return CONSTANT if self.constant else ""

    @property
    def norm(self) -> float:
        """The Frobenius norm of the centred features, in units."""
        return math.sqrt(float(self.squares.sum()))

    def rows(self, start: int, stop: int, out: Tensor) -> Float[Tensor, "b p"]:
        """Centred rows start..stop, in units, written to `out` (b, p) in the working dtype."""
        return self.finish(torch.sub(self.picked(start, stop), self.mean, out=out), start, stop)

    def picked(self, start: int, stop: int) -> Float[Tensor, "b p"]:
        """Rows start..stop as they came."""
        return self.x[start:stop] if self.order is None else self.x[self.order[start:stop]]

    def finish(self, centred: Float[Tensor, "b p"], start: int, stop: int) -> Float[Tensor, "b p"]:
        """Brings rows start..stop, less their mean, into units and removes components, in place."""
        if self.unit != 1:
            centred.mul_(1 / self.unit)
        if self.removed is not None:
            centred.addmm_(self.removed[0][start:stop], self.removed[1], alpha=-1)
        return centred

    def columns(self, which: slice) -> "CentredLayer":
        """Some of the features; row norms stay those of all."""
        removed = None if self.removed is None else (self.removed[0], self.removed[1][:, which])
        return replace(self, x=self.x[:, which], mean=self.mean[which], removed=removed)

    def blocks(self, size: int) -> Iterator[tuple[slice, Float[Tensor, "b p"]]]:
        """All centred rows in blocks of about `size` bytes, each in the same memory."""
        step = max(1, min(self.n, size // (self.width * self.mean.dtype.itemsize)))
        buffer = self.mean.new_empty(step, self.width)
        for start in range(0, self.n, step):
            stop = min(start + step, self.n)
            yield slice(start, stop), self.rows(start, stop, buffer[: stop - start])

    def reordered(self, order: Int[Tensor, " n"]) -> "CentredLayer":
        """The same layer with its rows in another order; nothing of its features is copied."""
        order = order.to(self.x.device)
        removed = None if self.removed is None else (self.removed[0][order], self.removed[1])
        rows = order if self.order is None else self.order[order]
        return replace(self, squares=self.squares[order], order=rows, removed=removed)


def centre(x: Float[Tensor, "n p"], dtype: torch.dtype) -> CentredLayer:
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
            # Not below what has a reciprocal: features of 1e-40 are divided by it in float32.
            unit = max(2.0 ** math.floor(math.log2(biggest)), torch.finfo(dtype).tiny)
            squares = squares_in(unit)
    spread = math.sqrt(float(squares.sum()))
    level = math.sqrt(n) * float(torch.linalg.vector_norm(mean.double() / unit))
    # Policy: rounding of a constant is not a spread. float64 allows 1e-12 of the norm, narrower types their own.
    rounding = max(1e-12, torch.finfo(x.dtype).eps / 2)
    constant = spread <= rounding * math.hypot(spread, level)
    if constant and spread > 0:  # one column far from zero must not hide the others' spread
        columns = torch.zeros(width, dtype=torch.float64, device=x.device)
        for start, stop in blocks:
            offset = torch.sub(x[start:stop], mean, out=buffer[: stop - start])
            columns += (offset if unit == 1 else offset.div_(unit)).double().square().sum(0)
        constant = not bool((columns.sqrt() > rounding * math.sqrt(n) * (mean.double() / unit).abs()).any())
    return CentredLayer(x, mean, unit, squares, constant)


def working_dtype(layers: Sequence[Tensor]) -> torch.dtype:
    """float64 where a layer has it; everything else is computed in float32 with float64 sums."""
    return torch.float64 if any(x.dtype == torch.float64 for x in layers) else torch.float32


def without_components(layer: CentredLayer, count: int) -> CentredLayer:
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


def to_unit_rows(layer: CentredLayer) -> float:
    """The factor that makes the mean squared norm of the centred rows 1; 0 for a constant layer."""
    return 0.0 if layer.constant else math.sqrt(layer.n) / layer.norm


def norms_of_rows(layers: Sequence[CentredLayer]) -> Float[Tensor, "l n"]:
    """Squared norms of the centred rows, scaled to mean 1; 0 for a constant layer."""
    return torch.stack([a.squares * to_unit_rows(a) ** 2 for a in layers])
