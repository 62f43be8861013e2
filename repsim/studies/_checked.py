"""What must hold of groups of networks before anything is computed with them."""

from collections.abc import Mapping, Sequence

from repsim._checks import message
from repsim.checkpoints import weights_digest
from repsim.models import Network

#: Group -> its networks, which differ in seed alone.
Groups = Mapping[str, Sequence[Network]]


def check_groups(groups: Groups, function: str) -> None:
    """Every group holds networks of one architecture, and every network has a name and weights of its own.

    Args:
        groups: Group -> networks.
        function: Who asks, for messages.

    Raises:
        ValueError: No group, an empty one, two architectures in a group, a network that is there twice, a name that two
            networks share.
    """
    if not groups:
        raise ValueError(message(function, "there must be a group of networks", "none", "Pass {name: [networks]}"))
    known: dict[str, str] = {}
    names: set[str] = set()
    for group, networks in groups.items():
        if not networks:
            got = f"none in {group!r}"
            raise ValueError(message(function, "every group must hold a network", got, "Leave the group out"))
        kinds = {str(network.provenance.get("architecture")): network.name for network in networks}
        if len(kinds) > 1:
            got = " and ".join(f"{kind} ({name})" for kind, name in list(kinds.items())[:2])
            must = f"networks of {group!r} must have one architecture"
            raise ValueError(message(function, must, got, "Make a group of each"))
        for network in networks:
            digest = weights_digest(network.net.state_dict())
            where = f"{network.name!r} of {group!r}"
            if digest in known:
                must, advice = "every network must have weights of its own", "A copy is no second seed; leave it out"
                raise ValueError(message(function, must, f"the same in {known[digest]} and {where}", advice))
            if network.name in names:
                must, advice = "every network must have a name of its own", "Set network.name"
                raise ValueError(message(function, must, f"{network.name!r} twice", advice))
            known[digest] = where
            names.add(network.name)
