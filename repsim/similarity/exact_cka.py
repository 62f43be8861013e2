"""Exact CKA of features too large to keep: Gram tiles of all samples, networks run again for each block of them.

A block of samples is held for both networks, as large as memory allows; the samples after it are run through the
networks a few at a time, and meet it in one tile of every layer's Gram matrix. What is kept of a tile are its
products with the other layers' tiles, its row sums and its diagonal, and HSIC needs no more. Features are measured
from one point near their mean, so that what centring takes off these sums is small and float32 does.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.features.activations import Side
from repsim.metrics.alignment.cka import chance_cautions, chance_of
from repsim.metrics.alignment.streaming import NO_HSIC, SHARE, SHORT
from repsim.metrics.base import PairwiseResult, undefined_cells
from repsim.numerics.centring import CONSTANT, working_dtype
from repsim.numerics.hsic import hsic
from repsim.numerics.matmul import matmul_nt
from repsim.numerics.memory import Pool, available_memory
from repsim.numerics.precision import full_precision

#: Bytes of held blocks and tiles; half of what is free where that is less.
_BUDGET = 3 * 2**30

#: Samples that are run through the networks again at once.
_AGAIN = 256

#: The fewest and the most samples, evenly spread, whose mean is the point from which features are measured.
_SAMPLE = 16, 512


@full_precision()
def exact_cka(sides: Sequence[Side], debiased: bool, show: bool) -> PairwiseResult:
    """CKA of all pairs of layers of two sides, or of one with itself.

    Args:
        sides: One or two, of which any may be live.
        debiased: As for `CKA`.
        show: Show a bar when it takes more than two seconds.

    Cost:
        n² (Σp + Σq) operations, and n (n/b + 1) / 2 forward passes of each network with blocks of b samples; memory:
        3 GiB, of which the blocks take almost all. More memory makes larger blocks and fewer passes.
    """
    n, r = sides[0].n, len(sides[0])
    kinds = [dtype for side in sides for dtype in side.dtypes]
    dtype = torch.float64 if n < 64 else working_dtype([torch.empty(0, dtype=kind) for kind in kinds])
    while True:
        sums = _Tiles(sides, dtype).run(show)
        products = hsic(sums.products, sums.rows, sums.diagonal, torch.ones_like(sums.rows[0]), self_pairs=not debiased)
        own, norms = products.diagonal(), sums.products.diagonal() + sums.diagonal.square().sum(1)
        constant = sums.constant(kinds)
        left = (own / norms)[~constant]
        if dtype == torch.float64 or not debiased or not bool((left < 0.05).any()):
            break
        # What is left of ‖K‖² after debiasing is near float32's rounding: very wide layers of few samples.
        dtype = torch.float64
    cols = slice(0, r) if len(sides) == 1 else slice(r, None)
    lacking = [
        CONSTANT if a else NO_HSIC * b for a, b in zip(constant.tolist(), (own <= 1e-10 * norms).tolist(), strict=True)
    ]
    reasons = undefined_cells(lacking[:r], lacking[cols])
    values = products[:r, cols] / torch.outer(own[:r], own[cols]).sqrt()
    details, high = _details(sums, [p for side in sides for p in side.widths], r, cols, debiased)
    return PairwiseResult(values, details, reasons, tuple(chance_cautions(high, n)))


@dataclass(frozen=True)
class _Sums:
    """What is kept of the Gram matrices K of l layers, all measured in each layer's unit.

    Attributes:
        products: (l, l) Σ_{i≠j} K_ij L_ij.
        rows: (l, n) Σ_{j≠i} K_ij.
        diagonal: (l, n) K_ii.
        levels: (l,) n times the squared distance from zero of the points from which features are measured.
    """

    products: Float[Tensor, "l l"]
    rows: Float[Tensor, "l n"]
    diagonal: Float[Tensor, "l n"]
    levels: Float[Tensor, " l"]

    @property
    def traces(self) -> Float[Tensor, " l"]:
        """Sums of squared distances from the mean."""
        n, trace = self.rows.shape[1], self.diagonal.sum(1)
        return trace - (trace + self.rows.sum(1)) / n

    def constant(self, kinds: Sequence[torch.dtype]) -> Tensor:
        """Whether nothing but the rounding of the features' own type is left after centring."""
        rounding = torch.tensor([max(1e-12, torch.finfo(kind).eps / 2) for kind in kinds], dtype=torch.float64)
        return self.traces <= rounding.to(self.levels.device).square() * (self.traces + self.levels)


