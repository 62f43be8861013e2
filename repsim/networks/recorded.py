"""What a weight file says of its network, believed only as far as that is safe: a known name, and a bounded size."""

from pathlib import Path
from typing import Any

import torch

from repsim._common.messages import message, shown
from repsim._common.references import known_name
from repsim.networks.architectures import ARCHITECTURES, find_architecture
from repsim.networks.weight_files import Checkpoint

#: More outputs than any network has; a header that says more is damaged.
_MOST_CLASSES = 100_000


def recorded_architecture(weights: Checkpoint, num_classes: int | None = None) -> str:
    """The architecture that a file records, which is built for no more numbers than the file holds.

    Args:
        weights: A file with a record.
        num_classes: Of the network that is asked for; None is what the file says.

    Raises:
        ValueError: An architecture that the package does not know, such as module:function; or one that is larger
            than the file's own weights.

    Cost:
        The architecture is built once without memory for its weights.
    """
    caller = "Pass load_model(ARCHITECTURE, checkpoint=FILE), on the command line ARCHITECTURE:FILE"
    name = known_architecture(weights.record["architecture"], "load_model", path=weights.path, caller=caller)
    own = find_architecture(name)
    classes = num_classes or recorded_classes(weights) or 10
    if own is not None:
        with torch.device("meta"):
            needs = sum(p.numel() for p in own(classes).parameters())
    else:
        import torchvision.models as zoo

        # With another head it may have fewer.
        needs = next(iter(zoo.get_model_weights(name))).meta["num_params"] // 2
    holds = sum(value.numel() for value in weights.state.values())
    if needs > holds:
        got = f"{weights.path} with {holds:,} numbers for {name}, which needs {needs:,}"
        raise ValueError(message("load_model", "a file must hold the network it records", got, "Make the file again"))
    return name


def known_architecture(name: Any, function: str, *, path: Path, caller: str) -> str:
    """An architecture that a file names, if the package builds it without fetching or importing anything.

    Args:
        name: What the file says.
        function: Who asks, for messages.
        path: The file.
        caller: How a caller names another architecture, for the advice.

    Raises:
        ValueError: An architecture that the package does not know.
    """
    if isinstance(name, str) and find_architecture(name) is not None:
        return name
    import torchvision.models as zoo  # slow to import, so only where it is needed

    known = (*ARCHITECTURES, "wrn28_10", *zoo.list_models(module=zoo))  # detection models fetch their backbone
    return known_name(name, known, function, what="architecture", path=path, caller=caller)


def recorded_classes(weights: Checkpoint) -> int | None:
    """How many classes a file says its network has; None where it does not say.

    Raises:
        ValueError: Anything but a number of classes.
    """
    count: Any = weights.record.get("num_classes")
    if count is None or (type(count) is int and 1 <= count <= _MOST_CLASSES):
        return count
    must = f"a file's num_classes must be an integer from 1 to {_MOST_CLASSES}"
    raise ValueError(message("load_model", must, f"{shown(count)} in {weights.path}", "Make the file again"))
