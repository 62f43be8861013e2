"""What a metric is: its facts, and the two methods `prepare` and `pairwise`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import InternalError, message
from repsim.numerics.precision import full_precision

Invariance = Literal["orthogonal", "scale", "shift", "invertible"]

#: The methods of metrics that compute.
_COMPUTES = ("prepare", "prepare_tasks", "pairwise", "permuted", "bootstrapped", "update")


@dataclass(frozen=True)
class PairwiseResult:
    """All pairs of two lists of prepared layers.

    Attributes:
        values: (r, c) float64; NaN where there is no number.
        details: Name -> (r, c), what stands beside each value.
        reasons: (row, column) -> why the value is NaN. Every NaN has one.
        cautions: What a careful reader should know of all of it, one sentence each.
    """

    values: Float[Tensor, "r c"]
    details: Mapping[str, Tensor] = field(default_factory=dict)
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricFacts:
    """What a measure says of its values: all that a saved matrix and a picture need to know of it.

    Attributes:
        title: What pictures and tables call it, with the settings that change its meaning.
        meaning: One sentence: what the number says.
        source: The paper and its identifier.
        kind: Whether larger means more alike or further apart.
        bounds: The interval that the value cannot leave.
        display: The colour limits that make two pictures comparable.
        self_value: Of a layer with itself.
        symmetric: Whether the sides can be swapped.
        invariances: Transformations of one side that leave the value.
    """

    title: str
    meaning: str
    source: str
    kind: Literal["similarity", "distance"]
    bounds: tuple[float, float]
    display: tuple[float, float]
    self_value: float
    symmetric: bool
    invariances: frozenset[Invariance]


class Metric(ABC):
    """A measure of how alike two representations of the same n samples are.

    A subclass is a frozen dataclass of settings, and its repr rebuilds it. Layers are prepared once each, so
    a matrix of r rows and c columns costs r + c preparations; all pairs are then crossed at once.

    Whatever a subclass computes is computed in full precision, see `full_precision`.
    """

    kind: ClassVar[Literal["similarity", "distance"]]
    self_value: ClassVar[float]
    symmetric: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    cost: ClassVar[str]
    #: What a reader of bootstrap intervals of this measure should know; empty where they cover what they say.
    bootstrap_caution: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _COMPUTES:
            if name in cls.__dict__:
                setattr(cls, name, full_precision()(cls.__dict__[name]))

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
        """Transformations of one side that leave the value; under every other one it changes."""

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


CONSTANT = "constant features: every sample has the same row"


def constant_reasons(rows: Sequence[Any], cols: Sequence[Any]) -> dict[tuple[int, int], str]:
    """The cells that have no number because a layer is constant; states carry `constant: bool`."""
    return {
        (i, j): f"the {'row' if a.constant else 'column'} layer has {CONSTANT}"
        for i, a in enumerate(rows)
        for j, b in enumerate(cols)
        if a.constant or b.constant
    }


def pairs(rows: Sequence[Any], cols: Sequence[Any], value: Any) -> Float[Tensor, "r c"]:
    """An (r, c) float64 table of a function of two states, for details that cost nothing."""
    return torch.tensor([[float(value(a, b)) for b in cols] for a in rows], dtype=torch.float64)


#: Values may leave a metric's bounds by this much through rounding; they are clipped and the clipping is counted.
ROUNDING = 1e-6


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
