"""Which layers of a network are meant, and which layers of two networks correspond."""

import fnmatch
from collections.abc import Callable, Sequence

from torch import nn

from repsim._common.messages import did_you_mean, message
from repsim.networks.network import bare


def matched_layers(rows: Sequence[str], cols: Sequence[str]) -> list[tuple[int, int]]:
    """Places (row, column) of layers that correspond: equal names, or else equal places where equally many.

    Args:
        rows: Layer names of one network, in execution order.
        cols: Layer names of another one.

    Returns:
        The pairs in the order of the rows; empty where nothing corresponds.

    Example:
        >>> matched_layers(["stem", "fc"], ["fc", "x", "stem"])
        [(0, 2), (1, 0)]
        >>> matched_layers(["conv", "fc"], ["block", "head"])
        [(0, 0), (1, 1)]
    """
    place = {name: j for j, name in enumerate(cols)}
    shared = [(i, place[name]) for i, name in enumerate(rows) if name in place]
    if shared or len(rows) != len(cols):
        return shared
    return [(i, i) for i in range(len(rows))]


Layers = None | str | Sequence[str] | Callable[[str, nn.Module], bool]


def select_layers(net: nn.Module, layers: Layers, function: str = "extract") -> tuple[list[str], bool]:
    """The names of a network's modules that `layers` means.

    Args:
        net: The network; wrappers are looked through.
        layers: As for `extract`.
        function: Who asks, for messages.

    Returns:
        The names in definition order, and whether one that never runs may be left out silently (only for None).

    Raises:
        ValueError: A name or glob that nothing matches, with close matches.
    """
    net = bare(net)
    modules = {name: module for name, module in net.named_modules() if name}
    if not modules:
        advice = "Put it into a torch.nn.Sequential, so that it has a name"
        raise ValueError(message(function, "the network must have layers inside", type(net).__name__, advice))
    if layers is None:
        return [n for n, m in modules.items() if _is_leaf(m) or _is_block(m)] or list(modules), True
    if callable(layers):
        found = [n for n, m in modules.items() if layers(n, m)]
        if not found:
            got = f"no match among {len(modules)} modules"
            raise ValueError(message(function, "layers must choose a module", got, "Try: repsim layers"))
        return found, False
    patterns = [layers] if isinstance(layers, str) else list(layers)
    found_set: set[str] = set()
    for pattern in patterns:
        matches = [n for n in modules if n == pattern or _glob(n, pattern)]
        if not matches:
            advice = did_you_mean(pattern, modules)
            raise ValueError(message(function, "layers must name modules of the network", repr(pattern), advice))
        found_set.update(matches)
    return [n for n in modules if n in found_set], False


def _glob(name: str, pattern: str) -> bool:
    """Shell patterns, part by part between the dots; a part `**` stands for any number of parts."""
    ours, theirs = name.split("."), pattern.split(".")
    if theirs == ["**"]:
        return True
    if theirs[0] == "**" and len(theirs) > 1:
        return any(_glob(".".join(ours[cut:]), ".".join(theirs[1:])) for cut in range(len(ours)))
    if not fnmatch.fnmatchcase(ours[0], theirs[0]) or (len(ours) == 1) != (len(theirs) == 1):
        return False
    return len(ours) == 1 or _glob(".".join(ours[1:]), ".".join(theirs[1:]))


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _is_block(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return not _is_leaf(module) and kind.endswith(("block", "bottleneck", "layer", "residual"))


def study_layers(network: nn.Module) -> list[str] | None:
    """The layers that a study looks at where the caller names none: one per residual block.

    The first convolution, each residual block, and the pooling behind the last of them, where these are modules of
    their own. What lies inside a block (convolutions, BatchNorm, ReLU) would triple the cost and say little more. A
    block within a block counts as part of the outer one.

    Args:
        network: The network; wrappers are looked through.

    Returns:
        Names in definition order; None, which is every leaf module to `extract`, where there are no blocks.
    """
    modules = dict(bare(network).named_modules())
    blocks: list[str] = []
    for name in select_layers(network, None)[0]:
        holds_others = next(modules[name].children(), None) is not None
        if holds_others and not _inside(name, blocks):
            blocks.append(name)
    if not blocks:
        return None
    places = {name: place for place, name in enumerate(modules)}
    outside = [name for name in modules if name and not _inside(name, blocks)]
    first = [name for name in outside if isinstance(modules[name], nn.Conv1d | nn.Conv2d | nn.Conv3d)][:1]
    last = places[blocks[-1]]
    pooled = [name for name in outside if "pool" in type(modules[name]).__name__.lower() and places[name] > last]
    return sorted({*first, *blocks, *pooled}, key=places.__getitem__)


def _inside(name: str, blocks: Sequence[str]) -> bool:
    return any(name.startswith(f"{block}.") for block in blocks)
