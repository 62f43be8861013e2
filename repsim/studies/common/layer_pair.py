"""One layer of one architecture twice: of one network on other images, or of two networks on the same ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.metrics import Metric
from repsim.metrics.base import within_bounds


@dataclass(frozen=True)
class LayerPairResult:
    """What a measure says of two layers.

    Attributes:
        value: NaN where there is no number.
        reason: Why there is none; empty where there is one.
        details: What stands beside the value.
        cautions: What a careful reader should know.
    """

    value: float
    reason: str
    details: Mapping[str, float]
    cautions: tuple[str, ...]


def compared(
    metric: Metric, states: tuple[Any, Any], layers: tuple[Float[Tensor, "n p"], Float[Tensor, "n p"]]
) -> LayerPairResult:
    """One measure of two layers; equal features are at its value of equal features, and not at the rounding of that.

    Args:
        metric: The measure.
        states: Of one call of its `prepare`.
        layers: What they were made of.
    """
    cross = metric.pairwise([states[0]], [states[1]])
    details = {name: float(detail) for name, detail in cross.details.items()}
    if cross.reasons:
        return LayerPairResult(float("nan"), cross.reasons[0, 0], details, cross.cautions)
    value = within_bounds(cross.values.cpu().numpy(), metric.bounds)[0].item()
    if torch.equal(*layers):
        value = metric.facts.self_value_of(len(layers[0]))
    return LayerPairResult(value, "", details, cross.cautions)
