"""Layer × layer CKA: `repsim.compare` beside the cost of its arithmetic, and beside other packages.

    python benchmarks/heatmap.py --cifar PATH --weights PATH --weights56 PATH --peers-env DIRECTORY
    python benchmarks/heatmap.py                    random weights and images, and no other packages
    python benchmarks/heatmap.py --quick            checks the script only

What is measured:

    stored      Debiased CKA of features that are at hand: the 82 layers of a ResNet-56, averaged over positions
                (widths 16, 32, 64), 5,000 rows, two networks. The floor is one product XᵀY of the concatenated
                features; the loop is one product per pair of layers, in float32, each layer's own term once.
    end to end  Extraction and comparison of the 28 layers of two ResNet-20, flattened, 1,000 images. The floor is
                two bare forward passes at the best batch size, and 10/16 of both networks' Gram matrices (the
                upper half in 4 × 4 tiles) at the best rate of a product of that shape in this run.
    packages    torch_cka and pytorch-cka from the package index, in an environment of their own that is made in
                --peers-env, on the same images and weights: unbiased CKA over batches of 256, 1,024 images. repsim
                compares the same layers on all 1,024 images at once. A package that fails is reported, not fatal.

Errors are the largest over all pairs of layers, against float64 and the literal definition: Gram matrices with a
zero diagonal, centred so that every row sums to zero. Each package is held against its own estimator. Memory is the
peak that `compare` adds in a fresh process, beside the stored features.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import (
    CONVS_AND_BLOCKS,
    Table,
    arguments,
    best_batch,
    calibrated,
    forward,
    gemm_rates,
    in_fresh_process,
    interleave,
    load_images,
    load_pair,
    peak_added,
    peers_python,
)
from torch import Tensor

import repsim
from repsim import Activations
from repsim.features.live_activations import LiveActivations
from repsim.networks.network import Network
from repsim.numerics.matmul import matmul_nt

PACKAGES = {"torch_cka": "torch_cka", "pytorch-cka": "cka"}  # in the index -> what is imported
BATCH = 256


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-20; else random ones")
    parser.add_argument("--weights56", metavar="PATH", help="weights of a ResNet-56; else synthetic stored features")
    parser.add_argument("--peers-env", metavar="DIRECTORY", help="where to make the packages' environment")
    parser.add_argument("--child", choices=("stored", "flat"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(memory(args.child, args.quick))
        return
    with calibrated():
        stored(args)
        end_to_end(args)
        packages(args)


def stored(args: argparse.Namespace) -> None:
    n = 300 if args.quick else 5_000
    sides = pooled_random(n)
    if args.weights56:
        images = load_images(args, n)
        nets = load_pair("resnet56", args.weights56, args.normalize)
        sides = [repsim.extract(net, images, layers=CONVS_AND_BLOCKS, reduction="mean", progress=False) for net in nets]
    a, b = (list(side.features.values()) for side in sides)
    whole_a, whole_b = torch.cat(a, 1), torch.cat(b, 1)
    columns_a, columns_b = whole_a.T.contiguous(), whole_b.T.contiguous()
    times = interleave(
        {
            "compare": lambda: repsim.compare(sides[0], sides[1], "cka"),
            "mm": lambda: torch.mm(whole_a.T, whole_b),
            "oneDNN": lambda: matmul_nt(columns_a, columns_b),
            "loop": lambda: pair_loop(a, b),
        },
        max(5, args.rounds),
    )
    table = Table(f"CKA of stored features: {len(a)} × {len(b)} layers, total width {whole_a.shape[1]:,}, n = {n:,}")
    for floor, what in (("mm", "XᵀY by torch.mm"), ("oneDNN", "XᵀY by repsim's product")):
        note = f"{times.median('compare'):.3f} s against {times.median(floor):.3f} s"
        table.row(f"compare seconds / {what} seconds", times.ratio("compare", floor), note)
    note = f"{times.median('loop'):.2f} s against {times.median('compare'):.3f} s"
    table.row("seconds of a loop over pairs / compare seconds", times.ratio("loop", "compare"), note)
    exact = exact_cka(a, b)
    table.row("error of repsim", worst(times.results["compare"].values, exact))
    table.row("error of the loop", worst(times.results["loop"], exact))
    table.row("MB that compare adds", memory_of("stored", args.quick))


def pooled_random(n: int) -> list[Activations]:
    """Two networks' worth of correlated features with the widths of a ResNet-56."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(n, 64, generator=generator)
    found = []
    for name in ("rows", "columns"):
        features = {}
        for i, width in enumerate([16] * 28 + [32] * 27 + [64] * 27):
            mixed = shared @ torch.randn(64, width, generator=generator) / 8
            features[f"layer {i}"] = (mixed + torch.randn(n, width, generator=generator)).relu_()
        found.append(Activations.from_arrays(features, name=name))
    return found


