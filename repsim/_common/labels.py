"""Class labels from anywhere -> integers, one per sample; no label is `ABSENT`, however it was written."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from repsim._common.checks import ABSENT
from repsim._common.messages import message, shown


def class_labels(labels: Any, function: str) -> Int[Tensor, " n"]:
    """Class labels as (n,) int64.

    Args:
        labels: Integers or truth values: a list, an array, a tensor, a pandas column. What is masked or missing, -1 and
            -100 all mean that a sample has no label.
        function: Who asks, for messages.

    Returns:
        One per sample, `ABSENT` where there is none.

    Raises:
        TypeError: Names, fractions, or anything else that is no integer.
        ValueError: Another shape.
    """
    must = "labels must be integers"
    if isinstance(labels, Tensor):
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(message(function, must, str(labels.dtype), "Pass class indices"))
        found = labels.detach().cpu().long()
    else:
        found = torch.from_numpy(_integers(labels, function, must))
    if found.ndim != 1:
        got = f"shape {tuple(found.shape)}"
        raise ValueError(message(function, "labels must be (n,) class indices", got, "Pass one integer per sample"))
    return found.where(found != -1, ABSENT)


def plain_array(values: Any, function: str, what: str) -> Any:
    """What torch takes of an array or a table, with nothing masked or of mixed types in it.

    Args:
        values: A tensor, an array, a list, or a table of pandas.
        function: Who asks, for messages.
        what: What they are, for messages.

    Raises:
        TypeError: Masked entries, or entries that are no numbers.
    """
    if isinstance(values, Tensor):
        return values
    masked = isinstance(values, np.ma.MaskedArray) and bool(np.ma.getmaskarray(values).any())
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        got, advice = " ".join(str(error).split()).removesuffix("."), "Pass an array of numbers"
        raise TypeError(message(function, f"{what} must be an array", got, advice)) from error
    if masked or array.dtype.kind not in "fiubc":
        got = "masked entries" if masked else f"entries of type {array.dtype}"
        raise TypeError(message(function, f"{what} must be numbers", got, "Leave out what is missing, and convert it"))
    own = array.dtype.newbyteorder("=")
    taken = array.dtype == own and array.flags.writeable and min(array.strides, default=0) >= 0
    return (
        array if taken else array.astype(own)
    )  # torch takes the machine's order, and nothing that it may not write to


def _integers(labels: Any, function: str, must: str) -> np.ndarray:
    missing = None
    if isinstance(labels, np.ma.MaskedArray):
        missing, labels = np.ma.getmaskarray(labels), labels.filled(0) if labels.dtype.kind in "iub" else labels.data
    try:
        pandas = hasattr(labels, "isna") and hasattr(
            labels, "to_numpy"
        )  # whose missing integers are fractions in numpy
        array = labels.to_numpy(dtype=object) if pandas else np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise TypeError(message(function, must, shown(labels), "Pass class indices, one per sample")) from error
    if array.dtype == object and array.ndim == 1:  # pandas writes missing integers so
        known = [isinstance(v, int | np.integer | np.bool_) for v in array]
        gone = [v is None or type(v).__name__ in ("NAType", "NaTType") or v is np.ma.masked for v in array]
        numbers = [int(v) if a else 0 for v, a in zip(array, known, strict=True)]
        if all(a or b for a, b in zip(known, gone, strict=True)) and all(abs(v) < 2**63 for v in numbers):
            missing, array = np.array(gone, dtype=bool), np.array(numbers, dtype=np.int64)
    if array.dtype.kind not in "iub":
        first = array.flat[0] if array.size else 0.0
        first = first.item() if isinstance(first, np.generic) else first
        got = f"{shown(first)}, of type {type(first).__name__}" if array.dtype.kind in "USO" else str(array.dtype)
        advice = "Pass class indices"
        if isinstance(first, str):
            advice += (
                ", as numpy.unique(labels, return_inverse=True)[1] makes of names; both sides need the same numbers"
            )
        raise TypeError(message(function, must, got, advice))
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise TypeError(message(function, must, f"{int(array.max())}", "Number classes from 0"))
    array = array.astype(np.int64)
    return array if missing is None else np.where(missing, ABSENT, array)
