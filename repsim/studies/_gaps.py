"""How much better images that were trained on are answered than others, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim.metrics._intervals import wilson

_RESAMPLES = 5000


@dataclass(frozen=True)
class Sure:
    """A number with its 95 % interval over the choice of images that given heads are asked about."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def is_zero(self) -> bool:
        """Whether zero lies inside the interval."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, eq=False)
class Answered:
    """What one layer's head, fitted on the training images, answers at one epoch.

    Attributes:
        train: (n,) the classes that it gives to the training images.
        test: (m,) to the test images.
        train_right: (n,) whether they are right.
        test_right: (m,) the same.
        reason: Why the head cannot be trusted; empty where it can.
    """

    train: Int[Tensor, " n"]
    test: Int[Tensor, " m"]
    train_right: Bool[Tensor, " n"]
    test_right: Bool[Tensor, " m"]
    reason: str

    @property
    def gap(self) -> float:
        """Accuracy on the training images less that on the test images."""
        return float(self.train_right.double().mean() - self.test_right.double().mean())


def gap(head: Answered) -> Sure:
    """The gap of one head with Newcombe's interval for a difference of two shares, from the Wilson interval of each.

    Source:
        Newcombe 1998, Stat. Med. 17, 873-890, method 10.
    """
    (p, low_p, high_p), (q, low_q, high_q) = (_share(right) for right in (head.train_right, head.test_right))
    return Sure(head.gap, p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q))


def growth(first: Answered, last: Answered, less: tuple[Answered, Answered] | None = None, *, seed: int = 0) -> Sure:
    """How much larger the gap of one head is than that of another, by a bootstrap over the images that both answer.

    Args:
        first: The head whose gap is subtracted.
        last: The other.
        less: Two heads of another training, first and last: the difference of both growths.
        seed: Of the resamples.

    Returns:
        The difference with the central 95 % of its resamples: training and test images are drawn apart, and each image
        brings its answers of all heads.

    Source:
        Efron 1979, Ann. Statist. 7.
    """

    def change(name: str, pair: tuple[Answered, Answered]) -> np.ndarray:
        one, other = (getattr(head, name).numpy().astype(int) for head in pair)
        return other - one

    rng = np.random.default_rng(seed)
    value, moved = 0.0, np.zeros(_RESAMPLES)
    for name, sign in (("train_right", 1), ("test_right", -1)):
        per_image = change(name, (first, last)) - (0 if less is None else change(name, less))
        value += sign * float(per_image.mean())
        moved += sign * _resampled_means(per_image, rng)
    low, high = np.quantile(moved, (0.025, 0.975))
    return Sure(value, float(low), float(high))


def settled(to_final: Sequence[float], level: float) -> int | None:
    """The first place from which all similarities to the end are above a level; None for numbers that are missing."""
    if any(math.isnan(value) for value in to_final):
        return None
    low = [place for place, value in enumerate(to_final) if value <= level]
    return low[-1] + 1 if low else 0


def _share(right: Bool[Tensor, " n"]) -> tuple[float, float, float]:
    share = right.double().mean()
    low, high = wilson(share[None], len(right))
    return float(share), float(low), float(high)


def _resampled_means(values: Int[np.ndarray, " n"], rng: np.random.Generator) -> Float[np.ndarray, " b"]:
    """Means of bootstrap resamples; how often each of the few values is drawn is multinomial."""
    found, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), _RESAMPLES) @ found / len(values)
