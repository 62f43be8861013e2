"""Features read from a store: a layer as a tensor that lies in its file, or some rows of every layer."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim.features.store.layout import Manifest, Track, as_bytes, checksum, damaged, read_manifest

#: Bytes that are read at once while checksums are compared, where blocks are smaller.
_CHUNK = 16 * 2**20


class StoredFeatures(Mapping[str, Float[Tensor, "n _p"]]):
    """Layer -> features, mapped from files: the system reads what is used, and drops it where memory is short.

    Bytes are checked against their checksums before they are used for the first time: a layer's when it is asked for,
    some rows' when they are read. Writing to a tensor changes its file no more than it changes the store.

    Args:
        folder: The store.
        manifest: What it holds, finished.
        function: Who asks, for messages.

    Attributes:
        folder: The store.
        n: Rows of each layer.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file of another length, or that begins otherwise than it was written.
    """

    def __init__(self, folder: Path, manifest: Manifest, function: str) -> None:
        assert manifest.n is not None
        self.n: int = manifest.n
        self.folder, self._manifest, self._function = folder, manifest, function
        self._tracks = {track.name: track for track in manifest.layers}
        self._mapped: dict[str, Tensor] = {}
        self._checked: dict[str, set[int]] = {track.file: set() for track in manifest.tracks}
        for track in manifest.tracks:
            self._check_file(track)

    @property
    def shapes(self) -> list[tuple[int, torch.dtype]]:
        """Width and type of each layer."""
        return [(track.width, track.dtype) for track in self._tracks.values()]

    def __getitem__(self, layer: str) -> Float[Tensor, "n p"]:
        if layer not in self._mapped:
            self._mapped[layer] = self._whole(self._tracks[layer])
        return self._mapped[layer]

    def __contains__(self, layer: object) -> bool:
        return layer in self._tracks

    def __iter__(self) -> Iterator[str]:
        return iter(self._tracks)

    def __len__(self) -> int:
        return len(self._tracks)

    def outputs(self) -> Float[Tensor, "n k"] | None:
        """What the network itself answered, in memory."""
        return self._rows(self._manifest.tracks[-1], 0, self.n) if self._manifest.outputs else None

    def read(self, rows: slice | Int[Tensor, " b"], write: Callable[[int, int, Tensor], None]) -> None:
        """Hands on some rows of every layer: (layer's number, 0, features); no more than those are read."""
        start, stop, step = rows.indices(self.n) if isinstance(rows, slice) else (0, 0, 0)
        for number, track in enumerate(self._tracks.values()):
            if step == 1:
                write(number, 0, self._rows(track, start, stop))
                continue
            chosen = torch.arange(self.n)[rows]
            for block in (chosen // self._manifest.block).unique().tolist():
                self._check(track, block)
            write(number, 0, self._map(track)[chosen])

    def _rows(self, track: Track, start: int, stop: int) -> Float[Tensor, "b p"]:
        """Neighbouring rows, read from the file; with the rest of their blocks where these are not checked yet."""
        block = self._manifest.block
        for each in range(start // block, -(-stop // block)):
            self._check(track, each)
        return self._read(track, start, stop)

    def _read(self, track: Track, start: int, stop: int) -> Float[Tensor, "b p"]:
        x = torch.empty(stop - start, track.width, dtype=track.dtype)
        if stop > start:
            with open(self.folder / track.file, "rb") as stream:
                stream.seek(track.offset + start * track.row_bytes)
                if stream.readinto(as_bytes(x)) != x.nbytes:
                    raise damaged(self._function, self.folder / track.file, "shorter than it was")
        return x

    def _whole(self, track: Track) -> Float[Tensor, "n p"]:
        for block in range(len(self._manifest.sums[track.file])):
            self._check(track, block)
        return self._map(track)

    def _check(self, track: Track, block: int) -> None:
        """Compares the checksum of a block, once."""
        if block in self._checked[track.file]:
            return
        start = block * self._manifest.block
        stop = min(start + self._manifest.block, self.n)
        if checksum(as_bytes(self._read(track, start, stop))) != self._manifest.sums[track.file][block]:
            reason = f"rows {start} to {stop - 1} differ from their checksum"
            raise damaged(self._function, self.folder / track.file, reason)
        self._checked[track.file].add(block)

    def _map(self, track: Track) -> Float[Tensor, "n p"]:
        # Private to this process: numpy has no bfloat16, and a tensor cannot be read-only.
        kind = np.int16 if track.dtype == torch.bfloat16 else np.dtype(track.kind)
        shape = self.n, track.width
        lies = np.memmap(self.folder / track.file, kind, mode="c", offset=track.offset, shape=shape)
        return torch.from_numpy(lies).view(track.dtype)

    def _check_file(self, track: Track) -> None:
        path = self.folder / track.file
        if not path.is_file():
            advice = "Bring it back, or remove the store and extract or save anew"
            raise FileNotFoundError(
                message(self._function, "every file of the store must be there", f"no {path}", advice)
            )
        header = track.header(self.n)
        with open(path, "rb") as stream:
            begins = stream.read(len(header))
        if path.stat().st_size != len(header) + self.n * track.row_bytes:
            raise damaged(self._function, path, f"{path.stat().st_size:,} bytes long")
        if begins != header:
            raise damaged(self._function, path, "another beginning")


def open_store(folder: Path, function: str) -> tuple[Manifest, StoredFeatures]:
    """What a finished store holds. Nothing in it is executed.

    Raises:
        FileNotFoundError: No store is there, or a file of it is missing.
        ValueError: A folder that is no store, one that is not finished, or damaged.
    """
    manifest = read_manifest(folder, function)
    if manifest is None:
        raise FileNotFoundError(message(function, "the store must exist", str(folder), "Check the path"))
    if not manifest.finished:
        advice = "Run the same extract(..., store=) again: it goes on where it was"
        raise ValueError(message(function, "the store must be finished", f"{folder}, which is not", advice))
    return manifest, StoredFeatures(folder, manifest, function)
