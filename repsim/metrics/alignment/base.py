"""What CKA is for any kernel: the ratio of HSICs, of all pairs of layers and of all resamples of their samples."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.metrics.alignment.streaming import NO_HSIC
from repsim.metrics.base import Invariance, Metric, PairwiseResult, undefined_cells, without_numbers
from repsim.numerics.hsic import has_hsic, hsic
from repsim.numerics.jackknife import alignment_errors
from repsim.numerics.kernels import Kernel, pair_products, resampled_products
from repsim.numerics.row_products import by_tiles, offsets, own_by_tiles

#: What samples add to the products of rows and columns, layer by layer, and (l, n) to each kernel's own.
Added = tuple[Iterable[tuple[int, slice, slice, Tensor]], Float[Tensor, "l n"]]
#: Standard errors on each side of a value that hold 95 % of a normal distribution.
Z95 = 1.959963984540054
#: Samples below which everything is computed in float64: it costs nothing, and estimates from few samples cancel most.
_FEW = 64


class KernelAlignment(Metric):
    """⟨K, L⟩ / (‖K‖ ‖L‖) of two layers' centred kernels; subclasses say which kernel."""

    debiased: bool

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        # Projected kernels are vectors too, so Cauchy-Schwarz bounds the debiased form from both sides.
        return (-1.0, 1.0) if self.debiased else (0.0, 1.0)

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    @property
    def min_samples(self) -> int:
        return 4 if self.debiased else 3

    def pairwise(self, rows: Sequence[Any], cols: Sequence[Any]) -> PairwiseResult:
        return self._described(rows, cols, self._aligned(rows, cols))

    def compared(self, rows: Sequence[Any], cols: Sequence[Any]) -> PairwiseResult:
        found = self._aligned(rows, cols)
        plain = self._described(rows, cols, found)
        return replace(plain, details={**plain.details, **self._beside(found)})

    def permuted(self, states: Sequence[Any], order: Int[Tensor, " n"]) -> list[Kernel] | None:
        return [state.permuted(order) for state in states]

    def bootstrapped(
        self, rows: Sequence[Any], cols: Sequence[Any], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        kernels, r = _joined(rows, cols)
        weights = counts.to(kernels[0].layer.x.device, torch.float64)
        sound = has_hsic(weights, self_pairs=not self.debiased)
        values = weights.new_full((len(weights), r, len(cols)), math.nan)
        live, live_r = _live(kernels, r)
        done = 0
        for products, sums in self._resampled([kernels[i] for i in live], live_r, weights) if live else ():
            for p, s in zip(products, sums.unbind(-1), strict=True):
                if sound[done]:
                    full = _among(live, len(kernels), p, s.double())
                    found = Ratio(kernels, r, *full, weights[done], self_pairs=not self.debiased)
                    if found.needs_float64:
                        finer = _sides([kernel.in_float64 for kernel in kernels], r)
                        return KernelAlignment.bootstrapped(self, *finer, counts)
                    values[done] = found.values
                done += 1
        return values

    @abstractmethod
    def _described(self, rows: Sequence[Any], cols: Sequence[Any], found: "Ratio") -> PairwiseResult:
        """The values with the details that cost nothing."""

    def _added(self, kernels: Sequence[Any], r: int, u: Float[Tensor, "l n"]) -> Added:
        """What each sample adds to ⟨K̃, L̃⟩ of every row with every column, and to ‖K̃‖² of every kernel.

        Args:
            kernels: None of them void.
            r: How many are rows; all of them where the columns are the rows again.
            u: `offsets` of each.
        """
        biased, cols = not self.debiased, kernels if r == len(kernels) else kernels[r:]
        return by_tiles(kernels[:r], cols, u, self_pairs=biased), own_by_tiles(kernels, u, self_pairs=biased)

    def _beside(self, found: "Ratio") -> dict[str, Float[Tensor, "r c"]]:
        """Intervals of 95 % by the infinitesimal jackknife, within the bounds."""
        kernels, r = found.kernels, found.r
        live, live_r = _live(kernels, r)
        se = torch.full_like(found.values, math.nan)
        if live:
            alive, same = [kernels[i] for i in live], r == len(kernels)
            diagonal = torch.stack([kernel.diagonal for kernel in alive])
            u = offsets(found.sums[live], diagonal, self_pairs=not self.debiased)
            added, own = self._added(alive, live_r, u)
            cols = slice(0, None) if same else slice(live_r, None)
            index = torch.tensor(live, device=se.device)
            where = index[:live_r, None], (index if same else index[live_r:] - r)[None]
            if len(where[1][0]) and live_r:
                given = found.values[where], added, own[:live_r], own[cols]
                se[where] = alignment_errors(*given, same=same)
        half, (low, high) = Z95 * se, self.bounds
        return {"ci_low": (found.values - half).clamp(low, high), "ci_high": (found.values + half).clamp(low, high)}

    def _resampled(
        self, kernels: Sequence[Any], r: int, weights: Float[Tensor, "b n"]
    ) -> Iterator[tuple[Float[Tensor, "g l l"], Float[Tensor, "l n g"]]]:
        """As `resampled_products`."""
        return resampled_products(kernels, r, weights)

    def _sums(self, kernels: Sequence[Any], r: int) -> tuple[Float[Tensor, "l l"], Float[Tensor, "l n"]]:
        """Σ_{i≠j} K_ij L_ij of all pairs that are asked for, as `feature_products`, and Σ_{j≠i} K_ij."""
        sums = torch.stack([torch.zeros_like(kernel.layer.squares) for kernel in kernels])
        return pair_products(kernels, sums), sums

    def _aligned(self, rows: Sequence[Any], cols: Sequence[Any]) -> "Ratio":
        kernels, r = _joined(rows, cols)
        live, live_r = _live(kernels, r)
        ones = torch.ones_like(kernels[0].layer.squares)
        products, sums = ones.new_zeros(0, 0), ones.new_zeros(0, len(ones))
        if live:
            products, sums = self._sums([kernels[i] for i in live], live_r)
        full = _among(live, len(kernels), products, sums)
        found = Ratio(kernels, r, *full, ones, self_pairs=not self.debiased)
        if found.needs_float64:
            return self._aligned(*_sides([kernel.in_float64 for kernel in kernels], r))
        return found


class Ratio:
    """The ratio of HSICs of all pairs of row and column kernels.

    Attributes:
        values: (r, c), NaN where there is no number.
        reasons: Of each NaN.
        kernels: Of the rows, and of the columns unless they are the same; in float64 where that was needed.
        r: How many are rows.
        sums: (l, n) Σ_{j≠i} K_ij.
        norms: (l,) what of each kernel's ‖K‖² is not centred away, and before.
        own: (l,) each kernel's HSIC with itself, as `hsic`.
        traces: (l,) of each kernel, centred with its diagonal.
        needs_float64: float32 was not enough.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        r: int,
        products: Float[Tensor, "l l"],
        sums: Float[Tensor, "l n"],
        weights: Float[Tensor, " n"],
        *,
        self_pairs: bool,
    ) -> None:
        self.kernels, self.r, self.sums = kernels, r, sums
        cols = slice(0, r) if r == len(kernels) else slice(r, None)
        diagonal = torch.stack([kernel.diagonal for kernel in kernels])
        found = hsic(products, sums, diagonal, weights, self_pairs=self_pairs)
        own = found.diagonal()
        self.own = own
        self.traces = diagonal.sum(1) - (sums + diagonal).sum(1) / len(weights)
        self.norms = products.diagonal() + own.new_tensor([kernel.background(weights) for kernel in kernels])
        vanishing = (own <= own.new_tensor([kernel.smallest_hsic for kernel in kernels]) * self.norms).tolist()
        undefined = own.new_tensor([bool(kernel.undefined) for kernel in kernels]).bool()
        single = kernels[0].layer.mean.dtype != torch.float64
        few = len(weights) < _FEW and not self_pairs
        left = own < kernels[0].float32_limit * self.norms
        self.needs_float64 = single and not bool(undefined.all()) and (few or bool((left & ~undefined).any()))
        norm = own.clamp_min(0).sqrt()
        values = found[:r, cols] / torch.outer(norm[:r], norm[cols])
        lacking = [k.undefined or NO_HSIC * low for k, low in zip(kernels, vanishing, strict=True)]
        self.reasons = undefined_cells(lacking[:r], lacking[cols])
        self.values = without_numbers(values, self.reasons)


def _joined(rows: Sequence[Kernel], cols: Sequence[Kernel]) -> tuple[list[Kernel], int]:
    """Rows and columns, and the number of rows; the rows alone where the columns are the same objects."""
    same = len(rows) == len(cols) and all(a is b for a, b in zip(rows, cols, strict=True))
    return (list(rows) if same else [*rows, *cols]), len(rows)


def _sides(kernels: Sequence[Kernel], r: int) -> tuple[Sequence[Kernel], Sequence[Kernel]]:
    return kernels[:r], kernels[r:] or kernels


def _live(kernels: Sequence[Kernel], r: int) -> tuple[list[int], int]:
    """Kernels that are defined, as others would change their rounding, and how many of them are rows."""
    live = [i for i, kernel in enumerate(kernels) if not kernel.undefined]
    rows = sum(i < r for i in live)
    return live, rows or len(live)


def _among(
    live: list[int], count: int, products: Float[Tensor, "k k"], sums: Float[Tensor, "k n"]
) -> tuple[Float[Tensor, "l l"], Float[Tensor, "l n"]]:
    """Products and sums of all kernels, 0 for those that are undefined."""
    if len(live) == count:
        return products, sums
    index = torch.tensor(live, dtype=torch.long, device=products.device)
    every = products.new_zeros(count, count)
    every[index[:, None], index] = products
    return every, sums.new_zeros(count, sums.shape[1]).index_copy_(0, index, sums)
