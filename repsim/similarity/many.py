"""`compare_many`: many networks against each other, one number per pair of networks."""

import itertools
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from repsim._common.messages import did_you_mean, message
from repsim._common.progress import progress_bar
from repsim._common.provenance import versions
from repsim.features.activations import Activations
from repsim.features.side_checks import check_same_samples, common_labels
from repsim.metrics import Metric, get_metric, metric_name, own_facts
from repsim.metrics.base import PairwiseResult, TaskMetric, within_bounds
from repsim.networks.correspondence import matched_layers, same_architecture
from repsim.similarity.comparison import announce, clipped_note, provenance_of
from repsim.similarity.matrix import SimilarityMatrix
from repsim.similarity.own_heads import outputs_differ


def compare_many(
    networks: Mapping[str, Activations],
    metric: str | Metric = "cka",
    *,
    layers: str = "matched",
    device: str | torch.device | None = None,
) -> SimilarityMatrix:
    """Compares every network with every other one, each pair by the layers that a rule chooses.

    Details are averaged as the values are, `converged` becoming a share; intervals of single values are no intervals of
    a mean, and are left out wherever the rule averages. The detail `layers` counts the pairs of layers in a cell.

    Args:
        networks: Name -> features of the same samples in the same order; at least two.
        metric: As for `compare`.
        layers: "matched", the mean over layers that correspond: by place within stages, then by relative depth;
            "last", the last layer of each; "best", the mean over layers of the best value that each reaches with any
            layer of the other network, for symmetric measures averaged over both directions; or a layer's name.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        The table, rows and columns both the networks in the order given. A cell is NaN, with its reason, where one of
        its pairs of layers has no number.

    Raises:
        ValueError: Fewer than two networks, different samples, contradicting labels, too few samples, an unknown
            metric, a layer that a network lacks.

    Warns:
        CautionWarning: Once per caution in the result.

    Cost:
        Every layer is prepared once, all in one call. Each pair of networks is then crossed once, for measures that are
        not symmetric twice: L pairs of layers each, for "best" L². Memory: the prepared layers.

    Example:
        >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> sides = {name: Activations.from_arrays({"fc": x**k}) for k, name in ((1, "a"), (2, "b"), (3, "c"))}
        >>> compare_many(sides, "cka").values.round(2)
        array([[1.  , 0.05, 0.38],
               [0.05, 1.  , 0.57],
               [0.38, 0.57, 1.  ]])
    """
    started = time.time()
    chosen = get_metric(metric)
    if len(networks) < 2:
        must, advice = "there must be at least two networks", "Compare layers of one network with compare(a, a)"
        raise ValueError(message("compare_many", must, f"{len(networks)}", advice))
    sides = [replace(side, name=name) for name, side in networks.items()]
    labels = _common(sides, chosen)
    used = [_used(side, layers) for side in sides]
    flat = [
        side[x] if device is None else side[x].to(device) for side, own in zip(sides, used, strict=True) for x in own
    ]
    prepared = iter(chosen.prepare(flat, labels if chosen.needs_labels else None))
    states = [list(itertools.islice(prepared, len(own))) for own in used]
    count = len(sides)
    table = _Table(count)
    both_ways = not chosen.symmetric
    pairs = [(i, j) for i in range(count) for j in range(0 if both_ways else i, count)]
    with progress_bar(len(pairs), "networks", "pair") as bar:
        for i, j in pairs:
            same = same_architecture(sides[i].provenance, sides[j].provenance)
            cell = _cell(chosen, states[i], states[j], used[i], used[j], layers, same)
            if isinstance(chosen, TaskMetric):
                cell.details.update(outputs_differ(sides[i], sides[j]))
            table.fill(i, j, cell, sides[i].name, sides[j].name, mirror=chosen.symmetric)
            bar.update()
    values, clipped = within_bounds(table.values, chosen.bounds)
    cautions = table.cautions(len(pairs))
    if clipped:
        cautions.append(clipped_note(clipped))
    if table.reasons:
        cautions.append(f"{len(table.reasons)} of {values.size} cells are NaN; {next(iter(table.reasons.values()))}")
    names = tuple(networks)
    provenance = {
        "metric": repr(chosen),
        "layers": layers,
        "networks": {side.name: provenance_of(side) for side in sides},
        "versions": versions(),
        "device": str(device or flat[0].device),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
    }
    result = SimilarityMatrix(
        values=values,
        rows=names,
        cols=names,
        metric=metric_name(chosen),
        row_model="networks",
        col_model="networks",
        n=sides[0].n,
        details=table.details,
        reasons=table.reasons,
        cautions=tuple(cautions),
        provenance=provenance,
        facts=own_facts(chosen),
    )
    announce(result, "compare_many")
    return result


@dataclass(frozen=True)
class _Cell:
    """One pair of networks: the mean over its pairs of layers, or why there is none."""

    value: float
    details: dict[str, float]
    reason: str | None = None
    cautions: tuple[str, ...] = ()


