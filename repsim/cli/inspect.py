"""The verbs that only look: layers, heatmap, report, metrics."""

import argparse
import contextlib
import json
from pathlib import Path

from repsim._common.files import whole_file
from repsim.cli.tables import print_table
from repsim.cli.verbs import Verb


def _layers_arguments(parser: argparse.ArgumentParser) -> None:
    from repsim.cli.arguments import NETWORK

    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    parser.add_argument("--layers", nargs="+", metavar="GLOB", help="only these")


def _layers(arguments: argparse.Namespace) -> None:
    from repsim.cli.arguments import named_network
    from repsim.networks.layers import select_layers

    network = named_network(arguments.network, None)
    names, _ = select_layers(network, arguments.layers)
    modules = dict(network.net.named_modules())
    width = max(map(len, names))
    for name in names:
        count = sum(p.numel() for p in modules[name].parameters())
        print(f"{name:{width}s}  {type(modules[name]).__name__:18s} {count:>12,} parameters")


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
