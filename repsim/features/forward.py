"""A network with some of its layers tapped."""

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.messages import did_you_mean, message, some
from repsim._common.provenance import CautionWarning, first_line_outside
from repsim.features.dry_runs import DryRuns, dry_runs
from repsim.features.evidence import FEW, Finding, LeftOut, Undecided
from repsim.features.inputs.batches import Call, call_network, check_call, masks_of, rows_of
from repsim.features.inputs.masks import mask_for
from repsim.features.layout import Layout
from repsim.features.reductions import Output, Reduction, Reductions, means
from repsim.features.running import first_tensor, input_type, moved, observed, tensors_in
from repsim.networks.answers import CPU_ROWS
from repsim.networks.layers import Layers, select_layers
from repsim.networks.modules import named_layers
from repsim.networks.network import name_of, provenance_of_network

_LEAVE = "Leave this layer out of layers="


class TappedNetwork:
    """A network with some of its layers tapped.

    Args:
        net: The network; wrappers such as DataParallel are looked through.
        layers: As for `extract`.
        reductions: What makes rows of the layers' outputs.
        axes: As for `extract`.
        function: Who asks, for messages.
        name: What results call the network; None takes the network's own name.
        call: Runs the network on a batch; None passes named inputs by name and several in their order.

    Attributes:
        widths: Layer -> features per row, in order of execution, once a batch has run. A module that runs twice
            gives two layers, `name` and `name#2`.
        facts: What provenance says of the layers, once `look` has run: their layouts, and what was left out.
    """

    def __init__(
        self,
        net: nn.Module,
        layers: Layers,
        reductions: Reductions,
        axes: Mapping[str, str] | None,
        function: str,
        name: str | None,
        call: Call | None = None,
    ) -> None:
        self._call = call or call_network
        self._net, self._function, self._reductions = net, function, reductions
        chosen, self._optional = select_layers(net, layers, function)
        modules = named_layers(net)
        self._tapped = {layer: modules[layer] for layer in chosen}
        self._axes = {glob: Layout.parse(code, function) for glob, code in (axes or {}).items()}
        for what, globs in (("axes=", self._axes), ("reduction=", reductions.globs)):
            for glob in globs:
                if not any(means(glob.partition("#")[0], layer) for layer in modules):
                    must, advice = f"{what} must name modules of the network", did_you_mean(glob, modules)
                    raise ValueError(message(function, must, repr(glob), advice))
        parameter = next(net.parameters(), torch.empty(0))
        self.device, self._type = parameter.device, parameter.dtype
        self.name: str = name or name_of(net)
        self.provenance = provenance_of_network(net)
        self.widths: dict[str, int] | None = None
        self.facts: dict[str, Any] = {}
        self._plans: dict[str, _Plan] = {}
        self._left_out: dict[str, str] = {}
        self._hooked = self._tapped
        self._ran: set[str] = set()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The modules that are looked at, before it is known which of them run."""
        return tuple(self._tapped)

    def step(self, batch_size: int) -> int:
        """Rows per forward pass where `batch_size` are asked for."""
        if batch_size < 1:
            raise ValueError(message(self._function, "batch_size must be at least 1", f"{batch_size}", "Leave it out"))
        return min(batch_size, CPU_ROWS) if self.device.type == "cpu" else batch_size

    def look(self, first: Callable[[int], Any]) -> None:
        """Finds out with a few small passes which axis of every layer's output is what; before the first `recording`.

        Args:
            first: The first samples, as many as asked for; repeated where there are fewer.

        Raises:
            ValueError: A layer that was asked for without a row per sample, or whose axes are not clear; inputs
                that the network does not take, or fails on.

        Warns:
            CautionWarning: Layers that were not asked for by name and are left out as their axes are not clear; answers
                that depend on the rest of the batch.
        """
        few = first(FEW)
        if self._call is call_network:
            check_call(self._net, few, self._function)
        try:
            self._type = input_type(self._net, lambda dtype: self._call(self._net, moved(few, self.device, dtype)))
            with observed(self._net):
                runs = dry_runs(self._run, self._net, self._tapped, first)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(_failure(self._function, error, few)) from error
        equal: dict[_Plan, _Plan] = {}
        for row, finding in runs.calls.items():
            plan = self._plan(row, finding)
            if plan is None and not self._optional:
                raise ValueError(self._refusal(row, finding))
            if plan is None:
                self._left_out[row] = _why(finding)
            else:
                self._plans[row] = equal.setdefault(plan, plan)
        self._ran |= {_module(row) for row in runs.calls}
        if runs.calls and not self._plans:
            raise ValueError(self._refusal(*next(iter(runs.calls.items()))))
        # Modules that did not run may do so later; those without rows need no hook.
        wanted = {_module(row) for row in self._plans} | (self._tapped.keys() - self._ran)
        self._hooked = {layer: module for layer, module in self._tapped.items() if layer in wanted}
        kinds = {x.dtype for x in tensors_in(few) if x.is_floating_point()} - {self._type}
        changed = {f"{kind}".removeprefix("torch."): f"{self._type}".removeprefix("torch.") for kind in kinds}
        self.facts = {"layout": {row: plan.layout.code for row, plan in self._plans.items() if plan.layout is not None}}
        self.facts |= {"layers_left_out": dict(self._left_out)} if self._left_out else {}
        self.facts |= {"inputs_converted": changed} if changed else {}
        self._caution(runs)

    @contextlib.contextmanager
    def recording(self, write: Callable[[str, Float[Tensor, "b p"]], None]) -> Iterator[Callable[[Any], Any]]:
        """Inside, the function that is given runs a batch and returns what the network answers; `write(layer,
        features)` is called as layers answer.

        The network runs in eval mode without gradients, and is left in the modes it had, without hooks, whatever
        happens. Another thread that records the same network waits until this one has left. What `write` is given may
        be overwritten by the network's next operation, so it copies.
        """
        rows, calls, seen, done = 0, dict[str, int](), dict[str, int](), _Done()
        masks: list[Tensor] = []

        def hook(layer: str) -> Callable[[nn.Module, Any, Any], None]:
            def answered(module: nn.Module, inputs: Any, output: Any) -> None:
                calls[layer] = call = calls.get(layer, 0) + 1
                row = layer if call == 1 else f"{layer}#{call}"
                self._ran.add(layer)
                if row in self._left_out:
                    return
                if row not in self._plans:
                    seen[row] = 0
                    return
                features = self._features(row, output, rows, masks, done)
                seen[row] = features.shape[1]
                if self.widths is not None and seen[row] != self.widths.get(row, seen[row]):
                    got = f"{seen[row]} after {self.widths[row]}"
                    advice = "Samples of unequal size need a reduction such as mean"
                    raise ValueError(message(self._function, f"layer {row!r} must keep its width", got, advice))
                write(row, features)

            return answered

        def run(x: Any) -> Any:
            nonlocal rows, masks
            rows, masks = rows_of(x), masks_of(x)
            calls.clear()
            seen.clear()
            done.clear()
            answer = self._run(x)
            if others := seen.keys() ^ self._plans.keys():
                got = f"{some(sorted(others))} in some batches only"
                advice = "Choose layers that every sample passes through equally often"
                raise ValueError(message(self._function, "every batch must run the same layers", got, advice))
            if self.widths is None:
                self.widths = dict(seen)
            return answer

        with observed(self._net), contextlib.ExitStack() as hooks:
            for layer, module in self._hooked.items():
                hooks.callback(module.register_forward_hook(hook(layer)).remove)
            yield run

    def never_ran(self) -> list[str]:
        """The chosen layers that no batch has run.

        Raises:
            ValueError: There are some, and they were asked for.
        """
        silent = [layer for layer in self._tapped if layer not in self._ran]
        if silent and not self._optional:
            advice = "Choose layers that the forward pass uses, or layers=None for all that ran"
            must = "every chosen layer must run"
            raise ValueError(message(self._function, must, f"no output of {some(silent)}", advice))
        return silent

    def _run(self, x: Any) -> Any:
        return self._call(self._net, moved(x, self.device, self._type))

    def _plan(self, row: str, finding: Finding) -> "_Plan | None":
        """How rows of a call are made; None where it has none."""
        reduce = self._reductions.of(row)
        given = next((layout for glob, layout in self._axes.items() if means(glob, row)), None)
        if given is not None:
            return _Plan(given, 0, reduce)
        if isinstance(finding, Layout):
            return _Plan(finding, 0, reduce)
        asked = isinstance(finding, Undecided) or not self._optional
        if finding.samples is not None and asked and not self._reductions.asks_for_positions(row):
            return _Plan(None, finding.samples, reduce)
        return None

    def _features(self, row: str, output: Any, rows: int, masks: list[Tensor], done: "_Done") -> Tensor:
        plan, x = self._plans[row], first_tensor(output)
        if x is None or not x.is_floating_point():
            got = type(output).__name__ if x is None else str(x.dtype)
            raise ValueError(message(self._function, f"layer {row!r} must give floating-point tensors", got, _LEAVE))
        if (known := done.find(x, plan)) is not None:
            return known
        if plan.layout is None and x.ndim > plan.samples and x.shape[plan.samples] == rows:
            out = Output(row, x.movedim(plan.samples, 0), None)
        elif plan.layout is not None and plan.layout.fits(x, rows):
            ordered, places = plan.layout.samples_first(x, rows), plan.layout.positions
            out = Output(row, ordered, places, mask_for(self._function, row, ordered, places, masks))
        else:
            must = f"layer {row!r} must keep its axes" + (f", {plan.layout.code}" if plan.layout is not None else "")
            example = f'axes={{{row!r}: "nchw"}}'
            advice = f"Say which axis is which, as in {example}, or choose other layers"
            got = f"shape {tuple(x.shape)} for {rows} samples"
            raise ValueError(message(self._function, must, got, advice))
        return done.keep(x, plan, plan.reduce(out))

    def _refusal(self, row: str, finding: Finding) -> str:
        if isinstance(finding, Undecided):
            must = f"it must be clear which axes of layer {row!r} are features"
            example = f'axes={{{row!r}: "nchw"}}'
            advice = f"Say so, as in {example} (n samples, c features, others positions), or leave it out"
            return message(self._function, must, finding.seen, advice)
        must = finding.must if isinstance(finding, LeftOut) else ""
        return message(self._function, f"layer {row!r} must {must}", _why(finding), _LEAVE)

    def _caution(self, runs: DryRuns) -> None:
        """Tells of what a careful reader should know, once."""
        said = []
        unclear = [row for row in self._left_out if isinstance(runs.calls[row], Undecided)]
        if unclear:
            said.append(
                f"{self.name}: left out {some(unclear)}, as it is not clear which of their axes are features; "
                f'say so, as in axes={{{unclear[0]!r}: "nchw"}}'
            )
        one, inside = (first_tensor(answer) for answer in runs.answers)
        if one is not None and inside is not None and _differs(one, inside):
            reason = "random numbers that it draws" if runs.random else "the rest of its batch"
            said.append(f"{self.name}: the answer to a sample depends on {reason}, so features change with the batches")
        for text in said:
            warnings.warn(f"{self._function}: {text}", CautionWarning, stacklevel=first_line_outside())
        self.facts |= {"cautions": said} if said else {}


@dataclass(frozen=True)
class _Plan:
    """How rows are made of one call's outputs: by its layout, or by the axis of samples where that is all it takes."""

    layout: Layout | None
    samples: int
    reduce: Reduction


