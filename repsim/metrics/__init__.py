"""Measures of similarity, in families that share their work; each file has a table `METRICS` of its names.

`METRICS` here maps all names to ready instances; the classes have their settings, so `repsim.metrics.TD(seed=1)` is
`td` under another split. A new measure is its file and one line of import on this page.
"""

import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from repsim._common.messages import did_you_mean, message
from repsim.metrics.alignment.cka import CKA as CKA
from repsim.metrics.alignment.cka_minibatch import MinibatchCKA as MinibatchCKA
from repsim.metrics.alignment.cka_rbf import RBFCKA as RBFCKA
from repsim.metrics.base import Metric, MetricFacts, PairwiseResult, TaskMetric
from repsim.metrics.confounder import Confounder
from repsim.metrics.geometry.distance_correlation import DistanceCorrelation as DistanceCorrelation
from repsim.metrics.geometry.information_imbalance import InformationImbalance as InformationImbalance
from repsim.metrics.geometry.knn_jaccard import KNNJaccard as KNNJaccard
from repsim.metrics.geometry.neighbours import CKNNA as CKNNA
from repsim.metrics.geometry.neighbours import MutualKNN as MutualKNN
from repsim.metrics.geometry.rank_similarity import RankSimilarity as RankSimilarity
from repsim.metrics.geometry.rsa import RSA as RSA
from repsim.metrics.geometry.rsm_norm_difference import RSMNormDifference as RSMNormDifference
from repsim.metrics.geometry.rtd import RTD as RTD
from repsim.metrics.geometry.second_order_cosine import SecondOrderCosine as SecondOrderCosine
from repsim.metrics.matching.correlation_match import CorrelationMatch as CorrelationMatch
from repsim.metrics.matching.permutation_procrustes import PermutationProcrustes as PermutationProcrustes
from repsim.metrics.matching.soft_matching import SoftMatching as SoftMatching
from repsim.metrics.ones_own import check_own, is_own, own_metric, own_name, read_settings
from repsim.metrics.spectral.cca import CCA as CCA
from repsim.metrics.spectral.eigenspace_overlap import EigenspaceOverlap as EigenspaceOverlap
from repsim.metrics.spectral.linear_regression import LinearRegression as LinearRegression
from repsim.metrics.spectral.procrustes import Procrustes as Procrustes
from repsim.metrics.spectral.ridge_smoothers import GULP as GULP
from repsim.metrics.spectral.ridge_smoothers import WhiteTD as WhiteTD
from repsim.metrics.transferred.td import TD as TD
from repsim.metrics.transferred.td_regression import RegressionTD as RegressionTD
from repsim.metrics.transferred.td_soft import SoftTD as SoftTD


def _by_name(families: Iterable[type[Metric]]) -> dict[str, Metric]:
    """The tables of the files in which the classes are.

    Raises:
        ValueError: Two measures of one name.
    """
    found: dict[str, Metric] = {}
    for module in dict.fromkeys(family.__module__ for family in families):
        for name, metric in sys.modules[module].METRICS.items():
            if name in found:
                got = f"{name!r} in {module} and in {type(found[name]).__module__}"
                raise ValueError(message("metrics", "every measure must have a name of its own", got, "Rename one"))
            found[name] = metric
    return found


#: Every measure by name.
METRICS: dict[str, Metric] = _by_name(
    thing
    for thing in list(globals().values())
    if isinstance(thing, type) and issubclass(thing, Metric) and thing not in (Metric, TaskMetric)
)

#: The classes of the measures are public too, as `X as X` above tells type checkers.
__all__ = [
    "METRICS",
    "Confounder",
    "Metric",
    "MetricFacts",
    "PairwiseResult",
    "TaskMetric",
    "get_metric",
    "is_own",
    "known_metric",
    "metric_name",
    "own_facts",
]


def get_metric(metric: str | Metric) -> Metric:
    """A metric by name, by name with settings, or itself.

    Args:
        metric: "td", "td(seed=1, penalty=0.01)", the place of a class of your own, "package.module:Mine(setting=1)",
            which is imported, or an instance of either.

    Raises:
        ValueError: An unknown name or setting, with close matches; a class that does not say what it measures.
        TypeError: Neither a name nor a metric.

    Example:
        >>> get_metric("td(seed=3)").seed
        3
    """
    if isinstance(metric, Metric):
        if type(metric) not in map(type, METRICS.values()):
            check_own(metric, METRICS)
        return metric
    if not isinstance(metric, str):
        advice = "Write it as in compare(a, b, Mine()); a class becomes a metric by its brackets"
        raise TypeError(message("metric", "a metric must be a name or a Metric", f"{metric!r}", advice))
    return get_metric(own_metric(metric)) if is_own(metric) else known_metric(metric)


def known_metric(text: str) -> Metric:
    """A metric of the package by name, or by name with settings: whatever the text, nothing is imported.

    Raises:
        ValueError: An unknown name or setting, with close matches.
    """
    name, bracket, _ = text.partition("(")
    if name not in METRICS:
        raise ValueError(message("metric", "the metric must be known", repr(name), did_you_mean(name, METRICS)))
    base = METRICS[name]
    if not bracket:
        return base
    return type(base)(**read_settings(text, {f: getattr(base, f) for f in _settings(base)}, call=name))


def metric_name(metric: Metric) -> str:
    """The name of a metric in `METRICS`, with the settings that differ from it in brackets; of one's own the place."""
    for name, known in METRICS.items():
        if metric == known:
            return name
    family = [(name, known) for name, known in METRICS.items() if type(known) is type(metric)]
    if not family:
        return own_name(metric)
    name, base = family[0]
    changed = [f"{f}={getattr(metric, f)!r}" for f in _settings(metric) if getattr(metric, f) != getattr(base, f)]
    return f"{name}({', '.join(changed)})"


def own_facts(metric: Metric) -> MetricFacts | None:
    """What a matrix must keep to be read without the measure: nothing of the package's own."""
    return metric.facts if is_own(metric_name(metric)) else None


def _settings(metric: Metric) -> list[str]:
    return [f.name for f in dataclasses.fields(metric)]  # type: ignore[arg-type]  # every family is a dataclass


def __getattr__(name: str) -> Any:
    # Reached only for names that are not there: every family's class is imported by name.
    raise AttributeError(f"repsim.metrics has no {name!r}. {did_you_mean(name, [*METRICS, *map(_family, METRICS)])}.")


def _family(name: str) -> str:
    return type(METRICS[name]).__name__
