"""Many L2-penalised softmax regressions on the same features, minimised together.

A stack of problems shares its features: every fold, task and penalty adds columns to one weight matrix, so one
pass over the features serves all of them. The method is L-BFGS whose initial inverse Hessian is that of the
softmax loss at zero weights (`_precondition.py`); logits are linear in the weights, so a line search costs no
pass over the features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.numerics.matmul import matmul_nt

#: Pairs of steps that L-BFGS remembers.
_MEMORY = 10

#: Steps without a lower gradient norm after which rounding, not the method, is in charge.
_PATIENCE = 100


class Inverse(Protocol):
    """An approximate inverse Hessian of each layer, applied to gradients (b, c, d)."""

    def __call__(self, gradient: Tensor) -> Tensor: ...

    def part(self, layers: Tensor) -> "Inverse":
        """The same for some layers only."""
        ...


Inverses = Mapping[tuple[int, float], Inverse]


@dataclass(frozen=True, eq=False)
class Problems:
    """P regressions over the same n samples, for each of b layers.

    Columns of weights are stacked problem after problem, those with equally many classes next to each other.

    Attributes:
        x: (b, n, d) features; column d - 1 is 1, the intercept's. Features are centred, mean row norm² 1.
        classes: (P,) how many classes each problem has, ascending.
        labels: (P, n) class indices.
        weight: (P, n) weight of each sample; 0 where it is held out, a problem's weights sum to 1.
        penalty: (b, P) λ of each problem, > 0.
        level: (P,) the penalty up to fold-wise rescaling; problems that share it share a preconditioner.
    """

    x: Float[Tensor, "b n d"]
    classes: Int[Tensor, " P"]
    labels: Int[Tensor, "P n"]
    weight: Float[Tensor, "P n"]
    penalty: Float[Tensor, "b P"]
    level: Float[Tensor, " P"]

    @property
    def owner(self) -> Int[Tensor, " c"]:
        """The problem of each column."""
        return torch.repeat_interleave(torch.arange(len(self.classes), device=self.x.device), self.classes)

    def runs(self) -> list[tuple[slice, slice, int]]:
        """Stretches of problems with equally many classes: problems, columns, classes."""
        counts = self.classes.tolist()
        found, start, column = [], 0, 0
        while start < len(counts):
            stop = next((i for i in range(start, len(counts)) if counts[i] != counts[start]), len(counts))
            width = (stop - start) * counts[start]
            found.append((slice(start, stop), slice(column, column + width), counts[start]))
            start, column = stop, column + width
        return found

    def to(self, dtype: torch.dtype) -> "Problems":
        return replace(self, x=self.x.to(dtype), weight=self.weight.to(dtype), penalty=self.penalty.to(dtype))

    def on_rows(self, rows: Tensor) -> "Problems":
        """Only these samples; the others' weights must all be 0."""
        if bool(rows.all()):
            return self
        rows = rows.to(self.x.device)
        return replace(self, x=self.x[:, rows], labels=self.labels[:, rows], weight=self.weight[:, rows])

    def part(self, layers: Tensor, problems: Tensor) -> "Problems":
        """Only these layers and problems."""
        whole = len(layers) == len(self.x)
        return Problems(
            self.x if whole else self.x[layers],
            self.classes[problems],
            self.labels[problems],
            self.weight[problems],
            self.penalty[layers][:, problems],
            self.level[problems],
        )


