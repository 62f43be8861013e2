"""How layers come to what they are in the end: similarity to the trained network, and where it fits its own images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from repsim._common.messages import message
from repsim._common.provenance import versions
from repsim.data.image_set import ImageSet
from repsim.features.activations import Activations
from repsim.metrics import Metric, get_metric, metric_name
from repsim.metrics.transferred.td import TD
from repsim.networks.network import Network
from repsim.probes.fit import DEFAULT_PENALTY
from repsim.robustness import ThreatModel
from repsim.robustness.adversarial_sets import adversarial
from repsim.similarity.comparison import provenance_of
from repsim.studies.common.finding import Finding
from repsim.studies.common.fixed_heads import fit_heads
from repsim.studies.common.groups import features
from repsim.studies.common.inputs import Extras, StudyInputs
from repsim.studies.common.layer_pair import LayerPairResult, compared
from repsim.studies.robustness.dynamics_report import HeadAnswers, reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What `repsim robustness` finds this analysis by, and when it is its turn.
NAME, ORDER = "dynamics", 5

#: Gradient evaluations of the attack on the networks themselves: scores by the way, at half the usual cost.
_STEPS = 10


def dynamics(
    checkpoints: Mapping[str, Mapping[int, Network]],
    train: ImageSet,
    test: ImageSet,
    *,
    layers: Any = None,
    reduction: str = "mean",
    metric: str | Metric = "cka",
    penalty: float = DEFAULT_PENALTY,
    threat: ThreatModel | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Finding:
    """Which layers settle first, and in which of them does a network fit its own images better than others?

    Features of the test images are compared with those of the network at the end and at the checkpoint before. A linear
    head per layer and epoch, fitted on the training images' features, answers the training images and the test images:
    its two accuracies, their gap, and how often it answers otherwise than the head of the last epoch (TD) on either.

    Args:
        checkpoints: Group -> epoch -> network, of one training per group; the last epoch is the network as trained.
        train: Images that the networks were trained on, with labels.
        test: Images that they were not trained on.
        layers: As `extract` takes them; None for the stem, the residual blocks and the last features.
        reduction: As `extract` takes it.
        metric: The similarity to the end and to the checkpoint before.
        penalty: λ of the heads, as for TD.
        threat: Add the networks' own accuracies under PGD-10 in this ball, on both sets.
        seed: Of the attack's starts.
        progress: Show bars for what takes more than two seconds.

    Returns:
        The part "dynamics". Tables: one row per group, epoch and layer; "networks", the networks' own accuracies.

    Raises:
        ValueError: A group with fewer than two epochs, training images that are test images too, training images
            without one of the classes; as for `extract` and `adversarial`.

    Source:
        Over epochs, layer by layer, for robust training: Cianfarani, Bhagoji, Sehwag, Zhao, Mittal, Zheng 2022, arXiv
        2206.09868. The heads and the intervals are this project's own.

    Cost:
        Per checkpoint one extraction of both sets and one head per layer. Memory: features of three checkpoints.
    """
    _check(checkpoints, train, test)
    chosen = get_metric(metric)
    ball = None if threat is None else ThreatModel.of(threat, "dynamics")
    options = {"layers": layers, "reduction": reduction, "progress": progress}
    heads = TD(penalty=penalty, resamples=0)
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    answered: dict[str, dict[int, list[HeadAnswers]]] = {}
    facts: dict[str, Any] = {}
    cautions: set[str] = set()
    for group, networks in checkpoints.items():
        epochs = sorted(networks)
        last = _of(features([networks[epochs[-1]]], test, **options))
        before: Activations | None = None
        facts[group] = {"network": last.name, "epochs": epochs, **provenance_of(last)}
        answered[group] = {}
        for epoch in epochs:
            network = networks[epoch]
            seen = _of(features([network], train, **options))
            unseen = last if epoch == epochs[-1] else _of(features([network], test, **options))
            answered[group][epoch] = answers(seen, unseen, heads)
            end = alike(unseen, last, chosen)
            previous = None if before is None else alike(unseen, before, chosen)
            for place, layer in enumerate(unseen.layers):
                row = {"group": group, "epoch": epoch, "layer": layer, "place": place, "to_final": end[place].value}
                row["to_previous"] = np.nan if previous is None else previous[place].value
                cautions.update(caution for found in (end, previous or ()) for x in found for caution in x.cautions)
                rows.append({**row, "reason": end[place].reason})
            before = unseen
            score = {"group": group, "epoch": epoch, "train": _own(seen), "test": _own(unseen)}
            for name, data in (("train", train), ("test", test)) if ball is not None else ():
                assert ball is not None
                made = adversarial(network, data, ball, steps=_STEPS, seed=seed, progress=progress)
                score[f"{name}_attacked"] = made.record["adversarial_accuracy"]
            scores.append(score)
        final = answered[group][epochs[-1]]
        for row in rows[-len(epochs) * len(final) :]:
            row |= _numbers(answered[group][row["epoch"]][row["place"]], final[row["place"]], row)
    told = {"reduction": reduction, "runs": facts, "cautions": sorted(cautions)}
    return _part(rows, scores, answered, train, test, chosen, heads, ball, told)


def answers(seen: Activations, unseen: Activations, metric: TD) -> list[HeadAnswers]:
    """What heads fitted on all of one set's rows answer to these and to another set's, layer by layer.

    Args:
        seen: The features of the training images, with labels.
        unseen: Those of the test images, of the same layers.
        metric: Whose penalty and tolerance the heads have.
    """
    assert seen.labels is not None
    assert unseen.labels is not None
    labels = torch.cat([seen.labels, unseen.labels])
    fitted = (torch.arange(len(labels)) < seen.n)[None]
    heads = fit_heads([torch.cat([seen[layer], unseen[layer]]) for layer in seen], labels, fitted, metric)
    right = labels.unique(return_inverse=True)[1].split([seen.n, unseen.n])
    found = []
    for head, layer in zip(heads, seen, strict=True):
        given = head.answers(seen[layer]), head.answers(unseen[layer])
        found.append(HeadAnswers(*given, given[0] == right[0], given[1] == right[1], head.reason))
    return found


def alike(a: Activations, b: Activations, metric: Metric) -> list[LayerPairResult]:
    """Each layer of a with the same layer of b."""
    states = metric.prepare([side[layer] for side in (a, b) for layer in a], a.labels if metric.needs_labels else None)
    return [
        compared(metric, (states[place], states[len(a) + place]), (a[layer], b[layer]))
        for place, layer in enumerate(a.layers)
    ]


def _numbers(now: HeadAnswers, final: HeadAnswers, row: Mapping[str, Any]) -> dict[str, Any]:
    """A head's accuracies, their gap, and how often it answers otherwise than the head of the last epoch."""
    reason = now.reason or final.reason
    accuracy = [float(right.double().mean()) for right in (now.train_right, now.test_right)]
    td = [float((a != b).double().mean()) for a, b in ((now.train, final.train), (now.test, final.test))]
    numbers = {"head_train": accuracy[0], "head_test": accuracy[1], "gap": now.gap}
    numbers = {name: np.nan if now.reason else value for name, value in numbers.items()}
    discrepancy = {"td_train": np.nan if reason else td[0], "td_test": np.nan if reason else td[1]}
    return {**numbers, **discrepancy, "reason": "; ".join(dict.fromkeys(filter(None, (row["reason"], reason))))}


