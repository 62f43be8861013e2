"""Networks of one strategy against those of another: do two ways of training answer alike?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from repsim.features.activations import Activations
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.transferred.td import TD, HardPredictions
from repsim.studies.augmentation.pair_statistics import StrategyFeatures
from repsim.studies.common.jackknife import Estimate, NetworkNumbers, jackknife

if TYPE_CHECKING:
    from pandas import DataFrame


def between_table(
    answers: Mapping[str, Sequence[HardPredictions]], asked: StrategyFeatures, layer: str, metric: TD
) -> "DataFrame":
    """TD, TD ratio and CKA of every two strategies, a strategy with itself among them.

    Pairs of networks of one seed are left out: they began from the same random weights and saw the images in the same
    order, and may be alike for that reason alone.

    Args:
        answers: Strategy -> its networks' answers.
        asked: The images and features.
        layer: Which.
        metric: TD that made the answers.

    Returns:
        One row per pair of strategies in either order, with standard errors over the networks of both.
    """
    import pandas as pd

    metric = replace(metric, fit_rows=tuple(range(asked.fitted)))
    sides = [side for group in asked.sides.values() for side in group]
    states = [state for group in answers.values() for state in group]
    found, alike = metric.pairwise(states, states), CKA()
    features = alike.prepare([side[layer][asked.fitted :] for side in sides], None)
    cka = alike.pairwise(features, features).values.numpy()
    td, independent = found.values.numpy(), found.details["independent"].numpy()
    seeds = [_seed(side) for side in sides]
    kept = np.array([[i != j and (a is None or a != b) for j, b in enumerate(seeds)] for i, a in enumerate(seeds)])
    places, start = {}, 0
    for name, group in asked.sides.items():
        places[name] = tuple(range(start, start + len(group)))
        start += len(group)
    rows = []
    for one, first in places.items():
        for two, second in places.items():
            row: dict[str, Any] = {"strategy": one, "other": two}
            measures = {"td": (td, np.ones_like(td)), "td_ratio": (td, independent), "cka": (cka, np.ones_like(cka))}
            for measure, (above, below) in measures.items():
                estimate = _mean(above, below, kept, first, second)
                row |= {measure: estimate.value, f"{measure}_se": estimate.error}
            rows.append(row)
    return pd.DataFrame(rows)


def _mean(
    above: Float[np.ndarray, "m m"],
    below: Float[np.ndarray, "m m"],
    kept: Bool[np.ndarray, "m m"],
    first: tuple[int, ...],
    second: tuple[int, ...],
) -> Estimate:
    def mean(groups: NetworkNumbers) -> float:
        cells = np.ix_(groups[0], groups[-1])
        size = float(below[cells][kept[cells]].sum())
        return float(above[cells][kept[cells]].sum()) / size if size > 0 else np.nan

    return jackknife(mean, [first] if first == second else [first, second])


def _seed(side: Activations) -> int | None:
    """The seed a network was trained from or started with, where that is known."""
    return side.provenance.get("record", {}).get("seed", side.provenance.get("seed"))
