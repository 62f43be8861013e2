"""Features of many networks on the same images, each network run once."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from repsim._checks import message, some
from repsim._forward import Layers, bare, select_layers
from repsim.activations import Activations
from repsim.checkpoints import weights_digest
from repsim.data import ImageSet
from repsim.extraction import extract
from repsim.models import Network


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


def _inside(name: str, blocks: Sequence[str]) -> bool:
    return any(name.startswith(f"{block}.") for block in blocks)
