"""How much room there is, and memory that is allocated once and filled again."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import message


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


class Pool:
    """Memory that is allocated once: `views` lays a side's layers out in it.

    Args:
        size: Entries.
        dtype: Of the entries.
        device: Where.
        do: What to advise where there is no room for it.

    Raises:
        MemoryError: Less memory is free.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, do: str) -> None:
        if device.type == "cpu":
            check_room(size, dtype, "the features of one batch", do)
            self._flat = empty_rows(1, size, dtype)[0]
        else:
            self._flat = torch.empty(size, dtype=dtype, device=device)

    def views(self, widths: Sequence[int], rows: int) -> list[Float[Tensor, "b _p"]]:
        """One (rows, p) block per layer. What was there before is overwritten when they are."""
        parts = self._flat[: rows * sum(widths)].split([rows * width for width in widths])
        return [part.view(rows, width) for part, width in zip(parts, widths, strict=True)]


def check_room(size: int, dtype: torch.dtype, what: str, do: str) -> None:
    """Raises a MemoryError where a tensor of `size` entries would not fit into memory."""
    need, have = size * dtype.itemsize, available_memory()
    if have is not None and need > have:
        got = f"{need / 2**30:.1f} GiB with {have / 2**30:.1f} GiB free"
        raise MemoryError(message("compare", f"{what} must fit into memory", got, do))
