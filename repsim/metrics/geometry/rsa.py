"""Representational similarity analysis: are the same pairs of samples far apart in both layers?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.metrics.base import Invariance, Metric, PairwiseResult, pairs, undefined_cells
from repsim.metrics.confounder import as_confounder, features_of, partial, without_confounder
from repsim.metrics.geometry.rows import Rows, points
from repsim.numerics.memory import available_memory

_DISTANCES = ("euclidean", "sqeuclidean", "correlation", "cosine")

_COMPARISONS = ("spearman", "pearson", "cosine")

#: Bytes of one block of distances, and of the float64 rows that it is made from.
_BLOCK = 256 * 2**20

#: Squared distances below this share of the squared norms are computed again from differences.
_NEAR = 1e-4

#: Distances of each layer that are multiplied at once.
_CHUNK = 2**17

#: Vectors of distances that ranking one layer holds beside the result: values, order, inverse, counts, ranks.
_RANKING = 7


@dataclass(frozen=True, eq=False)
class Distances:
    """A layer's dissimilarity matrix: its strict upper triangle, row by row, ready for products.

    Attributes:
        vector: (m,) m = n(n - 1)/2 distances or their ranks at root mean square 1, centred first unless they are
            compared by cosine; float64 where the features are. Empty where there is no number.
        n: Samples.
        mean: The vector's mean: 0 but for the cosine.
        tied: Share of the distances that equal another one, where they are ranked.
        undefined: What the layer has instead of a number; empty where it has one.
        confounder: What is taken off the layer's distances, where something is.
    """

    vector: Float[Tensor, " m"]
    n: int
    mean: float
    tied: float
    undefined: str
    confounder: "Distances | None" = None


@dataclass(frozen=True)
class RSA(Metric):
    """Representational similarity analysis: two layers' dissimilarity matrices (RDMs), compared as lists of numbers.

    An RDM holds the distance of every pair of samples. Its strict upper triangle is compared by Spearman's or
    Pearson's correlation or by the cosine, Σdd' / √(Σd² Σd'²). Ranks of equal distances are their mean; distances that
    agree to 10 digits are equal. Over all orders of one side's samples the correlations are 0 on average and the cosine
    is not: the detail `chance` holds that average, which is exact.

    Args:
        distance: "euclidean" ‖x - x'‖, "sqeuclidean" its square, "correlation" 1 - r of the two rows over the features,
            "cosine" 1 - cos of the two rows as they are, not centred.
        comparison: "spearman", "pearson" or "cosine".
        deconfounded: Features of the same samples, such as the inputs, or a `Confounder`: what is linear in their
            distances is regressed out of both lists first, which leaves a partial correlation; for "spearman" all three
            lists are ranked before. Not for "cosine".

    Source:
        Kriegeskorte, Mur, Bandettini 2008, Frontiers in Systems Neuroscience 2:4, doi 10.3389/neuro.06.004.2008.
        Deconfounded: Cui, Kumar, Marttinen, Kaski 2022, arXiv 2202.00095.

    Cost:
        Per layer n² p / 2 float64 multiplications and, for Spearman, a sort of n²/2 numbers; all pairs of r and c
        layers: one product of r c n²/2 multiplications. Memory: n²/2 numbers per layer in the features' precision.
    """

    distance: Literal["euclidean", "sqeuclidean", "correlation", "cosine"] = "euclidean"
    comparison: Literal["spearman", "pearson", "cosine"] = "spearman"
    deconfounded: Any = None

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0
    cost: ClassVar = "n²·p/2 and a sort of n²/2 distances per layer; one product for all pairs: r·c·n²/2"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("distance", self.distance, _DISTANCES),
            ("comparison", self.comparison, _COMPARISONS),
        ):
            if value not in known:
                must = f"{name} must be one of {', '.join(map(repr, known))}"
                raise ValueError(message("RSA", must, repr(value), "Choose one of these"))
        object.__setattr__(self, "deconfounded", as_confounder("RSA", self.deconfounded))
        if self.deconfounded is not None and self.comparison == "cosine":
            must = "deconfounded needs comparison 'spearman' or 'pearson'"
            raise ValueError(message("RSA", must, "'cosine'", "Choose one of these"))

    @property
    def title(self) -> str:
        comparison = {"spearman": "Spearman", "pearson": "Pearson", "cosine": "cosine"}[self.comparison]
        less = f", less {self.deconfounded}" if self.deconfounded else ""
        return f"RSA, {comparison} of {self.distance} distances{less}"

    @property
    def meaning(self) -> str:
        chance = "above 0 even in unrelated layers" if self.comparison == "cosine" else "0: as in unrelated layers"
        return f"1: the same pairs of samples are far apart in both layers; {chance}"

    @property
    def source(self) -> str:
        less = "; Cui 2022, arXiv 2202.00095" if self.deconfounded else ""
        return "Kriegeskorte 2008, doi 10.3389/neuro.06.004.2008" + less

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.comparison == "cosine" else (-1.0, 1.0)  # distances are not negative

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        if self.distance == "correlation":  # a rotation of the features changes their mean within a row
            return frozenset({"permutation", "scale"})
        if self.distance == "cosine":
            return frozenset({"orthogonal", "scale"})
        return frozenset({"orthogonal", "scale", "shift"})

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[Distances]:
        check_memory("RSA", layers, _RANKING)
        states, z = [], None
        if self.deconfounded is not None:
            z = self._prepared(features_of("RSA", self.deconfounded, len(layers[0]), layers[0]), exact=True)
        with progress_bar(len(layers), "distances", "layer") as bar:
            for x in layers:
                # What is left of a layer that is much like the confounder is a small difference.
                states.append(replace(self._prepared(x, exact=z is not None), confounder=z))
                bar.update()
        return states

    def pairwise(self, rows: Sequence[Distances], cols: Sequence[Distances]) -> PairwiseResult:
        z = rows[0].confounder
        return self._plain(rows, cols) if z is None else without_confounder(self._plain, rows, cols, z)

    def _plain(self, rows: Sequence[Distances], cols: Sequence[Distances]) -> PairwiseResult:
        m = rows[0].n * (rows[0].n - 1) // 2
        total = torch.zeros(len(rows), len(cols), dtype=torch.float64, device=rows[0].vector.device)
        for _, left, right in _chunks(rows, cols):
            total += left @ right.T
        values = total / m
        reasons = undefined_cells([a.undefined for a in rows], [b.undefined for b in cols])
        chance = pairs(rows, cols, lambda a, b: a.mean * b.mean)
        details = {"chance": chance}
        if self.comparison == "spearman":
            details["tied_row"] = pairs(rows, cols, lambda a, b: a.tied)
            details["tied_col"] = pairs(rows, cols, lambda a, b: b.tied)
        cautions = []
        if (high := float(chance.max())) > 0.1:
            cautions.append(
                f"the cosine of unrelated layers' distances reaches {high:.2f} here: read values against `chance`, or "
                "use comparison='pearson'"
            )
        return PairwiseResult(values, details, reasons, tuple(cautions))

    def permuted(self, states: Sequence[Distances], order: Int[Tensor, " n"]) -> list[Distances]:
        source = permuted_pairs(order.to(states[0].vector.device))
        return [replace(s, vector=s.vector[source]) if len(s.vector) else s for s in states]

    def bootstrapped(
        self, rows: Sequence[Distances], cols: Sequence[Distances], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        """The value on resamples: the pair of samples i < j weighs w_i w_j, so that no sample is compared with itself.

        Spearman's ranks stay those of the full sample: the weighted correlation of those ranks.
        Cost: b r c n²/2 multiplications.
        """
        z = rows[0].confounder
        found = self._weighted(rows, cols, counts)
        if z is None:
            return found
        return partial(found, self._weighted(rows, [z], counts), self._weighted([z], cols, counts))

    def _weighted(
        self, rows: Sequence[Distances], cols: Sequence[Distances], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        weight = counts.to(rows[0].vector.device).double()
        starts = triangle_starts(counts.shape[1], weight.device)
        shape = (len(counts), len(rows), len(cols))
        # Σw, Σwu, Σwv, Σwu², Σwv², Σwuv over the pairs of samples
        mass = weight.new_zeros(shape[0], 1, 1)
        sums = [weight.new_zeros(shape[0], size) for size in (shape[1], shape[2], shape[1], shape[2])]
        products = weight.new_zeros(shape)
        for span, left, right in _chunks(rows, cols):
            i, j = samples_of(span, starts)
            for b, drawn in enumerate(weight):
                pair = drawn[i] * drawn[j]
                mass[b] += pair.sum()
                heavy = left * pair
                terms = heavy.sum(1), right @ pair, (heavy * left).sum(1), right.square() @ pair
                for total, term in zip(sums, terms, strict=True):
                    total[b] += term
                products[b] += heavy @ right.T
        if self.comparison != "cosine":
            products = products - sums[0][:, :, None] * sums[1][:, None, :] / mass
            own = [sums[2] - sums[0].square() / mass[:, 0], sums[3] - sums[1].square() / mass[:, 0]]
        else:
            own = sums[2:]
        # Where all drawn distances are equal, or none is left, there is nothing but rounding to divide by.
        own = [torch.where(o > 1e-12 * s, o, math.nan) for o, s in zip(own, sums[2:], strict=True)]
        low, high = self.bounds
        return (products / (own[0][:, :, None] * own[1][:, None, :]).sqrt()).clamp(low, high)  # only rounding is beyond

    def _prepared(self, x: Float[Tensor, "n p"], *, exact: bool) -> Distances:
        n, none = len(x), x.new_zeros(0, dtype=torch.float64)
        placed = points(x, self.distance if self.distance in ("correlation", "cosine") else None)
        if placed.undefined:
            return Distances(none, n, 0.0, 0.0, placed.undefined)
        distances = upper_triangle(placed)
        if self.distance == "euclidean":
            distances.sqrt_()
        vector, tied = _mean_ranks(distances) if self.comparison == "spearman" else (distances, 0.0)
        level = torch.linalg.vector_norm(vector)
        if self.comparison != "cosine":
            vector = vector - vector.mean()
        norm = torch.linalg.vector_norm(vector)
        if norm <= 1e-12 * level:
            return Distances(none, n, 0.0, tied, "distances that are all equal, which nothing correlates with")
        vector = vector * (math.sqrt(len(vector)) / norm)
        mean = float(vector.mean()) if self.comparison == "cosine" else 0.0
        kept = vector if exact or x.dtype == torch.float64 else vector.float()
        return Distances(kept, n, mean, tied, "")


def upper_triangle(placed: Rows) -> Float[Tensor, " m"]:
    """Squared distances of all pairs i < j, row by row, in float64."""
    found = []
    limit = min(_BLOCK, _BLOCK * placed.width // placed.n)
    for span in placed.blocks(limit):
        left = placed.rows(span)
        squares = left.square().sum(1)
        block = left.new_empty(len(left), placed.n - span.start)
        for other in placed.blocks(limit):
            if other.start >= span.start:
                right = left if other == span else placed.rows(other)
                sums = squares[:, None] + right.square().sum(1)
                squared = torch.addmm(sums, left, right.T, alpha=-2)
                # Rows much nearer to each other than to the middle have lost digits in that difference.
                i, j = (squared < _NEAR * sums).nonzero().unbind(1)
                upper = i + span.start < j + other.start
                i, j = i[upper], j[upper]
                squared[i, j] = placed.squared(i + span.start, j + other.start)
                block[:, other.start - span.start : other.stop - span.start] = squared
        found.append(torch.cat([row[i + 1 :] for i, row in enumerate(block)]))
    return torch.cat(found)


def permuted_pairs(order: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    """Where each pair of the strict upper triangle stood before the samples were reordered."""
    n = len(order)
    starts = triangle_starts(n, order.device)
    source = torch.empty(n * (n - 1) // 2, dtype=torch.int64, device=order.device)
    for span in spans(n):
        i, j = (order[place] for place in samples_of(span, starts))
        low, high = torch.minimum(i, j), torch.maximum(i, j)
        source[span] = starts[low] + high - low - 1
    return source


def check_memory(function: str, layers: Sequence[Float[Tensor, "n _p"]], work: int) -> None:
    """The distances of all layers must fit into memory, and beside them `work` float64 vectors for one layer."""
    free = available_memory() if layers[0].device.type == "cpu" else None
    m = len(layers[0]) * (len(layers[0]) - 1) // 2
    held = sum(8 if x.dtype == torch.float64 else 4 for x in layers)
    need = m * (held + 8 * work)
    if free is not None and need > free:
        got = f"{need / 2**30:.1f} GB for {len(layers)} layers of {m:,} distances, with {free / 2**30:.1f} GB free"
        raise MemoryError(message(function, "the distances of all layers must fit in memory", got, "Use fewer samples"))


def _mean_ranks(distances: Float[Tensor, " m"]) -> tuple[Float[Tensor, " m"], float]:
    """Ranks from 1, equal numbers at the mean of theirs, and the share of numbers that have an equal.

    Numbers are rounded to 36 bits first: what is equal by construction differs by rounding once it is computed.
    """
    rounded = (distances.view(torch.int64) + 2**15) >> 16
    _, group, counts = torch.unique(rounded, return_inverse=True, return_counts=True)
    mean = counts.cumsum(0) - (counts - 1).double() / 2
    return mean[group], float(counts[counts > 1].sum()) / len(distances)


def spans(n: int) -> Iterator[slice]:
    """The pairs of n samples, a span of them at a time."""
    m = n * (n - 1) // 2
    return (slice(start, min(start + _CHUNK, m)) for start in range(0, m, _CHUNK))


def _chunks(rows: Sequence[Distances], cols: Sequence[Distances]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """A span of pairs of samples and the layers' float64 vectors over it; 0 for a layer that has none."""
    for span in spans(rows[0].n):

        def part(side: Sequence[Distances], span: slice = span) -> Tensor:
            zero = side[0].vector.new_zeros(span.stop - span.start, dtype=torch.float64)
            return torch.stack([s.vector[span].double() if len(s.vector) else zero for s in side])

        left = part(rows)
        yield span, left, left if rows is cols else part(cols)


def triangle_starts(n: int, device: torch.device) -> Int[Tensor, " n"]:
    """Where the pairs (i, i + 1), (i, i + 2), … of each i begin in the strict upper triangle."""
    i = torch.arange(n, device=device)
    return i * (2 * n - i - 1) // 2


def samples_of(span: slice, starts: Int[Tensor, " n"]) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"]]:
    """The two samples of each pair in a span of the strict upper triangle."""
    place = torch.arange(span.start, span.stop, device=starts.device)
    i = torch.searchsorted(starts, place, right=True) - 1
    return i, place - starts[i] + i + 1


METRICS = {"rsa": RSA()}
