"""Numbers of a group of networks, each a mean over networks or over their pairs, under any weights of the networks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from repsim.studies.common.jackknife import Estimate, NetworkNumbers, jackknife


@dataclass(frozen=True, eq=False)
class NetworkMean:
    """A mean over networks or pairs of networks, or the ratio of two such means.

    A ratio of means and no mean of ratios: a pair of heads without errors has no ratio of its own, and where errors are
    few single ratios are mostly noise.

    Attributes:
        above: (s,) a number of each network, or (s, s) of each pair; a network with itself is no pair.
        below: The same of what it is divided by; None for a plain mean.
    """

    above: Float[np.ndarray, "..."]
    below: Float[np.ndarray, "..."] | None = None

    @property
    def networks(self) -> int:
        """How many networks there are."""
        return len(self.above)

    def under(self, weights: Float[np.ndarray, "b s"]) -> Float[np.ndarray, " b"]:
        """The number with network i counted wᵢ times: Σ wᵢ aᵢ / Σ wᵢ bᵢ, over pairs Σ wᵢ wⱼ aᵢⱼ / Σ wᵢ wⱼ bᵢⱼ, i ≠ j.

        A network that counts twice makes no pair with itself, which would have a TD of 0. NaN where nothing is left.
        """
        total = _sum(self.above, weights)
        size = _sum(np.ones_like(self.above) if self.below is None else self.below, weights)
        return np.divide(total, size, out=np.full(len(weights), math.nan), where=size > 0)

    def of(self, networks: Sequence[int]) -> float:
        """The number of these networks alone."""
        weights = np.zeros((1, self.networks))
        weights[0, list(networks)] = 1
        return float(self.under(weights)[0])

    @property
    def estimate(self) -> Estimate:
        """The number of all networks and its standard error over networks."""
        return jackknife(lambda groups: self.of(groups[0]), [range(self.networks)])

    def less(self, other: "NetworkMean") -> Estimate:
        """This number less the same of another group of networks, as one jackknifed statistic."""

        def gap(groups: NetworkNumbers) -> float:
            return self.of(groups[0]) - other.of(groups[1])

        return jackknife(gap, [range(self.networks), range(other.networks)])


def _sum(table: Float[np.ndarray, "..."], weights: Float[np.ndarray, "b s"]) -> Float[np.ndarray, " b"]:
    if table.ndim == 1:
        return weights @ table
    return ((weights @ np.where(np.eye(len(table), dtype=bool), 0.0, table)) * weights).sum(1)
