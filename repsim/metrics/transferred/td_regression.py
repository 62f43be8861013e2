"""TD of regressions: how far apart are the predictions of the same ridge regression on two layers?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.checks import ABSENT, check_labels
from repsim._common.messages import message
from repsim.metrics.base import Invariance, PairwiseResult, pairs, undefined_cells
from repsim.metrics.transferred.base import HeadMetric, within_classes
from repsim.numerics.centring import CONSTANT
from repsim.probes.ridge import ridge_heldout

#: Predictions whose norm is this share of the target's, or less, have no direction.
_NOTHING = 1e-12


@dataclass(frozen=True, eq=False)
class Predictions:
    """A layer's held-out predictions of the task's targets.

    Attributes:
        rows: (m,) numbers of the rows that are predicted.
        groups: (m,) their classes; one and the same for measured targets.
        predicted: (m, t) float64.
        target: (m, t) float64.
        residual: Norm of the normal equations' residual, as a share of their right-hand side.
        undefined: What the layer has instead of predictions that differ; empty where it has them.
    """

    rows: Int[Tensor, " m"]
    groups: Int[Tensor, " m"]
    predicted: Float[Tensor, "m t"]
    target: Float[Tensor, "m t"]
    residual: float
    undefined: str

    @property
    def r2(self) -> float:
        """Held-out share of the targets' variance that is predicted; negative where the mean would do better."""
        spread = float((self.target - self.target.mean(0)).square().sum())
        return 1 - float((self.target - self.predicted).square().sum()) / spread if spread > 0 else math.nan


