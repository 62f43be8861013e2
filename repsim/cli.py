"""The command line: each verb is one call into the package."""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from repsim import train_command
from repsim._compare_command import compare_command
from repsim._console import named_network, print_table
from repsim._files import whole_file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, or 2 after one line on standard error for a user's error."""
    arguments = _parser().parse_args(argv)
    warnings.showwarning = lambda text, *_, **__: print(f"caution: {text}", file=sys.stderr)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, KeyError, OSError, MemoryError, RuntimeError) as error:
        if str(error).endswith("Report this."):  # ours to mend, so with everything that helps
            raise
        if arguments.debug:
            traceback.print_exc()
        else:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            print(" ".join(str(text).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; files already written are whole", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback for errors")
    parser = argparse.ArgumentParser(prog="repsim", description="Do these two networks see the same thing?")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, parents=[common])
        sub.set_defaults(run=run)
        return sub

    layers = verb("layers", _layers, "list the layers of a network that can be compared")
    layers.add_argument("network", metavar="NETWORK", help=_NETWORK)
    layers.add_argument("--layers", nargs="+", metavar="GLOB", help="only these")

    compare = verb("compare", compare_command, "compare two networks layer by layer")
    compare.add_argument("a", metavar="A", help=_NETWORK)
    compare.add_argument("b", metavar="B", help="the other network, or the same one again")
    compare.add_argument("--data", required=True, help='"digits", "cifar10", …, "imagefolder:PATH"')
    compare.add_argument("--metric", action="append", help=_METRIC)
    _add_inputs(compare)
    compare.add_argument("--layers", nargs="+", metavar="GLOB", help="names or globs; default: leaf modules and blocks")
    compare.add_argument("--reduction", help="mean (default), max, pool:K, flatten (--live's), cls, mean_tokens")
    compare.add_argument("--batch-size", type=int, default=256)
    compare.add_argument("--device", help='where to compute, as in "cuda"')
    compare.add_argument("--bootstrap", type=int, metavar="N", help="add an interval to every value, from N resamples")
    compare.add_argument("--permutations", type=int, metavar="N", help="add p-values, from N permutations")
    compare.add_argument("--live", action="store_true", help="never keep features: read them batch by batch")
    compare.add_argument("--tasks", type=Path, metavar="FILE.json", help=_TASKS)
    compare.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")

    heatmap = verb("heatmap", _heatmap, "draw a saved matrix")
    heatmap.add_argument("matrix", type=Path, metavar="FILE.npz")
    heatmap.add_argument("--out", type=Path, metavar="PICTURE", help="default: beside the file, as .png")
    heatmap.add_argument("--limits", choices=("bounds", "data"), default="bounds", help="colour limits")
    heatmap.add_argument("--mask", action="store_true", help="leave out the upper half of a symmetric matrix")
    heatmap.add_argument("--annotate", action="store_true", help="write the values into the cells")

    train = verb("train", train_command.run, "train a network by a recipe")
    train_command.add_arguments(train)

    verb("metrics", _metrics, "list the measures")
    demo = verb("demo", _demo, "train four small networks on the digits and compare them")
    demo.add_argument("--out", type=Path, default=Path("repsim-demo"), metavar="DIR", help="default: repsim-demo")
    return parser


_NETWORK = "ARCHITECTURE:WEIGHTS, as in resnet20:weights.th, or a file that repsim wrote"
_METRIC = 'repeatable, as in td or "td(seed=1)"; default cka and td, with --live cka_minibatch'
_TASKS = 'downstream tasks for forms of TD: {"life": {"animal": [2, 3], "vehicle": [0, 1]}, …}'


def _add_inputs(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--split", help="train or test; default test")
    sub.add_argument("--limit", type=int, help="use this many images, classes in proportion")
    sub.add_argument("--seed", type=int, default=0, help="which images --limit keeps")
    sub.add_argument("--size", type=int, help="image folders: resize the shorter side and crop the centre")
    sub.add_argument("--root", type=Path, default=Path("data"), help="where data sets are kept; default: data")
    sub.add_argument("--download", action="store_true", help="fetch a data set that is not there")
    text = "cifar10, imagenet, none, or means/stds as in .5,.5,.5/.2,.2,.2"
    sub.add_argument("--normalize", help=f"of both networks: {text}")
    sub.add_argument("--normalize-a", help="of A alone")
    sub.add_argument("--normalize-b", help="of B alone")


def _layers(arguments: argparse.Namespace) -> None:
    from repsim.extraction import select_layers

    network = named_network(arguments.network, None)
    names, _ = select_layers(network, arguments.layers)
    modules = dict(network.net.named_modules())
    width = max(map(len, names))
    for name in names:
        count = sum(p.numel() for p in modules[name].parameters())
        print(f"{name:{width}s}  {type(modules[name]).__name__:18s} {count:>12,} parameters")


def _heatmap(arguments: argparse.Namespace) -> None:
    from repsim.plots import picture
    from repsim.similarity import SimilarityMatrix

    matrix = SimilarityMatrix.load(arguments.matrix)
    figure = picture(matrix, limits=arguments.limits, mask=arguments.mask, annotate=arguments.annotate)
    path = arguments.out or arguments.matrix.with_suffix(".png")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    print(f"{matrix!r}\nwritten to {path}")


def _metrics(arguments: argparse.Namespace) -> None:
    from repsim.metrics import METRICS

    print_table(
        ["name", "kind", "bounds", "equal", "unchanged under", "cost", "source"],
        [
            [
                name,
                metric.kind,
                f"[{metric.bounds[0]:g}, {metric.bounds[1]:g}]",
                f"{metric.self_value:g}",
                ", ".join(sorted(metric.invariances)),
                metric.cost,
                metric.source,
            ]
            for name, metric in sorted(METRICS.items())
        ],
    )
    print("\n" + "\n".join(f"{name}: {metric.meaning}" for name, metric in sorted(METRICS.items())))


def _demo(arguments: argparse.Namespace) -> None:
    from repsim.demo import run

    demo = run(arguments.out)
    print(demo.text)
    pictures = ", ".join(f.name for f in demo.files if f.suffix == ".png")
    print(f"\nwritten to {arguments.out}: {pictures}, and {len(demo.files)} files in all")


if __name__ == "__main__":
    sys.exit(main())
