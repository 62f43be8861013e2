"""Gaps between heads with their uncertainty, and what the numbers of training dynamics say."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim.metrics import Metric, metric_name
from repsim.numerics.intervals import wilson
from repsim.studies.common.claims import Claim, claims, shown

if TYPE_CHECKING:
    from pandas import DataFrame

#: A similarity to the trained network above which a layer counts as settled.
SETTLED = 0.9

_RESAMPLES = 5000


@dataclass(frozen=True)
class ImageEstimate:
    """A number with its 95 % interval over the choice of images that given heads are asked about.

    Attributes:
        value: The number.
        low: Lower end.
        high: Upper end.
        p: Two-sided p-value of zero; NaN where it is not asked.
        exact: Never: images are many.
    """

    value: float
    low: float
    high: float
    p: float = math.nan
    exact: Literal[False] = False

    def interval(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high


@dataclass(frozen=True, eq=False)
class HeadAnswers:
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


HeadsByEpoch = Mapping[str, Mapping[int, Sequence[HeadAnswers]]]


def reading(
    table: "DataFrame", scores: Sequence[Mapping[str, Any]], answered: HeadsByEpoch, metric: Metric
) -> tuple[str, ...]:
    """Sentences on each group and on each pair of them; what lies inside its uncertainty is called that."""
    sentences = []
    claimed = _claimed({group: epochs[max(epochs)] for group, epochs in answered.items()})
    for group, epochs in answered.items():
        own: Any = table[table.group == group]
        layers = list(own.sort_values("place").layer.unique())
        sentences.append(_networks(group, [score for score in scores if score["group"] == group][-1]))
        if metric.kind == "similarity":
            sentences.append(_settling(group, own, layers, metric_name(metric)))
        sentences.append(_gaps(group, max(epochs), layers, epochs[max(epochs)], claimed.get((group,))))
    for pair, claim in claimed.items():
        if len(pair) == 2:
            said = claim.verdict(f"more in {pair[0]}", f"more in {pair[1]}")
            sentences.append(f"Growth of that gap from the first layer to the last, {' less '.join(pair)}: {said}.")
    some = next(iter(next(iter(answered.values())).values()))[0]
    sentences.append(
        f"Train: {len(some.train):,} images that the networks were trained on, which also fit the heads. Test: "
        f"{len(some.test):,} others. There is one training per group: intervals are 95 %, each for one comparison "
        f"alone, p-values of growths corrected by Holm over {len(claimed)}; both cover the choice of images that these "
        "heads are asked about, not of those they were fitted on, nor of trainings."
    )
    return tuple(sentences)


def _networks(group: str, score: Mapping[str, Any]) -> str:
    text = f"{group}: the network after epoch {score['epoch']} is right on {score['train']:.3f} of the train images "
    text += f"and {score['test']:.3f} of the test images"
    if "train_attacked" not in score:
        return f"{text}."
    attacked = score["train_attacked"], score["test_attacked"]
    return f"{text}; under attack {attacked[0]:.3f} and {attacked[1]:.3f}, a gap of {attacked[0] - attacked[1]:+.3f}."


def _settling(group: str, own: Any, layers: Sequence[str], metric: str) -> str:
    epochs = sorted(own.epoch.unique())
    places = []
    for place in range(len(layers)):
        values = own[own.place == place].sort_values("epoch").to_final
        places.append(settled(list(values), SETTLED))
    named = ", ".join(
        f"{'no number' if at is None else epochs[at]} at {layer}" for layer, at in zip(layers, places, strict=True)
    )
    found = [at for at in places if at is not None]
    if len(set(found)) < 2:
        order = "these epochs do not tell layers apart"
    elif found == sorted(found):
        order = "earlier layers no later than deeper ones"
    elif found == sorted(found, reverse=True):
        order = "deeper layers no later than earlier ones"
    else:
        order = "not in the order of depth"
    return f"{group}: {metric} to the end stays above {SETTLED:g} from epoch {named}: {order}."


def _gaps(
    group: str, epoch: int, layers: Sequence[str], heads: Sequence[HeadAnswers], claim: Claim[ImageEstimate] | None
) -> str:
    start = f"{group}, heads after epoch {epoch}, train less test accuracy: "
    without = next((head.reason for head in heads if head.reason), "")
    if without:
        return f"{start}no number for all layers, {without}."
    found = [gap(head) for head in heads]
    said = [shown(each, sign=True) for each in found]
    largest = max(range(len(found)), key=lambda k: found[k].value)
    text = f"{start}{said[0]} at {layers[0]}, {said[-1]} at {layers[-1]}, largest at {layers[largest]} "
    text += f"({said[largest]}, picked after looking at all)"
    if claim is None:
        return f"{text}."
    change = claim.verdict(f"larger at {layers[-1]}", f"larger at {layers[0]}")
    return f"{text}; growth from {layers[0]} to {layers[-1]} {change}."


def _claimed(last: Mapping[str, Sequence[HeadAnswers]]) -> dict[tuple[str, ...], Claim[ImageEstimate]]:
    """Growths of the gap from the first layer to the last: of each training, and of one less another's."""
    ends = {group: (heads[0], heads[-1]) for group, heads in last.items() if not any(head.reason for head in heads)}
    asked: dict[tuple[str, ...], ImageEstimate] = {(group,): growth(*pair) for group, pair in ends.items()}
    asked |= {(a, b): growth(*ends[a], less=ends[b]) for a, b in itertools.combinations(ends, 2)}
    return dict(zip(asked, claims(list(asked.values())), strict=True))


def gap(head: HeadAnswers) -> ImageEstimate:
    """The gap of one head with Newcombe's interval for a difference of two shares, from the Wilson interval of each.

    Source:
        Newcombe 1998, Stat. Med. 17, 873-890, method 10.
    """
    (p, low_p, high_p), (q, low_q, high_q) = (_share(right) for right in (head.train_right, head.test_right))
    return ImageEstimate(head.gap, p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q))


def growth(
    first: HeadAnswers, last: HeadAnswers, less: tuple[HeadAnswers, HeadAnswers] | None = None, *, seed: int = 0
) -> ImageEstimate:
    """How much larger the gap of one head is than that of another, by a bootstrap over the images that both answer.

    Args:
        first: The head whose gap is subtracted.
        last: The other.
        less: Two heads of another training, first and last: the difference of both growths.
        seed: Of the resamples.

    Returns:
        The difference with the central 95 % of its resamples and the p-value that belongs to them: training and test
        images are drawn apart, and each image brings its answers of all heads.

    Source:
        Efron 1979, Ann. Statist. 7.
    """

    def change(name: str, pair: tuple[HeadAnswers, HeadAnswers]) -> np.ndarray:
        one, other = (getattr(head, name).numpy().astype(int) for head in pair)
        return other - one

    rng = np.random.default_rng(seed)
    value, moved = 0.0, np.zeros(_RESAMPLES)
    for name, sign in (("train_right", 1), ("test_right", -1)):
        per_image = change(name, (first, last)) - (0 if less is None else change(name, less))
        value += sign * float(per_image.mean())
        moved += sign * _resampled_means(per_image, rng)
    low, high = np.quantile(moved, (0.025, 0.975))
    beyond = min(int((moved <= 0).sum()), int((moved >= 0).sum()))
    return ImageEstimate(value, float(low), float(high), min(1.0, 2 * (1 + beyond) / (1 + _RESAMPLES)))


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
