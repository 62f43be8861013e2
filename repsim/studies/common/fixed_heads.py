"""Linear heads on layers, asked also about rows that come from elsewhere: other images, or the same ones moved."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim.metrics.transferred.base import Fit
from repsim.metrics.transferred.td import TD
from repsim.probes.fit import LayerProbes, fit_probes


@dataclass(frozen=True, eq=False)
class FixedHeads:
    """A layer's heads for the labels, one per fold.

    Attributes:
        train: (folds, n) the rows that each was fitted on.
        reason: Why their answers cannot be trusted; empty where they can.
    """

    train: Bool[Tensor, "f n"]
    reason: str
    _probes: LayerProbes

    @property
    def asked(self) -> Bool[Tensor, " n"]:
        """The rows that some fold held out."""
        return (~self.train).any(0)

    def answers(self, x: Float[Tensor, "m p"], fold: int = 0) -> Int[Tensor, " m"]:
        """The classes, 0..k-1 in the order of the labels, that one fold's head gives to any rows of this layer."""
        coefficients, intercepts = self._probes.head("labels", fold=fold)
        return (x.double() @ coefficients.T + intercepts).argmax(1).cpu()

    def held_out(self, x: Float[Tensor, "n p"]) -> Int[Tensor, " a"]:
        """What rows that stand for the fitted ones are answered by the head that did not see them, in their order."""
        found = torch.full((len(x),), -1)
        for fold, train in enumerate(self.train):
            found[~train] = self.answers(x[~train], fold)
        return found[self.asked]


def fit_heads(
    layers: Sequence[Float[Tensor, "n _p"]], labels: Int[Tensor, " n"], train: Bool[Tensor, "f n"], metric: TD
) -> list[FixedHeads]:
    """The heads of TD, certified as TD's are.

    Args:
        layers: Features of the same rows.
        labels: Their classes.
        train: The rows that each fold is fitted on.
        metric: Whose penalty, tolerance and number of steps are taken.
    """
    numbered = labels.unique(return_inverse=True)[1]
    options = {"penalties": (metric.penalty,), "tol": metric.tol, "max_iter": metric.max_iter}
    found = []
    for probes in fit_probes(layers, {"labels": numbered}, train, **options):
        undefined = Fit.of(probes, "labels", metric.tol).undefined
        reason = f"the layer has {undefined}" if undefined else ""
        found.append(FixedHeads(train, reason, probes))
    return found
