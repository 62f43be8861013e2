"""Centred kernel alignment: do the two layers agree on which samples are alike?"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.checks import check_bool
from repsim._common.messages import message, some
from repsim.metrics.alignment.base import Added, KernelAlignment, Ratio
from repsim.metrics.base import PairwiseResult, pairs
from repsim.metrics.confounder import as_confounder, features_of, partial, without_confounder
from repsim.numerics.centring import (
    CentredLayer,
    centre,
    norms_of_rows,
    to_unit_rows,
    without_components,
    working_dtype,
)
from repsim.numerics.feature_products import feature_products
from repsim.numerics.kernel_traces import traces, traces_cost
from repsim.numerics.kernels import Kernel, pair_products, resampled_products
from repsim.numerics.permutation_moments import moments, upper_tail
from repsim.numerics.row_products import by_features, by_tiles, own_by_tiles

#: How much dearer than the values p-values may be, in multiplications, and how many are too few to save.
_DEAR, _ENOUGH = 4, 2e10


@dataclass(frozen=True, eq=False)
class LinearKernel(Kernel):
    """⟨x, y⟩ of centred features, scaled to mean row norm² 1.

    Attributes:
        layer: The centred features.
        undefined: Why the layer says nothing; empty where it does.
        kept: (n,) which of the samples are left, where some are not.
        samples: How many samples there were.
        confounder: What is taken off the layer's similarities, where something is.
        source: As in `Kernel`.
    """

    layer: CentredLayer
    undefined: str = ""
    kept: Int[Tensor, " n"] | None = None
    samples: int = 0
    confounder: "LinearKernel | None" = None
    source: Kernel | None = None

    # Song's correction of ‖K‖² is a difference. Less than a twentieth is left for very wide layers, and for rows
    # that are all equally far apart.
    float32_limit: ClassVar = 0.05

    @property
    def smallest_hsic(self) -> float:
        return 1e-10

    @property
    def diagonal(self) -> Float[Tensor, " n"]:
        return norms_of_rows([self.layer])[0]

    def from_gram(self, tile: Float[Tensor, "h w"], first: slice, second: slice) -> None:
        tile.mul_(to_unit_rows(self.layer) ** 2)

    def background(self, weights: Float[Tensor, " n"]) -> float:
        return float((weights * self.diagonal).square().sum())

    def permuted(self, order: Int[Tensor, " n"]) -> "LinearKernel":
        return replace(self, layer=self.layer.reordered(order), source=self.source or self)

    def _in_float64(self) -> "LinearKernel":
        layer = centre(self.layer.x, torch.float64)
        if self.layer.removed is not None:
            layer = without_components(layer, self.layer.removed[0].shape[1])
        return replace(self, layer=layer)


@dataclass(frozen=True)
class CKA(KernelAlignment):
    """Linear centred kernel alignment, ⟨K, L⟩ / (‖K‖ ‖L‖) of the centred Gram matrices K = XXᵀ, L = YYᵀ.

    The biased form rises towards 1 for unrelated features as their width grows beyond the number of samples;
    the debiased form replaces each product by Song et al.'s unbiased estimate of HSIC, which is 0 on average
    for unrelated features and may dip below it. It corrects for few samples, not for few features.

    A few directions or a few samples can carry most of a layer's variance, and then they alone make the value:
    `without_components` and `without_rows` ask what remains without them.

    Args:
        debiased: Use the unbiased estimates (needs n >= 4). Otherwise Kornblith et al.'s form.
        without_components: How many leading principal components are removed from each layer.
        without_rows: Share of the samples, in [0, 1), rounded down, left out of the whole comparison: those with the
            largest share of a layer's squared norm, on average over all layers of both sides.
        deconfounded: Features of the same samples, such as the inputs, or a `Confounder`: the part of both Gram
            matrices that is proportional to theirs is regressed out first, which leaves the partial correlation
            (a − b c) / √((1 − b²)(1 − c²)) of the three CKAs. What of them a layer holds in another form stays, and so
            does the bias of few samples.

    Source:
        Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414; unbiased HSIC: Song, Smola, Gretton, Bedo,
        Borgwardt 2012 (JMLR 13), equation 5. What one component or a few samples do to CKA, and comparing without
        them: Nguyen, Raghu, Kornblith 2022; Davari, Horoi, Natik, Lajoie, Wolf, Belilovsky 2022.
        Deconfounded: Cui, Kumar, Marttinen, Kaski 2022, arXiv 2202.00095; its step to positive eigenvalues left out.

    Cost:
        All pairs of r and c layers: min(n (Σp)(Σq), n² (Σp + Σq) / 2) multiplications; memory beside the
        features: 256 MB of Gram tiles at most, and one tile's rows of the widest layer. Without components: one
        float64 eigendecomposition per layer, min(n, p)³ + n p min(n, p). Without rows: a copy of the features.
        Resamples share the tiles: b n² / 2 multiplications for each pair of layers. Permutations share whole Gram
        matrices where all of them fit in 1 GB.
    """

    debiased: bool = True
    without_components: int = 0
    without_rows: float = 0.0
    deconfounded: Any = None

    cost: ClassVar = "one matrix product for all pairs: min(n·Σp·Σq, n²·(Σp+Σq)/2)"

    def __post_init__(self) -> None:
        check_bool("CKA", "debiased", self.debiased)
        count, share = self.without_components, self.without_rows
        if isinstance(count, bool) or not isinstance(count, int):
            advice = "Pass how many components to remove"
            raise TypeError(message("CKA", "without_components must be an integer", repr(count), advice))
        if count < 0:
            advice = "Pass how many components to remove"
            raise ValueError(message("CKA", "without_components must be 0 or more", repr(count), advice))
        if isinstance(share, bool) or not isinstance(share, int | float):
            advice = "Pass a share of the samples, as in 0.01"
            raise TypeError(message("CKA", "without_rows must be a number", repr(share), advice))
        if not 0 <= share < 1:
            advice = "Pass a share of the samples, as in 0.01"
            raise ValueError(message("CKA", "without_rows must be in [0, 1)", repr(share), advice))
        object.__setattr__(self, "deconfounded", as_confounder("CKA", self.deconfounded))

    @property
    def title(self) -> str:
        form = "CKA, debiased" if self.debiased else "CKA, biased"
        count = self.without_components
        removed = f", without {count} component{'s' if count > 1 else ''}" if count else ""
        removed += f", without {100 * self.without_rows:g} % of rows" if self.without_rows else ""
        return form + removed + (f", less {self.deconfounded}" if self.deconfounded else "")

    @property
    def bounds(self) -> tuple[float, float]:
        return (-1.0, 1.0) if self.deconfounded else super().bounds

    @property
    def meaning(self) -> str:
        return "1: the same samples are alike in both layers, weighted by variance; 0: as in unrelated layers"

    @property
    def source(self) -> str:
        less = "; Nguyen 2022, Davari 2022" if self.without_components or self.without_rows else ""
        less += "; Cui 2022, arXiv 2202.00095" if self.deconfounded else ""
        return "Kornblith 2019, arXiv 1905.00414" + ("; Song 2012" if self.debiased else "") + less

    @property
    def min_samples(self) -> int:
        least = super().min_samples
        # n less the share of n first reaches `least` at about (least - 1) / (1 - share).
        n = max(least, math.floor((least - 1) / (1 - self.without_rows)) - 1)
        return next(n for n in itertools.count(n) if n - self._left_out(n) >= least)

    def _left_out(self, n: int) -> int:
        return math.floor(self.without_rows * n * (1 + 1e-12))  # 0.29 · 100 is 28.999999999999996

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[LinearKernel]:
        dtype, n = working_dtype(layers), len(layers[0])
        other = None
        if self.deconfounded is not None:
            # What is left of a layer that is much like the confounder is a small difference.
            dtype, other = torch.float64, features_of("CKA", self.deconfounded, n, layers[0])
        centred, kept = [centre(x, dtype) for x in layers], None
        if out := self._left_out(n):
            order = norms_of_rows(centred).mean(0).argsort(descending=True, stable=True)
            kept = order[out:].sort().values
            centred = [centre(x[kept], dtype) for x in layers]
        if other is not None:
            layer = centre(other if kept is None else other[kept], dtype)
            other = LinearKernel(layer, layer.undefined, kept, n)
        kernels = []
        for layer in centred:
            undefined = layer.undefined
            if self.without_components and not undefined:
                layer = without_components(layer, self.without_components)
                if layer.constant:
                    undefined = f"a rank of {self.without_components} or less: all of its components are removed"
            kernels.append(LinearKernel(layer, undefined, kept, n, other))
        return kernels

    def pairwise(self, rows: Sequence[Any], cols: Sequence[Any]) -> PairwiseResult:
        z = rows[0].confounder
        return super().pairwise(rows, cols) if z is None else without_confounder(super().pairwise, rows, cols, z)

    def compared(self, rows: Sequence[Any], cols: Sequence[Any]) -> PairwiseResult:
        # What is known of intervals and p-values holds for the measure that nothing is taken off from.
        return super().compared(rows, cols) if rows[0].confounder is None else self.pairwise(rows, cols)

    def _described(self, rows: Sequence[Any], cols: Sequence[Any], found: Ratio) -> PairwiseResult:
        n, r = rows[0].layer.n, len(rows)
        # (Σλ)² / Σλ² of the eigenvalues of XᵀX; kernels are scaled so that Σλ = n.
        ratio = n * n / found.norms
        participation = ratio.tolist()
        details = {
            "width_row": pairs(rows, cols, lambda x, y: x.layer.width),
            "width_col": pairs(rows, cols, lambda x, y: y.layer.width),
            "chance": chance_of(ratio[:r], ratio[slice(r) if r == len(ratio) else slice(r, None)], n, self.debiased),
            "pr_row": found.values.new_tensor(participation[:r])[:, None].expand(found.values.shape),
            "pr_col": found.values.new_tensor(participation[-len(cols) :])[None, :].expand(found.values.shape),
        }
        cautions = chance_cautions(float(details["chance"].nan_to_num(0).max()), n)
        if rows[0].kept is not None:
            cautions.append(_without(rows[0].kept, rows[0].samples))
        return PairwiseResult(found.values, details, found.reasons, tuple(cautions))

    def permuted(self, states: Sequence[Any], order: Int[Tensor, " n"]) -> list[Kernel] | None:
        """None without rows: which ones are left out is decided by both sides together, row by row."""
        return None if states[0].kept is not None else super().permuted(states, order)

    def bootstrapped(
        self, rows: Sequence[Any], cols: Sequence[Any], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        """Components and rows stay those of the full sample; rows that are left out are no part of any resample."""
        kept, z = rows[0].kept, rows[0].confounder
        drawn = counts if kept is None else counts[:, kept.to(counts.device)]
        found = super().bootstrapped(rows, cols, drawn)
        if z is None:
            return found
        return partial(found, super().bootstrapped(rows, [z], drawn), super().bootstrapped([z], cols, drawn))

    def _sums(self, kernels: Sequence[Any], r: int) -> tuple[Tensor, Tensor]:
        features, tiles = _costs(kernels, r, 0)
        products = feature_products(*_layers(kernels, r)) if features <= tiles else pair_products(kernels)
        return products, norms_of_rows([k.layer for k in kernels]).neg_()  # centred Grams add up to 0 in each row

    def _added(self, kernels: Sequence[Any], r: int, u: Float[Tensor, "l n"]) -> Added:
        biased, same = not self.debiased, r == len(kernels)
        features, tiles = _costs(kernels, r, 0)
        rows, cols = kernels[:r], kernels if same else kernels[r:]
        if features > tiles:
            return by_tiles(rows, cols, u, self_pairs=biased), own_by_tiles(kernels, u, self_pairs=biased)
        own = [torch.cat([a for *_, a in by_features([k], [k], self_pairs=biased)])[:, 0] for k in kernels]
        return by_features(rows, cols, self_pairs=biased), torch.stack(own)

    def _beside(self, found: Ratio) -> dict[str, Float[Tensor, "r c"]]:
        """Intervals, and p-values from the exact moments of the permutation distribution where they cost little."""
        kernels, r = found.kernels, found.r
        n, live = kernels[0].layer.n, [i for i, kernel in enumerate(kernels) if not kernel.undefined]
        details = super()._beside(found)
        cheap = max(_ENOUGH, _DEAR * min(_costs(kernels, r, 0)))
        if n < 6 or self.without_rows or not live or traces_cost([k.layer.width for k in kernels], n) > cheap:
            return details
        biased, index = not self.debiased, torch.tensor(live, device=found.values.device)
        every = traces([kernels[i] for i in live], self_pairs=biased).among(index, len(kernels))
        own = every.t2 + (n * n / (n - 1) if biased else 0)  # the trace that is taken off is n
        rows, cols = slice(0, r), slice(0, r) if r == len(kernels) else slice(r, None)
        mean, variance, skewness = moments(every.of(rows), every.of(cols), n)
        product = found.values * torch.sqrt(torch.outer(own[rows], own[cols])) - (n * n / (n - 1) if biased else 0)
        return {**details, "p": upper_tail((product - mean) / variance.sqrt(), skewness)}

    def _resampled(
        self, kernels: Sequence[Any], r: int, weights: Float[Tensor, "b n"]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        features, tiles = _costs(kernels, r, len(weights))
        return (_by_features if features <= tiles else resampled_products)(kernels, r, weights)


def _costs(kernels: Sequence[Kernel], r: int, resamples: int) -> tuple[float, float]:
    """Multiplications by way of the features, where every resample starts anew, and by way of Gram tiles."""
    widths = [k.layer.width for k in kernels]
    count, n = len(kernels), kernels[0].layer.n
    if r == count:
        features, links = sum(widths) ** 2 / 2, count * count
    else:
        features, links = sum(widths[:r]) * sum(widths[r:]) + sum(p * p for p in widths), r * (count - r)
    return n * features * max(1, resamples), n * n * (0.6 * sum(widths) + links * max(1, resamples / 2))


def _layers(kernels: Sequence[LinearKernel], r: int) -> tuple[list[CentredLayer], list[CentredLayer], bool]:
    layers = [kernel.layer for kernel in kernels]
    return (layers, layers, True) if r == len(kernels) else (layers[:r], layers[r:], False)


def _by_features(
    kernels: Sequence[LinearKernel], r: int, weights: Float[Tensor, "b n"]
) -> Iterator[tuple[Float[Tensor, "g l l"], Float[Tensor, "l n g"]]]:
    """Σ w_i w_j K_ij L_ij = ‖Xᵀ diag(w) Y‖²: features of the drawn rows, each scaled by √w, as layers of their own."""
    scaled = []
    for kernel in kernels:
        layer = kernel.layer
        x = layer.mean.new_empty(layer.n, layer.width)
        scaled.append(layer.rows(0, layer.n, out=x).mul_(to_unit_rows(layer)))
    squares = torch.stack([kernel.diagonal for kernel in kernels])
    for w in weights:
        drawn = w.nonzero()[:, 0]
        root, weighted = w[drawn].sqrt(), []
        for kernel, x, square in zip(kernels, scaled, squares, strict=True):
            mean = torch.zeros_like(kernel.layer.mean)
            part = x[drawn] * root[:, None].to(x.dtype)
            weighted.append(CentredLayer(part, mean, 1.0, square[drawn] * w[drawn], bool(kernel.undefined)))
        products = feature_products(*_layers([LinearKernel(layer) for layer in weighted], r))
        scale = torch.stack([layer.squares.mean() for layer in weighted])
        sums = torch.stack([(x @ (w.to(x.dtype) @ x)).double() for x in scaled]) - w * squares
        yield (products * torch.outer(scale, scale))[None], sums[..., None]


def _without(kept: Int[Tensor, " m"], n: int) -> str:
    """What a careful reader should know of rows that were left out."""
    out = sorted(set(range(n)) - set(kept.tolist()))
    rows = some(map(str, out), count=20)
    return f"{len(out)} of {n} samples are left out, those with the largest shares of the layers' norms: rows {rows}"


def chance_of(rows: Float[Tensor, " r"], cols: Float[Tensor, " c"], n: int, debiased: bool) -> Float[Tensor, "r c"]:
    """The mean over all permutations of one side's samples, exactly: tr K tr L / ((n - 1) ‖K‖ ‖L‖), or 0.

    Args:
        rows: Participation ratios (tr K)² / ‖K‖² of row layers.
        cols: Of column layers.
        n: Samples.
        debiased: The form whose mean is 0.
    """
    level = torch.outer(rows, cols).sqrt() * (0.0 if debiased else 1 / (n - 1))
    return level.where(level.isfinite(), math.nan)  # a constant layer has none


def chance_cautions(high: float, n: int) -> list[str]:
    """What a careful reader should know where unrelated layers come out alike."""
    if high <= 0.1:
        return []
    return [
        f"biased CKA of these layers with their samples permuted reaches {high:.2f} on average at n = {n}: "
        "read values against `chance`, or use the debiased form"
    ]


METRICS = {"cka": CKA(), "cka_biased": CKA(debiased=False)}
