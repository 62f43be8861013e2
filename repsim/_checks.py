"""Every precondition that more than one file needs, and the one shape of an error message."""

import difflib
from collections.abc import Iterable
from fractions import Fraction

import torch
from torch import Tensor

#: A label that says: this sample is not part of the task. PyTorch's cross-entropy ignores the same number.
ABSENT = -100


def message(function: str, must: str, got: str, do: str) -> str:
    """One line: what was called, what must hold, what came, what to do."""
    return f"{function}: {must}; got {got}. {do}."


def did_you_mean(name: str, known: Iterable[str], *, count: int = 4) -> str:
    """The known names closest to `name`, as the advice that ends an error message."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    if close:
        return "Close matches: " + ", ".join(close)
    return "Known: " + some(known, count=12)


def some(names: Iterable[str], *, count: int = 4) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    rest = f", … ({len(names) - count} more)" if len(names) > count else ""
    return ", ".join(names[:count]) + rest if names else "none"


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
    classes = len(labels[labels != ABSENT].unique())
    if classes < 2:
        raise ValueError(
            message(
                function,
                "labels must hold at least two classes",
                f"{classes}",
                "A task with one class has no answer to disagree on; pass other labels or more samples",
            )
        )
