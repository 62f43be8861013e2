"""A network run over a set becomes features: kept (`extract`), or computed whenever they are read (`live`)."""

from repsim.features.activations import Activations
from repsim.features.extraction import extract, plan
from repsim.features.live_activations import LiveActivations, live

__all__ = ["Activations", "LiveActivations", "extract", "live", "plan"]
