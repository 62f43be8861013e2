"""Labelled images in a fixed order, with an identity: `load_data` gives an `ImageSet`."""

from repsim.data.image_set import ImageSet
from repsim.data.load import load_data

__all__ = ["ImageSet", "load_data"]
