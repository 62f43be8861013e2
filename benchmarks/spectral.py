"""CCA, SVCCA, PWCCA, GULP, Procrustes: all pairs of 20 layers of a ResNet-56, and one pair by itself.

The floor of a matrix is what cannot be left out, measured in the same run on the same features: a float64 Gram
matrix, its eigenvectors and one product per layer (the bases); the upper half of all products of bases at the rate of
the fastest product; and, for measures that need them, the singular values of each product.

    python benchmarks/spectral.py --cifar cifar/test --weights resnet56.th
"""

import argparse
import time
import warnings

import numpy as np
import torch
from _measure import Table, arguments, interleave, load_images, load_pair

import repsim
from repsim import Activations, CautionWarning
from repsim.numerics.matmul import matmul_nt

METRICS = ("mean_cca", "svcca", "pwcca", "gulp", "procrustes")
#: Singular values are part of the floor; for PWCCA the vectors too.
SINGULAR = {"mean_cca": "values", "svcca": "values", "procrustes": "values", "pwcca": "vectors", "gulp": None}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-56; else random ones")
    args = parser.parse_args()
    torch.manual_seed(0)
    warnings.simplefilter("ignore", CautionWarning)
    layers = features(args)
    every(args, layers)
    one_pair(args, layers)


def features(args: argparse.Namespace) -> Activations:
    """20 blocks of a ResNet-56: 11 of 1,024 features and 9 of 512."""
    images = load_images(args, 600 if args.quick else 10_000)
    net = load_pair("resnet56", args.weights, args.normalize)[0]
    found = {}
    for stage, size, count in (("layer1", 8, 5), ("layer2", 4, 9), ("layer3", 4, 6)):
        blocks = [f"{stage}.{i}" for i in range(count)]
        side = repsim.extract(net, images, layers=blocks, reduction=f"pool:{size}")
        found |= dict(side.features)
    return Activations(found, name="resnet56")


def every(args: argparse.Namespace, layers: Activations) -> None:
    widths = [x.shape[1] for x in layers.features.values()]
    n = layers.n
    exact = reference(layers)
    table = Table(f"{len(layers)} layers, all pairs, total width {sum(widths):,}, n = {n:,}")
    for name in METRICS:
        times = interleave(
            {
                "repsim": lambda name=name: repsim.compare(layers, layers, name),
                "floor": lambda name=name: floor(layers, name),
            },
            args.rounds,
            warm=args.quick,
        )
        note = f"{times.median('repsim'):.1f} s against {times.median('floor'):.1f} s"
        table.row(f"{name}: seconds / floor", times.ratio("repsim", "floor"), note)
        found = times.results["repsim"].values
        table.row(f"{name}: largest error against float64", float(np.nanmax(np.abs(found - exact[name]))))


def floor(layers: Activations, name: str) -> None:
    """Does the work that cannot be left out."""
    bases = []
    for x in layers.features.values():
        x = x.double()
        x -= x.mean(0)
        s, v = torch.linalg.eigh(x.T @ x)
        keep = s > 1e-14 * s[-1]
        basis = (x @ v[:, keep]) / s[keep].sqrt()
        if name == "svcca":
            share = s[keep].flip(0).cumsum(0) / s[keep].sum()
            basis = basis.flip(1)[:, : int((share < 0.99).sum()) + 1]
        bases.append(basis.T.contiguous().float())
    together = torch.cat(bases)
    start = 0
    for i, basis in enumerate(bases):
        blocks = matmul_nt(basis, together[start:]).split([len(b) for b in bases[i:]], 1)
        start += len(basis)
        for block in blocks:
            if SINGULAR[name] == "values":
                torch.linalg.svdvals(block.double())
            elif SINGULAR[name] == "vectors":
                torch.linalg.svd(block.double(), full_matrices=False)


def reference(layers: Activations) -> dict[str, np.ndarray]:
    """Float64 throughout, from QR and SVD; some of the pairs, NaN elsewhere."""
    names = layers.layers
    bases, values, coordinates = [], [], []
    for name in names:
        x = layers[name].double()
        x = x - x.mean(0)
        q, r = torch.linalg.qr(x)
        u, s, _ = torch.linalg.svd(r, full_matrices=False)
        level = torch.linalg.vector_norm(layers[name].double())
        keep = s > torch.finfo(torch.float32).eps * torch.maximum(s[0], level)
        bases.append(q @ u[:, keep])
        values.append(s[keep] / torch.linalg.vector_norm(s))
        coordinates.append(bases[-1].T @ x)
    found = {name: np.full((len(names), len(names)), np.nan) for name in METRICS}
    for i in range(0, len(names), 4):
        for j in range(0, len(names), 3):
            m = bases[i].T @ bases[j]
            left, rho, _ = torch.linalg.svd(m, full_matrices=False)
            rho = rho.clamp_max(1)
            found["mean_cca"][i, j] = float(rho.sum() / min(m.shape))
            weight = (left.T @ coordinates[i]).abs().sum(1)
            found["pwcca"][i, j] = float((weight * rho).sum() / weight.sum())
            most = m[: leading(values[i]), : leading(values[j])]
            found["svcca"][i, j] = float(torch.linalg.svdvals(most).clamp_max(1).sum() / min(most.shape))
            a, b = (v.square() / (v.square() + 0.01) for v in (values[i], values[j]))
            square = a.square().sum() + b.square().sum() - 2 * a @ m.square() @ b
            found["gulp"][i, j] = float(square.clamp_min(0).sqrt()) if i != j else 0.0
            nuclear = torch.linalg.svdvals(values[i][:, None] * m * values[j]).sum()
            found["procrustes"][i, j] = float((2 - 2 * nuclear).clamp_min(0).sqrt()) if i != j else 0.0
    return found


def leading(values: torch.Tensor) -> int:
    """How many singular values have 0.99 of the variance."""
    share = values.square().cumsum(0) / values.square().sum()
    return int((share < 0.99).sum()) + 1


def one_pair(args: argparse.Namespace, layers: Activations) -> None:
    table = Table(f"One pair of layers, mean CCA, n = {layers.n:,}")
    for names in (("layer2.1", "layer2.2"), ("layer1.2", "layer3.2")):
        a, b = (Activations({name: layers[name]}) for name in names)
        times = interleave(
            {"repsim": lambda a=a, b=b: repsim.compare(a, b, "mean_cca"), "plain": lambda a=a, b=b: plain(a, b)},
            args.rounds,
            warm=args.quick,
        )
        note = f"{times.median('repsim'):.2f} s against {times.median('plain'):.2f} s"
        table.row(f"{' ~ '.join(names)}: seconds / a plain QR and SVD", times.ratio("repsim", "plain"), note)
        error = abs(float(times.results["repsim"].values[0, 0]) - times.results["plain"])
        table.row("difference", error)


def plain(a: Activations, b: Activations) -> float:
    """What one writes down first, in float64."""
    bases = []
    for side in (a, b):
        x = next(iter(side.features.values())).double()
        x = x - x.mean(0)
        q, _ = torch.linalg.qr(x)
        bases.append(q)
    return float(torch.linalg.svdvals(bases[0].T @ bases[1]).mean())


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - start:.0f} s in all")
