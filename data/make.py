"""Makes the two weight files that ship in this folder: `python data/make.py`, about 15 seconds."""

from pathlib import Path

import repsim
from repsim.recipes import RECIPES, train

HERE = Path(__file__).parent


def main() -> None:
    data, test = repsim.load_data("digits", split="train"), repsim.load_data("digits", split="test")
    # Different seeds: networks that start from the same random weights stay alike for that reason alone.
    for recipe, seed in (("standard", 0), ("pgd", 1)):
        trained = train(RECIPES[recipe](), data, test, seed=seed, name=f"digits_{recipe}")
        print(trained.save(HERE / f"digits_{recipe}.safetensors"), trained.record["scores"])


if __name__ == "__main__":
    main()
