"""`compare`: two sides, one metric, one labelled matrix. `SimilarityMatrix`: the matrix and what stands beside it."""

import importlib.metadata
import io
import platform
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from repsim import _matrix_file
from repsim._checks import message
from repsim._files import whole_file
from repsim._matching import matched_layers
from repsim._sides import check_sides, prepare_sides
from repsim.activations import Activations
from repsim.live import LiveActivations
from repsim.metrics import Cross, Metric, TaskMetric, get_metric, metric_name
from repsim.streaming import streamed

if TYPE_CHECKING:
    import pandas as pd

#: Values may leave a metric's bounds by this much through rounding; they are clipped and the clipping is counted.
ROUNDING = 1e-6


class CautionWarning(UserWarning):
    """A result stands, and a careful reader should know something about it."""


@dataclass(frozen=True, eq=False)
class SimilarityMatrix:
    """The similarity of every layer of one side with every layer of the other.

    Attributes:
        values: (r, c) float64, NaN where there is no number.
        rows: Layer names of the first side, in execution order.
        cols: Layer names of the second side.
        metric: The metric's name and changed settings; `repsim.metrics.get_metric` gives it back.
        row_model: What the first side is called.
        col_model: What the second side is called.
        n: Samples.
        details: Name -> (r, c) array of what stands beside each value (accuracies, intervals, ranks, …).
        reasons: (row, column) numbers of every NaN -> why there is no number.
        cautions: What a careful reader should know, one sentence each.
        provenance: Versions, weights and data with digests, settings, time.
        tasks: Where several downstream tasks were asked, each one's own matrix; this one is their mean.
    """

    values: Float[np.ndarray, "r c"]
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    metric: str
    row_model: str
    col_model: str
    n: int
    details: Mapping[str, Float[np.ndarray, "r c"]] = field(default_factory=dict)
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, "SimilarityMatrix"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.cols))
        wrong = [name for name, d in {"values": self.values, **self.details}.items() if d.shape != shape]
        if wrong:
            raise ValueError(
                message(
                    "SimilarityMatrix",
                    f"arrays must be {shape}",
                    f"another shape of {wrong[0]}",
                    "Align them",
                )
            )
        low, high = self.definition.bounds
        finite = self.values[~np.isnan(self.values)]
        if finite.size and (finite.min() < low or finite.max() > high):
            got = f"[{finite.min():.6g}, {finite.max():.6g}]"
            raise ValueError(
                message("SimilarityMatrix", f"{self.metric} must lie in [{low:g}, {high:g}]", got, "Report this")
            )
        holes = {(int(i), int(j)) for i, j in np.argwhere(np.isnan(self.values))}
        if holes != set(self.reasons):
            raise ValueError(
                message("SimilarityMatrix", "every NaN must have a reason", f"{len(holes)} NaN", "Report this")
            )

    @property
    def definition(self) -> Metric:
        """The metric with its facts."""
        return get_metric(self.metric)

    def __repr__(self) -> str:
        shape = f"{len(self.rows)} × {len(self.cols)} layers"
        return f"SimilarityMatrix({self.metric}, {self.row_model} × {self.col_model}, {shape}, n = {self.n:,})"

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the heatmap."""
        buffer = io.BytesIO()
        self._draw(buffer)
        return buffer.getvalue()

    def save_picture(self, path: str | Path) -> Path:
        """Writes the heatmap as a PNG, PDF or SVG (by the suffix), whole or not at all."""
        with whole_file(path) as temporary:
            self._draw(temporary)
        return Path(path)

    def _draw(self, target: "io.BytesIO | Path") -> None:
        from repsim.plots import picture

        picture(self).savefig(target, dpi=150)

    def matched(self) -> list[tuple[str, str, float]]:
        """(row layer, column layer, value) of layers that correspond: equal names, or else equal places in depth."""
        index = matched_layers(self.rows, self.cols)
        return [(self.rows[i], self.cols[j], float(self.values[i, j])) for i, j in index]

    def to_frame(self) -> "pd.DataFrame":
        """One row per pair of layers, with the value, every detail, n and the reason of a NaN."""
        import pandas as pd

        r, c = self.values.shape
        table = {
            "row_model": [self.row_model] * (r * c),
            "row_layer": np.repeat(self.rows, c),
            "col_model": [self.col_model] * (r * c),
            "col_layer": np.tile(self.cols, r),
            "metric": [self.metric] * (r * c),
            "value": self.values.ravel(),
            "n": [self.n] * (r * c),
            **{name: array.ravel() for name, array in self.details.items()},
            "reason": [self.reasons.get((i, j), "") for i in range(r) for j in range(c)],
        }
        return pd.DataFrame(table)

    def save(self, path: str | Path) -> Path:
        """Writes everything to one .npz without pickle, whole or not at all; `load` reads it back.

        Raises:
            OSError: The file could not be written; what stood there is untouched.
        """
        _matrix_file.write(self, Path(path))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "SimilarityMatrix":
        """Reads a file of `save`. Nothing in it is executed.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a file of `save`, or a damaged one.
        """
        return _matrix_file.read(cls, Path(path))


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
            instance (`repsim.metrics.TD(seed=1)`).
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


def outputs_differ(a: Activations, b: Activations) -> dict[str, float]:
    """How often the networks' own heads answer differently: what retrained heads are to be held against."""
    if a.outputs is None or b.outputs is None or a.outputs.shape != b.outputs.shape:
        return {}
    return {"outputs_disagree": float((a.outputs.argmax(1).cpu() != b.outputs.argmax(1).cpu()).double().mean())}


