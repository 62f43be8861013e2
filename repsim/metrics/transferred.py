"""Transferred Discrepancy: would a downstream task be answered differently from the two layers?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from repsim._checks import check_labels, message
from repsim.metrics._base import CONSTANT, Cross, Invariance, Metric, pairs
from repsim.probes import DEFAULT_PENALTY, DEFAULT_TOL, fit_probes, stratified_folds


@dataclass(frozen=True, eq=False)
class Answers:
    """A layer's held-out answers to the task.

    Attributes:
        predicted: (m,) class that the probe gives to each held-out row.
        right: (m,) whether it is the label.
        classes: How many classes the task has.
        gradient_norm: Largest of the layer's probes, from float64.
        gap: Largest bound on loss minus optimum.
        iterations: Most steps.
        converged: All probes reached the tolerance.
        constant: The layer had the same row for every sample.
    """

    predicted: Int[Tensor, " m"]
    right: Bool[Tensor, " m"]
    classes: int
    gradient_norm: float
    gap: float
    iterations: int
    converged: bool
    constant: bool

    @property
    def accuracy(self) -> float:
        return float(self.right.double().mean())


@dataclass(frozen=True)
class TD(Metric):
    """Transferred Discrepancy for classification, as defined here.

    The same linear head is fitted on each layer for the same labels and the same rows; TD is the share of
    held-out rows that the two heads answer differently. Most of a raw TD is set by the two accuracies, so they
    stand beside it, with the bounds |a − b| ≤ TD ≤ min(1, 2 − a − b) they imply, a 95 % Wilson interval over the
    held-out rows, and `td_ratio`: TD divided by what independent, evenly spread errors of the same accuracies
    would give, 1 − ab − (1 − a)(1 − b)/(k − 1).

    Args:
        seed: Of the folds.
        folds: Stratified cross-fitting: each row is answered by the head that did not see it.
        fit_rows: Instead of folds, the row numbers to fit on; all others are answered.
        penalty: λ of the heads, for features of mean row norm² 1 on the fitting rows.
        tol: Gradient norm that a head must reach, checked in float64. A TD of heads that did not is NaN.
        max_iter: Steps per head and precision.

    Source:
        The idea: Feng, Zhai, He, Wang, Dong 2020, arXiv 2007.12446. The normalisation, the head and the
        protocol are this project's own, described in docs/td.md.

    Cost:
        r + c layers of probes (see `fit_probes`), then counting: r c m comparisons.
    """

    seed: int = 0
    folds: int = 5
    fit_rows: tuple[int, ...] | None = None
    penalty: float = DEFAULT_PENALTY
    tol: float = DEFAULT_TOL
    max_iter: int = 2000

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0
    needs_labels: ClassVar = True
    cost: ClassVar = "one batch of linear probes per layer; pairs are counted"

    def __post_init__(self) -> None:
        if self.fit_rows is not None:
            object.__setattr__(self, "fit_rows", tuple(int(i) for i in self.fit_rows))

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

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None) -> list[Answers]:
        if labels is None:
            advice = "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y)"
            raise ValueError(message("TD", "a downstream task is needed", "no labels", advice))
        check_labels("TD", labels, len(layers[0]))
        # Class names are arbitrary numbers; heads are counted 0..k-1.
        known, y = labels.cpu().unique(return_inverse=True)
        train = self._train(labels.cpu())
        held = ~train.all(0) if self.fit_rows is None else ~train[0]
        fitted = fit_probes(layers, {"task": y}, train, penalties=(self.penalty,), tol=self.tol, max_iter=self.max_iter)
        found = []
        for probes in fitted:
            predicted = probes.heldout["task"][0].cpu()[held].argmax(1)
            c = probes.certificates["task"]
            found.append(
                Answers(
                    predicted,
                    predicted == y[held],
                    len(known),
                    float(c.gradient_norm.max()),
                    float(c.gap.max()),
                    int(c.iterations.max()),
                    bool(c.converged.all()),
                    probes.constant,
                )
            )
        return found

    def cross(self, rows: Sequence[Answers], cols: Sequence[Answers]) -> Cross:
        m, k = len(rows[0].predicted), rows[0].classes
        right = torch.stack([c.predicted for c in cols])
        values = torch.stack([(right != a.predicted).double().mean(1) for a in rows])
        reasons = {}
        for i, a in enumerate(rows):
            for j, b in enumerate(cols):
                reason = _no_number(a, b, self.tol)
                if reason:
                    reasons[i, j] = reason
        lower = pairs(rows, cols, lambda a, b: abs(a.accuracy - b.accuracy))
        upper = pairs(rows, cols, lambda a, b: min(1.0, 2 - a.accuracy - b.accuracy))
        if bool(((values < lower - 1e-9) | (values > upper + 1e-9)).any()):
            raise RuntimeError("TD: answers and accuracies contradict each other; rows are misaligned. Report this.")
        independent = pairs(rows, cols, lambda a, b: _independent(a.accuracy, b.accuracy, k))
        low, high = wilson(values, m)
        details = {
            "accuracy_row": pairs(rows, cols, lambda a, b: a.accuracy),
            "accuracy_col": pairs(rows, cols, lambda a, b: b.accuracy),
            "lower_bound": lower,
            "upper_bound": upper,
            "ci_low": low,
            "ci_high": high,
            "independent": independent,
            "td_ratio": values / independent,
            "n_heldout": torch.full_like(values, m),
            "classes": torch.full_like(values, k),
            "gradient_norm": pairs(rows, cols, lambda a, b: max(a.gradient_norm, b.gradient_norm)),
            "gap_bound": pairs(rows, cols, lambda a, b: max(a.gap, b.gap)),
            "iterations": pairs(rows, cols, lambda a, b: max(a.iterations, b.iterations)),
            "converged": pairs(rows, cols, lambda a, b: a.converged and b.converged),
        }
        for cell in reasons:
            for name in ("ci_low", "ci_high", "td_ratio"):
                details[name][cell] = math.nan
            values[cell] = math.nan
        return Cross(values, details, reasons)

    def _train(self, labels: Tensor) -> Bool[Tensor, "f n"]:
        if self.fit_rows is None:
            return stratified_folds(labels, self.folds, self.seed)
        n = len(labels)
        rows = torch.tensor(self.fit_rows)
        if len(rows) == 0 or int(rows.min()) < 0 or int(rows.max()) >= n:
            got = f"{len(rows)} rows" + (f" from {int(rows.min())} to {int(rows.max())}" if len(rows) else "")
            raise ValueError(message("TD", f"fit_rows must be row numbers 0..{n - 1}", got, "Mark rows of this set"))
        train = torch.zeros(1, n, dtype=torch.bool)
        train[0, rows] = True
        return train


def wilson(share: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Wilson's 95 % interval for a share of m independent rows: (low, high), each in [0, 1].

    Source:
        Wilson 1927, J. Am. Stat. Assoc. 22. It covers the sampling of test rows only, not of networks or fits.
    """
    z2 = 1.959963984540054**2
    centre = (share + z2 / (2 * m)) / (1 + z2 / m)
    half = (z2 * (share * (1 - share) / m + z2 / (4 * m * m))).sqrt() / (1 + z2 / m)
    # At 0 and 1 the ends are exact; rounding must not push them past.
    return torch.where(share > 0, centre - half, 0.0), torch.where(share < 1, centre + half, 1.0)


def _independent(a: float, b: float, k: int) -> float:
    """Disagreement of two answerers of accuracies a and b whose errors are independent and evenly spread; NaN for 0."""
    return 1 - a * b - (1 - a) * (1 - b) / (k - 1) or math.nan


def _no_number(a: Answers, b: Answers, tol: float) -> str | None:
    for side, answers in (("row", a), ("column", b)):
        if answers.constant:
            return f"the {side} layer has {CONSTANT}"
        if not answers.converged:
            return (
                f"a probe of the {side} layer did not converge: gradient norm {answers.gradient_norm:.1e} after "
                f"{answers.iterations} steps, {tol:.0e} needed; raise max_iter or tol"
            )
    return None


METRICS = {"td": TD()}
