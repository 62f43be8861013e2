"""Measures with gradients, on plain tensors: to pull two layers together or apart while a network is trained.

`cka`, `rbf`, `procrustes` and `rsa` are what `repsim.compare` gives for the same rows, and `cka_loss` is 1 − `cka`. All
are computed in float64, in which the differences that their gradients consist of keep their digits; a gradient comes
back in the type of the features. Where a value has no derivative (distances of duplicate rows, equal layers) the
gradient is 0 and never NaN.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import check_bool
from repsim._common.messages import message

#: Squared distances below this share of the squared lengths are rounding: the rows are duplicates.
_SAME = 1e-13
#: A spread below this share of the features' size is rounding of a constant.
_CONSTANT = 1e-12


def cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], *, debiased: bool = True) -> Float[Tensor, ""]:
    """Linear CKA, as `compare(..., "cka")`, or "cka_biased".

    ⟨K, L⟩ / (‖K‖ ‖L‖) of the centred Gram matrices; debiased, by the unbiased estimates of HSIC.

    Args:
        x: Features of n samples.
        y: Other features of the same samples.
        debiased: Needs n >= 4. In batches of a few dozen the biased form is near 1 for any wide layers.

    Returns:
        The similarity, float64, with a gradient to both.

    Raises:
        TypeError: No floating-point tensors.
        ValueError: Other shapes, too few samples, or features for which there is no number.

    Source:
        Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414; Song et al. 2012 (JMLR 13), equation 5.

    Cost:
        n² (p + q) multiplications in float64; memory: a few n × n matrices.

    Example:
        >>> x = torch.randn(32, 8, requires_grad=True)
        >>> loss = 1 - cka(x, x.detach().relu())
        >>> loss.backward()
        >>> x.grad.shape
        torch.Size([32, 8])
    """
    check_bool("cka", "debiased", debiased)
    left, right = _checked("cka", x, y, least=4 if debiased else 3)
    return _alignment("cka", left @ left.T, right @ right.T, debiased)


def cka_loss(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], *, debiased: bool = True) -> Float[Tensor, ""]:
    """1 − `cka`: smaller for layers that are more alike, 0 for equal ones. See there for arguments and errors."""
    return 1 - cka(x, y, debiased=debiased)


def rbf(
    x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], *, bandwidth: float = 1.0, debiased: bool = True
) -> Float[Tensor, ""]:
    """CKA with Gaussian kernels, as `compare(..., "cka_rbf")`; the loss is 1 − `rbf`.

    k(x, y) = exp(−‖x − y‖² / 2σ²), σ = bandwidth · the median distance of all pairs, whose gradient is part of this
    one. (Beyond n = 1,000 `compare` takes the median over some of the pairs.)

    Args:
        x: Features of n samples.
        y: Other features of the same samples.
        bandwidth: σ in units of the median distance.
        debiased: Use the unbiased estimates (needs n >= 4).

    Returns:
        The similarity, float64, with a gradient to both.

    Raises:
        TypeError: No floating-point tensors.
        ValueError: Other shapes, too few samples, or features for which there is no number.

    Source:
        Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414.

    Cost:
        n² (p + q) multiplications in float64 and a sort of n²/2 distances; memory: a few n × n matrices.
    """
    check_bool("rbf", "debiased", debiased)
    if not 0 < bandwidth < math.inf:
        advice = "Pass a positive multiple of the median distance, as in 0.5"
        raise ValueError(message("rbf", "bandwidth must be positive and finite", repr(bandwidth), advice))
    kernels = []
    for side in _checked("rbf", x, y, least=4 if debiased else 3):
        squared = _squared_distances(side)
        i, j = torch.triu_indices(len(side), len(side), 1, device=side.device)
        ordered = squared[i, j].sort().values
        middle = [ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]]
        if float(middle[0].detach()) == 0:
            advice = "Look at the features, or use more samples"
            raise ValueError(message("rbf", "the median distance must not be 0", "mostly duplicate rows", advice))
        sigma = bandwidth * (middle[0].sqrt() + middle[1].sqrt()) / 2
        # Less 1: what a wide bandwidth leaves of it would drown in the ones, and HSIC does not see them.
        kernels.append((squared / (-2 * sigma**2)).expm1())
    return _alignment("rbf", kernels[0], kernels[1], debiased)


def procrustes(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
    """The Procrustes distance, as `compare(..., "procrustes")`: already a loss, 0 for layers equal up to a rotation.

    min over rotations Q of ‖XQ − Y‖_F, both centred and of Frobenius norm 1. The best Q is held fixed in the gradient:
    the distance does not change with Q there, so that nothing is lost, and equal singular values do no harm.

    Args:
        x: Features of n samples.
        y: Other features of the same samples.

    Returns:
        The distance, float64, with a gradient to both; the gradient is 0 where the distance is.

    Raises:
        TypeError: No floating-point tensors.
        ValueError: Other shapes, too few samples, or features for which there is no number.

    Source:
        Ding, Denain, Steinhardt 2021, arXiv 2108.01661, section 2.

    Cost:
        In float64 n p q multiplications and the SVD of a matrix of min(n, p) × min(n, q), and a QR of each layer that
        is wider than n.
    """
    left, right = (_narrowed(side / _norm(side)) for side in _checked("procrustes", x, y, least=3))
    if left.shape[1] > right.shape[1]:  # Q must keep the norm of what it turns
        left, right = right, left
    u, _, v = torch.linalg.svd((left.T @ right).detach(), full_matrices=False)
    return _norm(left @ (u @ v) - right)


def rsa(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n q"],
    *,
    distance: Literal["euclidean", "sqeuclidean", "correlation", "cosine"] = "euclidean",
    comparison: Literal["pearson", "cosine"] = "pearson",
) -> Float[Tensor, ""]:
    """RSA, as `compare(..., "rsa(comparison='pearson')")`; the loss is 1 − `rsa`.

    The distances of all pairs of samples in both layers, compared by Pearson's correlation or by the cosine.
    Spearman's, which `compare` takes unless told otherwise, has no gradient.

    Args:
        x: Features of n samples.
        y: Other features of the same samples.
        distance: As for `repsim.metrics.RSA`. The gradient of "euclidean" at duplicate rows is 0.
        comparison: "pearson" or "cosine".

    Returns:
        The similarity, float64, with a gradient to both.

    Raises:
        TypeError: No floating-point tensors.
        ValueError: Other shapes or settings, too few samples, or features for which there is no number.

    Source:
        Kriegeskorte, Mur, Bandettini 2008, Frontiers in Systems Neuroscience 2:4, doi 10.3389/neuro.06.004.2008.

    Cost:
        n² (p + q) multiplications in float64; memory: a few n × n matrices.
    """
    for name, value, known in (
        ("distance", distance, ("euclidean", "sqeuclidean", "correlation", "cosine")),
        ("comparison", comparison, ("pearson", "cosine")),
    ):
        if value not in known:
            must = f"{name} must be one of {', '.join(map(repr, known))}"
            raise ValueError(message("rsa", must, repr(value), "Choose one of these"))
    lists = []
    for side, raw in zip(_checked("rsa", x, y, least=3), (x, y), strict=True):
        rows = _directions(raw.double(), centred=distance == "correlation") if distance in _ANGLES else side
        i, j = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
        squared = _squared_distances(rows)[i, j]
        lists.append(_root(squared) if distance == "euclidean" else squared)
    if comparison == "pearson":
        levels = [_norm(d.detach()) for d in lists]
        lists = [d - d.mean() for d in lists]
        if any(bool(_norm(d.detach()) <= _CONSTANT * level) for d, level in zip(lists, levels, strict=True)):
            advice = "Nothing correlates with them; look at the features"
            raise ValueError(message("rsa", "the distances of a layer must differ", "equal ones", advice))
    a, b = lists
    return (a * b).sum() / (_norm(a) * _norm(b))


#: Distances of rows of length 1.
_ANGLES = ("correlation", "cosine")


def _checked(function: str, x: Tensor, y: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Both layers centred, in float64, and of root mean square 1, so that no product overflows."""
    for name, side in (("x", x), ("y", y)):
        if not isinstance(side, Tensor) or not side.is_floating_point():
            got = str(side.dtype).removeprefix("torch.") if isinstance(side, Tensor) else type(side).__name__
            advice = "Pass features as a floating-point tensor"
            raise TypeError(message(function, f"{name} must be a floating-point tensor", got, advice))
        if side.ndim != 2 or 0 in side.shape:
            got, advice = f"shape {tuple(side.shape)}", "Flatten or pool feature maps first"
            raise ValueError(message(function, f"{name} must be (n, p)", got, advice))
    if len(x) != len(y):
        advice = "Pass features of the same samples"
        raise ValueError(message(function, "x and y must hold the same samples", f"{len(x)} and {len(y)} rows", advice))
    if len(x) < least:
        raise ValueError(message(function, f"at least {least} samples are needed", f"{len(x)}", "Use larger batches"))
    left, right = (_centred(function, name, side) for name, side in (("x", x), ("y", y)))
    return left, right


