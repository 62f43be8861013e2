"""Hooks: a network and images in, `Activations` out."""

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.locks import alone
from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim._common.provenance import CautionWarning
from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.activations import Activations, outputs_caution
from repsim.features.batches import Call, rows_of
from repsim.features.forward import TappedNetwork
from repsim.features.reductions import Choice, Reductions
from repsim.features.source import Source
from repsim.features.store.key import key_of
from repsim.features.store.layout import Manifest, tracks_of
from repsim.features.store.writer import StoreWriter, check_fits, kept_type, matching_store, rows_per_block
from repsim.networks.answers import CPU_ROWS, own_answer
from repsim.networks.layers import Layers, select_layers
from repsim.networks.network import Network, bare
from repsim.numerics.memory import available_memory, empty_rows
from repsim.robustness.adversarial_sets import Condition, under

#: Layer -> features per row, and their type.
_Shapes = dict[str, tuple[int, torch.dtype]]

__all__ = ["CPU_ROWS", "Layers", "extract", "select_layers"]


def extract(
    net: nn.Module,
    data: ImageSet | TextSet | Tensor | Iterable[Any],
    *,
    layers: Layers = None,
    reduction: Choice = "auto",
    axes: Mapping[str, str] | None = None,
    batch_size: int = 256,
    name: str | None = None,
    attack: Condition | None = None,
    call: Call | None = None,
    dtype: torch.dtype | str | None = None,
    store: str | Path | None = None,
    progress: bool = True,
) -> Activations:
    """Runs a network over samples and keeps what its layers answer.

    The network runs in eval mode without gradients, on the device where its parameters are, and is left in
    the modes it had, without hooks, whatever happens. Outputs are copied or reduced inside the hook, so an
    in-place operation after a layer cannot change what was recorded.

    Args:
        net: A `Network` of `load_model` (takes pixels in [0, 1]) or any module; wrappers such as
            DataParallel are looked through, so layer names are the bare network's.
        data: An `ImageSet`, a `TextSet`, a tensor, or batches that come in the same order each time, such as a
            DataLoader that does not shuffle: x, (x, y), several inputs ((x1, x2), y), or dicts as tokenizers make them,
            with their labels under a name. Padding, as an attention_mask tells it, enters no mean.
        layers: None for every leaf module and every block; "blocks" for the short list, one per block; a name or glob
            ("layer*.*"; `*` does not cross a dot, "**.conv*" reaches any depth), a list of these, or a function
            (name, module) -> bool. Modules that compiling, parametrising and quantising put in are no layers.
        reduction: What makes a row of a layer's output: "auto" or "mean" averages over all positions, "max" takes the
            largest, "pool:K" averages over K×K parts of a map, "flatten" keeps every number, "cls" and "last" take
            the first and the last token, "mean_tokens" averages over tokens. Rows stay rows. They answer different
            questions: "flatten" also asks where in the image, "mean" does not. A dict {glob: name} chooses layer by
            layer; a function makes rows (n, p) of tokens (n, t, c), in which form it gets every output.
        axes: Which axis of an output is what, {glob: "nchw"}, where it cannot be found out: a letter per axis, `n`
            samples, `c` features, others positions, so "nhwc", "ntc", "tnc", "nct"; "(nk)tc" where k windows of each
            sample are folded into the first axis. See `repsim.features.layout`.
        batch_size: Rows per forward pass. On a CPU passes are split further where that is faster.
        name: What results call the network; None takes the network's own name. Images under an input condition (of
            `adversarial`, `corrupt`, or `attack`) add that condition to the name, as in "resnet20 under blur:3".
        attack: Move the images against this network first: a threat model or its text, "linf:8/255", for PGD of 20
            steps, or a function (network, ImageSet) -> ImageSet, such as
            `functools.partial(adversarial, threat="l2:0.5", steps=50)`. The samples stay the same, so the result can
            be compared with features of the clean images.
        call: Runs the network on a batch, (network, batch) -> output, where that is not network(x), network(*x) or
            network(**x): `lambda net, batch: net.get_image_features(batch)`.
        dtype: What features are kept as, "float32" or "float16"; None keeps the type that each layer answers in.
        store: A folder that the features are written to instead of memory, batch by batch, and read from when they are
            used (see `Activations.load`). A run that was killed goes on from its last whole batch; features that are
            there already are taken as they are, and no network is run. A store of other weights, samples, layers or
            settings is never taken or written over.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        One (n, p) tensor per layer in execution order, on the CPU. A module that runs twice gives two
        layers, `name` and `name#2`. `provenance["layout"]` says which axis of each was what. Features are all axes that
        are neither samples nor positions; heads of attention count as features, windows folded into the samples' axis
        are averaged sample by sample. With layers=None and "blocks", what has no row of features per sample (tables,
        attention weights) is left out and named in `provenance["layers_left_out"]`.

    Raises:
        ValueError: An unknown layer, a layer that never ran, one that was asked for and has no row per sample, or whose
            axes are not clear; a reduction that does not fit the output, a shuffling loader; as for `adversarial`.
            A number too large for `dtype`. A store of something else, one that is damaged, or that another process
            writes to.
        TypeError: An attack on data that is no `ImageSet`.
        MemoryError: Features that would not fit into memory.
        OSError: A disk without room for the features; what is written by then stays, and is gone on from.

    Warns:
        CautionWarning: Outputs that do not fit the labels: another number of classes, or fewer right than by chance;
            layers that are left out as it is not clear which of their axes are features; a network whose
            answer to a sample depends on the rest of its batch.

    Cost:
        The forward passes, and one copy of the features; before them three passes over two or three samples, which find
        out the axes, and the attack, where there is one.
    """
    reductions, kept = Reductions(reduction), kept_type(dtype, "extract")
    forward = TappedNetwork(net, layers, reductions, axes, "extract", name, call)
    if attack is not None:
        data = under(net, data, attack, progress=progress)
    source = Source.of(data, "extract", getattr(bare(net, until=Network), "tokenizer", None))
    run = _Run(net, forward, source, reductions.name, kept, batch_size, progress)
    if store is None:
        made = run.in_memory()
    else:
        key = key_of(net, forward, source, reduction=reduction, axes=axes, dtype=kept, call=call)
        with alone(Path(store), "extract", folder=True):
            made = run.stored(Path(store), key)
    if caution := outputs_caution(made, source.classes):
        warnings.warn(f"extract: {caution}", CautionWarning, stacklevel=2)
    return made


