"""Pictures of results: results in, matplotlib Axes out. Nothing here computes a similarity."""

from repsim.plots.answers import confusion, disagreement_grid
from repsim.plots.curves import certified_curve, lambda_curve, layer_curve
from repsim.plots.heatmaps import heatmap, panels, picture
from repsim.plots.networks import clustered_heatmap, dendrogram, mds_map
from repsim.plots.publication import paper
from repsim.plots.td_sensitivity import sensitivity_curves

__all__ = [
    "certified_curve",
    "clustered_heatmap",
    "confusion",
    "dendrogram",
    "disagreement_grid",
    "heatmap",
    "lambda_curve",
    "layer_curve",
    "mds_map",
    "panels",
    "paper",
    "picture",
    "sensitivity_curves",
]
