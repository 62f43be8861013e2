"""Ways of training a network. One page each; every file with a `RECIPE` is found by itself.

A recipe is a frozen dataclass of settings with one method, the loss of a batch. `train` runs it, and the
checkpoint it returns records the settings, the seed, the data, the versions and the scores.
"""

import importlib
import pkgutil

from repsim.recipes._training import Recipe, Trained, accuracy, train

#: Recipe name -> its settings class.
RECIPES: dict[str, type[Recipe]] = {}

for _info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
    if not _info.name.startswith("_"):
        RECIPES[_info.name] = importlib.import_module(f"{__name__}.{_info.name}").RECIPE

__all__ = ["RECIPES", "Recipe", "Trained", "accuracy", "train"]
