"""`repsim demo`: do standard and robust networks see the same digits? Trains four, compares, says what it found."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from repsim._files import whole_file, write_text
from repsim.activations import Activations
from repsim.data import load_data
from repsim.extraction import extract
from repsim.plots import layer_curve, panels
from repsim.recipes import RECIPES, Trained, train
from repsim.similarity import SimilarityMatrix, compare, versions

#: Panel title -> the two networks. Each pair has different seeds: networks that start from the same random weights
#: stay alike in their early layers for that reason alone.
_PAIRS = {
    "standard × standard": ("standard-0", "standard-1"),
    "robust × robust": ("robust-0", "robust-1"),
    "standard × robust": ("standard-0", "robust-1"),
}


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        networks: Name -> trained network.
        matrices: (metric, panel title) -> matrix.
        files: Everything written.
        text: The table and the reading of it.
    """

    networks: dict[str, Trained]
    matrices: dict[tuple[str, str], SimilarityMatrix]
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
    networks: dict[str, Trained] = {}
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
    text = _report(networks, matrices)
    write_text(out / "report.txt", text + "\n")
    facts = {
        "networks": {name: trained.record for name, trained in networks.items()},
        "results": [
            {"metric": k, "pair": t, "n": m.n, "matched": m.matched(), "provenance": dict(m.provenance)}
            for (k, t), m in matrices.items()
        ],
        "versions": versions(),
    }
    write_text(out / "summary.json", json.dumps(facts, indent=1))
    return Demo(networks, matrices, (*files, out / "report.txt", out / "summary.json"), text)


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


def _report(networks: dict[str, Trained], matrices: dict[tuple[str, str], SimilarityMatrix]) -> str:
    lines = ["Networks (digits_resnet8, 1,200 training images; scores on 597 test images)", ""]
    for name, trained in networks.items():
        scores = [f"{k} {v:.3f}" for k, v in trained.record["scores"].items() if k != "n_test"]
        lines.append(f"  {name:12s} {', '.join(scores)}")
    blocks = [name for name in next(iter(matrices.values())).rows if name.startswith("layer") and name.count(".") == 1]
    lines += ["", "Matched layers: debiased CKA, and TD with its 95 % interval", ""]
    reading = []
    for block in blocks:
        intervals: dict[str, tuple[float, float, float]] = {}
        for title in _PAIRS:
            cka, td = matrices["cka", title], matrices["td", title]
            i, j = td.rows.index(block), td.cols.index(block)
            value, low, high = (float(x[i, j]) for x in (td.values, td.details["ci_low"], td.details["ci_high"]))
            intervals[title] = value, low, high
            a, b, ratio = (float(td.details[k][i, j]) for k in ("accuracy_row", "accuracy_col", "td_ratio"))
            lines.append(
                f"  {block:9s} {title:20s} CKA {cka.values[i, j]:5.3f}   TD {value:.4f} [{low:.4f}, {high:.4f}], "
                f"{ratio:.2f} of what independent errors give   probe accuracies {a:.3f}, {b:.3f}"
            )
        reading += _reading(block, intervals)
    lines += ["", *reading, ""]
    lines.append(
        "The intervals cover the choice of the 597 test images. They do not cover the choice of networks: there is one "
        "pair of each kind."
    )
    return "\n".join(lines)


def _reading(block: str, intervals: dict[str, tuple[float, float, float]]) -> list[str]:
    """How the mixed pair differs from the pairs of one kind, said only as far as the intervals carry it."""
    mixed = "standard × robust"
    across = intervals[mixed]
    lines = []
    for title, (value, low, high) in intervals.items():
        if title == mixed:
            continue
        if any(math.isnan(v) for v in (across[0], value)):
            lines.append(f"At {block}, {mixed} beside {title}: no number, a probe did not converge.")
            continue
        if across[1] > high or low > across[2]:
            more = "more" if across[0] > value else "less"
            verdict = f"answers differ {more} than in {title}"
        else:
            verdict = f"cannot be told apart from {title}, the intervals overlap"
        lines.append(f"At {block}, {mixed}: {verdict}: TD {across[0]:.4f} against {value:.4f}.")
    return lines
