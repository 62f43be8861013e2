"""repsim: do these two networks see the same thing?

The one idea is two networks, the same inputs, one labelled matrix:

    load_model + load_data -> extract -> compare -> heatmap
    (weights,    images)     (Activations)  (SimilarityMatrix)  (a picture)

How sure a value is: `bootstrap`, `permutation_test`, `difference`. What it is made of: `disagreements`, `lambda_curve`,
`td_sensitivity`, `dimension`. More than two networks: `compare_many`. Features too large to keep: `live`.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim._common.alone import check_alone
from repsim._common.moved import tell_of_moved_modules
from repsim._common.provenance import VERSION as __version__

if TYPE_CHECKING:
    from repsim import metrics, plots
    from repsim._common.provenance import CautionWarning
    from repsim.data import ImageSet, load_data, tasks
    from repsim.features import Activations, extract, live
    from repsim.metrics import losses
    from repsim.networks import Network, load_model
    from repsim.plots import heatmap, layer_curve, panels
    from repsim.probes import fit_probes
    from repsim.similarity import (
        Difference,
        Disagreements,
        LambdaCurve,
        SimilarityMatrix,
        bootstrap,
        compare,
        compare_many,
        difference,
        dimension,
        disagreements,
        lambda_curve,
        permutation_test,
        td_sensitivity,
    )
    from repsim.studies import callbacks

#: Folder -> the public names that it gives this page. They are imported when they are asked for, so that
#: `import repsim` and the command line's help do not wait for torch.
_PAGES = {
    "repsim._common.provenance": ("CautionWarning",),
    "repsim.data": ("ImageSet", "load_data"),
    "repsim.features": ("Activations", "extract", "live"),
    "repsim.networks": ("Network", "load_model"),
    "repsim.plots": ("heatmap", "layer_curve", "panels"),
    "repsim.probes": ("fit_probes",),
    "repsim.similarity": (
        "Difference",
        "Disagreements",
        "LambdaCurve",
        "SimilarityMatrix",
        "bootstrap",
        "compare",
        "compare_many",
        "difference",
        "dimension",
        "disagreements",
        "lambda_curve",
        "permutation_test",
        "td_sensitivity",
    ),
}

#: Folders and a file of functions that are asked for by attribute, as in `repsim.metrics.TD`.
_MODULES = {
    "callbacks": "repsim.studies.callbacks",
    "losses": "repsim.metrics.losses",
    "metrics": "repsim.metrics",
    "plots": "repsim.plots",
    "tasks": "repsim.data.tasks",
}

__all__ = [
    "Activations",
    "CautionWarning",
    "Difference",
    "Disagreements",
    "ImageSet",
    "LambdaCurve",
    "Network",
    "SimilarityMatrix",
    "__version__",
    "bootstrap",
    "callbacks",
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
    "losses",
    "metrics",
    "panels",
    "permutation_test",
    "plots",
    "tasks",
    "td_sensitivity",
]

check_alone(Path(__file__).parent, ours=True)
tell_of_moved_modules()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found = importlib.import_module(_MODULES[name])
    else:
        page = next((page for page, names in _PAGES.items() if name in names), None)
        if page is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(page), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
