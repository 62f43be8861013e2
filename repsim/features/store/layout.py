"""The files of a store: one safetensors file per layer, and a manifest that says what they hold."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.files import write_text
from repsim._common.messages import message, shown, some

#: Of all stores; another number, another layout of their files.
FORMAT = 1

MANIFEST = "manifest.json"

#: Checksums of the blocks that the disk has, line by line, until the manifest takes them.
JOURNAL = "journal.jsonl"

#: What safetensors calls the types that features have.
_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}

#: Rows of the largest store, for whose number every header has room.
_MOST_ROWS = 10**15

_MUST, _ANEW = "the store must hold what was written to it", "Remove it, and extract or save anew"


@dataclass(frozen=True)
class Track:
    """One file of rows: a layer's features, or what the network itself answers.

    Attributes:
        name: The layer.
        file: The file's name.
        width: Numbers per row.
        kind: Their type, as in "float32".
    """

    name: str
    file: str
    width: int
    kind: str

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.kind)

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    @property
    def offset(self) -> int:
        """Bytes of the file before the first row."""
        return len(self.header(_MOST_ROWS))

    def header(self, n: int) -> bytes:
        """How the file of n rows begins; as long for any n."""
        entry = {"dtype": _NAMES[self.dtype], "shape": [n, self.width], "data_offsets": [0, n * self.row_bytes]}
        most = {**entry, "shape": [_MOST_ROWS, self.width], "data_offsets": [0, _MOST_ROWS * self.row_bytes]}
        room = -(-(8 + len(json.dumps({self.name: most}).encode())) // 64) * 64 - 8
        return room.to_bytes(8, "little") + json.dumps({self.name: entry}).encode().ljust(room)


def tracks_of(layers: Mapping[str, tuple[int, torch.dtype]], outputs: tuple[int, torch.dtype] | None) -> list[Track]:
    """The files of a store.

    Args:
        layers: Layer -> features per row, and their type.
        outputs: Numbers per row that the network itself answers, and their type. Their file comes last.
    """

    def track(name: str, file: str, width: int, dtype: torch.dtype) -> Track:
        return Track(name, f"{file}.safetensors", width, str(dtype).removeprefix("torch."))

    named = {layer: f"{i:04}-{re.sub(r'[^A-Za-z0-9._-]', '_', layer)[:80]}" for i, layer in enumerate(layers)}
    found = [track(layer, named[layer], *facts) for layer, facts in layers.items()]
    return found if outputs is None else [*found, track("outputs", "outputs", *outputs)]


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Attributes:
        key: All that the features depend on.
        tracks: The layers' files in execution order, and that of the outputs last, where there is one.
        outputs: Whether there is one.
        block: Rows that have a checksum together.
        step: Rows per forward pass.
        n: Rows of every file; None while they are not known.
        sums: File -> the checksum of each block; empty while the store is being written.
        facts: What stands beside the features.
    """

    key: Mapping[str, Any]
    tracks: Sequence[Track]
    outputs: bool
    block: int
    step: int
    n: int | None
    sums: Mapping[str, Sequence[str]]
    facts: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return bool(self.sums)

    @property
    def layers(self) -> Sequence[Track]:
        """The layers' files, without that of the outputs."""
        return self.tracks[:-1] if self.outputs else self.tracks

    def write(self, folder: Path) -> None:
        """Writes it whole or not at all."""
        write_text(folder / MANIFEST, json.dumps({"format": FORMAT, **asdict(self)}, indent=1, default=str) + "\n")


def read_manifest(folder: Path, function: str) -> Manifest | None:
    """The manifest of a folder; None where the folder is empty or not there. Nothing in it is executed.

    Raises:
        ValueError: A folder that is no store, or a manifest that is damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else [folder.name] * folder.exists()
        if not there:
            return None
        got = f"{folder} with {some(there)} and no {MANIFEST}" if folder.is_dir() else f"the file {folder}"
        must = "the store must be a folder that holds nothing else"
        raise ValueError(message(function, must, got, "Name another folder"))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        written = found.pop("format")
        if written == FORMAT:
            tracks = [Track(**track) for track in found.pop("tracks")]
            made = Manifest(**found, tracks=tracks)
            _check(made)
            return made
    except Exception as error:  # a damaged manifest fails in as many ways as it has bytes
        raise damaged(function, path, "damaged, or something else") from error
    raise damaged(function, path, f"format {shown(written)}, where this version reads {FORMAT}")


def _check(made: Manifest) -> None:
    """Raises where a manifest names files elsewhere, or numbers that cannot be."""
    names = [track.file for track in made.tracks]
    numbers = [made.block, made.step, *(track.width for track in made.tracks)]
    numbers += [made.n] if made.n is not None else []
    fine = all(name == Path(name).name and name not in ("", "..") for name in names) and len(set(names)) == len(names)
    fine &= bool(made.layers) and all(type(x) is int and x > 0 for x in numbers)
    fine &= all(track.dtype in _NAMES for track in made.tracks)
    if made.finished:
        blocks = -(-(made.n or 0) // made.block)
        fine &= all(len(made.sums[name]) == blocks for name in names) and made.n is not None
    if not fine:
        raise ValueError("numbers that cannot be")


def damaged(function: str, path: Path, reason: str) -> ValueError:
    """A file of a store that is not what was written."""
    return ValueError(message(function, _MUST, f"{path} ({reason})", _ANEW))


def checksum(rows: Any) -> str:
    """CRC-32 of bytes, in hex."""
    return f"{zlib.crc32(rows):08x}"


def as_bytes(x: Float[Tensor, "b p"]) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, where they lie."""
    return x.flatten().view(torch.uint8).numpy().data
