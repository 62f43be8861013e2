"""One network over one source: planned, and then run into memory or a store."""

import contextlib
import functools
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from repsim._common.files import remove_leftovers, temporary_prefix
from repsim._common.locks import alone
from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim._common.provenance import CautionWarning, first_line_outside
from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.activations import Activations
from repsim.features.forward import TappedNetwork
from repsim.features.inputs.batches import Call, rows_of
from repsim.features.inputs.stream import Stream
from repsim.features.reductions import Choice, Reductions
from repsim.features.side_checks import outputs_caution
from repsim.features.source import Source, inputs_of
from repsim.features.store.budget import Plan, budget_of, free_at, place_for, smaller
from repsim.features.store.key import key_of, short
from repsim.features.store.layout import Manifest, tracks_of
from repsim.features.store.writer import (
    StoreWriter,
    check_fits,
    check_samples,
    kept_type,
    matching_store,
    rows_per_block,
)
from repsim.networks.answers import own_answer
from repsim.networks.layers import Layers
from repsim.networks.network import Network, bare
from repsim.numerics.memory import bytes_of, empty_rows, readable
from repsim.robustness.adversarial_sets import Condition, under


@dataclass(frozen=True, eq=False)
class Extraction:
    """One network over one source, planned, and then run into memory or a store; made by `Extraction.of`."""

    net: nn.Module
    forward: TappedNetwork
    source: Source | Stream
    averaged: TappedNetwork | None
    reduction: str
    facts: Mapping[str, Any]
    dtype: torch.dtype | None
    batch_size: int
    memory: int | None
    progress: bool
    function: str

    @classmethod
    def of(
        cls,
        net: nn.Module,
        data: ImageSet | TextSet | Tensor | Iterable[Any] | Dataset[Any],
        function: str,
        layers: Layers,
        reduction: Choice,
        axes: Mapping[str, str] | None,
        batch_size: int,
        name: str | None,
        attack: Condition | None,
        call: Call | None,
        dtype: torch.dtype | str | None,
        memory: int | str | None,
        progress: bool,
    ) -> "Extraction":
        """Arguments as for `extract`. No network is run but by an attack."""
        reductions, kept = Reductions(reduction, function), kept_type(dtype, function)
        forward = TappedNetwork(net, layers, reductions, axes, function, name, call)
        forward.step(batch_size)
        most = None if memory is None else bytes_of(memory, function)
        if attack is not None:
            data = under(net, data, attack, progress=progress)
        source = inputs_of(data, function, getattr(bare(net, until=Network), "tokenizer", None))
        plain = reduction in ("auto", "mean")
        mean = None if plain else TappedNetwork(net, layers, Reductions("mean"), axes, function, name, call)
        asked = {"reduction": reduction, "axes": axes, "call": call}
        given = reductions.name, asked, kept, batch_size, most, progress, function
        return cls(net, forward, source, mean, *given)

    @functools.cached_property
    def plan(self) -> Plan:
        """Widths and types of all features, from passes over two or three samples."""
        self.forward.look(self.source.first)
        layers: dict[str, tuple[int, torch.dtype]] = {}

        def see(layer: str, rows: Float[Tensor, "b p"]) -> None:
            layers[layer] = rows.shape[1], self.dtype or rows.dtype

        with self.forward.recording(see) as run:
            answer = own_answer(run(self.source.first(2)))
        plain = self._has_outputs and _is_row(answer, 2)
        outputs = (answer.shape[1], answer.dtype) if plain else None
        return Plan(self.source.called(self.forward.name), self.source.n, layers, outputs)

    def timed(self) -> Plan:
        """The plan with the seconds that the network will run, from the second pass over its first batch."""
        plan, step = self.plan, self.forward.step(self.batch_size)
        x = self.source.first(step if plan.n is None else min(step, plan.n))
        with self.forward.recording(lambda layer, rows: None) as run:
            run(x)
            started = time.perf_counter()
            answer = run(x)
            if isinstance(answer, Tensor) and answer.is_cuda:
                torch.cuda.synchronize(answer.device)
        seconds = (time.perf_counter() - started) * (plan.n or rows_of(x)) / rows_of(x)
        return replace(plan, seconds=seconds)

    def in_memory(self) -> Activations:
        """All features in memory, or where they are above the budget in a store that is removed with them."""
        plan, budget = self.plan, budget_of(self.memory)
        if plan.n is not None and budget is not None and plan.total > budget:
            return self._in_a_temporary_store(plan, budget)
        kept = _Memory(self.source.n, self.dtype, budget, answers=self._has_outputs, function=self.function)
        self._over(kept, self.forward.step(self.batch_size), 0)
        outputs = kept.outputs()
        return self._cautioned(Activations(kept.together(), self.source.labels, **self._told(), outputs=outputs))

    def stored(self, place: str | Path, *, share: float = 1) -> Activations:
        """All features in a store, which is filled first, as far as it is not.

        Args:
            place: As for `extract`.
            share: Of the free disk; what would take more is kept in memory, and a line says so.
        """
        key = key_of(self.net, self.forward, self.source, dtype=self.dtype, **self.facts)
        folder = Path(str(place).replace("{key}", short(key)))
        with alone(folder, self.function, folder=True):
            there = matching_store(folder, key, self.function)
            if there is None or not there.finished:
                if share < 1 and self.plan.total > (most := share * free_at(folder)):
                    text = (
                        f"{self.plan.name}: {readable(self.plan.total)} of features are not kept, as they would take "
                    )
                    text += f"more than {readable(int(most))}, {100 * share:g} % of the free disk"
                    warnings.warn(f"{self.function}: {text}", CautionWarning, stacklevel=first_line_outside())
                    return self.in_memory()
                self._fill(folder, key)
            elif isinstance(self.source, Stream):
                self.source.pass_over()
                check_samples(self.source.digest, there.facts["digest"], folder, self.function)
        made = replace(Activations.load(folder), name=self.source.called(self.forward.name))
        return self._cautioned(made)

    def _cautioned(self, made: Activations) -> Activations:
        """Says what a careful reader should know of the outputs and labels."""
        if caution := outputs_caution(made, self.source.classes):
            warnings.warn(f"{self.function}: {caution}", CautionWarning, stacklevel=first_line_outside())
        return made

    def _fill(self, folder: Path, key: Mapping[str, Any]) -> None:
        plan, step = self.plan, self.forward.step(self.batch_size)
        tracks = tracks_of(plan.layers, plan.outputs)
        block = rows_per_block(self.batch_size, step, sum(track.row_bytes for track in tracks))
        new = Manifest(key, tracks, plan.outputs is not None, block, step, self.source.n, {}, {})
        with contextlib.closing(StoreWriter(folder, new, self.function)) as writer:
            self.source.pass_over(writer.done)
            check_samples(self.source.mark, writer.mark, folder, self.function)
            # The store's own batches, so that the rest is as it would have been.
            self._over(writer, writer.manifest.step, writer.done)
            labels = None if self.source.labels is None else self.source.labels.tolist()
            writer.finish({**self._told(), "labels": labels})

    def _in_a_temporary_store(self, plan: Plan, budget: int) -> Activations:
        place, size = place_for(plan.total), f"{readable(plan.total)} for {plan.n:,} samples"
        if place is None:
            changes = smaller(plan, budget, self._averaged())
            advice = f"Use {', '.join(changes)}" if changes else "Choose fewer layers"
            advice += ", or store= on a disk with room"
            must, got = "the features must fit into memory", f"{size} with {readable(budget)} to use"
            raise MemoryError(message(self.function, must, got, advice))
        remove_leftovers(place)
        folder = Path(tempfile.mkdtemp(prefix=temporary_prefix(), dir=place))
        text = f"{plan.name}: {size} are above the {readable(budget)} of memory to use, so they are kept in {folder}"
        warnings.warn(
            f"{self.function}: {text} as long as they are used.", CautionWarning, stacklevel=first_line_outside()
        )
        try:
            made = self.stored(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(made.features, shutil.rmtree, folder, ignore_errors=True)
        return made

    def _averaged(self) -> Plan | None:
        """The plan where all positions are averaged; None where they are, or cannot be."""
        if self.averaged is None:
            return None
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore", CautionWarning)
            return replace(self, forward=self.averaged, averaged=None).plan
        return None

    @property
    def _has_outputs(self) -> bool:
        return not getattr(bare(self.net, until=Network), "headless", False)

    def _over(self, sink: "_Memory | StoreWriter", step: int, start: int) -> None:
        """Runs the network over all rows from `start` on."""
        n = self.source.n
        bar = progress_bar(n, f"extract {self.forward.name}", "sample", show=self.progress)
        with self.forward.recording(sink.write) as run, bar:
            bar.update(start)
            for x in self.source.batches(step, start):
                count = rows_of(x)
                sink.begin(count)
                sink.answers(own_answer(run(x)))
                sink.end(self.source.mark)
                bar.update(count)

    def _told(self) -> dict[str, Any]:
        told = {**self.source.facts, **self.forward.facts, "layers_that_never_ran": self.forward.never_ran()}
        return {
            "digest": self.source.digest,
            "name": self.source.called(self.forward.name),
            "reduction": self.reduction,
            "provenance": {**self.forward.provenance, **told},
            "ids": self.source.ids,
        }


def _is_row(answer: Any, rows: int) -> bool:
    """Whether an answer is one row of numbers per sample."""
    return isinstance(answer, Tensor) and answer.is_floating_point() and answer.ndim == 2 and len(answer) == rows


class _Memory:
    """Room for all rows of every layer, in order of execution; and for the network's own answers.

    It is allocated once where it is known how many rows there will be, and otherwise as they come.
    """

    def __init__(
        self, n: int | None, dtype: torch.dtype | None, budget: int | None, *, answers: bool, function: str
    ) -> None:
        self._features: dict[str, list[Tensor]] = {}
        self._answers: list[Tensor] | None = [] if answers else None
        self._n, self._dtype, self._budget, self._function = n, dtype, budget, function
        self._start, self._rows, self._bytes = 0, 0, 0

    def begin(self, rows: int) -> None:
        self._rows = rows
        if self._n is None and self._budget is not None and self._bytes > self._budget:
            got = f"{readable(self._bytes)} for {self._start:,} samples, and more to come"
            advice = 'Use store=, dtype="float16", reduction="mean", fewer layers or fewer samples'
            raise MemoryError(message(self._function, "the features must fit into memory", got, advice))

    def write(self, layer: str, rows: Float[Tensor, "b p"]) -> None:
        kind = self._dtype or rows.dtype
        check_fits(rows, kind, layer, self._start, self._function)
        self._keep(self._features.setdefault(layer, []), rows, kind)

    def answers(self, answer: Any) -> None:
        """Keeps what the network itself answers, as long as that is one row of numbers per sample."""
        parts = self._answers
        if parts is None or not _is_row(answer, self._rows) or any(p.shape[1] != answer.shape[1] for p in parts[:1]):
            self._answers = None
        else:
            self._keep(parts, answer, answer.dtype)

    def end(self, mark: str) -> None:
        self._start += self._rows

    def _keep(self, parts: list[Tensor], rows: Tensor, kind: torch.dtype) -> None:
        if self._n is None:
            parts.append(rows.detach().to("cpu", kind, copy=True))
            self._bytes += parts[-1].nbytes
            return
        if not parts:
            parts.append(empty_rows(self._n, rows.shape[1], kind))
        parts[0][self._start : self._start + self._rows].copy_(rows)

    def together(self) -> dict[str, Tensor]:
        """Layer -> all of its rows. A layer's parts are let go of as they are put together."""
        return {layer: torch.cat(parts) if len(parts) > 1 else parts[0] for layer, parts in self._let_go()}

    def outputs(self) -> Tensor | None:
        return torch.cat(self._answers) if self._answers else None

    def _let_go(self) -> Iterator[tuple[str, list[Tensor]]]:
        for layer in list(self._features):
            yield layer, self._features.pop(layer)
