"""How sure is a value? Bootstrap intervals over samples, permutation tests, and differences of two comparisons."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim._common.checks import check_count, check_level
from repsim._common.html import ShownAsTable
from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.features.activations import Activations
from repsim.features.side_checks import check_same_samples
from repsim.metrics import Metric, get_metric, metric_name
from repsim.similarity.comparison import announce, labelled
from repsim.similarity.matrix import SimilarityMatrix
from repsim.similarity.permutation_null import against_chance, fewest_permutations, random_order, restrictions
from repsim.similarity.sides import placed, prepare_sides

if TYPE_CHECKING:
    import pandas as pd

States = tuple[list[Any], list[Any]]


def bootstrap(
    a: Activations,
    b: Activations,
    metric: str | Metric = "cka",
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> SimilarityMatrix:
    """`compare` with an interval for every value: how far would it move with other samples of the same kind?

    Samples are drawn with replacement. Measures of pairs of samples (CKA, RSA, neighbours) count a sample that was
    drawn twice as one of double weight, forms of TD draw among the held-out answers, the others are computed anew on
    the drawn rows. The interval holds the central `level` of the resampled values, moved by their mean bias (repeated
    rows look more alike than new ones would) and clipped to the measure's bounds.

    Args:
        a: First side, the rows.
        b: Second side, the columns.
        metric: As for `compare`.
        resamples: How many, at least 20.
        level: Of the interval, in (0, 1).
        seed: Of the draws.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        The matrix of `compare` with the details `ci_low`, `ci_high`, `standard_error` and `bootstrap_bias` (mean of the
        resamples less the value); NaN where a resample has no number. It covers the choice of samples, not of
        networks or of a head's fitting rows.

    Raises:
        ValueError: As `compare`, or settings out of range.

    Source:
        Efron 1979, Ann. Statist. 7; weights in place of repeated rows: Arcones, Giné 1992, Ann. Statist. 20.

    Cost:
        TD: counting. CKA and RSA: one product per resample and tile. CCA, Procrustes, GULP: `resamples` comparisons.
    """
    chosen = get_metric(metric)
    check_count("bootstrap", "resamples", resamples, 20)
    check_level("bootstrap", level)
    a, b = placed((a, b), device)
    value, states = _compared(a, b, chosen, "bootstrap", chosen.bootstrap_caution)
    found = _resampled(a, b, chosen, states, _draw(a.n, resamples, seed))
    details = _interval(value.values, found, level, chosen.bounds)
    given = {"resamples": resamples, "level": level, "seed": seed}
    return replace(value, details={**value.details, **details}, provenance={**value.provenance, "bootstrap": given})


def permutation_test(
    a: Activations,
    b: Activations,
    metric: str | Metric = "cka",
    *,
    permutations: int = 200,
    alpha: float = 0.05,
    within: Any = None,
    groups: Any = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> SimilarityMatrix:
    """`compare` with what chance gives: could unrelated layers look as much alike, and the best pair of so many?

    The second side's samples are permuted, all layers alike, which leaves each layer as it is and destroys what the
    two share. For forms of TD with classes, answers are permuted within each class: what is left is agreement through
    the confusion matrices alone.

    Args:
        a: First side, the rows.
        b: Second side, the columns.
        metric: As for `compare`.
        permutations: How many, at least 20 and 1 / alpha; the smallest p-value is 1 / (permutations + 1).
        alpha: Size of the test whose threshold calibrates the values, in (0, 1).
        within: Only samples of one kind change places: "classes" of the labels, or (n,) whole numbers. What is tested
            then is agreement beyond what the kinds alone bring about.
        groups: (n,) whole numbers, for samples that are no independent draws (several images of one subject, frames
            of one film): those of one number stay together, and whole groups of one size change places.
        seed: Of the permutations.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        The matrix of `compare` with the details of `against_chance`: `p_value` (share of permutations that look at
        least as much alike, the observed one included), `p_adjusted` (the same against the best of all cells, which
        allows for having looked at all of them) and `p_max` (that of the best cell), `calibrated` (0 where chance
        reaches the value with probability alpha, 1 for a layer with itself) and `calibrated_max` (the best cell
        against the best of chance), `null_mean`, and the central 95 % of the chance values, `null_low`, `null_high`.

    Raises:
        ValueError: As `compare`; too few permutations, or too few that differ; columns of another length; groups that
            no other group can change places with; `within` or `groups` for a form of TD.

    Warns:
        CautionWarning: As `compare`, and where permutations do not change a value.

    Source:
        Calibration and the best pair: arXiv 2602.14486.

    Cost:
        `permutations` crossings of prepared layers; measures without a shortcut prepare one side anew each time.
    """
    chosen = get_metric(metric)
    check_level("permutation_test", alpha, "alpha", "0.05")
    check_count("permutation_test", "permutations", permutations, max(20, fewest_permutations(alpha)))
    check_same_samples(a, b, "permutation_test")
    a, b = placed((a, b), device)
    kept = restrictions(a, b, chosen, alpha, within, groups)
    value, (rows, cols) = _compared(a, b, chosen, "permutation_test")
    generator = torch.Generator().manual_seed(seed)
    null = []
    with progress_bar(permutations, "permutations", "permutation") as bar:
        for _ in range(permutations):
            order = random_order(a.n, generator, *kept)
            moved = chosen.permuted(cols, order)
            if moved is None:
                # Prepared together: a measure may choose by all layers.
                left, right = _layers(a), [x[order.to(x.device)] for x in _layers(b)]
                states = _prepared_anew("permutation_test", "permuted", chosen, [*left, *right])
                null.append(chosen.pairwise(states[: len(left)], states[len(left) :]).values.cpu().numpy())
            else:
                null.append(chosen.pairwise(rows, moved).values.cpu().numpy())
            bar.update()
    chance, similarity = np.stack(null), chosen.kind == "similarity"
    details = against_chance(
        value.values, chance, larger_is_alike=similarity, self_value=chosen.self_value, alpha=alpha
    )
    given: dict[str, Any] = {"permutations": permutations, "alpha": alpha, "seed": seed}
    if within is not None:
        given["within"] = within if isinstance(within, str) else "given"
    if groups is not None:
        given["groups"] = "given"
    value = replace(
        value, details={**value.details, **details}, provenance={**value.provenance, "permutation_test": given}
    )
    return _with_idle(value, chance)


@dataclass(frozen=True, eq=False)
class Difference(ShownAsTable):
    """How much further apart (or more alike) one pair of networks is than another, layer pair by layer pair.

    Attributes:
        values: (r, c) first comparison less second.
        ci_low: (r, c) lower end of the interval.
        ci_high: (r, c) upper end.
        standard_error: (r, c).
        p_value: (r, c) two-sided, of no difference.
        first: The first comparison.
        second: The second comparison.
        level: Of the interval.
        resamples: Bootstrap resamples.
    """

    values: Float[np.ndarray, "r c"]
    ci_low: Float[np.ndarray, "r c"]
    ci_high: Float[np.ndarray, "r c"]
    standard_error: Float[np.ndarray, "r c"]
    p_value: Float[np.ndarray, "r c"]
    first: SimilarityMatrix
    second: SimilarityMatrix
    level: float
    resamples: int

    def __repr__(self) -> str:
        pairs = [f"{m.row_model} × {m.col_model}" for m in (self.first, self.second)]
        return f"Difference({self.first.metric}, {pairs[0]} less {pairs[1]}, n = {self.first.n:,})"

    def to_frame(self) -> "pd.DataFrame":
        """One row per pair of layers: both values, their difference, its interval and p-value, and n."""
        import pandas as pd

        r, c = self.values.shape
        frames = {}
        for which, matrix in (("first", self.first), ("second", self.second)):
            frames[f"{which}_rows"] = np.repeat(matrix.rows, c)
            frames[f"{which}_cols"] = np.tile(matrix.cols, r)
            frames[which] = matrix.values.ravel()
        numbers = ("values", "ci_low", "ci_high", "standard_error", "p_value")
        table = {name.removesuffix("s"): getattr(self, name).ravel() for name in numbers}
        table["difference"] = table.pop("value")
        return pd.DataFrame({**frames, **table, "metric": self.first.metric, "n": self.first.n})


def difference(
    first: tuple[Activations, Activations],
    second: tuple[Activations, Activations],
    metric: str | Metric = "td",
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Difference:
    """Is one pair of networks further apart than another? A paired bootstrap over the samples both pairs share.

    Both comparisons are resampled with the same draws, so that what the choice of samples does to both cancels. Two
    overlapping intervals of single values do not answer this question.

    Args:
        first: The two sides of one comparison.
        second: The two sides of the other; the same samples in the same order, equally many layers.
        metric: As for `compare`.
        resamples: How many, at least 20; the smallest p-value is 2 / (resamples + 1).
        level: Of the interval, in (0, 1).
        seed: Of the draws.
        device: Where to compute, as in "cuda"; None leaves the features where they are.

    Returns:
        Differences of all layer pairs, matched by place.

    Raises:
        ValueError: As `compare`; other samples in the second pair; other numbers of layers.

    Example:
        >>> x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> a, b, c = (Activations.from_arrays({"one": x + s * x.roll(1, 0)}) for s in (0, 0.1, 1))
        >>> found = difference((a, b), (a, c), "cka", resamples=99)
        >>> bool(found.ci_low[0, 0] > 0), found.p_value.round(2)
        (True, array([[0.02]]))
    """
    chosen = get_metric(metric)
    check_count("difference", "resamples", resamples, 20)
    check_level("difference", level)
    both = placed((*first, *second), device)
    first, second = (both[0], both[1]), (both[2], both[3])
    compared = [_compared(*pair, chosen, "difference", chosen.bootstrap_caution) for pair in (first, second)]
    values = [matrix for matrix, _ in compared]
    if values[0].values.shape != values[1].values.shape:
        got = " and ".join(f"{len(m.rows)} × {len(m.cols)}" for m in values)
        advice = "Extract the same layers of both pairs"
        raise ValueError(message("difference", "both pairs must have equally many layers", got, advice))
    check_same_samples(first[0], second[0], "difference")
    counts = _draw(first[0].n, resamples, seed)
    pairs = zip((first, second), compared, strict=True)
    found = [_resampled(*pair, chosen, states, counts) for pair, (_, states) in pairs]
    delta = values[0].values - values[1].values
    moved = found[0] - found[1]
    interval = _interval(delta, moved, level, (-np.inf, np.inf))
    centred = moved - interval["bootstrap_bias"]
    below, above = ((1 + (centred <= 0).sum(0)), (1 + (centred >= 0).sum(0)))
    p = np.minimum(1.0, 2 * np.minimum(below, above) / (1 + resamples))
    p = np.where(np.isnan(delta) | np.isnan(moved).any(0), np.nan, p)
    ends = interval["ci_low"], interval["ci_high"], interval["standard_error"]
    return Difference(delta, *ends, p, values[0], values[1], level, resamples)


def _compared(
    a: Activations, b: Activations, metric: Metric, function: str, caution: str = ""
) -> tuple[SimilarityMatrix, States]:
    """What `compare` gives, with one more caution, and the prepared layers, which serve every resample."""
    started = time.time()
    states = prepare_sides(a, b, metric, function)[""]
    value = labelled(a, b, metric, metric.compared(*states), started)
    if caution:
        value = replace(value, cautions=(*value.cautions, caution))
    announce(value, function, stacklevel=4)
    return value, states


def _with_idle(value: SimilarityMatrix, chance: Float[np.ndarray, "k r c"]) -> SimilarityMatrix:
    """Says how many values no permutation changes: a p-value of 1 there is no sign of unlike layers."""
    count = int((np.abs(chance - value.values).max(0) <= 1e-12).sum())
    if not count:
        return value
    caution = f"{count} of {value.values.size} values are the same under every permutation: chance cannot be told there"
    announce(replace(value, cautions=(caution,)), "permutation_test", stacklevel=4)
    return replace(value, cautions=(*value.cautions, caution))


def _layers(side: Activations) -> list[Tensor]:
    return [side[name] for name in side.layers]


def _draw(n: int, resamples: int, seed: int) -> Int[Tensor, "b n"]:
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(resamples, n, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))


def _resampled(
    a: Activations, b: Activations, metric: Metric, states: States, counts: Int[Tensor, "b n"]
) -> Float[np.ndarray, "b r c"]:
    found = metric.bootstrapped(*states, counts)
    if found is not None:
        return found.cpu().numpy()
    values = []
    with progress_bar(len(counts), f"bootstrap {metric_name(metric)}", "resample") as bar:
        for each in counts:
            rows = torch.repeat_interleave(torch.arange(len(each)), each)
            sides = [a] if a is b else [a, b]
            drawn = [x[rows.to(x.device)] for side in sides for x in _layers(side)]
            again = _prepared_anew("bootstrap", "bootstrapped", metric, drawn)
            left = again[: len(a)]
            values.append(metric.pairwise(left, left if a is b else again[len(a) :]).values.cpu().numpy())
            bar.update()
    return np.stack(values)


def _prepared_anew(function: str, method: str, metric: Metric, layers: list[Tensor]) -> list[Any]:
    """The layers prepared once more; heads cannot be, as copies of a row would be fitted and asked about."""
    if metric.needs_labels:
        must = f"a measure of answers must say what it is of other rows, by `{method}`"
        advice = "Define it, or use compare"
        raise ValueError(message(function, must, f"{metric_name(metric)} without", advice))
    return metric.prepare(layers, None)


def _interval(
    value: np.ndarray, found: Float[np.ndarray, "b r c"], level: float, bounds: tuple[float, float]
) -> dict[str, np.ndarray]:
    # One resample without a number would bias what the others say: such a cell has no interval.
    bias = found.mean(0) - value
    low, high = (np.quantile(found, q, axis=0) - bias for q in ((1 - level) / 2, (1 + level) / 2))
    return {
        "ci_low": np.clip(low, *bounds),
        "ci_high": np.clip(high, *bounds),
        "standard_error": found.std(0, ddof=1),
        "bootstrap_bias": bias,
    }
