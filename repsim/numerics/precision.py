"""Float32 products in float32, whatever the program around has allowed for its training."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.Lock()

_inside = 0

_before: "tuple[str, list[str]]" = ("highest", [])


@contextmanager
def full_precision() -> Iterator[None]:
    """Turns TF32 and bfloat16 products of float32 off, and back to what they were.

    `torch.set_float32_matmul_precision("high")`, which many training scripts begin with, leaves products ten bits, so
    similarities are right to three or four digits only. Networks that `extract` runs are left to what their owner has
    set. The switches are the process's: the first one in turns them off and the last one out turns them back.
    """
    global _inside, _before
    with _LOCK:
        if _inside == 0:
            _before = _switches()
            torch.set_float32_matmul_precision("highest")
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                _restore(*_before)


def _backends() -> list[Any]:
    """Newer versions of PyTorch have a switch for each backend beside the old one for all."""
    found = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    return [backend for backend in found if hasattr(backend, "fp32_precision")]


def _switches() -> tuple[str, list[str]]:
    """The old switch, and those of the backends; "none" where one follows the switch above it."""
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:  # it refuses to tell where only new ones were set
        overall = "highest"
    above = getattr(torch.backends, "fp32_precision", "none")
    each = [backend.fp32_precision for backend in _backends()]
    return overall, ["none" if value == above else value for value in each]


def _restore(overall: str, each: list[str]) -> None:
    torch.set_float32_matmul_precision(overall)
    for backend, value in zip(_backends(), each, strict=True):
        backend.fp32_precision = value
