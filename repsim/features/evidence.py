"""Which axis of one call's answer is what, from all that was seen of it: each kind of evidence in turn, and no guess.

1. Two batch sizes: the axis that grows with the batch holds the samples.
2. Operations (`AxisTrace`): features, positions, attention, and how samples are folded.
3. A second input size: what changes with it are positions; features that change are a contradiction.
4. Without a trace: the width that a module declares.
5. A decided answer of the same shape in the smallest module around it, where no two axes are equally long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from repsim.features.axes.labels import FEATURES, POSITIONS, SAMPLES, UNKNOWN, Axis, Traced, kinds
from repsim.features.layout import Layout

#: Rows of the two passes. Both are primes, so that no reshape can cut the samples' axis.
FEW, MORE = 2, 3

#: An axis of features and positions together: patches as rows, or features spread over positions.
_MIXED = "m"

#: Attributes by which modules declare their width, and the axis that has it.
_WIDTHS = {
    "out_channels": 1,
    "num_features": 1,
    "num_channels": 1,
    "out_features": -1,
    "normalized_shape": -1,
    "embedding_dim": -1,
}


@dataclass(frozen=True)
class LeftOut:
    """Why a call has no row of features for each sample, and the axis of samples where there are rows all the same."""

    why: str
    samples: int | None = None
    must: str = "give a row of features for each sample"


@dataclass(frozen=True)
class Undecided:
    """What was seen of a call whose axes are not clear, and the axis of samples where that is."""

    seen: str
    samples: int | None = None


Finding = Layout | LeftOut | Undecided


@dataclass(frozen=True)
class Call:
    """What one module answered to one batch: its name, the shape or else what came, and what is known of the axes."""

    module: str
    shape: tuple[int, ...] | str
    traced: Traced | None


def decide(few: Call, more: Call, other: Call | None, module: nn.Module) -> Finding:
    """The layout of one call from its shapes for two and three samples, its trace, and its shape at another size."""
    small, large = few.shape, more.shape
    if isinstance(small, str) or isinstance(large, str):
        return LeftOut(f"{small if isinstance(small, str) else large}", must="give floating-point tensors")
    shape = f"shape {_shape(small)} for {FEW} samples"
    if len(small) != len(large):
        return LeftOut(f"{shape} and {_shape(large)} for {MORE}")
    grows = [i for i, (s, t) in enumerate(zip(small, large, strict=True)) if s * MORE == t * FEW and s]
    differs = {i for i, (s, t) in enumerate(zip(small, large, strict=True)) if s != t}
    if not grows or not differs <= set(grows):
        return LeftOut(f"{shape}, where no axis grows with the batch")
    if len(grows) > 1:
        return LeftOut(f"{shape}, where {len(grows)} axes grow with the batch")
    if len(small) == 1:
        return LeftOut(f"{shape}, one number for each")
    samples = grows[0]
    whole = samples if small[samples] == FEW else None
    if more.traced is not None and more.traced.attention:
        return LeftOut(f"{shape}, attention weights or scores, which have no features", whole)
    first = _samples(more, samples, large)
    if isinstance(first, Undecided):
        return first
    if len(small) == 2 and len(first) == 1:
        rest = [(FEATURES, small[1 - samples])] if small[1 - samples] > 1 else []
        return Layout.of([first, rest] if samples == 0 else [rest, first])
    found = _kinds(more, samples, large)
    if other is not None and len(other.shape) == len(small) and not isinstance(other.shape, str):
        found = _at_both_sizes(found, small, other.shape, samples)
    if isinstance(found, Undecided):
        return found
    if more.traced is None:
        found = _declared(found, small, samples, module)
    plain = FEATURES in found
    found = [FEATURES if kind == _MIXED and not plain else kind for kind in found]
    if UNKNOWN in found or _MIXED in found:
        unclear = next(i for i, kind in enumerate(found) if kind in (UNKNOWN, _MIXED))
        return Undecided(f"{shape}, where axis {unclear} may be features or positions", whole)
    if FEATURES not in found and all(found):
        return LeftOut(f"{shape}, positions and no features", whole)
    axes = [[(kind, small[i])] if kind else [] for i, kind in enumerate(found)]
    axes[samples] = first
    return Layout.of(axes)


def _samples(call: Call, at: int, large: Sequence[int]) -> list[tuple[str, int]] | Undecided:
    """What the axis of samples is made of."""
    traced = call.traced.axes if call.traced is not None else ()
    elsewhere = [i for i, axis in enumerate(traced) if i != at and SAMPLES in kinds(axis)]
    shape = f"shape {_shape(large)} for {MORE} samples"
    if elsewhere:
        return Undecided(f"{shape}, where axis {at} grows with the batch and axis {elsewhere[0]} holds the samples")
    if large[at] == MORE:
        return [(SAMPLES, MORE)]
    unclear = Undecided(f"{shape}, where axis {at} holds samples and something else in an unknown order")
    if not traced:
        return unclear
    factors = [(label.kind, size) for label, size in traced[at]]
    if SAMPLES not in kinds(traced[at]) and factors[0] == (UNKNOWN, MORE):
        factors[0] = (SAMPLES, MORE)
    if [kind for kind, _ in factors].count(SAMPLES) != 1 or UNKNOWN in [kind for kind, _ in factors]:
        return unclear
    together: list[tuple[str, int]] = []
    for kind, size in factors:
        if together and together[-1][0] == kind:
            together[-1] = kind, together[-1][1] * size
        else:
            together.append((kind, size))
    return together


def _kinds(call: Call, samples: int, large: Sequence[int]) -> list[str]:
    """What operations say of each axis; nothing of those of length 1 and of the samples."""
    axes: Sequence[Axis] = call.traced.axes if call.traced is not None else ()
    found = []
    for i, size in enumerate(large):
        made = kinds(axes[i]) if axes and i != samples else {UNKNOWN} if size > 1 else set()
        found.append("" if i == samples or size == 1 else made.pop() if len(made) == 1 else _mixed(made))
    found[samples] = SAMPLES
    return found


def _mixed(made: set[str]) -> str:
    return UNKNOWN if UNKNOWN in made else _MIXED


def _at_both_sizes(found: list[str], small: Sequence[int], other: Sequence[int], samples: int) -> list[str] | Undecided:
    """What a second input size adds: what changes are positions, and one axis alone that stays is the features."""
    changes = [i for i, (s, o) in enumerate(zip(small, other, strict=True)) if s != o and i != samples]
    found = list(found)
    for i in changes:
        if found[i] == FEATURES or (found[i] == _MIXED and FEATURES not in found):
            what = f"shape {_shape(small)} for {FEW} samples, {_shape(other)} for larger ones"
            return Undecided(f"{what}, where axis {i} changes with the size and holds features", samples)
        found[i] = POSITIONS
    stays = [i for i, s in enumerate(small) if i != samples and i not in changes and s > 1]
    if changes and len(stays) == 1 and found[stays[0]] == UNKNOWN:
        found[stays[0]] = FEATURES
    return found


def _declared(found: list[str], shape: Sequence[int], samples: int, module: nn.Module) -> list[str]:
    """Without a trace: a module's declared width, where the axis its class speaks of has that length, and no other."""
    at, width = next(((at, getattr(module, name)) for name, at in _WIDTHS.items() if hasattr(module, name)), (0, None))
    if isinstance(width, Sequence):
        width = width[0] if len(width) == 1 else None
    if width is None or [s for i, s in enumerate(shape) if i != samples].count(width) != 1 or shape[at] != width:
        return found
    return [
        kind if kind != UNKNOWN else FEATURES if i == at % len(shape) else POSITIONS for i, kind in enumerate(found)
    ]


def like_their_surroundings(found: dict[str, Finding], calls: Mapping[str, Call]) -> dict[str, Finding]:
    """What is undecided takes the layout of the same shape in the smallest module around it, where lengths differ."""
    settled = dict(found)
    for row, finding in found.items():
        shape = calls[row].shape
        if not isinstance(finding, Undecided) or isinstance(shape, str) or len(set(shape)) < len(shape):
            continue
        around = calls[row].module
        while around:
            around = around.rpartition(".")[0]
            inside = [r for r, c in calls.items() if c.module.startswith(f"{around}." if around else "")]
            layouts = [found[r] for r in inside if calls[r].shape == shape and isinstance(found[r], Layout)]
            if layouts:
                settled[row] = layouts[0] if len(set(layouts)) == 1 else finding
                break
    return settled


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
