"""Room for some rows of every layer of a side, filled anew and again from stored or from live features."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._memory import empty_rows
from repsim.activations import Activations
from repsim.live import LiveActivations
from repsim.metrics._streaming import check_room

Side = Activations | LiveActivations
#: (layer's number, place of the first row, features) -> None
Write = Callable[[int, int, Float[Tensor, "m _p"]], None]


def read(side: Side, rows: slice | Int[Tensor, " b"], write: Write) -> None:
    """Hands on some rows of every layer: a few at a time from a live side, all at once from a stored one."""
    if isinstance(side, LiveActivations):
        side.read(rows, write)
    else:
        for number, layer in enumerate(side):
            write(number, 0, side[layer][rows])


def widths(side: Side) -> list[int]:
    return list(side.widths) if isinstance(side, LiveActivations) else [x.shape[1] for x in side.features.values()]


def dtypes(side: Side) -> list[torch.dtype]:
    return list(side.dtypes) if isinstance(side, LiveActivations) else [x.dtype for x in side.features.values()]


def device(side: Side) -> torch.device:
    return side.device if isinstance(side, LiveActivations) else side[side.layers[0]].device


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
