"""What features will take, known before they are made, and where they go."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from repsim.numerics.memory import available_memory, readable

#: The share of free memory that features may take where no budget is named.
_SHARE = 0.8

#: Kinds of disks that are memory themselves.
_NO_DISKS = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Plan:
    """What an extraction will take.

    Attributes:
        name: The network.
        n: Samples; None where only reading them tells.
        layers: Layer -> features per sample, and their type.
        outputs: Numbers per sample that the network itself answers, and their type.
        seconds: About how long the network will run; None where it was not timed.

    Example:
        >>> plan = Plan("net", 1000, {"one": (256, torch.float32), "two": (64, torch.float16)}, None)
        >>> plan.bytes
        {'one': 1024000, 'two': 128000}
        >>> print(plan)
        net: 2 layers of 1,000 samples, 1.1 MiB
          one  256  float32    1.0 MiB
          two   64  float16  125.0 kiB
    """

    name: str
    n: int | None
    layers: Mapping[str, tuple[int, torch.dtype]]
    outputs: tuple[int, torch.dtype] | None
    seconds: float | None = None

    @property
    def bytes(self) -> dict[str, int]:
        """Of each layer; of one sample where it is not known how many there are."""
        return {layer: (self.n or 1) * width * kind.itemsize for layer, (width, kind) in self.layers.items()}

    @property
    def total(self) -> int:
        """Bytes of all layers."""
        return sum(self.bytes.values())

    @property
    def row_bytes(self) -> int:
        """Of one sample at all layers."""
        return sum(width * kind.itemsize for width, kind in self.layers.values())

    def __str__(self) -> str:
        count = f"{self.n:,} samples" if self.n is not None else "one sample (their number is not known)"
        took = "" if self.seconds is None else f", about {self.seconds:.3g} s of the network"
        head = f"{self.name}: {len(self.layers)} layers of {count}, {readable(self.total)}{took}"
        rows = [
            (layer, f"{width:,}", str(kind).removeprefix("torch."), readable(self.bytes[layer]))
            for layer, (width, kind) in self.layers.items()
        ]
        wide = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"  {a:<{wide[0]}}  {b:>{wide[1]}}  {c:<{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in rows]
        return "\n".join([head, *lines])


def budget_of(memory: int | None) -> int | None:
    """Bytes that features may take: as asked, or a share of what is free; None where the system does not tell."""
    if memory is not None:
        return memory
    free = available_memory()
    return None if free is None else int(_SHARE * free)


def smaller(plan: Plan, budget: int, averaged: Plan | None) -> list[str]:
    """Changes that make features fit, each with the bytes that it leaves, the least costly first; three at most.

    Args:
        plan: Of features that do not fit.
        budget: Bytes that they may take.
        averaged: The plan with all positions averaged; None where they are already.
    """
    half = replace(plan, layers={layer: (width, torch.float16) for layer, (width, _) in plan.layers.items()})
    found = [('dtype="float16"', half.total)]
    if averaged is not None:
        found.append(('reduction="mean"', averaged.total))
    left, out = plan.bytes, list[str]()
    while len(left) > 1 and sum(left.values()) > budget:
        out.append(max(left, key=lambda layer: left[layer]))
        del left[out[-1]]
    names = ", ".join(out[:2]) + (f" and {len(out) - 2} more" if len(out) > 2 else "")
    found.append((f"layers= without {names}", sum(left.values())))
    most = budget // plan.row_bytes
    found.append((f"{most:,} samples", most * plan.row_bytes))
    fitting = [f"{text} ({readable(size)})" for text, size in found if 0 < size <= min(budget, plan.total - 1)]
    return fitting[:3]


def place_for(size: int) -> Path | None:
    """A folder on a disk with room for as many bytes, which is no memory; None where there is none."""
    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    return place if size < free and not _is_memory(place) else None


def free_at(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


def _is_memory(place: Path) -> bool:
    """Whether files there lie in memory."""
    best, kind = -1, ""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    inside = str(place.resolve())
    for line in lines:
        where, what = line.split()[1:3]
        if (inside == where or inside.startswith(where.rstrip("/") + "/")) and len(where) > best:
            best, kind = len(where), what
    return kind in _NO_DISKS
