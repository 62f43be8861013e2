"""How many directions a layer uses, and whether a few directions or samples carry it alone."""

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.progress import progress_bar
from repsim.features.activations import Activations
from repsim.numerics.centring import CentredLayer, centre
from repsim.numerics.spectrum import above_rounding, above_storage, storage_noise

if TYPE_CHECKING:
    import pandas as pd

#: Share of the variance that `components_99` counts to.
_MOST = 0.99


def dimension(a: Activations, *, device: str | torch.device | None = None) -> "pd.DataFrame":
    """How many directions each layer uses, from the singular values s₁ ≥ s₂ ≥ … of its centred features.

    Linear CKA weighs directions by their variance, so it says little of a layer whose variance lies in one
    component or in one sample; CCA counts all directions alike, so it says little where there are nearly as many
    as samples. The participation ratio (Σs²)² / Σs⁴ is the number of equally strong directions that would be as
    spread out.

    Args:
        a: Features of one network.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        One row per layer, in execution order: `layer`; `n` samples; `width` features; `rank`, the directions above
        rounding; `participation_ratio`, in [1, rank]; `top_share`, s₁² / Σs²; `components_99`, the fewest
        components with 0.99 of Σs²; `largest_row_share`, the largest share of ‖X‖² in one sample. A constant layer
        has rank 0 and NaN for what has no value.

    Source:
        Participation ratio: Gao, Trautmann, Yu, Santhanam, Ryu, Shenoy, Ganguli 2017, "A theory of multineuronal
        dimensionality", bioRxiv 214262. What a dominant component or sample does to CKA: Nguyen, Raghu,
        Kornblith 2022; Davari, Horoi, Natik, Lajoie, Wolf, Belilovsky 2022.

    Cost:
        One float64 QR per layer, n p min(n, p), and the singular values of a min(n, p) square; memory: a float64
        copy of one layer.

    Example:
        >>> x = torch.eye(6, 4, dtype=torch.float64)
        >>> dimension(Activations.from_arrays({"fc": x}))[["width", "rank", "components_99"]].values.tolist()
        [[4, 4, 4]]
    """
    import pandas as pd

    table = []
    with progress_bar(len(a), "dimensions", "layer") as bar:
        for name in a.layers:
            x = a[name] if device is None else a[name].to(device)
            table.append({"layer": name, "n": a.n, "width": x.shape[1], **_facts(centre(x, torch.float64))})
            bar.update()
    return pd.DataFrame(table)


def _facts(layer: CentredLayer) -> dict[str, float]:
    if layer.constant:
        names = ("participation_ratio", "top_share", "components_99", "largest_row_share")
        return {"rank": 0, **dict.fromkeys(names, math.nan)}
    s, right = _singular(layer)
    variance = s.square() / s.square().sum()
    stored = storage_noise(layer.x)
    if stored is None:
        level = math.hypot(layer.norm, math.sqrt(layer.n) * float(torch.linalg.vector_norm(layer.mean / layer.unit)))
        features = above_rounding(s, level, layer.x.dtype)
    else:
        features = above_storage(s, right, stored / layer.unit, layer.n)
    return {
        "rank": int(features.sum()),
        "participation_ratio": 1 / float(variance.square().sum()),
        "top_share": float(variance[0]),
        # A sum that is 0.99 to rounding has reached it.
        "components_99": int((variance.cumsum(0) < _MOST * (1 - 1e-12)).sum()) + 1,
        "largest_row_share": float(layer.squares.max() / layer.squares.sum()),
    }


def _singular(layer: CentredLayer) -> tuple[Float[Tensor, " k"], Float[Tensor, "k p"]]:
    """Singular values, and vectors on the side of the features, by the triangular factor of the longer side.

    A Gram matrix would square the condition number.
    """
    x = layer.rows(0, layer.n, out=layer.mean.new_empty(layer.n, layer.width))
    if layer.width <= layer.n:
        return torch.linalg.svd(torch.linalg.qr(x, mode="r").R, full_matrices=False)[1:]
    q, r = torch.linalg.qr(x.T)
    left, s, _ = torch.linalg.svd(r, full_matrices=False)
    return s, (q @ left).T
