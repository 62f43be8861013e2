"""HSIC of two Gram matrices, biased and unbiased, with samples that count several times."""

import torch
from jaxtyping import Float
from torch import Tensor


def hsic(
    products: Float[Tensor, "l l"],
    sums: Float[Tensor, "l n"],
    diagonal: Float[Tensor, "l n"],
    weights: Float[Tensor, " n"],
    *,
    self_pairs: bool,
) -> Float[Tensor, "l l"]:
    """HSIC of all pairs of kernels on weighted samples, up to a factor that is the same for all of them.

    A kernel plus a_i + a_j is the same kernel to HSIC. So K is projected on what is orthogonal to all such
    matrices under Σ ω_ij K_ij L_ij, with ω_ij = w_i w_j for i ≠ j, and ω_ii = w_i e: e = 1 where a sample pairs
    with itself (biased), 0 where it does not. With R_i = Σ_{j≠i} w_j K_ij + e K_ii, S_i the same of L, m = Σw,
    g_i = w_i / (m - 2 w_i + 2 e), the projections' product is

        Σ_{i≠j} w_i w_j K_ij L_ij + e Σ w_i K_ii L_ii - 2 [Σ g_i R_i S_i - (Σ g R)(Σ g S) / (1 + Σ g)].

    All weights 1 make it n (n - 3) HSIC₁ of Song et al. for e = 0, and tr(KHLH) for e = 1; weights of 0 and 1
    the same of a subset. For unrelated samples its expectation with e = 0 is 0 under any weights, because pairs
    of one sample with its own copies are left out; for others it is proportional to HSIC, as every combination of
    the three expectations E K₁₂L₁₂, E K₁₂L₁₃, E K₁₂L₃₄ that ignores a_i + a_j is. It is an inner product, so the
    ratio of CKA never leaves [-1, 1].

    Args:
        products: Σ_{i≠j} w_i w_j K_ij L_ij.
        sums: Σ_{j≠i} w_j K_ij, in float64.
        diagonal: K_ii, in float64.
        weights: How often each sample counts, in float64.
        self_pairs: e = 1.
    """
    e = float(self_pairs)
    if self_pairs:
        sums = sums + diagonal
    g = weights / (weights.sum() - 2 * weights + 2 * e)
    level = sums @ g
    mixed = (sums * g) @ sums.T - torch.outer(level, level) / (1 + g.sum())
    return products - 2 * mixed + ((diagonal * weights) @ diagonal.T if self_pairs else 0)


def has_hsic(weights: Float[Tensor, "b n"], *, self_pairs: bool) -> list[bool]:
    """Whether enough different samples are drawn for HSIC, and none makes up half of all (where g has a pole)."""
    e = int(self_pairs)
    different = (weights > 0).sum(1) >= 4 - e
    return (different & (2 * (weights.amax(1) - e) < weights.sum(1))).tolist()