def _centred(function: str, name: str, x: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        advice = "Look for a diverged network or an overflow in float16"
        raise ValueError(message(function, f"{name} must be finite", "NaN or infinity", advice))
    rows = x.double()
    scale = rows.detach().abs().amax()
    rows = rows / torch.where(scale > 0, scale, 1)
    centred = rows - rows.detach()[:1]  # from the first row, so that a large mean takes no digits
    centred = centred - centred.mean(0)
    spread, level = float(_norm(centred.detach())), float(_norm(rows.detach()))
    if spread <= max(_CONSTANT, torch.finfo(x.dtype).eps / 2) * level:
        got, advice = "the same row for every sample", "There is no similarity to a constant; look at the layer"
        raise ValueError(message(function, f"{name} must not be constant", got, advice))
    return centred * (math.sqrt(len(x)) / spread)


def _alignment(function: str, k: Tensor, l: Tensor, debiased: bool) -> Tensor:
    """The ratio of HSICs of two kernel matrices; their diagonals count in the biased form alone."""
    sizes = [float(_norm(m.detach())) for m in (k, l)]
    k, l = (_projected(m, debiased) for m in (k, l))
    if any(float(_norm(m.detach())) <= 1e-9 * size for m, size in zip((k, l), sizes, strict=True)):
        got, advice = "rounding", "Use larger batches; look at the features"
        raise ValueError(message(function, "centring must leave something of each kernel", got, advice))
    return (k * l).sum() / (_norm(k) * _norm(l))


def _projected(m: Tensor, debiased: bool) -> Tensor:
    """Double-centred; debiased, U-centred, with a diagonal of 0, by which the product is the unbiased estimate."""
    n = len(m)
    if not debiased:
        rows = m.mean(1)
        return m - rows[:, None] - rows + rows.mean()
    off = m - torch.diag(m.diagonal())
    sums = off.sum(1) / (n - 2)
    found = off - sums[:, None] - sums + off.sum() / ((n - 1) * (n - 2))
    return found - torch.diag(found.diagonal())


def _squared_distances(x: Tensor) -> Tensor:
    """Of all pairs of rows; 0, and without a gradient, where rows are duplicates to rounding."""
    squares = x.square().sum(1)
    sums = squares[:, None] + squares
    squared = sums - 2 * x @ x.T
    apart = squared.detach() > _SAME * sums.detach()
    return torch.where(apart & ~torch.eye(len(x), dtype=torch.bool, device=x.device), squared, 0.0)


def _root(squared: Tensor) -> Tensor:
    """√, with a gradient of 0 at 0."""
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def _norm(x: Tensor) -> Tensor:
    """The Frobenius norm, with a gradient of 0 at 0."""
    return torch.linalg.vector_norm(x)


def _narrowed(x: Tensor) -> Tensor:
    """The same inner products of rows in at most n columns, turned by a rotation that the gradient holds fixed.

    Where only inner products of rows count, their gradient lies in the rows' own span, so that nothing is lost.
    """
    if x.shape[1] <= len(x):
        return x
    return x @ torch.linalg.qr(x.detach().T)[0]


def _directions(x: Tensor, *, centred: bool) -> Tensor:
    """Rows of length √½, whose squared distance is 1 − cos, or 1 − r; measured from their middle."""
    x = x / x.detach().abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    level = torch.linalg.vector_norm(x.detach(), dim=1)
    if centred:
        x = x - x.mean(1, keepdim=True)
    lengths = torch.linalg.vector_norm(x, dim=1)
    if bool((lengths.detach() <= _CONSTANT * level.clamp_min(_CONSTANT)).any()):
        got, advice = "a row of zeros or of one value", "Use distance='euclidean'"
        raise ValueError(message("rsa", "every sample must have a direction", got, advice))
    rows = x / (lengths[:, None] * math.sqrt(2))
    return rows - rows.mean(0)
