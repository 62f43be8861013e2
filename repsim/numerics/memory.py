"""How much room there is, and memory that is allocated once and filled again."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import message

#: Where Linux says which control groups a process is in, and what their limits are.
_PROCESS_GROUPS, _GROUPS = "/proc/self/cgroup", "/sys/fs/cgroup"


def empty_rows(n: int, p: int, dtype: torch.dtype) -> Float[Tensor, "n p"]:
    """An (n, p) tensor on the CPU that holds nothing yet."""
    if dtype == torch.bfloat16:  # numpy has no such type
        return torch.empty(n, p, dtype=dtype)
    # numpy asks the system for huge pages where PyTorch does not; first touches are several times cheaper.
    return torch.from_numpy(np.empty((n, p), dtype=str(dtype).removeprefix("torch.")))


def bytes_of(text: int | str, function: str) -> int:
    """A number of bytes, or a text such as "8GB", "500MB" or "1.5 GiB".

    Raises:
        ValueError: Any other text, or no bytes at all.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) *([kMGT]?)(i?)B?", str(text).strip().replace("K", "k"))
    size = 0 if found is None else int(float(found[1]) * (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " "))
    if size < 1:
        must, advice = "memory must be a number of bytes", 'Write, say, "8GB"'
        raise ValueError(message(function, must, repr(text), advice))
    return size


def readable(size: int) -> str:
    """Bytes as people read them, as in "1.5 GiB"."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("kiB", 10)):
        if size >= 2 ** (power - 1):
            return f"{size / 2**power:,.1f} {unit}"
    return f"{size} bytes"


def available_memory() -> int | None:
    """Bytes that can be had without swapping and within the limits on this process, where the system tells."""
    known = [free for free in (_free_in_the_machine(), *_free_within_limits()) if free is not None]
    return max(0, min(known)) if known else None


def _free_within_limits() -> Iterator[int]:
    """What is left under limits on the address space (ulimit -v) and on the data, and in every control group above."""
    own = _numbers("/proc/self/status")
    try:
        import resource

        for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            most = resource.getrlimit(limit)[0]
            if most != resource.RLIM_INFINITY:
                yield most - own.get(used, 0)
    except (ImportError, OSError, ValueError):
        pass
    for folder, limit, used, cache in _control_groups():
        try:
            most = (folder / limit).read_text().strip()
            if most != "max" and int(most) < 2**60:  # version 1 writes a number beyond all memory where it has none
                statistics = (folder / "memory.stat").read_text().split()
                freed = dict(zip(statistics[::2], statistics[1::2], strict=False)).get(cache, "0")
                yield int(most) - int((folder / used).read_text()) + int(freed)
        except (OSError, ValueError):
            continue


def _control_groups() -> Iterator[tuple[Path, str, str, str]]:
    """(folder, limit, use, cached files that can be dropped) of this process's groups and those that hold them."""
    try:
        lines = Path(_PROCESS_GROUPS).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, place = rest.partition(":")
        if number == "0" and not kinds:
            root, names = Path(_GROUPS), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            root = Path(_GROUPS) / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be the host's, of which only the root is to be seen.
        parts = Path(place.lstrip("/")).parts
        for count in range(len(parts), -1, -1):
            yield (root.joinpath(*parts[:count]), names[0], names[1], names[2])


def _numbers(path: str) -> dict[str, int]:
    """Name -> bytes, of a table of /proc."""
    try:
        with open(path) as lines:
            rows = [line.split() for line in lines if line.rstrip().endswith("kB")]
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}
    except (OSError, ValueError, IndexError):
        return {}


def _free_in_the_machine() -> int | None:
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
    check_memory("compare", size * dtype.itemsize, what, do)


def check_memory(function: str, need: int, what: str, do: str) -> None:
    """Raises a MemoryError where `need` bytes would not fit into memory."""
    have = available_memory()
    if have is not None and need > have:
        got = f"{need / 2**30:.1f} GiB with {have / 2**30:.1f} GiB free"
        raise MemoryError(message(function, f"{what} must fit into memory", got, do))
