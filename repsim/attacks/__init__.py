"""Adversarial inputs. Pixels are in [0, 1].

`ThreatModel` says how far an input may be moved, `pgd`, `fgsm` and `feature_attack` move it, and `attack` holds any
other attack to the same rules and measures what it does.
"""

from repsim.attacks.checked import Attacked, AttackFunction, attack
from repsim.attacks.features import FeatureAttacked, feature_attack
from repsim.attacks.gradient import fgsm, pgd
from repsim.attacks.threat import ThreatModel

__all__ = [
    "AttackFunction",
    "Attacked",
    "FeatureAttacked",
    "ThreatModel",
    "attack",
    "feature_attack",
    "fgsm",
    "pgd",
]
