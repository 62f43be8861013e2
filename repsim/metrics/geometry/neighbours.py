"""Nearest neighbours: does a sample have the same neighbours in both layers?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.metrics.base import Invariance, Metric, PairwiseResult, pairs, undefined_cells, without_numbers
from repsim.metrics.geometry.nearest import Nearness, k_nearest, products
from repsim.metrics.geometry.overlap import Neighbours, masked_hsic, overlap, own_hsic, returned
from repsim.metrics.geometry.rows import Direction, Rows, points

#: Share of the samples with ties at the k-th place from which on a reader is told.
_MANY = 0.05


class NeighbourMetric(Metric):
    """What measures of neighbourhoods share: k, ties, and neighbours that travel with their samples."""

    k: int
    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0

    def neighbours(
        self, layers: Sequence[Tensor], direction: Direction | None, nearness: Nearness, *, kernel: bool = False
    ) -> list[Neighbours]:
        """The k nearest neighbours of every sample in every layer; with `kernel` also the kernel's values there."""
        return [state for state, _ in self.placed_neighbours(layers, direction, nearness, kernel=kernel)]

    def placed_neighbours(
        self, layers: Sequence[Tensor], direction: Direction | None, nearness: Nearness, *, kernel: bool = False
    ) -> Iterator[tuple[Neighbours, Rows]]:
        """As `neighbours`, one layer at a time with its rows as points."""
        n = len(layers[0])
        if n < self.min_samples:
            name, got = type(self).__name__, f"{n} for k = {self.k}"
            advice = "Extract on more samples or choose a smaller k"
            raise ValueError(message(name, f"at least {self.min_samples} samples are needed", got, advice))
        with progress_bar(len(layers), "neighbours", "layer") as bar:
            for x in layers:
                placed = points(x, direction)
                index, tied = torch.zeros(0, self.k, dtype=torch.int64, device=x.device), 0.0
                if not placed.undefined:
                    index, tied = k_nearest(placed, self.k, nearness)
                known = index if kernel else index[:0]
                values = products(placed, known, centred=nearness == "centred")
                yield Neighbours(n, index, tied, placed.undefined, values, returned(known)), placed
                bar.update()

    def permuted(self, states: Sequence[Neighbours], order: Int[Tensor, " n"]) -> list[Neighbours] | None:
        """The neighbours in another order of the samples; None where ties were broken by the old order."""
        if any(s.tied for s in states):
            return None
        order = order.to(states[0].index.device)
        return [self.moved(s, order) if not s.undefined else s for s in states]

    @staticmethod
    def moved(state: Neighbours, order: Int[Tensor, " n"]) -> Neighbours:
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        index, sort = place[state.index[order]].sort(1)
        if not len(state.values):
            return replace(state, index=index)
        values, back = (part[order].gather(1, sort) for part in (state.values, state.returned))
        return replace(state, index=index, values=values, returned=back)

    def ties(self, rows: Sequence[Neighbours], cols: Sequence[Neighbours]) -> tuple[dict[str, Tensor], list[str]]:
        details = {
            "k": pairs(rows, cols, lambda a, b: self.k),
            "tied_row": pairs(rows, cols, lambda a, b: a.tied),
            "tied_col": pairs(rows, cols, lambda a, b: b.tied),
        }
        most = max(s.tied for s in [*rows, *cols])
        if most <= _MANY:
            return details, []
        return details, [
            f"in one layer {most:.0%} of the samples have ties for the {self.k} nearest neighbours. The smaller sample "
            "number wins in every layer, so two layers with ties agree more often than they would by chance"
        ]


