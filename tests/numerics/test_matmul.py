"""The one matrix product: right in every layout, and on the back-end that suits the operands and the processor."""

import io
import platform
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from repsim.numerics import matmul as _gemm
from repsim.numerics.matmul import matmul_nt

LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "rows with gaps": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
}
SHAPES = [(40, 30, 20), (3, 5, 4000), (64, 256, 700), (1, 1, 1), (10, 500, 33)]
ASKED = _gemm._onednn_works, _gemm._amd_family
WITHOUT_ONEDNN = "the product of oneDNN is not to be had here"


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("REPSIM_GEMM", raising=False)
    for asked in ASKED:
        asked.cache_clear()
    yield
    for asked in ASKED:
        asked.cache_clear()


def operands(m: int, n: int, k: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m * n + k)
    return torch.randn(m, k, generator=generator, dtype=dtype), torch.randn(n, k, generator=generator, dtype=dtype)


def taken(a: Tensor, b: Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the product goes to oneDNN."""
    if not _gemm._onednn_works():
        pytest.skip(WITHOUT_ONEDNN)
    asked = []
    monkeypatch.setattr(_gemm, "_onednn_works", lambda: bool(asked.append(1)))
    matmul_nt(a, b)
    return bool(asked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("route", ["mm", "any"])
def test_the_product_in_every_layout(
    left: str, right: str, shape: tuple[int, int, int], dtype: torch.dtype, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if route == "mm":
        monkeypatch.setenv("REPSIM_GEMM", "mm")
    x, y = operands(*shape, dtype)
    exact, tolerance = x.double() @ y.double().T, 40 * torch.finfo(dtype).eps * shape[2] ** 0.5
    a, b = LAYOUTS[left](x), LAYOUTS[right](y)
    torch.testing.assert_close(matmul_nt(a, b).double(), exact, rtol=0, atol=tolerance)
    plus = torch.full_like(exact, 3, dtype=dtype)
    torch.testing.assert_close(matmul_nt(a, b, plus).double(), exact + 3, rtol=0, atol=tolerance)


def test_a_leading_axis() -> None:
    x, y = torch.randn(3, 4, 5), torch.randn(3, 6, 5)
    torch.testing.assert_close(matmul_nt(x, y), torch.stack([a @ b.T for a, b in zip(x, y, strict=True)]))
    torch.testing.assert_close(matmul_nt(x[:1], y[:1]), (x[0] @ y[0].T)[None])


@pytest.mark.parametrize(("family", "both"), [(25, False), (26, True), (0, False)])
def test_two_transposed_operands_are_copied_where_that_pays(
    family: int, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gemm, "_amd_family", lambda: family)
    x, y = operands(100, 100, 50)
    x_t, y_t = (LAYOUTS["transposed"](z) for z in (x, y))
    with monkeypatch.context() as patch:
        assert taken(x_t, y_t, patch) == both
    for a, b in ((x, y), (x_t, y), (x, y_t), (x_t[:9].T.contiguous().T, y_t)):
        with monkeypatch.context() as patch:
            assert taken(a, b, patch)


@pytest.mark.parametrize(("layout", "k", "expected"), [("contiguous", 9000, True), ("transposed", 9000, False)])
def test_long_thin_sums_of_transposed_operands_are_not_copied(
    layout: str, k: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (LAYOUTS[layout](z) for z in operands(30, 30, k))
    assert taken(a, b, monkeypatch) == expected


def test_gaps_between_rows_and_float64_stay_with_mm(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = operands(30, 30, 40)
    with monkeypatch.context() as patch:
        assert not taken(LAYOUTS["rows with gaps"](x), y, patch)
    assert not taken(x.double(), y.double(), monkeypatch)


@pytest.mark.parametrize(
    ("told", "family"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n", 26),
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n", 25),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n", 0),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n", 0),
    ],
)
def test_the_processor_is_asked_for_its_family(told: str, family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gemm, "open", lambda _: io.StringIO(told), raising=False)
    assert _gemm._amd_family() == family


@pytest.mark.parametrize(
    ("told", "family"),
    [
        ("AMD64 Family 26 Model 68, AuthenticAMD", 26),
        ("Intel64 Family 6 Model 151, GenuineIntel", 0),
        ("", 0),
    ],
)
def test_systems_without_a_file_on_processors(told: str, family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(_gemm, "open", absent, raising=False)
    monkeypatch.setattr(platform, "processor", lambda: told)
    assert _gemm._amd_family() == family


def test_a_product_that_is_wrong_or_missing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not _gemm._onednn_works():
        pytest.skip(WITHOUT_ONEDNN)

    class Wrong:
        def __call__(self, a: Tensor, b: Tensor, *_: object) -> Tensor:
            return a @ b.T + 1

        def binary(self, a: Tensor, plus: Tensor, b: Tensor, *_: object) -> Tensor:
            return a @ b.T + plus

    def older(a: Tensor, b: Tensor, *_: object) -> Tensor:
        return a @ b.T

    for product in (Wrong(), older):
        _gemm._onednn_works.cache_clear()
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", product)
        assert not _gemm._onednn_works()
