"""Scale: features on disk against features in memory, and memory that does not grow.

    python benchmarks/scale.py --cifar PATH --weights PATH
    python benchmarks/scale.py                      random weights and images
    python benchmarks/scale.py --quick              checks the script only

What is measured:

    disk        GiB per second of one file, written in the blocks that a store is written in, each synced.
    extraction  Images per second of `extract(store=)` against `extract` into memory, 28 layers of a ResNet-20 flattened
                (1.1 MB per image), batches of 256; and the same averaged over positions (4 kB per image), where the
                network decides.
    again       A finished store taken again, which runs no network, against the first extraction.
    metric      A second metric, minibatch CKA of all pairs, from a store that was just opened, checksums included,
                against features in memory; the files are in the system's cache.
    tall        Debiased CKA of two sides of two layers of 512 features from a store, against its matrix products;
                and the most memory that is no cached file, less that of the imports.
    samples     Peak memory of an extraction from a data set that makes its images, for 2,000 and 8,000 of them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import CONVS_AND_BLOCKS, Table, arguments, calibrated, interleave, load_images, load_pair

import repsim
from repsim.numerics.matmul import matmul_nt

#: A data set that makes its images, run in a fresh process: peak memory in MiB.
SAMPLES = """
import sys, torch, repsim
n = int(sys.argv[1])
class Made(torch.utils.data.Dataset):
    def __len__(self): return n
    def __getitem__(self, i): return torch.full((3, 64, 64), i / n), i % 3
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.ReLU(), torch.nn.AvgPool2d(3))
repsim.extract(net, Made(), reduction="flatten", layers="2", store=sys.argv[2], progress=False)
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
"""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-20; else random ones")
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=100_000, help="of the tall store")
    parser.add_argument("--disk", type=Path, help="a folder on the disk to measure; default: that of temporary files")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.disk))
    try:
        with calibrated():
            disk(folder, 2**20 if args.quick else 2**28)
            extraction(args, folder)
            tall(2_000 if args.quick else args.rows, folder, args.rounds)
            samples(*((20, 80) if args.quick else (2_000, 8_000)), folder)
    finally:
        shutil.rmtree(folder)


def disk(folder: Path, size: int) -> None:
    block, table = os.urandom(2**18), Table("The disk")
    start = time.perf_counter()
    with open(folder / "plain", "wb") as stream:
        for _ in range(max(1, size // 2**22)):
            for _ in range(16):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
    table.row("GiB per second, synced every 4 MiB", size / 2**30 / (time.perf_counter() - start))


def extraction(args: argparse.Namespace, folder: Path) -> None:
    images = load_images(args, 32 if args.quick else args.images)
    net, _ = load_pair("resnet20", args.weights, args.normalize)
    count = iter(range(10**6))

    def take(reduction: str, store: Path | None) -> repsim.Activations:
        options: dict[str, Any] = {"layers": CONVS_AND_BLOCKS, "reduction": reduction, "progress": False}
        return repsim.extract(net, images, store=store, **options)

    def anew(reduction: str) -> None:
        place = folder / f"{next(count)}"
        take(reduction, place)
        shutil.rmtree(place)

    for reduction in ("flatten", "mean"):
        kept = folder / reduction
        memory = take(reduction, None)
        take(reduction, kept)
        times = interleave(
            {
                "memory": lambda reduction=reduction: take(reduction, None),
                "store": lambda reduction=reduction: anew(reduction),
                "again": lambda reduction=reduction, kept=kept: take(reduction, kept),
                "metric, memory": lambda memory=memory: repsim.compare(memory, memory, "cka_minibatch"),
                "metric, store": lambda kept=kept: from_store(kept),
            },
            args.rounds,
        )
        size = sum(memory[layer].nbytes for layer in memory)
        table = Table(f"Extraction, {reduction}, {len(images):,} images, {size / 2**20:,.0f} MiB")
        rate = size / 2**30 / times.median("store")
        table.row("images per second into a store / into memory", times.ratio("memory", "store"), "goal 0.8")
        table.row("GiB per second into a store", rate)
        table.row("seconds of a store taken again / of the first extraction", times.ratio("again", "store"))
        told = f"{times.median('metric, store'):.2f} s"
        table.row("second metric: memory's seconds / a store's", times.ratio("metric, memory", "metric, store"), told)


def from_store(folder: Path) -> repsim.SimilarityMatrix:
    side = repsim.Activations.load(folder)
    return repsim.compare(side, side, "cka_minibatch")


def tall(n: int, folder: Path, rounds: int) -> None:
    places = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        layers = {name: torch.randn(n, 512, generator=generator) for name in ("one", "two")}
        places.append(repsim.Activations.from_arrays(layers).save(folder / f"tall{seed}"))
        del layers
    x = torch.randn(min(n, 20_000), 512)

    def stored() -> repsim.SimilarityMatrix:
        a, b = (repsim.Activations.load(place) for place in places)
        return repsim.compare(a, b, "cka")

    def products() -> None:
        for _ in range(8):  # four of pairs, four of layers with themselves
            matmul_nt(x.T, x.T)

    times = interleave({"store": stored, "products": products}, rounds)
    table = Table(f"Tall layers: {n:,} rows of 512, 2 × 2 layers, {4 * n * 2048 / 2**20:,.0f} MiB on disk")
    floor = times.median("products") * n / len(x)
    table.row("seconds of CKA from a store / of its products", times.median("store") / floor, "goal 1.5")
    table.row("MiB of memory added, cached files left out", anonymous(stored), "goal 1,024")


def anonymous(work: Callable[[], Any]) -> float:
    """The most MiB of memory that is no file's, while something is done, less what there was before."""

    def now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before, most, done = now(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, now())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(0, most - before) / 1024


def samples(few: int, many: int, folder: Path) -> None:
    table = Table("Peak memory of an extraction into a store, images of 48 kB made one by one")
    for n in (few, many):
        words = [sys.executable, "-c", SAMPLES, f"{n}", str(folder / f"samples{n}")]
        peak = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        table.row(f"MiB, {n:,} images", peak)


if __name__ == "__main__":
    main()
