"""`judge`: augmentation strategies by what they do to networks that differ in their seed alone.

Feng et al. (2020, arXiv 2007.12446) report that augmentations which help generalisation make independently trained
networks more alike in Transferred Discrepancy. `judge` asks that of any strategies, and how much is accuracy alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repsim._common.messages import message
from repsim._common.provenance import versions
from repsim.data.image_set import ImageSet, check_image_set
from repsim.features.activations import Activations
from repsim.metrics import get_metric
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.transferred.td import TD
from repsim.networks.layers import Layers
from repsim.networks.network import Network
from repsim.studies.augmentation import tables
from repsim.studies.augmentation.between import between_table
from repsim.studies.augmentation.features import Task, asked_sets
from repsim.studies.augmentation.pair_statistics import Numbers, PairStatistics, StrategyFeatures, count, own_heads
from repsim.studies.augmentation.report import reading
from repsim.studies.common.finding import Finding
from repsim.studies.common.group_checks import check_sizes
from repsim.studies.common.network_means import NetworkMean

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

#: What the task of the training labels is called.
LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Judgement:
    """Strategies, judged.

    Attributes:
        strategies: Strategy -> its numbers at the headline's layer and task.
        layer: The last layer before the networks' own heads, the headline's.
        parts: The answers as tables, pictures and their readings: "strategies", "layers", and "between" if asked.
    """

    strategies: Mapping[str, Numbers]
    layer: str
    parts: tuple[Finding, ...]

    @property
    def table(self) -> "DataFrame":
        """One row per strategy: every number with its standard error over networks."""
        return self.parts[0].tables[""]

    @property
    def reading(self) -> tuple[str, ...]:
        """What the numbers say, sentence by sentence."""
        return self.parts[0].reading

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.parts))

    def _repr_html_(self) -> str:
        """What a notebook shows: every part."""
        return "".join(part._repr_html_() for part in self.parts)

    def to_frame(self) -> "DataFrame":
        """The table of the strategies."""
        return self.table

    def save(self, folder: str | Path) -> list[Path]:
        """Writes every part's picture, tables and reading; returns the files."""
        return [file for part in self.parts for file in part.save(folder)]


def judge(
    networks: Mapping[str, Sequence[Network]],
    train: ImageSet,
    test: ImageSet,
    *,
    tasks: Mapping[str, Task] | None = None,
    layers: Layers = None,
    reduction: str = "mean",
    metric: str | TD = "td",
    fit_limit: int | None = None,
    without: Sequence[int] = (),
    between: bool = False,
    progress: bool = True,
) -> Judgement:
    """Judges training strategies by how differently their networks answer downstream tasks.

    Every network of a strategy differs from the others in its seed alone. Linear heads are fitted on the features of
    the training images and asked about the test images; TD is the share of answers in which the heads of two networks
    of one strategy differ, mean over all pairs. Beside it stand accuracies, what corrects TD for them, CKA of the test
    images, and standard errors that leave out one network at a time.

    Args:
        networks: Strategy -> its networks: two or more, equally many of each, all of one architecture. Differences are
            held against the strategy "none", or else against the first.
        train: The images heads are fitted on, those that the networks were trained on.
        test: The images that are asked about; they have no part in any fit.
        tasks: Downstream tasks beside the labels: name -> {group: classes} for coarser classes, a list of classes for
            the task among these alone, or (images to fit on, images to ask about) of another data set with its labels.
        layers: As for `extract`; None takes the residual blocks, or else every leaf module. The last one before the
            network's own head is the headline's.
        reduction: As for `extract`.
        metric: "td" with the settings of its heads, as in "td(resamples=0)"; `fit_rows` is set here.
        fit_limit: Fit heads on this many training images, classes in proportion; None on all.
        without: Classes that the networks were not trained on: they are left out of the labels' task and of the
            accuracies of the networks' own heads. Ask about them by a task.
        between: Also compare networks of different strategies.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        The judgement: print it, read `.table`, or save it.

    Raises:
        ValueError: One network of a strategy or unequally many, the same weights twice in a strategy, other
            architectures, tasks that do not fit the labels, the same images to fit on and to ask about.
        TypeError: Images that are no `ImageSet`.

    Source:
        The question: Feng, Zhai, He, Wang, Dong 2020, arXiv 2007.12446. The protocol is this project's own,
        described in docs/td.md.

    Cost:
        One run of each network over all images; for each layer the probes of all networks and tasks in one
        call; pairs are counted, some 0.1 ms each at every layer and task.
    """
    chosen = _checked(networks, train, test, metric)
    asked = asked_sets(
        networks,
        train,
        test,
        labels=LABELS,
        tasks=dict(tasks or {}),
        layers=layers,
        reduction=reduction,
        fit_limit=fit_limit,
        without=without,
        progress=progress,
    )
    protocol = _protocol(networks, train, test, asked, chosen, reduction, without)
    return judged(asked, chosen, protocol, between=between)


