"""What a metric is: its facts, and the two methods `prepare` and `pairwise`."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import InternalError, message
from repsim.metrics.facts import Invariance, MetricFacts
from repsim.numerics.precision import full_precision

#: Values may leave a metric's bounds by this much through rounding; they are clipped and the clipping is counted.
ROUNDING = 1e-6

#: The methods of metrics that compute.
_COMPUTES = ("prepare", "prepare_tasks", "pairwise", "compared", "permuted", "bootstrapped", "update")


@dataclass(frozen=True)
class PairwiseResult:
    """All pairs of two lists of prepared layers.

    Attributes:
        values: (r, c) float64. Cells that have a reason become NaN here.
        details: Name -> (r, c), what stands beside each value.
        reasons: (row, column) -> why there is no number.
        cautions: What a careful reader should know of all of it, one sentence each.
    """

    values: Float[Tensor, "r c"]
    details: Mapping[str, Tensor] = field(default_factory=dict)
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.reasons and isinstance(self.values, Tensor):
            object.__setattr__(self, "values", without_numbers(self.values.clone(), self.reasons))


def _checked(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a metric that is refused in one line where it returns something else than it must."""

    @functools.wraps(compute)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = compute(self, *args, **kwargs)
        if name in _CHECKS and getattr(type(self), name) is checked:  # not where a subclass asks its parent
            _CHECKS[name](self, found, *args, **kwargs)
        return found

    return checked


def _check_states(metric: Any, found: Any, layers: Sequence[Any], *_: Any, **__: Any) -> None:
    if found is not None and (not isinstance(found, list) or len(found) != len(layers)):
        got = f"{len(found)}" if isinstance(found, list) else type(found).__name__
        raise ValueError(
            message(_called(metric), f"there must be a list of {len(layers)} states", got, "One per layer")
        )


def _check_pairs(metric: Any, found: Any, rows: Sequence[Any], cols: Sequence[Any]) -> None:
    if not isinstance(found, PairwiseResult):
        advice = "Return PairwiseResult(values)"
        raise TypeError(message(_called(metric), "pairwise must return a PairwiseResult", type(found).__name__, advice))
    _check_array(metric, "values", found.values, (len(rows), len(cols)), torch.float64)
    for name, detail in found.details.items():
        _check_array(metric, f"the detail {name!r}", detail, (len(rows), len(cols)))
    if type(metric).__module__.startswith("repsim."):
        return  # held to the rest where the matrix is made, and there it is ours to mend
    holes = {(int(i), int(j)) for i, j in found.values.isnan().nonzero()}
    if holes != set(found.reasons):
        got = f"{len(holes)} NaN and {len(found.reasons)} reasons"
        advice = "Say in reasons, by (row, column), why there is no number"
        raise ValueError(message(_called(metric), "every NaN must have a reason", got, advice))
    (low, high), known = metric.bounds, found.values[~found.values.isnan()]
    if known.numel() and (known.min() < low - ROUNDING or known.max() > high + ROUNDING):
        got = f"[{known.min():.6g}, {known.max():.6g}]"
        must = f"values must lie in the bounds [{low:g}, {high:g}]"
        raise ValueError(message(_called(metric), must, got, "Correct the measure or its bounds"))


def _check_resamples(metric: Any, found: Any, rows: Sequence[Any], cols: Sequence[Any], counts: Tensor) -> None:
    if found is not None:
        _check_array(metric, "what bootstrapped returns", found, (len(counts), len(rows), len(cols)))


