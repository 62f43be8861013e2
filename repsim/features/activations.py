"""`Activations`: what layers answered to a fixed list of samples, wherever the numbers came from."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.checks import ABSENT, is_finite
from repsim._common.html import note, table
from repsim._common.labels import class_labels, plain_array
from repsim._common.messages import did_you_mean, message
from repsim.features.store.stored_features import StoredFeatures, open_store
from repsim.features.store.writer import write_store

if TYPE_CHECKING:
    import pandas as pd

#: (layer's number, place of the first row, features) -> None
Write = Callable[[int, int, Float[Tensor, "m _p"]], None]


@dataclass(frozen=True, eq=False)
class Activations:
    """Features of the same n samples at several layers, in execution order.

    Attributes:
        features: Layer name -> (n, p) floating-point tensor, detached.
        labels: (n,) int64 class indices, or None.
        digest: Of the samples and their order; None where the source gave no ids. `compare` refuses two
            sides whose digests differ.
        name: The network, as results call it.
        reduction: How feature maps became rows ("flatten", "mean", …); "given" for arrays from elsewhere.
        provenance: Where the numbers came from.
        ids: n names of the samples, where the source gave them.
        outputs: (n, k) what the network itself answered, before any softmax, where it is known.
    """

    features: Mapping[str, Float[Tensor, "n _p"]]
    labels: Int[Tensor, " n"] | None = None
    digest: str | None = None
    name: str = "features"
    reduction: str = "given"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    ids: tuple[str, ...] | None = None
    outputs: Float[Tensor, "n k"] | None = None

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError(message("Activations", "there must be a layer", "none", "Choose other layers"))
        n = self.features.n if isinstance(self.features, StoredFeatures) else None
        # What a store holds was looked at when it was written, and is compared with its checksums when it is read.
        for layer, x in self.features.items() if n is None else ():
            if x.ndim != 2 or not x.is_floating_point() or x.requires_grad or 0 in x.shape:
                grad = ", requires grad" if x.requires_grad else ""
                got = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}{grad}"
                advice = "Flatten or pool to two axes, convert with .float(), detach"
                raise ValueError(
                    message("Activations", f"layer {layer!r} must be (n, p), floating point, detached", got, advice)
                )
            n = len(x) if n is None else n
            if len(x) != n:
                advice = "Every layer must hold the same samples"
                raise ValueError(message("Activations", f"layer {layer!r} must have {n} rows", f"{len(x)}", advice))
            if not is_finite(x):
                bad = int((~torch.isfinite(x)).any(1).nonzero()[0])
                advice = "Look for a diverged network, an overflow in float16, or broken inputs"
                got = f"NaN or infinity, first in row {bad}"
                raise ValueError(message("Activations", f"layer {layer!r} must be finite", got, advice))
        if self.labels is not None and (self.labels.ndim != 1 or len(self.labels) != n):
            got = f"shape {tuple(self.labels.shape)}"
            raise ValueError(message("Activations", f"labels must be ({n},)", got, "One label per row"))
        if self.outputs is not None and (self.outputs.ndim != 2 or len(self.outputs) != n):
            got = f"shape {tuple(self.outputs.shape)}"
            raise ValueError(message("Activations", f"outputs must be ({n}, classes)", got, "One row per sample"))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer names, in execution order."""
        return tuple(self.features)

    @property
    def widths(self) -> tuple[int, ...]:
        """Features per sample of each layer."""
        return tuple(width for width, _ in self._shapes)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The type of each layer's features."""
        return tuple(dtype for _, dtype in self._shapes)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        if isinstance(self.features, StoredFeatures):
            return torch.device("cpu")
        return next(iter(self.features.values())).device

    @property
    def n(self) -> int:
        """How many samples."""
        return self.features.n if isinstance(self.features, StoredFeatures) else len(next(iter(self.features.values())))

    @property
    def _shapes(self) -> list[tuple[int, torch.dtype]]:
        """Width and type of each layer; those of a store are known without reading it."""
        if isinstance(self.features, StoredFeatures):
            return self.features.shapes
        return [(x.shape[1], x.dtype) for x in self.features.values()]

    @property
    def accuracy(self) -> float | None:
        """The share of labelled samples that the network's own head answers right.

        None where it has no outputs, the samples no labels, or a label is none of its outputs.
        """
        if self.outputs is None or self.labels is None:
            return None
        known = ((self.labels != ABSENT) & (self.labels != -1)).cpu()
        labels = self.labels.cpu()[known]
        if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= self.outputs.shape[1]:
            return None
        return float((self.outputs.argmax(1).cpu()[known] == labels).double().mean())

    @property
    def progress(self) -> bool:
        """Whether comparisons show a bar; features that are at hand take no time to read."""
        return False

    def read(self, rows: slice | Int[Tensor, " b"], write: Write) -> None:
        """Hands on some rows of every layer.

        Args:
            rows: Which samples.
            write: Called with the layer's number, the place of the first row among those asked for, and the features.
        """
        if isinstance(self.features, StoredFeatures):
            self.features.read(rows, write)
            return
        for number, layer in enumerate(self):
            write(number, 0, self[layer][rows])

    def __getitem__(self, layer: str) -> Float[Tensor, "n p"]:
        if layer not in self.features:
            raise KeyError(
                message("Activations", "the layer must exist", repr(layer), did_you_mean(layer, self.layers))
            )
        return self.features[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        widths = sorted(set(self.widths))
        span = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
        size = f"{len(self)} layers × {self.n:,} samples, width {span}, {self.reduction}"
        own = "" if self.accuracy is None else f", own head {self.accuracy:.3f} right"
        seen = f", {normalisation_of(self.provenance)}" if "normalize" in self.provenance else ""
        return f"Activations({self.name!r}, {size}{own}{seen})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the layers."""
        return note(repr(self), table(self.to_frame()))

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer: its width, type, mean and standard deviation over all its numbers."""
        import pandas as pd

        spread = [torch.std_mean(x.double(), correction=0) for x in self.features.values()]
        told = {"layer": self.layers, "width": self.widths, "dtype": [str(d)[6:] for d in self.dtypes]}
        moments = {"mean": [float(mean) for _, mean in spread], "std": [float(std) for std, _ in spread]}
        return pd.DataFrame({**told, **moments, "n": self.n, "reduction": self.reduction, "name": self.name})

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        *,
        labels: Any = None,
        ids: Sequence[str] | None = None,
        outputs: Any = None,
        name: str = "features",
    ) -> "Activations":
        """Features from anywhere: numpy arrays or tensors, one (n, p) array per layer.

        Args:
            arrays: Layer name -> (n, p) array, in the order they shall be shown.
            labels: (n,) integers, where a measure needs a task (TD does). -1, -100 and what is masked or missing mean
                that a sample has no label.
            ids: n names of the samples. Give them on both sides, and `compare` checks that the rows match.
            outputs: (n, k) the network's own logits, where TD shall stand beside the disagreement of its own head.
            name: What results call the network.

        Returns:
            The activations; tensors share memory with the arrays.

        Example:
            >>> import numpy as np
            >>> a = Activations.from_arrays({"fc": np.eye(4)}, labels=[0, 1, 0, 1])
            >>> a
            Activations('features', 1 layers × 4 samples, width 4, given)
        """
        features = {
            layer: torch.as_tensor(plain_array(x, "Activations", f"layer {layer!r}")).detach()
            for layer, x in arrays.items()
        }
        tensor = None if labels is None else class_labels(labels, "Activations")
        digest = None
        if ids is not None:
            if len(set(ids)) != len(ids) or any(len(x) != len(ids) for x in features.values()):
                got = f"{len(ids)} ids, {len(set(ids))} of them different"
                raise ValueError(message("Activations", "ids must name every row once", got, "One id per row"))
            digest = hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()
        names = None if ids is None else tuple(map(str, ids))
        logits = None if outputs is None else torch.as_tensor(plain_array(outputs, "Activations", "outputs")).detach()
        return cls(features, tensor, digest, name, ids=names, outputs=logits)

    def save(self, folder: str | Path, *, dtype: torch.dtype | str | None = None) -> Path:
        """Writes everything to a folder of its own, whole or not at all: one safetensors file per layer and a manifest.

        Args:
            folder: A folder that is not there or empty.
            dtype: "float32" or "float16"; None keeps each layer's own type.

        Returns:
            The folder.

        Raises:
            ValueError: A folder that holds something, or numbers that do not fit into the type.
            OSError: It could not be written; nothing is left.
        """
        facts = {"name": self.name, "digest": self.digest, "reduction": self.reduction}
        facts |= {"provenance": dict(self.provenance), "ids": self.ids}
        facts["labels"] = None if self.labels is None else self.labels.tolist()
        return write_store(Path(folder), self.features, self.outputs, facts, dtype, "Activations.save")

    @classmethod
    def load(cls, folder: str | Path) -> "Activations":
        """Opens what `save` or `extract(store=)` has written. Nothing in it is executed.

        Features stay on disk and are mapped into memory as they are used. A layer is compared with its checksums when
        it is asked for the first time, rows that are read alone when they are read.

        Args:
            folder: The store.

        Raises:
            FileNotFoundError: No store, or a file of it is missing.
            ValueError: A folder that is no store, one that is not finished, or damaged; flipped bytes when they are
                read.
        """
        manifest, features = open_store(Path(folder), "Activations.load")
        facts = manifest.facts
        labels = None if facts["labels"] is None else torch.tensor(facts["labels"], dtype=torch.int64)
        ids = None if facts["ids"] is None else tuple(facts["ids"])
        given = facts["digest"], facts["name"], facts["reduction"], facts["provenance"], ids, features.outputs()
        return cls(features, labels, *given)


class Side(Protocol):
    """The face that every side of a comparison shows, whether its features are kept or computed when they are read."""

    @property
    def layers(self) -> tuple[str, ...]: ...
    @property
    def widths(self) -> tuple[int, ...]: ...
    @property
    def dtypes(self) -> tuple[torch.dtype, ...]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def n(self) -> int: ...
    @property
    def labels(self) -> Int[Tensor, " n"] | None: ...
    @property
    def digest(self) -> str | None: ...
    @property
    def name(self) -> str: ...
    @property
    def reduction(self) -> str: ...
    @property
    def provenance(self) -> Mapping[str, Any]: ...
    @property
    def progress(self) -> bool: ...
    def read(self, rows: slice | Int[Tensor, " b"], write: Write) -> None: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...


def normalisation_of(provenance: Mapping[str, Any]) -> str:
    """How a network's inputs are normalised, in words."""
    given = provenance.get("normalize")
    if given is None:
        return "no normalisation"
    means, stds = (" ".join(f"{value:.3g}" for value in part) for part in given)
    return f"normalised by means {means}, stds {stds}"