class _Table:
    """The cells as they come in."""

    def __init__(self, count: int) -> None:
        self.values: Float[np.ndarray, "m m"] = np.full((count, count), math.nan)
        self.details: dict[str, Float[np.ndarray, "m m"]] = {}
        self.reasons: dict[tuple[int, int], str] = {}
        self._cautions: dict[str, tuple[str, str, int]] = {}

    def fill(self, i: int, j: int, cell: _Cell, row: str, col: str, *, mirror: bool) -> None:
        """Sets a cell; with `mirror` the opposite one too, where what is told of the row holds of the column."""
        reason = None if cell.reason is None else f"{row} × {col}: {cell.reason}"
        for at, swap in [((i, j), False), ((j, i), True)][: 2 if mirror else 1]:
            self.values[at] = cell.value
            if reason is not None:
                self.reasons[at] = reason
            for name, value in cell.details.items():
                name = _other_side(name) if swap and i != j else name
                self.details.setdefault(name, np.full(self.values.shape, math.nan))[at] = value
        for text in cell.cautions:
            # Pairs differ in the numbers of a caution, not in what it says.
            kind = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)
            first, where, times = self._cautions.get(kind, (text, f"{row} × {col}", 0))
            self._cautions[kind] = (first, where, times + 1)

    def cautions(self, pairs: int) -> list[str]:
        """Each kind of caution once, with its first occurrence."""
        return [
            f"{where}: {text}" + (f" (in {times} of {pairs} pairs of networks)" if times > 1 else "")
            for text, where, times in self._cautions.values()
        ]


def _common(sides: Sequence[Activations], metric: Metric) -> torch.Tensor | None:
    """The labels of all sides, after checking that they hold the same samples and enough of them."""
    labels = None
    for a, b in itertools.combinations(sides, 2):
        check_same_samples(a, b, "compare_many")
        found = common_labels(a, b, "compare_many")
        labels = found if labels is None else labels
    if sides[0].n < metric.min_samples:
        must = f"{metric_name(metric)} needs at least {metric.min_samples} samples"
        raise ValueError(message("compare_many", must, f"{sides[0].n}", "Extract on more samples"))
    return labels


def _used(side: Activations, rule: str) -> tuple[str, ...]:
    """The layers of a network that take part."""
    if rule in ("matched", "best"):
        return side.layers
    if rule == "last":
        return side.layers[-1:]
    if rule not in side.layers:
        must = f"layers must be 'matched', 'last', 'best' or a layer of every network ({side.name!r})"
        advice = did_you_mean(rule, side.layers)
        raise ValueError(message("compare_many", must, repr(rule), advice))
    return (rule,)


def _cell(
    metric: Metric,
    rows: list[Any],
    cols: list[Any],
    row_names: Sequence[str],
    col_names: Sequence[str],
    rule: str,
    same: bool,
) -> _Cell:
    if rule == "best":
        return _best(metric, metric.pairwise(rows, cols), row_names, col_names)
    index = matched_layers(row_names, col_names, same=same) if rule == "matched" else [(0, 0)]
    found = [metric.pairwise([rows[i]], [cols[j]]) for i, j in index]
    cautions = tuple(dict.fromkeys(text for cross in found for text in cross.cautions))
    for (i, j), cross in zip(index, found, strict=True):
        for why in cross.reasons.values():
            reason = f"{row_names[i]} × {col_names[j]}: {why}"
            return _Cell(math.nan, {"layers": float(len(index))}, reason, cautions)
    details = {
        name: float(np.mean([float(cross.details[name]) for cross in found]))
        for name in found[0].details
        if rule != "matched" or not _interval(name)
    }
    value = float(np.mean([float(cross.values) for cross in found]))
    return _Cell(value, {**details, "layers": float(len(index))}, None, cautions)


def _best(metric: Metric, found: PairwiseResult, row_names: Sequence[str], col_names: Sequence[str]) -> _Cell:
    """The mean over layers of the best value of each; a layer without any number leaves the mean without one."""
    values = found.values.cpu().numpy()
    worst = -math.inf if metric.kind == "similarity" else math.inf
    filled = np.where(np.isnan(values), worst, values)
    pick = np.argmax if metric.kind == "similarity" else np.argmin
    directions = [np.column_stack([np.arange(len(values)), pick(filled, axis=1)])]
    if metric.symmetric:
        directions.append(np.column_stack([pick(filled, axis=0), np.arange(values.shape[1])]))
    weights = np.zeros_like(values)
    for chosen in directions:
        for i, j in chosen:
            if np.isnan(values[i, j]):
                reason = f"{row_names[i]} × {col_names[j]}: {found.reasons[int(i), int(j)]}"
                return _Cell(math.nan, {"layers": 0.0}, reason, found.cautions)
            weights[i, j] += 1 / (len(chosen) * len(directions))
    used = weights > 0

    def mean(array: np.ndarray) -> float:
        return float((array[used] * weights[used]).sum())

    details = {name: mean(array.cpu().numpy()) for name, array in found.details.items() if not _interval(name)}
    return _Cell(mean(values), {**details, "layers": float(used.sum())}, None, found.cautions)


def _interval(detail: str) -> bool:
    return detail in ("ci_low", "ci_high")


def _other_side(detail: str) -> str:
    """What a detail of the row layer is called where the row is the column."""
    for one, other in (("_row", "_col"), ("_col", "_row")):
        if detail.endswith(one):
            return detail.removesuffix(one) + other
    return detail
