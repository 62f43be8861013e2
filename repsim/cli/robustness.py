"""`repsim robustness`: groups of networks and images in, a folder of pictures, tables and their reading out."""

import argparse
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repsim._common.messages import message
from repsim.cli.arguments import DATA, add_data_options, add_folder_options, data_options
from repsim.cli.verbs import Verb

if TYPE_CHECKING:
    from repsim.data.image_set import ImageSet
    from repsim.networks.network import Network

_NETWORKS = "repeatable: a group and its networks, files that repsim wrote or ARCHITECTURE:FILES; globs in quotes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `repsim robustness` takes to its parser."""
    parser.add_argument(
        "--networks", action="append", nargs="+", required=True, metavar=("NAME=FILE", "FILE"), help=_NETWORKS
    )
    parser.add_argument("--data", required=True, help=DATA)
    parser.add_argument("--split", help="train or test; default test")
    add_data_options(parser, limit="use")
    add_folder_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="which images --limit keeps")
    text = "cifar10, imagenet, none, or means/stds as in .5,.5,.5/.2,.2,.2; default: what the files carry"
    parser.add_argument("--normalize", help=f"of all networks: {text}")
    parser.add_argument("--layers", nargs="+", metavar="GLOB", help="default: stem, residual blocks, last features")
    parser.add_argument("--reduction", default="mean", help="mean (default), max, pool:K, flatten, cls, mean_tokens")
    parser.add_argument("--device", help='where networks run, as in "cuda"')
    parser.add_argument("--threat", default="linf", help="norm of the attacks, linf (default) or l2")
    text = "their radii; default: 1/4, 1/2 and all of what the networks were trained or tested at, of l2 0.25,0.5,1"
    parser.add_argument("--eps", metavar="EPS,EPS", help=text)
    parser.add_argument("--steps", type=int, default=20, help="of PGD; default: %(default)s")
    text = "repeatable: a group and the folder of repsim train --snapshots, for dynamics"
    parser.add_argument("--snapshots", action="append", default=[], metavar="NAME=DIR", help=text)
    parser.add_argument("--train-limit", type=int, help="with --snapshots: images of the training, as for --limit")
    text = "repeatable: a kind of training, a size and its networks, for capacity"
    parser.add_argument(
        "--sizes", action="append", nargs="+", default=[], metavar=("KIND:SIZE=FILE", "FILE"), help=text
    )
    parser.add_argument("--only", metavar="ANALYSIS,…", help="these analyses alone; default: all that can be done")
    parser.add_argument("--dry-run", action="store_true", help="check that all of it can be done, and do nothing")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for what is found")


def run(arguments: argparse.Namespace) -> None:
    """Runs `repsim robustness`: writes everything to the output folder and prints the readings."""
    from repsim.robustness import ThreatModel
    from repsim.studies.robustness.whole_study import left_out, robustness

    eps = None
    if arguments.eps is not None:
        eps = [ThreatModel.parse(f"{arguments.threat}:{radius}").eps for radius in arguments.eps.split(",")]
    groups = _groups(arguments, "networks", arguments.networks)
    sizes: dict[str, dict[str, list[Network]]] = {}
    for named, networks in _groups(arguments, "sizes", arguments.sizes).items():
        kind, colon, size = named.partition(":")
        if not colon or not size:
            advice = "Write, say, standard:width1=nets/wide1-*.safetensors"
            raise ValueError(message("robustness", "--sizes must be KIND:SIZE=FILES", repr(named), advice))
        sizes.setdefault(kind, {})[size] = networks
    snapshots = _snapshots(arguments)
    data = _images(arguments, arguments.split, arguments.limit)
    train = _trained_on(arguments, snapshots) if snapshots else None
    print(data)
    for group, networks in groups.items():
        print(f"{group}: {', '.join(network.name for network in networks)}")
    given = {"snapshots": snapshots, "train": train, "sizes": sizes}
    analyses = None if arguments.only is None else [name.strip() for name in arguments.only.split(",")]
    parts = robustness(
        groups,
        data,
        analyses=analyses,
        threat=arguments.threat,
        eps=eps,
        steps=arguments.steps,
        layers=arguments.layers,
        reduction=arguments.reduction,
        out=arguments.out,
        dry_run=arguments.dry_run,
        **given,
    )
    if arguments.dry_run:
        print("all of it can be done; nothing was written")
        return
    for part in parts:
        print(f"\n{part}")
    print()
    if analyses is None:
        for name, why in left_out(**given).items():
            print(f"left out: {name}, {why}")
    files = [*(f"{part.name}.png" for part in parts), "tables", "reading.txt", "report.html"]
    print(f"written to {arguments.out}: {', '.join(files)}")


