"""Linear probes: `repsim.fit_probes` beside scikit-learn's `LogisticRegression`.

Twenty layers, four each of widths 256, 512, 1,024, 2,048 and 4,096; 10,000 rows of which 5,000 are fitted and
the rest held out; 10 classes. The penalty is 1e-2 in two units: for rows of mean squared norm 1, which is how
repsim counts, and for entries of mean square 1, which is 1e-2 / width in repsim's units and far harder.

    python benchmarks/probes.py --cifar PATH --weights PATH       features of a ResNet-56's blocks
    python benchmarks/probes.py                                   synthetic features
    python benchmarks/probes.py --gpu                             the GPU part alone
    python benchmarks/probes.py --quick                           checks the script only

What is measured:

    one fit     Seconds of one probe per layer, the two libraries in turn on each layer. scikit-learn has its
                defaults (100 iterations, tol 1e-4) with C = 1 / (penalty · rows), on float32 features that are
                centred and divided by one scale outside its time. repsim's time includes that work, the
                float64 certificate and the logits of the held-out rows.
    gap         Objective minus its minimum, in float64 by the same function for both; the minimum is
                `fit_probes(tol=1e-8)`. repsim's certified gap is the bound that it reports itself.
    answers     Share of held-out rows that get the label which the minimum gives them.
    20 for 8    Five folds × four tasks against one fold of one task, on the same rows. The three other tasks
                are the largest of ten random linear maps of whitened features.
    memory      Peak resident memory that `fit_probes` adds in a fresh process, divided by the largest layer.
    GPU         20 layers × 5 folds of 50,000 synthetic rows. scikit-learn is fitted once per width on the CPU
                and its seconds are multiplied: an extrapolation.
"""

