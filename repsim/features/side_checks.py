"""What must hold of two sides, what results say of them, and what a careful reader should know of their answers."""

import math
from typing import Any

import torch
from torch import Tensor

from repsim._common.checks import ABSENT
from repsim._common.messages import message
from repsim.features.activations import Activations, Side, normalisation_of


def provenance_of(side: Side) -> dict[str, Any]:
    """What results say of a side: where its numbers came from, and of which samples."""
    known = {**side.provenance, "samples": side.digest, "n": side.n, "reduction": side.reduction}
    return known | ({"accuracy": side.accuracy} if isinstance(side, Activations) else {})


def common_labels(a: Activations, b: Activations, function: str) -> Tensor | None:
    """The labels of two sides that hold the same samples; raises where they contradict each other."""
    if a.labels is not None and b.labels is not None and not torch.equal(a.labels, b.labels):
        got = f"labels that differ in {int((a.labels != b.labels).sum())} of {a.n} rows"
        advice = "Give both sides the same labels, in the same order"
        raise ValueError(message(function, "both sides must carry the same labels", got, advice))
    return a.labels if a.labels is not None else b.labels


def check_same_samples(a: Side, b: Side, function: str) -> None:
    """Two sides must hold the same samples in the same order: another pairing compares nothing."""
    if a.n != b.n:
        got = f"{a.n} samples for {a.name!r} and {b.n} for {b.name!r}"
        raise ValueError(message(function, "both sides must hold the same samples", got, "Extract both on one set"))
    if a.digest is not None and b.digest is not None and a.digest != b.digest:
        got = f"digests {a.digest[:12]} for {a.name!r} and {b.digest[:12]} for {b.name!r}"
        advice = "Other samples, or another order: extract both sides on one ImageSet"
        raise ValueError(message(function, "both sides must hold the same samples in the same order", got, advice))


def is_untrained(side: Side) -> bool:
    """Whether a network is known to have the random weights of a seed."""
    return side.provenance.get("checkpoint") is None and side.provenance.get("seed") is not None


def outputs_caution(side: Activations, classes: int | None) -> str:
    """What a careful reader should know of a trained network's outputs and the labels; empty where they fit.

    Args:
        side: The network's features, outputs and labels.
        classes: How many classes the data has; None where only the labels tell.
    """
    if side.outputs is None or side.labels is None or side.provenance.get("condition") or is_untrained(side):
        return ""
    outputs, beyond = side.outputs.shape[1], int(side.labels.max()) + 1
    if beyond > outputs or (classes is not None and classes != outputs):
        count = max(beyond, classes or 0)
        return (
            f"{side.name} has {outputs} outputs and the labels {count} classes, so its answers say nothing of these "
            "labels; give data whose classes are the network's, in its order"
        )
    labels = side.labels[side.labels != ABSENT]
    known, chance = len(labels), 1 / max(len(labels.unique()), 1)
    right = side.accuracy
    if right is None or chance == 1:
        return ""
    if chance - right > 3 * math.sqrt(chance * (1 - chance) / known):
        return (
            f"{side.name} answers {right:.2f} of the samples right, fewer than by chance, {chance:.2f}: do its classes "
            f"stand in the labels' order, and is its input normalised as in training "
            f"(here: {normalisation_of(side.provenance)})?"
        )
    return ""