@dataclass(frozen=True)
class RegressionTD(HeadMetric):
    """Transferred Discrepancy for regression: the same ridge head on both layers, and how their predictions differ.

    With ŷ₁, ŷ₂ the held-out predictions, centred column by column and laid out as one vector, "cosine" is
    ‖ŷ₁/‖ŷ₁‖ − ŷ₂/‖ŷ₂‖‖² = 2 − 2cos(ŷ₁, ŷ₂): 0 for equal, 2 for uncorrelated, 4 for opposite predictions. "target" is
    ‖ŷ₁ − ŷ₂‖² / ‖y − ȳ‖², whose root obeys the triangle inequality. Class labels are regressed as one-hot columns.

    Args:
        seed: Of the folds.
        folds: Cross-fitting: each row is predicted by the head that did not see it.
        fit_rows: Instead of folds, the row numbers to fit on; all others are predicted.
        penalty: λ in ½ mean squared error + ½ λ ‖W‖², for features centred and of mean row norm² 1 on the fitting rows;
            0 fits by least squares and needs fewer features than fitting rows.
        normalize: "cosine" or "target".

    Source:
        The idea of TD: Feng, Zhai, He, Wang, Dong 2020, arXiv 2007.12446. The normalisation is this project's own.

    Cost:
        Per layer, fold and task one float64 factorisation, n d² + d³ with d = min(p, n); pairs are products of m t.
    """

    normalize: Literal["cosine", "target"] = "cosine"

    cost: ClassVar = "one ridge regression per layer and fold; per pair m·t"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize not in ("cosine", "target"):
            got = repr(self.normalize)
            raise ValueError(
                message("RegressionTD", "normalize must be 'cosine' or 'target'", got, "Choose one of these")
            )
        if not isinstance(self.penalty, int | float) or not 0 <= self.penalty < math.inf:
            got, advice = repr(self.penalty), "Use 0 for least squares"
            raise ValueError(message("RegressionTD", "penalty must be a finite number >= 0", got, advice))

    @property
    def title(self) -> str:
        return "regression TD, " + {"cosine": "2 − 2 cos", "target": "share of the target's variance"}[self.normalize]

    @property
    def meaning(self) -> str:
        if self.normalize == "cosine":
            return "how differently ridge heads on the two layers predict held-out targets: 0 equally, 2 unrelatedly"
        return "squared gap of two ridge heads' held-out predictions, as a share of the target's variance"

    @property
    def source(self) -> str:
        return "after Feng 2020, arXiv 2007.12446"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 4.0 if self.normalize == "cosine" else math.inf

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 2.0 if self.normalize == "cosine" else math.inf

    @property
    def invariances(self) -> frozenset[Invariance]:
        always: frozenset[Invariance] = frozenset({"orthogonal", "scale", "shift"})
        return always if self.penalty else frozenset({*always, "invertible"})

    def prepare_tasks(self, layers: Sequence[Tensor], tasks: Mapping[str, Tensor]) -> dict[str, list[Predictions]]:
        targets, folded = {}, {}
        for name, y in tasks.items():
            targets[name], folded[name] = _targets(y, len(layers[0]))
        train = self.training_rows(folded)
        present = {name: y != ABSENT for name, y in folded.items()}
        found: dict[str, list[Predictions]] = {name: [] for name in tasks}
        for x in layers:
            heads = ridge_heldout(x, targets, present, train, self.penalty)
            for name, (predicted, residual, constant) in heads.items():
                rows = ((~train).any(0) & present[name]).nonzero()[:, 0]
                asked = rows, folded[name][rows], predicted[rows], targets[name][rows]
                found[name].append(Predictions(*asked, residual, CONSTANT if constant else ""))
        return found

    def pairwise(self, rows: Sequence[Predictions], cols: Sequence[Predictions]) -> PairwiseResult:
        m = len(rows[0].rows)
        ones = torch.ones(1, m, dtype=torch.float64)
        values = self._values(rows, cols, ones)[0]
        details = {
            "r2_row": pairs(rows, cols, lambda a, b: a.r2),
            "r2_col": pairs(rows, cols, lambda a, b: b.r2),
            "gradient_norm": pairs(rows, cols, lambda a, b: max(a.residual, b.residual)),
            "n_heldout": torch.full_like(values, m),
            "targets": torch.full_like(values, rows[0].target.shape[1]),
        }
        least = float(_NOTHING**2 * _moment(ones / m, rows[0].target)[0])

        def lacking(state: Predictions) -> str:
            still = self.normalize == "cosine" and float(_moment(ones / m, state.predicted)[0]) <= least
            return state.undefined or "a head that predicts the same for every sample: no direction" * still

        reasons = undefined_cells([lacking(a) for a in rows], [lacking(b) for b in cols])
        for i, j in values.isnan().nonzero().tolist():
            reasons.setdefault((i, j), "the target is the same for every held-out sample")
        return PairwiseResult(values, details, reasons)

    def permuted(self, states: Sequence[Predictions], order: Int[Tensor, " n"]) -> list[Predictions]:
        within = within_classes(states[0].groups, order[states[0].rows])
        return [replace(s, predicted=s.predicted[within], target=s.target[within]) for s in states]

    def bootstrapped(
        self, rows: Sequence[Predictions], cols: Sequence[Predictions], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"]:
        return self._values(rows, cols, counts[:, rows[0].rows])

    def _values(
        self, rows: Sequence[Predictions], cols: Sequence[Predictions], counts: Tensor
    ) -> Float[Tensor, "b r c"]:
        weight = counts.double() / counts.sum(1, keepdim=True)
        target = _moment(weight, rows[0].target)
        norms = {id(s): _moment(weight, s.predicted).clamp_min(0).sqrt() for s in [*rows, *cols]}
        out = torch.empty(len(weight), len(rows), len(cols), dtype=torch.float64)
        for i, a in enumerate(rows):
            for j, b in enumerate(cols):
                gap, one, two = _moment(weight, a.predicted - b.predicted), norms[id(a)], norms[id(b)]
                if self.normalize == "target":
                    out[:, i, j] = gap / target.where(target > 0, math.nan)
                else:
                    # 2 − 2cos, in a form that keeps its digits where the predictions are nearly the same.
                    known = torch.minimum(one, two) > _NOTHING * target.sqrt()
                    out[:, i, j] = (gap - (one - two).square()).clamp_min(0) / (one * two).where(known, math.nan)
        return out


def _moment(weight: Float[Tensor, "b m"], x: Float[Tensor, "m t"]) -> Float[Tensor, " b"]:
    """Weighted variance summed over columns, about the weights' own means."""
    x = x - x.mean(0)  # so that little is left to subtract
    return weight @ x.square().sum(1) - (weight @ x).square().sum(1)


def _targets(y: Tensor, n: int) -> tuple[Float[Tensor, "n t"], Int[Tensor, " n"]]:
    """Targets as columns, and the classes over which folds are stratified (one class for measured targets)."""
    if not y.is_floating_point():
        check_labels("RegressionTD", y, n)
        y = y.cpu().long()
        y = y.where(y != -1, ABSENT)
        classes = y[y != ABSENT].unique()
        return (y[:, None] == classes).double(), y
    if y.ndim not in (1, 2) or len(y) != n or not bool(torch.isfinite(y).all()):
        got = f"shape {tuple(y.shape)}" + ("" if bool(torch.isfinite(y).all()) else " with NaN or infinity")
        advice = "Pass one finite row of targets per sample"
        raise ValueError(message("RegressionTD", f"targets must be ({n},) or ({n}, t) and finite", got, advice))
    y = y.cpu().double().reshape(n, -1)
    if not bool((y.std(0) > 0).all()):
        raise ValueError(message("RegressionTD", "every target must vary", "a constant one", "Leave it out"))
    return y, torch.zeros(n, dtype=torch.int64)


METRICS = {"td_regression": RegressionTD()}
