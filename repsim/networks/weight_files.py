"""Weight files, read safely; and the files that repsim's own recipes write.

Loading never runs code from a file: PyTorch files go through `weights_only=True`, everything else is
safetensors. A file that repsim wrote is safetensors whose header records how the network was made.
"""

import argparse
import hashlib
import json
import pickle
import struct
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repsim._common.files import sha256_of, whole_file
from repsim._common.messages import message, some
from repsim.networks.containers import find_weights, unreadable
from repsim.networks.pickle_scan import endless

#: Held while a file of PyTorch is read.
_READING = threading.Lock()


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights and how they were made.

    Attributes:
        state: Parameter name -> tensor, as the file has them.
        sha256: Of the file's bytes.
        path: The file.
        record: What a repsim recipe wrote beside the weights (architecture, normalize, recipe, settings,
            scores, versions); empty for files from elsewhere.
        notes: What was decided while reading, in words.
    """

    state: Mapping[str, Tensor]
    sha256: str
    path: Path
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, *, part: str | None = None) -> Checkpoint:
    """Reads a weight file as found in the wild, without running code from it.

    Args:
        path: A PyTorch file (a state dict, a container around one, a list of them), a safetensors file, or the index
            file of several of these (`model.safetensors.index.json`).
        part: Which of several networks in the file: the key that its weights stand under, or a prefix of their names.

    Returns:
        The tensors under the file's own names; `fit_weights` finds a network's parameters among them.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file that is truncated, a web page, a pickle that asks for code, or holds no weights; several
            networks and no `part`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(message("load_model", "the weight file must exist", str(path), "Check the path"))
    with open(path, "rb") as stream:
        head = stream.read(512)
    start = head.lstrip().lower()
    if not head:
        raise unreadable(path, "an empty file", "Download it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise unreadable(path, "a web page", "The download link led to a page; fetch the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise unreadable(path, "a Git LFS pointer", "Fetch the file itself with: git lfs pull")
    notes: list[str] = []
    if path.name.endswith(".index.json"):
        state, digest = _read_shards(path, notes)
        return Checkpoint(find_weights(state, path, notes, part), digest, path, notes=tuple(notes))
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        whole = _read_safetensors(path)
        return (
            whole
            if part is None
            else replace(whole, state=find_weights(whole.state, path, notes, part), notes=tuple(notes))
        )
    state = find_weights(_torch_load(path), path, notes, part)
    _check_stored(state, path)
    return Checkpoint(state, sha256_of(path), path, notes=tuple(notes))


def save_checkpoint(path: str | Path, net: nn.Module, record: Mapping[str, Any]) -> Path:
    """Writes a network and how it was made, as safetensors, whole or not at all.

    Args:
        path: Where to; the usual suffix is .safetensors.
        net: The bare architecture, without a normaliser around it.
        record: At least `architecture` and `normalize`; all of it must be JSON. The digest of the weights is added.

    Returns:
        The path.
    """
    from safetensors.torch import save

    state = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    places = [value.untyped_storage().data_ptr() for value in state.values()]
    # The format has no tensors that share their numbers, so each gets its own.
    state = {k: v.clone() if places.count(p) > 1 else v for (k, v), p in zip(state.items(), places, strict=True)}
    text = json.dumps({**record, "weights_sha256": weights_digest(state)}, sort_keys=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(save(state, metadata={"repsim": text}))
    return Path(path)


def _read_shards(index: Path, notes: list[str]) -> tuple[dict[str, Tensor], str]:
    """All tensors that an index file names, from the files beside it, and the digest of all of them."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        plain = all(isinstance(name, str) and Path(name).name == name for name in files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable(index, "an index without a weight_map", "Download it again") from error
    if not plain or not files:
        raise unreadable(index, "an index that names no files beside it", "Download it again")
    state: dict[str, Tensor] = {}
    digest = hashlib.sha256(sha256_of(index).encode())
    for name in files:
        shard = index.parent / name
        if not shard.is_file():
            got, advice = f"no {name} beside {index}", "Put all files of the index into one folder"
            raise FileNotFoundError(message("load_model", "every file of an index must be there", got, advice))
        one = _read_safetensors(shard)
        state |= {key: value for key, value in one.state.items() if names.get(key) == name}
        digest.update(one.sha256.encode())
    if lacking := sorted(set(names) - set(state)):
        raise unreadable(index, f"an index whose files lack {some(lacking)}", "Download them again")
    notes.append(f"weights taken from {len(files)} files")
    return state, digest.hexdigest()


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise unreadable(path, f"a damaged safetensors file ({error})", "Download or make it again") from error
    try:
        record = json.loads(metadata.get("repsim", "{}"))
    except (ValueError, RecursionError) as error:
        raise unreadable(path, "a record in its header that is not JSON", "Make the file again") from error
    if not isinstance(record, dict):
        raise unreadable(path, f"a record that is a {type(record).__name__}", "Make the file again")
    lacking = sorted({"architecture", "normalize", "weights_sha256"} - set(record)) if record else []
    if lacking:
        raise unreadable(path, f"a record without {some(lacking)}", "Make the file again")
    if record and record["weights_sha256"] != weights_digest(state):
        raise unreadable(path, "weights that differ from the digest recorded with them", "Make the file again")
    return Checkpoint(state, sha256_of(path), path, record)


def _torch_load(path: Path) -> Any:
    # Scores are often numpy numbers and settings a Namespace: plain data, which PyTorch does not list as safe.
    # numpy's own reducers name these; asking for them here also gives the right place in every numpy version.
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(code)) for code in "?bhilqBHILQefdFDUSMm"]

    # Files of numpy 1 name the module that numpy 2 renamed.
    old_scalar = _named(scalar, "numpy.core.multiarray", "scalar")
    # Paths of another system or Python are read as what they are on any: parts between slashes.
    kinds = ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    paths = [_named(PurePath, module, kind) for module in ("pathlib", "pathlib._local") for kind in kinds]
    arrays: Any = np.empty(0).__reduce__()[0]
    old_arrays = _named(arrays, "numpy.core.multiarray", "_reconstruct")
    if reason := endless(path):
        advice = "Load it in the code that wrote it and save model.state_dict()"
        raise unreadable(path, f"{reason}, which would keep a reader busy without end", advice)
    safe = [argparse.Namespace, scalar, old_scalar, arrays, old_arrays, np.ndarray, np.dtype, *dtypes, *paths]
    try:
        # What is safe and which warnings are shown holds for all threads, so one of them reads at a time.
        with _READING, torch.serialization.safe_globals(safe), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "Unsupported operand 149" in reason:  # a frame, with which protocol 4 begins
            got = "pickle protocol 4 or newer, which cannot be read without running code"
            advice = "Load it in the code that wrote it and save model.state_dict() with torch.save's defaults"
            raise unreadable(path, got, advice) from error
        if "operand" in reason or ("Unsupported" not in reason and "GLOBAL" not in reason):
            raise unreadable(path, "a damaged or truncated file", "Download it again") from error
        name = reason.partition("GLOBAL ")[2].split(" ")[0].rstrip(",.") or "an object of its own"
        advice = "Where you trust it, load it in the code that wrote it and save model.state_dict()"
        raise unreadable(path, f"a pickle that asks for code to run ({name}), which is never done", advice) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        MemoryError,
        AssertionError,
        UserWarning,  # where a program makes errors of warnings
        struct.error,
    ) as error:
        raise unreadable(path, "a damaged or truncated file", "Download it again") from error


def _check_stored(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A tensor is no larger than what is stored of it: a view that repeats one number may claim any size."""
    most = path.stat().st_size
    for key, value in tensors.items():
        if value.layout == torch.strided and value.numel() > max(most, 1):
            raise unreadable(path, f"{value.numel():,} numbers under {key!r} in {most:,} bytes", "Make it again")


def _named(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """A function under another module's name, by which a file may ask for it."""

    def same(*args: Any) -> Any:
        return function(*args)

    same.__module__, same.__name__, same.__qualname__ = module, name, name
    return same


def weights_digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu()
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