def pair_loop(rows: Sequence[Tensor], cols: Sequence[Tensor]) -> np.ndarray:
    """What one writes down first: centred features, one small product per pair."""
    rows, cols = ([x - x.mean(0) for x in side] for side in (rows, cols))

    def hsic(x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        p, q = x.square().sum(1), y.square().sum(1)
        return (x.T @ y).square().sum() - p @ q * n / (n - 2) + p.sum() * q.sum() / ((n - 1) * (n - 2))

    own = [[hsic(x, x) for x in side] for side in (rows, cols)]
    return np.array(
        [
            [float(hsic(x, y) / (u * v).sqrt()) for y, v in zip(cols, own[1], strict=True)]
            for x, u in zip(rows, own[0], strict=True)
        ]
    )


def end_to_end(args: argparse.Namespace) -> None:
    images = load_images(args, 64 if args.quick else 1_000)
    nets = load_pair("resnet20", args.weights, args.normalize)
    batch = best_batch(nets[0], images)
    a, b = take(nets[0], images), take(nets[1], images)
    widths = [x.shape[1] for x in a.features.values()]
    gram = torch.randn(len(images), 16_384)
    before = gemm_rates(gram)
    times = interleave(
        {
            "all": lambda: repsim.compare(take(nets[0], images), take(nets[1], images), "cka"),
            "live": lambda: repsim.compare(watch(nets[0], images), watch(nets[1], images), "cka"),
            "extract": lambda: [take(net, images) for net in nets],
            "compare": lambda: repsim.compare(a, b, "cka"),
            "forward": lambda: [forward(net, images, batch) for net in nets],
        },
        args.rounds,
        memory=0 if args.quick else 3,
    )
    after = gemm_rates(gram)
    operations = 2 * 10 / 16 * 2 * len(images) ** 2 * sum(widths)
    table = Table(f"CKA from images: {len(a)} × {len(b)} layers, total width {sum(widths):,}, n = {len(images):,}")
    for route in before:
        rate = max(before[route], after[route]) * 1e9
        floor = [seconds + operations / rate for seconds in times.seconds["forward"]]
        ratio = float(np.median(np.array(times.seconds["all"]) / floor))
        what = "torch.mm" if route == "mm" else "repsim's product"
        note = f"{times.median('all'):.2f} s against {np.median(floor):.2f} s, at {rate / 1e9:.0f} GFLOP/s"
        table.row(f"extract + compare seconds / floor with {what}", ratio, note)
        ratio = float(np.median(np.array(times.seconds["live"]) / floor))
        table.row(f"compare on live sources, seconds / floor with {what}", ratio, f"{times.median('live'):.2f} s")
        ratio = times.median("compare") * rate / operations
        note = f"{times.median('compare'):.2f} s against {operations / rate:.2f} s"
        table.row(f"compare seconds / Gram matrices by {what}", ratio, note)
    note = f"{times.median('extract'):.2f} s against {times.median('forward'):.2f} s, batches of {batch}"
    table.row("extract seconds / bare forward seconds", times.ratio("extract", "forward"), note)
    exact = exact_cka(list(a.features.values()), list(b.features.values()))
    table.row("error of repsim", worst(times.results["compare"].values, exact))
    table.row("error of repsim, live sources", worst(times.results["live"].values, exact))
    table.row("MB that compare adds", memory_of("flat", args.quick), f"features are {size(a) + size(b):,.0f} MB")


def take(net: Network, images: repsim.ImageSet) -> Activations:
    return repsim.extract(net, images, layers=CONVS_AND_BLOCKS, reduction="flatten", progress=False)


def watch(net: Network, images: repsim.ImageSet) -> LiveActivations:
    return repsim.features.live_activations(net, images, layers=CONVS_AND_BLOCKS, progress=False)


def size(side: Activations) -> float:
    return sum(x.nbytes for x in side.features.values()) / 2**20


def packages(args: argparse.Namespace) -> None:
    if not args.peers_env:
        print("\nother packages: skipped, no --peers-env")
        return
    images = load_images(args, 64 if args.quick else 1_024)
    batch = 32 if args.quick else BATCH
    nets = load_pair("resnet20", args.weights, args.normalize)
    sides = [take(net, images) for net in nets]
    names = sides[0].layers
    a, b = (list(side.features.values()) for side in sides)
    exact = {"repsim": exact_cka(a, b), "packages": exact_cka(a, b, batch)}
    del a, b, sides  # room for what is timed
    ours: list[float] = []
    theirs: dict[str, list[float]] = {package: [] for package in PACKAGES}
    found: dict[str, list[Any]] = {}
    failed: dict[str, str] = {}
    values = np.empty(0)
    with tempfile.TemporaryDirectory() as folder:
        save_work(Path(folder), images, batch, names, ("resnet20", args.weights, args.normalize))
        python = peers_python(Path(args.peers_env), PACKAGES)
        for _ in range(args.rounds):
            start = time.perf_counter()
            values = repsim.compare(take(nets[0], images), take(nets[1], images), "cka").values
            ours.append(time.perf_counter() - start)
            for package in [p for p in PACKAGES if p not in failed]:
                try:
                    seconds, *found[package] = run_package(python, package, Path(folder))
                except RuntimeError as error:
                    failed[package] = str(error)
                    continue
                theirs[package].append(seconds)
    what = f"{len(names)} × {len(names)} layers, {len(images):,} images, networks included"
    table = Table(f"Other packages, batches of {batch}: {what}")
    for package in PACKAGES:
        if package in failed:
            table.row(package, "failed", failed[package])
            continue
        ratio = float(np.median(np.array(theirs[package]) / ours))
        note = f"{np.median(theirs[package]):.2f} s against {np.median(ours):.2f} s"
        table.row(f"{package} seconds / repsim seconds", ratio, note)
    table.row("error of repsim, all images at once", worst(values, exact["repsim"]))
    for package, (matrix, labels) in found.items():
        table.row(f"error of {package}, rows in order of execution", worst(matrix, exact["packages"]))
        place = [labels.index(name) for name in names]
        error = worst(matrix[np.ix_(place, place)], exact["packages"])
        table.row(f"error of {package}, rows found by its labels", error)


def save_work(
    folder: Path, images: repsim.ImageSet, batch: int, layers: Sequence[str], pair: tuple[str, str | None, str]
) -> None:
    """What `_peer.py` shall do; `pair` is what `load_pair` takes."""
    pixels = images.pixels(slice(None))
    torch.save({"pixels": pixels, "batch": batch, "layers": list(layers), "pair": pair}, folder / "work.pt")


def run_package(python: str, package: str, folder: Path) -> tuple[float, np.ndarray, list[str]]:
    """Its seconds, its matrix and the labels of the matrix; a RuntimeError with its last line where it fails."""
    script = Path(__file__).with_name("_peer.py")
    run = subprocess.run([python, script, package, folder], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError((run.stderr.strip().splitlines() or ["no message"])[-1])
    with np.load(folder / f"{package}.npz") as stored:
        return float(run.stdout.split()[-1]), stored["matrix"], stored["labels"].tolist()


def exact_cka(rows: Sequence[Tensor], cols: Sequence[Tensor], batch: int | None = None) -> np.ndarray:
    """Unbiased CKA in float64 by its definition; over batches, sums of HSIC are divided at the end."""
    n, count = len(rows[0]), len(rows)
    layers = [*rows, *cols]
    total = torch.zeros(len(layers), len(layers), dtype=torch.float64)
    for start in range(0, n, batch or n):
        part = [x[start : start + (batch or n)].double() for x in layers]
        part = [x - x.mean(0) for x in part]  # leaves the definition as it is, spares it cancellation
        m = len(part[0])
        sums = torch.stack([x @ x.sum(0) - x.square().sum(1) for x in part])  # of the Gram's rows, less the diagonal
        step = max(1, 50_000_000 // (len(layers) * m))
        tile = torch.empty(len(layers), min(step, m), m, dtype=torch.float64)
        for first in range(0, m, step):
            last = min(first + step, m)
            held = tile[:, : last - first]
            for x, s, t in zip(part, sums, held, strict=True):
                torch.mm(x[first:last], x.T, out=t)
                t -= (s[first:last, None] + s[None]) / (m - 2) - s.sum() / ((m - 1) * (m - 2))
                t.diagonal(first).zero_()
            flat = held.flatten(1)
            total += flat @ flat.T / (m * (m - 3))
    own = total.diagonal().sqrt()
    return (total / (own[:, None] * own))[:count, count:].numpy()


def worst(values: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(values - exact).max())


def memory_of(which: str, quick: bool) -> float:
    return in_fresh_process(__file__, "--child", which, *(["--quick"] if quick else []))


def memory(which: str, quick: bool) -> float:
    """Peak MB that `compare` adds, on random features of the same shapes."""
    small = Activations.from_arrays({"layer": torch.randn(50, 8)})
    repsim.compare(small, small, "cka")  # libraries load, threads start
    if which == "stored":
        a, b = pooled_random(300 if quick else 5_000)
    else:
        widths = [16_384] * 10 + [8_192] * 9 + [4_096] * 9
        n = 64 if quick else 1_000
        a, b = (
            Activations.from_arrays({f"layer {i}": torch.randn(n, w) for i, w in enumerate(widths)}) for _ in range(2)
        )
    return peak_added(lambda: repsim.compare(a, b, "cka"))


if __name__ == "__main__":
    main()
