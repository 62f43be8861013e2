"""Inputs under attack, corruption and noise, and what can be proved against them. Pixels are in [0, 1].

`ThreatModel` says how far an input may be moved, `pgd`, `fgsm` and `feature_attack` move it, and `attack` holds any
other attack to the same rules and measures what it does. `adversarial` and `corrupt` make image sets that stay aligned
with the clean ones; `certify` proves answers by randomised smoothing; `noise_profile` says how noise moves each layer.
"""

from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.checked import AttackFunction, AttackResult, attack
from repsim.robustness.corruptions import corrupt
from repsim.robustness.feature_space import FeatureAttackResult, feature_attack
from repsim.robustness.gradient import fgsm, pgd
from repsim.robustness.noise_shares import NoiseProfile, noise_profile
from repsim.robustness.smoothing import Certificates, certify, predict
from repsim.robustness.threat import ThreatModel

__all__ = [
    "AttackFunction",
    "AttackResult",
    "Certificates",
    "FeatureAttackResult",
    "NoiseProfile",
    "ThreatModel",
    "adversarial",
    "attack",
    "certify",
    "corrupt",
    "feature_attack",
    "fgsm",
    "noise_profile",
    "pgd",
    "predict",
]