def judged(
    asked: Sequence[StrategyFeatures], metric: TD, protocol: Mapping[str, Any], *, between: bool = False
) -> Judgement:
    """The judgement from features.

    Args:
        asked: The images and what the networks make of them; those the networks were made for come first, with the
            task "labels".
        metric: TD with the settings of its heads.
        protocol: What the parts shall record.
        between: As for `judge`.
    """
    home = asked[0]
    counted = PairStatistics()
    for images in asked:
        count(images, metric, counted)
    layer = before_the_head(next(iter(home.sides.values()))[0])
    heads = own_heads(home, home.tasks[LABELS])
    every = [task for images in asked for task in images.tasks]
    strategies = {}
    for name, numbers in counted.numbers[LABELS, layer].items():
        strategies[name] = {**heads.get(name, {}), **numbers}
        if len(every) > 1:
            tds = [counted.numbers[task, layer][name]["td"].above for task in every]
            strategies[name]["td_tasks"] = NetworkMean(np.mean(tds, axis=0))
    reference = "none" if "none" in strategies else next(iter(strategies))
    differ, alike = tables.differences(strategies, reference), tables.correlations(strategies, seed=metric.seed)
    missing = {n: why for (t, at, n), why in counted.reasons.items() if (t, at) == (LABELS, layer)}
    headline = {
        "": tables.main_table(strategies, len(counted.answers[LABELS, layer][reference][0].rows)),
        "networks": tables.network_table(strategies, {n: [s.name for s in g] for n, g in home.sides.items()}),
        "differences": differ,
        "correlations": alike,
    }
    family = f"{tables.score_of(strategies)} and td_ratio of every strategy less {reference}, at {layer}"
    facts = {**protocol, "layer": layer, "reference": reference, "tasks": every, "corrected_by_holm_over": family}
    size = next(iter(strategies.values()))["td"].networks
    said = reading(strategies, differ, alike, missing)
    parts = [
        Finding(
            "strategies",
            f"{len(strategies)} strategies, {size} networks of each, at {layer!r}",
            headline,
            said,
            partial(_scatter, headline[""], tables.score_of(strategies)),
            facts,
        ),
        _layers(counted, every, home.layers, layer, facts),
    ]
    if between:
        table = between_table(counted.answers[LABELS, layer], home, layer, metric)
        parts.append(_between(table, list(strategies), facts))
    return Judgement(strategies, layer, tuple(parts))


def _layers(
    counted: PairStatistics, tasks: Sequence[str], layers: Sequence[str], headline: str, facts: Mapping[str, Any]
) -> Finding:
    """TD and CKA of every layer, and TD of every task at the headline's layer."""
    table = tables.layer_table(counted)
    said = []
    for name in counted.numbers[LABELS, headline]:
        values = {at: counted.numbers[LABELS, at][name]["td"].estimate.value for at in layers}
        known = {at: value for at, value in values.items() if not math.isnan(value)}
        if known:
            least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            said.append(f"{name}: TD least at {least!r}, {known[least]:.4f}, most at {most!r}, {known[most]:.4f}.")
    holes = [f"{t}, {at!r}, {n}: {why}." for (t, at, n), why in counted.reasons.items()]
    title = f"TD and CKA within each strategy, {len(layers)} layers, {len(tasks)} tasks"
    draw = partial(_heatmap, table, list(tasks), list(layers), headline)
    return Finding("layers", title, {"": table}, (*said, *holes), draw, facts)