def _details(
    sums: _Sums, widths: Sequence[int], r: int, cols: slice, debiased: bool
) -> tuple[dict[str, Tensor], float]:
    """What stands beside the values, as for stored features, and the largest chance level."""
    n = sums.rows.shape[1]
    whole = hsic(sums.products, sums.rows, sums.diagonal, torch.ones_like(sums.rows[0]), self_pairs=True).diagonal()
    participation, wide = sums.traces.square() / whole, torch.tensor(widths, dtype=torch.float64)
    shape = r, len(widths[cols])
    details = {
        "width_row": wide[:r, None].expand(shape),
        "width_col": wide[cols].expand(shape),
        "chance": chance_of(participation[:r], participation[cols], n, debiased),
        "pr_row": participation[:r, None].expand(shape),
        "pr_col": participation[cols].expand(shape),
    }
    return details, float(details["chance"].nan_to_num(0).max())


class _Tiles:
    """One pass over all pairs of samples, in the given dtype."""

    def __init__(self, sides: Sequence[Side], dtype: torch.dtype) -> None:
        self._sides, self._dtype, self._n = sides, dtype, sides[0].n
        self._widths = [side.widths for side in sides]
        self._names = [f"layer {layer!r} of {side.name}" for side in sides for layer in side.layers]
        layers, total, widest = len(self._names), sum(map(sum, self._widths)), max(map(sum, self._widths))
        free = available_memory()
        budget = (_BUDGET if free is None else min(_BUDGET, free // 2)) // dtype.itemsize
        self._again = max(1, min(_AGAIN, self._n, budget // (4 * widest)))
        block = (budget - self._again * widest) // (total + self._again * layers)
        if block < 1:
            got = f"{total:,} features per sample"
            must = f"the layers of a few samples must fit into {budget * dtype.itemsize / 2**30:.1f} GiB"
            raise MemoryError(message("compare", must, got, "Choose fewer layers"))
        count = math.ceil(self._n / block)
        self._edges = [round(i * self._n / count) for i in range(count + 1)]
        longest = max(b - a for a, b in itertools.pairwise(self._edges))
        where = [side.device for side in sides]
        advice = "Choose fewer layers"
        self._held = [Pool(longest * sum(w), dtype, d, advice) for w, d in zip(self._widths, where, strict=True)]
        # Both networks are run again in the same memory in turn.
        self._pools = {d: Pool(self._again * widest, dtype, d, advice) for d in where} if count > 1 else {}
        self._room = torch.empty(layers * self._again * longest, dtype=dtype, device=where[0])
        self._products = torch.zeros(layers, layers, dtype=torch.float64, device=where[0])
        self._rows, self._diagonal = (self._products.new_zeros(layers, self._n) for _ in range(2))

    def run(self, show: bool) -> _Sums:
        points = [_points(side, self._dtype) for side in self._sides]
        spans = list(itertools.pairwise(self._edges))
        tiles = sum(math.ceil((b - a) / self._again) + math.ceil((self._n - b) / self._again) for a, b in spans)
        named = f"compare {self._sides[0].name} × {self._sides[-1].name}"
        with progress_bar(tiles, named, "tile", show=show) as bar:
            for start, stop in spans:
                blocks = []
                for side, w, pool, point in zip(self._sides, self._widths, self._held, points, strict=True):
                    blocks.append(pool.views(w, stop - start))
                    _fill(side, slice(start, stop), point, blocks[-1])
                held = [x for block in blocks for x in block]
                for first in range(start, stop, self._again):
                    last = min(first + self._again, stop)
                    tile, right = self._tile(last - first, stop - first), [x[first - start :] for x in held]
                    _multiply([x[: last - first] for x in right], right, tile)
                    self._add(tile, slice(first, last), slice(first, stop))
                    bar.update()
                for first in range(stop, self._n, self._again):
                    last = min(first + self._again, self._n)
                    tile, done = self._tile(last - first, stop - start), 0
                    for side, w, point, block in zip(self._sides, self._widths, points, blocks, strict=True):
                        rows = self._pools[side.device].views(w, last - first)
                        _fill(side, slice(first, last), point, rows)
                        _multiply(rows, block, tile[done : done + len(block)])
                        done += len(block)
                    self._add(tile, slice(first, last), slice(start, stop))
                    bar.update()
        levels = [self._n * p.origin.double().div(p.unit).square().sum() for part in points for p in part]
        return _Sums(self._products, self._rows, self._diagonal, torch.stack([x.to(self._rows) for x in levels]))

    def _tile(self, height: int, width: int) -> Float[Tensor, "l h w"]:
        layers = len(self._names)
        return self._room[: layers * height * width].view(layers, height, width)

    def _add(self, tile: Float[Tensor, "l h w"], rows: slice, cols: slice) -> None:
        """Adds a tile and its mirror image. Where it starts on the diagonal, its first square is its own image."""
        height = tile.shape[1]
        mirrored = tile
        if rows.start == cols.start:
            square = tile[:, :, :height]
            diagonal = square.diagonal(dim1=1, dim2=2)
            self._diagonal[:, rows] = diagonal
            for layer, sample in (~torch.isfinite(diagonal)).nonzero()[:1].tolist():
                raise _not_finite(self._names[layer], rows.start + sample)
            diagonal.zero_()
            self._rows[:, rows] += square.sum(2)
            mirrored, cols = tile[:, :, height:], slice(rows.stop, cols.stop)
        self._rows[:, rows] += mirrored.sum(2)
        self._rows[:, cols] += mirrored.sum(1)
        mirrored *= math.sqrt(2)
        for part in tile.flatten(1).split(SHORT, 1):
            self._products += matmul_nt(part, part)


@dataclass(frozen=True, eq=False)
class _Point:
    """The point from which a layer's features are measured, and the unit in which they are."""

    origin: Float[Tensor, " p"]
    unit: float


def _points(side: Side, dtype: torch.dtype) -> list[_Point]:
    """Means of a sample, measured from its first row, and powers of two near the spread where that is extreme."""
    fewest, most = _SAMPLE
    count = min(side.n, most, max(fewest, side.n // SHARE))
    some = torch.linspace(0, side.n - 1, count, dtype=torch.float64).round().long()
    first: dict[int, Tensor] = {}
    total: dict[int, Tensor] = {}
    squares = [0.0] * len(side)

    def write(layer: int, at: int, x: Tensor) -> None:
        if at == 0:
            first[layer], total[layer] = x[0].double(), torch.zeros_like(x[0], dtype=torch.float64)
        for row in (~torch.isfinite(x).all(1)).nonzero()[:1]:
            raise _not_finite(f"layer {side.layers[layer]!r} of {side.name}", int(some[at + row]))
        offset = x.double() - first[layer]
        total[layer] += offset.sum(0)
        squares[layer] += float(offset.square().sum())

    side.read(some, write)
    found = []
    for layer in range(len(side)):
        spread = math.sqrt(squares[layer] / len(some))
        extreme = spread > 0 and math.isfinite(spread) and not 1e-5 < spread < 1e5
        unit = 2.0 ** round(math.log2(spread)) if extreme else 1.0
        found.append(_Point((first[layer] + total[layer] / len(some)).to(dtype), unit))
    return found


def _multiply(left: Sequence[Tensor], right: Sequence[Tensor], out: Float[Tensor, "l h w"]) -> None:
    for x, y, tile in zip(left, right, out, strict=True):
        tile.copy_(matmul_nt(x, y))


def _fill(side: Side, rows: slice, points: Sequence[_Point], held: Sequence[Float[Tensor, "b _p"]]) -> None:
    def write(layer: int, at: int, x: Tensor) -> None:
        out = torch.sub(x, points[layer].origin, out=held[layer][at : at + len(x)])
        if points[layer].unit != 1:
            out.mul_(1 / points[layer].unit)

    side.read(rows, write)


def _not_finite(layer: str, sample: int) -> ValueError:
    advice = "Look for a diverged network, an overflow in float16, or broken inputs"
    return ValueError(message("compare", f"{layer}, sample {sample}, must be finite", "NaN or infinity", advice))
