"""Questions asked of many networks at once, each answered by tables, a picture and the reading of its own numbers.

Networks that differ in their seed alone are a group; whole networks are left out one at a time, because pairs share
networks.
"""

from repsim.studies.augmentation.judging import judge
from repsim.studies.augmentation.plan import read_plan
from repsim.studies.robustness.attack_effects import clean_and_attacked
from repsim.studies.robustness.cross_layers import cross_layer
from repsim.studies.robustness.layers_over_seeds import over_seeds
from repsim.studies.robustness.network_size import capacity
from repsim.studies.robustness.threat_comparison import threat_models
from repsim.studies.robustness.training_dynamics import dynamics
from repsim.studies.robustness.whole_study import robustness as robustness_study

__all__ = [
    "capacity",
    "clean_and_attacked",
    "cross_layer",
    "dynamics",
    "judge",
    "over_seeds",
    "read_plan",
    "robustness_study",
    "threat_models",
]
