"""Asking a network for its answers: where it is, what must hold, its logits, and the share of right ones."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.data.image_set import Images, ImageSet
from repsim.networks.network import Network, bare

#: Rows that go through a network on a CPU at once. Larger batches are two to four times slower there: their
#: activations no longer fit the allocator's reused memory. What is asked for beyond this is split.
CPU_ROWS = 64

#: Images that `accuracy` takes at once.
_ROWS = 256


class NoLogits(ValueError):
    """The network does not answer with logits for the classes that it is asked about."""


def logits_of(net: nn.Module, x: Images, function: str) -> Float[Tensor, "b k"]:
    """What the network answers to some images.

    Raises:
        NoLogits: Anything but one row of logits per image, for two classes or more.
    """
    if getattr(bare(net, until=Network), "headless", False):
        advice = "Load weights with a head, or pass num_classes= and train one"
        raise NoLogits(message(function, "the network must have outputs of its own", "an encoder without head", advice))
    answer = own_answer(net(x))
    rows = isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) == len(x)
    if rows and answer.is_floating_point() and answer.shape[1] > 1:
        return answer
    got = type(answer).__name__
    if isinstance(answer, Tensor):
        kind = "" if answer.is_floating_point() else f"{str(answer.dtype).removeprefix('torch.')} of "
        got = f"{kind}shape {tuple(answer.shape)}"
    advice = "Wrap it in a module that returns the logits"
    raise NoLogits(message(function, f"the network must answer ({len(x)}, classes)", got, advice))


def answers(net: nn.Module, x: Images, function: str) -> Int[Tensor, " b"]:
    """The classes that a network answers."""
    with torch.no_grad():
        return logits_of(net, x, function).argmax(1)


def accuracy(
    net: nn.Module,
    data: ImageSet,
    function: str,
    *,
    moved: Callable[[Images, Int[Tensor, " b"]], Images] | None = None,
    progress: str = "",
) -> float:
    """The share of images with a label that a network answers right; NaN where none has one.

    Args:
        net: In eval mode.
        data: Labelled images.
        function: Who asks, for messages.
        moved: What is done to (images, labels) before the network sees them, such as an attack.
        progress: What a bar is called; empty for none.

    Raises:
        NoLogits: No row of logits per image, or none for a label.
    """
    device, kind = device_of(net), dtype_of(net)
    highest, right, labelled = int(data.labels.max()), 0, int((data.labels >= 0).sum())
    with progress_bar(len(data), progress, "image", show=bool(progress)) as bar:
        for start in range(0, len(data), _ROWS):
            rows = slice(start, start + _ROWS)
            x, y = data.pixels(rows).to(device, kind), data.labels[rows].to(device)
            if moved is not None:
                x = moved(x, y)
            with torch.no_grad():
                logits = logits_of(net, x, function)
            if highest >= logits.shape[1]:
                got, advice = f"{logits.shape[1]} of them", "Choose the data it was trained for"
                raise NoLogits(message(function, f"the network must answer {highest + 1} classes", got, advice))
            right += int((logits.argmax(1) == y).sum())
            bar.update(len(x))
    return right / labelled if labelled else math.nan


def own_answer(answer: Any) -> Any:
    """A network's own answer in what it returns: the logits of a model output, or the first of several."""
    if isinstance(answer, Mapping) and "logits" in answer:
        return answer["logits"]
    logits = getattr(answer, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    return answer[0] if isinstance(answer, list | tuple) and answer else answer


def check_eval(net: nn.Module, function: str) -> None:
    """A network in training mode answers anew in each pass, and moves its running statistics."""
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


def dtype_of(net: nn.Module) -> torch.dtype:
    """The type of a network's first floating-point parameter: what its inputs are given as."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