def residuals(problems: Problems, logits: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
    """Weighted (softmax - one-hot), the loss's gradient with respect to the logits."""
    out = torch.empty_like(logits)
    for which, columns, k in problems.runs():
        shape = (len(logits), -1, k, logits.shape[2])
        chance = torch.softmax(logits[:, columns].view(shape), 2)
        weight, labels = problems.weight[which], problems.labels[which]
        chance *= weight[None, :, None]
        index = labels[None, :, None].expand(len(logits), -1, 1, -1)
        chance.scatter_add_(2, index, -weight[None, :, None].expand_as(index))
        out[:, columns] = chance.flatten(1, 2)
    return out


def free_of_intercept(w: Float[Tensor, "b c d"]) -> Float[Tensor, "b c d"]:
    """Weights with the intercept, which is not penalised, set to 0."""
    free = w.clone()
    free[..., -1] = 0
    return free


def minimise(
    problems: Problems, start: Float[Tensor, "b c d"], inverses: Inverses, *, tol: float, max_iter: int
) -> tuple[Float[Tensor, "b c d"], Int[Tensor, "b P"]]:
    """Lowers every problem's gradient norm to `tol`, or stops after `max_iter` steps.

    Args:
        problems: P regressions for each of b layers, in the dtype to compute in.
        start: The weights to start from.
        inverses: (classes, penalty) -> an approximate inverse Hessian at zero weights, from `_precondition`.
        tol: Euclidean norm of a problem's gradient, intercepts included, for features scaled as its penalty says.
        max_iter: Steps.

    Returns:
        The weights (b, c, d), and how many steps each problem took (b, P).
    """
    result = start.clone()
    steps = torch.zeros(problems.penalty.shape, dtype=torch.int64, device=start.device)
    layers = torch.arange(len(start), device=start.device)
    ids = torch.arange(len(problems.classes), device=start.device)
    owner = problems.owner
    run = _Run(problems, start, inverses)
    best = torch.full_like(problems.penalty, torch.inf)
    since = torch.zeros_like(steps)
    reach = tol * (problems.penalty / problems.level).sqrt()
    for _ in range(max_iter):
        norms = run.norms()
        at = layers[:, None], ids[None]
        better = norms < 0.9 * best[at]
        since[at] = torch.where(better, 0, since[at] + 1)
        best[at] = torch.where(better, norms, best[at])
        active = (norms > reach[at]) & (since[at] < _PATIENCE)  # (b, P) of what is still in the run
        if not bool(active.any()):
            break
        keep_layers, keep_ids = active.any(1), active.any(0)
        if float(active.float().mean()) < 0.75 and not (bool(keep_layers.all()) and bool(keep_ids.all())):
            _write(result, run.w, layers, ids, owner)
            run = run.part(keep_layers.nonzero()[:, 0], keep_ids.nonzero()[:, 0])
            layers, ids = layers[keep_layers], ids[keep_ids]
            active = active[keep_layers][:, keep_ids]
        steps[layers[:, None], ids[None]] += active
        if not run.step(active):
            break
    _write(result, run.w, layers, ids, owner)
    return result, steps


def _write(result: Tensor, w: Tensor, layers: Tensor, ids: Tensor, owner: Tensor) -> None:
    columns = torch.isin(owner, ids).nonzero()[:, 0]
    result[layers[:, None], columns[None]] = w


class _Run:
    """The moving state of L-BFGS on the problems that have not converged."""

    def __init__(self, problems: Problems, w: Tensor, inverses: Inverses) -> None:
        self.problems, self.w, self.inverses = problems, w, inverses
        self.owner = problems.owner
        self.history: list[
            tuple[Tensor, Tensor, Tensor, Tensor]
        ] = []  # steps, gradient changes, the same preconditioned, 1/<s, y>
        self.logits = matmul_nt(w, problems.x)
        self.gradient = self._gradient(residuals(problems, self.logits), w)
        self.preconditioned = self._precondition(self.gradient)

    def norms(self) -> Tensor:
        return self._dot(self.gradient, self.gradient).sqrt()

    def part(self, layers: Tensor, ids: Tensor) -> "_Run":
        """The same run for some layers and problems only."""
        columns = torch.isin(self.owner, ids).nonzero()[:, 0]
        run = object.__new__(_Run)
        run.problems = self.problems.part(layers, ids)
        run.owner = run.problems.owner
        whole = len(layers) == len(self.w)
        run.inverses = self.inverses if whole else {key: m.part(layers) for key, m in self.inverses.items()}

        def cut(t: Tensor) -> Tensor:
            return t[layers][:, columns]

        run.w, run.logits = cut(self.w), cut(self.logits)
        run.gradient, run.preconditioned = cut(self.gradient), cut(self.preconditioned)
        run.history = [(cut(s), cut(y), cut(z), r[layers][:, ids]) for s, y, z, r in self.history]
        return run

    def step(self, active: Tensor) -> bool:
        """One step of every active problem; False where none can be improved any more."""
        direction = self._direction() * active[:, self.owner, None]
        slope = self._dot(self.gradient, direction)
        uphill = slope >= 0  # rounding, or a problem that is done
        if bool(uphill.all()):
            return False
        direction *= ~uphill[:, self.owner, None]
        along = matmul_nt(direction, self.problems.x)
        length, residual = self._line_search(direction, along, slope)
        move = direction.mul_(length[:, self.owner, None])
        self.w = self.w + move
        self.logits.add_(along.mul_(length[:, self.owner, None]))
        gradient = self._gradient(residual, self.w)
        preconditioned = self._precondition(gradient)
        change, change_z = gradient - self.gradient, preconditioned - self.preconditioned
        curvature = self._dot(move, change)
        inverse = torch.where(curvature > 0, 1 / curvature.clamp_min(torch.finfo(curvature.dtype).tiny), 0)
        self.history = [*self.history[1 - _MEMORY :], (move, change, change_z, inverse)]
        self.gradient, self.preconditioned = gradient, preconditioned
        return True

    def _direction(self) -> Tensor:
        """The two-loop recursion. A problem that stood still has 1/<s, y> = 0 and skips that pair."""
        q, z = self.gradient.clone(), self.preconditioned.clone()
        weights = []
        for s, y, my, r in reversed(self.history):
            a = (r * self._dot(s, q))[:, self.owner, None]
            weights.append(a)
            q.addcmul_(a, y, value=-1)
            z.addcmul_(a, my, value=-1)
        if self.history:
            _, y, my, r = self.history[-1]
            scale = torch.where(r > 0, 1 / (r * self._dot(y, my)), 1)
            z *= scale[:, self.owner, None]
        for (s, y, _, r), a in zip(self.history, reversed(weights), strict=True):
            b = (r * self._dot(y, z))[:, self.owner, None]
            z.addcmul_(a - b, s)
        return z.neg_()

    def _line_search(self, direction: Tensor, along: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Step lengths at which the slope has fallen to a fraction, and the residuals there.

        The loss is convex, so slopes alone place the minimum; unlike differences of losses they do not drown in
        rounding near it.
        """
        penalty = self.problems.penalty
        free = free_of_intercept(direction)
        linear = penalty * self._dot(free_of_intercept(self.w), free)
        square = penalty * self._dot(free, free)
        length = torch.ones_like(slope)
        low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
        low_slope = slope
        residual = torch.empty(0)
        for _ in range(12):
            residual = residuals(self.problems, self.logits + length[:, self.owner, None] * along)
            now = self._per_problem((residual * along).sum(2)) + linear + length * square
            bad = now.abs() > 0.9 * slope.abs()
            bad &= slope < 0
            if not bool(bad.any()):
                break
            over = now > 0
            high = torch.where(over, length, high)
            low, low_slope = torch.where(over, low, length), torch.where(over, low_slope, now)
            inside = low + (length - low) * (low_slope / (low_slope - now)).clamp(0.1, 0.9)
            beyond = torch.where(high < torch.inf, (low + high) / 2, length * 3)
            length = torch.where(bad, torch.where(over, inside, beyond), length)
        return length, residual

    def _gradient(self, residual: Tensor, w: Tensor) -> Tensor:
        gradient = matmul_nt(residual, self.problems.x.mT)
        return gradient.addcmul_(self.problems.penalty[:, self.owner, None], free_of_intercept(w))

    def _precondition(self, gradient: Tensor) -> Tensor:
        out = torch.empty_like(gradient)
        for (k, level), inverse in self.inverses.items():
            mine = (self.problems.classes == k) & (self.problems.level == level)
            if bool(mine.all()):
                return inverse(gradient)
            columns = mine[self.owner].nonzero()[:, 0]
            if len(columns):
                out[:, columns] = inverse(gradient[:, columns].contiguous())
        return out

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        return self._per_problem((a * b).sum(2))

    def _per_problem(self, columns: Tensor) -> Tensor:
        """Sums over each problem's columns: (b, c) -> (b, P)."""
        total = torch.zeros(len(columns), len(self.problems.classes), dtype=columns.dtype, device=columns.device)
        return total.index_add_(1, self.owner, columns)
