"""What an axis of a tensor stands for, as factors: an axis of windows folded into samples is (samples, positions).

Each factor carries a label: samples, features, positions, or not known yet. Labels are shared by all tensors that have
the axis in common, so that what a later operation tells about it holds for the earlier ones too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

SAMPLES, FEATURES, POSITIONS, UNKNOWN = "n", "c", "p", "?"


class Label:
    """What a factor of an axis stands for. `sure` labels do not give way to what another operation expects."""

    __slots__ = ("_kind", "_same", "_sure")

    def __init__(self, kind: str = UNKNOWN, *, sure: bool = False) -> None:
        self._kind, self._sure, self._same = kind, sure, self

    def _root(self) -> "Label":
        while self._same is not self:
            self = self._same
        return self

    @property
    def kind(self) -> str:
        """One of SAMPLES, FEATURES, POSITIONS, UNKNOWN."""
        return self._root()._kind

    @property
    def sure(self) -> bool:
        """Whether an operation said so, and not a reshape."""
        return self._root()._sure

    def same_as(self, other: "Label") -> bool:
        """Whether both stand for the same, as parts of one axis do and axes that were joined."""
        return self._root() is other._root()

    def expect(self, kind: str) -> None:
        """An operation takes this factor for `kind`; labels that are sure keep theirs."""
        root = self._root()
        if not root._sure and root._kind != SAMPLES:
            root._kind, root._sure = kind, True

    def join(self, other: "Label") -> None:
        """Both stand for the same, as the axes of two summands do."""
        ours, theirs = self._root(), other._root()
        if ours is theirs:
            return
        if ours._kind == UNKNOWN:
            ours._same = theirs
        elif theirs._kind == UNKNOWN:
            theirs._same = ours
        elif ours._kind != theirs._kind and ours._sure != theirs._sure:
            weak, strong = (theirs, ours) if ours._sure else (ours, theirs)
            weak.expect(strong._kind)

    def part(self) -> "Label":
        """The label of a piece that a reshape cuts off. Windows of positions are positions, heads are features."""
        return self if self.kind == UNKNOWN else Label(UNKNOWN if self.kind == SAMPLES else self.kind)


Factor = tuple[Label, int]
#: Outer factors first; an axis of length 1 has none.
Axis = tuple[Factor, ...]


def fresh(shape: Iterable[int]) -> list[Axis]:
    """Axes of which nothing is known."""
    return [axis_of(Label(), size) for size in shape]


def axis_of(label: Label, size: int) -> Axis:
    """An axis with one label."""
    return () if size == 1 else ((label, size),)


def length(axis: Axis) -> int:
    """How long an axis is."""
    return prod(size for _, size in axis)


def kinds(axis: Axis) -> set[str]:
    """What the factors of an axis stand for; empty for an axis of length 1."""
    return {label.kind for label, _ in axis}


def expect(axis: Axis, kind: str) -> None:
    """Tells all factors of an axis that an operation takes it for `kind`."""
    for label, _ in axis:
        label.expect(kind)


def resized(axis: Axis, size: int) -> Axis:
    """An axis after an operation that leaves its meaning and changes its length, such as a slice or a pooling."""
    if length(axis) == size:
        return axis
    labels = [label for label, _ in axis]
    found = {label.kind for label in labels}
    if len(labels) == 1 and SAMPLES not in found:
        return axis_of(labels[0], size)
    kind = found.pop() if len(found) == 1 else UNKNOWN
    return axis_of(Label(UNKNOWN if kind == SAMPLES else kind, sure=all(label.sure for label in labels)), size)


def regrouped(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis] | None:
    """The axes of a tensor under another shape, as `reshape` makes it.

    Returns:
        None where a new axis would hold pieces of factors that do not divide.
    """
    factors = [factor for axis in axes for factor in axis]
    found = _divided(factors, shape)
    return _divided(_joined(factors), shape) if found is None else found


def _divided(factors: Sequence[Factor], shape: Sequence[int]) -> list[Axis] | None:
    rest = list(reversed(factors))
    found: list[Axis] = []
    for size in shape:
        axis: list[Factor] = []
        while size > 1:
            if not rest:
                return None
            label, have = rest.pop()
            if size % have == 0:
                axis.append((label, have))
                size //= have
            elif have % size == 0:
                axis.append((label.part(), size))
                rest.append((label.part(), have // size))
                size = 1
            else:
                return None
        found.append(tuple(axis))
    return found


def _joined(factors: Iterable[Factor]) -> list[Factor]:
    """Neighbouring factors of one kind as one, so that 8 windows of 7 can be cut into 7 of 8."""
    found: list[Factor] = []
    for label, size in factors:
        if found and label.kind in (FEATURES, POSITIONS) and found[-1][0].kind == label.kind:
            found[-1] = Label(label.kind), found[-1][1] * size
        else:
            found.append((label, size))
    return found


def merged(axes: Sequence[Axis]) -> Axis:
    """One axis for several that an operation aligns; what one of them knows, the others learn."""
    if not axes:
        return ()
    best = max(axes, key=lambda a: (SAMPLES in kinds(a), UNKNOWN not in kinds(a), len(a)))
    for axis in axes:
        if [size for _, size in axis] == [size for _, size in best]:
            for (label, _), (other, _) in zip(axis, best, strict=True):
                label.join(other)
        elif len(axis) == 1 and axis[0][0].kind == UNKNOWN and kinds(best) in ({FEATURES}, {POSITIONS}):
            axis[0][0].join(best[0][0])
    return best


def contracted(axis: Axis, others: Iterable[Axis]) -> Label:
    """What weights make of an axis that they sum over: features, or positions where tokens are mixed.

    Tokens are mixed where the axis is made of positions and another one holds the features.
    """
    mixes = kinds(axis) == {POSITIONS} and any(FEATURES in kinds(other) for other in others)
    return Label(POSITIONS if mixes else FEATURES, sure=True)


class Softmax:
    """One softmax over an axis, and whether what it made was summed over with data: then these are attention weights.

    Weights that sum to one over positions average to a constant: they are attention, whoever uses them. So are those
    over an axis of length 1, which are all one.
    """

    def __init__(self, axis: Axis) -> None:
        self._axis, self.summed = axis, False

    @property
    def attends(self) -> bool:
        """Whether these are attention weights; asked after the network has run."""
        return self.summed or kinds(self._axis) <= {POSITIONS}


@dataclass(frozen=True)
class Traced:
    """What is known of one tensor.

    Attributes:
        axes: What each axis is made of.
        data: Whether it depends on the network's input.
        computed: Whether it was calculated; False for a parameter however it is cut, moved and copied.
        scores: Whether it holds products of positions with positions, as attention does before its softmax.
        softmax: The softmax whose weights these are.
    """

    axes: tuple[Axis, ...]
    data: bool = False
    computed: bool = False
    scores: bool = False
    softmax: Softmax | None = None

    @property
    def attention(self) -> bool:
        """Whether these are attention scores or weights; asked after the network has run."""
        return self.scores or (self.softmax is not None and self.softmax.attends)
