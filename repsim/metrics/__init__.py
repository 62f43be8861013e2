"""Measures of similarity, in families that share their work; each file has a table `METRICS` of its names.

`METRICS` here maps all names to ready instances; the classes have their settings, so `repsim.metrics.TD(seed=1)` is
`td` under another split. A new measure is its file and one line of import on this page.
"""

import ast
import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from repsim._common.messages import did_you_mean, message
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.alignment.cka_minibatch import MinibatchCKA
from repsim.metrics.alignment.cka_rbf import RBFCKA
from repsim.metrics.base import Metric, MetricFacts, PairwiseResult, TaskMetric
from repsim.metrics.geometry.neighbours import CKNNA, MutualKNN
from repsim.metrics.geometry.rsa import RSA
from repsim.metrics.spectral.cca import CCA
from repsim.metrics.spectral.linear_regression import LinearRegression
from repsim.metrics.spectral.procrustes import Procrustes
from repsim.metrics.spectral.ridge_smoothers import GULP, WhiteTD
from repsim.metrics.transferred.td import TD
from repsim.metrics.transferred.td_regression import RegressionTD
from repsim.metrics.transferred.td_soft import SoftTD


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
    (
        CKA,
        MinibatchCKA,
        RBFCKA,
        CCA,
        LinearRegression,
        Procrustes,
        GULP,
        WhiteTD,
        CKNNA,
        MutualKNN,
        RSA,
        TD,
        RegressionTD,
        SoftTD,
    )
)

__all__ = [
    "CCA",
    "CKA",
    "CKNNA",
    "GULP",
    "METRICS",
    "RBFCKA",
    "RSA",
    "TD",
    "LinearRegression",
    "Metric",
    "MetricFacts",
    "MinibatchCKA",
    "MutualKNN",
    "PairwiseResult",
    "Procrustes",
    "RegressionTD",
    "SoftTD",
    "TaskMetric",
    "WhiteTD",
    "get_metric",
    "metric_name",
]


def get_metric(metric: str | Metric) -> Metric:
    """A metric by name, by name with settings, or itself.

    Args:
        metric: "td", "td(seed=1, penalty=0.01)", or an instance.

    Raises:
        ValueError: An unknown name or setting, with close matches.

    Example:
        >>> get_metric("td(seed=3)").seed
        3
    """
    if isinstance(metric, Metric):
        return metric
    name, bracket, _ = metric.partition("(")
    if name not in METRICS:
        raise ValueError(message("metric", "the metric must be known", repr(name), did_you_mean(name, METRICS)))
    if not bracket:
        return METRICS[name]
    base = METRICS[name]
    settings = {f: getattr(base, f) for f in _settings(base)}
    try:
        call = ast.parse(metric.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args:
            raise ValueError("settings need names")
        for keyword in call.keywords:
            if keyword.arg not in settings:
                raise ValueError(f"no setting {keyword.arg!r}; there are {', '.join(settings) or 'none'}")
            try:
                settings[keyword.arg] = ast.literal_eval(keyword.value)
            except ValueError:
                raise ValueError(f"{keyword.arg} is no plain value") from None
            default, value = getattr(base, keyword.arg), settings[keyword.arg]
            fits = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
            if default is not None and not fits:
                raise ValueError(f"{keyword.arg} is {type(default).__name__}, not {type(value).__name__}")
    except (SyntaxError, ValueError, AssertionError) as error:
        advice = "Write it as in td(seed=1, penalty=0.01)"
        reason = str(error).partition(" (<")[0] or "no call"
        raise ValueError(message("metric", "settings must be name=value", f"{metric!r} ({reason})", advice)) from error
    return type(base)(**settings)


def metric_name(metric: Metric) -> str:
    """The name of a metric in `METRICS`, with the settings that differ from it in brackets."""
    for name, known in METRICS.items():
        if metric == known:
            return name
    family = [(name, known) for name, known in METRICS.items() if type(known) is type(metric)]
    if not family:
        advice = "Add its file to repsim/metrics with a METRICS table"
        raise ValueError(message("metric", "the metric's family must have a name", repr(metric), advice))
    name, base = family[0]
    changed = [f"{f}={getattr(metric, f)!r}" for f in _settings(metric) if getattr(metric, f) != getattr(base, f)]
    return f"{name}({', '.join(changed)})"


def _settings(metric: Metric) -> list[str]:
    return [f.name for f in dataclasses.fields(metric)]  # type: ignore[arg-type]  # every family is a dataclass


def __getattr__(name: str) -> Any:
    # Reached only for names that are not there: every family's class is imported by name.
    raise AttributeError(f"repsim.metrics has no {name!r}. {did_you_mean(name, [*METRICS, *map(_family, METRICS)])}.")


def _family(name: str) -> str:
    return type(METRICS[name]).__name__
