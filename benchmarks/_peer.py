"""One comparison by another package, timed: started by heatmap.py and minibatch.py in an environment that has it."""

import importlib  # only one of the packages may be there
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _measure import forward, load_pair
from torch.utils.data import DataLoader, TensorDataset

import repsim


def main(package: str, folder: Path) -> None:
    """Prints the seconds of the comparison, and leaves the matrix and its labels beside the work."""
    work = torch.load(folder / "work.pt")
    nets = load_pair(*work["pair"])
    pixels, layers = work["pixels"], [f"net.{name}" for name in work["layers"]]
    loader = DataLoader(TensorDataset(pixels), work["batch"], shuffle=False)
    some = len(pixels[:64])
    few = repsim.ImageSet(pixels[:64], torch.zeros(some, dtype=torch.long), tuple(map(str, range(some))), "few")
    for net in nets:
        forward(net, few, 64)
    warnings.simplefilter("ignore")
    if package == "torch_cka":
        library = importlib.import_module("torch_cka")
        start = time.perf_counter()
        comparison = library.CKA(*nets, "rows", "columns", layers, layers, device="cpu")
        comparison.compare(loader, loader)
        result = comparison.export()
        matrix, labels = result["CKA"], result["model1_layers"]
    else:
        library = importlib.import_module("cka")
        start = time.perf_counter()
        matrix = library.compute_cka(*nets, loader, layers=layers, device="cpu", progress=False)[0]
        labels = layers
    seconds = time.perf_counter() - start
    names = [label.removeprefix("net.") for label in labels]
    np.savez(folder / f"{package}.npz", matrix=matrix.detach().numpy(), labels=np.array(names))
    print(seconds)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