@dataclass(frozen=True, eq=False)
class _Run:
    """One network over one source, into memory or a store."""

    net: nn.Module
    forward: TappedNetwork
    source: Source
    reduction: str
    dtype: torch.dtype | None
    batch_size: int
    progress: bool

    def in_memory(self) -> Activations:
        step = self.forward.step(self.batch_size)
        layers, _ = self._shapes()
        self._check_room(sum(width * kind.itemsize for width, kind in layers.values()))
        memory = _Memory(self.source.n, self.dtype, answers=self._has_outputs)
        self._over(memory, step, 0)
        outputs = memory.outputs()
        return Activations(memory.features, self.source.labels, **self._facts(), outputs=outputs)

    def stored(self, folder: Path, key: Mapping[str, Any]) -> Activations:
        """Features of a key from its store, which is filled first, as far as it is not."""
        there = matching_store(folder, key, "extract")
        if there is None or not there.finished:
            asked = self.forward.step(self.batch_size)
            layers, outputs = self._shapes()
            block = rows_per_block(self.batch_size, asked, sum(w * kind.itemsize for w, kind in layers.values()))
            tracks = tracks_of(layers, outputs)
            new = Manifest(key, tracks, outputs is not None, block, asked, self.source.n, {}, {})
            with contextlib.closing(StoreWriter(folder, new, "extract")) as writer:
                # The store's own batches, so that the rest is as it would have been.
                self._over(writer, writer.manifest.step, writer.done)
                labels = None if self.source.labels is None else self.source.labels.tolist()
                writer.finish({**self._facts(), "labels": labels})
        return replace(Activations.load(folder), name=self.source.called(self.forward.name))

    @property
    def _has_outputs(self) -> bool:
        return not getattr(bare(self.net, until=Network), "headless", False)

    def _shapes(self) -> tuple[_Shapes, tuple[int, torch.dtype] | None]:
        """Widths and types of all features, and of the network's own outputs, from a pass over two rows."""
        self.forward.look(self.source.first, depth=6)
        layers: _Shapes = {}

        def see(layer: str, rows: Float[Tensor, "b p"]) -> None:
            layers[layer] = rows.shape[1], self.dtype or rows.dtype

        with self.forward.recording(see) as run:
            answer = own_answer(run(self.source.first(2)))
        plain = self._has_outputs and _is_row(answer, 2)
        return layers, (answer.shape[1], answer.dtype) if plain else None

    def _over(self, sink: "_Memory | StoreWriter", step: int, start: int) -> None:
        """Runs the network over all rows from `start` on."""
        bar = progress_bar(self.source.n, f"extract {self.forward.name}", "sample", show=self.progress)
        with self.forward.recording(sink.write) as run, bar:
            bar.update(start)
            for x in self.source.batches(step, start):
                count = rows_of(x)
                sink.begin(count)
                sink.answers(own_answer(run(x)))
                sink.end()
                bar.update(count)

    def _facts(self) -> dict[str, Any]:
        told = {**self.source.facts, **self.forward.facts, "layers_that_never_ran": self.forward.never_ran()}
        return {
            "digest": self.source.digest,
            "name": self.source.called(self.forward.name),
            "reduction": self.reduction,
            "provenance": {**self.forward.provenance, **told},
            "ids": self.source.ids,
        }

    def _check_room(self, row_bytes: int) -> None:
        """Whether the features would fit, before the first batch is run."""
        needed, have = self.source.n * row_bytes, available_memory()
        if have is not None and needed > have:
            got = f"{needed / 2**30:.1f} GiB for {self.source.n:,} samples with {have / 2**30:.1f} GiB free"
            advice = 'Use reduction="mean", fewer layers or fewer samples'
            raise MemoryError(message("extract", "the features must fit into memory", got, advice))


