"""How sure a number is that was made from pairs of networks: whole networks are left out, one at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from repsim._common.html import ShownAsTable

if TYPE_CHECKING:
    import pandas as pd

#: All measures here are of order one, and so are their means; less than this is rounding.
_ROUNDING = 1e-12

NetworkNumbers = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Estimate(ShownAsTable):
    """A number and its standard error over networks.

    Attributes:
        value: From all networks.
        error: Standard error, from leaving out one network at a time; NaN where the groups are too small to tell.
        degrees_of_freedom: Networks of the smallest group less one.
    """

    value: float
    error: float
    degrees_of_freedom: int

    def to_frame(self) -> "pd.DataFrame":
        """One row: the value, its standard error, the degrees of freedom and the ends of the 95 % interval."""
        import pandas as pd

        low, high = self.interval()
        told = {"value": self.value, "error": self.error, "degrees_of_freedom": self.degrees_of_freedom}
        return pd.DataFrame([{**told, "ci_low": low, "ci_high": high}])

    @property
    def exact(self) -> bool:
        """Whether all networks agree to rounding, as shares of few images or pairs of layers may by chance."""
        return self.error <= _ROUNDING * max(1.0, abs(self.value))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval; NaN ends where there is no standard error, or one of 0, which tells nothing of others."""
        from scipy.stats import t

        known = self.degrees_of_freedom > 0 and not self.exact
        half = float(t.ppf((1 + level) / 2, self.degrees_of_freedom)) * self.error if known else math.nan
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Student's two-sided p-value of zero; NaN where there is no standard error.

        Networks that agree exactly have an error of 0 that says nothing of other networks: a difference of theirs has
        no p-value either.
        """
        from scipy.stats import t

        if math.isnan(self.error) or math.isnan(self.value):
            return math.nan
        if self.exact:
            return 1.0 if abs(self.value) <= _ROUNDING else math.nan
        return 2 * float(t.sf(abs(self.value) / self.error, self.degrees_of_freedom))


def jackknife(statistic: Callable[[NetworkNumbers], float], groups: Sequence[Sequence[int]]) -> Estimate:
    """A statistic of groups of networks and its standard error.

    The S(S−1)/2 pairs of S networks are not independent, as each network is in S−1 of them; the networks are. So the
    statistic θ is taken again without each network i of a group, and the groups' variances
    (S−1)/S · Σ (θ₋ᵢ − mean θ₋)² add up.

    Args:
        statistic: Of the groups, each the numbers of its networks. It may be a difference of means, of groups that
            share no network; NaN where a group has become too small.
        groups: The numbers of the networks, group by group.

    Returns:
        The statistic of all networks with its error.

    Source:
        Efron, Stein 1981, "The jackknife estimate of variance"; for several samples Arvesen 1969.

    Cost:
        The statistic once per network.
    """
    whole = tuple(tuple(group) for group in groups)
    variance = 0.0
    for at, group in enumerate(whole):
        left = np.array([statistic((*whole[:at], _without(group, i), *whole[at + 1 :])) for i in group])
        variance += (len(group) - 1) / len(group) * float(((left - left.mean()) ** 2).sum())
    error = math.sqrt(variance) if math.isfinite(variance) else math.nan
    degrees_of_freedom = min(len(group) for group in whole) - 1
    return Estimate(statistic(whole), error if degrees_of_freedom > 0 else math.nan, degrees_of_freedom)


def within(table: Float[np.ndarray, "m m"], group: Sequence[int]) -> float:
    """Mean over all pairs of different networks of a group, in both orders; NaN for fewer than two."""
    part = table[np.ix_(group, group)]
    return float(part[~np.eye(len(group), dtype=bool)].mean()) if len(group) > 1 else math.nan


def between(table: Float[np.ndarray, "m m"], rows: Sequence[int], cols: Sequence[int]) -> float:
    """Mean over all pairs of a network of one group with a network of another; NaN where a group is empty."""
    return float(table[np.ix_(rows, cols)].mean()) if len(rows) and len(cols) else math.nan


def _without(group: tuple[int, ...], network: int) -> tuple[int, ...]:
    return tuple(i for i in group if i != network)
