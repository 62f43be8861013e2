"""Random numbers decided by a seed, in every thread: PyTorch has one global generator for all of them."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Held while the global generator is seeded and drawn from.
_GLOBAL = threading.RLock()


class Drawn(TorchDispatchMode):
    """Inside, what this thread draws on the CPU comes from a generator of its own; the global one is not touched.

    The numbers are those that the global generator would give after `manual_seed(seed)`.

    Args:
        seed: Of the generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags and given.get("generator") is None:
            taking = self._taking_a_generator(func)
            if taking is not None:
                return taking(*args, **{**given, "generator": self._generator})
        return func(*args, **given)

    @staticmethod
    def _taking_a_generator(func: Any) -> Callable[..., Any] | None:
        """The same operation with a generator among its arguments, which some have under another name."""
        packet, name = func.overloadpacket, func._overloadname
        other = "generator" if name == "default" else f"{name}_generator"
        for each in (func, getattr(packet, other) if other in packet.overloads() else None):
            if each is not None and any(argument.name == "generator" for argument in each._schema.arguments):
                return each
        return None


@contextlib.contextmanager
def seeded(seed: int, devices: Sequence[Any] = ()) -> Iterator[None]:
    """Inside, PyTorch's global generators are seeded; what they were is put back. Other threads wait to be inside.

    Args:
        seed: Of all of them.
        devices: GPUs whose generators are put back too; without any, only the CPU's is seeded.
    """
    with _GLOBAL, torch.random.fork_rng(list(devices)):
        if devices:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every other device too
        yield
