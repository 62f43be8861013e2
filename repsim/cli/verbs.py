"""The verbs of the command line: where each lives, and what it does in one line."""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verb:
    """What a verb takes and does.

    Attributes:
        add_arguments: Declares its options.
        run: Does it.
        writes: What `--out` names, which is tried before the work.
    """

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    writes: Literal["nothing", "file", "folder"]


#: Verb -> the module and the name of its `Verb`, and what help says of it. The modules are imported when they are
#: needed: most of them bring torch, and help should not wait for it.
VERBS = {
    "layers": ("inspect:LAYERS", "list the layers of a network that can be compared"),
    "compare": ("compare:COMPARE", "compare two networks layer by layer"),
    "heatmap": ("inspect:HEATMAP", "draw a saved matrix"),
    "train": ("train:TRAIN", "train a network by a recipe"),
    "robustness": ("robustness:ROBUSTNESS", "compare standard with robust networks, with all controls"),
    "augment": ("augment:AUGMENT", "train by augmentation strategies and judge them by TD"),
    "certify": ("certify:CERTIFY", "certify a network's answers by randomised smoothing"),
    "metrics": ("inspect:METRICS", "list the measures"),
    "cache": ("cache:CACHE", "show or clear what is kept of decoded images"),
    "demo": ("demo:DEMO", "train four small networks on the digits and compare them"),
}


def verb(name: str) -> Verb:
    """The verb of a name in `VERBS`."""
    module, _, attribute = VERBS[name][0].partition(":")
    return getattr(importlib.import_module(f"repsim.cli.{module}"), attribute)
