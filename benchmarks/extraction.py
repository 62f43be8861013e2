"""Extraction: what hooks, buffers, batch sizes, decoding and importing cost.

    python benchmarks/extraction.py --cifar PATH --weights PATH
    python benchmarks/extraction.py                 random weights, random images, 2,000 generated JPEG files
    python benchmarks/extraction.py --quick         checks the script only

What is measured:

    buffers     Images per second of `extract` into memory, 28 layers of a ResNet-20 flattened (1.1 MB per image),
                against bare forward passes in batches of the same size; the same into buffers that have been written
                to before; and against keeping clones in hooks.
    batch size  `extract(batch_size=512)` against the fastest of 32 to 512, and the same for bare passes.
    attention   Images per second of `extract` with default settings against bare forward passes: a ViT and a Swin of
                timm with random weights, 512 random images of 64×64.
    dry runs    The passes that find out the axes, as a share of an extraction of 2,000 images by a ResNet-20.
    decoding    The second `load_data` of an image folder, from the cache of decoded images, against the first.
    import      Seconds of `import repsim` less those of `import torch`, each in fresh processes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import (
    CONVS_AND_BLOCKS,
    Table,
    arguments,
    calibrated,
    forward,
    interleave,
    load_images,
    load_pair,
)

import repsim
from repsim.features.extraction import CPU_ROWS, select_layers
from repsim.features.forward import TappedNetwork
from repsim.features.reductions import Reductions
from repsim.networks.network import Network

SIZES = (32, 64, 128, 256, 512)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-20; else random ones")
    args = parser.parse_args()
    with calibrated():
        images = load_images(args, 64 if args.quick else 1_024)
        net, _ = load_pair("resnet20", args.weights, args.normalize)
        buffers(net, images, args.rounds)
        batch_sizes(net, images, args.rounds)
        transformers(args.quick, args.rounds)
        dry(args.quick, args.rounds)
        decoding(args)
        importing(2 if args.quick else 5)


def buffers(net: Network, images: repsim.ImageSet, rounds: int) -> None:
    room = {layer: torch.zeros_like(x) for layer, x in take(net, images, CPU_ROWS).features.items()}
    times = interleave(
        {
            "extract": lambda: take(net, images, CPU_ROWS),
            "there": lambda: into(room, net, images, CPU_ROWS),
            "forward": lambda: forward(net, images, CPU_ROWS),
            "clones": lambda: clones(net, images, CPU_ROWS),
        },
        rounds,
        memory=len(images) / 256,
    )
    found = times.results["extract"]
    table = Table(f"Extraction: {len(found)} layers, {len(images):,} images, batches of {CPU_ROWS}")
    for against, what in (("forward", "bare forward passes"), ("clones", "clones kept in hooks")):
        rates = [len(images) / times.median(name) for name in ("extract", against)]
        note = f"{rates[0]:,.0f} against {rates[1]:,.0f} images per second"
        table.row(f"images per second of extract / of {what}", times.ratio(against, "extract"), note)
    rates = [len(images) / times.median(name) for name in ("there", "forward")]
    note = f"{rates[0]:,.0f} against {rates[1]:,.0f} images per second"
    table.row("the same of its hooks into buffers that are there already", times.ratio("forward", "there"), note)
    kept = times.results["clones"]
    same = all(torch.equal(x, kept[layer]) and torch.equal(x, room[layer]) for layer, x in found.features.items())
    table.row("bitwise equal to the clones", str(same))


def take(net: Network, images: repsim.ImageSet, batch: int) -> repsim.Activations:
    return repsim.extract(net, images, layers=CONVS_AND_BLOCKS, reduction="flatten", batch_size=batch, progress=False)


def into(room: dict[str, torch.Tensor], net: Network, images: repsim.ImageSet, batch: int) -> None:
    """What `extract` does, without the first touch of the memory that it fills."""
    at = 0

    def write(layer: str, rows: torch.Tensor) -> None:
        room[layer][at : at + len(rows)] = rows

    tapped = TappedNetwork(net, CONVS_AND_BLOCKS, Reductions("flatten"), None, "benchmark", None)
    tapped.look(lambda count: images.pixels(slice(0, count)))
    with tapped.recording(write) as run:
        for at in range(0, len(images), batch):
            run(images.pixels(slice(at, at + batch)))


def clones(net: Network, images: repsim.ImageSet, batch: int) -> dict[str, torch.Tensor]:
    """What one writes down first: hooks that keep clones, and one concatenation at the end."""
    parts: dict[str, list[torch.Tensor]] = {}

    def keeper(name: str) -> Callable[[torch.nn.Module, Any, torch.Tensor], None]:
        def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            parts.setdefault(name, []).append(output.flatten(1).clone())

        return keep

    modules = dict(net.net.named_modules())
    chosen, _ = select_layers(net, CONVS_AND_BLOCKS)
    handles = [modules[name].register_forward_hook(keeper(name)) for name in chosen]
    forward(net, images, batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(part) for name, part in parts.items()}


def batch_sizes(net: Network, images: repsim.ImageSet, rounds: int) -> None:
    sizes = [size for size in SIZES if size <= len(images)]
    extracts = {f"extract {size}": lambda size=size: take(net, images, size).layers for size in sizes}
    passes = {f"forward {size}": lambda size=size: forward(net, images, size) for size in sizes}
    times = interleave({**extracts, **passes}, rounds, memory=len(images) / 512)
    table = Table(f"Batch sizes {', '.join(map(str, sizes))}: {len(images):,} images")
    for kind in ("extract", "forward"):
        rates = {size: len(images) / times.median(f"{kind} {size}") for size in sizes}
        best = max(sizes, key=lambda size: rates[size])
        ratio = times.ratio(f"{kind} {best}", f"{kind} {sizes[-1]}")
        note = "images per second: " + ", ".join(f"{rate:,.0f}" for rate in rates.values())
        table.row(f"{kind}: images per second of batch {sizes[-1]} / of batch {best}, the best", ratio, note)


def transformers(quick: bool, rounds: int) -> None:
    import timm

    n = 8 if quick else 512
    pixels = torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    table = Table(f"Transformers: {n} images of 64×64, default layers and reduction, batches of {CPU_ROWS}")
    swin: dict[str, Any] = {"window_size": 4}
    for name, options in (("vit_tiny_patch16_224", {}), ("swin_tiny_patch4_window7_224", swin)):
        net = timm.create_model(name, img_size=64, **options).eval()
        times = interleave(
            {"extract": lambda net=net: whole(net, pixels), "bare": lambda net=net: bare(net, pixels)}, rounds
        )
        rates = [n / times.median(kind) for kind in ("extract", "bare")]
        note = (
            f"{rates[0]:,.0f} against {rates[1]:,.0f} images per second, {len(times.results['extract'].layers)} layers"
        )
        table.row(f"{name}: images per second of extract / of bare passes", times.ratio("bare", "extract"), note)


def whole(net: torch.nn.Module, pixels: torch.Tensor) -> repsim.Activations:
    return repsim.extract(net, pixels, progress=False)


def bare(net: torch.nn.Module, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        for part in pixels.split(CPU_ROWS):
            net(part)


def dry(quick: bool, rounds: int) -> None:
    n = 64 if quick else 2_000
    net, pixels = repsim.load_model("resnet20"), torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def look() -> None:
        TappedNetwork(net, None, Reductions("auto"), None, "benchmark", None).look(lambda count: pixels[:count])

    times = interleave({"dry": look, "extract": lambda: whole(net, pixels)}, rounds)
    table = Table(f"Dry runs: ResNet-20, {n:,} images, default layers")
    note = f"{times.median('dry'):.3f} s of {times.median('extract'):.1f} s"
    table.row("seconds of finding out the axes / of the whole extraction", times.ratio("dry", "extract"), note)


def decoding(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = args.cifar or write_jpegs(Path(folder) / "images", 100 if args.quick else 2_000)
        limit = 100 if args.quick else None
        cache = Path(folder) / "cache"

        def load(fresh: bool) -> repsim.ImageSet:
            if fresh:
                shutil.rmtree(cache, ignore_errors=True)
            return repsim.load_data(f"imagefolder:{path}", limit=limit, root=cache, progress=False)

        times = interleave({"first": lambda: load(True), "second": lambda: load(False)}, args.rounds)
        n = len(times.results["second"])
    table = Table(f"Image folder: {n:,} files")
    note = f"{times.median('first'):.2f} s against {times.median('second'):.3f} s"
    table.row("seconds of the first load / of the second", times.ratio("first", "second"), note)


def write_jpegs(folder: Path, n: int) -> Path:
    """Ten classes of 32×32 noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / f"class {i % 10}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def importing(rounds: int) -> None:
    def start(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    times = interleave({module: lambda module=module: start(module) for module in ("torch", "repsim")}, rounds)
    table = Table("Import, in fresh processes")
    note = f"{times.median('repsim'):.2f} s against {times.median('torch'):.2f} s"
    table.row(
        "seconds of import repsim less those of import torch", times.median("repsim") - times.median("torch"), note
    )


if __name__ == "__main__":
    main()
