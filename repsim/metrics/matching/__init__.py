"""Measures between matched units: neurons are reordered or shared out, never mixed."""

from repsim.metrics.matching import correlation_match, permutation_procrustes, soft_matching

METRICS = {**permutation_procrustes.METRICS, **soft_matching.METRICS, **correlation_match.METRICS}
