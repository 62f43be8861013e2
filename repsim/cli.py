"""The command line: each verb is one call into the package."""

import argparse
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from repsim._checks import message
from repsim._files import whole_file, write_text


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

    compare = verb("compare", _compare, "compare two networks layer by layer")
    compare.add_argument("a", metavar="A", help=_NETWORK)
    compare.add_argument("b", metavar="B", help="the other network, or the same one again")
    compare.add_argument("--data", required=True, help='"digits", "cifar10", …, "imagefolder:PATH"')
    compare.add_argument("--metric", action="append", help='repeatable, as in td or "td(seed=1)"; default cka and td')
    _add_inputs(compare)
    compare.add_argument("--layers", nargs="+", metavar="GLOB", help="names or globs; default: leaf modules and blocks")
    compare.add_argument("--reduction", default="mean", help="mean (default), max, pool:K, flatten, cls, mean_tokens")
    compare.add_argument("--batch-size", type=int, default=256)
    compare.add_argument("--device", help='where to compute, as in "cuda"')
    compare.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")

    heatmap = verb("heatmap", _heatmap, "draw a saved matrix")
    heatmap.add_argument("matrix", type=Path, metavar="FILE.npz")
    heatmap.add_argument("--out", type=Path, metavar="PICTURE", help="default: beside the file, as .png")
    heatmap.add_argument("--limits", choices=("bounds", "data"), default="bounds", help="colour limits")
    heatmap.add_argument("--mask", action="store_true", help="leave out the upper half of a symmetric matrix")
    heatmap.add_argument("--annotate", action="store_true", help="write the values into the cells")

    verb("metrics", _metrics, "list the measures")
    demo = verb("demo", _demo, "train four small networks on the digits and compare them")
    demo.add_argument("--out", type=Path, default=Path("repsim-demo"), metavar="DIR", help="default: repsim-demo")
    return parser


_NETWORK = "ARCHITECTURE:WEIGHTS, as in resnet20:weights.th, or a file that repsim wrote"


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

    network = _network(arguments.network, None)
    names, _ = select_layers(network, arguments.layers)
    modules = dict(network.net.named_modules())
    width = max(map(len, names))
    for name in names:
        count = sum(p.numel() for p in modules[name].parameters())
        print(f"{name:{width}s}  {type(modules[name]).__name__:18s} {count:>12,} parameters")


def _compare(arguments: argparse.Namespace) -> None:
    from repsim.data import load_data
    from repsim.extraction import extract
    from repsim.metrics import get_metric, metric_name
    from repsim.similarity import compare, versions

    metrics = [get_metric(m) for m in arguments.metric or ["cka", "td"]]
    normalize = [x if x is not None else arguments.normalize for x in (arguments.normalize_a, arguments.normalize_b)]
    same = arguments.a == arguments.b and normalize[0] == normalize[1]
    specs = [arguments.a] if same else [arguments.a, arguments.b]
    networks = [_network(spec, n) for spec, n in zip(specs, normalize, strict=False)]
    if not same and networks[0].name == networks[1].name:
        networks[0].name, networks[1].name = f"{networks[0].name} (A)", f"{networks[1].name} (B)"
    data = load_data(
        arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        seed=arguments.seed,
        size=arguments.size,
        root=arguments.root,
        download=arguments.download,
    )
    sides = []
    for network in networks:
        if arguments.device:
            network.to(arguments.device)
        for note in network.provenance["notes"]:
            print(f"{network.name}: {note}")
        sides.append(
            extract(
                network,
                data,
                layers=arguments.layers,
                reduction=arguments.reduction,
                batch_size=arguments.batch_size,
            )
        )
    print(f"{data!r}\n{sides[0]!r}" + ("" if same else f"\n{sides[1]!r}"))
    results = []
    for metric in metrics:
        matrix = compare(sides[0], sides[-1], metric, device=arguments.device)
        name = _file_name(metric_name(metric))
        path = matrix.save(arguments.out / f"{name}.npz")
        with whole_file(path.with_suffix(".csv")) as temporary:
            matrix.to_frame().to_csv(temporary, index=False)
        matrix.save_picture(path.with_suffix(".png"))
        results.append(_summary(matrix, name))
    facts = {"results": results, "data": {"name": data.name, "n": len(data), "digest": data.digest}}
    facts |= {"networks": {n.name: n.provenance for n in networks}, "versions": versions()}
    write_text(arguments.out / "summary.json", json.dumps(facts, indent=1))
    _table(
        ["metric", "layers", "n", "least", "most", "matched layers' mean", "closest pair"],
        [
            [
                r["metric"],
                f"{r['layers'][0]} × {r['layers'][1]}",
                f"{r['n']:,}",
                _number(r["min"]),
                _number(r["max"]),
                _number(r["matched_mean"]),
                " ~ ".join(r["closest"]),
            ]
            for r in results
        ],
    )
    print(f"written to {arguments.out}: {', '.join(r['file'] + '.{npz,csv,png}' for r in results)}, summary.json")


def _summary(matrix, name: str) -> dict[str, object]:
    import numpy as np

    values = matrix.values
    some = bool((~np.isnan(values)).any())
    best = np.nanargmax if matrix.definition.kind == "similarity" else np.nanargmin
    i, j = np.unravel_index(best(values), values.shape) if some else (0, 0)
    matched = [v for *_, v in matrix.matched() if v == v]
    return {
        "metric": matrix.metric,
        "file": name,
        "layers": values.shape,
        "n": matrix.n,
        "min": float(np.nanmin(values)) if some else None,
        "max": float(np.nanmax(values)) if some else None,
        "matched_mean": float(np.mean(matched)) if matched else None,
        "closest": [matrix.rows[i], matrix.cols[j]] if some else ["none"],
        "cells_without_number": len(matrix.reasons),
        "cautions": list(matrix.cautions),
    }


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

    _table(
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


def _network(spec: str, normalize: str | None):
    from repsim.models import load_model

    architecture, weights = _split(spec)
    name = Path(weights or architecture).stem if weights or Path(architecture).is_file() else architecture
    return load_model(architecture, checkpoint=weights, normalize=_normalization(normalize), name=name)


def _split(spec: str) -> tuple[str, str | None]:
    """ARCHITECTURE:WEIGHTS at the colon behind which a file stands; an architecture may hold a colon itself."""
    if Path(spec).is_file():
        return spec, None
    places = [i for i, letter in enumerate(spec) if letter == ":"]
    for i in places:
        if Path(spec[i + 1 :]).is_file():
            return spec[:i], spec[i + 1 :]
    if places and (Path(spec[places[-1] + 1 :]).suffix or "/" in spec[places[-1] + 1 :]):
        return spec[: places[-1]], spec[places[-1] + 1 :]
    return spec, None


def _normalization(text: str | None):
    if text is None or text == "none":
        return None
    if "/" not in text:
        return text
    try:
        mean, std = (tuple(float(v) for v in part.split(",")) for part in text.split("/"))
    except ValueError as error:
        advice = "Write means and stds as in .5,.5,.5/.2,.2,.2"
        raise ValueError(message("repsim", "--normalize must be known", repr(text), advice)) from error
    return mean, std


def _file_name(metric: str) -> str:
    """A metric's name with its settings, in letters that every file system takes."""
    return "".join(c if c.isalnum() or c in "._-=" else "_" for c in metric).strip("_")


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for line in [head, ["-" * w for w in widths], *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
