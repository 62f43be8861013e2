"""Weights become networks: `load_model` gives a `Network`, which takes pixels in [0, 1]."""

from repsim.networks.load import load_model
from repsim.networks.network import Network

__all__ = ["Network", "load_model"]
