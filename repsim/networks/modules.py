"""The modules of a network under their own names: what counts as a layer, and which layers are its blocks."""

from collections import Counter
from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from repsim.networks.network import bare

#: Names of modules that wrap or hold weights and answer no features: of compiling, parametrising and quantising.
_WRAPPER = "_orig_mod"
_WEIGHTS = ("parametrizations", "_packed_params")

#: How classes end that their authors take for a block, even where they hold a chain of others.
_BLOCK_NAMES = ("block", "bottleneck", "layer", "residual")


def named_layers(net: nn.Module) -> dict[str, nn.Module]:
    """All modules inside a network by name, in definition order.

    A compiled part goes by the name that it had before, and what a parametrisation (spectral or weight normalisation)
    or a quantised module holds its weights in is no layer.

    Args:
        net: The network; wrappers are looked through.
    """
    found: dict[str, nn.Module] = {}
    for name, module in bare(net).named_modules():
        parts = [part for part in name.split(".") if part != _WRAPPER]
        if name and not set(parts) & set(_WEIGHTS):
            found[".".join(parts)] = module
    return found


def default_layers(net: nn.Module) -> list[str]:
    """Every leaf module and every block: modules with a forward pass of their own, without whole stages of blocks."""
    modules = named_layers(net)
    repeated = _repeated(net)

    def counts(module: nn.Module) -> bool:
        named = type(module).__name__.lower().endswith(_BLOCK_NAMES)
        return _is_leaf(module) or (_computes(module) and (named or not _holds_stages(module, repeated)))

    return [name for name, module in modules.items() if counts(module)] or list(modules)


def block_layers(net: nn.Module) -> list[str]:
    """The short list: one layer for each block that a network is a chain of, in definition order.

    A block is a module with a forward pass of its own and two weights or more, of a class that occurs again; what
    holds a chain of blocks is a stage, and blocks within blocks count as part of the outer one. A class that occurs
    once counts where it stands beside blocks, as the reductions of an Inception network do.

    Returns:
        Names; none where there are no blocks.
    """
    net = bare(net)
    names = {id(module): name for name, module in named_layers(net).items()}
    found = [names[id(module)] for module in _blocks(net, _repeated(net)) if id(module) in names]
    return [name for name in named_layers(net) if name in set(found)]


def _blocks(module: nn.Module, repeated: set[type[nn.Module]]) -> list[nn.Module]:
    """The blocks inside a module; those of one class only where others stand beside them."""
    found: list[nn.Module] = []
    once: list[nn.Module] = []
    beside = False
    for child in _children(module):
        if not _is_candidate(child):
            continue
        stage = _is_stage(child)
        inside = _blocks(child, repeated) if stage or type(child) not in repeated else []
        if len(inside) > 1 or (inside and stage):
            found += inside
        elif type(child) in repeated:
            found.append(child)
            beside = True
        else:
            once.append(child)
    return found + once if beside else found


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that a module holds, those in plain containers too."""
    for child in module.children():
        if _is_leaf(child) or _computes(child):
            yield child
        else:
            yield from _children(child)


def _repeated(net: nn.Module) -> set[type[nn.Module]]:
    """Classes of possible blocks that occur twice or more."""
    counts = Counter(type(module) for module in bare(net).modules() if _is_candidate(module))
    return {kind for kind, count in counts.items() if count > 1}


def _is_candidate(module: nn.Module) -> bool:
    return not _is_leaf(module) and _computes(module) and sum(map(_has_weights, module.modules())) > 1


def _has_weights(module: nn.Module) -> bool:
    return not isinstance(module, nn.Embedding) and any(
        not is_lazy(p) and p.ndim > 1 for p in module.parameters(recurse=False)
    )


def _is_stage(module: nn.Module) -> bool:
    """Whether a module is, or directly holds, a plain chain of possible blocks of one class."""
    containers = [child for child in module.children() if not _is_leaf(child) and not _computes(child)]
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        containers.append(module)
    return any(_is_chain(list(container.children())) for container in containers)


def _is_chain(elements: list[nn.Module]) -> bool:
    heavy = [m for m in elements if sum(map(_has_weights, m.modules()))]
    alike = len({type(m) for m in heavy}) == 1 and all(map(_is_candidate, heavy))
    if not alike and heavy and all(not _computes(m) and not _is_leaf(m) for m in heavy):
        return all(_is_chain(list(m.children())) for m in heavy)
    return alike and (len(heavy) > 1 or len(elements) == 1)


def _holds_stages(module: nn.Module, repeated: set[type[nn.Module]]) -> bool:
    """Whether a module is a stage, or a part of the network that holds stages."""
    return _is_stage(module) or (type(module) not in repeated and any(map(_is_stage, _descendants(module))))


def _descendants(module: nn.Module) -> Iterator[nn.Module]:
    return (m for m in module.modules() if m is not module and _is_candidate(m))


def _computes(module: nn.Module) -> bool:
    """Whether a module has a forward pass of its own, unlike a container."""
    forward = type(module).forward
    return forward is not nn.Sequential.forward and forward is not nn.Module.forward


def _is_leaf(module: nn.Module) -> bool:
    return all(name in _WEIGHTS for name, _ in module.named_children())
