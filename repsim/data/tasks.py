"""Downstream tasks made from class labels: coarser classes, one class against the rest, held-out classes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from repsim._common.checks import ABSENT
from repsim._common.labels import class_labels
from repsim._common.messages import message, some

__all__ = ["ABSENT", "coarser", "held_out", "one_vs_rest"]


def coarser(labels: Any, groups: Mapping[str, Iterable[int]]) -> Int[Tensor, " n"]:
    """A task with fewer classes: which group does a sample belong to?

    Args:
        labels: (n,) class indices.
        groups: Group -> the classes it is made of, as in {"animal": [2, 3, 4], "vehicle": [0, 1]}.

    Returns:
        (n,) group numbers in the order given; `ABSENT` for samples of classes that no group holds.

    Raises:
        ValueError: A class in two groups, a class that no sample has, or fewer than two groups.

    Example:
        >>> coarser([0, 1, 2, 3], {"low": [0, 1], "high": [2]})
        tensor([   0,    0,    1, -100])
    """
    y = class_labels(labels, "tasks")
    listed = [int(c) for classes in groups.values() for c in classes]
    twice = sorted({c for c in listed if listed.count(c) > 1})
    unknown = sorted(set(listed) - set(y.tolist()))
    if len(groups) < 2 or twice or unknown:
        got = f"{len(groups)} groups" + (f", class {twice[0]} in two of them" if twice else "")
        got += f", class {unknown[0]} that no sample has" if unknown and not twice else ""
        advice = "Name at least two groups that share no class"
        raise ValueError(message("coarser", "groups must split classes of these labels", got, advice))
    out = torch.full_like(y, ABSENT)
    for number, classes in enumerate(groups.values()):
        out[torch.isin(y, torch.tensor([int(c) for c in classes]))] = number
    return out


def one_vs_rest(labels: Any) -> dict[str, Int[Tensor, " n"]]:
    """One task per class: is a sample of this class (1) or of another (0)?

    Args:
        labels: (n,) class indices; `ABSENT` stays.

    Returns:
        "class LABEL" -> (n,) zeros and ones.

    Raises:
        ValueError: Fewer than two classes.

    Example:
        >>> list(one_vs_rest([0, 1, 5]))
        ['class 0', 'class 1', 'class 5']
    """
    y = class_labels(labels, "tasks")
    classes = y[y != ABSENT].unique().tolist()
    if len(classes) < 2:
        raise ValueError(message("one_vs_rest", "there must be two classes", f"{len(classes)}", "Pass other labels"))
    return {f"class {c}": torch.where(y == ABSENT, ABSENT, (y == c).long()) for c in classes}


def held_out(labels: Any, classes: Iterable[int]) -> Int[Tensor, " n"]:
    """The task among some classes only, say those that a network has never been trained on.

    Args:
        labels: (n,) class indices.
        classes: At least two that samples have.

    Returns:
        (n,) 0, 1, … in the order given; `ABSENT` for samples of other classes, which have no part in the task.

    Raises:
        ValueError: Fewer than two classes, or one that no sample has.

    Example:
        >>> held_out([3, 7, 1, 7], [7, 3])
        tensor([   1,    0, -100,    0])
    """
    chosen = [int(c) for c in classes]
    y = class_labels(labels, "tasks")
    unknown = sorted(set(chosen) - set(y.tolist()))
    if len(set(chosen)) < 2 or len(set(chosen)) < len(chosen) or unknown:
        got = f"class {unknown[0]}, which no sample has" if unknown else some([str(c) for c in chosen])
        advice = "Name at least two different classes of these labels"
        raise ValueError(message("held_out", "classes must be among the labels", got, advice))
    out = torch.full_like(y, ABSENT)
    for number, c in enumerate(chosen):
        out[y == c] = number
    return out
