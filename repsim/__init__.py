"""repsim: do these two networks see the same thing?

The one idea is two networks, the same inputs, one labelled matrix:

    load_model + load_data -> extract -> compare -> heatmap
    (checkpoints, images)    (Activations)  (SimilarityMatrix)  (a picture)
"""

from repsim import metrics
from repsim.activations import Activations
from repsim.data import ImageSet, load_data
from repsim.extraction import extract
from repsim.models import Network, load_model
from repsim.plots import heatmap, layer_curve, panels
from repsim.probes import fit_probes
from repsim.similarity import CautionWarning, SimilarityMatrix, compare

__all__ = [
    "Activations",
    "CautionWarning",
    "ImageSet",
    "Network",
    "SimilarityMatrix",
    "compare",
    "extract",
    "fit_probes",
    "heatmap",
    "layer_curve",
    "load_data",
    "load_model",
    "metrics",
    "panels",
]
