"""Room for features: how much there is, and buffers that are cheap to fill for the first time."""

import os

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def empty_rows(n: int, p: int, dtype: torch.dtype) -> Float[Tensor, "n p"]:
    """An (n, p) tensor on the CPU that holds nothing yet."""
    if dtype == torch.bfloat16:  # numpy has no such type
        return torch.empty(n, p, dtype=dtype)
    # numpy asks the system for huge pages where PyTorch does not; first touches are several times cheaper.
    return torch.from_numpy(np.empty((n, p), dtype=str(dtype).removeprefix("torch.")))


def available_memory() -> int | None:
    """Bytes that can be had without swapping, where the system tells."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
