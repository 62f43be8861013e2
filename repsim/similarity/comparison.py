"""`compare`: two sides, one metric, one labelled matrix."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repsim._common.messages import message
from repsim._common.provenance import CautionWarning, Note, versions
from repsim.features.activations import Activations
from repsim.features.live_activations import LiveActivations
from repsim.features.side_checks import provenance_of
from repsim.metrics import Metric, PairwiseResult, TaskMetric, get_metric, metric_name, own_facts
from repsim.metrics.base import within_bounds
from repsim.similarity.matrix import SimilarityMatrix
from repsim.similarity.own_heads import heads_cautions, outputs_differ
from repsim.similarity.sides import check_sides, prepare_sides
from repsim.similarity.streamed import streamed

if TYPE_CHECKING:
    pass


def compare(
    a: Activations | LiveActivations,
    b: Activations | LiveActivations,
    metric: str | Metric = "cka",
    *,
    tasks: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
) -> SimilarityMatrix:
    """Compares every layer of one side with every layer of the other.

    Args:
        a: First side, the rows. Pass the same object twice to compare a network with itself. A `live` source takes
            "cka_minibatch", "cka" and "cka_biased".
        b: Second side, the columns; the same samples in the same order.
        metric: A name ("cka", "td", "svcca", … see `repsim metrics`), a name with settings ("td(seed=1)"), or an
            instance: `repsim.metrics.TD(seed=1)`, or one of your own subclass of `repsim.metrics.Metric`, which a text
            names by its place, "package.module:Mine(setting=1)".
        tasks: Downstream tasks for the forms of TD, instead of the labels that the samples came with: name -> (n,)
            class indices (see `repsim.tasks`), for `td_regression` also targets (n,) or (n, t). The values are the
            mean over the tasks; each task's own matrix is in `.tasks`. All heads are fitted together.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        The labelled matrix; rows are a's layers, columns b's.

    Raises:
        ValueError: Different samples, contradicting labels, too few samples, an unknown metric, no task for TD, tasks
            of another length.

    Warns:
        CautionWarning: Once per caution in the result.

    Example:
        >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> a = Activations.from_arrays({"one": x, "two": x.relu()})
        >>> compare(a, a, "cka").values.round(2)
        array([[1.  , 0.76],
               [0.76, 1.  ]])
    """
    started = time.time()
    chosen = get_metric(metric)
    check_sides(a, b, chosen, "compare")
    if isinstance(a, LiveActivations) or isinstance(b, LiveActivations):
        if tasks is not None:
            advice = "Extract smaller features for measures of answers, or leave tasks out"
            raise ValueError(message("compare", "tasks need stored features", "a live source", advice))
        if device is not None:
            advice = "Move the network itself, as in net.to(device)"
            raise ValueError(message("compare", "device is for stored features", "a live source", advice))
        found = {"": streamed(a, b, chosen)}
    else:
        prepared = prepare_sides(a, b, chosen, "compare", tasks=tasks, device=device)
        found = {task: chosen.compared(*states) for task, states in prepared.items()}
    parts = {task: labelled(a, b, chosen, each, started, device) for task, each in found.items()}
    result = parts[""] if tasks is None else _mean(parts)
    announce(result, "compare")
    return result


def labelled(
    a: Activations | LiveActivations,
    b: Activations | LiveActivations,
    metric: Metric,
    found: PairwiseResult,
    started: float,
    device: str | torch.device | None = None,
) -> SimilarityMatrix:
    """Names what a metric has found, and says where it came from.

    Args:
        a: First side.
        b: Second side.
        metric: What was asked.
        found: All pairs of their layers.
        started: `time.time()` when the work began.
        device: Where it was done; None where the features are.
    """
    values, clipped = within_bounds(found.values.cpu().numpy(), metric.bounds)
    cautions = list(found.cautions)
    if clipped:
        cautions.append(clipped_note(clipped))
    if found.reasons:
        (i, j), why = next(iter(found.reasons.items()))
        cautions.append(f"{len(found.reasons)} of {values.size} cells are NaN; {a.layers[i]} × {b.layers[j]}: {why}")
    details = {name: array.cpu().numpy() for name, array in found.details.items()}
    if isinstance(metric, TaskMetric) and isinstance(a, Activations) and isinstance(b, Activations):
        details |= {name: np.full(values.shape, value) for name, value in outputs_differ(a, b).items()}
        cautions += heads_cautions(a, b, details)
    provenance = {
        "metric": repr(metric),
        "rows": provenance_of(a),
        "cols": provenance_of(b),
        "versions": versions(),
        "device": str(device or a.device),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
    }
    return SimilarityMatrix(
        values=values,
        rows=a.layers,
        cols=b.layers,
        metric=metric_name(metric),
        row_model=a.name,
        col_model=b.name,
        n=a.n,
        details=details,
        reasons=found.reasons,
        cautions=tuple(cautions),
        provenance=provenance,
        facts=own_facts(metric),
    )


def _mean(parts: Mapping[str, SimilarityMatrix]) -> SimilarityMatrix:
    """The mean over tasks; NaN where a task has no number."""
    reasons = {cell: f"task {name!r}: {why}" for name, part in parts.items() for cell, why in part.reasons.items()}
    cautions = tuple(f"task {name!r}: {text}" for name, part in parts.items() for text in part.cautions)
    return replace(
        next(iter(parts.values())),
        values=np.mean([part.values for part in parts.values()], axis=0),
        details={f"task: {name}": part.values for name, part in parts.items()},
        reasons=reasons,
        cautions=cautions,
        tasks=dict(parts),
    )


def clipped_note(count: int) -> Note:
    """What is said of values that `within_bounds` moved."""
    return Note(f"{count} values were clipped to the bounds; they were outside by rounding only")


def announce(matrix: SimilarityMatrix, function: str, *, stacklevel: int = 3) -> None:
    """Warns of every caution, at the line that called the caller."""
    # Rows to fit on are a setting too, and as long as the data.
    metric = matrix.metric if len(matrix.metric) <= 80 else matrix.metric.partition("(")[0]
    for caution in matrix.cautions:
        if not isinstance(caution, Note):
            text = f"{function} {matrix.row_model} × {matrix.col_model}, {metric}: {caution}."
            warnings.warn(text, CautionWarning, stacklevel=stacklevel)
