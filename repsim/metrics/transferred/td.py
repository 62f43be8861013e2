"""Transferred Discrepancy: would a downstream task be answered differently from the two layers?"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim._common.messages import InternalError, message
from repsim.metrics.base import PairwiseResult, pairs, undefined_cells, without_numbers
from repsim.metrics.transferred.base import (
    Fit,
    HeldOutLogits,
    SoftmaxHeads,
    blank,
    certificates,
    weighted_means,
    within_classes,
)
from repsim.numerics.intervals import wilson
from repsim.numerics.tetrachoric import tetrachoric


@dataclass(frozen=True, eq=False)
class HardPredictions:
    """A layer's held-out answers to the task.

    Attributes:
        rows: (m,) numbers of the rows that are answered.
        labels: (m,) class of each, 0..k-1.
        predicted: (m,) class that the probe gives.
        resampled: (s, m) the same by probes fitted on bootstrap resamples.
        classes: (k,) what the task calls its classes.
        fit: What is known of the probes.
    """

    rows: Int[Tensor, " m"]
    labels: Int[Tensor, " m"]
    predicted: Int[Tensor, " m"]
    resampled: Int[Tensor, "s m"]
    classes: Int[Tensor, " k"]
    fit: Fit

    @property
    def right(self) -> Bool[Tensor, " m"]:
        return self.predicted == self.labels

    @functools.cached_property
    def accuracy(self) -> float:
        return float(self.right.double().mean())

    @functools.cached_property
    def confusion(self) -> Float[Tensor, "k k"]:
        """Share of rows of each class (rows) that get each answer (columns)."""
        k = len(self.classes)
        return torch.bincount(self.labels * k + self.predicted, minlength=k * k).view(k, k).double() / len(self.labels)

    @classmethod
    def of(cls, held: HeldOutLogits) -> "HardPredictions":
        return cls(held.rows, held.labels, held.logits.argmax(1), held.resampled.argmax(2), held.classes, held.fit)


@dataclass(frozen=True)
class TD(SoftmaxHeads):
    """Transferred Discrepancy for classification, as defined here.

    The same linear head is fitted on each layer for the same labels and the same rows; TD is the share of
    held-out rows that the two heads answer differently. Most of a raw TD is set by the two accuracies, so they
    stand beside it with what corrects for them, and a noise floor: how often two heads on one and the same layer
    differ when they are fitted on different bootstrap resamples of the rows. docs/td.md defines every detail.

    Args:
        seed: Of the folds and the resamples.
        folds: Stratified cross-fitting: each row is answered by the head that did not see it.
        fit_rows: Instead of folds, the row numbers to fit on; all others are answered.
        penalty: λ of the heads, for features of mean row norm² 1 on the fitting rows.
        tol: Gradient norm that a head must reach, checked in float64. A TD of heads that did not is NaN.
        max_iter: Steps per head and precision.
        resamples: Bootstrap resamples per fold for the noise floor, at least 2; 0 leaves it out.
        per_class: Add the TD among the rows of each class as details `td_class_LABEL`.

    Source:
        The idea: Feng, Zhai, He, Wang, Dong 2020, arXiv 2007.12446. The normalisation, the head and the
        protocol are this project's own, described in docs/td.md.

    Cost:
        r + c layers of probes, folds · (1 + resamples) each (see `fit_probes`), then counting: r c m comparisons.
    """

    resamples: int = 2
    per_class: bool = False

    cost: ClassVar = "one batch of linear probes per layer; pairs are counted"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.resamples, int) or self.resamples < 0 or self.resamples == 1:
            advice = "A floor compares at least two heads of one layer"
            raise ValueError(message("TD", "resamples must be 0 or a whole number >= 2", repr(self.resamples), advice))

    @property
    def title(self) -> str:
        return "TD, share of answers that differ"

    @property
    def meaning(self) -> str:
        return "share of held-out samples that linear heads on the two layers answer differently"

    @property
    def source(self) -> str:
        return "after Feng 2020, arXiv 2007.12446"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def prepare_tasks(self, layers: Sequence[Tensor], tasks: Mapping[str, Tensor]) -> dict[str, list[HardPredictions]]:
        held = self.held_out(layers, tasks, self.resamples)
        return {task: [HardPredictions.of(h) for h in found] for task, found in held.items()}

    def pairwise(self, rows: Sequence[HardPredictions], cols: Sequence[HardPredictions]) -> PairwiseResult:
        m, labels = len(rows[0].rows), rows[0].labels
        values = _differ([a.predicted for a in rows], [b.predicted for b in cols])
        lower = pairs(rows, cols, lambda a, b: abs(a.accuracy - b.accuracy))
        upper = pairs(rows, cols, lambda a, b: min(1.0, 2 - a.accuracy - b.accuracy))
        if bool(((values < lower - 1e-9) | (values > upper + 1e-9)).any()):
            raise InternalError("TD: answers and accuracies contradict each other; rows are misaligned. Report this.")
        low, high = wilson(values, m)
        details = {
            "accuracy_row": pairs(rows, cols, lambda a, b: a.accuracy),
            "accuracy_col": pairs(rows, cols, lambda a, b: b.accuracy),
            "lower_bound": lower,
            "upper_bound": upper,
            "ci_low": low,
            "ci_high": high,
            **_corrected(values, lower, upper, rows, cols),
            **(_floor(rows, cols) if self.resamples else {}),
        }
        if self.per_class:
            for c, label in enumerate(rows[0].classes.tolist()):
                here = labels == c
                parts = [[a.predicted[here] for a in side] for side in (rows, cols)]
                details[f"td_class_{label}"] = (
                    _differ(*parts) if bool(here.any()) else torch.full_like(values, math.nan)
                )
        fits = [a.fit for a in rows], [b.fit for b in cols]
        beside = {
            "n_heldout": torch.full_like(values, m),
            "classes": torch.full_like(values, len(rows[0].classes)),
            **certificates(*fits),
        }
        reasons = undefined_cells([a.undefined for a in fits[0]], [b.undefined for b in fits[1]])
        details = blank(details, reasons, ("accuracy_row", "accuracy_col", "lower_bound", "upper_bound"))
        return PairwiseResult(values, {**details, **beside}, reasons)

    def compared(self, rows: Sequence[HardPredictions], cols: Sequence[HardPredictions]) -> PairwiseResult:
        """With the dependence of the two heads' errors that does not move with their accuracies."""
        found = self.pairwise(rows, cols)
        return replace(found, details={**found.details, **blank(_dependence(rows, cols), found.reasons, ())})

    def permuted(self, states: Sequence[HardPredictions], order: Int[Tensor, " n"]) -> list[HardPredictions]:
        keys = order[states[0].rows]
        within = within_classes(states[0].labels, keys)
        return [replace(s, predicted=s.predicted[within], resampled=s.resampled[:, within]) for s in states]

    def bootstrapped(
        self, rows: Sequence[HardPredictions], cols: Sequence[HardPredictions], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        every = torch.stack([b.predicted for b in cols])
        values = weighted_means((every != a.predicted for a in rows), counts[:, rows[0].rows])
        return without_numbers(
            values, undefined_cells([a.fit.undefined for a in rows], [b.fit.undefined for b in cols])
        )


def _differ(rows: Sequence[Tensor], cols: Sequence[Tensor]) -> Float[Tensor, "r c"]:
    every = torch.stack(list(cols))
    return torch.stack([(every != a).double().mean(1) for a in rows])


def _corrected(
    td: Tensor, lower: Tensor, upper: Tensor, rows: Sequence[HardPredictions], cols: Sequence[HardPredictions]
) -> dict[str, Tensor]:
    """TD beside what the two accuracies, the answers' frequencies and the confusion matrices alone would give."""
    k = len(rows[0].classes)
    confusion = {id(a): a.confusion for a in [*rows, *cols]}
    a, b = (torch.tensor([s.accuracy for s in side], dtype=torch.float64) for side in (rows, cols))
    a, b = a[:, None], b[None, :]
    independent = 1 - a * b - (1 - a) * (1 - b) / (k - 1)
    both = _differ([s.right for s in rows], [s.right for s in cols])  # exactly one of the two is right
    chance_alike = a * b + (1 - a) * (1 - b)
    same = pairs(rows, cols, lambda x, y: confusion[id(x)].sum(0) @ confusion[id(y)].sum(0))

    def from_confusion(x: HardPredictions, y: HardPredictions) -> float:
        share = confusion[id(x)].sum(1)  # of each class among the rows; a class without rows adds nothing
        alike = (confusion[id(x)] * confusion[id(y)]).sum(1) / share.where(share > 0, torch.ones_like(share))
        return float(1 - alike.sum())

    return {
        "independent": _or_nan(independent),
        "td_ratio": td / _or_nan(independent),
        "td_minmax": (td - lower) / _or_nan(upper - lower),
        "kappa": (1 - td - same) / _or_nan(1 - same),
        "error_consistency": (1 - both - chance_alike) / _or_nan(1 - chance_alike),
        "confusion_expected": pairs(rows, cols, from_confusion),
    }


def _dependence(rows: Sequence[HardPredictions], cols: Sequence[HardPredictions]) -> dict[str, Tensor]:
    """The tetrachoric correlation of the errors, and how often two wrong answers are the same one."""
    wrong = [torch.stack([~s.right for s in side]) for side in (rows, cols)]
    m = wrong[0].shape[1]
    both = (wrong[0].double() @ wrong[1].double().T).round()
    shares = [side.double().mean(1) for side in wrong]
    first, second = shares[0][:, None].expand_as(both), shares[1][None].expand_as(both)
    rho, low, high = map(torch.from_numpy, tetrachoric((both / m).numpy(), first.numpy(), second.numpy(), m))
    answers = torch.stack([b.predicted for b in cols])
    same = torch.stack([((answers == a.predicted) & wrong[1] & ~a.right).sum(1) for a in rows]).double()
    return {
        "error_correlation": rho,
        "error_correlation_low": low,
        "error_correlation_high": high,
        "agree_when_both_wrong": same / both.where(both > 0, math.nan),
    }


def _or_nan(x: Tensor) -> Tensor:
    """A denominator; NaN where it is zero to rounding, so that 0/0 is no number."""
    return x.where(x > 1e-12, math.nan)


def _floor(rows: Sequence[HardPredictions], cols: Sequence[HardPredictions]) -> dict[str, Tensor]:
    """How often heads fitted on different resamples differ: on one layer (the floor), and between the two."""
    s, m = rows[0].resampled.shape
    others = [(i, j) for i in range(s) for j in range(s) if i != j]
    # Whole numbers are added before they are divided, so that a layer exceeds its own floor by exactly nothing.
    every = m * len(others)
    floors = []
    for side in (rows, cols):
        each = torch.stack([a.resampled for a in side], 1)  # (s, layers, m)
        floors.append(torch.stack([(each[i] != each[j]).sum(1) for i, j in others]).sum(0).double() / every)
    right = torch.stack([b.resampled for b in cols], 1)
    between = [torch.stack([(right[j] != a.resampled[i]).sum(1) for i, j in others]).sum(0) for a in rows]
    td_boot = torch.stack(between).double() / every
    row, col = floors[0][:, None].expand_as(td_boot), floors[1][None, :].expand_as(td_boot)
    return {"floor_row": row.clone(), "floor_col": col.clone(), "td_boot": td_boot, "excess": td_boot - (row + col) / 2}


METRICS = {"td": TD()}
