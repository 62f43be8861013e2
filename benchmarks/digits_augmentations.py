"""Do networks trained with a better augmentation agree more? Five strategies on the digits, judged by TD and by CKA.

For each strategy several networks are trained that differ in their seed alone. All pairs of a strategy's networks are
compared at the last layer before the classifier: by TD (heads fitted on the 1,200 training images, asked about the 597
test images) and by debiased CKA (test images).

    python benchmarks/digits_augmentations.py                8 seeds, about 40 networks
    python benchmarks/digits_augmentations.py --seeds 3
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import repsim
from repsim import Activations, SimilarityMatrix
from repsim.metrics import TD
from repsim.recipes import Recipe, train

STRATEGIES = ("noise", "mixup", "none", "flip", "shift")
LAYER = "features"


def conv_net(num_classes: int = 10) -> nn.Module:
    """Two convolutions and two linear layers, without batch normalisation."""
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1, stride=2)
    features = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU())
    return nn.Sequential(OrderedDict(features=features, classifier=nn.Linear(64, num_classes)))


@dataclass(frozen=True)
class Augmented(Recipe):
    """Cross-entropy on images that one strategy has changed."""

    architecture: str = f"{__name__ if __name__ != '__main__' else 'digits_augmentations'}:conv_net"
    epochs: int = 20
    learning_rate: float = 0.05
    strategy: str = "none"

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.strategy == "noise":  # Gaussian, of standard deviation 0.25
            x = x + 0.25 * torch.randn(x.shape, generator=generator)
        elif self.strategy == "flip":  # half of the images, left to right: harmful, most digits are not symmetric
            x = torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
        elif self.strategy == "shift":  # the whole batch by one of nine steps of a pixel
            down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
            x = F.pad(x, (1, 1, 1, 1)).roll((down, right), (2, 3))[:, :, 1:-1, 1:-1]
        elif self.strategy == "mixup":  # λ ~ Beta(1, 1), the uniform distribution
            share, other = float(torch.rand((), generator=generator)), torch.randperm(len(x), generator=generator)
            mixed = net(share * x + (1 - share) * x[other])
            return share * F.cross_entropy(mixed, y) + (1 - share) * F.cross_entropy(mixed, y[other])
        return F.cross_entropy(net(x), y)


@dataclass(frozen=True)
class Judged:
    """One strategy: means over all pairs of its networks.

    Attributes:
        accuracy: Of the heads on held-out images.
        td: Share of answers that differ.
        td_error: Standard error, from leaving out one network at a time.
        ratio: TD as a share of what independent errors of the same accuracies give.
        consistency: Error consistency.
        cka: Debiased.
        cka_error: Standard error.
    """

    accuracy: float
    td: float
    td_error: float
    ratio: float
    consistency: float
    cka: float
    cka_error: float


def judge(strategy: str, seeds: int) -> Judged:
    data, test = repsim.load_data("digits", split="train"), repsim.load_data("digits", split="test")
    both, held_out = {}, {}
    for seed in range(seeds):
        name = f"{strategy}-{seed}"
        net = train(Augmented(strategy=strategy), data, test, seed=seed, name=name).network
        fitted, asked = (repsim.extract(net, images, layers=LAYER, progress=False)[LAYER] for images in (data, test))
        labels = torch.cat([data.labels, test.labels])
        both[name] = Activations.from_arrays({LAYER: torch.cat([fitted, asked])}, labels=labels)
        held_out[name] = Activations.from_arrays({LAYER: asked})
    td = repsim.compare_many(both, TD(fit_rows=tuple(range(len(data))), resamples=0), layers="last")
    cka = repsim.compare_many(held_out, "cka", layers="last")
    upper = np.triu_indices(seeds, 1)
    mean = {name: float(np.nanmean(td.details[name][upper])) for name in ("td_ratio", "error_consistency")}
    accuracy = float(td.details["accuracy_row"][:, 0].mean())
    return Judged(accuracy, *jackknife(td), mean["td_ratio"], mean["error_consistency"], *jackknife(cka))


def jackknife(matrix: SimilarityMatrix) -> tuple[float, float]:
    """Mean over pairs of networks and its standard error. Pairs share networks, so whole networks are left out."""
    s = len(matrix.rows)

    def mean(kept: list[int]) -> float:
        part = matrix.values[np.ix_(kept, kept)]
        return float(part[np.triu_indices(len(kept), 1)].mean())

    without = np.array([mean([j for j in range(s) if j != i]) for i in range(s)]) if s > 2 else np.array([np.nan])
    return mean(list(range(s))), float(np.sqrt((s - 1) / s * ((without - without.mean()) ** 2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    print(f"{args.seeds} networks of each strategy, layer {LAYER!r} (64 units)")
    print("strategy  accuracy  TD (s.e.)        TD ratio  error consistency  CKA (s.e.)")
    found = {}
    for strategy in STRATEGIES:
        j = found[strategy] = judge(strategy, args.seeds)
        print(
            f"{strategy:8s}  {j.accuracy:8.4f}  {j.td:.4f} ({j.td_error:.4f})  {j.ratio:8.3f}  {j.consistency:17.3f}  "
            f"{j.cka:.3f} ({j.cka_error:.3f})",
            flush=True,
        )
    print("\n" + reading(found))


def reading(found: dict[str, Judged]) -> str:
    """What the numbers say, and how much of it is accuracy alone."""
    by_accuracy = sorted(found, key=lambda s: -found[s].accuracy)
    by_td = sorted(found, key=lambda s: found[s].td)
    by_cka = sorted(found, key=lambda s: -found[s].cka)
    by_ratio = sorted(found, key=lambda s: found[s].ratio)
    return (
        f"Most accurate first:            {', '.join(by_accuracy)}\n"
        f"Most alike first, by TD:        {', '.join(by_td)}\n"
        f"Most alike first, by TD ratio:  {', '.join(by_ratio)}\n"
        f"Most alike first, by CKA:       {', '.join(by_cka)}\n"
        "A raw TD is mostly accuracy: two worse heads disagree more often even where their errors are as alike. Where "
        "the order by TD ratio is another one, that much of the order by TD is accuracy alone."
    )


if __name__ == "__main__":
    main()