class _Done:
    """Rows made in one pass. Many modules hand on what came in, as dropout does: that is not reduced again.

    Plans that are equal are one object.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], tuple[weakref.ref[Tensor], int, Tensor]] = {}

    def find(self, x: Tensor, plan: _Plan) -> Tensor | None:
        """The rows of this very tensor, unless an operation in place has changed it since."""
        kept, version, rows = self._rows.get((id(x), id(plan)), (None, 0, None))
        return rows if kept is not None and kept() is x and version == x._version else None

    def keep(self, x: Tensor, plan: _Plan, rows: Tensor) -> Tensor:
        """Keeps rows, where they are not the tensor's own memory, which may be changed."""
        if rows.numel() < x.numel():
            self._rows[id(x), id(plan)] = weakref.ref(x), x._version, rows
        return rows

    def clear(self) -> None:
        """Forgets all, before another pass."""
        self._rows.clear()


def _failure(function: str, error: Exception, batch: Any) -> str:
    """What a network says that cannot run on the first samples, and what these are."""
    kinds = (f"{tuple(x.shape[1:])} {x.dtype}".replace("torch.", "") for x in tensors_in(batch))
    reason = " ".join(str(error).split())
    got = f"{type(error).__name__}: {reason.rstrip('.')}, for samples of {some(kinds)}"
    advice = "Look at their shape and type, or say how to call it: call=lambda net, batch: net(batch)"
    return message(function, "the network must run on the samples", got, advice)


def _module(row: str) -> str:
    """The module of a call."""
    return row.partition("#")[0]


def _why(finding: Finding) -> str:
    return finding.seen if isinstance(finding, Undecided) else finding.why if isinstance(finding, LeftOut) else ""


def _differs(few: Tensor, more: Tensor) -> bool:
    """Whether two answers to the same samples differ by more than rounding in other batches does."""
    if few.ndim == 0 or len(few) != FEW or not few.is_floating_point() or few.shape[1:] != more.shape[1:]:
        return False
    a, b = few.double(), more[:FEW].double()
    tolerance = 0.05 if few.dtype == torch.bfloat16 else 0.01
    return bool((a - b).abs().max() > tolerance * b.abs().max()) if a.numel() and len(b) == FEW else False
