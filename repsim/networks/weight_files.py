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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repsim._common.files import sha256_of, whole_file
from repsim._common.messages import message, some
from repsim.networks.pickle_scan import endless

#: Where training scripts put the weights inside a file, the usual places first.
_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "ema",
    "model_ema",
    "state_dict_ema",
)

#: Held while a file of PyTorch is read.
_READING = threading.Lock()

#: Containers inside each other; a file may also hold one inside itself.
_DEEPEST = 20


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


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a weight file as found in the wild, without running code from it.

    Args:
        path: A PyTorch file (a state dict, a container around one, a list of them) or a safetensors file.

    Returns:
        The tensors under the file's own names; `repsim._fitting` finds a network's parameters among them.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file that is truncated, a web page, a pickle that asks for code, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(message("load_model", "the weight file must exist", str(path), "Check the path"))
    with open(path, "rb") as stream:
        head = stream.read(512)
    start = head.lstrip().lower()
    if not head:
        raise _unreadable(path, "an empty file", "Download it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _unreadable(path, "a web page", "The download link led to a page; fetch the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise _unreadable(path, "a Git LFS pointer", "Fetch the file itself with: git lfs pull")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    notes: list[str] = []
    state = _unwrap(_torch_load(path), path, notes)
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
    text = json.dumps({**record, "weights_sha256": weights_digest(state)}, sort_keys=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(save(state, metadata={"repsim": text}))
    return Path(path)


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, f"a damaged safetensors file ({error})", "Download or make it again") from error
    try:
        record = json.loads(metadata.get("repsim", "{}"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "a record in its header that is not JSON", "Make the file again") from error
    if not isinstance(record, dict):
        raise _unreadable(path, f"a record that is a {type(record).__name__}", "Make the file again")
    lacking = sorted({"architecture", "normalize", "weights_sha256"} - set(record)) if record else []
    if lacking:
        raise _unreadable(path, f"a record without {some(lacking)}", "Make the file again")
    if record and record["weights_sha256"] != weights_digest(state):
        raise _unreadable(path, "weights that differ from the digest recorded with them", "Make the file again")
    return Checkpoint(state, sha256_of(path), path, record)


def _torch_load(path: Path) -> Any:
    # Scores are often numpy numbers and settings a Namespace: plain data, which PyTorch does not list as safe.
    # numpy's own reducers name these; asking for them here also gives the right place in every numpy version.
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]

    def old_scalar(*args: Any) -> Any:
        return scalar(*args)

    # Files of numpy 1 name the module that numpy 2 renamed.
    old_scalar.__module__, old_scalar.__name__, old_scalar.__qualname__ = "numpy.core.multiarray", "scalar", "scalar"
    if reason := endless(path):
        advice = "Load it in the code that wrote it and save model.state_dict()"
        raise _unreadable(path, f"{reason}, which would keep a reader busy without end", advice)
    safe = [argparse.Namespace, scalar, old_scalar, np.dtype, *dtypes]
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
            raise _unreadable(path, got, advice) from error
        if "operand" in reason or ("Unsupported" not in reason and "GLOBAL" not in reason):
            raise _unreadable(path, "a damaged or truncated file", "Download it again") from error
        name = reason.partition("GLOBAL ")[2].split(" ")[0].rstrip(",.") or "an object of its own"
        advice = "Where you trust it, load it in the code that wrote it and save model.state_dict()"
        raise _unreadable(path, f"a pickle that asks for code to run ({name}), which is never done", advice) from error
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
        raise _unreadable(path, "a damaged or truncated file", "Download it again") from error


def _unwrap(content: Any, path: Path, notes: list[str], depth: int = 0) -> dict[str, Tensor]:
    if depth > _DEEPEST:
        raise _unreadable(path, f"containers inside each other, more than {_DEEPEST}", "Save model.state_dict()")
    if isinstance(content, list | tuple) and len(content) > 0 and isinstance(content[0], Mapping):
        if len(content) > 1:
            notes.append(f"a list of {len(content)} sets of weights: took the first")
        return _unwrap(content[0], path, notes, depth + 1)
    if isinstance(content, Mapping):
        tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        inside = [k for k in _CONTAINERS if _holds_tensors(content.get(k))]
        if inside:
            also = f" (there are also {', '.join(inside[1:])})" if inside[1:] else ""
            notes.append(f"weights taken from {inside[0]!r}{also}")
            return _unwrap(content[inside[0]], path, notes, depth + 1)
        if tensors:
            _check_stored(tensors, path)
            return tensors
    got = (
        f"{type(content).__name__} with {some(map(str, content))}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    raise _unreadable(
        path,
        f"no state dict in it ({got})",
        f"Save model.state_dict(), or put it under one of {some(_CONTAINERS)}",
    )


def _holds_tensors(content: Any) -> bool:
    """Whether a tensor is somewhere inside. Every object is looked into once: files may hold one in many places."""
    seen, waiting = set[int](), [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            inside = list(one.values() if isinstance(one, Mapping) else one)
            if any(isinstance(v, Tensor) for v in inside):
                return True
            waiting += inside
    return False


def _check_stored(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A tensor is no larger than what is stored of it: a view that repeats one number may claim any size."""
    most = path.stat().st_size
    for key, value in tensors.items():
        if value.layout == torch.strided and value.numel() > max(most, 1):
            raise _unreadable(path, f"{value.numel():,} numbers under {key!r} in {most:,} bytes", "Make it again")


def _unreadable(path: Path, got: str, do: str) -> ValueError:
    return ValueError(message("load_model", f"{path} must be a weight file", got, do))


def weights_digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu()
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
