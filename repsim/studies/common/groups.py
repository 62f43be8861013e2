"""Groups of networks: checked once, run once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool

from repsim._common.messages import message, some
from repsim.data.image_set import ImageSet, check_image_set
from repsim.features.activations import Activations
from repsim.features.extraction import extract
from repsim.networks.correspondence import matched_layers, same_architecture
from repsim.networks.layers import Layers, study_layers
from repsim.networks.network import Network
from repsim.networks.weight_files import weights_digest
from repsim.studies.common.group_checks import Networks, check_filled, check_weights

#: What every protocol says of the pairs that are taken between groups.
SEEDS = (
    "between groups pairs of networks with different seeds, where seeds are recorded: networks that start from the "
    "same random weights stay alike in early layers for that reason alone"
)


@dataclass(frozen=True, eq=False)
class GroupFeatures:
    """Features of groups of networks on the same images.

    Attributes:
        groups: Group -> network -> features. Networks are numbered through all groups, in this order.
        function: Who asks, for messages.

    Raises:
        ValueError: No group, an empty one, one network twice or under two names.
    """

    groups: Mapping[str, Mapping[str, Activations]]
    function: str

    def __post_init__(self) -> None:
        check_filled(self.groups, self.function)
        if len(self.names) != sum(map(len, self.groups.values())):
            twice = next(name for name in self.names if sum(name in sides for sides in self.groups.values()) > 1)
            must, advice = "a network belongs to one group", "Leave it out of the other group, or rename one of the two"
            raise ValueError(message(self.function, must, f"{twice!r} in two", advice))
        digests = [(repr(name), side.provenance.get("weights_sha256")) for name, side in self.sides.items()]
        check_weights(digests, self.function)

    @classmethod
    def of(cls, groups: Networks, data: ImageSet, *, layers: Layers, reduction: str, function: str) -> "GroupFeatures":
        """Runs every network of all groups over the images, once."""
        check_image_set(function, data)
        every = [network for networks in groups.values() for network in networks]
        found = features(every, data, layers=layers, reduction=reduction)
        return cls({group: {n.name: found[n.name] for n in networks} for group, networks in groups.items()}, function)

    @cached_property
    def sides(self) -> dict[str, Activations]:
        """Network -> features, of all groups."""
        return {name: side for sides in self.groups.values() for name, side in sides.items()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All networks, by number."""
        return tuple(self.sides)

    @cached_property
    def numbers(self) -> dict[str, tuple[int, ...]]:
        """Group -> the numbers of its networks."""
        return {group: tuple(map(self.names.index, sides)) for group, sides in self.groups.items()}

    @cached_property
    def seeds(self) -> tuple[int | None, ...]:
        """What each network's random weights came from, where it is recorded."""
        known = [side.provenance for side in self.sides.values()]
        return tuple(p.get("record", {}).get("seed", p.get("seed")) for p in known)

    @cached_property
    def apart(self) -> Bool[np.ndarray, "m m"]:
        """Pairs of different networks that began from different weights, as far as is recorded."""
        known = [side.provenance for side in self.sides.values()]
        begun = [_begun(p, seed) for p, seed in zip(known, self.seeds, strict=True)]
        now = [("weights", p.get("weights_sha256")) for p in known]

        def apart(i: int, j: int) -> bool:
            unlike = begun[i] is None or begun[i] != begun[j]
            return i != j and unlike and begun[i] != now[j] and begun[j] != now[i]

        numbers = range(len(known))
        return np.array([[apart(i, j) for j in numbers] for i in numbers])

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of groups."""
        names = list(self.groups)
        return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]

    def one_beginning(self, a: str, b: str) -> bool:
        """Whether all pairs of two groups began from the same weights, so that these must do."""
        return not self.apart[np.ix_(self.numbers[a], self.numbers[b])].any()

    @cached_property
    def matched(self) -> dict[str, tuple[str, ...]]:
        """Layer of the first network -> what that layer is called in each network; layers that all of them have."""
        one = next(iter(self.sides.values()))
        first = one.layers
        places = [
            dict(matched_layers(first, side.layers, same=same_architecture(one.provenance, side.provenance)))
            for side in self.sides.values()
        ]
        shared = [i for i in range(len(first)) if all(i in place for place in places)]
        if not shared:
            got = f"none that {self.names[0]!r} shares with all of the others"
            advice = "Choose layers= that all networks have, or compare networks of one architecture"
            raise ValueError(message(self.function, "the networks must have layers that correspond", got, advice))
        sides = list(self.sides.values())
        return {first[i]: tuple(s.layers[p[i]] for s, p in zip(sides, places, strict=True)) for i in shared}

    def unmatched(self) -> list[str]:
        """The sentence that some layers have no counterpart in every network, where that is so."""
        counts = {group: sorted({len(side) for side in sides.values()}) for group, sides in self.groups.items()}
        shared = list(self.matched)
        if all(own == [len(shared)] for own in counts.values()):
            return []
        each = ", ".join(f"{group} {' or '.join(map(str, own))}" for group, own in counts.items())
        named = f"{shared[0]!r} alone" if len(shared) == 1 else f"{len(shared)}, from {shared[0]!r} to {shared[-1]!r}"
        return [f"Layers that correspond in all networks: {named}; of {each}. The others are left out."]

    def at(self, layer: str) -> dict[str, Activations]:
        """Network -> features of one matched layer alone, under the first network's name for it."""
        own = self.matched[layer]
        return {n: replace(s, features={layer: s[own[k]]}) for k, (n, s) in enumerate(self.sides.items())}

    @property
    def protocol(self) -> dict[str, Any]:
        """What all numbers depend on: networks, seeds, weights and images."""
        one = next(iter(self.sides.values()))
        return {
            "networks": {group: list(sides) for group, sides in self.groups.items()},
            "seeds": dict(zip(self.names, self.seeds, strict=True)),
            "weights_sha256": {name: side.provenance.get("weights_sha256") for name, side in self.sides.items()},
            "data": {"name": one.provenance.get("data"), "digest": one.digest},
            "n": one.n,
            "reduction": one.reduction,
        }


def _begun(provenance: Mapping[str, Any], seed: int | None) -> tuple[str, Any] | None:
    """What a training began from: another network's weights, or the random ones of an architecture and a seed."""
    record = provenance.get("record", {})
    if record.get("start"):
        return "weights", record["start"]["weights_sha256"]
    kind = record.get("architecture", provenance.get("architecture"))
    return None if seed is None else (f"random weights of {kind}", seed)


def features(
    networks: Sequence[Network], data: ImageSet, *, layers: Layers, reduction: str, progress: bool = True
) -> dict[str, Activations]:
    """Runs each network over the same images, once.

    Args:
        networks: With unequal names, by which results tell them apart.
        data: The images.
        layers: As for `extract`; None takes `study_layers` of each network.
        reduction: As for `extract`.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        Network's name -> features; their provenance also holds the digest of the weights, `weights_sha256`.

    Raises:
        ValueError: Two networks of one name; as `extract`.
    """
    names = [network.name for network in networks]
    twice = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if twice:
        advice = "Name them, as in load_model(..., name='standard-0'); a network belongs to one group"
        raise ValueError(message("features", "networks must have unequal names", f"{some(twice)} twice", advice))
    found = {}
    for network in networks:
        chosen = study_layers(network) if layers is None else layers
        side = extract(network, data, layers=chosen, reduction=reduction, progress=progress)
        provenance = {**side.provenance, "weights_sha256": weights_digest(network.net.state_dict())}
        found[network.name] = replace(side, provenance=provenance)
    return found
