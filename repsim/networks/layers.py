"""Which layers of a network are meant."""

import fnmatch
from collections.abc import Callable, Sequence

from torch import nn

from repsim._common.messages import did_you_mean, message
from repsim.networks.modules import block_layers, default_layers, named_layers
from repsim.networks.network import bare

Layers = None | str | Sequence[str] | Callable[[str, nn.Module], bool]


def select_layers(net: nn.Module, layers: Layers, function: str = "extract") -> tuple[list[str], bool]:
    """The names of a network's modules that `layers` means.

    Args:
        net: The network; wrappers are looked through.
        layers: As for `extract`.
        function: Who asks, for messages.

    Returns:
        The names in definition order, and whether one that never runs or has no features may be left out (only for None
        and "blocks").

    Raises:
        ValueError: A name or glob that nothing matches, with close matches.
    """
    modules = named_layers(net)
    if not modules:
        advice = "Put it into a torch.nn.Sequential, so that it has a name"
        raise ValueError(message(function, "the network must have layers inside", type(bare(net)).__name__, advice))
    if layers is None:
        return default_layers(net), True
    if layers == "blocks":
        return block_layers(net) or default_layers(net), True
    if callable(layers):
        found = [n for n, m in modules.items() if layers(n, m)]
        if not found:
            got = f"no match among {len(modules)} modules"
            raise ValueError(message(function, "layers must choose a module", got, "Try: repsim layers"))
        return found, False
    patterns = [layers] if isinstance(layers, str) else list(layers)
    found_set: set[str] = set()
    for pattern in patterns:
        matches = [n for n in modules if matches_glob(n, pattern)]
        if not matches:
            advice = did_you_mean(pattern, modules)
            raise ValueError(message(function, "layers must name modules of the network", repr(pattern), advice))
        found_set.update(matches)
    return [n for n in modules if n in found_set], False


def matches_glob(name: str, pattern: str) -> bool:
    """Whether a layer is meant: by its whole name, or by a shell pattern whose parts stand between dots.

    A part `**` stands for any number of parts; `*` does not cross a dot.
    """
    return name == pattern or _glob(name.split("."), pattern.split("."))


def _glob(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    if theirs == ["**"]:
        return True
    if theirs[0] == "**" and len(theirs) > 1:
        return any(_glob(ours[cut:], theirs[1:]) for cut in range(len(ours)))
    if not fnmatch.fnmatchcase(ours[0], theirs[0]) or (len(ours) == 1) != (len(theirs) == 1):
        return False
    return len(ours) == 1 or _glob(ours[1:], theirs[1:])


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
    modules, blocks = named_layers(network), block_layers(network)
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