@dataclass(frozen=True)
class MutualKNN(NeighbourMetric):
    """Mutual k nearest neighbours: the share of a sample's k nearest neighbours that both layers have in common.

    mean over i of |N_k^X(i) ∩ N_k^Y(i)| / k, where a sample is not its own neighbour. Unrelated layers share
    k/(n - 1), the detail `chance`. Features are not centred for "cosine" and "inner_product", as in the paper, where
    rows of length 1 are compared by inner products: that is "cosine".

    Neighbours are those of float64 arithmetic. Where the k-th place is a tie, as with duplicate samples, the smaller
    sample number wins. Squared distances that agree to ten digits are ties, and inner products that agree to their
    rounding, on every device and at every scale.

    Args:
        k: Neighbours of each sample, at most n - 1.
        distance: "cosine", "euclidean", or "inner_product", by which the largest is nearest.

    Source:
        Huh, Cheung, Wang, Isola 2024, arXiv 2405.07987, appendix A.

    Cost:
        Per layer n² p multiplications and a selection from n² numbers; per pair of layers n k look-ups. Memory: n k
        numbers per layer, one layer in the working precision, and 256 MB.
    """

    k: int = 10
    distance: Literal["cosine", "euclidean", "inner_product"] = "cosine"

    cost: ClassVar = "n²·p and a selection from n² per layer; n·k per pair"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(message("MutualKNN", "k must be at least 1", f"{self.k}", "The paper uses 10"))
        known = ("cosine", "euclidean", "inner_product")
        if self.distance not in known:
            must = f"distance must be one of {', '.join(map(repr, known))}"
            raise ValueError(message("MutualKNN", must, repr(self.distance), "Choose one of these"))

    bootstrap_caution: ClassVar = (
        "neighbours stay those of the full sample, so intervals are too narrow: nominal 95 % covered 0.87, 0.82 and "
        "0.94 at n = 80, 300 and 1,000 in simulations, and p-values of a difference are too small"
    )

    @property
    def title(self) -> str:
        return f"mutual {self.k}-NN, {self.distance.replace('_', ' ')}"

    @property
    def meaning(self) -> str:
        return "share of the nearest neighbours that a sample has in both layers; k/(n-1) in unrelated layers"

    @property
    def source(self) -> str:
        return "Huh 2024, arXiv 2405.07987"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        if self.distance == "euclidean":
            return frozenset({"orthogonal", "scale", "shift"})
        return frozenset({"orthogonal", "scale"})

    @property
    def min_samples(self) -> int:
        return max(3, self.k + 1)

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Neighbours]:
        nearness = "inner" if self.distance == "inner_product" else "distance"
        return self.neighbours(layers, "cosine" if self.distance == "cosine" else None, nearness)

    def pairwise(self, rows: Sequence[Neighbours], cols: Sequence[Neighbours]) -> PairwiseResult:
        n = rows[0].n
        values = overlap(rows, cols, torch.ones(1, n, dtype=torch.float64))[0] / (n * self.k)
        reasons = undefined_cells([a.undefined for a in rows], [b.undefined for b in cols])
        chance = self.k / (n - 1)
        details, cautions = self.ties(rows, cols)
        details["chance"] = torch.full_like(values, chance)
        if chance > 0.1:
            cautions.append(
                f"unrelated layers share {chance:.2f} of {self.k} neighbours at n = {n}: read values against `chance`"
            )
        return PairwiseResult(values, details, reasons, tuple(cautions))

    def bootstrapped(
        self, rows: Sequence[Neighbours], cols: Sequence[Neighbours], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        """The value on resamples: a sample weighs as often as it is drawn; its neighbours stay the full sample's."""
        weight = counts.double()
        found = overlap(rows, cols, weight) / (self.k * weight.sum(1)).to(rows[0].index.device)[:, None, None]
        return without_numbers(found, undefined_cells([a.undefined for a in rows], [b.undefined for b in cols]))


@dataclass(frozen=True)
class CKNNA(NeighbourMetric):
    """Centred kernel nearest-neighbour alignment: debiased CKA of the pairs that are neighbours in both layers.

    A(X, Y) / √(A(X, X) A(Y, Y)), where A is Song et al.'s unbiased HSIC of K∘M and L∘M, K = XXᵀ and L = YYᵀ of the
    centred features and M the pairs (i, j) with j among the k largest of row i off the diagonal, both in K and in L.
    k = n - 1 gives debiased CKA. As M is not symmetric, HSIC(K∘M, L∘M) depends on which layer comes first in the
    authors' code; here it is the mean of both. Centred features make it blind to shifts. The published pipeline
    (minyoungg/platonic-rep) takes rows of length 1 as they are, not centred: rows="unit". It also clamps the features
    of all layers at the mean over samples of the 0.95 quantile of |x| first, which is left to the caller, and adds 1e-6
    to the denominator, which is left out: at n = 1,024 and 768 Gaussian features that alone makes a layer's value with
    itself 0.987. Its `mutual_knn` is `mutual_knn` here, whose "cosine" is unit rows, not centred, by inner product.

    The masks of numerator and denominator differ, so that the value has no bound; layers that are nearly equal can pass
    1 slightly. Unrelated layers give more than 0, and no closed form is known: compare with permuted samples.

    Args:
        k: Neighbours of each sample, from 2 to n - 1.
        rows: "centred", features less their means; or "unit", rows of length 1, not centred, as published.

    Source:
        Huh, Cheung, Wang, Isola 2024, arXiv 2405.07987, appendix A, in the form of the authors' code; unbiased HSIC:
        Song, Smola, Gretton, Bedo, Borgwardt 2012 (JMLR 13), equation 5.

    Cost:
        Per layer n² p multiplications and a selection from n² numbers; per pair of layers n k log k operations. Memory:
        n k numbers per layer, one layer in the working precision, and 256 MB.
    """

    k: int = 10
    rows: Literal["centred", "unit"] = "centred"

    cost: ClassVar = "n²·p and a selection from n² per layer; n·k·log k per pair"

    def __post_init__(self) -> None:
        if self.k < 2:
            advice = "A single neighbour leaves no spread to centre; the paper uses 10"
            raise ValueError(message("CKNNA", "k must be at least 2", f"{self.k}", advice))
        if self.rows not in ("centred", "unit"):
            advice = "'unit' is the published pipeline"
            raise ValueError(message("CKNNA", "rows must be 'centred' or 'unit'", repr(self.rows), advice))

    @property
    def title(self) -> str:
        return f"CKNNA, k = {self.k}" + ("" if self.rows == "centred" else ", unit rows")

    @property
    def meaning(self) -> str:
        return "1: neighbours are the same, and equally alike, in both layers; small: as in unrelated layers"

    @property
    def source(self) -> str:
        return "Huh 2024, arXiv 2405.07987; Song 2012"

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, math.inf

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"} if self.rows == "centred" else {"orthogonal", "scale"})

    @property
    def min_samples(self) -> int:
        return max(4, self.k + 1)

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Neighbours]:
        if self.rows == "unit":  # of rows of length 1 the nearest has the largest inner product
            return self.neighbours(layers, "cosine", "distance", kernel=True)
        return self.neighbours(layers, None, "centred", kernel=True)

    def pairwise(self, rows: Sequence[Neighbours], cols: Sequence[Neighbours]) -> PairwiseResult:
        weight = torch.ones(1, rows[0].n, dtype=torch.float64, device=rows[0].index.device)
        reasons = undefined_cells([a.undefined for a in rows], [b.undefined for b in cols])
        values = self._alignment(rows, cols, weight)[0]
        for i, j in values.isnan().nonzero().tolist():
            if (i, j) not in reasons:
                side = "row" if bool(own_hsic(rows[i], weight).isnan()) else "column"
                reasons[i, j] = f"the {side} layer has a masked HSIC with itself that is not positive; choose another k"
        details, cautions = self.ties(rows, cols)
        if bool((values > 1 + 1e-6).any()):
            cautions.append(f"CKNNA is not bounded by 1: it reaches {float(values.nan_to_num(0).max()):.4f} here")
        return PairwiseResult(values, details, reasons, tuple(cautions))

    def bootstrapped(
        self, rows: Sequence[Neighbours], cols: Sequence[Neighbours], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        """The value on resamples, with the neighbours and the centring of the full sample.

        The pair of samples (i, j) weighs w_i w_j for i ≠ j, and the unbiased estimate becomes the one that is centred
        with those weights. Cost: b n k operations per pair of layers.
        """
        return self._alignment(rows, cols, counts.double())

    @staticmethod
    def _alignment(
        rows: Sequence[Neighbours], cols: Sequence[Neighbours], weight: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        weight = weight.to(rows[0].index.device)
        found = weight.new_full((len(weight), len(rows), len(cols)), math.nan)
        own = {id(s): own_hsic(s, weight) for s in [*rows, *cols] if not s.undefined}
        with progress_bar(len(rows) * len(cols), "shared neighbours", "pair") as bar:
            for i, a in enumerate(rows):
                for j, b in enumerate(cols):
                    if rows is cols and j < i:
                        found[:, i, j] = found[:, j, i]
                    elif not a.undefined and not b.undefined:
                        found[:, i, j] = masked_hsic(a, b, weight) / (own[id(a)] * own[id(b)]).sqrt()
                bar.update(len(cols))
        return found


METRICS = {"mutual_knn": MutualKNN(), "cknna": CKNNA()}
