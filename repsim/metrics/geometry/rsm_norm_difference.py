"""RSM norm difference: how far apart are the two layers' matrices of distances, entry by entry?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.metrics.base import Invariance, Metric, PairwiseResult, undefined_cells, without_numbers
from repsim.metrics.geometry.rows import points
from repsim.metrics.geometry.rsa import check_memory, permuted_pairs, samples_of, spans, triangle_starts, upper_triangle


@dataclass(frozen=True, eq=False)
class DistanceVector:
    """A layer's distances: the strict upper triangle of its RSM, row by row.

    Attributes:
        vector: (m,) m = n(n - 1)/2, divided as asked; float64 where the features are. Empty where there is no number.
        scale: What the vector is to be multiplied by; 1 where it is divided.
        n: Samples.
        undefined: What the layer has instead of a number; empty where it has one.
    """

    vector: Float[Tensor, " m"]
    scale: float
    n: int
    undefined: str


@dataclass(frozen=True)
class RSMNormDifference(Metric):
    """‖D_X − D_Y‖ of the two layers' matrices of Euclidean distances between samples (RSMs).

    As they come, distances grow with the features and their norm with n, so each matrix is divided by its Frobenius
    norm first, unless said otherwise: then the value is √(2 − 2c), c the cosine of the two matrices, which is
    `rsa(comparison='cosine')`. It is a metric on RSMs. Unrelated layers are far from √2, because distances are not
    negative: compare with permuted samples.

    Args:
        scaling: Each matrix is divided by its Frobenius "norm", its "mean" over the n² entries, or "none".
        norm: "frobenius", or "spectral", the largest singular value of the difference. ReSi's code computes the
            spectral norm with scaling="none".

    Source:
        Shahbazi, Shirali, Aghajan, Nili 2021, NeuroImage 239; Klabunde et al. 2023, arXiv 2305.06329; 2024, arXiv
        2408.00531.

    Cost:
        Per layer n² p / 2 float64 multiplications; per pair n² / 2 differences, or an eigendecomposition, n³. Memory:
        n²/2 numbers per layer in the features' precision.
    """

    scaling: Literal["norm", "mean", "none"] = "norm"
    norm: Literal["frobenius", "spectral"] = "frobenius"

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0

    def __post_init__(self) -> None:
        for name, known in (("scaling", ("norm", "mean", "none")), ("norm", ("frobenius", "spectral"))):
            if getattr(self, name) not in known:
                must = f"{name} must be one of {', '.join(map(repr, known))}"
                raise ValueError(message("RSMNormDifference", must, repr(getattr(self, name)), "Choose one of these"))

    @property
    def cost(self) -> str:  # type: ignore[override]
        return "n²·p/2 per layer; per pair " + ("n²/2" if self.norm == "frobenius" else "an eigendecomposition, n³")

    @property
    def title(self) -> str:
        form = "RSM norm difference" + (", spectral" if self.norm == "spectral" else "")
        return form + {"norm": "", "mean": ", by mean distance", "none": ", distances as they are"}[self.scaling]

    @property
    def meaning(self) -> str:
        divided = {"norm": ", each of norm 1", "mean": ", each of mean 1", "none": " as they are"}[self.scaling]
        return f"difference of the two matrices of distances between samples{divided}"

    @property
    def source(self) -> str:
        return "Shahbazi 2021; Klabunde 2024, arXiv 2408.00531"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.sqrt(2) if self.scaling == "norm" else math.inf  # entries are not negative

    @property
    def invariances(self) -> frozenset[Invariance]:
        always: set[Invariance] = {"orthogonal", "shift"}
        always |= {"scale"} if self.scaling != "none" else set()
        return frozenset(always)

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[DistanceVector]:
        check_memory("RSMNormDifference", layers, 2)
        states = []
        with progress_bar(len(layers), "distances", "layer") as bar:
            for x in layers:
                states.append(self._prepared(x))
                bar.update()
        return states

    def pairwise(self, rows: Sequence[DistanceVector], cols: Sequence[DistanceVector]) -> PairwiseResult:
        if self.norm == "frobenius":
            values = self._frobenius(rows, cols, torch.ones(1, rows[0].n, dtype=torch.float64))[0]
        else:
            values = self._spectral(rows, cols)
        return PairwiseResult(values, {}, _undefined(rows, cols))

    def permuted(self, states: Sequence[DistanceVector], order: Int[Tensor, " n"]) -> list[DistanceVector]:
        source = permuted_pairs(order.to(states[0].vector.device))
        return [s if s.undefined else replace(s, vector=s.vector[source]) for s in states]

    def bootstrapped(
        self, rows: Sequence[DistanceVector], cols: Sequence[DistanceVector], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"] | None:
        """The value on resamples: the pair of samples i < j weighs w_i w_j, so that no sample is compared with itself.

        Distances are divided by the weighted norm or mean. The spectral norm is computed anew on the drawn rows.
        """
        return self._frobenius(rows, cols, counts.double()) if self.norm == "frobenius" else None

    def _prepared(self, x: Float[Tensor, "n p"]) -> DistanceVector:
        n, placed = len(x), points(x, None)
        if placed.undefined:
            return DistanceVector(x.new_zeros(0), 1.0, n, placed.undefined)
        vector = upper_triangle(placed).sqrt_()
        divisor = torch.linalg.vector_norm(vector) if self.scaling == "norm" else vector.mean()
        vector /= divisor  # a mean of all n² entries differs by a factor that weights take care of
        scale = 1.0 if self.scaling != "none" else float(divisor) * placed.scale
        return DistanceVector(vector if x.dtype == torch.float64 else vector.float(), scale, n, "")

    def _frobenius(
        self, rows: Sequence[DistanceVector], cols: Sequence[DistanceVector], weight: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        device = rows[0].vector.device
        weight = weight.to(device)
        starts = triangle_starts(rows[0].n, device)
        found = weight.new_zeros(len(weight), len(rows), len(cols))
        largest = max(s.scale for s in [*rows, *cols])
        for b, drawn in enumerate(weight):
            pieces = [
                (span, (drawn[i] * drawn[j]) * 2) for span in spans(len(starts)) for i, j in [samples_of(span, starts)]
            ]
            left, right = (self._divisors(side, pieces, drawn, largest) for side in (rows, cols))
            for span, pair in pieces:
                root = pair.sqrt()
                x, y = (
                    torch.stack([_part(s, span) * f for s, f in zip(side, factors, strict=True)]) * root
                    for side, factors in ((rows, left), (cols, right))
                )
                found[b] += torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
        values = found.sqrt() * largest
        return without_numbers(values, _undefined(rows, cols))

    def _divisors(
        self, side: Sequence[DistanceVector], pieces: Sequence[tuple[slice, Tensor]], drawn: Tensor, largest: float
    ) -> list[float]:
        """What each layer's vector is multiplied by, so that the weighted matrix has norm or mean 1."""
        if self.scaling == "none":
            return [s.scale / largest for s in side]
        factors = []
        for s in side:
            power = 2 if self.scaling == "norm" else 1
            total = sum(float((pair * _part(s, span) ** power).sum()) for span, pair in pieces)
            if self.scaling == "mean":
                total /= float(drawn.sum()) ** 2
            factors.append(math.nan if total <= 0 else 1 / (math.sqrt(total) if power == 2 else total))
        return factors

    def _spectral(self, rows: Sequence[DistanceVector], cols: Sequence[DistanceVector]) -> Float[Tensor, "r c"]:
        n = rows[0].n
        ones = torch.ones(n, dtype=torch.float64, device=rows[0].vector.device)
        whole = slice(0, n * (n - 1) // 2)
        largest = max(s.scale for s in [*rows, *cols])
        i, j = torch.triu_indices(n, n, 1, device=ones.device)
        left, right = (self._divisors(side, [(whole, 2 * ones[i])], ones, largest) for side in (rows, cols))
        values = ones.new_full((len(rows), len(cols)), math.nan)
        for row, (a, f) in enumerate(zip(rows, left, strict=True)):
            for col, (b, g) in enumerate(zip(cols, right, strict=True)):
                if not (a.undefined or b.undefined):
                    matrix = ones.new_zeros(n, n)
                    matrix[i, j] = _part(a, whole) * f - _part(b, whole) * g
                    values[row, col] = torch.linalg.eigvalsh(matrix + matrix.T).abs().max() * largest
        return values


def _undefined(rows: Sequence[DistanceVector], cols: Sequence[DistanceVector]) -> dict[tuple[int, int], str]:
    return undefined_cells([a.undefined for a in rows], [b.undefined for b in cols])


def _part(state: DistanceVector, span: slice) -> Float[Tensor, " s"]:
    if state.undefined:
        return state.vector.new_zeros(span.stop - span.start, dtype=torch.float64)
    return state.vector[span].double()


METRICS = {"rsm_norm_difference": RSMNormDifference()}
