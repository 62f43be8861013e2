"""Features too large to keep: CKA of networks that are run live, beside the cost of its arithmetic and other packages.

    python benchmarks/minibatch.py --cifar PATH --weights PATH --weights56 PATH --peers-env DIRECTORY
    python benchmarks/minibatch.py                    random weights and images, and no other packages
    python benchmarks/minibatch.py --quick            checks the script only

What is measured, forward passes included:

    minibatch   `cka_minibatch` in batches of 256 of the flattened convolutions and blocks of two networks: 28 layers of
                a ResNet-20 on 1,024 images, 82 layers of a ResNet-56 on 512. The floor is two bare forward passes, at
                the faster of the best batch size and batches of 64 with channels last, and all of both networks' Gram
                matrices (2 n · 256 · Σp operations each) at the best rate of a product of that shape in this run.
                By oneDNN and by `torch.mm`. One network twice is run, and its Gram matrices are made, once.
    packages    torch_cka and pytorch-cka on the same images, layers and batches, as in heatmap.py.
    exact       debiased CKA of all pairs of --exact images (2,000), ResNet-20, features computed again for every block.

Errors are the largest over all pairs of layers, against float64 and the literal definition on features that are kept.
Memory is the peak that the comparison adds in a fresh process.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from _measure import (
    CONVS_AND_BLOCKS,
    Table,
    Timings,
    arguments,
    best_batch,
    calibrated,
    forward,
    gemm_rates,
    have_at_hand,
    in_fresh_process,
    interleave,
    load_images,
    load_pair,
    peak_added,
    peers_python,
)
from heatmap import PACKAGES, exact_cka, run_package, save_work, worst

import repsim
from repsim.features.live_activations import LiveActivations, live
from repsim.networks.network import Network
from repsim.numerics.matmul import _onednn_works
from repsim.similarity import exact_cka as _exact
from repsim.similarity.matrix import SimilarityMatrix

BATCH = 256
#: GiB that are at hand when a clock starts.
MEMORY = 4


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-20; else random ones")
    parser.add_argument("--weights56", metavar="PATH", help="weights of a ResNet-56; else random ones")
    parser.add_argument("--peers-env", metavar="DIRECTORY", help="where to make the packages' environment")
    parser.add_argument("--exact", type=int, default=2_000, metavar="N", help="images of the exact comparison")
    parser.add_argument("--only-exact", action="store_true", help="leave the minibatches out")
    parser.add_argument("--child", choices=("resnet20", "resnet56", "exact"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(memory(args.child, args.quick))
        return
    with calibrated():
        if not args.only_exact:
            minibatch(args, "resnet20", args.weights, 1_024)
            minibatch(args, "resnet56", args.weights56, 512)
        exact(args)


def minibatch(args: argparse.Namespace, architecture: str, weights: str | None, n: int) -> None:
    images = load_images(args, 64 if args.quick else n)
    nets = load_pair(architecture, weights, args.normalize)
    batch, size = (32, 32) if args.quick else (BATCH, best_batch(nets[0], images))
    metric = f"cka_minibatch(batch_size={batch})"
    gram = torch.randn(batch, 16_384)
    before = gemm_rates(gram)

    def ours() -> SimilarityMatrix:
        return repsim.compare(run_live(nets[0], images), run_live(nets[1], images), metric)

    def twice() -> SimilarityMatrix:
        side = run_live(nets[0], images)
        return repsim.compare(side, side, metric)

    work: dict[str, Callable[[], object]] = {
        "oneDNN": ours,
        "mm": lambda: with_mm(ours),
        "twice": twice,
        "forward": lambda: [forward(net, images, size) for net in nets],
        "last": lambda: [forward_channels_last(net, images) for net in nets],
    }
    side = run_live(nets[0], images)
    seconds: dict[str, list[float]] = {}
    times = Timings(seconds)
    with other_packages(args, images, batch, side.layers, (architecture, weights, args.normalize)) as packages:
        for count in range(args.rounds):
            times = interleave(work, 1, warm=count == 0, memory=0 if args.quick else MEMORY)
            for name, spent in [*times.seconds.items(), *packages.run().items()]:
                seconds.setdefault(name, []).extend(spent)
    times = Timings(seconds, times.results)
    after = gemm_rates(gram)
    title = f"Minibatch CKA from images, {architecture}: {len(side)} × {len(side)} layers, total width"
    table = Table(f"{title} {sum(side.widths):,}, n = {len(images):,}, batches of {batch}")
    report(table, times, 2 * 2 * len(images) * batch * sum(side.widths), before, after)
    sides = [repsim.extract(net, images, layers=CONVS_AND_BLOCKS, reduction="flatten", progress=False) for net in nets]
    kept = [list(side.features.values()) for side in sides]
    truth = exact_cka(kept[0], kept[1], batch)
    for route in ("oneDNN", "mm"):
        table.row(f"error of repsim with {route}", worst(times.results[route].values, truth))
    for package, why in packages.failed.items():
        table.row(package, "failed", why)
    for package, (matrix, labels) in packages.found.items():
        for route in ("oneDNN", "mm"):
            note = f"{times.median(package):.2f} s against {times.median(route):.2f} s"
            table.row(f"{package} seconds / repsim seconds with {route}", times.ratio(package, route), note)
        place = [labels.index(name) for name in side.layers]
        table.row(f"error of {package}, rows in order of execution", worst(matrix, truth))
        table.row(f"error of {package}, rows found by its labels", worst(matrix[np.ix_(place, place)], truth))
    table.row("MB that the comparison adds", memory_of(architecture, args.quick))


def report(table: Table, times: Timings, operations: float, before: dict[str, float], after: dict[str, float]) -> None:
    """Ratios to the floors, and to one network twice."""
    passes = np.minimum(times.seconds["forward"], times.seconds["last"])
    for route, rate in (("oneDNN", "repsim"), ("mm", "mm")):
        best = max(before[rate], after[rate]) * 1e9
        floor = passes + operations / best
        ratio = float(np.median(np.array(times.seconds[route]) / floor))
        note = f"{times.median(route):.2f} s against {np.median(floor):.2f} s, at {best / 1e9:.0f} GFLOP/s"
        table.row(f"compare seconds / floor with {route}", ratio, note)
    note = f"{times.median('oneDNN'):.2f} s against {times.median('twice'):.2f} s"
    table.row("two networks / one network twice", times.ratio("oneDNN", "twice"), note)
    note = f"{times.median('forward'):.2f} s, {times.median('last'):.2f} s with channels last"
    table.row("bare forward passes, seconds", float(np.median(passes)), note)


def run_live(net: Network, images: repsim.ImageSet) -> LiveActivations:
    return live(net, images, layers=CONVS_AND_BLOCKS, progress=False)


def forward_channels_last(net: Network, images: repsim.ImageSet) -> None:
    with torch.no_grad():
        for start in range(0, len(images), 64):
            net(images.pixels(slice(start, start + 64)).contiguous(memory_format=torch.channels_last))


def with_mm(work: Callable[[], SimilarityMatrix]) -> SimilarityMatrix:
    """Without oneDNN's products."""
    os.environ["REPSIM_GEMM"] = "mm"
    _onednn_works.cache_clear()
    try:
        return work()
    finally:
        del os.environ["REPSIM_GEMM"]
        _onednn_works.cache_clear()


