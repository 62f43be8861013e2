"""Writing a store block by block, so that a run that is killed goes on from its last whole one."""

import concurrent.futures
import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import is_finite
from repsim._common.files import remove_leftovers, temporary_prefix
from repsim._common.messages import message, some
from repsim.features.store.budget import free_at
from repsim.features.store.layout import JOURNAL, Manifest, as_bytes, checksum, damaged, read_manifest, tracks_of

#: Bytes of one block of all layers, of which two are held.
_BLOCK = 128 * 2**20


def rows_per_block(asked: int, step: int, row_bytes: int) -> int:
    """Rows that are written together: a whole number of forward passes, about as many rows as asked for.

    Args:
        asked: Rows of a batch, as a user asks for them.
        step: Rows of a forward pass.
        row_bytes: Of all layers.
    """
    return step * max(1, min(-(-asked // step), _BLOCK // max(1, step * row_bytes)))


class StoreWriter:
    """Takes rows of all layers in order and writes them.

    A block is written, synced, and only then spoken of in the journal; blocks of the journal are never written again.
    The disk works at one block while the next one is filled.

    Args:
        folder: The store, which this process alone writes to.
        manifest: What it shall hold: of a new store, or of one that is not finished.
        function: Who asks, for messages.
        named: What messages call the folder.

    Attributes:
        done: Rows that the disk has.
        mark: A digest of their samples, of inputs that come in order.

    Raises:
        OSError: The disk has less room than is needed.
        ValueError: Files of an unfinished store that are shorter than they were.
    """

    def __init__(self, folder: Path, manifest: Manifest, function: str, *, named: Path | None = None) -> None:
        self._folder, self._function, self._named = folder, function, named or folder
        there = read_manifest(folder, function)
        self.manifest = manifest if there is None else there
        self._all = list(self.manifest.tracks)
        self._sums: list[list[str]] = []
        self.done, self.mark = 0, ""
        if there is not None:
            self._go_on()
        self._check_room()
        if there is None:
            with self._one_line():
                manifest.write(folder)
        block = self.manifest.block
        self._rooms = [[torch.empty(block, t.width, dtype=t.dtype) for t in self._all] for _ in range(2)]
        self._place = {track.name: i for i, track in enumerate(self.manifest.layers)}
        self._start, self._filled, self._rows, self._mark = self.done, 0, 0, ""
        self._disk = concurrent.futures.ThreadPoolExecutor(1)
        self._written: concurrent.futures.Future[None] | None = None

    def begin(self, rows: int) -> None:
        """Rows of the next forward pass."""
        self._rows = rows

    def write(self, layer: str, rows: Float[Tensor, "b p"]) -> None:
        """Takes a layer's rows of this pass."""
        self._take(self._place[layer], rows)

    def answers(self, answer: Any) -> None:
        """Takes what the network answers in this pass, where outputs are stored.

        Raises:
            ValueError: Anything but rows as wide as the first ones.
        """
        if not self.manifest.outputs:
            return
        width = self._all[-1].width
        if not isinstance(answer, Tensor) or answer.shape != (self._rows, width):
            got = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            must = f"every batch must be answered by rows of {width} numbers"
            raise ValueError(message(self._function, must, got, "Extract without store="))
        self._take(len(self._all) - 1, answer)

    def end(self, mark: str = "") -> None:
        """The pass is over.

        Args:
            mark: A digest of all samples that have passed.
        """
        self._filled, self._mark = self._filled + self._rows, mark
        if self._filled == self.manifest.block:
            self._hand_over()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """All rows are there: writes the headers, and then the manifest with all checksums.

        Args:
            facts: What stands beside the features.
        """
        if self._filled:
            self._hand_over()
        self._wait()
        with self._one_line():
            for track in self._all:
                with open(self._folder / track.file, "r+b") as stream:
                    stream.write(track.header(self.done))
                    stream.truncate(track.offset + self.done * track.row_bytes)
                    stream.flush()
                    os.fsync(stream.fileno())
            sums = {track.file: [line[i] for line in self._sums] for i, track in enumerate(self._all)}
            self.manifest = replace(self.manifest, n=self.done, sums=sums, facts=facts)
            self.manifest.write(self._folder)
            (self._folder / JOURNAL).unlink(missing_ok=True)

    def close(self) -> None:
        """Waits for the disk; blocks that are not whole are not kept."""
        self._disk.shutdown(wait=True, cancel_futures=True)

    def _take(self, place: int, rows: Float[Tensor, "b p"]) -> None:
        track, first = self._all[place], self._start + self._filled
        check_fits(rows, track.dtype, track.name, first, self._function)
        self._rooms[0][place][self._filled : self._filled + self._rows].copy_(rows)

    def _hand_over(self) -> None:
        self._wait()
        stop = self._start + self._filled
        parts = [x[: self._filled] for x in self._rooms[0]]
        self._written = self._disk.submit(self._write_block, self._start, stop, parts, self._mark)
        self._rooms.reverse()
        self._start, self._filled = stop, 0

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None

    def _write_block(self, start: int, stop: int, parts: list[Tensor], mark: str) -> None:
        sums = []
        for track, x in zip(self.manifest.layers, parts, strict=False):  # outputs may be what they are
            if not is_finite(x):
                row = start + int((~torch.isfinite(x)).any(1).nonzero()[0])
                advice = "Look for a diverged network, an overflow in float16, or broken inputs"
                got = f"NaN or infinity, first in row {row}"
                raise ValueError(message(self._function, f"layer {track.name!r} must be finite", got, advice))
        with self._one_line():
            for track, x in zip(self._all, parts, strict=True):
                content = as_bytes(x)
                sums.append(checksum(content))
                with open(self._folder / track.file, "r+b" if start else "w+b") as stream:
                    stream.seek(track.offset + start * track.row_bytes)
                    stream.write(content)
            # All of them are on their way before the first is waited for.
            for track in self._all:
                with open(self._folder / track.file, "r+b") as stream:
                    os.fsync(stream.fileno())
            with open(self._folder / JOURNAL, "a") as stream:
                stream.write(json.dumps({"rows": [start, stop], "sums": sums, "samples": mark}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            if start == 0:
                _sync_names(self._folder)
        self._sums.append(sums)
        self.done = stop

    def _go_on(self) -> None:
        """Reads how far an unfinished store has come; a line that was cut off counts for nothing."""
        path, kept, block = self._folder / JOURNAL, 0, self.manifest.block
        content = path.read_bytes() if path.exists() else b""
        for line in content.splitlines(keepends=True):
            found = _entry(line, self.done, block, len(self._all))
            if found is None:
                break
            self.done, self.mark, kept = found[0], found[2], kept + len(line)
            self._sums.append(found[1])
        if kept < len(content):
            with open(path, "r+b") as stream:
                stream.truncate(kept)
        for track in self._all if self.done else ():
            file = self._folder / track.file
            if not file.is_file() or file.stat().st_size < track.offset + self.done * track.row_bytes:
                raise damaged(self._function, file, "missing" if not file.is_file() else "shorter than it was")

    def _check_room(self) -> None:
        """Refuses before the first batch what the disk has no room for."""
        left = (self.manifest.n or 0) - self.done
        need = left * sum(track.row_bytes for track in self._all)
        free = free_at(self._folder)
        if need > free:
            got = f"{need / 2**30:.1f} GiB to write with {free / 2**30:.1f} GiB free at {self._named}"
            advice = 'Free some space, or use dtype="float16", reduction="mean", fewer layers or fewer samples'
            raise OSError(message(self._function, "the features must fit on the disk", got, advice))

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            total = "" if self.manifest.n is None else f" of {self.manifest.n:,}"
            got = f"{self._named} ({reason}) after {self.done:,}{total} rows"
            advice = "Free some space and run it again"
            advice += ": it goes on from there" if self._named is self._folder else "; nothing is left"
            raise OSError(message(self._function, "the store must be written", got, advice)) from error


def write_store(
    folder: Path,
    features: Mapping[str, Float[Tensor, "n _p"]],
    outputs: Float[Tensor, "n k"] | None,
    facts: Mapping[str, Any],
    dtype: torch.dtype | str | None,
    function: str,
) -> Path:
    """Writes features that are at hand to a new store, whole or not at all.

    Args:
        folder: Where; not there, or empty.
        features: Layer -> rows.
        outputs: What the network itself answered.
        facts: What stands beside the features.
        dtype: As for `kept_type`.
        function: Who asks, for messages.
    """
    kept = kept_type(dtype, function)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        advice = "Name another folder, or remove this one"
        raise ValueError(message(function, "the folder must be new or empty", str(folder), advice))
    layers = {layer: (x.shape[1], kept or x.dtype) for layer, x in features.items()}
    n, answers = len(next(iter(features.values()))), None if outputs is None else (outputs.shape[1], outputs.dtype)
    key = {"given": {name: facts[name] for name in ("name", "digest", "reduction")}}
    step = rows_per_block(n, 1, sum(width * kind.itemsize for width, kind in layers.values()))
    tracks = tracks_of(layers, answers)
    manifest = Manifest(key, tracks, outputs is not None, step, step, n, {}, {})
    temporary = folder.parent / f"{temporary_prefix()}{uuid.uuid4().hex[:8]}.{folder.name[-120:]}"
    try:
        with contextlib.closing(StoreWriter(temporary, manifest, function, named=folder)) as writer:
            for start in range(0, n, step):
                rows = slice(start, min(start + step, n))
                writer.begin(rows.stop - start)
                for layer, x in features.items():
                    writer.write(layer, x[rows])
                if outputs is not None:
                    writer.answers(outputs[rows])
                writer.end()
            writer.finish(facts)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
        _sync_names(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_fits(rows: Tensor, dtype: torch.dtype, layer: str, first: int, function: str) -> None:
    """Refuses finite numbers that a narrower type has no room for.

    Args:
        rows: Of a layer.
        dtype: What they shall be kept as.
        layer: Its name.
        first: The number of the first row.
        function: Who asks, for messages.
    """
    most = torch.finfo(dtype).max
    if torch.finfo(rows.dtype).max <= most or float(rows.abs().amax()) <= most or not is_finite(rows):
        return
    row, column = (int(i) for i in (rows.abs() > most).nonzero()[0])
    name = str(dtype).removeprefix("torch.")
    must = f"layer {layer!r} must fit into {name}, up to {most:.6g}"
    got, advice = f"{float(rows[row, column]):.6g} in row {first + row}", "Keep a wider type, as in dtype='float32'"
    raise ValueError(message(function, must, got, advice))


def kept_type(dtype: torch.dtype | str | None, function: str) -> torch.dtype | None:
    """The type that features shall be kept as: float32 or float16; None for their own."""
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in ("float32", "float16"):
        must, advice = "dtype must be float32 or float16", "Leave it out to keep features in their own type"
        raise ValueError(message(function, must, repr(dtype), advice))
    return None if dtype is None else getattr(torch, name)


def _entry(line: bytes, start: int, block: int, files: int) -> tuple[int, list[str], str] | None:
    """The end, checksums and mark of the block that begins at a row, from a line of the journal; None of any other."""
    try:
        found = json.loads(line)
        first, stop = found["rows"]
        sums, mark = list(found["sums"]), str(found["samples"])
    except (ValueError, KeyError, TypeError):
        return None
    fine = line.endswith(b"\n") and first == start and start < stop <= start + block and len(sums) == files
    return (stop, sums, mark) if fine else None


def _sync_names(folder: Path) -> None:
    """Waits until the disk has the names of new files, where the system can say so."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):
        os.fsync(handle)
    os.close(handle)


def matching_store(folder: Path, key: Mapping[str, Any], function: str) -> Manifest | None:
    """The manifest of a store of the same key, finished or not; None where there is no store yet.

    Raises:
        ValueError: A store of another key, or a folder that is no store.
    """
    remove_leftovers(folder)
    there = read_manifest(folder, function)
    asked = json.loads(json.dumps(key))
    if there is None or there.key == asked:
        if there is not None and there.finished:
            (folder / JOURNAL).unlink(missing_ok=True)  # a run was killed in between
        return there
    other = [name for name in {**asked, **there.key} if asked.get(name) != there.key.get(name)]
    raise _of_another_key(folder, some(other), function)


def check_samples(now: str | None, then: str | None, folder: Path, function: str) -> None:
    """Samples that come in order must be those that a store was made of, as far as they have passed."""
    if now != then:
        raise _of_another_key(folder, "samples", function)


def _of_another_key(folder: Path, differs: str, function: str) -> ValueError:
    must, advice = "the store must be of the features that are asked for", "Name another folder, or remove this one"
    return ValueError(message(function, must, f"{folder}, which differs in {differs}", advice))
