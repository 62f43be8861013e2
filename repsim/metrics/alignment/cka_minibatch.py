"""Minibatch CKA: debiased CKA of features that are seen batch by batch and never kept."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repsim._common.messages import message
from repsim.metrics.alignment.streaming import NO_HSIC, SHORT, ShiftedLayer, StreamingMetric, Sums
from repsim.metrics.base import Invariance, PairwiseResult, undefined_cells
from repsim.numerics.centring import CONSTANT
from repsim.numerics.matmul import matmul_nt
from repsim.numerics.memory import check_room


@dataclass(frozen=True)
class MinibatchCKA(StreamingMetric):
    """Linear CKA from unbiased estimates of HSIC in batches, Σ_b w_b HSIC₁(K_b, L_b) over the root of both own sums.

    Σ_b w_b HSIC₁(K_b, L_b) / √(Σ_b w_b HSIC₁(K_b, K_b) · Σ_b w_b HSIC₁(L_b, L_b)), with the Gram matrices K_b, L_b of
    a batch and its size w_b. Each estimate is unbiased whatever the size of the batch, so the sums aim at the
    same numbers as debiased CKA of all samples; they are divided once, at the end. A batch compares its own
    samples only, so the value depends a little on which samples share one, and on nothing else of their order.

    Args:
        batch_size: Samples per batch, at least 4. A last batch of fewer than 4 is merged into the one before.

    Source:
        Nguyen, Raghu, Kornblith 2021, arXiv 2010.15327, section 2, where all batches are of one size. HSIC₁: Song,
        Smola, Gretton, Bedo, Borgwardt 2012 (JMLR 13), equation 5; here it is the inner product of U-centred Gram
        matrices (Székely, Rizzo 2014, arXiv 1310.2926), which squares nothing that is subtracted later.

    Cost:
        1.25 n · batch_size · (Σp + Σq) operations, forward passes beside it; memory: one batch of the wider network.
    """

    batch_size: int = 256

    kind: ClassVar = "similarity"
    self_value: ClassVar = 1.0
    cost: ClassVar = "one Gram matrix per layer and batch: 1.25·n·batch_size·(Σp+Σq)"

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int):
            advice = "Pass how many samples make a batch, as in 256"
            raise TypeError(message("cka_minibatch", "batch_size must be an integer", repr(self.batch_size), advice))
        if self.batch_size < 4:
            advice = "HSIC has no unbiased estimate from fewer; 256 is usual"
            raise ValueError(message("cka_minibatch", "batch_size must be at least 4", f"{self.batch_size}", advice))

    @property
    def title(self) -> str:
        return f"CKA, debiased in batches of {self.batch_size}"

    @property
    def meaning(self) -> str:
        return (
            "1: the same samples of a batch are alike in both layers, weighted by variance; 0: as in unrelated layers"
        )

    @property
    def source(self) -> str:
        return "Nguyen 2021, arXiv 2010.15327; Song 2012"

    @property
    def bounds(self) -> tuple[float, float]:
        # U-centred Grams of all batches together are one vector, so Cauchy-Schwarz bounds the ratio of sums.
        return -1.0, 1.0

    @property
    def display(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def invariances(self) -> frozenset[Invariance]:
        return frozenset({"orthogonal", "scale", "shift"})

    @property
    def min_samples(self) -> int:
        return 4

    @property
    def rows_per_batch(self) -> int:
        return self.batch_size

    def start(self, rows: int, cols: int) -> Sums:
        sums = {"pairwise": (rows, cols), "batches": (), "samples": ()}
        sums |= {f"{side} {name}": (k,) for side, k in (("rows", rows), ("cols", cols)) for name in _PER_LAYER}
        return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in sums.items()}

    def update(self, sums: Sums, rows: Iterable[ShiftedLayer], cols: Iterable[ShiftedLayer] | None) -> None:
        a = _Grams(rows, len(sums["rows own"]))
        b = a if cols is None else _Grams(cols, len(sums["cols own"]))
        # The inner product of U-centred Grams is n (n - 3) HSIC₁, of which a batch of n samples counts n-fold.
        weight = 1 / (a.n - 3)
        products = a.products(b)
        sums["pairwise"] += weight * products
        sums["batches"] += 1
        sums["samples"] += a.n
        for side, grams in (("rows", a), ("cols", b)):
            own = products.diagonal() if a is b else grams.own()
            for name, value in grams.per_layer(weight, own).items():
                sums[f"{side} {name}"] += value

    def finish(self, sums: Sums) -> PairwiseResult:
        rows, cols = ({name: sums[f"{side} {name}"] for name in _PER_LAYER} for side in ("rows", "cols"))
        reasons = undefined_cells(*(_lacking(side, float(sums["samples"])) for side in (rows, cols)))
        values = sums["pairwise"] / torch.outer(rows["own"], cols["own"]).sqrt()
        details = {
            "batch_size": torch.full_like(values, self.batch_size),
            "batches": sums["batches"].expand_as(values).clone(),
        }
        return PairwiseResult(values, details, reasons)


#: What is summed over batches for each layer: its own term, and what that term would be of the diagonal alone; its
#: squared distance from the batches' means, and the most of it that can be rounding; its means seen in one
#: direction, their squares, and how much of the squares' spread can be rounding.
_PER_LAYER = ("own", "size", "spread", "rounding", "height", "height²", "drift")


def _lacking(side: Sums, samples: float) -> list[str]:
    """What each layer has instead of a number: its batches are constant and all alike, or its own term vanishes."""
    drift = side["height²"] - side["height"].square() / max(samples, 1)
    constant = (side["spread"] <= side["rounding"]) & (drift <= side["drift"])
    # An estimate that is zero to rounding has no direction.
    vanishing = side["own"] <= 1e-10 * side["size"]
    return [CONSTANT if a else NO_HSIC * b for a, b in zip(constant.tolist(), vanishing.tolist(), strict=True)]


class _Grams:
    """U-centred Gram matrices of one batch, the upper blocks of each laid out in one row.

    Blocks right of the diagonal stand for those below it as well, by a factor √2.
    """

    def __init__(self, layers: Iterable[ShiftedLayer], count: int) -> None:
        first, *_ = head = list(itertools.islice(layers, 1))
        self.n = n = len(first.rows)
        if n < 4:
            advice = "Leave it out, or merge it with another"
            raise ValueError(message("cka_minibatch", "a batch must hold at least 4 samples", f"{n}", advice))
        height = math.ceil(n / 4)
        starts = [(a, min(a + height, n)) for a in range(0, n, height)]
        ends = list(itertools.accumulate((b - a) * (n - a) for a, b in starts))
        self._blocks = [(a, b, end - (b - a) * (n - a)) for (a, b), end in zip(starts, ends, strict=True)]
        dtype, device = first.rows.dtype, first.rows.device
        check_room(
            count * ends[-1], dtype, "the Gram matrices of one batch", "Lower batch_size, or choose fewer layers"
        )
        self._tiles = torch.empty(count, ends[-1], dtype=dtype, device=device)
        units, facts = [], []
        for layer, tile in zip(itertools.chain(head, layers), self._tiles, strict=True):
            units.append(self._fill(layer, tile))
            mean, varies = layer.origin.double(), layer.rows.amax(0) > layer.rows.amin(0)
            # A feature far from zero that is the same everywhere must not hide what the others vary by.
            level, rounding = (
                n * float(mean[varies if bool(varies.any()) else slice(None)].square().sum()),
                max(1e-12, layer.eps / 2),
            )
            facts.append((level, rounding, float(mean.sum()) / math.sqrt(len(mean)), layer.eps))
        self._units = torch.tensor(units, dtype=torch.float64).square()
        self._facts = torch.tensor(facts, dtype=torch.float64).T
        self._squares = torch.empty(count, n, dtype=torch.float64, device=device)
        self._total = self._centre()

    def products(self, other: "_Grams") -> Float[Tensor, "r c"]:
        """Inner products with another side's, for all pairs."""
        pieces = zip(self._tiles.split(SHORT, 1), other._tiles.to(self._tiles.device).split(SHORT, 1), strict=True)
        found = torch.stack([x.double() @ y.double().T for x, y in pieces]).sum(0)
        return found.cpu() * torch.outer(self._units, other._units)

    def own(self) -> Float[Tensor, " l"]:
        """The diagonal of the products with itself."""
        parts = self._tiles.split(SHORT, 1)
        return torch.stack([part.double().square().sum(1) for part in parts]).sum(0).cpu() * self._units**2

    def per_layer(self, weight: float, own: Float[Tensor, " l"]) -> Sums:
        """What this batch adds to the sums of `_PER_LAYER`."""
        trace, size = self._squares.sum(1), self._squares.square().sum(1)
        spread = self._units * (trace - (trace + self._total) / self.n).cpu()
        level, rounding, height, eps = self._facts
        values = (
            weight * own,
            weight * size.cpu() * self._units**2,
            spread,
            rounding**2 * (spread + level),
            self.n * height,
            self.n * height**2,
            eps.square().clamp_min(1e-12) * level,
        )
        return dict(zip(_PER_LAYER, values, strict=True))

    def _fill(self, layer: ShiftedLayer, tile: Tensor) -> float:
        """Writes the upper blocks of a layer's Gram matrix, and returns the unit of its features."""
        rows, unit = layer.rows, 1.0
        while True:
            for a, b, at in self._blocks:
                shape = b - a, self.n - a
                tile[at : at + math.prod(shape)].view(shape).copy_(matmul_nt(rows[a:b], rows[a:]))
            diagonal = torch.cat([self._block(tile[None], block)[0].diagonal() for block in self._blocks])
            # Products of Gram matrices must stay in the range of float32 as well.
            if unit != 1 or 1e-10 < float(diagonal.mean()) < 1e10:
                return unit
            biggest = float(rows.abs().amax())
            if not math.isfinite(biggest):
                advice = "Look for a diverged network, an overflow in float16, or broken inputs"
                raise ValueError(message("compare", f"{layer.name} must be finite", "NaN or infinity", advice))
            if biggest == 0:
                return unit
            unit = 2.0 ** math.floor(math.log2(biggest))
            rows = rows / unit

    def _block(self, tiles: Tensor, block: tuple[int, int, int]) -> Float[Tensor, "l h w"]:
        """Rows a..b and columns a..n of every layer's Gram matrix."""
        a, b, at = block
        shape = b - a, self.n - a
        return tiles[:, at : at + math.prod(shape)].view(len(tiles), *shape)

    def _centre(self) -> Float[Tensor, " l"]:
        """U-centres in place: every row sums to zero without its diagonal. Returns the sums off the diagonal."""
        n, sums = self.n, torch.zeros_like(self._squares)
        for a, b, at in self._blocks:
            block = self._block(self._tiles, (a, b, at))
            diagonal = block.diagonal(dim1=1, dim2=2)
            self._squares[:, a:b] = diagonal
            diagonal.zero_()
            sums[:, a:b] += block.sum(2)
            sums[:, b:] += block[:, :, b - a :].sum(1)
        total = sums.sum(1)
        share = (sums / (n - 2) - total[:, None] / (2 * (n - 1) * (n - 2))).to(self._tiles.dtype)
        for a, b, at in self._blocks:
            block = self._block(self._tiles, (a, b, at))
            block.sub_(share[:, a:b, None]).sub_(share[:, None, a:])
            block.diagonal(dim1=1, dim2=2).zero_()
            block[:, :, b - a :].mul_(math.sqrt(2))
        return total


METRICS = {"cka_minibatch": MinibatchCKA()}