def _check_array(metric: Any, what: str, found: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    if not isinstance(found, Tensor) or tuple(found.shape) != shape or found.dtype != (dtype or found.dtype):
        kind = "a tensor" if dtype is None else f"a {str(dtype).removeprefix('torch.')} tensor"
        got = f"{tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        must = f"{what} must be {kind} of shape {shape}"
        raise ValueError(message(_called(metric), must, got, "Return one value per pair of layers"))


def _called(metric: Any) -> str:
    return type(metric).__name__


#: Method -> what its result is held to.
_CHECKS: dict[str, Callable[..., None]] = {
    "prepare": _check_states,
    "permuted": _check_states,
    "pairwise": _check_pairs,
    "bootstrapped": _check_resamples,
}


class Metric(ABC):
    """A measure of how alike two representations of the same n samples are.

    A subclass is a frozen dataclass of settings, and its repr rebuilds it. Layers are prepared once each, so
    a matrix of r rows and c columns costs r + c preparations; all pairs are then crossed at once. A subclass of the
    user's own is a metric like any other, and is named by its place, "package.module:Mine(setting=1)".

    Whatever a subclass computes is computed in full precision, see `full_precision`, and held to the shapes below.
    """

    kind: ClassVar[Literal["similarity", "distance"]]
    self_value: ClassVar[float]
    #: What equal layers have more than `self_value`, times n: 0 for all measures but those that count ranks.
    self_excess: ClassVar[float] = 0.0
    symmetric: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    cost: ClassVar[str]
    #: What a reader of bootstrap intervals of this measure should know; empty where they cover what they say.
    bootstrap_caution: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _COMPUTES:
            if name in cls.__dict__:
                setattr(cls, name, _checked(name, full_precision()(cls.__dict__[name])))

    @property
    @abstractmethod
    def title(self) -> str:
        """What pictures and tables call it, with the settings that change its meaning."""

    @property
    @abstractmethod
    def meaning(self) -> str:
        """One sentence: what the number says."""

    @property
    @abstractmethod
    def source(self) -> str:
        """The paper and its identifier."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The interval that the value cannot leave."""

    @property
    @abstractmethod
    def invariances(self) -> frozenset[Invariance]:
        """Transformations of one side that leave the value; under every other one it changes.

        What a declared one includes need not be declared.
        """

    @property
    def display(self) -> tuple[float, float]:
        """The colour limits that make two pictures comparable."""
        return self.bounds

    @property
    def facts(self) -> MetricFacts:
        """All that a saved matrix and a picture need to know."""
        return MetricFacts(**{f.name: getattr(self, f.name) for f in fields(MetricFacts)})

    @property
    def min_samples(self) -> int:
        """The fewest samples for which the value is defined."""
        return 3

    @abstractmethod
    def prepare(self, layers: Sequence[Float[Tensor, "n _p"]], labels: Int[Tensor, " n"] | None) -> list[Any]:
        """What is needed of each layer, computed once.

        Args:
            layers: Finite features with the same n >= min_samples rows. They are never changed.
            labels: (n,) class indices; None only where the metric does not need them.

        Returns:
            One state per layer, in order.
        """

    @abstractmethod
    def pairwise(self, rows: Sequence[Any], cols: Sequence[Any]) -> PairwiseResult:
        """The value of every pair of prepared layers.

        Args:
            rows: States of `prepare`.
            cols: States of the same call of `prepare`; possibly the same list.
        """

    def compared(self, rows: Sequence[Any], cols: Sequence[Any]) -> PairwiseResult:
        """As `pairwise`, with the details that cost several times as much: intervals, p-values.

        `compare` shows them; resamples, permutations and studies that only want values do without.
        """
        return self.pairwise(rows, cols)

    def permuted(self, states: Sequence[Any], order: Int[Tensor, " n"]) -> list[Any] | None:
        """What `prepare` would give for rows in another order, without preparing anew.

        Measures of answers to a task permute them within each class. None, as here, where the algebra offers nothing
        cheaper than preparing the permuted rows.
        """
        return None

    def bootstrapped(
        self, rows: Sequence[Any], cols: Sequence[Any], counts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b r c"] | None:
        """The value of every pair on resamples of the rows, from prepared states.

        Args:
            rows: As for `pairwise`.
            cols: As for `pairwise`.
            counts: How often each resample holds each row. A row drawn twice is one sample that counts twice,
                never a pair of twins: twins are each other's nearest neighbour and would bias every estimator
                that looks at pairs of rows.

        Returns:
            (b, r, c) float64, NaN where there is no number; or None, as here, where preparing the drawn rows anew
            is right and nothing cheaper is known.
        """
        return None


class TaskMetric(Metric):
    """A measure that needs a downstream task; several tasks are prepared in one call."""

    needs_labels: ClassVar[bool] = True

    @abstractmethod
    def prepare_tasks(
        self, layers: Sequence[Float[Tensor, "n _p"]], tasks: Mapping[str, Tensor]
    ) -> dict[str, list[Any]]:
        """As `prepare`, for several tasks at once.

        Args:
            layers: As for `prepare`.
            tasks: Name -> (n,) class indices, `repsim.tasks.ABSENT` where a sample has no part in the task; a measure
                of regressions also takes (n,) or (n, t) floating-point targets.

        Returns:
            Task -> one state per layer.
        """

    def prepare(self, layers: Sequence[Tensor], labels: Tensor | None) -> list[Any]:
        if labels is None:
            advice = "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y)"
            raise ValueError(message(type(self).__name__, "a downstream task is needed", "no labels", advice))
        return self.prepare_tasks(layers, {"labels": labels})["labels"]


def undefined_cells(rows: Sequence[str], cols: Sequence[str]) -> dict[tuple[int, int], str]:
    """The cells that have no number because a layer has none.

    Args:
        rows: Of each row layer, what it has instead of a number, as in "constant features"; empty where it has one.
        cols: Of each column layer.
    """
    return {
        (i, j): f"the row layer has {a}" if a else f"the column layer has {b}"
        for i, a in enumerate(rows)
        for j, b in enumerate(cols)
        if a or b
    }


def without_numbers(table: Tensor, cells: Iterable[tuple[int, int]]) -> Tensor:
    """Writes NaN into some cells of a (…, r, c) table, and returns it."""
    for i, j in cells:
        table[..., i, j] = math.nan
    return table


def pairs(rows: Sequence[Any], cols: Sequence[Any], value: Any) -> Float[Tensor, "r c"]:
    """An (r, c) float64 table of a function of two states, for details that cost nothing."""
    return torch.tensor([[float(value(a, b)) for b in cols] for a in rows], dtype=torch.float64)


def within_bounds(values: np.ndarray, bounds: tuple[float, float]) -> tuple[np.ndarray, int]:
    """Clips what rounding has pushed out of the bounds, and says how many values that were."""
    low, high = bounds
    excess = np.nan_to_num(np.maximum(low - values, values - high), nan=0.0)
    if excess.max(initial=0) > ROUNDING:
        raise InternalError(
            message(
                "compare",
                f"values must lie in [{low:g}, {high:g}]",
                f"{excess.max():.2e} outside",
                "Report this",
            )
        )
    outside = int((excess > 0).sum())
    return np.clip(values, low, high), outside
