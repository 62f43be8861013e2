"""What the numbers of `clean_and_attacked` say: means of groups, effects of depth and of the group, sentences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from repsim.robustness import ThreatModel
from repsim.studies.common.claims import Claim, claims
from repsim.studies.common.jackknife import Estimate
from repsim.studies.common.network_means import NetworkMean

if TYPE_CHECKING:
    import pandas as pd

#: What is measured, its group or the two groups whose difference it is, and how large it is.
Effect = tuple[str, tuple[str, ...], Estimate]


@dataclass(frozen=True, eq=False)
class AttackCurves:
    """One measure of one group: clean features against moved ones.

    Attributes:
        group: Its name.
        measure: Its name.
        kind: "similarity" or "distance".
        layers: In order of execution.
        eps: The radii, ascending.
        attacked: (s, e, l) by network, radius and layer, of images moved by the attack.
        control: (s, e, l), of images moved by noise of the same norm.
        reason: Why a number is missing, where one is.
    """

    group: str
    measure: str
    kind: str
    layers: tuple[str, ...]
    eps: tuple[float, ...]
    attacked: Float[np.ndarray, "s e l"]
    control: Float[np.ndarray, "s e l"]
    reason: str = ""

    @property
    def beyond(self) -> Float[np.ndarray, "s e l"]:
        """How much further from the clean features the attack leads than the noise."""
        return self.control - self.attacked if self.kind == "similarity" else self.attacked - self.control

    def at_last(self, radius: int) -> NetworkMean:
        """What the attack does beyond the noise at the last layer."""
        return NetworkMean(self.beyond[:, radius, -1])

    def growth(self, radius: int) -> NetworkMean:
        """How much more it does at the last layer than at the first."""
        return NetworkMean(self.beyond[:, radius, -1] - self.beyond[:, radius, 0])


def summary(curves: Sequence[AttackCurves]) -> "pd.DataFrame":
    """Means of the groups with their standard errors over networks, and the effect beyond the control."""
    import pandas as pd

    rows = []
    for c in curves:
        for e, eps in enumerate(c.eps):
            for place, layer in enumerate(c.layers):
                row: dict[str, Any] = {"measure": c.measure, "group": c.group, "eps": eps, "layer": layer}
                row |= {"place": place, "networks": len(c.attacked)}
                for name in ("attacked", "control", "beyond"):
                    found = NetworkMean(getattr(c, name)[:, e, place]).estimate
                    row |= {name: found.value, f"{name}_error": found.error}
                    if name == "beyond":
                        row |= dict(zip(("beyond_low", "beyond_high"), found.interval(), strict=True))
                rows.append(row)
    return pd.DataFrame(rows)


def differences(curves: Sequence[AttackCurves]) -> "pd.DataFrame":
    """Effects with their 95 % intervals: of the attack beyond the noise, of depth on it, and of the group on both.

    `p_holm` is corrected over all effects at one radius.
    """
    import pandas as pd

    by_radius = [_claimed(curves, e) for e in range(len(curves[0].eps))]
    rows = []
    for place, c in enumerate(curves):
        for e, eps in enumerate(c.eps):
            for (effect, groups, found), claim in by_radius[e][place]:
                low, high = found.interval()
                row = {"measure": c.measure, "eps": eps, "effect": effect, "groups": " less ".join(groups)}
                row |= {"value": found.value, "error": found.error, "ci_low": low, "ci_high": high}
                rows.append({**row, "p": found.p, "p_holm": claim.adjusted})
    return pd.DataFrame(rows)


def reading(
    curves: Sequence[AttackCurves], accuracies: Sequence[Mapping[str, Any]], threat: str, steps: int
) -> tuple[str, ...]:
    """Sentences at the largest radius; what lies inside its uncertainty is called that."""
    eps = curves[0].eps[-1]
    where = str(ThreatModel(threat, eps))  # type: ignore[arg-type]
    sentences = [
        f"Accuracy at {where}: {_accuracy(group, accuracies, eps, steps)}"
        for group in dict.fromkeys(c.group for c in curves)
    ]
    everything = _claimed(curves, -1)
    for c, claimed in zip(curves, everything, strict=True):
        sentences.append(f"{c.measure} at {where}, {_course(c)}; {_verdicts(c, claimed[:2])}.")
        for k in range(2, len(claimed), 2):
            (_, groups, _), _ = claimed[k]
            sentences.append(f"{c.measure} at {where}, {' less '.join(groups)}: {_verdicts(c, claimed[k : k + 2])}.")
    asked = [found for claimed in everything for (_, _, found), _ in claimed]
    sentences.append(
        "Intervals are 95 %, Student's over networks left out one at a time, each for one comparison alone; what is "
        f"claimed is corrected by Holm over {sum(not math.isnan(found.p) for found in asked)} effects. They do not "
        "cover the choice of images, which all networks share."
    )
    if any(math.isnan(found.p) for found in asked):
        sentences.append(
            "There is no interval for a group of one network or a difference from it, nor where networks agree "
            "exactly by chance, as shares of few images may."
        )
    return tuple(sentences)


_LAST, _GROWTH = "beyond noise at the last layer", "its growth from the first layer to the last"


def _others(c: AttackCurves, curves: Sequence[AttackCurves]) -> list[AttackCurves]:
    """The groups behind this one, of the same measure: each pair of groups once."""
    same = [other for other in curves if other.measure == c.measure]
    return same[same.index(c) + 1 :]


def _effects(c: AttackCurves, others: Sequence[AttackCurves], radius: int) -> list[Effect]:
    at_last, growth = c.at_last(radius), c.growth(radius)
    found = [(_LAST, (c.group,), at_last.estimate), (_GROWTH, (c.group,), growth.estimate)]
    for other in others:
        pair = c.group, other.group
        found += [
            (_LAST, pair, at_last.less(other.at_last(radius))),
            (_GROWTH, pair, growth.less(other.growth(radius))),
        ]
    return found


def _claimed(curves: Sequence[AttackCurves], radius: int) -> list[list[tuple[Effect, Claim[Estimate]]]]:
    """The effects of each measure and group at one radius, corrected over all of them."""
    every = [_effects(c, _others(c, curves), radius) for c in curves]
    corrected = iter(claims([found for effects in every for _, _, found in effects]))
    return [[(effect, next(corrected)) for effect in effects] for effects in every]


def _accuracy(group: str, rows: Sequence[Mapping[str, Any]], eps: float, steps: int) -> str:
    own = [row for row in rows if row["group"] == group]
    clean, attacked, control = (
        np.mean([row["accuracy"] for row in own if (row["condition"], row["eps"]) == (condition, radius)])
        for condition, radius in (("clean", 0.0), ("attacked", eps), ("control", eps))
    )
    networks = len({row["network"] for row in own})
    counted = f"{networks} network{'s' if networks > 1 else ''}"
    return f"{group} ({counted}) {clean:.3f} clean, {attacked:.3f} under PGD-{steps}, {control:.3f} under the noise."


def _course(c: AttackCurves) -> str:
    """From the first layer to the last, in plain means."""
    first, last = c.layers[0], c.layers[-1]
    attacked, control = (x[:, -1].mean(0) for x in (c.attacked, c.control))
    return (
        f"{c.group}: {attacked[0]:.3f} at {first} to {attacked[-1]:.3f} at {last} for attacked images, "
        f"{control[0]:.3f} to {control[-1]:.3f} for noise"
    )


def _verdicts(c: AttackCurves, claimed: Sequence[tuple[Effect, Claim[Estimate]]]) -> str:
    return "; ".join(f"{effect} {_verdict(c, effect, groups, claim)}" for (effect, groups, _), claim in claimed)


def _verdict(c: AttackCurves, effect: str, groups: tuple[str, ...], claim: Claim[Estimate]) -> str:
    if len(groups) == 2:
        return claim.verdict(f"larger in {groups[0]}", f"larger in {groups[1]}", why=c.reason)
    if effect == _LAST:
        where = "from the clean features than noise leads"
        return claim.verdict(f"further {where}", f"less far {where}", why=c.reason)
    return claim.verdict("larger at the last layer than at the first", "smaller at the last layer", why=c.reason)
