"""What chance gives under permutations: p-values, the null of the best cell, calibrated values, possible orders."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.messages import message
from repsim.features.activations import Activations
from repsim.features.side_checks import common_labels
from repsim.metrics import Metric, TaskMetric, metric_name

#: Two values this near each other are tied: rounding of the same number.
_TIE = 1e-12


def against_chance(
    values: Float[np.ndarray, "r c"],
    chance: Float[np.ndarray, "k r c"],
    *,
    larger_is_alike: bool,
    self_value: float,
    alpha: float,
) -> dict[str, Float[np.ndarray, "r c"]]:
    """Holds a matrix against the same matrix under k permutations.

    With s the value, larger = more alike (a distance is negated), s_1..s_k the same cell under the permutations,
    and τ the r-th smallest of the k + 1 numbers s, s_1..s_k, r = ⌈(1 - alpha)(k + 1)⌉:

        p_value = (1 + #{s_i >= s}) / (k + 1),    calibrated = (s - τ) / (self - τ) where s > τ, else 0.

    One permutation serves all cells, so the largest cell of each permuted matrix is what chance gives for the best of
    them. Held against that, no search over cells makes a p-value small: `p_adjusted` of every cell, and `p_max` and
    `calibrated_max` of the best one, which are the same in all cells.

    Args:
        values: As observed, NaN where there is no number.
        chance: Under each permutation. A cell that has no number under one of them has none here.
        larger_is_alike: A similarity; otherwise a distance.
        self_value: What a layer has with itself.
        alpha: Size of the test whose threshold calibrates.

    Returns:
        `p_value`, `p_adjusted`, `p_max`, `calibrated`, `calibrated_max`, `null_mean`, and the central 95 % of the
        chance values, `null_low`, `null_high`.

    Source:
        Calibrated similarity and the null of the best layer pair: arXiv 2602.14486. Adjustment by the maximum:
        Westfall, Young 1993. The 1 that is added: Phipson, Smyth 2010.
    """
    k, sign = len(chance), 1.0 if larger_is_alike else -1.0
    missing = np.isnan(values) | np.isnan(chance).any(0)
    s, null, own = sign * values, sign * chance, sign * self_value
    at = _place(k, alpha)
    alike = null >= s - _TIE
    details = {
        "p_value": (1 + alike.sum(0)) / (1 + k),
        "calibrated": _calibrated(s, np.concatenate([s[None], null]), own, at),
        "null_mean": chance.mean(0),
        "null_low": np.quantile(chance, 0.025, axis=0),
        "null_high": np.quantile(chance, 0.975, axis=0),
    }
    if missing.all():
        nothing = np.full(values.shape, np.nan)
        return {
            **{name: nothing for name in details},
            "p_adjusted": nothing,
            "p_max": nothing,
            "calibrated_max": nothing,
        }
    best = null[:, ~missing].max(1)
    top = s[~missing].max()
    details["p_adjusted"] = (1 + (best[:, None, None] >= s - _TIE).sum(0)) / (1 + k)
    details["p_max"] = np.full(values.shape, (1 + (best >= top - _TIE).sum()) / (1 + k))
    score = _calibrated(np.array(top), np.array([top, *best]), own, at)
    details["calibrated_max"] = np.full(values.shape, float(score))
    return {name: np.where(missing, np.nan, array) for name, array in details.items()}


def fewest_permutations(alpha: float) -> int:
    """⌈1 / alpha⌉: below about that many, no p-value can be as small as alpha, whatever the data."""
    return math.ceil(1 / _exactly(alpha))


def random_order(
    n: int,
    generator: torch.Generator,
    within: Int[Tensor, " n"] | None = None,
    groups: Int[Tensor, " n"] | None = None,
) -> Int[Tensor, " n"]:
    """A random permutation of the rows that keeps what is not exchangeable.

    Args:
        n: Rows.
        generator: Of the draw.
        within: (n,) only rows of one number change places with each other.
        groups: (n,) rows of one number stay together, in their order, and the group as a whole changes places with
            others of its size (and of the same `within`).
    """
    if within is None and groups is None:
        return torch.randperm(n, generator=generator)
    order = torch.arange(n)
    for sheet in exchangeable(n, within, groups):
        order[sheet] = sheet[torch.randperm(len(sheet), generator=generator)]
    return order


def exchangeable(
    n: int, within: Int[Tensor, " n"] | None, groups: Int[Tensor, " n"] | None
) -> list[Int[Tensor, "g m"]]:
    """Sets of g blocks of m rows each, as row numbers; the blocks of one set may change places."""
    strata = torch.zeros(n, dtype=torch.long) if within is None else within
    index = torch.arange(n) if groups is None else groups.unique(return_inverse=True)[1]
    sheets: dict[tuple[int, int], list[Tensor]] = {}
    # Sorted once, so that many groups cost no more than few.
    for rows in index.argsort(stable=True).split(torch.bincount(index).tolist()):
        sheets.setdefault((len(rows), int(strata[rows[0]])), []).append(rows)
    return [torch.stack(blocks) for blocks in sheets.values()]


def count_orders(n: int, within: Int[Tensor, " n"] | None, groups: Int[Tensor, " n"] | None) -> float:
    """How many different permutations `random_order` can give; infinity where they are beyond counting."""
    log = sum(math.lgamma(len(blocks) + 1) for blocks in exchangeable(n, within, groups))
    return round(math.exp(log)) if log < 30 else math.inf


def _calibrated(s: np.ndarray, combined: np.ndarray, own: float, at: int) -> np.ndarray:
    threshold = np.partition(combined, at, axis=0)[at]
    above = s > threshold + _TIE
    with np.errstate(invalid="ignore"):
        return np.where(above, np.minimum(1.0, (s - threshold) / np.where(above, own - threshold, 1.0)), 0.0)


def _place(k: int, alpha: float) -> int:
    """r - 1, in whole numbers: (1 - 0.05) · 200 in floating point is 190.00000000000003 at some widths."""
    return min(max(math.ceil((1 - _exactly(alpha)) * (k + 1)), 1), k + 1) - 1


def _exactly(alpha: float) -> Fraction:
    return Fraction(repr(float(alpha)))


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
