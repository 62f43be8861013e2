"""Representation topology divergence: which loops of one layer's neighbourhood graph does the other one not close?"""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.metrics.base import Invariance, Metric, PairwiseResult, pairs, undefined_cells
from repsim.metrics.geometry.rows import points
from repsim.metrics.geometry.rsa import upper_triangle

#: Entries below this share of the mean distance are 0.
_NOTHING = 1e-6


@dataclass(frozen=True, eq=False)
class SubsetDistances:
    """A layer's distances within each subset of the samples, divided by their 0.9 quantile.

    Attributes:
        matrices: (s, m, m) float64; (0, 0, 0) where there is no number.
        undefined: What the layer has instead of a number; empty where it has one.
        x: The layer's features.
    """

    matrices: Float[np.ndarray, "s m m"]
    undefined: str
    x: Float[Tensor, "n p"]


@dataclass(frozen=True)
class RTD(Metric):
    """Representation topology divergence: total length of the H₁ bars that tell the two layers' distances apart.

    Of m samples, r and r' are the Euclidean distances in the two layers, each divided by its 0.9 quantile over all m²
    entries. The Vietoris-Rips filtration of the 2m points with distances (0, r; r, min(r, r')) has a bar in degree 1
    for each loop that the nearer of both distances closes earlier than r; RTD₁(X, Y) is the sum of the bars' lengths,
    and the value is (RTD₁(X, Y) + RTD₁(Y, X)) / 2, averaged over random subsets of the samples, the same ones in every
    call. It grows with m, which is the detail `m`, and 0 does not mean equal: a square whose neighbouring corners are
    exchanged has 0 with itself. It is no metric. No chance level is known: compare with permuted samples.

    Args:
        samples: m, samples of a subset. The paper's code takes 500 on a GPU.
        subsets: How many; one where a subset holds all samples.
        seed: Of the subsets.

    Source:
        Barannikov, Trofimov, Balabin, Burnaev 2022, arXiv 2106.04024, in the form of the authors' code (the full block
        r, not one triangle of it).

    Cost:
        Per pair and subset two persistent homologies of 2m points, m³ in theory, 0.13 s each at m = 100 and 0.8 s at
        200; memory: m² per layer and subset, and some m³ bytes. Needs the package `ripser`.
    """

    samples: int = 100
    subsets: int = 5
    seed: int = 0

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0
    cost: ClassVar = "per pair and subset two persistent homologies of 2m points, about m³"
    bootstrap_caution: ClassVar = (
        "a sample that is drawn twice is two points at distance 0, so resamples have fewer loops than the sample itself"
    )

    def __post_init__(self) -> None:
        for name, least in (("samples", 3), ("subsets", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                must = f"{name} must be a whole number >= {least}"
                raise ValueError(message("RTD", must, repr(value), "Leave it out for the default"))

    @property
    def title(self) -> str:
        return f"RTD, {self.samples} samples"

    @property
    def meaning(self) -> str:
        return "length of the loops in one layer's neighbourhoods that the other layer does not have; grows with m"

    @property
    def source(self) -> str:
        return "Barannikov 2022, arXiv 2106.04024"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None = None) -> list[SubsetDistances]:
        if importlib.util.find_spec("ripser") is None:
            advice = "Install it, as in pip install ripser"
            raise ValueError(message("RTD", "the package ripser must be installed", "none", advice))
        states = []
        with progress_bar(len(layers), "distances", "layer") as bar:
            for x in layers:
                states.append(self._prepared(x))
                bar.update()
        return states

    def pairwise(self, rows: Sequence[SubsetDistances], cols: Sequence[SubsetDistances]) -> PairwiseResult:
        n = len(rows[0].x)
        m = min(self.samples, n)
        values = torch.full((len(rows), len(cols)), math.nan, dtype=torch.float64)
        spread = values.clone()
        with progress_bar(len(rows) * len(cols), "persistent homology", "pair") as bar:
            for i, a in enumerate(rows):
                for j, b in enumerate(cols):
                    if rows is cols and j < i:
                        values[i, j], spread[i, j] = values[j, i], spread[j, i]
                    elif len(a.matrices) and len(b.matrices):
                        found = [(_bars(r, s) + _bars(s, r)) / 2 for r, s in zip(a.matrices, b.matrices, strict=True)]
                        values[i, j] = float(np.mean(found))
                        spread[i, j] = float(np.std(found, ddof=1)) if len(found) > 1 else math.nan
                bar.update(len(cols))
        reasons = undefined_cells([a.undefined for a in rows], [b.undefined for b in cols])
        details = {"m": pairs(rows, cols, lambda a, b: m)}
        if m < n:
            details["subset_sd"] = spread
        return PairwiseResult(values, details, reasons)

    def permuted(self, states: Sequence[SubsetDistances], order: Int[Tensor, " n"]) -> list[SubsetDistances]:
        return [s if s.undefined else self._prepared(s.x[order.to(s.x.device)]) for s in states]

    def _prepared(self, x: Float[Tensor, "n p"]) -> SubsetDistances:
        n, placed = len(x), points(x, None)
        if placed.undefined:
            return SubsetDistances(np.zeros((0, 0, 0)), placed.undefined, x)
        m, matrices = min(self.samples, n), []
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.subsets if m < n else 1):
            rows = torch.randperm(n, generator=generator)[:m] if m < n else torch.arange(n)
            distances = _distances(x[rows.to(x.device)])
            level = float(np.quantile(distances, 0.9))
            if level == 0:
                why = "a 0.9 quantile of the distances of 0: nearly all samples are duplicates"
                return SubsetDistances(np.zeros((0, 0, 0)), why, x)
            matrices.append(distances / level)
        return SubsetDistances(np.stack(matrices), "", x)


def _distances(x: Float[Tensor, "m p"]) -> Float[np.ndarray, "m m"]:
    placed = points(x, None)
    m = placed.n
    if placed.undefined:
        return np.zeros((m, m))
    found = np.zeros((m, m))
    found[np.triu_indices(m, 1)] = upper_triangle(placed).sqrt_().cpu().numpy()
    return found + found.T


def _bars(r: Float[np.ndarray, "m m"], other: Float[np.ndarray, "m m"]) -> float:
    """RTD₁: the total length of the bars in degree 1."""
    from ripser import ripser

    if np.array_equal(r, other):
        return 0.0
    matrix = np.block([[np.zeros_like(r), r], [r, np.minimum(r, other)]])
    matrix[matrix < _NOTHING * r.mean()] = 0
    bars = ripser(matrix, maxdim=1, distance_matrix=True)["dgms"][1]
    return float((bars[:, 1].astype(float) - bars[:, 0]).sum())


METRICS = {"rtd": RTD()}
