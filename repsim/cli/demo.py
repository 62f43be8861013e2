"""`repsim demo`: do standard and robust networks see the same digits? Trains four, compares, says what it found."""

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from repsim._common.files import whole_file, write_text
from repsim._common.provenance import versions
from repsim.cli.verbs import Verb
from repsim.data.load import load_data
from repsim.features.activations import Activations
from repsim.features.extraction import extract
from repsim.plots import layer_curve, panels
from repsim.recipes import RECIPES, TrainedNetwork, train
from repsim.similarity.comparison import compare
from repsim.similarity.inference import Difference, difference
from repsim.similarity.matrix import SimilarityMatrix

#: Panel title -> the two networks. Each pair has different seeds: networks that start from the same random weights
#: stay alike in their early layers for that reason alone.
_PAIRS = {
    "standard × standard": ("standard-0", "standard-1"),
    "robust × robust": ("robust-0", "robust-1"),
    "standard × robust": ("standard-0", "robust-1"),
}

_MIXED = "standard × robust"


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        networks: Name -> trained network.
        matrices: (metric, panel title) -> matrix.
        differences: Panel title of a pair of one kind -> TD of the mixed pair less TD of that one, block by block.
        files: Everything written.
        text: The table and the reading of it.
    """

    networks: dict[str, TrainedNetwork]
    matrices: dict[tuple[str, str], SimilarityMatrix]
    differences: dict[str, Difference]
    files: tuple[Path, ...]
    text: str


def run(out: str | Path = "repsim-demo", *, progress: bool = True) -> Demo:
    """Trains two standard and two PGD-trained networks on the digits and compares them by CKA and TD.

    Args:
        out: Folder for checkpoints, matrices, pictures and the table.
        progress: Show bars for what takes more than two seconds.

    Returns:
        The results; the same things are in `out`.
    """
    out = Path(out)
    data, test = load_data("digits", split="train"), load_data("digits", split="test")
    networks: dict[str, TrainedNetwork] = {}
    for name, recipe in (("standard", "standard"), ("robust", "pgd")):
        for seed in (0, 1):
            full = f"{name}-{seed}"
            networks[full] = train(RECIPES[recipe](), data, test, seed=seed, name=full, progress=progress)
    files = [trained.save(out / f"{name}.safetensors") for name, trained in networks.items()]
    features: dict[str, Activations] = {
        name: extract(trained.network, test, progress=progress) for name, trained in networks.items()
    }
    matrices: dict[tuple[str, str], SimilarityMatrix] = {}
    for metric in ("cka", "td"):
        for title, (a, b) in _PAIRS.items():
            matrix = compare(features[a], features[b], metric)
            matrices[metric, title] = matrix
            files.append(matrix.save(out / f"{metric} {title.replace(' × ', ' ')}.npz".replace(" ", "-")))
        files.append(_pictures(out, metric, {t: m for (k, t), m in matrices.items() if k == metric}))
    files.append(_curve(out, {t: m for (k, t), m in matrices.items() if k == "td"}))
    differences = _differences({name: _blocks(side) for name, side in features.items()})
    text = _report(networks, matrices, differences)
    write_text(out / "report.txt", text + "\n")
    facts = {
        "networks": {name: trained.record for name, trained in networks.items()},
        "results": [
            {"metric": k, "pair": t, "n": m.n, "matched": m.matched(), "provenance": dict(m.provenance)}
            for (k, t), m in matrices.items()
        ],
        "differences": [
            {"metric": d.first.metric, "pair": _MIXED, "less": title, "level": d.level, "resamples": d.resamples}
            | {"n": d.first.n, "blocks": {block: _numbers(d, block) for block in d.first.rows}}
            for title, d in differences.items()
        ],
        "versions": versions(),
    }
    write_text(out / "summary.json", json.dumps(facts, indent=1))
    return Demo(networks, matrices, differences, (*files, out / "report.txt", out / "summary.json"), text)


def _pictures(out: Path, metric: str, matrices: dict[str, SimilarityMatrix]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure()
    # CKA fills its bounds; TD of good networks uses a small part of them.
    limits = "bounds" if metric == "cka" else "data"
    panels(list(matrices.values()), titles=list(matrices), limits=limits, figure=figure)
    path = out / f"{metric}.png"
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def _curve(out: Path, matrices: dict[str, SimilarityMatrix]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    layer_curve(*matrices.values(), labels=list(matrices), ax=figure.add_subplot(), limits="data")
    path = out / "td-by-layer.png"
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def _is_block(layer: str) -> bool:
    return layer.startswith("layer") and layer.count(".") == 1


def _blocks(side: Activations) -> Activations:
    """The same side with its residual blocks alone."""
    return replace(side, features={layer: side[layer] for layer in side if _is_block(layer)})


def _differences(features: dict[str, Activations]) -> dict[str, Difference]:
    """How much further apart the mixed pair is than each pair of one kind."""
    sides = {title: (features[a], features[b]) for title, (a, b) in _PAIRS.items()}
    # The noise floor is in the matrices already.
    metric = "td(resamples=0)"
    return {title: difference(sides[_MIXED], sides[title], metric) for title in _PAIRS if title != _MIXED}


def _numbers(found: Difference, block: str) -> dict[str, float]:
    """A block against itself: both TDs, their difference and its interval."""
    i = found.first.rows.index(block)
    arrays = {"mixed": found.first.values, "pure": found.second.values, "difference": found.values}
    arrays |= {"ci_low": found.ci_low, "ci_high": found.ci_high}
    return {name: float(array[i, i]) for name, array in arrays.items()}


def _report(
    networks: dict[str, TrainedNetwork],
    matrices: dict[tuple[str, str], SimilarityMatrix],
    differences: dict[str, Difference],
) -> str:
    lines = ["Networks (digits_resnet8, 1,200 training images; scores on 597 test images)", ""]
    for name, trained in networks.items():
        scores = [f"{k} {v:.3f}" for k, v in trained.record["scores"].items() if k != "n_test"]
        lines.append(f"  {name:12s} {', '.join(scores)}")
    lines += ["", "Matched layers: debiased CKA, and TD with its 95 % interval", ""]
    blocks = [layer for layer in matrices["td", _MIXED].rows if _is_block(layer)]
    for block in blocks:
        for title in _PAIRS:
            cka, td = matrices["cka", title], matrices["td", title]
            i, j = td.rows.index(block), td.cols.index(block)
            value, low, high = (float(x[i, j]) for x in (td.values, td.details["ci_low"], td.details["ci_high"]))
            a, b, ratio = (float(td.details[k][i, j]) for k in ("accuracy_row", "accuracy_col", "td_ratio"))
            lines.append(
                f"  {block:9s} {title:20s} CKA {cka.values[i, j]:5.3f}   TD {value:.4f} [{low:.4f}, {high:.4f}], "
                f"{ratio:.2f} of what independent errors give   probe accuracies {a:.3f}, {b:.3f}"
            )
    lines += [
        "",
        "The pairs against each other: differences of TD with their 95 % intervals, paired over the images",
        "",
    ]
    lines += [_sentence(block, title, found) for block in blocks for title, found in differences.items()]
    lines.append("")
    lines.append(
        "The intervals cover the choice of the 597 test images, each for one comparison alone. They do not cover the "
        "choice of networks: there is one pair of each kind."
    )
    return "\n".join(lines)


def _sentence(block: str, title: str, found: Difference) -> str:
    """How the mixed pair differs from a pair of one kind, said only as far as the interval carries it."""
    mixed, pure, delta, low, high = _numbers(found, block).values()
    if math.isnan(low):
        i = found.first.rows.index(block)
        why = found.first.reasons.get((i, i)) or found.second.reasons.get((i, i)) or "a resample has none"
        return f"At {block}, {_MIXED} beside {title}: no number, {why}."
    if low <= 0 <= high:
        verdict = f"cannot be told apart from {title}"
    else:
        verdict = f"answers differ {'more' if low > 0 else 'less'} than in {title}"
    numbers = f"TD {mixed:.4f} against {pure:.4f}, difference {delta:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"At {block}, {_MIXED}: {verdict}: {numbers}."


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("repsim-demo"), metavar="DIR", help="default: repsim-demo")


def _run(arguments: argparse.Namespace) -> None:
    demo = run(arguments.out)
    print(demo.text)
    pictures = ", ".join(f.name for f in demo.files if f.suffix == ".png")
    print(f"\nwritten to {arguments.out}: report.html, {pictures}, and {len(demo.files) + 1} files in all")


DEMO = Verb(_add_arguments, _run, "folder", page=True)
