"""What an analysis of `repsim robustness` is given, and what a file must have to be one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from repsim.data.image_set import ImageSet
from repsim.networks.network import Network
from repsim.robustness import ThreatModel
from repsim.studies.common.finding import Finding
from repsim.studies.common.group_checks import Networks
from repsim.studies.common.groups import GroupFeatures


@dataclass(frozen=True)
class Extras:
    """What only some analyses need.

    Attributes:
        snapshots: Group -> epoch -> network.
        train: Images that the snapshots were trained on.
        sizes: Kind of training -> size -> networks.
    """

    snapshots: Mapping[str, Mapping[int, Network]] | None = None
    train: ImageSet | None = None
    sizes: Mapping[str, Mapping[str, Sequence[Network]]] | None = None


@dataclass(frozen=True, eq=False)
class StudyInputs:
    """What all analyses are given.

    Attributes:
        groups: Group -> networks that differ in their seed alone.
        data: Images that none of them was trained on.
        threat: Norm of the attacks.
        eps: Their radii, in pixel units of [0, 1].
        steps: Of PGD.
        layers: As `extract` takes them.
        reduction: As `extract` takes it.
        extras: What only some analyses need.
        progress: Whether to show bars.
    """

    groups: Networks
    data: ImageSet
    threat: str
    eps: Sequence[float]
    steps: int = 20
    layers: Any = None
    reduction: str = "mean"
    extras: Extras = field(default_factory=Extras)
    progress: bool = True

    @cached_property
    def grouped(self) -> GroupFeatures:
        """The features of all networks on the images: one run of each serves every analysis that asks for them."""
        return GroupFeatures.of(
            self.groups, self.data, function="robustness", layers=self.layers, reduction=self.reduction
        )

    @property
    def largest(self) -> ThreatModel:
        """The threat with the largest radius."""
        return ThreatModel(self.threat, max(self.eps))  # type: ignore[arg-type]  # checked where it came in


class Analysis(Protocol):
    """A file in `studies/robustness` that `repsim robustness` finds by itself.

    Attributes:
        NAME: What it is called.
        ORDER: Optional; those with lower numbers are done first, those without last.
        ASKS_HEADS: Optional; whether it fits heads on parts of the images, so that every class needs one in each part.
        LEAST_LAYERS: Optional; how many layers of each network it needs.
    """

    NAME: str

    def needs(self, extras: Extras) -> str:
        """What is lacking, in words; empty where nothing is."""
        ...

    def run(self, given: StudyInputs) -> Finding:
        """Its tables, picture and reading."""
        ...
