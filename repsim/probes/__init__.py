"""Linear probes, all folds, tasks, penalties and layers of one width in one program, with proof that they converged."""

from repsim.probes.fit import LayerProbes, fit_probes
from repsim.probes.folds import stratified_folds

__all__ = ["LayerProbes", "fit_probes", "stratified_folds"]
