"""Networks run over the images that heads are fitted on and asked about, once each; and the tasks of these images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from repsim._common.checks import ABSENT
from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.data.image_set import ImageSet, stratified_rows
from repsim.data.tasks import coarser, held_out
from repsim.features.activations import Activations
from repsim.features.extraction import extract
from repsim.networks.layers import Layers, study_layers
from repsim.networks.network import Network
from repsim.networks.weight_files import weights_digest
from repsim.studies.augmentation.pair_statistics import StrategyFeatures
from repsim.studies.common.group_checks import check_architectures, check_weights

#: {group: classes}, classes, or the images of another data set to fit on and to ask about.
Task = Mapping[str, Sequence[int]] | Sequence[int] | tuple[ImageSet, ImageSet]


def asked_sets(
    networks: Mapping[str, Sequence[Network]],
    train: ImageSet,
    test: ImageSet,
    *,
    labels: str,
    tasks: Mapping[str, Task],
    layers: Layers,
    reduction: str,
    fit_limit: int | None,
    without: Sequence[int],
    progress: bool,
) -> list[StrategyFeatures]:
    """The features of all networks on the images of all tasks; the training labels' images come first.

    Args:
        networks: Strategy -> its networks.
        train: Images to fit heads on.
        test: Images to ask about.
        labels: What the task of the training labels is called.
        tasks: Further tasks, as for `judge`.
        layers: As for `judge`.
        reduction: As for `extract`.
        fit_limit: How many images heads are fitted on; None takes all.
        without: Classes that have no part in the labels' task.
        progress: Show a bar when it takes more than two seconds.

    Raises:
        ValueError: Networks that are copies or of other architectures; tasks or images that do not fit.
    """
    images = joined_sets(train, test, labels=labels, tasks=tasks, fit_limit=fit_limit, without=without)
    joined, fitted, known = images.joined, images.fitted, images.tasks
    chosen = study_layers(next(iter(networks.values()))[0]) if layers is None else layers
    one, advice = "all networks must have one architecture", "Judge networks of one architecture at a time"
    check_architectures(networks, "judge", must=one, advice=advice)
    digests = {s: [weights_digest(network.net.state_dict()) for network in group] for s, group in networks.items()}
    for strategy, group in networks.items():
        where = [f"{network.name!r} of {strategy!r}" for network in group]
        check_weights(list(zip(where, digests[strategy], strict=True)), "judge")
    sides: dict[str, dict[str, list[Activations]]] = {name: {s: [] for s in networks} for name in joined}
    total = sum(len(group) for group in networks.values()) * len(joined)
    with progress_bar(total, "run networks", "network", show=progress) as bar:
        for strategy, group in networks.items():
            for network, digest in zip(group, digests[strategy], strict=True):
                for name in joined:
                    side = _run(network, f"{strategy}/{network.name}", joined[name], name, chosen, reduction)
                    side = replace(side, provenance={**side.provenance, "weights_sha256": digest})
                    first = next(iter(sides[labels].values()))
                    _check_layers(side, first[0] if first else side)
                    sides[name][strategy].append(side)
                    bar.update()
    own = {name: known if name == labels else {name: joined[name].labels} for name in joined}
    return [StrategyFeatures(sides[name], fitted[name], own[name]) for name in joined]


@dataclass(frozen=True)
class Joined:
    """The images of all tasks, those that heads are fitted on first.

    Attributes:
        joined: Task -> images; tasks that are made of the training labels share those of the labels' task.
        fitted: Task -> how many of them heads are fitted on.
        tasks: Tasks made of the training labels -> (n,) labels.
    """

    joined: Mapping[str, ImageSet]
    fitted: Mapping[str, int]
    tasks: Mapping[str, Int[Tensor, " n"]]


def joined_sets(
    train: ImageSet,
    test: ImageSet,
    *,
    labels: str,
    tasks: Mapping[str, Task],
    fit_limit: int | None,
    without: Sequence[int],
) -> Joined:
    """The images and the labels of all tasks, checked; arguments and errors as for `asked_sets`."""
    if labels in tasks:
        raise ValueError(message("judge", f"a task must not be called {labels!r}", "it", "That is the labels' task"))
    others = {name: _pair(name, task) for name, task in tasks.items() if isinstance(task, tuple) and _images(task)}
    images = {labels: (train, test), **others}
    fitted = {name: _limited(fit, fit_limit) for name, (fit, _) in images.items()}
    joined = {name: _joined(name, fitted[name], asked) for name, (_, asked) in images.items()}
    y = joined[labels].labels
    known = {labels: _without(y, without)}
    for name, task in tasks.items():
        if name not in others:
            known[name] = _of_classes(name, task, y)
    _check_rows(known, len(fitted[labels]))
    return Joined(joined, {name: len(fit) for name, fit in fitted.items()}, known)


def _run(network: Network, name: str, data: ImageSet, task: str, layers: Layers, reduction: str) -> Activations:
    try:
        return extract(network, data, layers=layers, reduction=reduction, name=name, progress=False)
    except ValueError as error:
        raise ValueError(f"judge, task {task!r}, {name}: {error}") from error


def _of_classes(name: str, task: Any, y: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A task made of the labels."""
    try:
        return coarser(y, task) if isinstance(task, Mapping) else held_out(y, task)
    except (ValueError, TypeError) as error:
        raise ValueError(f"judge, task {name!r}: {error}") from error


