"""What estimates allow one to say: p-values, the correction for asking several things at once, and their wording."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from repsim.studies.common.jackknife import Estimate

#: How often, at most, one of the differences that are claimed together may be none.
ALPHA = 0.05

#: What readings and protocols say where a group is too small.
NO_BASELINE = "has one network, so there is no seed-to-seed baseline and no interval"


class Uncertain(Protocol):
    """A number of which is known how far others of its kind would be from it."""

    @property
    def value(self) -> float:
        """The number."""
        ...

    @property
    def p(self) -> float:
        """Its two-sided p-value of zero; NaN where nothing tells."""
        ...

    @property
    def exact(self) -> bool:
        """Whether all that it was made from agrees, so that it has no interval."""
        ...

    def interval(self) -> tuple[float, float]:
        """The ends of its 95 % interval; NaN without one."""
        ...


Asked = TypeVar("Asked", bound=Uncertain)


@dataclass(frozen=True)
class Claim(Generic[Asked]):
    """A difference that was asked about, with its p-value corrected for all that was asked with it.

    Attributes:
        found: The difference.
        adjusted: Its p-value after Holm's correction; NaN where it has none.
    """

    found: Asked
    adjusted: float

    @property
    def holds(self) -> bool:
        """Whether a difference may be claimed."""
        return self.adjusted < ALPHA

    @property
    def standing(self) -> str:
        """What may be said of it, without its direction."""
        if math.isnan(self.found.value):
            return "no number"
        if self.found.exact:
            alike = self.found.p == 1
            return "no difference in any network" if alike else "no claim: the networks of a group agree exactly"
        if math.isnan(self.adjusted):
            return "no claim without an interval"
        if self.holds:
            return "beyond its uncertainty"
        if self.found.p < ALPHA:
            return f"not enough after the correction for all that is asked (p = {self.adjusted:.2g})"
        return "inside its uncertainty"

    def verdict(self, up: str, down: str, *, why: str = "") -> str:
        """The difference in words: `up` or `down` only where the uncertainty allows it.

        Args:
            up: What a difference above 0 means.
            down: What one below 0 means.
            why: The reason of a missing number.
        """
        if math.isnan(self.found.value):
            return f"no number{f' ({why})' if why else ''}"
        if self.found.exact:
            return self.standing if self.found.p == 1 else f"{self.found.value:+.3f}, {self.standing}"
        if not self.holds:
            return f"{shown(self.found, sign=True)}, {self.standing}"
        return f"{shown(self.found, sign=True)}, {up if self.found.value > 0 else down} (p = {self.adjusted:.2g})"


def claims(found: Sequence[Asked]) -> list[Claim[Asked]]:
    """What is asked at once, each with its p-value corrected for all of them."""
    adjusted = holm([each.p for each in found])
    return [Claim(each, p) for each, p in zip(found, adjusted, strict=True)]


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


def shown(found: Uncertain, *, sign: bool = False) -> str:
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
