"""What is counted from the answers of many networks: all pairs of one strategy's, layer by layer and task by task.

Probes of all networks and tasks are fitted in one call for each layer; after that a pair costs a comparison of two
lists of answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim._common.checks import ABSENT
from repsim.features.activations import Activations
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.base import PairwiseResult, within_bounds
from repsim.metrics.transferred.td import TD, HardPredictions
from repsim.studies.common.network_means import NetworkMean

#: A number of a strategy's networks by its name: `td`, `cka`, …
Numbers = dict[str, NetworkMean]


@dataclass(frozen=True, eq=False)
class StrategyFeatures:
    """Images that heads are fitted on and asked about, as every network sees them.

    Attributes:
        sides: Strategy -> features of its networks, all of the same rows; those that heads are fitted on come first.
        fitted: How many rows those are.
        tasks: Task -> (n,) labels of all rows, `ABSENT` where a row has no part in it.
    """

    sides: Mapping[str, Sequence[Activations]]
    fitted: int
    tasks: Mapping[str, Int[Tensor, " n"]]

    @property
    def layers(self) -> tuple[str, ...]:
        return next(iter(self.sides.values()))[0].layers


@dataclass(eq=False)
class PairStatistics:
    """Numbers of every task, layer and strategy.

    Attributes:
        numbers: (task, layer) -> strategy -> its numbers.
        reasons: (task, layer, strategy) -> why a number is missing.
        answers: (task, layer) -> strategy -> its networks' answers.
    """

    numbers: dict[tuple[str, str], dict[str, Numbers]] = field(default_factory=dict)
    reasons: dict[tuple[str, str, str], str] = field(default_factory=dict)
    answers: dict[tuple[str, str], dict[str, list[HardPredictions]]] = field(default_factory=dict)


def count(asked: StrategyFeatures, metric: TD, into: PairStatistics) -> None:
    """Compares all pairs of networks of one strategy at every layer, by TD in each task and by CKA.

    Args:
        asked: The images.
        metric: TD with the settings of its heads; which rows they are fitted on is the images' business.
        into: Where the numbers go.

    Cost:
        Networks × layers × tasks × (1 + resamples) heads and as many products for CKA as there are layers; pairs are
        counted, some 0.1 ms each.
    """
    metric = replace(metric, fit_rows=tuple(range(asked.fitted)))
    sides = [side for group in asked.sides.values() for side in group]
    for layer in asked.layers:
        # All networks and tasks together; not all layers too, as the logits of every head are held until they are read.
        prepared = metric.prepare_tasks([side[layer] for side in sides], asked.tasks)
        alike, unlike_reasons = {}, {}
        for name, group in asked.sides.items():
            alike[name], unlike_reasons[name] = _cka(group, layer, asked.fitted)
        for task in asked.tasks:
            states = iter(prepared[task])
            answers = {name: [next(states) for _ in group] for name, group in asked.sides.items()}
            into.answers[task, layer] = answers
            into.numbers[task, layer] = {}
            for name, own in answers.items():
                numbers, reason = _td(metric, own, asked.sides[name])
                into.numbers[task, layer][name] = {**numbers, "cka": alike[name]}
                reason = reason or unlike_reasons[name]
                if reason:
                    into.reasons[task, layer, name] = reason


def own_heads(asked: StrategyFeatures, labels: Int[Tensor, " n"]) -> dict[str, Numbers]:
    """What the networks' own last layers answer: accuracies on both kinds of rows, and how often two of them differ.

    Args:
        asked: The images the networks were made for.
        labels: (n,) what is right; `ABSENT` for classes that the networks do not know.

    Returns:
        Strategy -> its numbers; empty where the networks give no answer with a place for every class.
    """
    here = labels != ABSENT
    outputs = [side.outputs for group in asked.sides.values() for side in group]
    if any(given is None or given.shape[1] <= int(labels[here].max()) for given in outputs):
        return {}
    old = torch.arange(len(labels)) < asked.fitted
    found = {}
    for name, group in asked.sides.items():
        said = torch.stack([side.outputs.argmax(1).cpu() for side in group if side.outputs is not None])
        train, test = (_accuracies(said, labels, here & rows) for rows in (old, ~old))
        answers = said[:, here & ~old]
        differ = (answers[:, None] != answers[None]).double().mean(2).numpy()
        found[name] = {
            "accuracy": NetworkMean(test),
            "train_accuracy": NetworkMean(train),
            "gap": NetworkMean(train - test),
            "outputs_disagree": NetworkMean(differ),
        }
    return found


def _accuracies(said: Int[Tensor, "s n"], labels: Tensor, rows: Bool[Tensor, " n"]) -> Float[np.ndarray, " s"]:
    return (said[:, rows] == labels[rows]).double().mean(1).numpy()


def _td(metric: TD, answers: Sequence[HardPredictions], group: Sequence[Activations]) -> tuple[Numbers, str]:
    """TD of one strategy's pairs with what stands beside it, and why there is none where there is none."""
    found = metric.pairwise(answers, answers)
    detail = {name: array.numpy() for name, array in found.details.items()}
    td, a, b = found.values.numpy(), detail["accuracy_row"], detail["accuracy_col"]
    beyond = a + b - 2 * a * b  # 1 − e, with e the agreement in right and wrong that chance gives
    consistent = np.where(beyond > 0, detail["error_consistency"] * beyond, 0.0)
    numbers = {
        "probe_accuracy": NetworkMean(a[:, 0]),
        "td": NetworkMean(td),
        "independent": NetworkMean(detail["independent"]),
        "td_ratio": NetworkMean(td, detail["independent"]),
        "error_consistency": NetworkMean(np.where(np.isnan(td), td, consistent), beyond),
    }
    if metric.resamples:
        numbers |= {"floor": NetworkMean(detail["floor_row"][:, 0]), "excess": NetworkMean(detail["excess"])}
    return numbers, _first_reason(found, group)


def _cka(group: Sequence[Activations], layer: str, fitted: int) -> tuple[NetworkMean, str]:
    metric = CKA()
    states = metric.prepare([side[layer][fitted:] for side in group], None)
    found = metric.pairwise(states, states)
    return NetworkMean(within_bounds(found.values.numpy(), metric.bounds)[0]), _first_reason(found, group)


def _first_reason(found: PairwiseResult, group: Sequence[Activations]) -> str:
    """Which pair has no number first, and why; empty where all have one."""
    for (i, j), why in found.reasons.items():
        return f"{group[i].name} × {group[j].name}: {why}"
    return ""