def _images(task: Sequence[object]) -> bool:
    return any(isinstance(part, ImageSet) for part in task)


def _pair(name: str, task: tuple[object, ...]) -> tuple[ImageSet, ImageSet]:
    if len(task) == 2 and isinstance(task[0], ImageSet) and isinstance(task[1], ImageSet):
        return task[0], task[1]
    got, advice = f"{len(task)} things for {name!r}", "Pass (images to fit on, images to ask about)"
    raise ValueError(message("judge", "another data set must be two sets of images", got, advice))


def _limited(data: ImageSet, limit: int | None) -> ImageSet:
    rows = stratified_rows(data.labels.numpy(), limit=limit, seed=0)
    return data if len(rows) == len(data) else data.take(torch.from_numpy(rows))


def _joined(name: str, fit: ImageSet, asked: ImageSet) -> ImageSet:
    """One set, so that each network runs once; the rows that heads are fitted on first."""
    one, two = ("×".join(map(str, data.images.shape[1:])) for data in (fit, asked))
    if one != two or fit.images.dtype != asked.images.dtype:
        got = f"{one} {fit.images.dtype} and {two} {asked.images.dtype}"
        must = f"images to fit on and to ask about must be alike, task {name!r}"
        raise ValueError(message("judge", must, got.replace("torch.", ""), "Load both in one way"))
    if fit.classes and asked.classes and fit.classes != asked.classes:
        got = f"{len(fit.classes)} and {len(asked.classes)} classes, or other names"
        must = f"both sets of task {name!r} must have the same classes"
        raise ValueError(message("judge", must, got, "A folder for each class in both, also where it is empty in one"))
    ids = tuple(f"fit/{x}" for x in fit.ids) + tuple(f"asked/{x}" for x in asked.ids)
    images, labels = torch.cat([fit.images, asked.images]), torch.cat([fit.labels, asked.labels])
    return ImageSet(images, labels, ids, f"{fit.name} and {asked.name}", fit.classes)


def _without(labels: Int[Tensor, " n"], classes: Sequence[int]) -> Int[Tensor, " n"]:
    """The labels with some classes absent."""
    return labels.where(~torch.isin(labels, torch.tensor(list(classes), dtype=torch.int64)), ABSENT)


def _check_rows(tasks: Mapping[str, Int[Tensor, " n"]], fitted: int) -> None:
    """Every class of a task must be among the rows that heads are fitted on, and some rows must be asked about."""
    for name, y in tasks.items():
        have, ask = (set(part[part != ABSENT].tolist()) for part in (y[:fitted], y[fitted:]))
        if ask - have or not ask:
            got = f"none of class {min(ask - have)}" if ask else "no image to ask about"
            advice = "Fit on more images, or choose other classes"
            raise ValueError(message("judge", f"task {name!r} must have images of every class to fit on", got, advice))


def _check_layers(side: Activations, first: Activations) -> None:
    if side.layers != first.layers:
        got = f"{len(side.layers)} layers in {side.name} and {len(first.layers)} in {first.name}, or other names"
        raise ValueError(message("judge", "all networks must have the same layers", got, "Judge one architecture"))
