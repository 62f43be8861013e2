"""What must hold of groups of networks before anything is measured."""

from collections.abc import Mapping, Sequence, Sized

from repsim._common.messages import message
from repsim.networks.network import Network
from repsim.networks.weight_files import weights_digest

#: Group -> its networks, which differ in seed alone.
Networks = Mapping[str, Sequence[Network]]


def check_groups(groups: Networks, function: str) -> None:
    """Every group holds networks of one architecture, and every network has a name and weights of its own.

    Args:
        groups: Group -> networks.
        function: Who asks, for messages.

    Raises:
        ValueError: No group, an empty one, two architectures in a group, a network that is there twice, a name that two
            networks share.
    """
    check_filled(groups, function)
    digests: list[tuple[str, str | None]] = []
    names: set[str] = set()
    for group, networks in groups.items():
        must = f"networks of {group!r} must have one architecture"
        check_architectures({group: networks}, function, must=must, advice="Make a group of each")
        for network in networks:
            where = f"{network.name!r} of {group!r}"
            digests.append((where, weights_digest(network.net.state_dict())))
            check_weights(digests, function)
            if network.name in names:
                must, advice = "every network must have a name of its own", "Set network.name"
                raise ValueError(message(function, must, f"{network.name!r} twice", advice))
            names.add(network.name)


def check_filled(groups: Mapping[str, Sized], function: str) -> None:
    """There is a group, and every group holds something.

    Raises:
        ValueError: No group, or an empty one.
    """
    if not groups:
        raise ValueError(message(function, "there must be a group of networks", "none", "Pass {name: [networks]}"))
    for group, members in groups.items():
        if not len(members):
            got, advice = f"none in {group!r}", "Leave the group out"
            raise ValueError(message(function, "every group must hold a network", got, advice))


def check_weights(digests: Sequence[tuple[str, str | None]], function: str) -> None:
    """No two networks have the same weights.

    Args:
        digests: Where each network stands, for messages, and the digest of its weights; None where it is not known.
        function: Who asks.

    Raises:
        ValueError: Two of one digest: a copy is no second seed.
    """
    known: dict[str, str] = {}
    for where, digest in digests:
        if digest is not None and digest in known:
            got, advice = f"the same in {known[digest]} and {where}", "A copy is no second seed; leave it out"
            raise ValueError(message(function, "every network must have weights of its own", got, advice))
        if digest is not None:
            known[digest] = where


def check_architectures(groups: Networks, function: str, *, must: str, advice: str) -> None:
    """All networks are of one architecture, as far as they say what they are.

    Args:
        groups: Group -> networks.
        function: Who asks, for messages.
        must: What is asked for, in words.
        advice: What to do.

    Raises:
        ValueError: Two architectures.
    """
    kinds: dict[str, str] = {}
    for group, networks in groups.items():
        for network in networks:
            kinds.setdefault(str(network.provenance.get("architecture")), f"{network.name!r} of {group!r}")
    if len(kinds) > 1:
        got = " and ".join(f"{kind} ({where})" for kind, where in list(kinds.items())[:2])
        raise ValueError(message(function, must, got, advice))


def check_sizes(function: str, counts: Mapping[str, int], *, advice: str, missing: str = "") -> None:
    """Every strategy has two networks or more, and all have equally many.

    Args:
        function: Who asks, for messages.
        counts: Strategy -> how many networks.
        advice: What to do where they are not equally many.
        missing: Which are not there, where that is known.

    Raises:
        ValueError: One network of a strategy, which has no pair to differ in, or unequally many.
    """
    listed = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
    if min(counts.values()) < 2:
        alone = "One network has no pair to differ in; train more seeds"
        raise ValueError(message(function, "every strategy must have two networks", listed, alone))
    if len(set(counts.values())) > 1:
        must = "every strategy must have equally many networks"
        raise ValueError(message(function, must, f"{listed}{missing}", advice))
