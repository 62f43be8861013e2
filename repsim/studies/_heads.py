"""Do networks of one group answer alike, with their own heads and with heads fitted again on their last features?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from repsim.metrics.transferred import TD
from repsim.studies._claims import columns, holm, p_value, shown, verdict
from repsim.studies._jackknife import Estimate, jackknife
from repsim.studies._matched import Matched, Pairs, symmetric

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Heads:
    """Disagreement of all pairs of networks, by their own heads and by heads fitted again.

    A raw disagreement is mostly accuracy, so each is also taken as a share of what independent errors of the same
    accuracies would give.

    Attributes:
        own: The networks' own heads.
        again: Heads fitted on the last matched layer, asked about rows that they were not fitted on.
        layer: That layer.
    """

    own: Pairs
    again: Pairs
    layer: str

    @classmethod
    def of(cls, found: Matched) -> "Heads | None":
        """From a comparison by TD; None for other measures and where the networks' own answers are not known."""
        layer = found.layers[-1]
        matrix = found.matrices[layer]
        sides = list(found.grouped.sides.values())
        if not isinstance(found.metric, TD) or "outputs_disagree" not in matrix.details:
            return None
        again = found.ratio(layer, "", "independent")
        labels = next(side.labels for side in sides if side.labels is not None)
        answers = [side.outputs.argmax(1).cpu() for side in sides if side.outputs is not None]
        if again is None or len(answers) < len(sides):
            return None
        right = [float((answer == labels.cpu()).double().mean()) for answer in answers]
        below = _independent(np.array(right), len(labels.unique()))
        return cls(Pairs(symmetric(matrix.details["outputs_disagree"]), found.grouped, below), again, layer)

    def gain(self, group: str) -> Estimate:
        """Share of independent disagreement by heads fitted again, less that by the networks' own heads."""
        return jackknife(lambda g: self._gain(g[0]), [self.own.grouped.numbers[group]])

    def gains_differ(self, a: str, b: str) -> Estimate:
        """The same of the second group less that of the first."""
        numbers = self.own.grouped.numbers
        return jackknife(lambda g: self._gain(g[1]) - self._gain(g[0]), [numbers[a], numbers[b]])

    def _gain(self, group: tuple[int, ...]) -> float:
        return self.again.mean_within(group) - self.own.mean_within(group)

    @property
    def groups(self) -> list[str]:
        """Those with two networks or more."""
        return [group for group, sides in self.own.grouped.groups.items() if len(sides) > 1]

    def table(self) -> "DataFrame":
        """One row per group: both disagreements as they are and as shares, and their difference."""
        import pandas as pd

        rows = []
        for group in self.groups:
            row = {"group": group, "layer": self.layer}
            for name, pairs in (("own", self.own), ("again", self.again)):
                row |= columns(pairs.plain.within(group), f"{name}_disagree")
                row |= columns(pairs.within(group), f"{name}_ratio")
            rows.append({**row, **columns(self.gain(group), "ratio_gain")})
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """What the table says, and no more."""
        if not self.groups:
            return []
        pairs = [(a, b) for a, b in self.own.grouped.pairs if {a, b} <= set(self.groups)]
        found = [*(self.gain(group) for group in self.groups), *(self.gains_differ(a, b) for a, b in pairs)]
        raw = [p_value(each) for each in found]
        adjusted = dict(zip([*self.groups, *pairs], zip(found, raw, holm(raw), strict=True), strict=True))
        less, more = "so answers become less alike", "so answers become more alike"
        said = []
        for group in self.groups:
            plain = [each.plain.within(group) for each in (self.own, self.again)]
            said.append(
                f"Two networks of {group} answer {shown(plain[0])} of the images differently with their own heads "
                f"({shown(self.own.within(group))} of what independent errors would give) and {shown(plain[1])} with "
                f"heads fitted again on {self.layer} ({shown(self.again.within(group))}). "
                f"Fitting again changes that share by {verdict(*adjusted[group], up=less, down=more)}."
            )
        for a, b in pairs:
            up, down = f"larger in {b}", f"smaller in {b}"
            said.append(f"That change in {b} less that in {a}: {verdict(*adjusted[a, b], up=up, down=down)}.")
        return said


def _independent(right: Float[np.ndarray, " m"], classes: int) -> Float[np.ndarray, "m m"]:
    """Disagreement that independent errors, spread evenly over the wrong classes, would give."""
    a, b = right[:, None], right[None, :]
    return 1 - a * b - (1 - a) * (1 - b) / (classes - 1)
