"""Matrices as the page's script reads them: names, values, and what stands beside each value."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repsim.similarity.block_structure import blocks
from repsim.similarity.matrix import SimilarityMatrix

#: What a cell says beside its value, in this order: name in `details` -> words.
BESIDE = {
    "ci_low": "95 % interval from",
    "ci_high": "to",
    "p": "p",
    "p_value": "p",
    "p_adjusted": "p, best of all cells",
    "chance": "chance",
    "null_mean": "chance",
    "calibrated": "calibrated",
    "accuracy_row": "row head right",
    "accuracy_col": "column head right",
    "td_ratio": "of independent errors",
    "floor": "noise floor",
    "outputs_disagree": "own heads differ",
    "standard_error": "standard error",
    "layers": "pairs of layers",
}

#: Colours of the map, dark to light.
_STEPS = 32


def shown_data(matrices: Mapping[str, SimilarityMatrix]) -> list[dict[str, Any]]:
    """One entry per two sides, with all measures of them: what one heatmap of the page switches between."""
    groups: dict[tuple[Any, ...], list[tuple[str, SimilarityMatrix]]] = {}
    for name, matrix in matrices.items():
        key = matrix.row_model, matrix.col_model, matrix.rows, matrix.cols
        groups.setdefault(key, []).append((name, matrix))
    return [
        {
            "rowModel": row_model,
            "colModel": col_model,
            "rows": rows,
            "cols": cols,
            "measures": [_measure(name.removesuffix(".npz"), matrix) for name, matrix in found],
        }
        for (row_model, col_model, rows, cols), found in groups.items()
    ]


def colours() -> list[str]:
    """The map from dark to light, as hexadecimal numbers."""
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(shade) for shade in matplotlib.colormaps["magma"](np.linspace(0, 1, _STEPS))]


def script_json(data: Any) -> str:
    """JSON that cannot end the element it stands in, whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _measure(name: str, matrix: SimilarityMatrix) -> dict[str, Any]:
    definition = matrix.definition
    low, high = (float(end) for end in definition.display)
    known = matrix.values[~np.isnan(matrix.values)]
    if not np.isfinite(high):
        high = float(known.max(initial=0)) or low + 1
    data = [float(known.min()), float(known.max())] if known.size else [low, high]
    beside = {key: _compact(matrix.details[key]) for key in BESIDE if key in matrix.details}
    if "p_value" in beside:
        beside.pop("p", None)
    return {
        "name": name,
        "title": definition.title,
        "n": matrix.n,
        "similarity": definition.kind == "similarity",
        "bounds": [low, high],
        "data": data if data[0] < data[1] else [data[0] - 0.5, data[0] + 0.5],
        "values": _compact(matrix.values),
        "beside": {key: {"says": BESIDE[key], "values": array} for key, array in beside.items()},
        "reasons": _reasons(matrix),
        "blocks": _blocks(matrix),
    }


def _compact(array: np.ndarray) -> list[float | None] | float | None:
    """Row by row with five digits; one number where all are equal, None where there is none."""
    flat = [_rounded(float(value)) for value in array.ravel().tolist()]
    return flat[0] if len(set(flat)) == 1 else flat


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _reasons(matrix: SimilarityMatrix) -> dict[str, Any]:
    """Different reasons once, and which one a cell has: a matrix of nothing but NaN names one."""
    texts = list(dict.fromkeys(matrix.reasons.values()))
    number, c = {text: k for k, text in enumerate(texts)}, len(matrix.cols)
    return {"texts": texts, "cells": {str(i * c + j): number[text] for (i, j), text in matrix.reasons.items()}}


def _blocks(matrix: SimilarityMatrix) -> Sequence[Sequence[int]]:
    """First layers and layers behind the last of runs that look alike; none where that is no question."""
    try:
        return [[block.start, block.stop] for block in blocks(matrix).blocks]
    except ValueError:
        return []
