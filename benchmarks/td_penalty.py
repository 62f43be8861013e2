"""How Transferred Discrepancy moves with the penalty of the heads, and where held-out accuracy is best.

    python benchmarks/td_penalty.py [--cifar FOLDER --resnet20 FILE --resnet56 FILE] [--picture docs/td-penalty.png]

Without arguments: two networks trained on the digits (recipe standard, seeds 0 and 1), n = 597 test images. With
them: ResNet-20 against ResNet-56 on 5,000 images of the folder. Features are averaged over positions; heads are
fitted by 5 stratified folds. Each row of the table is one penalty: accuracy averaged over both networks and all
blocks, then TD at the first, the middle and the last pair of blocks.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np

import repsim
from repsim.metrics import TD
from repsim.recipes import RECIPES, train

PENALTIES = [10.0**k for k in range(-6, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", help="image folder with class folders")
    parser.add_argument("--resnet20", type=Path)
    parser.add_argument("--resnet56", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", repsim.CautionWarning)
    curves = {"digits": table("digits", *digits())}
    if options.cifar:
        data = repsim.load_data(f"imagefolder:{options.cifar}", limit=5000)
        files = {"resnet20": options.resnet20, "resnet56": options.resnet56}
        sides = [
            repsim.extract(repsim.load_model(n, checkpoint=f, normalize="imagenet"), data, layers="layer*.*")
            for n, f in files.items()
        ]
        curves["CIFAR-10"] = table("CIFAR-10 (JPEG copies), ResNet-20 x ResNet-56", *sides)
    if options.picture:
        draw(curves, options.picture)


def digits() -> list[repsim.Activations]:
    data, test = repsim.load_data("digits", split="train"), repsim.load_data("digits")
    nets = [train(RECIPES["standard"](), data, test, seed=s, name=f"standard-{s}").network for s in (0, 1)]
    return [repsim.extract(net, test, layers="layer*.*") for net in nets]


def table(title: str, a: repsim.Activations, b: repsim.Activations) -> np.ndarray:
    print(f"\n{title}, n = {a.n:,}")
    print("penalty   accuracy   TD first   TD middle   TD last   most steps   not converged")
    rows = []
    for penalty in PENALTIES:
        result = repsim.compare(a, b, TD(penalty=penalty))
        pick = [(0, 0), (len(a) // 2, len(b) // 2), (len(a) - 1, len(b) - 1)]
        values = [float(result.values[ij]) for ij in pick]
        accuracy = (result.details["accuracy_row"].mean() + result.details["accuracy_col"].mean()) / 2
        steps, lost = int(result.details["iterations"].max()), len(result.reasons)
        print(
            f"{penalty:7.0e}   {accuracy:8.4f}   {values[0]:8.4f}   {values[1]:9.4f}   {values[2]:7.4f}   "
            f"{steps:10d}   {lost}"
        )
        rows.append([penalty, accuracy, *values])
    return np.array(rows)


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(curves) + 1, 3.6), layout="constrained")
    for ax, (title, rows) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for column, name in ((1, "mean probe accuracy"), (2, "TD, first blocks"), (3, "TD, middle"), (4, "TD, last")):
            ax.semilogx(rows[:, 0], rows[:, column], marker="o", ms=3, ls="--" if column == 1 else "-", label=name)
        ax.axvline(repsim.metrics.METRICS["td"].penalty, color="0.6", lw=1, zorder=0)  # type: ignore[attr-defined]
        ax.set(title=title, xlabel="penalty of the heads", ylim=(0, 1))
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
