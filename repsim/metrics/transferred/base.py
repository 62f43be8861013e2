"""What the forms of TD share: which rows the heads are fitted on, the heads themselves, and what is known of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim._common.checks import ABSENT, check_labels
from repsim._common.messages import message
from repsim.metrics.base import Invariance, TaskMetric, pairs, without_numbers
from repsim.numerics.centring import CONSTANT
from repsim.probes.fit import DEFAULT_PENALTY, DEFAULT_TOL, LayerProbes, fit_probes
from repsim.probes.folds import bootstrap_folds, strata, stratified_folds


@dataclass(frozen=True, eq=False)
class Fit:
    """What is known of one layer's heads for one task; the worst of them.

    Attributes:
        gradient_norm: From float64.
        gap: Bound on loss minus optimum.
        iterations: Steps.
        converged: All heads reached the tolerance.
        undefined: What the layer has instead of heads that can be trusted; empty where they can.
    """

    gradient_norm: float
    gap: float
    iterations: int
    converged: bool
    undefined: str

    @classmethod
    def of(cls, probes: LayerProbes, task: str, tol: float) -> "Fit":
        """The worst of a layer's heads for a task."""
        found = probes.certificates[task]
        norm, gap, steps = float(found.gradient_norm.max()), float(found.gap.max()), int(found.iterations.max())
        converged = bool(found.converged.all())
        undefined = ""
        if probes.constant:
            undefined = CONSTANT
        elif not converged:
            undefined = (
                f"a probe that did not converge: gradient norm {norm:.1e} after {steps} steps, {tol:.0e} needed; raise "
                "max_iter or tol"
            )
        return cls(norm, gap, steps, converged, undefined)


@dataclass(frozen=True, eq=False)
class HeldOutLogits:
    """One layer's heads on the rows that they did not see.

    Attributes:
        rows: (m,) numbers of the held-out rows that have a part in the task.
        labels: (m,) their classes, 0..k-1.
        classes: (k,) what the task calls its classes.
        logits: (m, k) float64.
        resampled: (s, m, k) by the heads of each bootstrap resample.
        fit: What is known of the heads.
    """

    rows: Int[Tensor, " m"]
    labels: Int[Tensor, " m"]
    classes: Int[Tensor, " k"]
    logits: Float[Tensor, "m k"]
    resampled: Float[Tensor, "s m k"]
    fit: Fit


@dataclass(frozen=True)
class HeadMetric(TaskMetric):
    """A comparison of what the same head answers on two layers, on rows that it has not seen."""

    seed: int = 0
    folds: int = 5
    fit_rows: tuple[SupportsIndex, ...] | None = None
    penalty: float = DEFAULT_PENALTY

    kind: ClassVar = "distance"
    self_value: ClassVar = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.fit_rows is not None:
            try:
                object.__setattr__(self, "fit_rows", tuple(int(i) for i in self.fit_rows))
            except TypeError:
                advice = "As in fit_rows=(0, 1, 2), or leave it out"
                got = repr(self.fit_rows)
                raise TypeError(message(name, "fit_rows must be a list of row numbers", got, advice)) from None
        for setting in ("seed", "folds"):
            if not isinstance(getattr(self, setting), int):
                got = repr(getattr(self, setting))
                raise TypeError(message(name, f"{setting} must be a whole number", got, "As in folds=5, seed=0"))

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    def training_rows(self, tasks: Mapping[str, Int[Tensor, " n"]]) -> Bool[Tensor, "f n"]:
        """The rows of each fold's fit, alike for all tasks."""
        if self.fit_rows is None:
            alone = next(iter(tasks.values())) if len(tasks) == 1 else None
            return stratified_folds(tasks if alone is None else alone, self.folds, self.seed)
        n = len(next(iter(tasks.values())))
        rows = torch.tensor(self.fit_rows)
        if len(rows) == 0 or int(rows.min()) < 0 or int(rows.max()) >= n:
            got = f"{len(rows)} rows" + (f" from {int(rows.min())} to {int(rows.max())}" if len(rows) else "")
            must = f"fit_rows must be row numbers 0..{n - 1}"
            raise ValueError(message(type(self).__name__, must, got, "Mark rows of this set"))
        train = torch.zeros(1, n, dtype=torch.bool)
        train[0, rows] = True
        return train


