"""Strategies judged by TD, straight from the definitions: loops over pairs of networks and over networks left out."""

import itertools
import math

import numpy as np


def pair_numbers(said: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """Means over pairs of rows of `said`, (s, m) answers: TD, what independent errors would give, their ratio; and
    error consistency as the ratio of the mean (c − e) to the mean (1 − e).
    """
    td, alone, consistent, beyond = [], [], [], []
    for one, two in itertools.combinations(said, 2):
        a, b = (one == truth).mean(), (two == truth).mean()
        td.append((one != two).mean())
        alone.append(1 - a * b - (1 - a) * (1 - b) / (classes - 1))
        c = ((one == truth) == (two == truth)).mean()
        e = a * b + (1 - a) * (1 - b)
        consistent.append(c - e)
        beyond.append(1 - e)
    return {
        "td": float(np.mean(td)),
        "independent": float(np.mean(alone)),
        "td_ratio": float(np.sum(td) / np.sum(alone)),
        "error_consistency": float(np.sum(consistent) / np.sum(beyond)),
    }


def jackknife_error(said: np.ndarray, truth: np.ndarray, classes: int, number: str) -> float:
    """The standard error of one of them: each network left out in turn."""
    s = len(said)
    without = [pair_numbers(np.delete(said, i, 0), truth, classes)[number] for i in range(s)]
    return float(np.sqrt((s - 1) / s * np.sum((np.array(without) - np.mean(without)) ** 2)))


def difference_error(first: np.ndarray, second: np.ndarray, truth: np.ndarray, classes: int, number: str) -> float:
    """The standard error of a difference of two groups that share no network: their variances add."""
    parts = [jackknife_error(said, truth, classes, number) for said in (first, second)]
    return math.hypot(*parts)


def weighted_pair_mean(table: np.ndarray, counts: np.ndarray) -> float:
    """Mean over pairs of different networks in a resample that holds network i `counts[i]` times."""
    drawn = [i for i, count in enumerate(counts) for _ in range(int(count))]
    cells = [table[i, j] for i in drawn for j in drawn if i != j]
    return float(np.mean(cells))
