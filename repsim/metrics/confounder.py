"""What else can make two layers alike: its similarity structure is regressed out of both."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import message
from repsim.metrics.base import PairwiseResult

#: Where a similarity with the confounder is this near to 1, nothing but rounding is left once it is taken off.
_WHOLE = 1e-8


class Confounder(str):
    """Features of the same samples whose similarities explain part of two layers' similarity, as the inputs' do.

    It is its name, with a digest of the features, so that a measure that holds it can be written down and compared. A
    name alone, as read from a saved result, says what was taken off and cannot be computed with.

    Attributes:
        features: (n, p) rows of the same samples in the same order.
    """

    features: Float[Tensor, "n p"]

    def __new__(cls, features: Any, name: str = "confounder") -> "Confounder":
        """Names features.

        Args:
            features: An array or tensor of n rows of any shape, such as `data.images`.
            name: What results call it.

        Raises:
            TypeError: Not an array of numbers.
            ValueError: No rows, or entries that are not finite.
        """
        try:
            x = torch.as_tensor(features).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            got, advice = type(features).__name__, "Pass one row per sample, as in data.images"
            raise TypeError(message("Confounder", "features must be an array of numbers", got, advice)) from error
        if x.ndim < 2 or 0 in x.shape:
            got, advice = f"shape {tuple(x.shape)}", "Pass one row per sample, as in data.images"
            raise ValueError(message("Confounder", "features must be (n, p) or of more axes", got, advice))
        x = x.flatten(1) if x.is_floating_point() else x.flatten(1).float()
        if not bool(torch.isfinite(x).all()):
            got, advice = "NaN or infinity", "Look at the features"
            raise ValueError(message("Confounder", "features must be finite", got, advice))
        digest = hashlib.sha256(np.ascontiguousarray(x.double().cpu().numpy()).tobytes()).hexdigest()
        made = super().__new__(cls, f"{name} {digest[:12]}")
        made.features = x
        return made

    @classmethod
    def from_gram(cls, gram: Any, name: str = "Gram matrix") -> "Confounder":
        """Features whose inner products are a given (n, n) matrix of similarities.

        Raises:
            ValueError: A matrix that is not square, symmetric and positive semidefinite.
        """
        k = torch.as_tensor(gram).double()
        if k.ndim != 2 or k.shape[0] != k.shape[1] or not torch.allclose(k, k.T, rtol=1e-6, atol=0):
            got, advice = f"shape {tuple(k.shape)}", "Pass X @ X.T of some features"
            raise ValueError(message("Confounder", "a Gram matrix must be square and symmetric", got, advice))
        values, vectors = torch.linalg.eigh((k + k.T) / 2)
        if float(values[0]) < -1e-6 * float(values[-1]):
            got, advice = f"an eigenvalue of {float(values[0]):.3g}", "Pass X @ X.T of some features"
            raise ValueError(message("Confounder", "a Gram matrix must be positive semidefinite", got, advice))
        return cls(vectors * values.clamp_min(0).sqrt(), name)


def as_confounder(function: str, given: Any) -> "Confounder | str | None":
    """What a setting holds: nothing, a confounder, the name of one, or features, which become one."""
    if given is None or isinstance(given, str):
        if given == "":
            advice = "Pass features of the same samples, as in data.images, or leave it out"
            raise ValueError(message(function, "deconfounded must name or hold a confounder", "''", advice))
        return given
    return Confounder(given)


def features_of(function: str, given: Any, n: int, like: Tensor) -> Float[Tensor, "n p"]:
    """The confounder's features, on the device of the layers.

    Raises:
        ValueError: A name without features, or features of other samples.
    """
    advice = "Pass features of the same samples, as in deconfounded=data.images"
    if not isinstance(given, Confounder):
        must = "the confounder itself is needed"
        raise ValueError(message(function, must, f"its name, {str(given)!r}", advice))
    if len(given.features) != n:
        must = "the confounder must hold the same samples"
        raise ValueError(message(function, must, f"{len(given.features)} rows for {n} samples", advice))
    return given.features.to(like.device)


def partial(
    a: Float[Tensor, "*b r c"], b: Float[Tensor, "*b r 1"], c: Float[Tensor, "*b 1 c"]
) -> Float[Tensor, "*b r c"]:
    """(a − b c) / √((1 − b²)(1 − c²)): a cosine less what both share with a third; NaN where that is all of one."""
    left = torch.where(b.abs() < 1 - _WHOLE, 1 - b.square(), math.nan)
    right = torch.where(c.abs() < 1 - _WHOLE, 1 - c.square(), math.nan)
    return ((a - b * c) / (left * right).sqrt()).clamp(-1, 1)


def without_confounder(
    plain: Callable[[Sequence[Any], Sequence[Any]], PairwiseResult], rows: Sequence[Any], cols: Sequence[Any], z: Any
) -> PairwiseResult:
    """The partial form of a measure that is a cosine of centred similarities.

    Args:
        plain: The measure of two lists of prepared layers.
        rows: Prepared layers.
        cols: Prepared layers.
        z: The confounder, prepared as they are.
    """
    found, left, right = plain(rows, cols), plain(rows, [z]), plain([z], cols)
    values = partial(found.values, left.values, right.values)
    reasons = dict(found.reasons)
    for i, j in values.isnan().nonzero().tolist():
        if (i, j) not in reasons:
            reasons[i, j] = _why(left, right, i, j)
    kept = {name: detail for name, detail in found.details.items() if name != "chance"}
    details = {
        **kept,
        "confounded": found.values,
        "confounder_row": left.values.expand(values.shape),
        "confounder_col": right.values.expand(values.shape),
    }
    cautions = [text for text in found.cautions if "`chance`" not in text]
    return PairwiseResult(values, details, reasons, tuple(cautions))


def _why(left: PairwiseResult, right: PairwiseResult, i: int, j: int) -> str:
    """Why two layers that have a number have none without the confounder."""
    for found, cell in ((left, (i, 0)), (right, (0, j))):
        if cell in found.reasons:
            return f"a layer beside the confounder: {found.reasons[cell]}"
    side = "row" if abs(float(left.values[i, 0])) >= 1 - _WHOLE else "column"
    return f"the {side} layer is the confounder, at most turned and scaled: nothing is left of it"