@dataclass(frozen=True)
class SoftmaxHeads(HeadMetric):
    """Heads are softmax regressions, driven to a certified gradient norm."""

    tol: float = DEFAULT_TOL
    max_iter: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.max_iter, int) or self.max_iter < 1:
            got = repr(self.max_iter)
            must = "max_iter must be a whole number >= 1"
            raise ValueError(message(type(self).__name__, must, got, "Leave it at 2000"))

    def held_out(
        self, layers: Sequence[Tensor], tasks: Mapping[str, Int[Tensor, " n"]], resamples: int = 0
    ) -> dict[str, list[HeldOutLogits]]:
        """Fits all heads of all layers and tasks in one call; task -> one `HeldOutLogits` per layer."""
        known, numbered, named = {}, {}, {}
        for name, labels in tasks.items():
            check_labels(type(self).__name__, labels, len(layers[0]))
            y = labels.cpu().long()
            y = named[name] = y.where(y != -1, ABSENT)
            here = y != ABSENT
            # Class names are arbitrary numbers; heads are counted 0..k-1.
            known[name], index = y[here].unique(return_inverse=True)
            numbered[name] = torch.full_like(y, ABSENT)
            numbered[name][here] = index
        train = self.training_rows(named)
        counts = bootstrap_folds(train, strata(named), resamples, self.seed) if resamples else None
        options = {"penalties": (self.penalty,), "tol": self.tol, "max_iter": self.max_iter}
        fitted = fit_probes(layers, numbered, train, resamples=counts, **options)
        found: dict[str, list[HeldOutLogits]] = {}
        for name, y in numbered.items():
            rows = ((~train).any(0) & (y != ABSENT)).nonzero()[:, 0]
            found[name] = []
            for probes in fitted:
                fit = Fit.of(probes, name, self.tol)
                logits, others = probes.heldout[name][0].cpu()[rows], probes.resampled[name][:, 0].cpu()[:, rows]
                found[name].append(HeldOutLogits(rows, y[rows], known[name], logits, others, fit))
        return found


def certificates(rows: Sequence[Fit], cols: Sequence[Fit]) -> dict[str, Tensor]:
    """The details that tell how well the heads of each pair are known."""
    return {
        "gradient_norm": pairs(rows, cols, lambda a, b: max(a.gradient_norm, b.gradient_norm)),
        "gap_bound": pairs(rows, cols, lambda a, b: max(a.gap, b.gap)),
        "iterations": pairs(rows, cols, lambda a, b: max(a.iterations, b.iterations)),
        "converged": pairs(rows, cols, lambda a, b: a.converged and b.converged),
    }


def blank(details: Mapping[str, Tensor], cells: Collection[tuple[int, int]], keep: Sequence[str]) -> dict[str, Tensor]:
    """Details with NaN in some cells, but for those to `keep`."""
    return {name: table if name in keep else without_numbers(table, cells) for name, table in details.items()}


def within_classes(labels: Int[Tensor, " m"], keys: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """The permutation that puts each class's rows in the order of their keys, all of different size."""
    order = torch.empty_like(labels)
    for c in labels.unique():
        places = (labels == c).nonzero()[:, 0]
        order[places] = places[keys[places].argsort()]
    return order


def weighted_means(scores: Any, counts: Int[Tensor, "b m"]) -> Float[Tensor, "b r c"]:
    """Means of per-row scores under resampling counts.

    Args:
        scores: One (c, m) tensor for each of r rows, made one at a time.
        counts: How often each resample holds each held-out row.
    """
    weight = counts.double() / counts.sum(1, keepdim=True)
    return torch.stack([weight @ each.double().T for each in scores], 1)
