"""A look at a PyTorch file's pickles before they are read: whether they are small enough to end."""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

#: Parts of a tuple, parts of its parts counted each time: a hash of it visits them all, however few the bytes are.
_MOST_PARTS = 1_000_000

#: Unpacked bytes for each byte of a file. PyTorch packs nothing.
_MOST_UNPACKED = 20

#: Pickles of a file in the format from before PyTorch 1.6.
_LEGACY_PICKLES = 5


def endless(path: Path) -> str:
    """Why a file would keep a reader busy without end; empty where it would not, or where it is no pickle at all.

    Cost:
        A pass over the pickle's operations, about a microsecond each; tensors are not looked at.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                if sum(m.file_size for m in members) > _MOST_UNPACKED * path.stat().st_size:
                    return f"an archive that is unpacked to more than {_MOST_UNPACKED} times its size"
                for member in members:
                    if member.filename.endswith(".pkl"):
                        with archive.open(member) as stream:
                            if reason := _endless(stream):
                                return reason
            return ""
        with open(path, "rb") as stream:
            for _ in range(_LEGACY_PICKLES):
                if reason := _endless(stream):
                    return reason
    except Exception:  # damaged: the reader itself says how
        return ""
    return ""


def _endless(stream: Any) -> str:
    """Follows what tuples are made of, over the operations of one pickle."""
    stack: list[int | None] = []  # parts of each value; None is a mark
    memory: dict[int, int] = {}
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name == "MARK":
            stack.append(None)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memory[int(argument or 0)] = stack[-1] or 1
        elif name == "MEMOIZE":
            memory[len(memory)] = stack[-1] or 1
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memory.get(int(argument or 0), 1))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            parts = _to_mark(stack) if name == "TUPLE" else [stack.pop() for _ in range(int(name[-1]))]
            count = 1 + sum(part or 1 for part in parts)
            if count > _MOST_PARTS:
                return f"a tuple of tuples with more than {_MOST_PARTS:,} parts"
            stack.append(count)
        else:
            for kind in reversed(operation.stack_before):
                if kind is pickletools.stackslice:
                    continue
                if kind is pickletools.markobject:
                    _to_mark(stack)
                elif stack:
                    stack.pop()
            stack.extend(1 for _ in operation.stack_after)
    return ""


def _to_mark(stack: list[int | None]) -> list[int | None]:
    """Takes everything above the last mark off the stack, and the mark."""
    taken = []
    while stack and (top := stack.pop()) is not None:
        taken.append(top)
    return taken
