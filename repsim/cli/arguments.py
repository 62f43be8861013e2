"""Networks, images and tasks named in words, and the options that verbs share."""

import argparse
import json
from pathlib import Path
from typing import Any

from repsim._common.messages import message
from repsim.data.image_set import ImageSet
from repsim.data.load import load_data
from repsim.networks.load import load_model
from repsim.networks.network import Network

TaskGroups = dict[str, list[int]]

NETWORK = (
    "ARCHITECTURE:WEIGHTS, as in resnet20:weights.th, a file that repsim wrote, timm:NAME, hf:FOLDER or onnx:FILE; "
    "with a name of its own, NAME=resnet20:weights.th"
)

NORMALIZE = "cifar10, imagenet, none, or means/stds as in .5,.5,.5/.2,.2,.2; default: what the weight file carries"


DATA = '"digits", "cifar10", …, "imagefolder:PATH"'


def add_images(parser: argparse.ArgumentParser, *, seed: str) -> None:
    """Adds the options that `asked_images` reads.

    Args:
        parser: Of a verb.
        seed: What --seed decides beside the images that --limit keeps.
    """
    parser.add_argument("--data", required=True, help=DATA)
    parser.add_argument("--split", help="train or test; default test")
    add_data_options(parser, limit="use")
    add_folder_options(parser)
    parser.add_argument("--seed", type=int, default=0, help=f"which images --limit keeps, and {seed}")


def add_data_options(parser: argparse.ArgumentParser, *, limit: str) -> None:
    """Adds what `data_options` reads.

    Args:
        parser: Of a verb.
        limit: What it does with the images that --limit keeps.
    """
    parser.add_argument("--limit", type=int, help=f"{limit} this many images, classes in proportion")
    parser.add_argument("--size", type=int, help="image folders: resize the shorter side and crop the centre")
    parser.add_argument("--root", type=Path, help="where data sets are kept; default: data, and the cache folder")
    parser.add_argument("--download", action="store_true", help="fetch a data set that is not there")


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Adds what image folders leave open: which class is which, and what white is."""
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="image folders: classes in order, one on each line"
    )
    text = "image folders: the levels of black and white, where files have more than 8 bits"
    parser.add_argument("--pixel-range", type=float, nargs=2, metavar=("BLACK", "WHITE"), help=text)


def data_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `load_data` takes beside the name, the split and the limit."""
    given = {"size": arguments.size, "root": arguments.root, "download": arguments.download}
    if "classes" not in arguments:
        return given
    levels = arguments.pixel_range
    return {**given, "classes": arguments.classes, "pixel_range": None if levels is None else tuple(levels)}


def asked_images(arguments: argparse.Namespace) -> ImageSet:
    """The images that the options of `add_images` mean."""
    data = load_data(
        arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        seed=arguments.seed,
        **data_options(arguments),
    )
    if not isinstance(data, ImageSet):
        got, advice = arguments.data, "Use repsim.extract for texts"
        raise ValueError(message("repsim", "the verbs take images", got, advice))
    return data


def named_network(spec: str, normalize: str | None) -> Network:
    """The network of ARCHITECTURE:WEIGHTS, of an architecture alone, or of a file that repsim wrote.

    Args:
        spec: What the user wrote.
        normalize: A name, "none", or means/stds as in .5,.5,.5/.2,.2,.2.
    """
    given, spec = _named(spec)
    architecture, weights = _split(spec)
    name = given or Path(weights or architecture).stem if weights or Path(architecture).is_file() else architecture
    return load_model(architecture, checkpoint=weights, normalize=_normalization(normalize), name=name)


def _named(spec: str) -> tuple[str, str]:
    """The name before the first equals sign, and the network behind it; a file may have such a sign itself."""
    name, sign, network = spec.partition("=")
    if not sign or not name or not network or Path(spec).exists() or any(c in name for c in ":/\\"):
        return "", spec
    return name, network


def _split(spec: str) -> tuple[str, str | None]:
    """ARCHITECTURE:WEIGHTS at the colon behind which a file stands; an architecture may hold a colon itself."""
    if Path(spec).is_file() or spec.startswith(("hf:", "onnx:")):
        return spec, None
    places = [i for i, letter in enumerate(spec) if letter == ":"][1 if spec.startswith("timm:") else 0 :]
    for i in places:
        if Path(spec[i + 1 :]).is_file():
            return spec[:i], spec[i + 1 :]
    if places and (Path(spec[places[-1] + 1 :]).suffix or "/" in spec[places[-1] + 1 :]):
        return spec[: places[-1]], spec[places[-1] + 1 :]
    return spec, None


def _normalization(text: str | None) -> str | tuple[tuple[float, ...], tuple[float, ...]] | None:
    if text is None or "/" not in text:
        return text
    try:
        mean, std = (tuple(float(v) for v in part.split(",")) for part in text.split("/"))
    except ValueError as error:
        advice = "Write means and stds as in .5,.5,.5/.2,.2,.2"
        raise ValueError(message("repsim", "--normalize must be known", repr(text), advice)) from error
    return mean, std


def read_tasks(path: Path) -> dict[str, TaskGroups]:
    """The tasks of a JSON file: task -> group -> the classes it is made of.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No JSON, a name that stands twice, or anything but names, groups and class numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(message("repsim", "the file of --tasks must exist", str(path), "Check the path"))
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _no_tasks(path, str(error)) from error
    if not isinstance(found, dict) or not found:
        raise _no_tasks(path, "no tasks" if found == {} else "no object")
    for task, groups in found.items():
        if not isinstance(groups, dict):
            raise _no_tasks(path, f"no groups in task {task!r}")
        for group, classes in groups.items():
            if not isinstance(classes, list) or not all(type(c) is int for c in classes):
                raise _no_tasks(path, f"no list of class numbers in task {task!r}, group {group!r}")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose repeated names would otherwise drop out in silence."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the name {name!r} twice in one object")
    return dict(pairs)


def _no_tasks(path: Path, reason: str) -> ValueError:
    advice = 'Write {"life": {"animal": [2, 3], "vehicle": [0, 1]}}: tasks, their groups, the classes of each'
    return ValueError(message("repsim", "the file of --tasks must hold tasks as JSON", f"{path} ({reason})", advice))
