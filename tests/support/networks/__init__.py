"""Networks that people use, small and with random weights: each can be built for a second input size, some wider."""

from tests.support.networks.architecture import Architecture
from tests.support.networks.of_timm import TIMM
from tests.support.networks.of_torch import TORCH
from tests.support.networks.of_torchvision import TORCHVISION
from tests.support.networks.of_transformers import TRANSFORMERS

__all__ = ["ARCHITECTURES", "Architecture"]

ARCHITECTURES = [*TORCHVISION, *TIMM, *TRANSFORMERS, *TORCH]
