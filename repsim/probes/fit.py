"""Linear probes: one call fits a head for every layer, fold, task and penalty, and certifies each.

A probe is an L2-penalised multinomial logistic regression with a free intercept on features that are centred
and divided by one global scale, so that its predictions do not change when the features are rotated, shifted
or multiplied. Scaling each feature by its own spread would break that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repsim._common.checks import ABSENT, check_labels, is_finite
from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.numerics.precision import full_precision
from repsim.probes import softmax
from repsim.probes.certificate import ProbeCertificates, certify
from repsim.probes.precondition import inverse_hessians
from repsim.probes.scaled_layer import ScaledLayer, padded

#: λ of ½λ‖W‖² beside the mean cross-entropy, for features of mean row norm² 1. See docs/td.md for how it was chosen.
DEFAULT_PENALTY = 1e-4

#: Gradient norm at which a probe counts as converged. Loss minus optimum is then at most tol² / 2λ.
DEFAULT_TOL = 1e-5

#: Entries of a layer up to which stacking layers of equal width pays on a CPU too: three times faster for 600 rows of
#: 64 features, no difference from some 300,000 entries on.
_SMALL = 200_000

#: Gradient norms below this are rounding, for features of mean row norm² 1.
_SEEN = {torch.float32: 1e-6, torch.float64: 1e-14}


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is known of one task's probes, from float64. Arrays are (folds, penalties), or with resamples of the
    folds ((1 + resamples) · folds, penalties), the folds themselves first.

    Attributes:
        gradient_norm: Euclidean norm of the gradient at the weights.
        gap: Bound on the loss minus its minimum.
        relative_gap: The same divided by the loss.
        iterations: Steps taken.
        converged: Whether the gradient norm reached the tolerance.
    """

    gradient_norm: Float[Tensor, "f p"]
    gap: Float[Tensor, "f p"]
    relative_gap: Float[Tensor, "f p"]
    iterations: Int[Tensor, "f p"]
    converged: Bool[Tensor, "f p"]


@dataclass(frozen=True, eq=False)
class LayerProbes:
    """All probes of one layer.

    Attributes:
        heldout: Task -> (penalties, n, classes) float64 logits of each row by the fold that held it out; NaN
            for rows that no fold held out.
        resampled: Task -> (resamples, penalties, n, classes), the same rows answered by the heads of each resample.
        certificates: Task -> what is known of its probes.
        constant: The layer had the same row for every sample; its probes are intercepts.
    """

    heldout: Mapping[str, Float[Tensor, "p n k"]]
    resampled: Mapping[str, Float[Tensor, "s p n k"]]
    certificates: Mapping[str, Certificate]
    constant: bool
    _weights: Mapping[str, Float[Tensor, "f p k d"]]
    _frame: ScaledLayer

    def head(self, task: str, *, fold: int = 0, penalty: int = 0) -> tuple[Tensor, Tensor]:
        """A probe as (coefficients (k, p), intercepts (k,)) in float64, for the features as they came.

        Logits of features x are `x @ coefficients.T + intercepts`.
        """
        return self._frame.head(self._weights[task][fold, penalty])


@full_precision()
def fit_probes(
    layers: Sequence[Float[Tensor, "n _p"]],
    tasks: Mapping[str, Int[Tensor, " n"]],
    train: Bool[Tensor, "f n"],
    *,
    resamples: Int[Tensor, "s f n"] | None = None,
    penalties: Sequence[float] = (DEFAULT_PENALTY,),
    tol: float = DEFAULT_TOL,
    max_iter: int = 2000,
    batch_layers: bool | None = None,
    progress: bool = True,
) -> list[LayerProbes]:
    """Fits every probe of a comparison: layers × folds × tasks × penalties.

    Minimises mean cross-entropy over a fold's training rows + ½ λ s² ‖W‖², with s² the features' mean squared
    distance from their mean on those rows; the held-out rows have no part in a fit. That is scikit-learn's
    `LogisticRegression(C=1 / (λ n_train))` on features centred and divided by s; for two classes, which it gives one
    column of weights and this gives two, its C is twice that.

    Args:
        layers: Features with the same n rows; any widths and devices.
        tasks: Name -> class indices 0..k-1 of the rows; `repsim.tasks.ABSENT` where a row has no part in the task.
        train: One row per fold: which samples it is fitted on. The others are held out.
        resamples: For further heads of each fold, how often each of its training rows counts.
        penalties: The λ to fit, each > 0.
        tol: Gradient norm to reach. The float32 fit is finished in float64 where it stops short.
        max_iter: Steps per probe and precision.
        batch_layers: Fit layers of equal width in one program; None does so where it pays, on a GPU and for layers so
            small that their arithmetic is not what takes the time.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        One `LayerProbes` per layer, in order.

    Raises:
        ValueError: A penalty that is not positive, a fold without training or held-out rows or without one of
            the classes, labels of another length, features that are not finite.

    Cost:
        Per layer a preconditioner, n d² + d³ below width 1,536 and n d · 256 beyond; per step two passes over the
        features for all columns, 4 n d · folds · penalties · Σ classes. Memory: one float32
        copy of the layer (of n × n where it is wider than n), and 30 copies of the weights.
    """
    layers = list(layers)
    n = len(layers[0]) if layers else 0
    train = train.cpu().bool()
    sets = train[None].long() if resamples is None else torch.cat([train[None].long(), resamples.cpu().long()])
    _check(layers, tasks, train, sets, penalties, n, tol)
    plan = _Plan.make(tasks, train, sets, penalties)
    found: list[LayerProbes | None] = [None] * len(layers)
    with progress_bar(len(layers), "probes", "layer", show=progress) as bar:
        for group in _groups(layers, batch_layers):
            frames = [ScaledLayer.make(layers[i]) for i in group]
            for i, probes in zip(group, _fit_group(frames, plan, tol, max_iter), strict=True):
                found[i] = probes
                bar.update()
    return [f for f in found if f is not None]


