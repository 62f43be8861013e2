"""Follows the axes of tensors through the operations of a network.

What a layer answers does not say which of its axes are features: (n, c, h, w) and (n, h, w, c) have as many. The
operations that led to it do: a convolution sums over channels and makes channels, a reshape takes axes apart and puts
them together, a sum of two tensors aligns them. `AxisTrace` stands between the network and PyTorch's operators, sees
all of them, also those inside of functions, and keeps for every tensor what its axes are made of. An operation that it
does not know makes axes of which nothing is known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from repsim.features.axes.labels import (
    FEATURES,
    POSITIONS,
    SAMPLES,
    UNKNOWN,
    Axis,
    Label,
    Traced,
    axis_of,
    expect,
    fresh,
    length,
)
from repsim.features.axes.rules import rule_of


class AxisTrace(TorchDispatchMode):
    """A mode under which tensors are followed; used once, for one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._quiet = 0
        #: Axes of the inputs, and whether channels and positions are still to be told apart.
        self._inputs: list[tuple[tuple[Axis, ...], bool]] = []
        #: What may be channels or positions of such an input.
        self._open: list[Label] = []

    def begin(self, x: Tensor, rows: int) -> None:
        """Says of an input what is sure: its samples, and the channels and positions of pictures."""
        axes = fresh(x.shape)
        if x.ndim and len(x) == rows:
            axes[0] = axis_of(Label(SAMPLES, sure=True), rows)
        unclear = x.is_floating_point() and x.ndim > 2
        if not x.is_floating_point() and x.ndim == 2:
            expect(axes[1], POSITIONS)
        elif unclear and x.ndim == 4 and x.shape[1] <= min(x.shape[2:]):
            unclear = False
            for axis, kind in zip(axes[1:], (FEATURES, POSITIONS, POSITIONS), strict=True):
                expect(axis, kind)
        self._inputs.append((tuple(axes), unclear))
        self._open += [label for axis in axes[1:-1] if unclear for label, _ in axis]
        self._known[x] = Traced(tuple(axes), data=True, computed=True)

    @property
    def inputs(self) -> list[tuple[Axis, ...]]:
        """The axes of what `begin` was given, in that order."""
        return [axes for axes, _ in self._inputs]

    def settle(self) -> None:
        """An input has one axis of channels: where that is known, the others are positions, and the other way round."""
        for axes, unclear in self._inputs:
            found = [label.kind for axis in axes[1:] for label, _ in axis]
            if unclear and found.count(FEATURES) == 1:
                for axis in axes[1:]:
                    expect(axis, POSITIONS)
            elif unclear and all(axes) and sorted(found) == sorted([UNKNOWN, *[POSITIONS] * (len(found) - 1)]):
                for axis in axes[1:]:
                    expect(axis, FEATURES)

    def of(self, x: Tensor) -> Traced:
        """What is known of a tensor."""
        found = self._known.get(x)
        if found is None:
            self._known[x] = found = Traced(tuple(fresh(x.shape)))
        return found

    def put(self, x: Any, axes: Iterable[Axis] | None, *sources: Traced, **flags: Any) -> None:
        """Notes what an operation made of `sources`; axes that do not have the tensor's shape are not believed."""
        if not isinstance(x, Tensor):
            return
        found = tuple(fresh(x.shape) if axes is None else axes)
        if len(found) != x.ndim or any(length(a) != s for a, s in zip(found, x.shape, strict=True)):
            found = tuple(fresh(x.shape))
        self._known[x] = replace(Traced(found, data=any(s.data for s in sources), computed=True), **flags)

    def is_open(self, label: Label) -> bool:
        """Whether weights that sum over a factor do not make it features.

        So it is with the axes between samples and the last one, of an input whose channels are unclear, and with what
        weights made of them: these may mix channels, or forecast from what came before.
        """
        return any(label.same_as(other) for other in self._open)

    def opened(self) -> Label:
        """A label of what weights make of such a factor."""
        self._open.append(Label())
        return self._open[-1]

    def watch(self, net: nn.Module) -> list[Any]:
        """Hooks that follow recurrent layers as a whole: what they run step by step tells nothing of time."""

        def before(module: nn.Module, given: Any) -> None:
            self._quiet += 1

        def after(module: nn.Module, given: Any, output: Any) -> None:
            self._quiet -= 1
            x, made = given[0], output[0]
            if isinstance(x, Tensor) and isinstance(made, Tensor) and x.ndim == 3:
                source = self.of(x)
                time = 1 if getattr(module, "batch_first", False) else 0
                expect(source.axes[2], FEATURES)
                expect(source.axes[time], POSITIONS)
                last = axis_of(Label(FEATURES, sure=True), made.shape[2])
                self.put(made, (*source.axes[:2], last), source)

        found = [m for m in net.modules() if isinstance(m, nn.RNNBase)]
        return [h for m in found for h in (m.register_forward_pre_hook(before), m.register_forward_hook(after))]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Newer PyTorch would import its compiler, seconds of work, to keep it from compiling the method below.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._quiet:
            return out
        rule, names = rule_of(func)
        given = dict(names[len(args) :]) | {name: value for (name, _), value in zip(names, args, strict=False)}
        try:
            rule(self, given | dict(kwargs or {}), out)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            # An overload whose arguments are others than the rule knows: nothing is known of what it made.
            for made in out if isinstance(out, list | tuple) else [out]:
                self.put(made, None)
        return out