import argparse
import itertools
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _measure import (
    Table,
    Timings,
    arguments,
    calibrated,
    in_fresh_process,
    interleave,
    load_images,
    peak_added,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import repsim
from repsim.probes.fit import LayerProbes
from repsim.probes.folds import stratified_folds

WIDTHS = (256, 512, 1024, 2048, 4096)
#: Width -> (stage, reduction) of a CIFAR ResNet's blocks: 16 × 32×32, 32 × 16×16 and 64 × 8×8 maps.
BLOCKS = {
    256: (1, "pool:4"),
    512: (2, "pool:4"),
    1024: (3, "pool:4"),
    2048: (2, "pool:8"),
    4096: (3, "pool:8"),
}
CLASSES = 10
PENALTY = 1e-2
#: What the features of the penalty are scaled to -> the features' mean squared row norm, by width.
UNITS = {"rows of norm² 1": lambda width: 1, "entries of square 1": lambda width: width}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-56; else synthetic features")
    parser.add_argument("--rows", type=int, default=10_000, help="rows, of which half are fitted")
    parser.add_argument("--gpu", nargs="?", const="cuda", metavar="DEVICE", help="measure the GPU part, alone")
    parser.add_argument("--child", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(memory(Path(args.child)))
        return
    with calibrated():
        if args.gpu:
            gpu(args)
            return
        layers, labels = features(args)
        for unit in UNITS:
            one_fit(layers, labels, unit, args.rounds)
        for unit in UNITS:
            folds_and_tasks(layers, labels, unit, args.rounds)
        table = Table("Memory added while fitting one layer of each width, one mask")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "features.pt"
            one_each = list({x.shape[1]: x for x in layers}.values())
            torch.save((one_each, labels), file)
            ratio = in_fresh_process(__file__, "--child", str(file))
        table.row("peak added / largest layer", ratio)


def features(args: argparse.Namespace) -> tuple[list[Tensor], Tensor]:
    """Four layers of each width, narrow ones first, and labels."""
    n, each = (600, 1) if args.quick else (args.rows, 4)
    if args.quick or not (args.cifar and args.weights):
        layers, labels = synthetic(n, [w for w in WIDTHS[: 3 if args.quick else None] for _ in range(each)], "cpu")
        print(f"synthetic features, {n:,} rows")
        return layers, labels
    images = load_images(args, n)
    net = repsim.load_model("resnet56", checkpoint=args.weights, normalize=args.normalize)
    layers = []
    for width, (stage, reduction) in BLOCKS.items():
        names = [f"layer{stage}.{block}" for block in (2, 4, 6, 8)]
        found = repsim.extract(net, images, layers=names, reduction=reduction, progress=False)
        layers += list(found.features.values())
        if any(x.shape[1] != width for x in found.features.values()):
            raise ValueError(f"layers {names} with {reduction} must be {width} wide; these weights are of another kind")
    print(f"blocks of {args.weights}, {len(images):,} images of {images.name}")
    return layers, images.labels


def synthetic(n: int, widths: Sequence[int], device: str) -> tuple[list[Tensor], Tensor]:
    """Rectified features with a decaying spectrum, in which ten classes overlap; another mixture for each layer."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    labels = torch.randint(0, CLASSES, (n,), generator=generator, device=device)
    layers = []
    for width in widths:
        latent = min(width, 512)
        decay = torch.arange(1, latent + 1, device=device) ** -0.5
        z = (normal(n, latent) + 0.7 * normal(CLASSES, latent)[labels]) * decay
        layers.append((z @ normal(latent, width) / latent**0.5 + 0.1 * normal(n, width) + 0.3).relu_())
    return layers, labels.cpu()


@dataclass(frozen=True)
class Frame:
    """A layer's mean and scale on the fitted rows: centred and divided by it, rows have the unit's mean norm²."""

    x: Tensor
    mean: Tensor
    scale: float

    @classmethod
    def of(cls, layer: Tensor, train: Tensor, unit: str) -> "Frame":
        x = layer[train].double()
        mean = x.mean(0)
        norm2 = float((x - mean).square().sum(1).mean())
        return cls(layer, mean, (norm2 / UNITS[unit](x.shape[1])) ** 0.5)

    def scaled(self, rows: Tensor) -> np.ndarray:
        """What scikit-learn is given: float32, dense."""
        return ((self.x[rows].double() - self.mean) / self.scale).float().cpu().numpy()

    def objective(self, head: tuple[Tensor, Tensor], labels: Tensor, train: Tensor) -> float:
        """Mean cross-entropy on the fitted rows + ½ penalty scale² ‖coefficients‖², in float64."""
        coefficients, intercepts = head
        logits = self.x[train].double() @ coefficients.T + intercepts
        loss = torch.nn.functional.cross_entropy(logits, labels[train])
        return float(loss + PENALTY * self.scale**2 * coefficients.square().sum() / 2)

    def head(self, model: LogisticRegression) -> tuple[Tensor, Tensor]:
        """scikit-learn's probe, for the features as they came."""
        coefficients = torch.from_numpy(np.asarray(model.coef_, np.float64)) / self.scale
        intercepts = torch.from_numpy(np.asarray(model.intercept_, np.float64))
        return coefficients, intercepts - coefficients @ self.mean


def sklearn_fit(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=1 / (PENALTY * len(x)), max_iter=100, tol=1e-4).fit(x, y)


def fit(
    layers: Sequence[Tensor], tasks: dict[str, Tensor], train: Tensor, unit: str, **options: float
) -> list[LayerProbes]:
    """repsim's probes of all layers; the penalty depends on the width, so one call for each width."""
    found = []
    for width, members in itertools.groupby(layers, key=lambda x: x.shape[1]):
        penalties = (PENALTY / UNITS[unit](width),)
        found += repsim.fit_probes(list(members), tasks, train, penalties=penalties, progress=False, **options)  # type: ignore[arg-type]
    return found


def one_fit(layers: Sequence[Tensor], labels: Tensor, unit: str, rounds: int) -> None:
    n = len(labels)
    train = torch.zeros(n, dtype=torch.bool)
    train[torch.randperm(n, generator=torch.Generator().manual_seed(0))[: n // 2]] = True
    tasks, mask = {"task": labels}, train[None]
    per_layer: list[Timings] = []
    ours: dict[str, list[float]] = {
        "certified": [],
        "certified relative": [],
        "gap": [],
        "same": [],
        "steps": [],
    }
    theirs: dict[str, list[float]] = {"gap": [], "same": [], "steps": []}
    fit(layers[:1], tasks, mask, unit)
    for layer in layers:
        frame = Frame.of(layer, train, unit)
        x, y = frame.scaled(train), labels[train].numpy()
        times = interleave(
            {
                "repsim": lambda layer=layer: fit([layer], tasks, mask, unit)[0],
                "sklearn": lambda x=x, y=y: sklearn_fit(x, y),
            },
            rounds,
            warm=False,
        )
        per_layer.append(times)
        probes, model = times.results["repsim"], times.results["sklearn"]
        best = fit([layer], tasks, mask, unit, tol=1e-8)[0]
        low = frame.objective(best.head("task"), labels, train)
        answers = best.heldout["task"][0, ~train].argmax(1)
        certificate = probes.certificates["task"]
        ours["certified"].append(float(certificate.gap.max()))
        ours["certified relative"].append(float(certificate.relative_gap.max()))
        ours["gap"].append(frame.objective(probes.head("task"), labels, train) / low - 1)
        ours["steps"].append(int(certificate.iterations.max()))
        ours["same"].append(float((probes.heldout["task"][0, ~train].argmax(1) == answers).double().mean()))
        theirs["gap"].append(frame.objective(frame.head(model), labels, train) / low - 1)
        theirs["steps"].append(int(np.max(model.n_iter_)))
        predicted = torch.from_numpy(model.predict(frame.scaled(~train)))
        theirs["same"].append(float((predicted == answers).double().mean()))

    fitted = f"{int(train.sum()):,} of {n:,} rows fitted"
    table = Table(f"One probe per layer: {len(layers)} layers, {fitted}, penalty {PENALTY:g} for {unit}")
    widths = sorted({x.shape[1] for x in layers})
    for what, chosen in (
        ("all widths", widths),
        ("widths up to 1,024", [w for w in widths if w <= 1024]),
        *((f"    width {w:,}", [w]) for w in widths),
    ):
        mine = [i for i, x in enumerate(layers) if x.shape[1] in chosen]
        at = sum((per_layer[i] for i in mine[1:]), per_layer[mine[0]])
        steps = [max(side["steps"][i] for i in mine) for side in (theirs, ours)]
        note = (
            f"{at.median('sklearn'):.2f} s against {at.median('repsim'):.2f} s; at most {steps[0]} and {steps[1]} steps"
        )
        table.row(f"sklearn seconds / repsim seconds, {what}", at.ratio("sklearn", "repsim"), note)
    table.row("certified gap of repsim, largest", max(ours["certified"]), "bound from its float64 gradient")
    table.row("certified relative gap of repsim, largest", max(ours["certified relative"]))
    table.row("relative gap of repsim, largest", max(ours["gap"]), "objective over its minimum, less 1")
    table.row("relative gap of sklearn, largest", max(theirs["gap"]))
    factor = max(theirs["gap"]) / max(ours["certified relative"])
    table.row("relative gap of sklearn / certified relative gap of repsim", factor)
    for name, side in (("repsim", ours), ("sklearn", theirs)):
        least, mean = min(side["same"]), sum(side["same"]) / len(layers)
        note = f"mean {mean:.3%}"
        table.row(f"held-out answers equal to the minimum's, {name}, least of the layers", f"{least:.2%}", note)


def folds_and_tasks(layers: Sequence[Tensor], labels: Tensor, unit: str, rounds: int) -> None:
    train = stratified_folds(labels, 5, seed=0)
    tasks = {"task": labels, **{f"random {i}": random_task(layers[-1], seed=i) for i in range(3)}}
    times = interleave(
        {
            "one": lambda: fit(layers, {"task": labels}, train[:1], unit),
            "twenty": lambda: fit(layers, tasks, train, unit),
        },
        rounds,
        warm=False,
    )
    table = Table(f"5 folds × 4 tasks: {len(layers)} layers, {len(labels):,} rows, penalty {PENALTY:g} for {unit}")
    note = f"{times.median('twenty'):.2f} s against {times.median('one'):.2f} s"
    table.row("seconds of 20 fits per layer / seconds of one", times.ratio("twenty", "one"), note)
    certificates = [c for probes in times.results["twenty"] for c in probes.certificates.values()]
    table.row("certified relative gap, largest", max(float(c.relative_gap.max()) for c in certificates))


def random_task(layer: Tensor, seed: int) -> Tensor:
    """The largest of ten random linear maps of the layer's leading directions, whitened so that no class is rare."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, _, _ = torch.pca_lowrank(layer, q=32)
        return (u @ torch.randn(32, CLASSES)).argmax(1)


def memory(file: Path) -> float:
    """Peak MB added by a fit, divided by the largest layer's MB."""
    layers, labels = torch.load(file)
    train = (torch.arange(len(labels)) % 2 == 0)[None]
    unit = next(iter(UNITS))
    warm_x, warm_y = torch.randn(200, 20), torch.arange(200) % CLASSES
    fit([warm_x], {"task": warm_y}, (torch.arange(200) < 150)[None], unit)  # libraries load, threads start
    largest = max(x.nbytes for x in layers) / 2**20
    return peak_added(lambda: fit(layers, {"task": labels}, train, unit)) / largest


def gpu(args: argparse.Namespace) -> None:
    if args.gpu.startswith("cuda") and not torch.cuda.is_available():
        print("GPU part skipped: no GPU here")
        return
    n, each, widths = (2_000, 1, WIDTHS[:2]) if args.quick else (50_000, 4, WIDTHS)
    layers, labels = synthetic(n, [w for w in widths for _ in range(each)], args.gpu)
    train = stratified_folds(labels, 5, seed=0)
    y, fold = labels[train[0]].numpy(), train[0].to(args.gpu)
    for unit in UNITS:
        times = interleave({"repsim": lambda unit=unit: fit(layers, {"task": labels}, train, unit)}, args.rounds)
        extrapolated = 0.0
        for layer in layers[::each]:
            x = Frame.of(layer, fold, unit).scaled(fold)
            once = interleave({"sklearn": lambda x=x: sklearn_fit(x, y)}, 1, warm=False)
            extrapolated += once.median("sklearn") * each * len(train)
        where = f"{len(layers)} layers × 5 folds, {n:,} synthetic rows, penalty {PENALTY:g} for {unit}"
        table = Table(f"On {args.gpu}: {where}")
        ours = times.median("repsim")
        note = f"{extrapolated:.1f} s, extrapolated from one fit per width on the CPU, against {ours:.2f} s"
        table.row("sklearn seconds / repsim seconds", extrapolated / ours, note)
        certificates = [probes.certificates["task"] for probes in times.results["repsim"]]
        table.row(
            "certified relative gap of repsim, largest",
            max(float(c.relative_gap.max()) for c in certificates),
        )
        steps = max(int(c.iterations.max()) for c in certificates)
        table.row("all probes converged", str(all(bool(c.converged.all()) for c in certificates)), f"{steps} steps")


if __name__ == "__main__":
    main()
