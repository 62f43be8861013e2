"""Ridge regressions with a free intercept, fitted on some rows and asked about the others, in float64."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repsim._common.messages import message
from repsim.numerics.centring import centre

#: Penalties from here on leave the normal equations' condition number, 1 / λ, small enough for float64.
_EXACT = 1e-9


def ridge_heldout(
    x: Float[Tensor, "n p"],
    targets: Mapping[str, Float[Tensor, "n t"]],
    present: Mapping[str, Bool[Tensor, " n"]],
    train: Bool[Tensor, "f n"],
    penalty: float,
) -> dict[str, tuple[Float[Tensor, "n t"], float, bool]]:
    """Held-out predictions of ridge regressions, one per task and fold.

    Minimises ½ mean ‖y − W x − b‖² + ½ λ ‖W‖² over a fold's rows, x centred and of mean row norm² 1 on them.

    Args:
        x: Finite features.
        targets: Task -> columns to predict.
        present: Task -> the rows that have a part in it.
        train: One row per fold: which samples it is fitted on.
        penalty: λ >= 0.

    Returns:
        Task -> predictions (NaN where no fold holds the row out), the residual of the normal equations as a share of
        their right-hand side, and whether the layer is constant.

    Raises:
        ValueError: λ = 0 with as many features as fitting rows, or more.
    """
    centred = centre(x, torch.float64)
    n, p = x.shape
    features = torch.zeros(n, p, dtype=torch.float64, device=x.device)
    if not centred.constant:
        features = centred.rows(0, n, out=features) / (centred.norm / n**0.5)
    if p > n:  # the same inner products, n wide
        features = torch.linalg.qr(features.T, mode="r").R.T
    features = features.cpu()
    found = {}
    for name, y in targets.items():
        out, residual = torch.full_like(y, torch.nan), 0.0
        for mask in train:
            rows = mask & present[name]
            if penalty == 0 and p >= int(rows.sum()):
                got = f"{p} features and {int(rows.sum())} rows"
                advice = "Use a penalty > 0, narrower layers or more samples"
                must = "a penalty of 0 needs fewer features than fitting rows"
                raise ValueError(message("RegressionTD", must, got, advice))
            out[~mask], left = _one(features, y, rows, ~mask, penalty)
            residual = max(residual, left)
        found[name] = out, residual, centred.constant
    return found


def _one(x: Tensor, y: Tensor, rows: Tensor, asked: Tensor, penalty: float) -> tuple[Tensor, float]:
    mean, level = x[rows].mean(0), y[rows].mean(0)
    fit, target = x[rows] - mean, y[rows] - level
    scale = fit.square().sum(1).mean().sqrt()
    if scale <= 1e-12:  # of the layer's own scale: these rows are all the same
        return level.expand(int(asked.sum()), -1), 0.0
    fit = fit / scale
    n = len(fit)
    right = fit.T @ target / n
    if penalty >= _EXACT:
        gram = fit.T @ fit / n
        gram.diagonal().add_(penalty)
        weights = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
        left = gram @ weights - right
    else:
        # Least squares of the features themselves, whose condition number is not squared; dead features get weight 0.
        u, s, v = torch.linalg.svd(fit, full_matrices=False)
        keep = s > 1e-12 * s[0]
        s = s[keep] / n**0.5
        weights = v[keep].T @ ((s / (s.square() + penalty))[:, None] * (u[:, keep].T @ target)) / n**0.5
        left = fit.T @ (fit @ weights - target) / n + penalty * weights
    norm = float(right.norm())
    return (x[asked] - mean) / scale @ weights + level, float(left.norm()) / norm if norm > 0 else 0.0
