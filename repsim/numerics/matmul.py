"""One matrix product, `a @ b.T`, on the fastest path that this processor has.

PyTorch sends float32 products on a CPU to MKL, which on processors that are not Intel's leaves half of the
hardware unused, and three quarters of it where one operand is only a few rows high, as a stack of linear
heads is. oneDNN, which PyTorch carries for convolutions, does not. Measured on two cores of an AMD Zen 5,
in GFLOP/s, MKL against oneDNN: 10 x 4096 times 4096 x 5000, 44 against 137; 4096 x 5000 times its own
transpose, 190 against 430. On a Zen 4, whose units are half as wide: 34 against 91, and 188 against 187. Nothing
else differs: both accumulate float32 in float32.
"""

import functools
import itertools
import os
import platform
import re

import torch
from torch import Tensor

#: The first family of AMD's processors (Zen 5) whose units are as wide as oneDNN's instructions and twice MKL's.
_TWICE_AS_FAST = 26

#: Rows that make MKL slow.
_FEW = 16


def matmul_nt(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """`a @ b.T` without a transposed copy; strided views are fine on either side.

    Args:
        a: (..., m, k), with at most one leading axis.
        b: (..., n, k), with the same leading axis.
        plus: (m, n) to be added, of operands without a leading axis. It may be overwritten.

    Returns:
        (..., m, n) in the operands' dtype.
    """
    if a.ndim == 3:
        if len(a) == 1:  # one layer at a time, as on a CPU: the two-axis product is the fast one
            return matmul_nt(a[0], b[0])[None]
        return torch.bmm(a, b.mT)
    if a.dtype == torch.float32 and a.device.type == "cpu" and _suits_onednn(a, b) and _onednn_works():
        if plus is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(a, plus, b, None, "add")
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.T if plus is None else plus.addmm_(a, b.T)


def _suits_onednn(a: Tensor, b: Tensor) -> bool:
    """Gaps between rows cost it a thousandfold. Transposed operands it copies: too dear for long, thin sums.

    Two transposed operands are worth copying where it is twice as fast, or MKL slow, as for few rows.
    """
    transposed = [not x.is_contiguous() for x in (a, b)]
    if not any(transposed):
        return True
    dense = all(x.is_contiguous() or x.T.is_contiguous() for x in (a, b))
    if not dense or a.shape[1] > 100 * max(len(a), len(b)):
        return False
    return not all(transposed) or min(len(a), len(b)) <= _FEW or _amd_family() >= _TWICE_AS_FAST


@functools.cache
def _amd_family() -> int:
    """The family number that an AMD processor tells; 0 for others, and where it cannot be asked."""
    try:
        with open("/proc/cpuinfo") as lines:
            told = "".join(itertools.islice(lines, 30))
    except OSError:
        told = platform.processor()
    family = re.search(r"(?:cpu family\s*:|Family) (\d+)", told)
    return int(family[1]) if family and "AuthenticAMD" in told else 0


@functools.cache
def _onednn_works() -> bool:
    """Whether oneDNN's product exists here and is right. Set REPSIM_GEMM=mm to leave it out.

    The rule asks nothing of a clock, so that a result does not depend on how busy the machine is.
    """
    if os.environ.get("REPSIM_GEMM") == "mm" or not torch.backends.mkldnn.is_available():
        return False
    a, b = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(4, 3)
    try:
        product = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        twice = torch.ops.mkldnn._linear_pointwise.binary(a, product, b, None, "add")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product, a @ b.T) and torch.equal(twice, 2 * product)