class Packages:
    """Other packages, each timed in a process of its own; one that fails is not asked again."""

    def __init__(self, python: str | None, folder: Path) -> None:
        self._python, self._folder = python, folder
        self.found: dict[str, tuple[np.ndarray, list[str]]] = {}
        self.failed: dict[str, str] = {}

    def run(self) -> dict[str, list[float]]:
        """One round: package -> seconds."""
        seconds = {}
        for package in PACKAGES:
            if self._python is None or package in self.failed:
                continue
            try:
                have_at_hand(MEMORY)
                spent, matrix, labels = run_package(self._python, package, self._folder)
                seconds[package], self.found[package] = [spent], (matrix, labels)
            except RuntimeError as error:
                self.failed[package] = str(error)
        return seconds


@contextlib.contextmanager
def other_packages(
    args: argparse.Namespace,
    images: repsim.ImageSet,
    batch: int,
    layers: Sequence[str],
    pair: tuple[str, str | None, str],
) -> Iterator[Packages]:
    with tempfile.TemporaryDirectory() as folder:
        if args.peers_env:
            save_work(Path(folder), images, batch, layers, pair)
        yield Packages(peers_python(Path(args.peers_env), PACKAGES) if args.peers_env else None, Path(folder))


def exact(args: argparse.Namespace) -> None:
    n = 64 if args.quick else args.exact
    images = load_images(args, n)
    nets = load_pair("resnet20", args.weights, args.normalize)
    side = run_live(nets[0], images)
    gram = torch.randn(min(n, 256), 16_384), torch.randn(min(n, 1_000), 16_384)
    rate = gemm_rates(*gram)["repsim"] * 1e9
    times = interleave(
        {
            "compare": lambda: repsim.compare(run_live(nets[0], images), run_live(nets[1], images), "cka"),
            "forward": lambda: [forward_channels_last(net, images) for net in nets],
        },
        1,
        warm=False,
        memory=0 if args.quick else MEMORY,
    )
    table = Table(f"Exact CKA from images, computed again: {len(side)} × {len(side)} layers, n = {n:,}")
    floor = times.median("forward") + 2 * n * n * sum(side.widths) / rate
    note = f"{times.median('compare'):.2f} s against {floor:.2f} s, at {rate / 1e9:.0f} GFLOP/s"
    table.row(
        "compare seconds / forward passes and upper halves of Gram matrices", times.median("compare") / floor, note
    )
    few = images.take(range(min(n, 600)))
    sides = [repsim.extract(net, few, layers=CONVS_AND_BLOCKS, reduction="flatten", progress=False) for net in nets]
    truth = exact_cka(list(sides[0].features.values()), list(sides[1].features.values()))
    with smaller_blocks():
        found = repsim.compare(run_live(nets[0], few), run_live(nets[1], few), "cka")
    table.row(f"error of repsim, n = {len(few)} in several blocks", worst(found.values, truth))
    table.row("MB that the comparison adds", memory_of("exact", args.quick))


@contextlib.contextmanager
def smaller_blocks() -> Iterator[None]:
    """Blocks of some hundred samples, so that networks are run again for few of them as well."""
    before, _exact._BUDGET = _exact._BUDGET, 2**30
    yield
    _exact._BUDGET = before


def memory_of(which: str, quick: bool) -> float:
    return in_fresh_process(__file__, "--child", which, *(["--quick"] if quick else []))


def memory(which: str, quick: bool) -> float:
    """Peak MB that `compare` adds, networks with random weights on random images."""
    architecture = "resnet20" if which == "exact" else which
    args = argparse.Namespace(cifar=None)
    n = 64 if quick else 2_000 if which == "exact" else 512
    images, nets = load_images(args, n), load_pair(architecture, None, "imagenet")
    few = images.take(range(16))
    warm = repsim.extract(nets[0], few, progress=False)
    repsim.compare(warm, warm, "cka")  # libraries load, threads start
    metric = "cka" if which == "exact" else f"cka_minibatch(batch_size={32 if quick else BATCH})"
    return peak_added(lambda: repsim.compare(run_live(nets[0], images), run_live(nets[1], images), metric))


if __name__ == "__main__":
    main()
