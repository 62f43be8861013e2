"""What is known of fitted softmax regressions, computed in float64 from their weights alone."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.probes.softmax import Problems, free_of_intercept, residuals


@dataclass(frozen=True, eq=False)
class ProbeCertificates:
    """What is known of a solution, computed in float64 from the weights alone.

    Attributes:
        w: (b, c, d) float64 weights with each problem's intercepts moved to their own optimum.
        gradient_norm: (b, P) Euclidean norm of the gradient there, for features scaled as each penalty says.
        gap: (b, P) bound on loss minus the smallest possible loss.
        loss: (b, P).
        logits: (b, c, n) float64.
    """

    w: Float[Tensor, "b c d"]
    gradient_norm: Float[Tensor, "b P"]
    gap: Float[Tensor, "b P"]
    loss: Float[Tensor, "b P"]
    logits: Float[Tensor, "b c n"]


def certify(problems: Problems, w: Float[Tensor, "b c d"], *, rows: int = 1024) -> ProbeCertificates:
    """Gradient norms and optimality gaps in float64.

    With the intercepts at their optimum for the given weights, the loss as a function of the weights alone is
    λ-strongly convex, so that it lies at most ‖gradient‖² / 2λ above its minimum.
    """
    exact = replace(problems, weight=problems.weight.double(), penalty=problems.penalty.double())
    w = w.double()
    x = problems.x
    blocks = [(i, min(i + rows, x.shape[1])) for i in range(0, x.shape[1], rows)]
    logits = torch.cat([w @ x[:, a:b].double().mT for a, b in blocks], 2)
    for _ in range(20):
        shift = _intercept_step(exact, logits)
        logits += shift[..., None]
        w[..., -1] += shift
        if float(shift.abs().max()) < 1e-13:
            break
    residual = residuals(exact, logits)
    gradient = torch.zeros_like(w)
    for a, b in blocks:
        gradient += residual[:, :, a:b] @ x[:, a:b].double()
    free = free_of_intercept(w)
    gradient += exact.penalty[:, exact.owner, None] * free
    sums = torch.zeros(2, *problems.penalty.shape, dtype=torch.float64, device=w.device)
    sums[0].index_add_(1, exact.owner, gradient.square().sum(2))
    sums[1].index_add_(1, exact.owner, free.square().sum(2))
    loss = exact.penalty * sums[1] / 2
    for which, columns, k in exact.runs():
        z = logits[:, columns].view(len(w), -1, k, x.shape[1])
        right = z.gather(2, exact.labels[which][None, :, None].expand(len(w), -1, 1, -1))[:, :, 0]
        loss[:, which] += ((z.logsumexp(2) - right) * exact.weight[which]).sum(2)
    norm = (sums[0] * exact.level / exact.penalty).sqrt()
    return ProbeCertificates(w, norm, sums[0] / (2 * exact.penalty), loss, logits)


def _intercept_step(problems: Problems, logits: Tensor) -> Float[Tensor, "b c"]:
    """Newton's step for the intercepts alone; their common level is free and stays."""
    out = torch.empty(logits.shape[:2], dtype=logits.dtype, device=logits.device)
    for which, columns, k in problems.runs():
        chance = torch.softmax(logits[:, columns].view(len(logits), -1, k, logits.shape[2]), 2)
        weighted = chance * problems.weight[which][None, :, None]
        hessian = torch.diag_embed(weighted.sum(3)) - weighted @ chance.mT
        target = torch.zeros_like(weighted[..., 0])
        target.scatter_add_(
            2,
            problems.labels[which][None].expand(len(logits), -1, -1),
            problems.weight[which][None].expand(len(logits), -1, -1),
        )
        ones = torch.ones(k, k, dtype=logits.dtype, device=logits.device) / k
        step = torch.linalg.solve(hessian + ones, (target - weighted.sum(3))[..., None])[..., 0]
        out[:, columns] = step.clamp(-1, 1).flatten(1)
    return out
