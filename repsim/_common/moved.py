"""Old import paths end in one line that names the new place."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from repsim._common.messages import message

#: Where 0.1 had a module -> where its contents are now.
MOVED = {
    "repsim.activations": "repsim.features",
    "repsim.adversarial": "repsim.robustness",
    "repsim.architectures": "repsim.networks.architectures",
    "repsim.attacks": "repsim.robustness",
    "repsim.augmentations": "repsim.recipes.training.augmentations",
    "repsim.blocks": "repsim.similarity",
    "repsim.checkpoints": "repsim.networks.weight_files",
    "repsim.corruptions": "repsim.robustness",
    "repsim.demo": "repsim.cli.demo",
    "repsim.dimension": "repsim.similarity",
    "repsim.disagreement": "repsim.similarity",
    "repsim.extraction": "repsim.features",
    "repsim.folds": "repsim.probes.folds",
    "repsim.imagefolder": "repsim.data.folders",
    "repsim.inference": "repsim.similarity",
    "repsim.live": "repsim.features",
    "repsim.many": "repsim.similarity",
    "repsim.models": "repsim.networks",
    "repsim.reductions": "repsim.features.reductions",
    "repsim.ridge": "repsim.similarity",
    "repsim.smoothing": "repsim.robustness",
    "repsim.streaming": "repsim.metrics.alignment.streaming",
    "repsim.tasks": "repsim.data.tasks",
    "repsim.metrics.cca": "repsim.metrics",
    "repsim.metrics.cka": "repsim.metrics",
    "repsim.metrics.cka_minibatch": "repsim.metrics",
    "repsim.metrics.cka_rbf": "repsim.metrics",
    "repsim.metrics.gulp": "repsim.metrics",
    "repsim.metrics.neighbors": "repsim.metrics",
    "repsim.metrics.procrustes": "repsim.metrics",
    "repsim.metrics.regression": "repsim.metrics",
    "repsim.metrics.rsa": "repsim.metrics",
    "repsim.metrics.transferred_regression": "repsim.metrics",
    "repsim.metrics.transferred_soft": "repsim.metrics",
    "repsim.plots.attacked": "repsim.plots.study_attacks",
    "repsim.plots.strategies": "repsim.plots.study_strategies",
    "repsim.plots.studies": "repsim.plots.study_panels",
    "repsim.studies.attacked": "repsim.studies",
    "repsim.studies.capacity": "repsim.studies",
    "repsim.studies.dynamics": "repsim.studies",
    "repsim.studies.layers": "repsim.studies",
    "repsim.studies.strategies": "repsim.studies.augmentation",
    "repsim.studies.threats": "repsim.studies",
    "repsim.studies.trained": "repsim.studies.augmentation",
}


class MovedFinder:
    """Asked last, so only for modules that are nowhere."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Refuses a place of `MOVED`, and knows nothing of any other.

        Raises:
            ModuleNotFoundError: The place is one of 0.1.
        """
        if name in MOVED:
            must = f"{name} must be imported from where it is since 0.2"
            # Without the name in its attribute, as `from repsim import smoothing` would hide the line otherwise.
            raise ModuleNotFoundError(message("repsim", must, "its place in 0.1", f"Import from {MOVED[name]}"))
        return None


def tell_of_moved_modules() -> None:
    """From now on, old import paths say where their contents are."""
    if MovedFinder not in sys.meta_path:
        sys.meta_path.append(MovedFinder)
