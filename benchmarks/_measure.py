"""What the benchmark scripts share: interleaved timing, a calibration, memory, a table, the inputs."""

import argparse
import contextlib
import gc
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import repsim
from repsim.networks.network import Network
from repsim.numerics.matmul import _onednn_works, matmul_nt

#: Every convolution and every residual block, 28 layers of a ResNet-20 and 82 of a ResNet-56.
CONVS_AND_BLOCKS = ["**.conv*", "layer*.*"]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: checks that the script runs, nothing else")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds, of which the median counts")
    parser.add_argument("--cifar", metavar="PATH", help="image folder of 32×32 images; else random images")
    parser.add_argument("--normalize", default="imagenet", help="normalisation of the weight files")
    parser.add_argument("--root", default="data", help="where decoded images are kept")
    return parser


@dataclass
class Timings:
    """Seconds of several pieces of work, round by round, and what each returned last."""

    seconds: dict[str, list[float]]
    results: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, above: str, below: str) -> float:
        """Median over rounds of one piece's seconds divided by another's in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds[above], self.seconds[below], strict=True))

    def __add__(self, other: "Timings") -> "Timings":
        """The same rounds with more work in each."""
        added = {
            name: [a + b for a, b in zip(times, other.seconds[name], strict=True)]
            for name, times in self.seconds.items()
        }
        return Timings(added)


def interleave(work: Mapping[str, Callable[[], Any]], rounds: int, *, warm: bool = True, memory: float = 0) -> Timings:
    """Runs every piece of work once per round, one after the other, so that drift meets all alike.

    Args:
        work: Name -> what to time.
        rounds: How often.
        warm: Run everything once before, untimed.
        memory: GiB that are made sure to be at hand before each piece.
    """
    found = Timings({name: [] for name in work})
    for count in range(rounds + warm):
        for name, run in work.items():
            found.results.pop(name, None)  # the memory of the last round is this round's to use
            gc.collect()
            have_at_hand(memory)
            start = time.perf_counter()
            result = run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            found.results[name] = result
            if count >= warm:
                found.seconds[name].append(seconds)
    return found


def have_at_hand(memory: float) -> None:
    """Touches and frees some GiB.

    The host of a virtual machine takes memory back that has been idle for some seconds. Its first touch then costs any
    program 2 s per GiB here, and 0.1 s otherwise, which is no property of what is measured.
    """
    np.empty(int(memory * 2**30), np.uint8)[::4096] = 0


def gemm_rates(a: Tensor | None = None, b: Tensor | None = None, *, repeats: int = 8) -> dict[str, float]:
    """GFLOP/s of `a @ b.T` in float32 by `torch.mm` and by repsim's product: the best of a few."""
    a = torch.randn(2048, 2048) if a is None else a
    b = a if b is None else b
    rates = {}
    for name, product in (("mm", lambda: torch.mm(a, b.T)), ("repsim", lambda: matmul_nt(a, b))):
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
        rates[name] = 2 * len(a) * len(b) * a.shape[1] / best / 1e9
    return rates


@contextlib.contextmanager
def calibrated() -> Iterator[None]:
    """Prints the machine, and the rate of one matrix product before and after."""
    print(machine())
    before = gemm_rates(repeats=20)
    yield
    after = gemm_rates(repeats=20)
    parts = []
    for name in before:
        drift = after[name] / before[name] - 1
        advice = ", so repeat this run" if abs(drift) > 0.15 else ""
        parts.append(f"{name} {before[name]:.0f} -> {after[name]:.0f} GFLOP/s (drift {drift:+.0%}{advice})")
    print("calibration, 2048³ float32: " + "; ".join(parts))


def machine() -> str:
    """The facts that a timing depends on, in one line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    route = "oneDNN" if _onednn_works() else "torch.mm"
    return (
        f"{os.cpu_count()} cores ({torch.get_num_threads()} threads), {model}{gpu}, python "
        f"{platform.python_version()}, torch {torch.__version__}, GEMM back-end of repsim: {route}"
    )


class Table:
    """Rows of what was measured, its value, and what to know of it; printed as they come."""

    def __init__(self, title: str) -> None:
        print(f"\n{title}\n{'-' * len(title)}")

    def row(self, what: str, value: float | str, note: str = "") -> None:
        shown = value if isinstance(value, str) else number(value)
        print(f"{what:<72}{shown:>10}  {note}".rstrip(), flush=True)


def number(value: float) -> str:
    """Three digits, whatever the size."""
    size = abs(value)
    if value == 0 or 0.01 <= size < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1000 <= size < 1e7 else f"{value:.1e}"


def peak_added(work: Callable[[], Any]) -> float:
    """MB by which this process's resident memory rises at most while `work` runs. Call it in a fresh process."""

    def status(key: str) -> float:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = status("VmRSS:")
        work()
        return status("VmHWM:") - before
    except OSError:
        scale = 2**20 if sys.platform == "darwin" else 2**10
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
        work()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale - before


def in_fresh_process(script: str, *options: str) -> float:
    """The number that a script prints last, run anew."""
    run = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{script} {' '.join(options)} failed:\n{run.stderr}")
    return float(run.stdout.split()[-1])


def peers_python(folder: Path, packages: Mapping[str, str]) -> str:
    """An environment that has the packages (name in the index -> module), and the rest from the one that runs this."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    check = "; ".join(f"import {module}" for module in packages.values())
    if python.exists() and subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
        return str(python)
    venv.EnvBuilder(with_pip=True, clear=True).create(folder)
    where = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    )
    # PyTorch is not installed again: the other environment's packages are looked up last.
    shared = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    shared.append(str(Path(repsim.__file__).parent.parent))
    (Path(where.strip()) / "shared.pth").write_text("\n".join(shared) + "\n")
    for package in packages:
        run = subprocess.run([python, "-m", "pip", "install", "--quiet", package], capture_output=True, text=True)
        if run.returncode:
            print(f"pip could not install {package}: {(run.stderr.strip().splitlines() or ['no message'])[-1]}")
    return str(python)


def load_images(args: argparse.Namespace, n: int) -> repsim.ImageSet:
    """The first choice is the folder of `--cifar`, n images of it; else random pixels with random labels."""
    if args.cifar:
        return repsim.load_data(f"imagefolder:{args.cifar}", limit=n, root=args.root, progress=False)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (n,), generator=generator)
    return repsim.ImageSet(pixels, labels, tuple(map(str, range(n))), "random")


def load_pair(architecture: str, weights: str | None, normalize: str) -> tuple[Network, Network]:
    """Two networks: one weight file loaded twice, or two sets of random weights."""
    if weights is None:
        first, second = (repsim.load_model(architecture, normalize=normalize, seed=s) for s in (0, 1))
    else:
        first, second = (
            repsim.load_model(architecture, checkpoint=weights, normalize=normalize, name=f"{architecture}, {side}")
            for side in ("rows", "columns")
        )
    return first, second


def forward(net: Network, images: repsim.ImageSet, batch: int) -> None:
    """A bare pass over all images: nothing is kept."""
    with torch.no_grad():
        for start in range(0, len(images), batch):
            net(images.pixels(slice(start, start + batch)))


def best_batch(net: Network, images: repsim.ImageSet, sizes: Sequence[int] = (32, 64, 128, 256, 512)) -> int:
    """The batch size of the fastest bare pass."""
    times = interleave({str(size): lambda size=size: forward(net, images, size) for size in sizes}, 3)
    return min(sizes, key=lambda size: times.median(str(size)))
