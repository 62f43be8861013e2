"""Which axis of a layer's output is what, and moving it so that samples come first.

A layout is written with a letter per axis: `n` samples, `c` features, any other letter positions. "nchw" are maps with
channels second, "nhwc" with channels last, "ntc" tokens, "tnc" tokens with the tokens first, "nct" sequences of
channels, "nctc" heads of attention (both `c` are features). Brackets fold axes into one: "(nk)tc" are k windows of t
tokens for each sample, sample by sample.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from torch import Tensor

from repsim._common.messages import message
from repsim.features.axes.labels import FEATURES, POSITIONS, SAMPLES

#: Letters of positions by how many axes of them there are.
_POSITIONS = {1: "t", 2: "hw", 3: "dhw"}


@dataclass(frozen=True)
class Layout:
    """Which axis is what.

    Attributes:
        code: A letter per axis, as above.
        sizes: How long each letter's axis is, where that is known; 0 where it is not. One of the letters in a bracket
            may be unknown beside `n`.
    """

    code: str
    sizes: tuple[int, ...] = ()

    @classmethod
    def parse(cls, code: str, function: str = "extract") -> "Layout":
        """A layout that a user writes.

        Raises:
            ValueError: Letters that are no layout.
        """
        letters = re.sub(r"\(([a-z]{2,})\)", r"\1", code) if isinstance(code, str) else ""
        if not re.fullmatch(r"[a-z]+", letters) or letters.count("n") != 1 or len(letters) < 2:
            advice = 'Write a letter per axis, n for samples, c for features: "nchw", "nhwc", "ntc", "tnc", "(nk)tc"'
            raise ValueError(message(function, "axes must give a layout", repr(code), advice))
        return cls(code)

    @classmethod
    def of(cls, axes: Sequence[Sequence[tuple[str, int]]]) -> "Layout":
        """The layout of axes that are made of (kind, length), outer factors first; nothing where the length is 1.

        An axis of length 1 is the features where there are no others; else it counts as a position.
        """
        lone = -1
        if not any(kind == FEATURES for axis in axes for kind, _ in axis):
            lone = max((i for i, axis in enumerate(axes) if not axis), default=-1)
        groups = [list(axis) or [(FEATURES if i == lone else POSITIONS, 1)] for i, axis in enumerate(axes)]
        plain = sum(len(group) == 1 and group[0][0] == POSITIONS for group in groups)
        letters = iter(_POSITIONS.get(plain, "t" * plain))
        code = ""
        for group in groups:
            folded = "".join("k" if kind == POSITIONS else kind for kind, _ in group)
            code += f"({folded})" if len(group) > 1 else next(letters) if folded == "k" else folded
        sizes = tuple(0 if kind == SAMPLES else size for group in groups for kind, size in group)
        return cls(code, sizes if "(" in code else ())

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """The axes of positions once samples are first."""
        letters = "n" + "".join(self._groups).replace("n", "")
        return tuple(i for i, letter in enumerate(letters) if letter not in "nc")

    @cached_property
    def _groups(self) -> tuple[str, ...]:
        """The letters of each axis."""
        return tuple(a or b for a, b in re.findall(r"\(([a-z]+)\)|([a-z])", self.code))

    @cached_property
    def _samples(self) -> tuple[int, bool]:
        """The axis of samples, and whether something is folded into it."""
        return next((i, len(group) > 1) for i, group in enumerate(self._groups) if "n" in group)

    def fits(self, x: Tensor, rows: int) -> bool:
        """Whether a tensor of `rows` samples can have this layout."""
        at, folded = self._samples
        if len(self._groups) != x.ndim:
            return False
        return x.shape[at] % rows == 0 if folded else x.shape[at] == rows

    def samples_first(self, x: Tensor, rows: int) -> Tensor:
        """The tensor with an axis for each letter and the samples first; a view where it can be."""
        at = 0
        for group in self._groups:
            if len(group) > 1:
                known = list(self.sizes[at : at + len(group)]) or [0] * len(group)
                known[group.index("n")] = rows
                rest = x.shape[at] // prod(s for s in known if s)
                x = x.unflatten(at, [s or rest for s in known])
            at += len(group)
        samples = "".join(self._groups).index("n")
        return x.movedim(samples, 0) if samples else x
