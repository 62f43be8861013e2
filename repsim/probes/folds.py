"""Which rows a head is fitted on and which it answers: stratified folds, and bootstrap resamples of them."""

import warnings
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from repsim._common.checks import ABSENT
from repsim._common.messages import message


def stratified_folds(
    tasks: Int[Tensor, " n"] | Mapping[str, Int[Tensor, " n"]], folds: int, seed: int
) -> Bool[Tensor, "f n"]:
    """Training masks of stratified cross-fitting: each row is held out by exactly one fold.

    Args:
        tasks: Class labels, or several tasks by name, whose combinations of classes are spread over the folds alike.
            Rows that are absent from a task do not count for it.
        folds: At least 2.
        seed: Of the draw.

    Raises:
        ValueError: A class with fewer members than folds.
    """
    from sklearn.model_selection import StratifiedKFold  # slow to import

    named = tasks if isinstance(tasks, Mapping) else {"": tasks}
    for name, labels in named.items():
        classes, counts = labels[labels != ABSENT].unique(return_counts=True)
        smallest = int(counts.argmin())
        if len(classes) == 1 and folds >= 2 and len(labels) < folds:
            got, advice = f"{len(labels)} samples and {folds} folds", "Use fewer folds or more samples"
            raise ValueError(message("stratified_folds", "every fold must have a sample", got, advice))
        if folds < 2 or counts[smallest] < folds:
            which = f" of {name!r}" if name else ""
            got = f"class {int(classes[smallest])}{which} with {int(counts[smallest])} and {folds} folds"
            advice = "Use at least 2 folds and at most as many as the smallest class has samples, or add samples"
            raise ValueError(message("stratified_folds", "every class must have a sample in every fold", got, advice))
    y = strata(named).cpu().numpy()
    train = torch.ones(folds, len(y), dtype=torch.bool)
    with warnings.catch_warnings():
        # Combinations of classes may be rarer than folds; the classes themselves are not.
        warnings.filterwarnings("ignore", message="The least populated class")
        for f, (_, held) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y)):
            train[f, torch.from_numpy(held)] = False
    return train


def strata(tasks: Mapping[str, Int[Tensor, " n"]]) -> Int[Tensor, " n"]:
    """A number for each combination of classes."""
    return torch.stack([y.cpu() for y in tasks.values()]).unique(dim=1, return_inverse=True)[1]


def bootstrap_folds(
    train: Bool[Tensor, "f n"], groups: Int[Tensor, " n"], resamples: int, seed: int
) -> Int[Tensor, "s f n"]:
    """How often each of `resamples` bootstrap samples of a fold's training rows holds each row.

    Rows are drawn within each group, so that no class is lost; groups in the order in which they first appear, so that
    their numbers do not matter.
    """
    seen = list(dict.fromkeys(groups.tolist()))
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(resamples, *train.shape, dtype=torch.int64)
    for f, mask in enumerate(train):
        for group in seen:
            rows = (mask & (groups == group)).nonzero()[:, 0]
            drawn = torch.randint(max(1, len(rows)), (resamples, len(rows)), generator=generator)
            counts[:, f].scatter_add_(1, rows[drawn], torch.ones_like(drawn))
    return counts
