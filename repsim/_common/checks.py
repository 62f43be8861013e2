"""Preconditions that more than one folder needs: labels, finiteness, fractions, switches, levels."""

from fractions import Fraction

import torch
from torch import Tensor

from repsim._common.messages import message

#: A label that says: this sample is not part of the task. PyTorch's cross-entropy ignores the same number. -1, which
#: others write, is read as the same.
ABSENT = -100


def fraction(text: str) -> float:
    """A number written as such or as a fraction, "0.25" or "64/255".

    Raises:
        ValueError: Any other text.
    """
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError(text) from error


def is_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite, in one pass over memory for the usual, finite case."""
    # A sum is NaN or infinite whenever an entry is; finite entries can overflow it, so look again then.
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def check_labels(function: str, labels: Tensor, n: int) -> None:
    """Class labels are n integers from at least two classes; samples may be absent."""
    if labels.ndim != 1 or len(labels) != n or labels.is_floating_point() or labels.is_complex():
        got = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        raise ValueError(
            message(function, f"labels must be {n} integers, one per sample", got, "Pass one class index per row")
        )
    classes = len(labels[(labels != ABSENT) & (labels != -1)].unique())
    if classes < 2:
        raise ValueError(
            message(
                function,
                "labels must hold at least two classes",
                f"{classes}",
                "A task with one class has no answer to disagree on; pass other labels or more samples",
            )
        )


def check_bool(function: str, name: str, value: object) -> None:
    """A switch is True or False, and no number that happens to count as one."""
    if not isinstance(value, bool):
        advice = f"Pass {name}=True or {name}=False"
        raise TypeError(message(function, f"{name} must be True or False", repr(value), advice))


def check_count(function: str, name: str, value: int, least: int) -> None:
    """A number of resamples is a whole number, and not too small to say anything."""
    if not isinstance(value, int) or value < least:
        must = f"{name} must be a whole number >= {least}"
        raise ValueError(message(function, must, repr(value), "200 is usual"))


def check_level(function: str, level: float, name: str = "level", usual: str = "0.95") -> None:
    """The level of an interval, or the size of a test, is a share."""
    if not 0 < level < 1:
        raise ValueError(message(function, f"{name} must be in (0, 1)", f"{level}", f"{usual} is usual"))
