"""What 200 bootstrap resamples of a whole CKA matrix cost, beside the matrix itself.

28 layers of a ResNet-20, flattened (total width 274,432), 2,000 images, one network against itself. Resampled values of
a few pairs are held against the definition: debiased CKA with weights, computed in float64 from whole Gram matrices.

    python benchmarks/bootstrap.py --cifar cifar/test --weights resnet20.th
"""

import numpy as np
import torch
from _measure import CONVS_AND_BLOCKS, Table, arguments, calibrated, interleave, load_images, load_pair

import repsim
from repsim.metrics import METRICS
from repsim.similarity.inference import _draw


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", metavar="PATH", help="weights of a ResNet-20; else random ones")
    parser.add_argument("--resamples", type=int, default=200)
    args = parser.parse_args()
    torch.manual_seed(0)
    images = load_images(args, 100 if args.quick else 2_000)
    net = load_pair("resnet20", args.weights, args.normalize)[0]
    side = repsim.extract(net, images, layers=CONVS_AND_BLOCKS, reduction="flatten", progress=False)
    metric = METRICS["cka"]
    counts = _draw(side.n, args.resamples, 0)
    with calibrated():
        times = interleave(
            {
                "matrix": lambda: repsim.compare(side, side, "cka"),
                "resamples": lambda: resampled(metric, side, counts),
            },
            args.rounds,
            warm=args.quick,
        )
    width = sum(x.shape[1] for x in side.features.values())
    table = Table(
        f"{len(side)} × {len(side)} layers, total width {width:,}, n = {side.n:,}, {args.resamples} resamples"
    )
    note = f"{times.median('resamples'):.1f} s against {times.median('matrix'):.1f} s"
    table.row("seconds of all resamples / the matrix", times.ratio("resamples", "matrix"), note)
    table.row("largest error of some resampled values", error(side, counts, times.results["resamples"]))


def resampled(metric: repsim.metrics.Metric, side: repsim.Activations, counts: torch.Tensor) -> np.ndarray:
    states = metric.prepare([side[layer] for layer in side.layers], None)
    found = metric.bootstrapped(states, states, counts)
    assert found is not None
    return found.numpy()


def error(side: repsim.Activations, counts: torch.Tensor, found: np.ndarray) -> float:
    """Against the projection of whole Gram matrices off all a_i + a_j, under the weights, in float64."""
    worst = 0.0
    for i, j in ((0, 1), (3, 20), (27, 9)):
        grams = []
        for layer in (side.layers[i], side.layers[j]):
            x = side[layer].double()
            x = x - x.mean(0)
            grams.append(x @ x.T)
        for b in (0, 7):
            w = counts[b].double()
            kept = w > 0
            held = [off(g[kept][:, kept], w[kept]) for g in grams]
            pair = w[kept][:, None] * w[kept]
            pair.fill_diagonal_(0)
            dots = [float((pair * held[p] * held[q]).sum()) for p, q in ((0, 1), (0, 0), (1, 1))]
            worst = max(worst, abs(dots[0] / (dots[1] * dots[2]) ** 0.5 - found[b, i, j]))
    return worst


def off(gram: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The part of a Gram matrix that no sum of a row and a column effect explains, diagonal and self-pairs apart."""
    total = w.sum()
    masked = gram.clone().fill_diagonal_(0)
    # Σ_{j≠i} w_j (K_ij − a_i − a_j) = 0 for all i: (W − 2 w_i) a_i + Σ_j w_j a_j = Σ_j w_j K_ij
    system = torch.diag(total - 2 * w) + w[None, :].expand(len(w), -1)
    effect = torch.linalg.solve(system, masked @ w)
    return masked - effect[:, None] - effect


if __name__ == "__main__":
    main()