def _groups(arguments: argparse.Namespace, option: str, given: Sequence[Sequence[str]]) -> "dict[str, list[Network]]":
    """Name -> networks, each called by as much of its path as tells it apart."""
    from repsim.cli.arguments import named_network

    files: list[tuple[str, str, Path]] = []
    for first, *more in given:
        name, spec = _named(option, first)
        files += [(name, *found) for each in (spec, *more) for found in _files(option, name, each)]
    names = _names([path for *_, path in files])
    groups: dict[str, list[Network]] = {}
    for (group, architecture, path), name in zip(files, names, strict=True):
        network = named_network(f"{architecture}:{path}" if architecture else str(path), arguments.normalize)
        network.name = name
        for note in network.provenance["notes"]:
            print(f"{name}: {note}")
        groups.setdefault(group, []).append(network.to(arguments.device) if arguments.device else network)
    return groups


def _named(option: str, text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        examples = {"networks": "standard=nets/*.safetensors", "snapshots": "standard=runs/standard"}
        advice = f"Write, say, --{option} {examples.get(option, 'standard:width1=nets/*.safetensors')}"
        raise ValueError(message("robustness", f"--{option} must be NAME=…", repr(text), advice))
    return name, rest


def _files(option: str, name: str, spec: str) -> list[tuple[str, Path]]:
    """(architecture, file) of all files that a text means; no architecture for files that say it themselves."""
    for architecture, pattern in (("", spec), (spec.rpartition(":")[0], spec.rpartition(":")[2])):
        found = sorted(Path(file) for file in glob.glob(pattern) if Path(file).is_file())
        if found:
            return [(architecture, file) for file in found]
    advice = "Check the path, and quote globs"
    raise FileNotFoundError(message("robustness", f"--{option} {name}=… must name files", repr(spec), advice))


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    parts = [path.with_suffix("").parts for path in paths]
    for count in range(1, max(map(len, parts), default=1)):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path.with_suffix("")) for path in paths]


def _snapshots(arguments: argparse.Namespace) -> "dict[str, dict[int, Network]]":
    """Group -> epoch -> network, of folders that `repsim train --snapshots` wrote."""
    from repsim.networks.load import load_model

    groups: dict[str, dict[int, Network]] = {}
    for text in arguments.snapshots:
        name, folder = _named("snapshots", text)
        files = sorted(Path(folder).glob("epoch-*.safetensors"))
        if not files:
            advice = "Make them with repsim train --snapshots DIR"
            must = f"--snapshots {name}=… must hold epoch-001.safetensors and more"
            raise FileNotFoundError(message("robustness", must, repr(folder), advice))
        groups[name] = {}
        for file in files:
            network = load_model(file, normalize=arguments.normalize)
            epoch = network.provenance["record"].get("epoch")
            if epoch is None:
                must, advice = "snapshots must record their epoch", "Make them with repsim train --snapshots DIR"
                raise ValueError(message("robustness", must, f"{file}, which does not", advice))
            network.name = f"{name}, epoch {epoch}"
            groups[name][epoch] = network.to(arguments.device) if arguments.device else network
    return groups


def _trained_on(arguments: argparse.Namespace, snapshots: "dict[str, dict[int, Network]]") -> "ImageSet":
    """The training images, which must be those that the snapshots record; --train-limit may take some of them."""
    train = _images(arguments, "train", arguments.train_limit)
    digests = {train.digest, _images(arguments, "train", None).digest}
    for networks in snapshots.values():
        for network in networks.values():
            if network.provenance["record"]["train_digest"] not in digests:
                advice = "Pass the --data they were trained on, and --train-limit where that was trained with --limit"
                got = f"{train.name}, on which {network.name!r} was not trained"
                raise ValueError(message("robustness", "the training images must be those of --snapshots", got, advice))
    return train


def _images(arguments: argparse.Namespace, split: str | None, limit: int | None) -> "ImageSet":
    from repsim.data.load import load_data

    return load_data(arguments.data, split=split, limit=limit, seed=arguments.seed, **data_options(arguments))


ROBUSTNESS = Verb(add_arguments, run, "folder", page=True)
