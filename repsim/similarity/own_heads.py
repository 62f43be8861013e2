"""What networks themselves answer, held against the labels and against heads that are fitted anew."""

import math
from collections.abc import Mapping

import numpy as np

from repsim.features.activations import Activations, normalisation_of
from repsim.features.side_checks import is_untrained

#: By how much refitted heads must be better than a network's own, in accuracy, to be spoken of.
_FAR = 0.1


def outputs_differ(a: Activations, b: Activations) -> dict[str, float]:
    """How often the networks' own heads answer differently: what retrained heads are to be held against."""
    if a.outputs is None or b.outputs is None or a.outputs.shape != b.outputs.shape:
        return {}
    return {"outputs_disagree": float((a.outputs.argmax(1).cpu() != b.outputs.argmax(1).cpu()).double().mean())}


def heads_cautions(a: Activations, b: Activations, details: Mapping[str, np.ndarray]) -> list[str]:
    """Tells of each network whose own head answers far worse than heads fitted on its last layer.

    That is how images look that a network was not made for: other normalisation, other size, classes in another order.
    Untrained networks and images under a condition are expected to be answered wrongly, and are not spoken of.

    Args:
        a: First side.
        b: Second side.
        details: Of a measure with heads: their accuracies on held-out rows, (r, c).
    """
    said = []
    for side, name, last in ((a, "accuracy_row", (-1, 0)), (b, "accuracy_col", (0, -1))):
        own = side.accuracy
        if name not in details or own is None or side.provenance.get("condition") or is_untrained(side):
            continue
        refitted = float(details[name][last])
        least = max(_FAR, 3 * math.sqrt(2 * max(own * (1 - own), 0.01) / side.n))
        if refitted - own > least:
            said.append(
                f"heads refitted on {side.layers[-1]} of {side.name} answer {refitted:.2f} right, its own head "
                f"{own:.2f}: is its input normalised as in training (here: {normalisation_of(side.provenance)}), and "
                "do its classes stand in the labels' order?"
            )
    return list(dict.fromkeys(said))
