"""Information imbalance: do distances in one layer tell who is near in the other, and the other way round?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.metrics.base import Invariance, Metric, PairwiseResult, pairs, undefined_cells
from repsim.metrics.geometry.rows import points
from repsim.metrics.geometry.rsa import triangle_starts, upper_triangle
from repsim.numerics.memory import available_memory

#: Entries of the table of ranks that are worked on at once.
_TABLE = 2**22


@dataclass(frozen=True, eq=False)
class DistanceRanks:
    """Who is how near to whom in one layer.

    Attributes:
        ranks: (n, n) how many other samples are at most as far from i as j is; 0 on the diagonal; int16 up to n =
            32,767. (0, 0) where there is no number.
        near: (n, k) the k nearest other samples of each sample, where there are no ties for the k-th place.
        tied: Share of the samples that have ties for the k-th place.
        mean: Of all ranks off the diagonal; n / 2 without ties.
        n: Samples.
        undefined: What the layer has instead of a number; empty where it has one.
    """

    ranks: Int[Tensor, "n n"]
    near: Int[Tensor, "n k"]
    tied: float
    mean: float
    n: int
    undefined: str


@dataclass(frozen=True)
class InformationImbalance(Metric):
    """Information imbalance Δ(A → B): the mean rank in B of the nearest neighbour in A, times 2 / n.

    Δ(A → B) = 2/n · mean_i mean_j r^B_ij over the k nearest neighbours j of i in A, where r^B_ij = #{l ≠ i: d_B(i, l)
    <= d_B(i, j)} by Euclidean distance. The row layer is A, the column layer B; the other direction is the detail
    `reverse`.
    Small: distances in A tell who is near in B. Both directions small: the same neighbourhoods; only one small: that
    layer holds what the other has, and more; both about 1: unrelated. A layer with itself has (k + 1) / n, the smallest
    value there is, and the largest possible is near 2. Over all orders of one side's samples the mean is exactly the
    detail `chance`, 1 where no distances in B are equal.

    Distances that agree to ten digits are equal. Of samples that tie for the k-th place in A each counts in part.

    Args:
        k: Nearest neighbours in A, at most n - 1.

    Source:
        Glielmo, Zeni, Cheng, Csányi, Laio 2022, PNAS Nexus 1(2), pgac039, equation 1; k > 1: DADApy, without its random
        ranks beyond a stored list.

    Cost:
        Per layer n² p / 2 float64 multiplications and n sorts of n numbers; per pair n k look-ups, n² where there are
        ties. Memory: 2 n² bytes per layer (4 from n = 32,768 on), and 12 n² while one is prepared.
    """

    k: int = 1

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0
    symmetric: ClassVar = False
    cost: ClassVar = "n²·p/2 and n sorts of n distances per layer; n·k per pair"
    bootstrap_caution: ClassVar = (
        "neighbours and ranks stay those of the full sample, so intervals are too narrow, and p-values of a difference "
        "are too small"
    )

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int):
            raise TypeError(message("InformationImbalance", "k must be an integer", repr(self.k), "The paper uses 1"))
        if self.k < 1:
            raise ValueError(message("InformationImbalance", "k must be at least 1", f"{self.k}", "The paper uses 1"))

    @property
    def title(self) -> str:
        return "information imbalance, rows → columns" + ("" if self.k == 1 else f", k = {self.k}")

    @property
    def meaning(self) -> str:
        return "rank in the second layer of the nearest neighbour in the first: 2/n in equal layers, 1 in unrelated"

    @property
    def source(self) -> str:
        return "Glielmo 2022, doi 10.1093/pnasnexus/pgac039"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 2.0

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    @property
    def min_samples(self) -> int:
        return max(3, self.k + 1)

    @property
    def self_excess(self) -> float:  # type: ignore[override]
        return self.k + 1.0

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[DistanceRanks]:
        n = len(layers[0])
        if n < self.min_samples:
            got = f"{n} for k = {self.k}"
            must = f"at least {self.min_samples} samples are needed"
            raise ValueError(
                message("InformationImbalance", must, got, "Extract on more samples or choose a smaller k")
            )
        free = available_memory() if layers[0].device.type == "cpu" else None
        need = n * n * (12 + len(layers) * (2 if n < 2**15 else 4))
        if free is not None and need > free:
            got = f"{need / 2**30:.1f} GB for {len(layers)} layers, with {free / 2**30:.1f} GB free"
            must = "the ranks of all layers must fit in memory"
            raise MemoryError(message("InformationImbalance", must, got, "Use fewer samples"))
        states = []
        with progress_bar(len(layers), "ranks of distances", "layer") as bar:
            for x in layers:
                states.append(self._prepared(x))
                bar.update()
        return states

    def pairwise(self, rows: Sequence[DistanceRanks], cols: Sequence[DistanceRanks]) -> PairwiseResult:
        n = rows[0].n
        weight = torch.ones(1, n, dtype=torch.float64)
        values = self._means(rows, cols, weight)[0]
        reverse = values.T if rows is cols else self._means(cols, rows, weight)[0].T
        details = {
            "reverse": reverse,
            "chance": pairs(rows, cols, lambda a, b: math.nan if b.undefined else 2 * b.mean / n),
            "tied_row": pairs(rows, cols, lambda a, b: a.tied),
            "tied_col": pairs(rows, cols, lambda a, b: b.tied),
        }
        cautions = []
        smallest = (self.k + 1) / n
        if smallest > 0.1:
            cautions.append(
                f"the smallest value there is, of equal layers, is {smallest:.2f} at n = {n}: use more samples"
            )
        high = max((2 * s.mean / n for s in cols if not s.undefined), default=1.0)
        if high > 1.05:
            cautions.append(
                f"equal distances raise ranks: unrelated layers reach {high:.2f}, not 1; read values against `chance`"
            )
        return PairwiseResult(
            values, details, undefined_cells([a.undefined for a in rows], [b.undefined for b in cols]), tuple(cautions)
        )

    def permuted(self, states: Sequence[DistanceRanks], order: Int[Tensor, " n"]) -> list[DistanceRanks]:
        order = order.to(states[0].ranks.device)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        return [
            s if s.undefined else replace(s, ranks=s.ranks[order][:, order], near=place[s.near[order]]) for s in states
        ]

    def bootstrapped(
        self, rows: Sequence[DistanceRanks], cols: Sequence[DistanceRanks], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        """The value on resamples: a sample weighs as often as it is drawn; neighbours and ranks stay as they are."""
        return self._means(rows, cols, counts.double())

    def _prepared(self, x: Float[Tensor, "n p"]) -> DistanceRanks:
        n, placed = len(x), points(x, None)
        none = torch.zeros(0, 0, dtype=torch.int16, device=x.device)
        if placed.undefined:
            return DistanceRanks(none, none.long(), 0.0, 0.0, n, placed.undefined)
        # Ten digits, as RSA ranks distances: what is equal by construction differs by rounding once it is computed.
        triangle = (upper_triangle(placed).view(torch.int64) + 2**15) >> 16
        starts = triangle_starts(n, x.device)
        ranks = torch.empty(n, n, dtype=torch.int16 if n < 2**15 else torch.int32, device=x.device)
        near = torch.empty(n, self.k, dtype=torch.int64, device=x.device)
        tied, total = 0, 0.0
        every = torch.arange(n, device=x.device)
        step = max(1, _TABLE // n)
        for start in range(0, n, step):
            own = every[start : start + step]
            low, high = torch.minimum(own[:, None], every), torch.maximum(own[:, None], every)
            self_pair = low == high
            # The diagonal is no pair; its place is filled and marked as nearer than all.
            at = (starts[low] + high - low - 1).masked_fill(self_pair, 0)
            distance = triangle[at].masked_fill(self_pair, -1)
            ordered, sort = distance.sort(1)
            count = torch.searchsorted(ordered, distance, right=True) - 1
            ranks[own] = count.to(ranks.dtype)
            near[own] = sort[:, 1 : self.k + 1]
            if self.k + 1 < n:
                tied += int((ordered[:, self.k] == ordered[:, self.k + 1]).sum())
            total += float(count.double().sum())
        return DistanceRanks(ranks, near, tied / n, total / (n * (n - 1)), n, "")

    def _means(
        self, rows: Sequence[DistanceRanks], cols: Sequence[DistanceRanks], weight: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        weight = (weight * 2 / (rows[0].n * weight.sum(1, keepdim=True))).to(rows[0].ranks.device)
        found = weight.new_full((len(weight), len(rows), len(cols)), math.nan)
        for i, a in enumerate(rows):
            for j, b in enumerate(cols):
                if not (a.undefined or b.undefined):
                    found[:, i, j] = weight @ self._rank_of_nearest(a, b)
        return found

    def _rank_of_nearest(self, a: DistanceRanks, b: DistanceRanks) -> Float[Tensor, " n"]:
        """The mean rank in b of each sample's k nearest in a; those that tie for the k-th place share what is left."""
        if not a.tied:
            return b.ranks.gather(1, a.near).double().mean(1)
        found = []
        for left, right in zip(a.ranks.split(max(1, _TABLE // a.n)), b.ranks.split(max(1, _TABLE // a.n)), strict=True):
            # Ranks count all that are as near, so the k-th place has the smallest rank of at least k.
            last = torch.where(left >= self.k, left, torch.iinfo(left.dtype).max).amin(1, keepdim=True)
            before, level = (left > 0) & (left < last), left == last
            share = (self.k - before.sum(1)).double() / level.sum(1)
            ranks = right.double()
            found.append(((before * ranks).sum(1) + share * (level * ranks).sum(1)) / self.k)
        return torch.cat(found)


METRICS = {"information_imbalance": InformationImbalance()}
