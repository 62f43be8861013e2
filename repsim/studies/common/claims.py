"""What estimates allow one to say: p-values, the correction for asking several things at once, and their wording."""

import math
from collections.abc import Sequence

from repsim.studies.common.jackknife import Estimate

#: How often, at most, one of the differences that are claimed together may be none.
ALPHA = 0.05

#: What counts as none; all measures here are of order one, and so are their means.
_ROUNDING = 1e-12

#: What readings and protocols say where a group is too small.
NO_BASELINE = "has one network, so there is no seed-to-seed baseline and no interval"


def p_value(found: Estimate) -> float:
    """Student's two-sided p-value of zero; NaN where there is no standard error.

    Networks that agree exactly, as shares of few pairs of layers or few images may by chance, have an error of 0 that
    says nothing of other networks: a difference of theirs has no p-value either.
    """
    from scipy.stats import t

    if math.isnan(found.error) or math.isnan(found.value):
        return math.nan
    if found.exact:
        return 1.0 if abs(found.value) <= _ROUNDING else math.nan
    return 2 * float(t.sf(abs(found.value) / found.error, found.degrees_of_freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: those below α together claim a false difference with a probability of α at most.

    Args:
        p_values: Of all that is asked at once; NaN was not asked.

    Returns:
        The same order; NaN stays NaN.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> holm([0.04, 0.01, math.nan])
        [0.04, 0.02, nan]
    """
    asked = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(asked):
        highest = max(highest, min(1.0, (len(asked) - rank) * p))
        adjusted[place] = highest
    return adjusted


def columns(found: Estimate, name: str = "value") -> dict[str, float]:
    """An estimate as columns of a table: the number, its standard error, and the ends of its 95 % interval."""
    low, high = found.interval()
    end = "" if name == "value" else f"{name}_"
    return {name: found.value, f"{end}error": found.error, f"{end}low": low, f"{end}high": high}


def shown(found: Estimate, *, sign: bool = False) -> str:
    """An estimate in words: "0.512 [0.487, 0.537]"."""
    form = "+.3f" if sign else ".3f"
    if math.isnan(found.value):
        return "no number"
    low, high = found.interval()
    if found.exact:
        return f"{found.value:{form}} in all networks (no interval)"
    return f"{found.value:{form}}" + (" (no interval)" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def span(values: Sequence[float]) -> str:
    """The range of some numbers: "0.100 to 0.250"."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "no number"
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return low if low == high else f"{low} to {high}"


def runs(names: Sequence[str], chosen: Sequence[bool]) -> str:
    """Which of the names in order are chosen: "layer1.0 to layer2.1, layer3.2"."""
    parts: list[list[str]] = []
    before = False
    for name, now in zip(names, chosen, strict=True):
        if now and before:
            parts[-1].append(name)
        elif now:
            parts.append([name])
        before = now
    return ", ".join(part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)


def verdict(found: Estimate, p: float, adjusted: float, up: str, down: str) -> str:
    """A difference with what may be said of it: `up` or `down` only where the uncertainty allows it."""
    if found.exact:
        if abs(found.value) <= _ROUNDING:
            return "no difference in any network"
        return f"{found.value:+.3f}, of which nothing is claimed: the networks of a group agree exactly"
    if math.isnan(p):
        return f"{shown(found, sign=True)}: no claim without an interval"
    if p >= ALPHA:
        return f"{shown(found, sign=True)}, inside its uncertainty"
    if adjusted >= ALPHA:
        return f"{shown(found, sign=True)}, not enough after the correction for all that is asked (p = {adjusted:.2g})"
    return f"{shown(found, sign=True)}, {up if found.value > 0 else down} (p = {adjusted:.2g})"