def _between(table: "DataFrame", names: list[str], facts: Mapping[str, Any]) -> Finding:
    said = []
    for name in names:
        rows = table.query("strategy == @name and other != @name").to_dict("records")
        own = [row for row in rows if not math.isnan(row["td"])]
        if own:
            near = min(own, key=lambda row: row["td"])
            said.append(f"{name}: TD is least to {near['other']}, {near['td']:.4f} (s.e. {near['td_se']:.4f}).")
    said.append("These orders are not tested, and a raw TD is least to accurate networks: read it with the ratio.")
    said.append("Pairs of networks that started from the same seed are left out where the strategies differ.")
    return Finding(
        "between", "Strategies against each other", {"": table}, tuple(said), partial(_pairs, table, names), facts
    )


def _scatter(table: "DataFrame", score: str) -> "Figure":
    from repsim.plots.study_strategies import accuracy_scatter

    return accuracy_scatter(table, score)


def _heatmap(table: "DataFrame", tasks: list[str], layers: list[str], headline: str) -> "Figure":
    from repsim.plots.study_strategies import layer_heatmaps

    return layer_heatmaps(table, tasks, layers, headline)


def _pairs(table: "DataFrame", names: list[str]) -> "Figure":
    from repsim.plots.study_strategies import pair_heatmaps

    return pair_heatmaps(table, names)


def before_the_head(side: Activations) -> str:
    """The last layer that is not the network's own answer.

    Raises:
        ValueError: There is no other layer.
    """
    for layer in reversed(side.layers):
        if side.outputs is None or not torch.equal(side[layer], side.outputs):
            return layer
    got, advice = f"{side.layers[-1]!r} alone, which is the head", "Name a layer before it"
    raise ValueError(message("judge", "layers must hold one before the networks' own head", got, advice))


def check_question(train: ImageSet, test: ImageSet, metric: str | TD) -> TD:
    """What must hold of the images and the measure, whatever the networks are.

    Args:
        train: Images to fit heads on.
        test: Images to ask about.
        metric: As for `judge`.

    Returns:
        The measure.

    Raises:
        ValueError: Another measure than TD, the same images twice, or too few.
    """
    check_image_set("judge", train, test)
    chosen = get_metric(metric)
    if not isinstance(chosen, TD) or chosen.fit_rows is not None:
        advice = 'Pass "td", or "td(...)" without fit_rows'
        raise ValueError(message("judge", "metric must be TD, fitted on the training images", repr(chosen), advice))
    if train.digest == test.digest:
        got, advice = f"{train.name!r} twice", "Pass images to fit on and other images to ask about"
        raise ValueError(message("judge", "train and test must be different images", got, advice))
    if len(test) < CKA().min_samples:
        got, advice = f"{len(test)}", "Pass more test images"
        raise ValueError(message("judge", f"there must be {CKA().min_samples} test images", got, advice))
    return chosen


def _checked(networks: Mapping[str, Sequence[Network]], train: ImageSet, test: ImageSet, metric: str | TD) -> TD:
    """What must hold before any network runs."""
    chosen = check_question(train, test, metric)
    counts = {name: len(group) for name, group in networks.items()}
    if not counts:
        raise ValueError(message("judge", "there must be strategies", "none", "Pass {name: networks}"))
    check_sizes("judge", counts, advice="Train the missing ones, or leave networks out of the others")
    return chosen


def _protocol(
    networks: Mapping[str, Sequence[Network]],
    train: ImageSet,
    test: ImageSet,
    asked: Sequence[StrategyFeatures],
    metric: TD,
    reduction: str,
    without: Sequence[int],
) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    home = asked[0]
    return {
        "metric": repr(metric),
        "cka": repr(CKA()),
        "reduction": reduction,
        "layers": list(home.layers),
        "fitted_on": {"name": train.name, "n": home.fitted, "digest": train.digest},
        "asked_about": {"name": test.name, "n": len(test), "digest": test.digest},
        "classes_not_trained_on": list(without),
        "networks": {
            name: {n.name: s.provenance["weights_sha256"] for n, s in zip(group, home.sides[name], strict=True)}
            for name, group in networks.items()
        },
        "versions": versions(),
    }
