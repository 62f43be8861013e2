"""What a measure says of its values, checked once."""

from dataclasses import dataclass
from typing import Literal, get_args

from repsim._common.messages import message

#: Transformations of one side. "orthogonal" includes "permutation" (of units), "scale" (any one factor but 0) includes
#: "positive scale", and "unit scale" (each unit by a positive factor of its own) includes that too.
Invariance = Literal["orthogonal", "scale", "shift", "invertible", "permutation", "positive scale", "unit scale"]


@dataclass(frozen=True)
class MetricFacts:
    """What a measure says of its values: all that a saved matrix and a picture need to know of it.

    Attributes:
        title: What pictures and tables call it, with the settings that change its meaning.
        meaning: One sentence: what the number says.
        source: The paper and its identifier.
        kind: Whether larger means more alike or further apart.
        bounds: The interval that the value cannot leave.
        display: The colour limits that make two pictures comparable.
        self_value: Of a layer with itself.
        symmetric: Whether the sides can be swapped.
        invariances: Transformations of one side that leave the value.
        self_excess: What a layer with itself has more than `self_value`, times n.
    """

    title: str
    meaning: str
    source: str
    kind: Literal["similarity", "distance"]
    bounds: tuple[float, float]
    display: tuple[float, float]
    self_value: float
    symmetric: bool
    invariances: frozenset[Invariance]
    self_excess: float = 0.0

    def self_value_of(self, n: int) -> float:
        """The value of a layer of n samples with itself."""
        return self.self_value + self.self_excess / n

    def __post_init__(self) -> None:
        (low, high), shown = self._pair("bounds"), self._pair("display")
        if not low <= shown[0] < shown[1] <= high:
            self._refuse("display must lie in the bounds", f"{self.display!r} and {self.bounds!r}")
        if type(self.self_value) not in (int, float) or not low <= self.self_value <= high:
            self._refuse("self_value must lie in the bounds", f"{self.self_value!r} and {self.bounds!r}")
        if self.kind not in ("similarity", "distance"):
            self._refuse("kind must be similarity or distance", repr(self.kind))
        if not isinstance(self.symmetric, bool):
            self._refuse("symmetric must be True or False", repr(self.symmetric))
        if not isinstance(self.invariances, frozenset) or not self.invariances <= set(get_args(Invariance)):
            self._refuse(
                f"invariances must be a frozenset of {', '.join(get_args(Invariance))}", repr(self.invariances)
            )
        for name in ("title", "meaning", "source"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                self._refuse(f"{name} must be a text", repr(text))

    def _pair(self, name: str) -> tuple[float, float]:
        """Two numbers, the lower one first; raises ValueError where there are others."""
        pair = getattr(self, name)
        numbers = isinstance(pair, tuple) and len(pair) == 2 and all(type(x) in (int, float) for x in pair)
        if not numbers or not pair[0] < pair[1]:
            self._refuse(f"{name} must be two numbers, the lower one first", repr(pair))
        return pair

    def _refuse(self, must: str, got: str) -> None:
        raise ValueError(message("metric", f"the fact {must}", got, "Correct what the measure says of itself"))
