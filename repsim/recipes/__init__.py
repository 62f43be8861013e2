"""Ways of training a network. One page each; every file with a `RECIPE` is found by itself.

A recipe is a frozen dataclass of settings with one method, the loss of a batch; a few add stages or steps of their
own. `train` runs it, goes on where an interrupted training stopped, and the checkpoint it returns records the settings,
the seed, the data, the versions, the scores and the cost. `RECIPES[name].preset("cifar10")` has a source's settings.
"""

import importlib
import pkgutil

from repsim.recipes.training.loop import TrainedNetwork, train
from repsim.recipes.training.recipe import Preset, Recipe, Run, Stage

#: Recipe name -> its settings class.
RECIPES: dict[str, type[Recipe]] = {}

for _info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
    if not _info.ispkg:
        RECIPES[_info.name] = importlib.import_module(f"{__name__}.{_info.name}").RECIPE

__all__ = ["RECIPES", "Preset", "Recipe", "Run", "Stage", "TrainedNetwork", "train"]
