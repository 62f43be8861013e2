"""One matrix product, `a @ b.T`, on the fastest path that this processor has.

PyTorch sends float32 products on a CPU to MKL, which on processors that are not Intel's leaves half of the
hardware unused, and three quarters of it where one operand is only a few rows high, as a stack of linear
heads is. oneDNN, which PyTorch carries for convolutions, does not. Measured on two cores of an AMD Zen 5,
in GFLOP/s, MKL against oneDNN: 10 x 4096 times 4096 x 5000, 44 against 137; 4096 x 5000 times its own
transpose, 190 against 430. Nothing else differs: both accumulate float32 in float32.
"""

import functools
import os

import torch
from torch import Tensor


def matmul_nt(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b.T` without a transposed copy; strided views are fine on either side.

    Args:
        a: (..., m, k), with at most one leading axis.
        b: (..., n, k), with the same leading axis.

    Returns:
        (..., m, n) in the operands' dtype.
    """
    if a.ndim == 3:
        if len(a) == 1:  # one layer at a time, as on a CPU: the two-axis product is the fast one
            return matmul_nt(a[0], b[0])[None]
        return torch.bmm(a, b.mT)
    if a.dtype == torch.float32 and a.device.type == "cpu" and _suits_onednn(a, b) and _onednn_works():
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.T


def _suits_onednn(a: Tensor, b: Tensor) -> bool:
    """Its products want dense operands (gaps between rows cost it a thousandfold) and no very long, thin sums."""
    dense = all(x.is_contiguous() or x.T.is_contiguous() for x in (a, b))
    return dense and a.shape[1] <= 100 * max(len(a), len(b))


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
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product, a @ b.T)