def _is_row(answer: Any, rows: int) -> bool:
    """Whether an answer is one row of numbers per sample."""
    return isinstance(answer, Tensor) and answer.is_floating_point() and answer.ndim == 2 and len(answer) == rows


class _Memory:
    """Room for all rows of every layer, allocated once, in order of execution; and for the network's own answers."""

    def __init__(self, n: int, dtype: torch.dtype | None, *, answers: bool) -> None:
        self.features: dict[str, Tensor] = {}
        self._answers: list[Tensor] | None = [] if answers else None
        self._n, self._dtype, self._start, self._rows = n, dtype, 0, 0

    def begin(self, rows: int) -> None:
        self._rows = rows

    def write(self, layer: str, rows: Float[Tensor, "b p"]) -> None:
        kind = self._dtype or rows.dtype
        check_fits(rows, kind, layer, self._start, "extract")
        if self._start == 0:
            self.features[layer] = empty_rows(self._n, rows.shape[1], kind)
        self.features[layer][self._start : self._start + self._rows].copy_(rows)

    def answers(self, answer: Any) -> None:
        """Keeps what the network itself answers, as long as that is one row of numbers per sample."""
        known = self._answers
        if known is not None and _is_row(answer, self._rows) and all(p.shape[1] == answer.shape[1] for p in known[:1]):
            known.append(answer.detach().cpu().clone())
        else:
            self._answers = None

    def end(self) -> None:
        self._start += self._rows

    def outputs(self) -> Tensor | None:
        return torch.cat(self._answers) if self._answers else None
