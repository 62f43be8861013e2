"""Which samples may change places in a permutation test: those of one kind, or groups as a whole."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from repsim._common.messages import message
from repsim.features.activations import Activations, common_labels
from repsim.metrics import Metric, TaskMetric, metric_name
from repsim.numerics.permutation_null import count_orders, fewest_permutations


def restrictions(
    a: Activations, b: Activations, metric: Metric, alpha: float, within: Any, groups: Any
) -> tuple[Tensor | None, Tensor | None]:
    """What keeps samples from changing places, as columns of whole numbers counted from 0: `within` and `groups`.

    Raises:
        ValueError: Columns of another length, a group of several kinds, fewer different orders than 1 / alpha, or a
            restriction of a measure that permutes answers within classes by itself.
        TypeError: No numbers.
    """
    function = "permutation_test"
    if within is None and groups is None:
        return None, None
    if isinstance(metric, TaskMetric):
        got = " and ".join(name for name, x in (("within", within), ("groups", groups)) if x is not None)
        must = f"{metric_name(metric)} permutes answers within each class, and takes no other restriction"
        raise ValueError(message(function, must, got, "Leave it out, or test a measure of features"))
    if isinstance(within, str):
        if within != "classes":
            advice = 'Pass within="classes", or one whole number per sample'
            raise ValueError(message(function, 'within must be "classes" or a column', repr(within), advice))
        within = common_labels(a, b, function)
        if within is None:
            advice = "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y)"
            raise ValueError(message(function, 'within="classes" needs labels', "none", advice))
    kinds = None if within is None else _column("within", within, a.n)
    together = None if groups is None else _column("groups", groups, a.n)
    if kinds is not None and together is not None:
        first = torch.zeros(int(together.max()) + 1, dtype=torch.long).scatter_(0, together, kinds)
        if bool((first[together] != kinds).any()):
            got = "a group with samples of several kinds"
            raise ValueError(message(function, "each group must be of one kind", got, "Leave within out, or groups"))
    count = count_orders(a.n, kinds, together)
    if count < fewest_permutations(alpha):
        must = f"at least {fewest_permutations(alpha)} orders must be possible for a p-value of {alpha:g}"
        advice = "Only groups of one size, and samples of one kind, change places: give more of them"
        raise ValueError(message(function, must, f"{count:g}", advice))
    return kinds, together


def _column(name: str, given: Any, n: int) -> Int[Tensor, " n"]:
    """A column of whole numbers, counted from 0."""
    try:
        column = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        got, advice = type(given).__name__, "Pass one whole number per sample"
        raise TypeError(message("permutation_test", f"{name} must be whole numbers", got, advice)) from error
    if column.shape != (n,) or column.is_floating_point() or column.is_complex():
        got = f"{str(column.dtype).removeprefix('torch.')} of shape {tuple(column.shape)}"
        must = f"{name} must be {n} whole numbers, one per sample"
        raise ValueError(message("permutation_test", must, got, "Pass one whole number per row"))
    return column.cpu().unique(return_inverse=True)[1]