def _groups(layers: Sequence[Tensor], batch_layers: bool | None) -> list[list[int]]:
    """Which layers are fitted in one program."""
    groups: dict[object, list[int]] = {}
    for i, x in enumerate(layers):
        together = (x.is_cuda or x.numel() <= _SMALL) if batch_layers is None else batch_layers
        key = (padded(x.shape[1], len(x)), x.dtype == torch.float64, x.device) if together else i
        groups.setdefault(key, []).append(i)
    parts = []
    for members in groups.values():
        x = layers[members[0]]
        bytes_each = len(x) * padded(x.shape[1], len(x)) * 4
        room = max(1, (torch.cuda.mem_get_info(x.device)[0] // 8 if x.is_cuda else 2**30) // bytes_each)
        parts += [members[i : i + room] for i in range(0, len(members), room)]
    return parts


@dataclass(frozen=True, eq=False)
class _Plan:
    """The problems that every layer shares, in the solver's order: tasks by number of classes, sets of folds (the
    folds themselves first, then their resamples), folds, penalties.
    """

    tasks: tuple[str, ...]
    classes: tuple[int, ...]
    train: Tensor
    sets: int
    penalties: Tensor
    labels: Tensor  # (P, n)
    share: Tensor  # (tasks · sets · folds, n) float64, what each row counts in a fit

    @classmethod
    def make(cls, tasks: Mapping[str, Tensor], train: Tensor, sets: Tensor, penalties: Sequence[float]) -> "_Plan":
        order = sorted(tasks, key=lambda t: int(tasks[t].max()))
        each = len(sets) * len(train) * len(penalties)
        counts = torch.cat([sets.flatten(0, 1) * (tasks[t].cpu() != ABSENT) for t in order])
        return cls(
            tuple(order),
            tuple(int(tasks[t].max()) + 1 for t in order),
            train,
            len(sets),
            torch.tensor(list(penalties), dtype=torch.float64),
            torch.cat([tasks[t].cpu().long().clamp_min(0).expand(each, -1) for t in order]),
            counts.double() / counts.sum(1, keepdim=True),
        )

    def problems(self, x: Float[Tensor, "b n d"]) -> softmax.Problems:
        """The problems on these layers; λ of each fit is in units of the features' scale on its training rows."""
        device, fits, levels = x.device, len(self.share), len(self.penalties)
        share = self.share.to(device)
        means = torch.zeros(len(x), fits, x.shape[2] - 1, dtype=torch.float64, device=device)
        squares = torch.zeros(len(x), fits, dtype=torch.float64, device=device)
        for part, weight in zip(x[..., :-1].split(512, 1), share.split(512, 1), strict=True):
            rows = part.double()
            means += weight @ rows
            squares += rows.square().sum(2) @ weight.T
        spread = squares - means.square().sum(2)
        level = self.penalties.repeat(fits).to(device)
        scale = spread.clamp_min(1e-12).repeat_interleave(levels, 1)
        each = torch.tensor(self.classes).repeat_interleave(fits // len(self.tasks) * levels)
        weight = share.repeat_interleave(levels, 0).to(x.dtype)
        return softmax.Problems(x, each.to(device), self.labels.to(device), weight, scale * level, level)


def _fit_group(frames: Sequence[ScaledLayer], plan: _Plan, tol: float, max_iter: int) -> list[LayerProbes]:
    x = frames[0].x[None] if len(frames) == 1 else torch.stack([f.x for f in frames])
    problems = plan.problems(x)
    fitted = problems.on_rows(plan.train.any(0))
    w = torch.zeros(len(x), int(problems.classes.sum()), x.shape[2], dtype=x.dtype, device=x.device)
    # float32 goes as far as its rounding lets the gradient be seen; float64 takes over from there.
    working = fitted.to(x.dtype)
    near = max(tol / 2, _SEEN[x.dtype])
    w, steps = softmax.minimise(working, w, inverse_hessians(working), tol=near, max_iter=max_iter)
    exact = certify(problems, w)
    if x.dtype != torch.float64 and bool((exact.gradient_norm > tol).any()):
        working = fitted.to(torch.float64)
        w, more = softmax.minimise(working, exact.w, inverse_hessians(working), tol=tol / 2, max_iter=max_iter)
        steps += more
        exact = certify(problems, w)
    return [_collect(frames[b], plan, exact, steps, b, tol) for b in range(len(frames))]


def _collect(
    frame: ScaledLayer, plan: _Plan, exact: ProbeCertificates, steps: Tensor, b: int, tol: float
) -> LayerProbes:
    folds, levels = len(plan.train), len(plan.penalties)
    fits = plan.sets * folds
    n, d = frame.x.shape
    heldout, resampled, certificates, weights = {}, {}, {}, {}
    problem = column = 0
    for task, k in zip(plan.tasks, plan.classes, strict=True):
        which = slice(problem, problem + fits * levels)
        columns = slice(column, column + fits * levels * k)
        problem, column = which.stop, columns.stop
        logits = exact.logits[b, columns].view(plan.sets, folds, levels, k, n)
        out = torch.full((plan.sets, levels, n, k), torch.nan, dtype=torch.float64, device=logits.device)
        for f in range(folds):
            rows = ~plan.train[f].to(logits.device)
            out[:, :, rows] = logits[:, f][..., rows].mT
        norm, gap = exact.gradient_norm[b, which], exact.gap[b, which]
        shaped = [
            t.view(fits, levels).cpu() for t in (norm, gap, gap / exact.loss[b, which], steps[b, which], norm <= tol)
        ]
        heldout[task], resampled[task], certificates[task] = out[0], out[1:], Certificate(*shaped)
        weights[task] = exact.w[b, columns].view(fits, levels, k, d)
    return LayerProbes(heldout, resampled, certificates, frame.constant, weights, frame)


def _check(
    layers: Sequence[Tensor],
    tasks: Mapping[str, Tensor],
    train: Tensor,
    sets: Tensor,
    penalties: Sequence[float],
    n: int,
    tol: float,
) -> None:
    if not penalties or not all(0 < p < math.inf for p in penalties):
        advice = "Without a penalty the optimum need not exist; use a small one, say 1e-6"
        raise ValueError(message("fit_probes", "every penalty must be > 0", f"{list(penalties)}", advice))
    if not layers or not tasks:
        got = f"{len(layers)} layers and {len(tasks)} tasks"
        raise ValueError(message("fit_probes", "there must be layers and tasks", got, "Pass at least one of each"))
    if not tol > 0:
        raise ValueError(message("fit_probes", "tol must be > 0", f"{tol}", f"Leave it at {DEFAULT_TOL:g}"))
    for i, x in enumerate(layers):
        if x.ndim != 2 or len(x) != n or not x.is_floating_point() or not is_finite(x):
            got = f"{tuple(x.shape)} {x.dtype}" + ("" if is_finite(x) else " with NaN or infinity")
            advice = "Look for a diverged network or unequal sample sets"
            raise ValueError(message("fit_probes", f"layer {i} must be ({n}, p), floating point, finite", got, advice))
    if train.ndim != 2 or train.shape[1] != n:
        got = f"shape {tuple(train.shape)}"
        raise ValueError(message("fit_probes", f"train must be (folds, {n})", got, "One mask of rows per fold"))
    if not bool(train.any(1).all()) or bool(train.all(1).any()):
        got = f"{train.sum(1).tolist()} training rows of {n}"
        advice = "Mark some rows for fitting and leave some to be predicted"
        raise ValueError(message("fit_probes", "every fold must train on some rows and hold out some", got, advice))
    if sets.shape[1:] != train.shape or bool((sets < 0).any()) or bool(sets[:, ~train].any()):
        advice = "Count how often each training row of each fold is drawn"
        got = f"shape {tuple(sets[1:].shape)}, or negative counts, or counts of held-out rows"
        raise ValueError(message("fit_probes", f"resamples must be (s, {len(train)}, {n}) counts", got, advice))
    for name, y in tasks.items():
        check_labels("fit_probes", y, n)
        least = int(y[y != ABSENT].min())
        if least < 0:
            advice = "Number the classes from 0"
            raise ValueError(message("fit_probes", f"labels of {name!r} must be >= 0", f"{least}", advice))
        for fit, counts in enumerate(sets.flatten(0, 1)):
            lost = sorted(set(range(int(y.max()) + 1)) - set(y[counts > 0].tolist()))
            if lost:
                got = f"none of class {lost[0]} in fold {fit % len(train)} of {name!r}"
                advice = "Number the classes 0..k-1 without gaps and mark training rows of every class"
                raise ValueError(message("fit_probes", "training rows must hold every class", got, advice))
