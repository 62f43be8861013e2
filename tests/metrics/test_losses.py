"""Measures with gradients: the values of `compare`, gradients by finite differences, and none that is not finite."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repsim import losses
from tests.conftest import exactly
from tests.support.sides import layers, one, orthonormal

Loss = Callable[[Tensor, Tensor], Tensor]
# What `compare` calls it, and the function.
FORMS: dict[str, Loss] = {
    "cka": losses.cka,
    "cka_biased": partial(losses.cka, debiased=False),
    "cka_rbf": losses.rbf,
    "cka_rbf(bandwidth=0.4, debiased=False)": partial(losses.rbf, bandwidth=0.4, debiased=False),
    "procrustes": losses.procrustes,
    **{
        f"rsa(distance={d!r}, comparison={c!r})": partial(losses.rsa, distance=d, comparison=c)
        for d in ("euclidean", "sqeuclidean", "correlation", "cosine")
        for c in ("pearson", "cosine")
    },
}
EVERY = pytest.mark.parametrize("name", FORMS)
# n, widths
SHAPES = {"narrow": (20, 5, 7), "wide": (6, 9, 8), "mixed": (7, 3, 10), "five samples": (5, 4, 6)}


def pair(shape: str) -> tuple[np.ndarray, np.ndarray]:
    n, *widths = SHAPES[shape]
    x, y = layers(1, n, widths).values()
    return x, y


def tensors(shape: str) -> tuple[Tensor, Tensor]:
    x, y = (torch.from_numpy(z).requires_grad_() for z in pair(shape))
    return x, y


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_values_are_those_of_compare(name: str, shape: str, dtype: type) -> None:
    x, y = (z.astype(dtype) for z in pair(shape))
    found = FORMS[name](torch.from_numpy(x), torch.from_numpy(y))
    # `compare` keeps float32 features in float32.
    assert found.item() == pytest.approx(one(x, y, name), abs=1e-10 if dtype == np.float64 else 1e-5)
    assert found.dtype == torch.float64
    assert found.shape == ()


@EVERY
@pytest.mark.parametrize("shape", ["wide", "five samples", "mixed"])
def test_gradients_are_those_of_finite_differences(name: str, shape: str) -> None:
    assert torch.autograd.gradcheck(FORMS[name], tensors(shape))


@EVERY
def test_float32_features_get_a_float32_gradient(name: str) -> None:
    x, y = (torch.from_numpy(z.astype(np.float32)).requires_grad_() for z in pair("narrow"))
    FORMS[name](x, y).backward()
    double = [torch.from_numpy(z.detach().numpy().astype(float)).requires_grad_() for z in (x, y)]
    FORMS[name](*double).backward()
    for single, exact in zip((x, y), double, strict=True):
        assert single.grad is not None
        assert exact.grad is not None
        assert single.grad.dtype == torch.float32
        torch.testing.assert_close(single.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


@EVERY
def test_one_side_may_be_fixed(name: str) -> None:
    x, y = tensors("narrow")
    FORMS[name](x, y.detach()).backward()
    assert y.grad is None
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 1e-3


@EVERY
@pytest.mark.parametrize("case", ["equal", "duplicates", "turned", "dead column", "huge offset"])
def test_gradients_are_finite_where_values_are_at_their_bounds(name: str, case: str) -> None:
    x = layers(1, 12, (5,))["layer0"]
    y = x.copy()
    if case == "duplicates":
        x[6:], y[3:6] = x[:6], y[:3]
    if case == "turned":
        y = x @ np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    if case == "dead column":
        x[:, 2] = y[:, 1] = 0
    if case == "huge offset":
        x, y = x + 1e6, y - 1e6
    a, b = (torch.from_numpy(z).requires_grad_() for z in (x, y))
    found = FORMS[name](a, b)
    found.backward()
    for side in (a, b):
        assert side.grad is not None
        assert bool(torch.isfinite(side.grad).all())
    if case == "equal":
        assert found.item() == pytest.approx(0 if name == "procrustes" else 1, abs=1e-7)


def test_equal_singular_values_do_no_harm() -> None:
    x = torch.from_numpy(orthonormal(10, 4)).requires_grad_()
    losses.procrustes(x, torch.from_numpy(orthonormal(10, 4, seed=1))).backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_the_loss_is_one_less_the_similarity() -> None:
    x, y = tensors("narrow")
    for debiased in (True, False):
        total = losses.cka_loss(x, y, debiased=debiased) + losses.cka(x, y, debiased=debiased)
        assert total.item() == pytest.approx(1)


@EVERY
def test_descent_brings_layers_together(name: str) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(24, 6, dtype=torch.float64).requires_grad_(), torch.randn(24, 6, dtype=torch.float64)
    optimizer = torch.optim.Adam([x], lr=0.05)
    sign = 1 if name == "procrustes" else -1
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = sign * FORMS[name](x, target)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.05 * abs(values[0])


# --- What is refused ------------------------------------------------------------------------------------------

A = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
# A call, and the whole message after the function's name, in two halves.
WRONG: list[tuple[Any, str, str]] = [
    (
        lambda: losses.cka(A, A[:5]),
        "cka: x and y must hold the same samples; got 6 and 5 rows.",
        "Pass features of the same samples.",
    ),
    (lambda: losses.cka(A[:3], A[:3]), "cka: at least 4 samples are needed; got 3.", "Use larger batches."),
    (
        lambda: losses.cka(A.long(), A),
        "cka: x must be a floating-point tensor; got int64.",
        "Pass features as a floating-point tensor.",
    ),
    (
        lambda: losses.procrustes(A, A.numpy()),  # type: ignore[arg-type]
        "procrustes: y must be a floating-point tensor; got ndarray.",
        "Pass features as a floating-point tensor.",
    ),
    (
        lambda: losses.cka(A, A[..., None]),
        "cka: y must be (n, p); got shape (6, 3, 1).",
        "Flatten or pool feature maps first.",
    ),
    (
        lambda: losses.cka(A, torch.full((6, 2), 0.1)),
        "cka: y must not be constant; got the same row for every sample.",
        "There is no similarity to a constant; look at the layer.",
    ),
    (
        lambda: losses.rbf(A, A / 0),
        "rbf: y must be finite; got NaN or infinity.",
        "Look for a diverged network or an overflow in float16.",
    ),
    (
        lambda: losses.rbf(A, A, bandwidth=0),
        "rbf: bandwidth must be positive and finite; got 0.",
        "Pass a positive multiple of the median distance, as in 0.5.",
    ),
    (
        lambda: losses.rbf(A, torch.eye(6)[:, :1]),
        "rbf: the median distance must not be 0; got mostly duplicate rows.",
        "Look at the features, or use more samples.",
    ),
    (
        lambda: losses.rsa(A, torch.eye(6)),
        "rsa: the distances of a layer must differ; got equal ones.",
        "Nothing correlates with them; look at the features.",
    ),
    (
        lambda: losses.rsa(A, torch.eye(6)[:, :5], distance="cosine"),
        "rsa: every sample must have a direction; got a row of zeros or of one value.",
        "Use distance='euclidean'.",
    ),
    (
        lambda: losses.rsa(A, A, comparison="spearman"),  # type: ignore[arg-type]
        "rsa: comparison must be one of 'pearson', 'cosine'; got 'spearman'.",
        "Choose one of these.",
    ),
]


@pytest.mark.parametrize(("call", "wrong", "do"), WRONG)
def test_features_without_a_number_are_refused(call: Any, wrong: str, do: str) -> None:
    with pytest.raises((ValueError, TypeError), match=exactly(f"{wrong} {do}")):
        call()
