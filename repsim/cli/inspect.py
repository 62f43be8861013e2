"""The verbs that only look: layers, heatmap, report, metrics."""

import argparse
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repsim._common.files import whole_file
from repsim._common.messages import message
from repsim.cli.tables import print_table
from repsim.cli.verbs import Verb

#: Samples that `layers` looks at.
_SAMPLES = 3


def _layers_arguments(parser: argparse.ArgumentParser) -> None:
    from repsim.cli.arguments import NETWORK

    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    parser.add_argument("--layers", nargs="+", metavar="GLOB", help="only these")
    what = "which axis of each output is what, looked at with"
    parser.add_argument("--data", help=f'{what} samples of "digits", "imagefolder:PATH", "text:FILE", …')
    parser.add_argument("--limit", type=int, help="read this many images, classes in proportion")
    parser.add_argument("--size", type=int, help="image folders: resize the shorter side and crop the centre")
    parser.add_argument("--root", type=Path, help="where data sets are kept; default: data, and the cache folder")
    parser.add_argument("--input-size", metavar="SIZE", help=f"{what} random images, as in 32, 1x28x28")
    parser.add_argument("--reduction", help="with one of these: how wide rows are; auto (default), mean, flatten, …")


def _layers(arguments: argparse.Namespace) -> None:
    from repsim.cli.arguments import named_network
    from repsim.networks.layers import select_layers
    from repsim.networks.modules import named_layers

    if arguments.data and arguments.input_size:
        advice = "Leave one of them out"
        got = f"--data {arguments.data} --input-size {arguments.input_size}"
        raise ValueError(message("repsim", "layers are looked at with data or with random images", got, advice))
    if arguments.reduction and not (arguments.data or arguments.input_size):
        must, advice = "--reduction needs inputs to look at", "Add --data digits or --input-size 32"
        raise ValueError(message("repsim", must, f"--reduction {arguments.reduction}", advice))
    network = named_network(arguments.network, None)
    names, _ = select_layers(network, arguments.layers)
    modules = named_layers(network)
    if arguments.data or arguments.input_size:
        _print_layouts(network, modules, arguments)
        return
    width = max(map(len, names))
    for name in names:
        count = sum(p.numel() for p in modules[name].parameters())
        print(f"{name:{width}s}  {type(modules[name]).__name__:18s} {count:>12,} parameters")


def _print_layouts(network: Any, modules: dict[str, Any], arguments: argparse.Namespace) -> None:
    """A table of what a run over a few samples finds out of each layer."""
    from repsim.features.extraction import extract

    reduction, data = arguments.reduction or "auto", _a_few_samples(arguments)
    found = extract(network, data, layers=arguments.layers, reduction=reduction, progress=False)
    layouts, left = found.provenance["layout"], found.provenance.get("layers_left_out", {})
    rows = []
    for call in sorted([*found.layers, *left], key=_place([*modules])):
        module = modules[call.partition("#")[0]]
        count = f"{sum(p.numel() for p in module.parameters()):,}"
        seen = [layouts.get(call, "?"), f"{found[call].shape[1]:,}"] if call in found.layers else ["-", "left out"]
        rows.append([call, type(module).__name__, count, *seen])
    print_table(["layer", "class", "parameters", "axes", "features"], rows)
    print(f"\naxes: n samples, c features, others positions, (nk) k of each sample in one axis; reduction: {reduction}")
    for call, why in left.items():
        print(f"left out: {call}: {why}")
    for call in found.provenance["layers_that_never_ran"]:
        print(f"never ran: {call}")


def _place(names: Sequence[str]) -> Callable[[str], tuple[int, int]]:
    """Where a call stands: by its module's place, then by its number."""
    places = {name: place for place, name in enumerate(names)}

    def place(call: str) -> tuple[int, int]:
        name, _, number = call.partition("#")
        return places[name], int(number or 1)

    return place


def _a_few_samples(arguments: argparse.Namespace) -> Any:
    """The first samples of --data, or random images."""
    import torch

    from repsim.data.image_set import ImageSet
    from repsim.data.load import load_data

    if arguments.data:
        data = load_data(arguments.data, limit=arguments.limit, size=arguments.size, root=arguments.root)
        if isinstance(data, ImageSet):
            return data.pixels(slice(0, _SAMPLES))
        few = slice(0, _SAMPLES)
        return replace(data, texts=data.texts[few], labels=data.labels[few], ids=data.ids[few])
    sizes = arguments.input_size.lower().split("x")
    if len(sizes) not in (1, 3) or not all(size.isdecimal() and int(size) for size in sizes):
        must, advice = "--input-size must be a side or channels x height x width", "Write 32 or 3x224x224"
        raise ValueError(message("repsim", must, repr(arguments.input_size), advice))
    shape = [int(size) for size in sizes] if len(sizes) == 3 else [3, int(sizes[0]), int(sizes[0])]
    return torch.rand(_SAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def _heatmap_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("matrix", type=Path, metavar="FILE.npz")
    parser.add_argument(
        "--out", type=Path, metavar="PICTURE", help="a .png, .pdf or .svg; default: beside the file, as .png"
    )
    parser.add_argument("--limits", choices=("bounds", "data"), default="bounds", help="colour limits")
    parser.add_argument("--cmap", help="a map of matplotlib's that ends light; reversed for distances")
    parser.add_argument("--mask", action="store_true", help="leave out the upper half of a symmetric matrix")
    parser.add_argument("--annotate", action="store_true", help="write the values into the cells")


def _heatmap(arguments: argparse.Namespace) -> None:
    from repsim.plots import picture
    from repsim.similarity.matrix import SimilarityMatrix

    matrix = SimilarityMatrix.load(arguments.matrix)
    shown = {"cmap": arguments.cmap, "mask": arguments.mask, "annotate": arguments.annotate}
    figure = picture(matrix, limits=arguments.limits, **shown)
    path = arguments.out or arguments.matrix.with_suffix(".png")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    print(f"{matrix!r}\nwritten to {path}")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="the --out of a run")
    parser.add_argument("--index", type=Path, metavar="FILE.html", help="of several runs; default: repsim-index.html")


def _report(arguments: argparse.Namespace) -> None:
    from repsim._common.locks import alone
    from repsim._common.run_folder import add_to_list
    from repsim.studies.report import write_index, write_page

    for folder in arguments.folders:
        with alone(folder, "report", folder=True) if folder.is_dir() else contextlib.nullcontext():
            path = write_page(folder)
            add_to_list(folder, path.name)
        print(f"written to {path}")
    if len(arguments.folders) > 1 or arguments.index is not None:
        print(f"written to {write_index(arguments.folders, arguments.index or Path('repsim-index.html'))}")


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _metrics(arguments: argparse.Namespace) -> None:
    """Prints the measures' own facts, as `docs/make_measures.py` wrote them down: reading them off needs torch."""
    facts = json.loads((Path(__file__).parents[1] / "metrics" / "facts.json").read_text(encoding="utf-8"))
    columns = ["name", "kind", "bounds", "equal", "unchanged under", "cost", "source"]
    print_table(columns, [[row[column] for column in columns] for row in facts])
    print("\n" + "\n".join(f"{row['name']}: {row['says']}" for row in facts))


LAYERS = Verb(_layers_arguments, _layers, "nothing")
HEATMAP = Verb(_heatmap_arguments, _heatmap, "file")
REPORT = Verb(_report_arguments, _report, "nothing")
METRICS = Verb(_no_arguments, _metrics, "nothing")
