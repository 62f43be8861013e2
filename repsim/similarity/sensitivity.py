"""Does a claim about refitted heads survive other penalties and other numbers of rows to fit on?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim._common.checks import ABSENT, check_labels
from repsim._common.html import ShownAsTable
from repsim._common.messages import message
from repsim.features.activations import Activations
from repsim.features.side_checks import check_same_samples, common_labels
from repsim.probes.fit import fit_probes
from repsim.probes.folds import bootstrap_folds, stratified_folds

if TYPE_CHECKING:
    import pandas as pd

#: What `TDSensitivity` holds of every cell.
_NUMBERS = ("td", "td_se", "floor", "floor_se", "excess", "excess_se", "accuracy_row", "accuracy_col")


@dataclass(frozen=True, eq=False)
class TDSensitivity(ShownAsTable):
    """TD of every pair of layers over a grid of penalties and shares of the rows that heads are fitted on.

    Attributes:
        penalties: (p,) λ of the heads.
        shares: (s,) of each fold's fitting rows, in (0, 1].
        fit_rows: (s,) how many rows that is, in the smallest fold.
        rows: r layers of the first side.
        cols: c layers of the second side.
        row_model: What the first side is called.
        col_model: What the second side is called.
        n: Answered rows.
        td: (p, s, r, c) share of held-out rows that the two heads answer differently.
        td_se: Its standard error over the held-out rows.
        floor: How often two heads on one layer differ that are fitted on bootstrap resamples of the same rows, on
            average over the two layers.
        floor_se: Its standard error over the held-out rows.
        excess: How much more often heads of different resamples differ between the layers than on one of them.
        excess_se: Its standard error over the held-out rows.
        accuracy_row: Of the first side's heads.
        accuracy_col: Of the second side's heads.
        outputs_disagree: How often the networks' own heads answer differently; NaN where they are not known. Those saw
            the networks' training images, refitted ones `fit_rows`.
    """

    penalties: tuple[float, ...]
    shares: tuple[float, ...]
    fit_rows: tuple[int, ...]
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    row_model: str
    col_model: str
    n: int
    td: Float[np.ndarray, "p s r c"]
    td_se: Float[np.ndarray, "p s r c"]
    floor: Float[np.ndarray, "p s r c"]
    floor_se: Float[np.ndarray, "p s r c"]
    excess: Float[np.ndarray, "p s r c"]
    excess_se: Float[np.ndarray, "p s r c"]
    accuracy_row: Float[np.ndarray, "p s r c"]
    accuracy_col: Float[np.ndarray, "p s r c"]
    outputs_disagree: float

    def __repr__(self) -> str:
        grid = f"{len(self.penalties)} penalties × {len(self.shares)} sizes"
        layers = f"{len(self.rows)} × {len(self.cols)} layers"
        return f"TDSensitivity({self.row_model} × {self.col_model}, {layers}, {grid}, n = {self.n:,})"

    def to_frame(self) -> "pd.DataFrame":
        """One row per penalty, share and pair of layers, with the number of rows that a head was fitted on."""
        import pandas as pd

        lines = []
        for place in np.ndindex(*self.td.shape):
            p, s, i, j = place
            where = {"row_layer": self.rows[i], "col_layer": self.cols[j], "penalty": self.penalties[p]}
            size = {"share": self.shares[s], "fit_rows": self.fit_rows[s], "n": self.n}
            numbers = {name: float(getattr(self, name)[place]) for name in _NUMBERS}
            lines.append({**where, **size, **numbers, "outputs_disagree": self.outputs_disagree})
        return pd.DataFrame(lines)


def td_sensitivity(
    a: Activations,
    b: Activations,
    *,
    penalties: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2),
    shares: Sequence[float] = (1 / 3, 2 / 3, 1.0),
    folds: int = 5,
    resamples: int = 2,
    seed: int = 0,
) -> TDSensitivity:
    """TD and its noise floor over penalties and fitting sizes: what of a claim about heads is the head's own doing?

    All heads of both sides are fitted in one call. A smaller share is drawn within each class and is a part of the
    larger ones; the held-out rows are the same everywhere.

    Args:
        a: First side, with labels.
        b: Second side; the same samples.
        penalties: At least two λ, each > 0.
        shares: At least two shares of the fitting rows, in (0, 1].
        folds: Of the cross-fitting.
        resamples: Bootstrap resamples per fold and share for the floor, at least 2.
        seed: Of folds, shares and resamples.

    Returns:
        All numbers as a `TDSensitivity`; NaN where a head did not converge or a layer is constant.

    Raises:
        ValueError: Different samples, no labels, a grid of one value, settings out of range, too few rows of a class.

    Cost: folds · penalties · shares · (1 + resamples) heads per layer.
    """
    check_same_samples(a, b, "td_sensitivity")
    penalties, shares = tuple(penalties), tuple(shares)
    _check_grid("penalties", penalties, 0, np.inf, "As in (1e-5, 1e-4, 1e-3, 1e-2)")
    _check_grid("shares", shares, 0, 1, "As in (1 / 3, 2 / 3, 1)")
    if not isinstance(resamples, int) or resamples < 2:
        advice = "A floor compares two heads of one layer"
        raise ValueError(message("td_sensitivity", "resamples must be a whole number >= 2", repr(resamples), advice))
    labels = common_labels(a, b, "td_sensitivity")
    if labels is None:
        advice = "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y)"
        raise ValueError(message("td_sensitivity", "a downstream task is needed", "no labels", advice))
    check_labels("td_sensitivity", labels, a.n)
    here = labels != ABSENT
    y = torch.full_like(labels, ABSENT)
    y[here] = labels[here].unique(return_inverse=True)[1]
    train = stratified_folds(y, folds, seed)
    parts = _nested(train, y, shares, seed)
    counts = [torch.stack(parts)]
    for s, part in enumerate(parts):
        counts.append(bootstrap_folds(part.bool(), y, resamples, seed + 1 + s))
    sides = [a] if a is b else [a, b]
    layers = [side[name] for side in sides for name in side.layers]
    fitted = fit_probes(layers, {"": y}, train, resamples=torch.cat(counts), penalties=penalties)
    asked = ((~train).any(0) & here).nonzero()[:, 0]
    known = [_known(probes) for probes in fitted]
    answers = [probes.resampled[""].argmax(-1).cpu()[..., asked] for probes in fitted]
    r = len(a.layers)
    given = (answers[:r], answers[r:] or answers), (known[:r], known[r:] or known)
    numbers = _numbers(*given, y[asked], len(shares), resamples)
    own = np.nan
    if a.outputs is not None and b.outputs is not None and a.outputs.shape == b.outputs.shape:
        own = float((a.outputs.argmax(1).cpu() != b.outputs.argmax(1).cpu()).double().mean())
    sizes = tuple(int((part & here).sum(1).min()) for part in parts)
    names = a.layers, b.layers, a.name, b.name
    return TDSensitivity(penalties, shares, sizes, *names, len(asked), **numbers, outputs_disagree=own)


def _numbers(
    answers: tuple[list[Tensor], list[Tensor]],
    known: tuple[list[np.ndarray], list[np.ndarray]],
    labels: Int[Tensor, " m"],
    shares: int,
    resamples: int,
) -> dict[str, np.ndarray]:
    penalties = answers[0][0].shape[1]
    shape = penalties, shares, len(answers[0]), len(answers[1])
    found = {name: np.full(shape, np.nan) for name in _NUMBERS}
    others = [(i, j) for i in range(resamples) for j in range(resamples) if i != j]
    for p, s, i, j in np.ndindex(*shape):
        if not (known[0][i][p] and known[1][j][p]):
            continue
        x, z = answers[0][i][:, p], answers[1][j][:, p]
        first = shares + s * resamples
        u, v = x[first : first + resamples], z[first : first + resamples]
        own = sum((u[k] != u[l]).double() + (v[k] != v[l]).double() for k, l in others) / (2 * len(others))
        between = sum((u[k] != v[l]).double() for k, l in others) / len(others)
        for name, each in (("td", (x[s] != z[s]).double()), ("floor", own), ("excess", between - own)):
            found[name][p, s, i, j] = float(torch.as_tensor(each).mean())
            found[f"{name}_se"][p, s, i, j] = float(torch.as_tensor(each).std()) / np.sqrt(len(labels))
        found["accuracy_row"][p, s, i, j] = float((x[s] == labels).double().mean())
        found["accuracy_col"][p, s, i, j] = float((z[s] == labels).double().mean())
    return found


def _known(probes: Any) -> Bool[np.ndarray, " p"]:
    """For each penalty, whether all heads converged on a layer that says something."""
    return probes.certificates[""].converged.all(0).cpu().numpy() & (not probes.constant)


def _nested(
    train: Bool[Tensor, "f n"], y: Int[Tensor, " n"], shares: Sequence[float], seed: int
) -> list[Int[Tensor, "f n"]]:
    """Each share of each class's fitting rows, the first of one random order, and at least one row of each."""
    place = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).argsort()
    parts = [torch.zeros(train.shape, dtype=torch.int64) for _ in shares]
    for f, mask in enumerate(train):
        for label in y.unique():
            rows = (mask & (y == label)).nonzero()[:, 0]
            rows = rows[place[rows].argsort()]
            for share, part in zip(shares, parts, strict=True):
                part[f, rows[: max(1, round(share * len(rows)))]] = 1
    return parts


def _check_grid(name: str, grid: tuple[float, ...], low: float, high: float, advice: str) -> None:
    if len(set(grid)) < 2:
        got = ", ".join(f"{x:g}" for x in grid) or "none"
        raise ValueError(message("td_sensitivity", f"{name} must be at least two values", got, advice))
    wrong = [x for x in grid if not low < x <= high or x == np.inf]
    if wrong:
        must = f"{name} must be positive" + (" and at most 1" if high == 1 else " and finite")
        raise ValueError(message("td_sensitivity", must, f"{wrong[0]:g}", advice))
