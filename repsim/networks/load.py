"""`load_model`: a network by its name, with weights from a file."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from repsim._common.messages import did_you_mean, message
from repsim._common.random_numbers import Drawn
from repsim._common.references import users_function
from repsim.networks.architectures import ARCHITECTURES, closest_architecture, find_architecture
from repsim.networks.encoders import without_head
from repsim.networks.fitting import check_weights, fit_weights
from repsim.networks.hubs import Found, find_network
from repsim.networks.network import Network, Normalize, _mean_std, bare
from repsim.networks.recorded import recorded_architecture, recorded_classes
from repsim.networks.weight_files import Checkpoint, read_checkpoint


def load_model(
    architecture: str | Path | nn.Module,
    *,
    checkpoint: str | Path | None = None,
    part: str | None = None,
    normalize: Normalize = None,
    num_classes: int | None = None,
    name: str | None = None,
    seed: int = 0,
) -> Network:
    """A network in eval mode that takes pixels in [0, 1].

    Args:
        architecture: "resnet20" (32, 44, 56, 110: He et al.'s CIFAR networks), "wrn28_10" (any width),
            "small_conv_mnist", "small_conv_cifar", "digits_resnet8", "digits_conv", a torchvision name,
            or "package.module:function" for a function that returns the module; "timm:NAME", "hf:FOLDER_OR_ID" or
            "onnx:FILE" for networks of these libraries, whose own normalisation is taken; or a module. Or just the
            path of a file that repsim wrote: it records its own architecture and normalisation. A file may record only
            an architecture that repsim knows, no larger than its own weights; module:function is imported where you
            write it yourself.
        checkpoint: A weight file; None leaves the network untrained, at the random weights of `seed`. Of encoders,
            which come without a head, with another one, or with queues, averages and other heads, what fits is loaded
            and the rest is named in the notes. A network without its own head has no outputs.
        part: Which of several networks in the file, by the key or the prefix that they stand under: "teacher",
            "module.encoder_q".
        normalize: "cifar10", "imagenet", (means, stds) per channel, or "none". None is what the weight file carries: a
            normaliser saved with the network, or what a recipe recorded; and none where it carries none.
        num_classes: Width of the head; None is the architecture's own (10, torchvision 1000).
        name: What results call the network; None is the architecture, or the file's stem where it is self-describing.
        seed: Seed of the random weights where there is no file. The global generator is not touched.

    Returns:
        The network, with `.provenance`.

    Raises:
        ValueError: An unknown architecture, a file that does not fit or holds two different networks, a normaliser in
            the file that differs from `normalize`, weights that are no finite real numbers.
        FileNotFoundError: No such weight file.

    Example:
        >>> net = load_model("resnet20", normalize="cifar10")
        >>> net(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    module = architecture if isinstance(architecture, nn.Module) else None
    known = type(bare(module)).__name__ if module is not None else str(architecture)
    weights = read_checkpoint(checkpoint, part=part) if checkpoint is not None else None
    if weights is None and module is None and _looks_like_file(known):
        weights = read_checkpoint(known, part=part)
        if "architecture" not in weights.record:
            got = f"{known}, which does not say"
            advice = "Pass load_model(ARCHITECTURE, checkpoint=FILE), on the command line ARCHITECTURE:FILE"
            raise ValueError(message("load_model", "the architecture must be known", got, advice))
        name = name or weights.path.stem
        known = recorded_architecture(weights, num_classes)
    if weights is not None and weights.record:
        num_classes = recorded_classes(weights) if num_classes is None else num_classes
        normalize = _agreed(normalize, weights.record["normalize"], weights)
    with Drawn(seed):
        found = _given(module) if module is not None else find_network(known, num_classes, filled=weights is not None)
        net = _build(known, num_classes) if found is None else found.net
    notes: tuple[str, ...] = ("untrained: random weights",) if found is None else found.notes
    if found is not None:
        weights = read_checkpoint(found.weights) if found.weights is not None else weights
        normalize = found.normalize if normalize is None else normalize
    trained = weights is not None or module is not None or (found is not None and found.checkpoint is not None)
    headless = False
    if weights is not None:
        asked = num_classes is not None
        fitted = fit_weights(weights, net, lambda state: closest_architecture(dict(state)), own_head=asked)
        notes = weights.notes + fitted.notes
        if fitted.normaliser:
            normalize = _agreed(normalize, fitted.normaliser, weights)
            notes += (f"normalisation of the file: means {fitted.normaliser[0]}, stds {fitted.normaliser[1]}",)
        elif fitted.behind and normalize is None:
            notes += ("another module stood in front and left no numbers: if it normalised, pass its normalize=",)
        check_weights(fitted.state, net.state_dict(), weights.path)
        net.load_state_dict(fitted.state)
        net = without_head(net, fitted.headless)
        headless = bool(fitted.headless)
    normalize = None if normalize == "none" else normalize
    provenance = {
        "architecture": known,
        "normalize": None if normalize is None else [list(v) for v in _mean_std(normalize)],
        "checkpoint": weights.path.name if weights else found.checkpoint if found else None,
        "sha256": weights.sha256 if weights else found.sha256 if found else None,
        "record": dict(weights.record) if weights else {},
        "part": part,
        "head": not headless,
        "seed": None if trained else seed,
        "notes": list(notes),
    }
    made = Network(net, name=name or known, normalize=normalize, provenance=provenance)
    made.headless = headless
    made.tokenizer = None if found is None else found.tokenizer
    return made.eval()


def _given(module: nn.Module) -> Found:
    """A module as it is; one of `load_model` with its own normalisation."""
    known = module if isinstance(module, Network) else None
    normalize = (known.mean.flatten().tolist(), known.std.flatten().tolist()) if known and known.normalized else None
    return Found(bare(module), normalize)


def _looks_like_file(architecture: str) -> bool:
    try:
        there = Path(architecture).is_file()
    except (OSError, ValueError):  # too long for a file's name
        return False
    return there or (
        Path(architecture).suffix in (".safetensors", ".th", ".pth", ".pt", ".ckpt") and ":" not in architecture
    )


def _build(architecture: str, num_classes: int | None) -> nn.Module:
    own = find_architecture(architecture)
    if own is not None:
        return own(10 if num_classes is None else num_classes)
    extra = {} if num_classes is None else {"num_classes": num_classes}
    if ":" in architecture:
        net = users_function(architecture, "load_model")(**extra)
        if not isinstance(net, nn.Module):
            advice = "Return the network from the function"
            raise TypeError(
                message("load_model", f"{architecture} must return a torch.nn.Module", type(net).__name__, advice)
            )
        return net
    import torchvision.models as zoo  # slow to import, so only where it is needed

    if architecture not in zoo.list_models():
        known = [*ARCHITECTURES, "wrn28_10", *zoo.list_models(), "package.module:function"]
        raise ValueError(
            message(
                "load_model",
                "the architecture must be known",
                repr(architecture),
                did_you_mean(architecture, known),
            )
        )
    return zoo.get_model(architecture, weights=None, **extra)


def _agreed(asked: Normalize, carried: Any, weights: Checkpoint) -> Normalize:
    """The normalisation a file carries, unless the caller asked for another one: that is an error, never a choice."""
    have = None if carried is None else _mean_std(carried)
    if asked is None:
        return have
    want = None if asked == "none" else _mean_std(asked)
    if want is None or have is None:
        agree = want is have
    else:
        agree = len(want[0]) == len(have[0]) and torch.allclose(torch.tensor(want), torch.tensor(have), atol=1e-3)
    if agree:
        return have
    got = f"normalize={asked!r} for {weights.path.name}, which carries {carried!r}"
    raise ValueError(message("load_model", "normalize must be what the weight file carries", got, "Leave it out"))