def labelled(
    a: Activations | LiveActivations,
    b: Activations | LiveActivations,
    metric: Metric,
    found: Cross,
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
        cautions.append(f"{clipped} values were clipped to the bounds; they were outside by rounding only")
    if found.reasons:
        (i, j), why = next(iter(found.reasons.items()))
        cautions.append(f"{len(found.reasons)} of {values.size} cells are NaN; {a.layers[i]} × {b.layers[j]}: {why}")
    details = {name: array.cpu().numpy() for name, array in found.details.items()}
    if isinstance(metric, TaskMetric) and isinstance(a, Activations) and isinstance(b, Activations):
        details |= {name: np.full(values.shape, value) for name, value in outputs_differ(a, b).items()}
    provenance = {
        "metric": repr(metric),
        "rows": provenance_of(a),
        "cols": provenance_of(b),
        "versions": versions(),
        "device": str(device or (a.device if isinstance(a, LiveActivations) else a[a.layers[0]].device)),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
    }
    names = metric_name(metric), a.name, b.name
    return SimilarityMatrix(
        values, a.layers, b.layers, *names, a.n, details, found.reasons, tuple(cautions), provenance
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


def announce(matrix: SimilarityMatrix, function: str, *, stacklevel: int = 3) -> None:
    """Warns of every caution, at the line that called the caller."""
    for caution in matrix.cautions:
        if not caution.endswith("by rounding only"):
            text = f"{function} {matrix.row_model} × {matrix.col_model}, {matrix.metric}: {caution}."
            warnings.warn(text, CautionWarning, stacklevel=stacklevel)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("repsim-toolkit", "torch", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}}


def provenance_of(side: Activations | LiveActivations) -> dict[str, Any]:
    return {**side.provenance, "samples": side.digest, "n": side.n, "reduction": side.reduction}


def within_bounds(values: np.ndarray, bounds: tuple[float, float]) -> tuple[np.ndarray, int]:
    """Clips what rounding has pushed out of the bounds, and says how many values that were."""
    low, high = bounds
    excess = np.nan_to_num(np.maximum(low - values, values - high), nan=0.0)
    if excess.max(initial=0) > ROUNDING:
        raise RuntimeError(
            message(
                "compare",
                f"values must lie in [{low:g}, {high:g}]",
                f"{excess.max():.2e} outside",
                "Report this",
            )
        )
    outside = int((excess > 0).sum())
    return np.clip(values, low, high), outside
