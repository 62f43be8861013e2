"""Which samples do heads on two layers answer differently, and how?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from repsim._common.html import ShownAsTable
from repsim._common.messages import message
from repsim.features.activations import Activations
from repsim.features.side_checks import check_same_samples, common_labels
from repsim.metrics import Metric, get_metric, metric_name
from repsim.metrics.base import undefined_cells
from repsim.metrics.transferred.base import SoftmaxHeads
from repsim.networks.correspondence import matched_layers, same_architecture

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Disagreements(ShownAsTable):
    """The held-out samples on which the probes of two layers differ, those first of which both probes are surest.

    Attributes:
        ids: m sample ids; row numbers as text where the source gave no ids.
        rows: (m,) row numbers in the data.
        labels: (m,) true class labels.
        answers_a: (m,) what the first layer's probe says.
        answers_b: (m,) what the second layer's probe says.
        confidence_a: (m,) probability that the first gives its answer.
        confidence_b: (m,) probability that the second gives its answer.
        confusion: (k, k) counts over all held-out rows, answers of the first (rows) × of the second (columns).
        classes: (k,) class label of each row and column of `confusion`.
        class_names: (k,) names of them, or None.
        layer_a: The first layer.
        layer_b: The second layer.
        model_a: What the first side is called.
        model_b: What the second side is called.
        metric: Whose heads these are, with their settings.
        n: Held-out rows.
    """

    ids: tuple[str, ...]
    rows: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    answers_a: Int[np.ndarray, " m"]
    answers_b: Int[np.ndarray, " m"]
    confidence_a: Float[np.ndarray, " m"]
    confidence_b: Float[np.ndarray, " m"]
    confusion: Int[np.ndarray, "k k"]
    classes: Int[np.ndarray, " k"]
    class_names: tuple[str, ...] | None
    layer_a: str
    layer_b: str
    model_a: str
    model_b: str
    metric: str
    n: int

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        sides = f"{self.model_a} {self.layer_a} × {self.model_b} {self.layer_b}"
        return f"Disagreements({sides}: {len(self):,} of {self.n:,} held-out samples)"

    def to_frame(self) -> "pd.DataFrame":
        """One row per sample on which the probes differ."""
        import pandas as pd

        names = ("rows", "labels", "answers_a", "answers_b", "confidence_a", "confidence_b")
        table = {name.removesuffix("s") if name in ("rows", "labels") else name: getattr(self, name) for name in names}
        return pd.DataFrame({"id": self.ids, **table})


def disagreements(
    a: Activations,
    b: Activations,
    layer: str,
    layer_b: str | None = None,
    *,
    metric: str | Metric = "td",
    task: Any = None,
    class_names: tuple[str, ...] | None = None,
    device: str | torch.device | None = None,
) -> Disagreements:
    """Names the samples that a downstream task would be answered differently for: what a TD is made of.

    Args:
        a: First side.
        b: Second side; the same samples in the same order.
        layer: The first side's layer.
        layer_b: The second side's; None takes the one that corresponds, by place within stages and then by relative
            depth.
        metric: "td" or "td_soft", with the settings of their heads.
        task: (n,) class labels; None takes those that the samples came with.
        class_names: A name for each class, in the order of the labels.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        The samples, both answers with their probabilities, and the whole table of answers against answers.
        `len(found) / found.n` is the TD of the two layers.

    Raises:
        ValueError: Different samples, no task, a measure without softmax heads, a constant layer or a probe that did
            not converge.
        KeyError: An unknown layer.
    """
    chosen = get_metric(metric)
    if not isinstance(chosen, SoftmaxHeads):
        must = "metric must be one of answers to classes"
        raise ValueError(message("disagreements", must, metric_name(chosen), "Use td or td_soft"))
    check_same_samples(a, b, "disagreements")
    labels = common_labels(a, b, "disagreements") if task is None else torch.as_tensor(task)
    if labels is None:
        raise ValueError(message("disagreements", "a downstream task is needed", "no labels", "Pass task=labels"))
    second = _counterpart(a, b, layer) if layer_b is None else layer_b
    features = [x if device is None else x.to(device) for x in (a[layer], b[second])]
    found = chosen.held_out(features, {"task": labels})["task"]
    if reasons := undefined_cells([found[0].fit.undefined], [found[1].fit.undefined]):
        got, advice = reasons[0, 0], "Choose another layer or other settings"
        raise ValueError(message("disagreements", "both layers must have probes", got, advice))
    classes = found[0].classes
    if class_names is not None and len(class_names) != len(classes):
        got = f"{len(class_names)} names for {len(classes)} classes"
        raise ValueError(message("disagreements", "every class must have its name", got, "Name them in label order"))
    (sure_a, one), (sure_b, two) = (side.logits.softmax(1).max(1) for side in found)
    k = len(classes)
    differ = (one != two).nonzero()[:, 0]
    differ = differ[torch.minimum(sure_a, sure_b)[differ].argsort(descending=True, stable=True)]
    rows = found[0].rows[differ]
    ids = a.ids or b.ids
    return Disagreements(
        ids=tuple(ids[i] if ids else str(i) for i in rows.tolist()),
        rows=rows.numpy(),
        labels=classes[found[0].labels[differ]].numpy(),
        answers_a=classes[one[differ]].numpy(),
        answers_b=classes[two[differ]].numpy(),
        confidence_a=sure_a[differ].numpy(),
        confidence_b=sure_b[differ].numpy(),
        confusion=torch.bincount(one * k + two, minlength=k * k).view(k, k).numpy(),
        classes=classes.numpy(),
        class_names=class_names,
        layer_a=layer,
        layer_b=second,
        model_a=a.name,
        model_b=b.name,
        metric=metric_name(chosen),
        n=len(one),
    )


def _counterpart(a: Activations, b: Activations, layer: str) -> str:
    """What the second side calls the layer that corresponds to one of the first."""
    _ = a[layer]  # an unknown name is told of with its close matches
    found = dict(matched_layers(a.layers, b.layers, same=same_architecture(a.provenance, b.provenance)))
    place = found.get(a.layers.index(layer))
    if place is None:
        must = f"layer {layer!r} of {a.name!r} must correspond to one of {b.name!r}"
        raise ValueError(message("disagreements", must, f"none of {len(b.layers)} layers", "Pass layer_b="))
    return b.layers[place]
