"""Similarity while a network is trained: to a reference, or to itself as it was at the start, layer by layer."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from repsim._common.files import write_text
from repsim._common.html import ShownAsTable
from repsim._common.messages import message, shown
from repsim._common.provenance import CautionWarning
from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.activations import Activations
from repsim.features.extraction import extract
from repsim.features.reductions import Choice
from repsim.metrics import Metric, get_metric
from repsim.networks.layers import Layers
from repsim.similarity.comparison import compare
from repsim.similarity.matrix import SimilarityMatrix

if TYPE_CHECKING:
    import pandas as pd
    from transformers import TrainerCallback

#: What stands beside a value in the table, where the measure gives it.
_BESIDE = ("ci_low", "ci_high", "chance")


class Similarity(ShownAsTable):
    """Called in a training loop: every so many steps it compares the network with a reference, layer by layer.

    The network is run in eval mode without gradients and is left as it was, modes and hooks included; nothing random is
    drawn, so a training with it ends in the same weights as one without.

    Example of a plain loop:

        watch = repsim.callbacks.Similarity("start", probe, every=100, path="similarity.csv")
        for step, (x, y) in enumerate(loader):
            watch(net, step)
            ...

    Args:
        reference: A network, `Activations` of the same data, or "start": the network as it is at the first call.
        data: As for `extract`: some hundred samples that are kept for this; the same ones each time, in one order.
        every: Steps from one comparison to the next; step 0 is one of them.
        metric: As for `compare`.
        layers: As for `extract`.
        reduction: As for `extract`.
        path: A CSV that is written anew, whole, after each comparison; None writes none.
        batch_size: As for `extract`.

    Raises:
        ValueError: Another reference, or fewer than one step.

    Cost:
        Per comparison one run over the data and one comparison of all layers.
    """

    def __init__(
        self,
        reference: nn.Module | Activations | Literal["start"],
        data: ImageSet | TextSet | Tensor | Iterable[Any],
        *,
        every: int = 1,
        metric: str | Metric = "cka",
        layers: Layers = None,
        reduction: Choice = "auto",
        path: str | Path | None = None,
        batch_size: int = 256,
    ) -> None:
        if not isinstance(reference, nn.Module | Activations) and reference != "start":
            advice = 'Pass a network, or "start" for the network itself as it was'
            must = 'reference must be a network, Activations or "start"'
            raise ValueError(message("Similarity", must, shown(reference), advice))
        if type(every) is not int or every < 1:
            raise ValueError(message("Similarity", "every must be at least 1", shown(every), "Count in steps"))
        self._data, self._every, self._metric = data, every, get_metric(metric)
        self._asked: dict[str, Any] = {"layers": layers, "reduction": reduction, "batch_size": batch_size}
        self._path = None if path is None else Path(path)
        self._reference = self._seen(reference) if isinstance(reference, nn.Module) else reference
        self._rows: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        steps = len({row["step"] for row in self._rows})
        return f"Similarity({self._metric!r}, every {self._every} steps, {steps} compared)"

    def __call__(self, network: nn.Module, step: int) -> SimilarityMatrix | None:
        """Compares at a step whose turn it is.

        Args:
            network: As it is now.
            step: Of the training, counted by the caller.

        Returns:
            The matrix of the reference's layers (rows) and the network's; None where it is no step's turn.
        """
        if step % self._every:
            return None
        now = self._seen(network)
        if not isinstance(self._reference, Activations):
            self._reference = now
        found = compare(self._reference, now, self._metric)
        beside = [name for name in _BESIDE if name in found.details]
        for row, col, value in found.matched():
            cell = found.rows.index(row), found.cols.index(col)
            told = {name: float(found.details[name][cell]) for name in beside}
            told |= {"n": found.n, "reason": found.reasons.get(cell, "")}
            self._rows.append({"step": step, "reference_layer": row, "layer": col, "value": value, **told})
        if self._path is not None:
            write_text(self._path, self.to_frame().to_csv(index=False))
        return found

    def to_frame(self) -> "pd.DataFrame":
        """One row per step and layer: the value, its interval and chance where the measure has them, and n."""
        import pandas as pd

        return pd.DataFrame(self._rows)

    def for_transformers(self) -> "TrainerCallback":
        """The same for `transformers.Trainer(callbacks=[...])`, which counts the steps itself."""
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):
            """Compares when a training begins and at the end of its steps."""

            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                watch(model, state.global_step)

            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                watch(model, state.global_step)

        return Callback()

    def _seen(self, network: nn.Module) -> Activations:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CautionWarning)  # a network at its beginning answers as by chance
            return extract(network, self._data, progress=False, **self._asked)
