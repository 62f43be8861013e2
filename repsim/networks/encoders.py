"""Weights of encoders: networks that come without their head, and what their training keeps beside them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

State = Mapping[str, Tensor]

#: Parts of names under which training keeps a second, slower network.
_COPY = re.compile(r"(^|[._])(ema|ema_model|model_ema|momentum|momentum_encoder|encoder_k|swa|average[d]?)([._]|$)")

#: First parts of names, behind the network's own prefix, of what training adds to an encoder.
_ADDED = re.compile(
    r"(aux|head|proj|pred|fc|classif|linear|queue|proto|memory|bank|center|ptr|count|n_averaged|step|epoch|iter|"
    r"logit|temp|criterion|loss|decoder|mask|rot|mlp)",
    re.IGNORECASE,
)


def is_copy(prefix: str) -> bool:
    """Whether a prefix names an average of the network over its training, not the network."""
    return _COPY.search(prefix) is not None


def head_of(net: nn.Module, missing: Iterable[str], unlike: Iterable[str]) -> set[str]:
    """Keys of the network's head, where it is the head, whole modules of it, that a file lacks or has in another shape.

    The head is the last part of the network that has parameters, and parts called auxiliary.

    Args:
        net: The network.
        missing: Its keys that the file lacks.
        unlike: Its keys that the file has in another shape.

    Returns:
        The keys to leave; empty where anything but the head is lacking.
    """
    keys = [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]
    if not keys:
        return set()
    last = keys[-1].partition(".")[0]
    lacking = {*missing, *unlike}
    modules = {key.rpartition(".")[0] for key in lacking}
    inside = all(name.partition(".")[0] == last or name.startswith("aux") for name in modules)
    whole = {key for key in keys if key.rpartition(".")[0] in modules}
    unlike = set(unlike)
    # A module of which only a part is there is a damaged file.
    torn = any(key not in lacking and not (whole & unlike) for key in whole)
    if not lacking or not inside or torn or 2 * len(whole) > len(keys):
        return set()
    return whole


def without_head(net: nn.Module, modules: Iterable[str]) -> nn.Module:
    """The network with some of its modules passing on what they are given."""
    for name in modules:
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, nn.Identity())
    return net


def tied(target: State) -> dict[str, set[str]]:
    """Key -> the other keys that are the very same numbers in the network, which a file may name once."""
    places: dict[tuple[int, tuple[int, ...]], set[str]] = defaultdict(set)
    for key, value in target.items():
        if value.numel():
            places[value.data_ptr(), tuple(value.shape)].add(key)
    groups = {key: group for group in places.values() for key in group}
    return {key: groups.get(key, set()) - {key} for key in target}


def beside_the_network(
    rest: Iterable[str], names: Mapping[str, str], prefix: str, net: nn.Module, head: set[str], state: State
) -> tuple[list[str], list[str]]:
    """What a file holds beside the network, in two: what may be left out, and what makes it another network.

    Args:
        rest: Keys of the file that are no part of the network and no normaliser.
        names: Name of a tensor as the network has it -> its key in the file.
        prefix: Under which the network stands.
        net: The network.
        head: Keys of the head, where the file has none that fits.
        state: The file's tensors by name.

    Returns:
        Keys of the file to leave, which are behind other prefixes, counters, or what training adds to an encoder; and
        the others, which lie inside the network's own modules or are numbered on from them.
    """
    theirs = {key: name for name, key in names.items()}
    known = {name for name, _ in net.named_children()}
    stems = {re.sub(r"\d+$", "", name) for name in known if name[-1:].isdigit()}
    heads = {key.partition(".")[0] for key in head}
    left, unexpected = [], []
    for key in rest:
        name = theirs[key]
        first = name.removeprefix(prefix).partition(".")[0]
        counter = state[name].numel() == 1 and not state[name].is_floating_point()
        numbered = first[-1:].isdigit() and re.sub(r"\d+$", "", first) in stems
        added = first in heads or is_copy(first) or (not numbered and _ADDED.match(first) is not None)
        apart = counter or not name.startswith(prefix) or (added and (first not in known or first in heads))
        (left if apart else unexpected).append(key)
    return left, unexpected
