"""What the two sides of `repsim compare` are shown: the images as they are, attacked, or corrupted."""

import argparse
import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repsim._common.messages import did_you_mean, message
from repsim._common.provenance import CautionWarning, versions
from repsim._common.references import users_function
from repsim.cli.tables import file_name, number, print_table
from repsim.data.image_set import ImageSet
from repsim.data.stored import read_images, write_images
from repsim.networks.answers import NoLogits, accuracy
from repsim.networks.network import Network
from repsim.networks.weight_files import weights_digest
from repsim.robustness import ThreatModel
from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.corruptions import CORRUPTIONS, corrupt, is_own_corruption, parse_corruption

#: Images per forward pass where answers are counted.
_ROWS = 64


@dataclass(frozen=True)
class Conditions:
    """What both sides are shown.

    Attributes:
        images: Of A and of B; the same object twice where both see the same.
        facts: What the summary says of each side; empty where both see the images as they are.
    """

    images: tuple[ImageSet, ImageSet]
    facts: dict[str, dict[str, Any]]


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `conditions` reads."""
    text = (
        'PGD against it, as in "linf:8/255" or "l2:0.5"; a corruption, as in "blur:3" or "my.module:function"; or none'
    )
    parser.add_argument("--attack-a", metavar="CONDITION", help=f"what A's images go through: {text}")
    parser.add_argument("--attack-b", metavar="CONDITION", help="the same of B's images")
    parser.add_argument("--reuse-attack", action="store_true", help="show B the very images made for A: transfer")
    parser.add_argument("--attack-steps", type=int, metavar="N", help="gradient steps of PGD; default 20")
    parser.add_argument("--attack-restarts", type=int, metavar="N", help="random starts of PGD; default 1")


def check_conditions(arguments: argparse.Namespace) -> None:
    """Refuses, before anything is loaded, conditions that are none and options that contradict each other.

    Raises:
        ValueError: In one line, which.
    """
    a, b = (_condition(side, getattr(arguments, f"attack_{side}")) for side in "ab")
    if arguments.reuse_attack and arguments.attack_b is not None:
        got, advice = f"--attack-b {arguments.attack_b}", "Leave one of the two out"
        raise ValueError(message("repsim", "--reuse-attack shows B the images of A", got, advice))
    if arguments.reuse_attack and a is None:
        got = "none" if arguments.attack_a is None else f"--attack-a {arguments.attack_a}"
        advice = "Pass --attack-a linf:8/255, say, or leave --reuse-attack out"
        raise ValueError(message("repsim", "--reuse-attack needs an attack to reuse", got, advice))
    given = [name for name in ("attack_steps", "attack_restarts") if getattr(arguments, name) is not None]
    if given and not any(isinstance(condition, ThreatModel) for condition in (a, b)):
        option = f"--{given[0].replace('_', '-')}"
        advice = "Leave it out, or pass --attack-a linf:8/255, say"
        raise ValueError(message("repsim", f"{option} is a setting of PGD", "no attack", advice))


def conditions(arguments: argparse.Namespace, networks: tuple[Network, Network], data: ImageSet) -> Conditions:
    """Makes what both sides are shown. Adversarial images are kept in --out, and read from there the next time."""
    asked = [_condition(side, getattr(arguments, f"attack_{side}")) for side in "ab"]
    first = _shown(arguments, networks[0], data, asked[0])
    own = isinstance(asked[1], ThreatModel) and networks[0] is not networks[1]  # made against B itself
    if arguments.reuse_attack or (asked[0] == asked[1] and not own):
        second = first
    else:
        second = _shown(arguments, networks[1], data, asked[1])
    if asked == [None, None]:
        return Conditions((data, data), {})
    facts = {
        side: {
            "network": network.name,
            "condition": images.condition or "none",
            "accuracy_before": _accuracy(network, data),
            "accuracy_after": _accuracy(network, images),
            "pixels": images.pixel_digest,
            "file": path.name if path else None,
            "record": dict(images.record),
        }
        for side, network, (images, path) in zip("ab", networks, (first, second), strict=True)
    }
    return Conditions((first[0], second[0]), facts)


def print_conditions(facts: dict[str, dict[str, Any]]) -> None:
    """A table of what each side was shown, and how often its network was right before and after."""
    rows = []
    for side, fact in facts.items():
        accuracies = [number(fact[f"accuracy_{when}"]) for when in ("before", "after")]
        shown = "the images as they are" if fact["condition"] == "none" else fact["condition"]
        rows.append([side.upper(), fact["network"], shown, *accuracies])
    if rows:
        print_table(["side", "network", "shown", "accuracy before", "after"], rows)
        print()


def _condition(side: str, text: str | None) -> ThreatModel | str | None:
    """A threat model, a corruption's text, or None for the images as they are."""
    if text is None or text == "none":
        return None
    name = text.partition(":")[0].strip()
    if name in ("linf", "l2"):
        return ThreatModel.parse(text)
    if name in CORRUPTIONS:
        parse_corruption(text)
        return text
    if is_own_corruption(text):
        users_function(text, "repsim", known=["linf:8/255", *CORRUPTIONS], takes="(images, generators) -> images")
        return text
    advice = did_you_mean(text, ["linf:8/255", "l2:0.5", *(f"{name}:3" for name in CORRUPTIONS), "none"])
    raise ValueError(message("repsim", f"--attack-{side} must be a threat, a corruption or none", repr(text), advice))


def _shown(
    arguments: argparse.Namespace, network: Network, data: ImageSet, condition: ThreatModel | str | None
) -> tuple[ImageSet, Path | None]:
    """The images under a condition, and the file that keeps them."""
    if condition is None:
        return data, None
    if isinstance(condition, str):
        return corrupt(data, condition, seed=arguments.seed), None
    steps = 20 if arguments.attack_steps is None else arguments.attack_steps
    restarts = 1 if arguments.attack_restarts is None else arguments.attack_restarts
    settings = {
        "attack": "pgd",
        "threat": str(condition),
        "steps": steps,
        "restarts": restarts,
        "seed": arguments.seed,
        "network": network.name,
        "architecture": network.provenance["architecture"],
        "normalize": network.provenance["normalize"],
        "weights_sha256": weights_digest(network.net.state_dict()),
        "images": data.pixel_digest,
        "repsim": versions()["repsim-toolkit"],
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    path: Path = arguments.out / f"{file_name(f'pgd-{steps} {network.name} {condition}')}-{key}.npz"
    if path.exists():
        try:
            made = read_images(path, data, settings)
            print(f"adversarial images read from {path}")
            return made, path
        except ValueError as error:
            warnings.warn(f"{error}", CautionWarning, stacklevel=2)
    made = adversarial(network, data, condition, steps=steps, restarts=restarts, seed=arguments.seed)
    write_images(path, made, settings)
    print(f"adversarial images written to {path}")
    return made, path


def _accuracy(network: Network, data: ImageSet) -> float | None:
    """Share of images answered right; None where the network gives no logits for the labels' classes."""
    try:
        return accuracy(network, data, "compare", progress=f"answers of {network.name}")
    except NoLogits:
        return None
