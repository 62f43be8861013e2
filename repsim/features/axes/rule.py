"""What a rule of an operator is: it notes what the axes of the operator's answer stand for.

A rule takes the trace, the operator's arguments by name, and what the operator answered.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor

from repsim.features.axes.labels import Axis, Label, Traced, merged


class Trace(Protocol):
    """What rules ask of a trace."""

    def of(self, x: Tensor) -> Traced:
        """What is known of a tensor."""
        ...

    def put(self, x: Any, axes: Iterable[Axis] | None, *sources: Traced, **flags: Any) -> None:
        """Notes what an operation made."""
        ...

    def is_open(self, label: Label) -> bool:
        """Whether weights that sum over a factor do not make it features."""
        ...

    def opened(self) -> Label:
        """A label of what weights make of such a factor."""
        ...


Given = dict[str, Any]


Rule = Callable[[Trace, Given, Any], None]


def unknown(trace: Trace, given: Given, out: Any) -> None:
    """An operator without a rule."""
    sources = [trace.of(x) for x in tensors(given.values())]
    for made in tensors([out]):
        trace.put(made, None, *sources)


def pointwise(trace: Trace, given: Given, out: Any) -> None:
    """Entries with entries, shapes aligned from the right."""
    sources = [trace.of(x) for x in tensors(given.values())]
    for made in tensors([out]):
        axes = []
        for at in range(-made.ndim, 0):
            aligned = [s.axes[at] for s in sources if len(s.axes) >= -at]
            axes.append(merged([a for a in aligned if a]))
        trace.put(made, axes, *sources, **attention([s for s in sources if s.data]))


def kept(source: Traced) -> dict[str, Any]:
    """What a tensor keeps when its entries move."""
    return {"computed": source.computed, "scores": source.scores, "softmax": source.softmax}


def attention(sources: Sequence[Traced]) -> dict[str, Any]:
    """The marks of attention that what is made of these keeps; a product of weights with other data loses them."""
    if len(sources) == 0 or not all(s.scores or s.softmax for s in sources):
        return {}
    return {"scores": any(s.scores for s in sources), "softmax": next((s.softmax for s in sources if s.softmax), None)}


def first(given: Given) -> Tensor:
    return next(v for v in given.values() if isinstance(v, Tensor))


def tensors(values: Iterable[Any]) -> list[Tensor]:
    flat = [x for v in values for x in (v if isinstance(v, list | tuple) else [v])]
    return [x for x in flat if isinstance(x, Tensor)]
