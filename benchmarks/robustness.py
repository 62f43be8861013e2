"""Attacks, certificates and trainings beside the bare passes that they are made of.

    python benchmarks/robustness.py --cifar PATH --weights PATH --peers-env DIRECTORY
    python benchmarks/robustness.py                 random weights and images, and no other package
    python benchmarks/robustness.py --quick         checks the script only

What is measured, with a ResNet-20:

    attack      `adversarial` with PGD of 10 steps, linf 8/255, batches of 64, against bare: 10 forward passes of the
                same batches, each followed by a backward pass to the input alone. It starts at random, checks its
                result and counts right answers before and after; torchattacks does the steps in the same batches.
    certify     Noisy copies per second of `certify` against those of bare forward passes over noise in memory.
    epochs      One epoch of each recipe: seconds beside those of the standard recipe, and images whose gradient is
                taken for one image of the data, which the record of each training counts.
    data        Images per second of an epoch of the standard recipe with crops and flips, against the same steps on
                random tensors that are in memory already.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import Table, arguments, calibrated, interleave, load_images, load_pair, peers_python

import repsim
from repsim.features.extraction import CPU_ROWS
from repsim.networks.answers import frozen
from repsim.networks.network import Network
from repsim.recipes import RECIPES, Recipe, train
from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.smoothing import certify

STEPS, EPS, BATCH = 10, 8 / 255, 64


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-20; else random ones")
    parser.add_argument("--peers-env", metavar="DIRECTORY", help="where to make torchattacks' environment")
    parser.add_argument("--only", choices=("attack", "certify", "epochs", "data"), help="one part alone")
    args = parser.parse_args()
    parts = {"attack": attack, "certify": certificates, "epochs": epochs, "data": bottleneck}
    with calibrated():
        for name, part in parts.items():
            if args.only in (None, name):
                part(args)


def attack(args: argparse.Namespace) -> None:
    images = load_images(args, 128 if args.quick else 2_000)
    net, _ = load_pair("resnet20", args.weights, args.normalize)
    times = interleave({"ours": lambda: moved(net, images), "bare": lambda: bare_attack(net, images)}, args.rounds)
    record = times.results["ours"].record
    table = Table(f"PGD-{STEPS} adversarial set of {len(images):,} images")
    note = f"{times.median('ours'):.1f} s against {times.median('bare'):.1f} s"
    table.row("seconds / bare forward and backward passes", times.ratio("ours", "bare"), note)
    accuracies = [record[f"{kind}_accuracy"] for kind in ("clean", "adversarial")]
    table.row("accuracy before and after", " ".join(f"{a:.3f}" for a in accuracies))
    if not args.peers_env:
        return
    with tempfile.TemporaryDirectory() as folder:
        work = {
            "weights": args.weights,
            "normalize": args.normalize,
            "x": images.pixels(slice(None)),
            "y": images.labels,
        }
        torch.save(work, Path(folder) / "work.pt")
        python = peers_python(Path(args.peers_env), {"torchattacks": "torchattacks"})
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours += interleave({"ours": lambda: moved(net, images)}, 1, warm=False).seconds["ours"]
            run = subprocess.run([python, __file__, "torchattacks", folder], capture_output=True, text=True)
            if run.returncode:
                table.row("torchattacks", "failed", (run.stderr.splitlines() or [""])[-1])
                return
            theirs.append([float(text) for text in run.stdout.split()[-2:]])
    ratio = sorted(t[0] / o for t, o in zip(theirs, ours, strict=True))[len(ours) // 2]
    table.row("torchattacks' seconds / repsim's", ratio, f"{theirs[-1][0]:.1f} s; accuracy after {theirs[-1][1]:.3f}")


def moved(net: Network, images: repsim.ImageSet) -> repsim.ImageSet:
    settings = {"steps": STEPS, "step_size": 2 / 255, "batch_size": BATCH, "progress": False}
    return adversarial(net, images, f"linf:{EPS}", **settings)


def bare_attack(net: Network, images: repsim.ImageSet) -> None:
    with frozen(net):
        for first in range(0, len(images), BATCH):
            rows = slice(first, first + BATCH)
            x, y = images.pixels(rows).requires_grad_(), images.labels[rows]
            for _ in range(STEPS):
                torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x)


def torchattacks_run(folder: Path) -> None:
    """Prints the seconds of PGD by torchattacks, and the accuracy that it leaves."""
    library = importlib.import_module("torchattacks")
    work = torch.load(folder / "work.pt")
    net, _ = load_pair("resnet20", work["weights"], work["normalize"])
    made = library.PGD(net, eps=EPS, alpha=2 / 255, steps=STEPS, random_start=True)
    x, y = work["x"], work["y"]
    made(x[:BATCH], y[:BATCH])

    def run() -> torch.Tensor:
        return torch.cat([made(a, b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)])

    times = interleave({"run": run}, 1, warm=False)
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in times.results["run"].split(BATCH)]) == y
    print(times.median("run"), float(right.double().mean()))


def certificates(args: argparse.Namespace) -> None:
    images = load_images(args, 10 if args.quick else 12)
    images = images.take(torch.arange(1 if args.quick else 2))
    draws = 200 if args.quick else 10_000
    net, _ = load_pair("resnet20", args.weights, args.normalize)
    noise = 0.25 * torch.randn(1024, *images.images.shape[1:])
    work = {
        "certify": lambda: certify(net, images, 0.25, n0=100, n=draws, progress=False),
        "bare": lambda: bare_forward(net, noise, len(images) * (draws + 100)),
    }
    times = interleave(work, args.rounds)
    table = Table(f"CERTIFY, {draws:,} copies per image")
    rates = [len(images) * (draws + 100) / times.median(name) for name in work]
    note = f"{rates[0]:,.0f} against {rates[1]:,.0f} copies per second"
    table.row("copies per second / those of bare forward passes", times.ratio("bare", "certify"), note)


def bare_forward(net: Network, noise: torch.Tensor, copies: int) -> None:
    with torch.no_grad():
        for start in range(0, copies, len(noise)):
            for batch in noise[: copies - start].split(CPU_ROWS):
                net(batch)


#: What one epoch of a recipe is compared by: the settings of CIFAR-10 at the size of a ResNet-20.
EPOCH: dict[str, Any] = {
    "architecture": "resnet20",
    "normalize": "cifar10",
    "batch_size": 128,
    "epochs": 1,
    "eval_eps": 0.0,
    "certify_images": 0,
}
OF_RECIPES: dict[str, dict[str, float]] = {
    "standard": {},
    "noise": {"sigma": 0.25},
    "mixup": {},
    "cutmix": {},
    "fast": {"eps": EPS, "step_size": 10 / 255},
    "free": {"eps": EPS, "replays": 8, "epochs": 8},  # eight passes make one, as each batch is replayed eight times
    "pgd": {"eps": EPS, "steps": 7, "step_size": 2 / 255},
    "trades": {"eps": EPS, "steps": 10, "step_size": 0.007},
}


def recipe(name: str) -> Recipe:
    return RECIPES[name](**{**EPOCH, **OF_RECIPES[name]})


def epochs(args: argparse.Namespace) -> None:
    images = load_images(args, 256 if args.quick else 2_560)
    few = images.take(torch.arange(64))

    def run(name: str) -> int:
        made = train(recipe(name), images, few, seed=0, name=name, progress=False)
        return made.record["cost"]["gradient_evaluations"]

    run("standard")  # the first training of a process is slower than the others
    times = interleave({name: lambda name=name: run(name) for name in OF_RECIPES}, args.rounds, warm=False)
    table = Table(f"One epoch of each recipe, {len(images):,} images")
    for name in OF_RECIPES:
        note = f"{times.results[name] / len(images):.2f} gradients per image"
        table.row(f"{name}: seconds / the standard recipe's", times.ratio(name, "standard"), note)


def bottleneck(args: argparse.Namespace) -> None:
    images = load_images(args, 256 if args.quick else 2_560)
    few = images.take(torch.arange(64))
    chosen = RECIPES["standard"].preset("cifar10", epochs=1, decay_epochs=(), eval_eps=0.0)
    times = interleave(
        {
            "ours": lambda: train(chosen, images, few, seed=0, name="net", progress=False).record["cost"],
            "bare": lambda: bare_epoch(chosen, len(images)),
        },
        args.rounds,
    )
    table = Table(f"The standard recipe on CIFAR-10, an epoch of {len(images):,} images")
    note = (
        f"{times.median('ours'):.1f} s, building and scoring the network included, against {times.median('bare'):.1f} s"
    )
    table.row("images per second / with random tensors in memory", times.ratio("bare", "ours"), note)


def bare_epoch(chosen: Recipe, images: int) -> None:
    """The same steps of the same optimizer on one batch that is in memory."""
    net = repsim.load_model(chosen.architecture, normalize=chosen.normalize).to(memory_format=torch.channels_last)
    settings = {"momentum": chosen.momentum, "weight_decay": chosen.weight_decay, "nesterov": True}
    optimizer = torch.optim.SGD(net.train().parameters(), lr=chosen.learning_rate, **settings)
    x, y = torch.rand(chosen.batch_size, 3, 32, 32), torch.randint(0, 10, (chosen.batch_size,))
    for _ in range(images // chosen.batch_size):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    if sys.argv[1:2] == ["torchattacks"]:
        torchattacks_run(Path(sys.argv[2]))
    else:
        main()
