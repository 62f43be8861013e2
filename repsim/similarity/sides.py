"""Two sides that a metric is asked of: what must hold, and their layers prepared in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from repsim._common.messages import message
from repsim.features.activations import Activations, Side
from repsim.features.side_checks import check_same_samples, common_labels
from repsim.metrics import Metric, TaskMetric, metric_name


def prepare_sides(
    a: Activations,
    b: Activations,
    metric: Metric,
    function: str,
    *,
    tasks: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
) -> dict[str, tuple[list[Any], list[Any]]]:
    """Checks two sides and prepares their layers; task -> states of the rows and of the columns ("" without tasks)."""
    check_sides(a, b, metric, function)
    labels = common_labels(a, b, function)
    sides = [a] if a is b else [a, b]
    layers = [side[name] if device is None else side[name].to(device) for side in sides for name in side.layers]
    # Both sides are prepared in one call, so that everything that can be fitted together is.
    if tasks is None:
        states = {"": metric.prepare(layers, labels if metric.needs_labels else None)}
    elif not isinstance(metric, TaskMetric):
        advice = "Leave tasks out, or compare by td, td_soft or td_regression"
        raise ValueError(message(function, "tasks are for measures of answers", metric_name(metric), advice))
    else:
        states = metric.prepare_tasks(layers, _checked(tasks, a.n, function))
    # One list for both sides tells a metric that half of its pairs are the other half again.
    return {name: (s, s) if a is b else (s[: len(a)], s[len(a) :]) for name, s in states.items()}


def placed(sides: Sequence[Activations], device: str | torch.device | None) -> list[Activations]:
    """Sides with their features where something is to be computed; one that stands twice stays one object.

    Args:
        sides: Which.
        device: Where, as in "cuda"; None leaves them where they are.
    """
    if device is None:
        return list(sides)
    made = {id(side): replace(side, features={layer: side[layer].to(device) for layer in side}) for side in sides}
    return [made[id(side)] for side in sides]


def check_sides(a: Side, b: Side, metric: Metric, function: str) -> None:
    """Both sides must hold the same samples, and enough of them for the metric."""
    check_same_samples(a, b, function)
    if a.n < metric.min_samples:
        must = f"{metric_name(metric)} needs at least {metric.min_samples} samples"
        raise ValueError(message(function, must, f"{a.n}", "Extract on more samples"))


def _checked(tasks: Mapping[str, Any], n: int, function: str) -> dict[str, Tensor]:
    if not isinstance(tasks, Mapping) or not tasks:
        got = "none" if isinstance(tasks, Mapping) else type(tasks).__name__
        raise ValueError(message(function, "tasks must name each task", got, 'Pass tasks={"name": labels}'))
    found = {}
    for name, y in tasks.items():
        try:
            found[name] = torch.as_tensor(y)
        except (TypeError, ValueError, RuntimeError) as error:
            got, advice = f"{type(y).__name__} for {name!r}", "Number the classes: one integer per sample"
            raise TypeError(message(function, "a task must be numbers", got, advice)) from error
    for name, y in found.items():
        if y.ndim == 0 or len(y) != n:
            got = f"shape {tuple(y.shape)} for {name!r}"
            raise ValueError(message(function, f"every task must have {n} rows", got, "One label or target per sample"))
    return found
