"""Soft TD: how far apart are the probabilities that the same head gives on two layers?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim.metrics.base import PairwiseResult, pairs, undefined_cells, without_numbers
from repsim.metrics.transferred.base import (
    Fit,
    SoftmaxHeads,
    blank,
    certificates,
    weighted_means,
    within_classes,
)
from repsim.numerics.intervals import Z


@dataclass(frozen=True, eq=False)
class SoftPredictions:
    """A layer's held-out class probabilities.

    Attributes:
        rows: (m,) numbers of the rows that are answered.
        labels: (m,) class of each, 0..k-1.
        probabilities: (m, k) float64 probabilities.
        entropies: (m,) of them, in bits.
        fit: What is known of the probes.
    """

    rows: Int[Tensor, " m"]
    labels: Int[Tensor, " m"]
    probabilities: Float[Tensor, "m k"]
    entropies: Float[Tensor, " m"]
    fit: Fit

    @property
    def accuracy(self) -> float:
        return float((self.probabilities.argmax(1) == self.labels).double().mean())

    @property
    def log_loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return float(-self.probabilities.gather(1, self.labels[:, None]).log().mean())


@dataclass(frozen=True)
class SoftTD(SoftmaxHeads):
    """Transferred Discrepancy of probabilities: the mean distance of the two heads' held-out class distributions.

    Jensen-Shannon divergence in bits, or total variation ½‖p − q‖₁, averaged over the held-out rows; both are in
    [0, 1], and equal to TD where every probability is 0 or 1. The mean total variation obeys the triangle
    inequality, the mean divergence does not. It also sees how sure the heads are, which the penalty governs.

    Args:
        seed: Of the folds.
        folds: Stratified cross-fitting: each row is answered by the head that did not see it.
        fit_rows: Instead of folds, the row numbers to fit on; all others are answered.
        penalty: λ of the heads, for features of mean row norm² 1 on the fitting rows.
        tol: Gradient norm that a head must reach, checked in float64.
        max_iter: Steps per head and precision.
        distance: "jsd" or "tv".

    Source:
        The idea of TD: Feng, Zhai, He, Wang, Dong 2020, arXiv 2007.12446. The divergence: Lin 1991, IEEE Trans. Inf.
        Theory 37.

    Cost:
        r + c layers of probes (see `fit_probes`), then r c m k operations. Memory: m k float64 per layer.
    """

    distance: Literal["jsd", "tv"] = "jsd"

    cost: ClassVar = "one batch of linear probes per layer; per pair m·k"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in ("jsd", "tv"):
            got = repr(self.distance)
            raise ValueError(message("SoftTD", "distance must be 'jsd' or 'tv'", got, "Choose one of these"))

    @property
    def title(self) -> str:
        return "soft TD, " + {"jsd": "Jensen-Shannon divergence, bits", "tv": "total variation"}[self.distance]

    @property
    def meaning(self) -> str:
        return "mean distance of the class probabilities that linear heads on the two layers give held-out samples"

    @property
    def source(self) -> str:
        return "after Feng 2020, arXiv 2007.12446; Lin 1991"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def prepare_tasks(self, layers: Sequence[Tensor], tasks: Mapping[str, Tensor]) -> dict[str, list[SoftPredictions]]:
        found = {}
        for task, each in self.held_out(layers, tasks).items():
            found[task] = []
            for held in each:
                probabilities = held.logits.softmax(1)
                found[task].append(
                    SoftPredictions(held.rows, held.labels, probabilities, _entropy(probabilities), held.fit)
                )
        return found

    def pairwise(self, rows: Sequence[SoftPredictions], cols: Sequence[SoftPredictions]) -> PairwiseResult:
        m = len(rows[0].rows)
        scores = {name: [[] for _ in rows] for name in ("jsd", "tv", "td", "spread")}
        for i, a in enumerate(rows):
            for b in cols:
                each = {name: _distance(a, b, name) for name in ("jsd", "tv", "td")}
                each["spread"] = each[self.distance]
                for name, score in each.items():
                    scores[name][i].append(_deviation(score) if name == "spread" else score.mean())
        table = {name: torch.tensor(lines, dtype=torch.float64) for name, lines in scores.items()}
        values = table.pop(self.distance)
        half = Z * table.pop("spread") / math.sqrt(m)
        details = {
            "accuracy_row": pairs(rows, cols, lambda a, b: a.accuracy),
            "accuracy_col": pairs(rows, cols, lambda a, b: b.accuracy),
            "log_loss_row": pairs(rows, cols, lambda a, b: a.log_loss),
            "log_loss_col": pairs(rows, cols, lambda a, b: b.log_loss),
            "ci_low": (values - half).clamp_min(0),
            "ci_high": (values + half).clamp_max(1),
            **table,
        }
        fits = [a.fit for a in rows], [b.fit for b in cols]
        reasons = undefined_cells([a.undefined for a in fits[0]], [b.undefined for b in fits[1]])
        details = blank(details, reasons, ("accuracy_row", "accuracy_col"))
        return PairwiseResult(
            values, {**details, "n_heldout": torch.full_like(values, m), **certificates(*fits)}, reasons
        )

    def permuted(self, states: Sequence[SoftPredictions], order: Int[Tensor, " n"]) -> list[SoftPredictions]:
        within = within_classes(states[0].labels, order[states[0].rows])
        return [replace(s, probabilities=s.probabilities[within], entropies=s.entropies[within]) for s in states]

    def bootstrapped(
        self, rows: Sequence[SoftPredictions], cols: Sequence[SoftPredictions], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        scores = (torch.stack([_distance(a, b, self.distance) for b in cols]) for a in rows)
        values = weighted_means(scores, counts[:, rows[0].rows])
        return without_numbers(
            values, undefined_cells([a.fit.undefined for a in rows], [b.fit.undefined for b in cols])
        )


def _distance(a: SoftPredictions, b: SoftPredictions, name: str) -> Float[Tensor, " m"]:
    if name == "td":
        return (a.probabilities.argmax(1) != b.probabilities.argmax(1)).double()
    if name == "tv":
        return (a.probabilities - b.probabilities).abs().sum(1) / 2
    # Entropy of the mean less the mean entropy; rounding must not make it negative.
    return (_entropy((a.probabilities + b.probabilities) / 2) - (a.entropies + b.entropies) / 2).clamp(0, 1)


def _deviation(score: Float[Tensor, " m"]) -> Tensor:
    """Of one row nothing is known: NaN."""
    return score.std() if len(score) > 1 else score.new_tensor(math.nan)


def _entropy(p: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
    return torch.special.entr(p).sum(1) / math.log(2)


METRICS = {"td_soft": SoftTD()}
