"""Asking a network for its answers."""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.data.image_set import Images


def answers(net: nn.Module, x: Images) -> Int[Tensor, " b"]:
    """The classes that a network answers."""
    with torch.no_grad():
        return logits_of(net, x, "attack").argmax(1)


def logits_of(net: nn.Module, x: Images, function: str) -> Float[Tensor, "b k"]:
    """What the network answers, which must be one row of logits per image."""
    answer = net(x)
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != len(x) or not answer.is_floating_point():
        got = type(answer).__name__
        if isinstance(answer, Tensor):
            kind = "" if answer.is_floating_point() else f"{str(answer.dtype).removeprefix('torch.')} of "
            got = f"{kind}shape {tuple(answer.shape)}"
        advice = "Wrap it in a module that returns the logits"
        raise ValueError(message(function, f"the network must answer ({len(x)}, classes)", got, advice))
    return answer


def check_eval(net: nn.Module, function: str) -> None:
    """An attack on a network in training mode attacks another network, and moves its running statistics."""
    training = [name or type(net).__name__ for name, module in net.named_modules() if module.training]
    if training:
        got = f"training mode in {training[0]!r}"
        raise ValueError(message(function, "the network must be in eval mode", got, "Call net.eval() first"))


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Inside, parameters ask for no gradient, so that backward passes neither compute nor keep one."""
    asking = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def device_of(net: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(net.parameters(), torch.empty(0)).device


#: Rows that go through a network on a CPU at once. Larger batches are two to four times slower there: their
#: activations no longer fit the allocator's reused memory. What is asked for beyond this is split.
CPU_ROWS = 64
