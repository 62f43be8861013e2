"""Measures of similarity. One file is one family; every file with a `METRICS` table is found by itself.

`METRICS` maps names to ready instances; the classes are the families with their settings, so
`repsim.metrics.TD(seed=1)` is `td` under another split.
"""

import ast
import dataclasses
import importlib
import pkgutil
from typing import Any

from repsim._checks import did_you_mean, message
from repsim.metrics._base import Cross, Metric, TaskMetric

#: Every measure by name.
METRICS: dict[str, Metric] = {}

for _info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
    if not _info.name.startswith("_"):
        _module = importlib.import_module(f"{__name__}.{_info.name}")
        METRICS.update(_module.METRICS)
        for _metric in _module.METRICS.values():
            globals()[type(_metric).__name__] = type(_metric)

__all__ = ["METRICS", "Cross", "Metric", "TaskMetric", "get_metric", "metric_name"]


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
    # Reached only for names that are not there: the loop above has set every family's class.
    raise AttributeError(f"repsim.metrics has no {name!r}. {did_you_mean(name, [*METRICS, *map(_family, METRICS)])}.")


def _family(name: str) -> str:
    return type(METRICS[name]).__name__
