"""The two sides of `repsim compare`: what each is shown, and where its features go."""

import argparse
import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repsim._common.messages import did_you_mean, message
from repsim._common.provenance import CautionWarning, versions
from repsim._common.references import users_function
from repsim.cli.tables import file_name, number, print_table
from repsim.data.image_set import ImageSet
from repsim.data.stored import read_images, write_images
from repsim.features.activations import Activations
from repsim.features.extraction import plan
from repsim.features.live_activations import LiveActivations, live
from repsim.features.store.budget import budget_of, free_at
from repsim.features.store.one_run import Extraction
from repsim.features.store.stored_features import StoredFeatures
from repsim.networks.answers import NoLogits, accuracy
from repsim.networks.network import Network
from repsim.networks.weight_files import weights_digest
from repsim.numerics.memory import bytes_of, readable
from repsim.robustness import ThreatModel
from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.corruptions import CORRUPTIONS, corrupt, is_own_corruption, parse_corruption

#: Images per forward pass where answers are counted.
_ROWS = 64


#: Features that would take a larger share of the free disk are not kept unasked.
_SHARE = 0.1

Sides = tuple[Activations, Activations] | tuple[LiveActivations, LiveActivations]


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


def add_features(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where features go."""
    parser.add_argument("--plan", dest="dry_run", action="store_true", help="print the bytes of every layer and stop")
    most = 'what features may take in memory, as in "8GB"; default: most of what is free'
    parser.add_argument("--memory", metavar="SIZE", help=most)
    kept = "where features are kept, so that another metric runs no network; default: features in the folder of --out"
    parser.add_argument("--keep-features", type=Path, metavar="DIR", help=kept)
    parser.add_argument("--no-features", action="store_true", help="keep no features")


def sides_of(
    arguments: argparse.Namespace, networks: tuple[Network, Network], shown: tuple[ImageSet, ImageSet]
) -> Sides:
    """The networks over the images they are shown; the same object twice for a network with itself."""
    each = _each(arguments, networks, shown)
    sides: list[Any] = [_live(arguments, *one) if arguments.live else _kept(arguments, *one) for one in each]
    print("\n".join(map(repr, [shown[0].origin or shown[0], *sides])))
    if folders := {Path(folder).parent for side in sides if (folder := folder_of(side))}:
        where = ", ".join(sorted(map(str, folders)))
        print(f"features kept in {where}: another metric runs no network; --no-features keeps none")
    return sides[0], sides[-1]


def folder_of(side: Activations | LiveActivations) -> str | None:
    """Where a side's features are kept; None where they are not."""
    features = side.features if isinstance(side, Activations) else None
    return str(features.folder) if isinstance(features, StoredFeatures) else None


def option_of(arguments: argparse.Namespace, option: str, side: str) -> Any:
    """An option of one side, "a" or "b", or else of both."""
    own = getattr(arguments, f"{option}_{side}")
    return getattr(arguments, option) if own is None else own


def print_plans(arguments: argparse.Namespace, networks: tuple[Network, Network], data: ImageSet) -> None:
    """What the features of both sides will take, and what there is for them."""
    for network, images, layers, reduction in _each(arguments, networks, (data, data)):
        print(plan(network, images, layers=layers, reduction=reduction, batch_size=arguments.batch_size))
    budget = budget_of(None if arguments.memory is None else bytes_of(arguments.memory, "repsim"))
    disk = "" if arguments.no_features else f", {readable(free_at(arguments.keep_features or arguments.out))} of disk"
    print(f"free: {'unknown' if budget is None else readable(budget)} of memory to use{disk}")


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


def _each(
    arguments: argparse.Namespace, networks: tuple[Network, Network], shown: tuple[ImageSet, ImageSet]
) -> list[tuple[Network, ImageSet, Any, str]]:
    """(network, images, layers, reduction) of both sides; of one where they are the same."""
    default = "flatten" if arguments.live else "auto"
    how = [(option_of(arguments, "layers", s), option_of(arguments, "reduction", s) or default) for s in "ab"]
    alone = networks[0] is networks[1] and shown[0] is shown[1] and how[0] == how[1]
    both = [(net, data, *chosen) for net, data, chosen in zip(networks, shown, how, strict=True)]
    return both[: 1 if alone else 2]


def _live(arguments: argparse.Namespace, network: Network, data: ImageSet, layers: Any, reduction: str) -> Any:
    return live(network, data, layers=layers, reduction=reduction, batch_size=arguments.batch_size)


def _kept(arguments: argparse.Namespace, network: Network, data: ImageSet, layers: Any, reduction: str) -> Activations:
    """Features in a store, of as many bytes as do no harm there where none was named; else in memory."""
    options = layers, reduction, None, arguments.batch_size, None, None, None, None, arguments.memory, True
    run = Extraction.of(network, data, "extract", *options)
    if arguments.no_features:
        side = run.in_memory()
    else:
        place = (arguments.keep_features or arguments.out / "features") / f"{file_name(network.name)}-{{key}}"
        side = run.stored(place, share=1 if arguments.keep_features else _SHARE)
    if arguments.device:
        return replace(side, features={layer: side[layer].to(arguments.device) for layer in side})
    return side
