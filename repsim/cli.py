"""The command line: each verb is one call into the package."""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from repsim import _compare_command, augment_command, certify_command, robustness_command, train_command
from repsim._console import NETWORK, named_network, print_table
from repsim._files import check_folder, whole_file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, or 2 after one line on standard error for a user's error."""
    arguments = _parser().parse_args(argv)
    warnings.showwarning = lambda text, *_, **__: print(f"caution: {text}", file=sys.stderr)
    try:
        if getattr(arguments, "out", None) is not None:
            writes_one_file = arguments.run in (_heatmap, train_command.run)
            check_folder(arguments.out.parent if writes_one_file else arguments.out)
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
    layers.add_argument("network", metavar="NETWORK", help=NETWORK)
    layers.add_argument("--layers", nargs="+", metavar="GLOB", help="only these")

    compare = verb("compare", _compare_command.compare_command, "compare two networks layer by layer")
    _compare_command.add_arguments(compare)

    heatmap = verb("heatmap", _heatmap, "draw a saved matrix")
    heatmap.add_argument("matrix", type=Path, metavar="FILE.npz")
    heatmap.add_argument("--out", type=Path, metavar="PICTURE", help="default: beside the file, as .png")
    heatmap.add_argument("--limits", choices=("bounds", "data"), default="bounds", help="colour limits")
    heatmap.add_argument("--mask", action="store_true", help="leave out the upper half of a symmetric matrix")
    heatmap.add_argument("--annotate", action="store_true", help="write the values into the cells")

    train = verb("train", train_command.run, "train a network by a recipe")
    train_command.add_arguments(train)

    robustness = verb("robustness", robustness_command.run, "compare standard with robust networks, with all controls")
    robustness_command.add_arguments(robustness)

    augment = verb("augment", augment_command.run, "train by augmentation strategies and judge them by TD")
    augment_command.add_arguments(augment)

    certify = verb("certify", certify_command.run, "certify a network's answers by randomised smoothing")
    certify_command.add_arguments(certify)

    verb("metrics", _metrics, "list the measures")
    demo = verb("demo", _demo, "train four small networks on the digits and compare them")
    demo.add_argument("--out", type=Path, default=Path("repsim-demo"), metavar="DIR", help="default: repsim-demo")
    return parser


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
