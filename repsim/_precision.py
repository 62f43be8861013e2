"""Float32 products in float32, whatever the program around has allowed for its training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Turns TF32 and bfloat16 products of float32 off, and back to what they were.

    `torch.set_float32_matmul_precision("high")`, which many training scripts begin with, leaves products ten bits, and
    so similarities are right to three or four digits only. Networks that `extract` runs are left to what their owner
    has set.
    """
    # Newer versions of PyTorch have a switch for each backend beside the old one for all, and refuse to tell the old
    # one where only new ones were set.
    each = [b for b in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)) if _switches(b)]
    before = [backend.fp32_precision for backend in each]
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:
        overall = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(overall)
        for backend, value in zip(each, before, strict=True):
            backend.fp32_precision = value


def _switches(backend: object) -> bool:
    return hasattr(backend, "fp32_precision")
