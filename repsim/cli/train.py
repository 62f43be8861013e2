"""`repsim train RECIPE`: trains a network by a recipe and writes its checkpoint."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim._common.checks import fraction
from repsim._common.messages import did_you_mean, message, shown
from repsim.cli.arguments import DATA, add_data_options, add_folder_options, data_options
from repsim.cli.verbs import Verb

if TYPE_CHECKING:
    from repsim.data.image_set import ImageSet
    from repsim.recipes import Recipe

#: Every file of that folder is a recipe; importing them would bring torch.
_PAGES = Path(__file__).parents[1] / "recipes"
_RECIPES = ", ".join(sorted({f.stem for f in (*_PAGES.glob("*.py"), *_PAGES.glob("adversarial/*.py"))} - {"__init__"}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `repsim train` takes to its parser."""
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPES)
    parser.add_argument("--data", required=True, help=f"{DATA} with train/ and test/")
    parser.add_argument("--preset", help='settings of a source: "digits", "mnist", "cifar10"; default: those of --data')
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, as in eps=0.05")
    parser.add_argument("--epochs", type=int, metavar="N", help="the same as --set epochs=N")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order of images and everything random")
    parser.add_argument("--start", metavar="NETWORK", help="begin from this network: ARCHITECTURE:WEIGHTS, or a file")
    add_data_options(parser, limit="train on")
    add_folder_options(parser)
    parser.add_argument("--test-limit", type=int, help="score on this many test images; PGD-20 costs 20 passes each")
    parser.add_argument("--device", default="cpu", help='where to train, as in "cuda"')
    parser.add_argument("--threads", type=int, metavar="N", help="of a CPU; their number is part of what is trained")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors", help="the checkpoint to write")
    parser.add_argument("--dry-run", action="store_true", help="say what it will cost, from its first steps, and stop")
    parser.add_argument("--snapshots", type=Path, metavar="DIR", help="keep the network after each epoch here")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted training, if there is one")
    parser.add_argument("--force", action="store_true", help="replace a finished training by a new one")


def run(arguments: argparse.Namespace) -> None:
    """Runs `repsim train`; the state of the training stands beside the checkpoint until that is written."""
    import torch

    from repsim.cli.arguments import named_network
    from repsim.data.load import load_data
    from repsim.recipes import RECIPES, train
    from repsim.recipes.training.estimate import estimate

    if arguments.recipe not in RECIPES:
        advice = did_you_mean(arguments.recipe, RECIPES)
        raise ValueError(message("train", "the recipe must be known", repr(arguments.recipe), advice))
    kind = RECIPES[arguments.recipe]
    preset = arguments.preset or (arguments.data if arguments.data in kind.PRESETS else None)
    if preset is None:
        advice = f"Choose one: {', '.join(kind.PRESETS)}"
        raise ValueError(message("train", f"--preset must be given for --data {arguments.data}", "none", advice))
    recipe = kind.preset(preset, **settings_of(arguments))
    if arguments.out.suffix != ".safetensors":
        raise ValueError(message("train", "--out must end in .safetensors", str(arguments.out), "Rename it"))
    state = arguments.out.with_suffix(".state.safetensors")
    if state.exists() and not arguments.resume:
        advice = "Pass --resume to go on with it, or delete the file to begin anew"
        raise ValueError(message("train", "an unfinished training must not be lost", str(state), advice))
    if arguments.resume and arguments.force:
        advice = "Leave one of the two out"
        raise ValueError(message("train", "--force begins anew and --resume goes on", "both", advice))
    finished = arguments.out.exists() and not state.exists()
    if finished and not arguments.resume and not arguments.force:
        advice = "Pass --force to train it anew, or name another file"
        raise ValueError(message("train", "a finished training must not be lost", str(arguments.out), advice))
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ValueError(message("train", "--threads must be at least 1", f"{arguments.threads}", "Leave it out"))
        torch.set_num_threads(arguments.threads)
    start = None if arguments.start is None else named_network(arguments.start, None)
    limits = arguments.limit, arguments.test_limit
    data, test = load_data(arguments.data, split=("train", "test"), limit=limits, **data_options(arguments))
    if finished and arguments.resume:
        _check_finished(arguments, recipe, data)
        print(f"{arguments.out} is finished; nothing was done")
        return
    classes = max(int(data.labels.max()), int(test.labels.max())) + 1
    if arguments.dry_run or not state.exists():  # what is left of an unfinished one is less than the whole
        print(estimate(recipe, data, classes, device=arguments.device), flush=True)
    if arguments.dry_run:
        return
    trained = train(
        recipe,
        data,
        test,
        seed=arguments.seed,
        name=arguments.out.stem,
        start=start,
        resume=state,
        snapshots=arguments.snapshots,
        device=arguments.device,
    )
    trained.save(arguments.out)
    state.unlink(missing_ok=True)
    record = trained.record
    cost = record["cost"]
    print(f"{arguments.recipe} on {data!r}, preset {preset} ({kind.PRESETS[preset].source})")
    gradients = f"{cost['gradient_evaluations']:,} gradient evaluations"
    print(f"{cost['epochs']} epochs of {cost['seconds_per_epoch']:.1f} s, {gradients}")
    if record["stopped"]:
        print(f"stopped early: {record['stopped']}")
    scores = dict(record["scores"])
    count, certified = scores.pop("n_test"), scores.pop("certified", {})
    for name, value in scores.items():
        print(f"{name} on {count:,} test images: {value:.4f}")
    for level, values in certified.items():
        if isinstance(values, dict):
            told = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            print(f"smoothed by {level}, {certified['images']} test images, n = {certified['n']:,}: {told}")
    for name, fact in record["facts"].items():
        told = ", ".join(f"{of} {value:.4g}" for of, value in fact.items()) if isinstance(fact, dict) else str(fact)
        print(f"{name}: {told}")
    print(f"written to {arguments.out}")


def _check_finished(arguments: argparse.Namespace, recipe: "Recipe", data: "ImageSet") -> None:
    """A finished training that is to be gone on with must be the one that is asked for."""
    from repsim.networks.weight_files import read_checkpoint

    record = read_checkpoint(arguments.out).record
    found = {"recipe": record.get("recipe"), "seed": record.get("seed"), **dict(record.get("settings") or {})}
    found["training images"] = dict(record.get("data") or {}).get("train_digest")
    settings = json.loads(json.dumps(dataclasses.asdict(recipe)))
    asked = {"recipe": recipe.name, "seed": arguments.seed, **settings, "training images": data.digest}
    other = [name for name in {**asked, **found} if asked.get(name) != found.get(name)]
    if other:
        got = f"{arguments.out} with {other[0]}={shown(found.get(other[0]))} for {shown(asked.get(other[0]))}"
        advice = "Name another file, or pass --force instead of --resume to train anew"
        raise ValueError(message("train", "--resume must find the training that is asked for", got, advice))


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --set and --epochs change.

    Args:
        arguments: With `set`, texts NAME=VALUE, and `epochs`, a number or None.

    Returns:
        Name -> value: JSON, a fraction such as 8/255, or else the text itself.

    Raises:
        ValueError: A text without an equals sign.
    """
    found: dict[str, Any] = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(message("train", "--set must be NAME=VALUE", repr(text), "Write, say, eps=0.05"))
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """JSON, a fraction such as 8/255, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return fraction(text)
        except ValueError:
            return text


TRAIN = Verb(add_arguments, run, "file")
