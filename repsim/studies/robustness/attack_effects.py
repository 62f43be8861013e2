"""What an attack does to the features of the network that it is made against, beyond what noise of its size does."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from repsim._common.messages import message
from repsim._common.provenance import versions
from repsim.data.image_set import ImageSet
from repsim.features.activations import Activations
from repsim.metrics import Metric, get_metric, metric_name
from repsim.metrics.transferred.td import TD
from repsim.networks.network import Network
from repsim.recipes.standard import Standard
from repsim.robustness import ThreatModel
from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.noise_control import same_norm_noise
from repsim.robustness.threat import lengths
from repsim.similarity.comparison import provenance_of
from repsim.studies.common.finding import Finding
from repsim.studies.common.fixed_heads import FixedHeads, fit_heads
from repsim.studies.common.group_checks import Networks, check_groups
from repsim.studies.common.groups import features
from repsim.studies.common.inputs import Extras, StudyInputs
from repsim.studies.common.layer_pair import compared
from repsim.studies.robustness.attack_report import AttackCurves, differences, reading, summary
from repsim.studies.robustness.baselines import check_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What `repsim robustness` finds this analysis by, and when it is its turn.
NAME, ORDER, ASKS_HEADS = "clean_and_attacked", 4, True

#: The two ways in which images are moved: (radius, "attacked" or "control").
AttackCondition = tuple[float, str]


def default_radii(norm: str, networks: Iterable[Network] = (), data: ImageSet | None = None) -> tuple[float, ...]:
    """A quarter, half and the whole of the radius that networks were trained or tested at, in pixel units of [0, 1].

    Args:
        norm: "linf" or "l2".
        networks: What their records say counts first: the largest radius of adversarial training, or else of the test
            that was recorded.
        data: What a preset of this name says counts next. None, or a set without a preset, leaves what is usual for
            32 × 32 images: 2, 4 and 8 of 255. For l2 these are 0.25, 0.5 and 1 everywhere, as no recipe trains in it.

    Returns:
        Three radii.
    """
    if norm == "l2":
        return 0.25, 0.5, 1.0
    settings = [dict(network.provenance.get("record", {}).get("settings") or {}) for network in networks]
    preset = "" if data is None else data.name.partition("/")[0]
    tested = [{"eps": Standard.preset(preset).eval_eps}] if preset in Standard.PRESETS else []
    for name, given in (("eps", settings), ("eval_eps", settings), ("eps", tested)):
        found = [s[name] for s in given if isinstance(s.get(name), int | float) and 0 < s[name] <= 1]
        if found:
            most = float(max(found))
            return most / 4, most / 2, most
    return 2 / 255, 4 / 255, 8 / 255


def clean_and_attacked(
    groups: Networks,
    data: ImageSet,
    threat: str = "linf",
    eps: Sequence[float] | None = None,
    *,
    steps: int = 20,
    metrics: Sequence[str | Metric] = ("cka", "td"),
    layers: Any = None,
    reduction: str = "mean",
    seed: int = 0,
    progress: bool = True,
) -> Finding:
    """How far do attacked images lie from the clean ones inside the network that was attacked, layer by layer?

    Every network is attacked by itself, and its features of the clean images are compared with its features of the
    same images moved: by PGD, and as a control by noise of the attack's norm, which knows nothing of the network. What
    the attack does beyond the noise is (control − attacked) of a similarity and (attacked − control) of a distance.
    TD is asked twice. "fixed head": the head of each layer is fitted on clean features, and asked about held-out images
    clean and moved; this is what a classifier that stays as it is would notice. "refitted heads": a head of its own on
    either side, as `compare` does; this is what the moved features still tell.

    Args:
        groups: Group -> networks that differ in their seed alone.
        data: Clean images with labels.
        threat: The norm, "linf" or "l2".
        eps: Its radii, in pixel units of [0, 1]; None is `default_radii` of the norm, the networks and the data.
        steps: Gradient evaluations of PGD, steps of 2.5 ε / steps.
        metrics: Measures of two sets of features, as `compare` takes them; TD goes without its noise floor.
        layers: As `extract` takes them; None for the stem, the residual blocks and the last features.
        reduction: As `extract` takes it.
        seed: Of the attack's starts and of the noise.
        progress: Show bars for what takes more than two seconds.

    Returns:
        The part "clean_and_attacked". Tables: one row per network, layer, radius, condition and measure; "summary", the
        means of the groups with standard errors over networks; "differences", effects of depth and of the group with
        95 % intervals; "accuracy", of the networks themselves, with the mean norm of the change.

    Raises:
        ValueError: No radius, radii out of range; as for `check_groups` and `adversarial`.

    Source:
        Benign against adversarial representations by CKA: Cianfarani, Bhagoji, Sehwag, Zhao, Mittal, Zheng 2022, arXiv
        2206.09868. The control, the two forms of TD and the intervals are this project's own.

    Cost:
        Per network and radius `steps` gradients of all images and two extractions; heads of TD for 2 + 2 · radii sets
        of layers. Memory: the features of one network under all conditions.
    """
    eps = default_radii(threat, (n for networks in groups.values() for n in networks), data) if eps is None else eps
    threats = [ThreatModel(threat, e) for e in sorted(set(eps))]  # type: ignore[arg-type]
    if not threats:
        raise ValueError(message("clean_and_attacked", "there must be a radius", "none", "Pass, say, eps=(8/255,)"))
    check_groups(groups, "clean_and_attacked")
    check_metrics("clean_and_attacked", metrics)
    chosen = [get_metric(m) for m in metrics]
    options = {"layers": layers, "reduction": reduction, "progress": progress}
    controls = {t.eps: same_norm_noise(data, t, seed=seed) for t in threats}
    rows: list[dict[str, Any]] = []
    accuracies: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for group, networks in groups.items():
        for network in networks:
            clean = _of(features([network], data, **options))
            facts[network.name] = {"group": group, **provenance_of(clean)}
            sides: dict[AttackCondition, Activations] = {}
            accuracies.append({"group": group, "network": network.name, "eps": 0.0, "condition": "clean"})
            accuracies[-1] |= {"accuracy": clean.accuracy, "mean_norm": 0.0}
            for t in threats:
                attacked = adversarial(network, data, t, steps=steps, seed=seed, progress=progress)
                for condition, moved in (("attacked", attacked), ("control", controls[t.eps])):
                    side = sides[t.eps, condition] = _of(features([network], moved, **options))
                    found = {"accuracy": side.accuracy, "mean_norm": _mean_norm(data, moved, t)}
                    named = {"group": group, "network": network.name, "eps": t.eps, "condition": condition}
                    accuracies.append({**named, **found})
            rows += [
                {"group": group, "network": network.name, **row}
                for metric in chosen
                for row in moved_features(clean, sides, metric)
            ]
    return _part(rows, accuracies, threat, chosen, data, steps, seed, reduction, facts)


def moved_features(
    clean: Activations, moved: Mapping[AttackCondition, Activations], metric: Metric
) -> list[dict[str, Any]]:
    """One measure of a network's clean features and the same network's moved ones, layer by layer.

    Features that have not moved at all are at the measure's value of equal features, and not at its rounding.

    Args:
        clean: The features of the images as they are, with labels for measures of answers.
        moved: Radius and condition -> those of the moved images.
        metric: The measure; for TD both the refitted and the fixed heads are asked.

    Returns:
        One row per layer and condition: layer, place, eps, condition, measure, kind, value, accuracy_clean and
        accuracy_moved (of heads), chance (what unrelated layers would have, where a measure says it), reason, cautions.
    """
    name = metric_name(metric)
    metric = replace(metric, resamples=0) if isinstance(metric, TD) else metric
    sides = [clean, *moved.values()]
    states = metric.prepare([side[x] for side in sides for x in clean], clean.labels if metric.needs_labels else None)
    count, rows = len(clean), []
    for k, ((eps, condition), side) in enumerate(moved.items(), 1):
        for place, layer in enumerate(clean.layers):
            found = compared(metric, (states[place], states[k * count + place]), (clean[layer], side[layer]))
            row = {"layer": layer, "place": place, "eps": eps, "condition": condition}
            row |= {"measure": f"{name}, refitted heads" if isinstance(metric, TD) else name, "kind": metric.kind}
            beside = [found.details.get(x, np.nan) for x in ("accuracy_row", "accuracy_col", "chance")]
            row |= {"value": found.value, **_beside(*beside), "reason": found.reason}
            rows.append({**row, "cautions": found.cautions})
    return (_fixed_heads(name, clean, moved, metric) if isinstance(metric, TD) else []) + rows


def _fixed_heads(
    name: str, clean: Activations, moved: Mapping[AttackCondition, Activations], metric: TD
) -> list[dict[str, Any]]:
    labels = clean.labels
    assert labels is not None  # the measure itself has asked for them
    train = metric.training_rows({"labels": labels})
    heads = fit_heads([clean[layer] for layer in clean], labels, train, metric)
    right = labels.unique(return_inverse=True)[1][heads[0].asked]
    before = [head.held_out(clean[layer]) for head, layer in zip(heads, clean, strict=True)]

    def row(eps: float, condition: str, place: int, layer: str, head: FixedHeads) -> dict[str, Any]:
        after = head.held_out(moved[eps, condition][layer])
        value = np.nan if head.reason else float((before[place] != after).double().mean())
        beside = [float((answers == right).double().mean()) for answers in (before[place], after)]
        where = {"layer": layer, "place": place, "eps": eps, "condition": condition}
        what = {"measure": f"{name}, fixed head", "kind": metric.kind}
        return {**where, **what, "value": value, **_beside(*beside), "reason": head.reason, "cautions": ()}

    return [
        row(*condition, place, layer, head)
        for condition in moved
        for place, (layer, head) in enumerate(zip(clean, heads, strict=True))
    ]


def _beside(clean: float, moved: float, chance: float = np.nan) -> dict[str, float]:
    return {"accuracy_clean": clean, "accuracy_moved": moved, "chance": chance}


def _part(
    rows: list[dict[str, Any]],
    accuracies: list[dict[str, Any]],
    threat: str,
    metrics: Sequence[Metric],
    data: ImageSet,
    steps: int,
    seed: int,
    reduction: str,
    facts: Mapping[str, Any],
) -> Finding:
    import pandas as pd

    table, accuracy = pd.DataFrame(rows), pd.DataFrame(accuracies)
    curves = list(curves_of(rows))
    means = summary(curves)

    def draw() -> "Figure":
        from repsim.plots.study_attacks import attacked_curves

        return attacked_curves(means, threat)

    protocol = {
        "threat": threat,
        "eps": sorted({row["eps"] for row in rows}),
        "attack": f"PGD, {steps} steps of 2.5 eps / {steps}, one random start",
        "control": "noise of the attack's norm: every pixel up or down by eps (linf), a random direction (l2)",
        "metrics": [repr(metric) for metric in metrics],
        "cautions": sorted({caution for row in rows for caution in row["cautions"]}),
        "n": len(data),
        "data": {"name": data.name, "digest": data.digest},
        "seed": seed,
        "reduction": reduction,
        "networks": dict(facts),
        "versions": versions(),
    }
    return Finding(
        "clean_and_attacked",
        "How far do attacked images lie from the clean ones inside the attacked network, beyond noise of their size?",
        {
            "": table.drop(columns=["kind", "cautions"]),
            "summary": means,
            "differences": differences(curves),
            "accuracy": accuracy,
        },
        reading(curves, accuracies, threat, steps),
        draw,
        protocol,
    )


def curves_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[AttackCurves]:
    """The rows of `moved_features`, gathered by measure and within a measure by group."""
    measures, groups = (list(dict.fromkeys(row[x] for row in rows)) for x in ("measure", "group"))
    for measure, group in itertools.product(measures, groups):
        own = [row for row in rows if (row["measure"], row["group"]) == (measure, group)]
        layers, networks, radii = (list(dict.fromkeys(row[x] for row in own)) for x in ("layer", "network", "eps"))
        values: dict[str, Float[np.ndarray, "s e l"]] = {
            condition: np.full((len(networks), len(radii), len(layers)), np.nan)
            for condition in ("attacked", "control")
        }
        for row in own:
            at = networks.index(row["network"]), radii.index(row["eps"]), row["place"]
            values[row["condition"]][at] = row["value"]
        why = next((row["reason"] for row in own if row["reason"]), "")
        yield AttackCurves(group, measure, own[0]["kind"], tuple(layers), tuple(radii), **values, reason=why)


def _of(found: Mapping[str, Activations]) -> Activations:
    return next(iter(found.values()))


def _mean_norm(data: ImageSet, moved: ImageSet, threat: ThreatModel) -> float:
    """How long the change of an image is in the threat's norm, on average."""
    total = 0.0
    for first in range(0, len(data), 256):
        rows = slice(first, first + 256)
        change = moved.pixels(rows).double() - data.pixels(rows).double()
        total += float((change.abs().amax((1, 2, 3)) if threat.norm == "linf" else lengths(change)).sum())
    return total / len(data)


def needs(extras: Extras) -> str:
    """What is lacking: nothing more than every analysis is given."""
    return ""


def run(given: StudyInputs) -> Finding:
    """The analysis of what `repsim robustness` is given."""
    return clean_and_attacked(
        given.groups,
        given.data,
        given.threat,
        given.eps,
        steps=given.steps,
        layers=given.layers,
        reduction=given.reduction,
        progress=given.progress,
    )
