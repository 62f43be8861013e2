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
        page: Write `report.html` beside the results.
    """

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    writes: Literal["nothing", "file", "folder"]
    page: bool = False


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
    "report": ("inspect:REPORT", "make the page of a run anew, or an index of several runs"),
    "metrics": ("inspect:METRICS", "list the measures"),
    "cache": ("cache:CACHE", "show or clear what is kept of decoded images"),
    "demo": ("demo:DEMO", "train four small networks on the digits and compare them"),
}


#: Verb -> commands that run as they stand, once the files that they name are there.
EXAMPLES = {
    "layers": ("repsim layers resnet20", 'repsim layers resnet20:weights.th --layers "layer3.*"'),
    "compare": (
        "repsim compare digits_resnet8 digits_resnet8:robust.safetensors --data digits",
        "repsim compare resnet20:a.th resnet20:b.th --data cifar10 --limit 2000 --bootstrap 200 --out out",
        'repsim compare A=a.safetensors B=b.safetensors --data digits --metric cka --metric "td(seed=1)" --json',
    ),
    "heatmap": ("repsim heatmap out/cka.npz --annotate", "repsim heatmap out/cka.npz --limits data --out cka.pdf"),
    "train": (
        "repsim train standard --data digits --out standard.safetensors",
        "repsim train pgd --data digits --seed 1 --out robust.safetensors",
    ),
    "robustness": (
        "repsim robustness --networks standard='nets/s-*' --networks robust='nets/r-*' --data digits --out out",
        "repsim robustness --networks a=a.safetensors --networks b=b.safetensors --data digits --out out --dry-run",
    ),
    "augment": (
        "repsim augment --strategies none,flip,crop:4 --data digits --seeds 3 --out study",
        "repsim augment study.toml --dry-run --out study",
    ),
    "certify": (
        "repsim certify digits_resnet8:noise.safetensors --data digits --sigma 0.25 --limit 100 --out out.npz",
    ),
    "report": ("repsim report out", "repsim report runs/a runs/b --index runs/index.html"),
    "metrics": ("repsim metrics",),
    "cache": ("repsim cache",),
    "demo": ("repsim demo --out demo",),
}


def verb(name: str) -> Verb:
    """The verb of a name in `VERBS`."""
    module, _, attribute = VERBS[name][0].partition(":")
    return getattr(importlib.import_module(f"repsim.cli.{module}"), attribute)
