"""repsim: do these two networks see the same thing?

The one idea is two networks, the same inputs, one labelled matrix:

    load_model + load_data -> extract -> compare -> heatmap
    (checkpoints, images)    (Activations)  (SimilarityMatrix)  (a picture)

How sure a value is: `bootstrap`, `permutation_test`, `difference`. What it is made of: `disagreements`, `lambda_curve`,
`dimension`. More than two networks: `compare_many`. Features too large to keep: `live`.
"""

from repsim import metrics, plots, tasks
from repsim.activations import Activations
from repsim.data import ImageSet, load_data
from repsim.dimension import dimension
from repsim.disagreement import Disagreements, disagreements
from repsim.extraction import extract
from repsim.inference import Difference, bootstrap, difference, permutation_test
from repsim.live import live
from repsim.many import compare_many
from repsim.models import Network, load_model
from repsim.plots import heatmap, layer_curve, panels
from repsim.probes import fit_probes
from repsim.ridge import LambdaCurve, lambda_curve
from repsim.similarity import CautionWarning, SimilarityMatrix, compare

__all__ = [
    "Activations",
    "CautionWarning",
    "Difference",
    "Disagreements",
    "ImageSet",
    "LambdaCurve",
    "Network",
    "SimilarityMatrix",
    "bootstrap",
    "compare",
    "compare_many",
    "difference",
    "dimension",
    "disagreements",
    "extract",
    "fit_probes",
    "heatmap",
    "lambda_curve",
    "layer_curve",
    "live",
    "load_data",
    "load_model",
    "metrics",
    "panels",
    "permutation_test",
    "plots",
    "tasks",
]
