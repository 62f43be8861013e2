"""A layer's centred column space: orthonormal directions over the samples and how much of the layer each carries.

Every measure that sees a representation through its span or its ridge regressions is a function of these and of
the products of two layers' directions: CCA, Procrustes, linear regression, GULP, TD over white-noise tasks.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repsim._common.progress import progress_bar
from repsim.numerics.centring import CONSTANT, centre
from repsim.numerics.matmul import matmul_nt

#: Multiplications of all pairs from which float32 features are compared in float32. Values then move by some 1e-7.
_LARGE = 5e9

#: Relative singular value above which a Gram matrix in float64 resolves a direction to 2e-8.
_RESOLVED = 1e-4


@dataclass(frozen=True, eq=False)
class Spectrum:
    """X = Uᵀ diag(s) V of a layer, centred or as it came, cut to its numerical rank or to a share of its variance.

    Attributes:
        directions: (r, n) orthonormal rows U; float64, or float32 where many large float32 layers are compared.
        singular: (r,) float64 s, for the layer at Frobenius norm 1; largest first.
        coordinates: (r, p) float64 diag(s) V; empty where no measure asks for it.
        constant: The layer had no spread; r is 0.
        width: Features of the layer.
    """

    directions: Float[Tensor, "r n"]
    singular: Float[Tensor, " r"]
    coordinates: Float[Tensor, "r p"]
    constant: bool
    width: int = 0

    @property
    def undefined(self) -> str:
        """What the layer has instead of a number; empty where it has a spread."""
        return CONSTANT if self.constant else ""

    @property
    def rank(self) -> int:
        return len(self.directions)

    @property
    def n(self) -> int:
        return self.directions.shape[1]

    @property
    def single(self) -> bool:
        """Whether directions are rounded to float32."""
        return self.directions.dtype == torch.float32


def spectra(
    layers: Sequence[Float[Tensor, "n _p"]], *, variance: float = 1.0, coordinates: bool = False, centred: bool = True
) -> list[Spectrum]:
    """One decomposition per layer.

    Args:
        layers: Finite features of the same n rows.
        variance: Keep the fewest leading directions with this share of Σs²; 1 keeps the numerical rank.
        coordinates: Also keep diag(s) V.
        centred: Take the mean of each feature away first.

    Cost:
        n p² + p³ per layer in float64. Memory: n r per layer, and two float64 copies of one layer at a time.
    """
    n = len(layers[0])
    widths = [min(x.shape[1], n) for x in layers]
    single = all(x.dtype != torch.float64 for x in layers) and n * sum(widths) ** 2 > _LARGE
    found = []
    with progress_bar(len(layers), "decompositions", "layer") as bar:
        for x in layers:
            found.append(_spectrum(x, variance, coordinates, single, centred))
            bar.update()
    return found


def direction_products(
    rows: Sequence[Spectrum], cols: Sequence[Spectrum]
) -> Iterator[tuple[int, int, Float[Tensor, "r q"]]]:
    """(i, j, U_i U_jᵀ in float64) of all pairs without a constant layer; only i <= j where both lists are one.

    Cost: n r q per pair, with one product per row layer. Memory: one row layer's products.
    """
    same = rows is cols
    every = torch.cat([c.directions for c in cols])
    start = 0
    with progress_bar(len(rows) * len(cols), "pairs of layers", "pair") as bar:
        for i, row in enumerate(rows):
            first = i if same else 0
            blocks = matmul_nt(row.directions, every[start:]).split([c.rank for c in cols[first:]], 1)
            for j, block in enumerate(blocks, first):
                if not (row.constant or cols[j].constant):
                    yield i, j, block.double()
                bar.update(2 if same and i != j else 1)
            start += row.rank if same else 0


def _spectrum(x: Float[Tensor, "n p"], variance: float, coordinates: bool, single: bool, less_mean: bool) -> Spectrum:
    n, p = x.shape
    stored = storage_noise(x)
    centred = x.to(torch.float64, copy=True)
    scale = _largest(centred).clamp_min(torch.finfo(torch.float64).tiny)
    centred /= scale  # squares overflow sooner
    level = torch.linalg.vector_norm(centred)
    centred -= centred[0].clone()
    centred -= centred.mean(0)
    # What was stored in half precision is held against its own rounding, direction by direction, further down.
    least = max(1e-12, torch.finfo(x.dtype).eps / 2) if stored is None else 0
    constant = Spectrum(centred.new_zeros(0, n), centred.new_zeros(0), centred.new_zeros(0, 0), True, p)
    if bool(torch.linalg.vector_norm(centred) <= least * level):
        return constant
    if not less_mean:
        if centre(x, torch.float64).constant:
            return constant
        centred = x.to(torch.float64, copy=True)
        centred /= scale
    spread = _largest(centred)
    centred /= spread
    if p > n:
        _, r = torch.linalg.qr(centred.T, mode="r")
        basis, s, _ = torch.linalg.svd(r.T, full_matrices=False)
        right = None
    elif single:
        basis, s, right = _by_gram(centred)
    else:
        # A covariance would square the condition number.
        q, r = torch.linalg.qr(centred)
        left, s, right = torch.linalg.svd(r, full_matrices=False)
        basis = q @ left
    if stored is None:
        keep = above_rounding(s, float(level / spread), x.dtype)
    else:
        # Singular vectors of the features' side, where the longer side has given none.
        turn = basis.T @ centred / s.clamp_min(torch.finfo(s.dtype).tiny)[:, None] if right is None else right
        keep = above_storage(s, turn, stored / (scale * spread), n)
        if not bool(keep.any()):
            return constant
    s, directions = s[keep], basis[:, keep]
    if variance < 1:
        share = s.square().cumsum(0) / s.square().sum()
        most = int((share < variance).sum()) + 1
        norm, s, directions = torch.linalg.vector_norm(s), s[:most], directions[:, :most]
        keep = keep.nonzero()[:most, 0]
    else:
        norm = torch.linalg.vector_norm(s)
    directions = directions.T.contiguous()
    kept = centred.new_zeros(0, 0)
    if coordinates:
        kept = directions @ centred if right is None else s[:, None] * right[keep]
    # Weights by coordinates depend on each canonical direction by itself, which float32 products would move too far.
    rounded = directions.float() if single and not coordinates else directions
    return Spectrum(rounded, s / norm, kept, False, p)


def above_rounding(s: Float[Tensor, " k"], level: float, dtype: torch.dtype) -> Bool[Tensor, " k"]:
    """Which directions of a layer are features, where it was computed in the type in which it is kept.

    Those below the rounding of that type, which is at the size of the features with their mean, are noise of it.

    Args:
        s: Singular values of the centred features, largest first.
        level: Frobenius norm of the features with their mean, in the same units.
        dtype: Of the features as they came.
    """
    eps = torch.finfo(dtype).eps
    return s > max(max(1e-10, eps) * float(s[0]), eps * level)


def storage_noise(x: Float[Tensor, "n p"]) -> Float[Tensor, " p"] | None:
    """By how much storing in half precision may have moved each feature: the root mean square of half a step.

    The step is the distance of the numbers of that type around each entry. Rounding that is spread evenly moves by
    1/√3 of it, rounding of a constant that lies between two numbers by all of it. None for wider types, in which layers
    are computed as well as kept.
    """
    kind = torch.finfo(x.dtype)
    if kind.bits > 16:
        return None
    mantissa, exponent = torch.frexp(x.float())
    smallest = math.frexp(kind.tiny)[1]  # below it steps stay as they are
    step = torch.ldexp(torch.full_like(mantissa, kind.eps / 2), exponent.clamp_min(smallest))
    return torch.where(mantissa == 0, 0.0, step.double()).square().mean(0).sqrt() / 2


def above_storage(
    s: Float[Tensor, " k"], right: Float[Tensor, "k p"], noise: Float[Tensor, " p"], n: int
) -> Bool[Tensor, " k"]:
    """Which directions of a layer that was stored in half precision are more than the rounding of storing it.

    Rounding has σ² = Σⱼ vⱼ² σⱼ² along a direction v, so that one large feature, whose steps are wide, hides no other.
    The largest singular value of such noise is at most about σ(√n + √m), with m the number of features as noisy.

    Args:
        s: Singular values of the centred features, largest first.
        right: Their singular vectors v on the side of the features.
        noise: σⱼ of `storage_noise`, in the units of s.
        n: Samples.
    """
    along = right.square() @ noise.square()
    alike = (noise.square().sum() / along.clamp_min(torch.finfo(along.dtype).tiny)).clamp_max(len(noise))
    return (s > along.sqrt() * (n**0.5 + alike.sqrt())) & (s > 1e-10 * s[0])


def _largest(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, ord=float("inf"))


def _by_gram(x: Float[Tensor, "n p"]) -> tuple[Float[Tensor, "n p"], Float[Tensor, " p"], Float[Tensor, "p p"]]:
    """Left singular vectors to some 1e-8, singular values, right singular vectors; twice as fast as a QR and SVD.

    The p × p Gram matrix gives the strong directions. It cannot resolve the weak ones, so what it leaves of the
    features there, with the strong directions removed, is decomposed by itself.
    """
    values, vectors = torch.linalg.eigh(x.T @ x)
    s, right = values.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
    strong = int((s > _RESOLVED * s[0]).sum())
    basis = x @ right
    basis[:, :strong] /= s[:strong]
    if strong == len(s):
        return basis, s, right.T
    rest = basis[:, strong:] - basis[:, :strong] @ (basis[:, :strong].T @ basis[:, strong:])
    q, r = torch.linalg.qr(rest)
    left, weak, turn = torch.linalg.svd(r, full_matrices=False)
    basis[:, strong:] = q @ left
    right = torch.cat([right[:, :strong].T, turn @ right[:, strong:].T])
    return basis, torch.cat([s[:strong], weak]), right
