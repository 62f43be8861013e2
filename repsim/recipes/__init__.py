"""Ways of training a network. One page each, found by itself here or in `adversarial`.

A recipe is a frozen dataclass of settings with one method, the loss of a batch; a few add stages or steps of their
own. `train` runs it, goes on where an interrupted training stopped, and the checkpoint it returns records the settings,
the seed, the data, the versions, the scores and the cost. `RECIPES[name].preset("cifar10")` has a source's settings.
"""

import importlib
import pkgutil
import sys
from types import ModuleType

from repsim._common.messages import message
from repsim.recipes import adversarial
from repsim.recipes.training.loop import TrainedNetwork, train
from repsim.recipes.training.recipe import Preset, Recipe, Run, Stage, between, recipe_name


def _recipe_of(page: ModuleType) -> type[Recipe]:
    """The recipe of a file.

    Raises:
        TypeError: None, one without a name, or with another name than the file's.
    """
    kind, file = getattr(page, "RECIPE", None), page.__name__.rpartition(".")[2]
    if not (isinstance(kind, type) and issubclass(kind, Recipe)):
        advice = "End the file with RECIPE = and the class"
        raise TypeError(message("recipes", f"{file}.py must have a RECIPE", repr(kind), advice))
    if recipe_name(kind) != file:
        advice = "Call both the same"
        raise TypeError(
            message("recipes", f"{kind.__name__} in {file}.py must be named {file!r}", repr(kind.name), advice)
        )
    return kind


#: Recipe name -> its settings class; found in this folder and in `adversarial`.
RECIPES: dict[str, type[Recipe]] = {
    name: _recipe_of(importlib.import_module(f"{package}.{name}"))
    for name, package in sorted(
        (page.name, package.__name__)
        for package in (sys.modules[__name__], adversarial)
        for page in pkgutil.iter_modules(package.__path__)
        if not page.ispkg
    )
}

__all__ = ["RECIPES", "Preset", "Recipe", "Run", "Stage", "TrainedNetwork", "between", "train"]