def _part(
    rows: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]],
    answered: Mapping[str, Mapping[int, Sequence[HeadAnswers]]],
    train: ImageSet,
    test: ImageSet,
    metric: Metric,
    heads: TD,
    ball: ThreatModel | None,
    told: Mapping[str, Any],
) -> Finding:
    import pandas as pd

    table = pd.DataFrame(rows)
    panels = {f"{metric_name(metric)} to the end": "to_final", "train less test accuracy of heads": "gap"}

    def draw() -> "Figure":
        from repsim.plots.study_attacks import epoch_heatmaps

        own: dict[str, Any] = {group: table[table.group == group] for group in answered}
        values = [[_grid(part, column) for column in panels.values()] for part in own.values()]
        layers = [list(part.sort_values("place").layer.unique()) for part in own.values()]
        return epoch_heatmaps(list(answered), list(panels), values, layers, [sorted(a) for a in answered.values()])

    protocol = {
        "train": {"name": train.name, "n": len(train), "digest": train.digest},
        "test": {"name": test.name, "n": len(test), "digest": test.digest},
        "metric": repr(metric),
        "heads": {"penalty": heads.penalty, "tol": heads.tol, "fitted on": "all training images"},
        "attack": None if ball is None else f"PGD-{_STEPS} in {ball}, one random start",
        **told,
        "versions": versions(),
    }
    return Finding(
        "dynamics",
        "Which layers settle first in training, and in which does a network fit its own images better than others?",
        {"": table, "networks": pd.DataFrame(scores)},
        reading(table, scores, answered, metric),
        draw,
        protocol,
    )


def _grid(part: Any, column: str) -> Float[np.ndarray, "l e"]:
    return part.pivot(index="place", columns="epoch", values=column).to_numpy()


def _check(checkpoints: Mapping[str, Mapping[int, Network]], train: ImageSet, test: ImageSet) -> None:
    if not checkpoints:
        raise ValueError(message("dynamics", "there must be a group", "none", "Pass {group: {epoch: network}}"))
    for group, networks in checkpoints.items():
        if len(networks) < 2:
            advice = "Keep more with repsim train --snapshots DIR"
            must = f"{group!r} must have at least two epochs"
            raise ValueError(message("dynamics", must, f"{len(networks)}", advice))
        records = [network.provenance.get("record", {}) for network in networks.values()]
        for name in ("recipe", "settings", "seed", "start"):
            told = [record[name] for record in records if name in record]
            other = next((value for value in told if value != told[0]), None)
            if other is not None:
                must, got = f"{group!r} must be of one training", f"{name} {told[0]!r} and {other!r}"
                raise ValueError(
                    message("dynamics", must, got, "Keep each training's snapshots in a folder of its own")
                )
    # Folders for training and testing number their files alike, so an id in both is one image only if its pixels are.
    places = {name: i for i, name in enumerate(train.ids)}
    both = {
        name for i, name in enumerate(test.ids) if name in places and train.images[places[name]].equal(test.images[i])
    }
    if both:
        got = f"{len(both)} in both, {next(i for i in test.ids if i in both)!r} first"
        raise ValueError(message("dynamics", "training and test images must be different ones", got, "Split them"))


def _of(found: Mapping[str, Activations]) -> Activations:
    return next(iter(found.values()))


def _own(side: Activations) -> float:
    """Accuracy of the network's own head; NaN where it does not answer with logits."""
    return float("nan") if side.accuracy is None else side.accuracy


def needs(extras: Extras) -> str:
    """What is lacking of snapshots and the images they were trained on."""
    there = {"snapshots": extras.snapshots, "training images": extras.train is not None}
    missing = [name for name, given in there.items() if not given]
    return f"no {' and no '.join(missing)}" if missing else ""


def run(given: StudyInputs) -> Finding:
    """The analysis of what `repsim robustness` is given."""
    return dynamics(
        given.extras.snapshots or {},
        given.extras.train or given.data,
        given.data,
        threat=given.largest,
        layers=given.layers,
        reduction=given.reduction,
        progress=given.progress,
    )
