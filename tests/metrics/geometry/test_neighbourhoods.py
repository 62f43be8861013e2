"""Measures of ordered neighbours and information imbalance against sorted lists, closed forms, and all permutations."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import (
    CKNNA,
    InformationImbalance,
    KNNJaccard,
    Metric,
    RankSimilarity,
    SecondOrderCosine,
    get_metric,
    metric_name,
)
from tests.conftest import exactly
from tests.oracles import neighbors
from tests.oracles import neighbourhoods as oracle
from tests.support.sides import compare, layers, one

# n, widths of the rows, widths of the columns
SHAPES = {"narrow": (25, (3, 7), (5, 2)), "wide": (12, (30,), (41,)), "four samples": (4, (4, 9), (5,))}
DISTANCES = ("cosine", "euclidean")
METRICS = [
    *(kind(k, d) for kind in (KNNJaccard, RankSimilarity) for d in DISTANCES for k in (1, 3)),  # type: ignore[arg-type]
    *(SecondOrderCosine(k, form) for form in ("similarity", "distance") for k in (1, 3)),  # type: ignore[arg-type]
    *(InformationImbalance(k) for k in (1, 3)),
]
EVERY = pytest.mark.parametrize("metric", METRICS, ids=metric_name)


def expected(x: np.ndarray, y: np.ndarray, metric: Metric) -> float:
    if isinstance(metric, KNNJaccard):
        return oracle.knn_jaccard(x, y, metric.k, metric.distance)
    if isinstance(metric, RankSimilarity):
        return oracle.rank_similarity(x, y, metric.k, metric.distance)
    if isinstance(metric, SecondOrderCosine):
        return oracle.second_order_cosine(x, y, metric.k, metric.form)
    assert isinstance(metric, InformationImbalance)
    return oracle.information_imbalance(x, y, metric.k)


# --- Values ---------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_pair_matches_the_oracle_of_the_same_numbers(metric: Metric, shape: str, dtype: type) -> None:
    n, p, q = SHAPES[shape]
    rows, cols = ({name: x.astype(dtype) for name, x in layers(s, n, w).items()} for s, w in ((1, p), (2, q)))
    table = [[expected(x, y, metric) for y in cols.values()] for x in rows.values()]
    np.testing.assert_allclose(compare(rows, cols, metric).values, table, rtol=0, atol=1e-9)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_from_what_they_are(metric: Metric, dtype: torch.dtype) -> None:
    x, y = (torch.from_numpy(z).to(dtype) for z in layers(1, 20, (6, 9)).values())
    assert compare({"x": x}, {"y": y}, metric).values.item() == pytest.approx(
        expected(x.double().numpy(), y.double().numpy(), metric), abs=1e-9
    )


@EVERY
@pytest.mark.parametrize(("scale", "dtype"), [(1e30, np.float32), (1e-30, np.float32), (1e300, float), (1e-300, float)])
def test_values_do_not_depend_on_the_scale(metric: Metric, scale: float, dtype: type) -> None:
    x, y = (z.astype(np.float32) for z in layers(1, 15, (4, 7)).values())
    base = one(x, y, metric)
    assert one((scale * x.astype(float)).astype(dtype), y, metric) == pytest.approx(base, abs=1e-4)


@drawn(seed=st.integers(0, 2**32 - 1), n=st.integers(5, 20), p=st.integers(1, 3), k=st.integers(1, 4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_on_a_grid_with_ties_they_match_the_oracles(seed: int, n: int, p: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 3, (n, p)).astype(float) for _ in range(2))
    x[0], y[1] = 5, 7
    for metric in (KNNJaccard(k, "euclidean"), RankSimilarity(k, "euclidean"), InformationImbalance(k)):
        assert one(x, y, metric) == pytest.approx(expected(x, y, metric), abs=1e-9), metric


def test_duplicates_are_neighbours_and_never_the_sample_itself() -> None:
    """ReSi drops the first of k + 1 neighbours as the sample itself, which with duplicates it often is not."""
    x = np.repeat(np.random.default_rng(0).standard_normal((5, 4)), 12, axis=0)
    y = np.random.default_rng(1).standard_normal((60, 4))
    for metric in (KNNJaccard(5), RankSimilarity(5), SecondOrderCosine(5), InformationImbalance()):
        assert one(x, y, metric) == pytest.approx(expected(x, y, metric), abs=1e-9)
    # 11 duplicates tie for the nearest place, and none of them is nearer than another.
    assert one(x, x.copy(), InformationImbalance()) == pytest.approx(2 * 11 / 60, abs=1e-12)
    assert compare({"x": x}, {"y": y}, InformationImbalance()).details["tied_row"].item() == 1


# --- Closed forms ---------------------------------------------------------------------------------------------


def test_one_row_with_its_neighbours_in_reverse_order() -> None:
    """k = n − 1 = 4: Σ 2 / ((1 + |2r − 5|) 5) / H_4."""
    lists = [[1, 2, 3, 4], [4, 3, 2, 1]]
    metric = RankSimilarity(4, "euclidean")
    a, b = (
        metric.prepare([torch.tensor([[0.0], *([float(order.index(v) + 1)] for v in range(1, 5))])], None)[0]
        for order in lists
    )
    total = sum(2 / ((1 + abs(2 * r - 5)) * 5) for r in range(1, 5)) / (1 + 1 / 2 + 1 / 3 + 1 / 4)
    assert total == pytest.approx(0.288, abs=1e-4)
    assert float(metric.per_sample(a, b)[0]) == pytest.approx(total, abs=1e-12)


def test_all_others_are_neighbours() -> None:
    x, y = layers(1, 9, (3, 4)).values()
    assert one(x, y, KNNJaccard(8)) == 1
    assert one(x, y, InformationImbalance(8)) == pytest.approx(1, abs=1e-12)


def test_the_largest_and_the_smallest_imbalance() -> None:
    a, b = np.array([[0.0], [1], [3]]), np.array([[0.0], [3], [1]])
    assert one(a, b, "information_imbalance") == pytest.approx(4 / 3, abs=1e-12)
    x = layers(1, 50, (4,))["layer0"]
    assert one(x, x.copy(), "information_imbalance") == pytest.approx(2 / 50, abs=1e-12)
    assert one(x, x.copy(), InformationImbalance(5)) == pytest.approx(6 / 50, abs=1e-12)


def test_two_features_tell_of_one_more_than_one_tells_of_two() -> None:
    x = np.random.default_rng(0).standard_normal((200, 2))
    found = compare({"both": x}, {"one": x[:, :1]}, "information_imbalance")
    assert found.values.item() < 0.6 * found.details["reverse"].item()
    assert one(x[:, :1], x, "information_imbalance") == found.details["reverse"].item()


def mean_over_all_orders(x: np.ndarray, y: np.ndarray, metric: Metric) -> float:
    states = metric.prepare([torch.from_numpy(x), torch.from_numpy(y)], None)
    found = []
    for order in itertools.permutations(range(len(x))):
        moved = metric.permuted(states[1:], torch.tensor(order))
        if moved is None:
            states = metric.prepare([torch.from_numpy(x), torch.from_numpy(y[list(order)])], None)
            moved = states[1:]
        found.append(metric.pairwise(states[:1], moved).values.item())
    return float(np.mean(found))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_chance_is_the_mean_over_all_orders(k: int) -> None:
    x, y = layers(1, 5, (3, 4)).values()
    jaccard = sum(hypergeom.pmf(m, 4, k, k) * m / (2 * k - m) for m in range(1, k + 1))
    for metric, chance in ((KNNJaccard(k), jaccard), (InformationImbalance(k), 1.0)):
        assert compare({"x": x}, {"y": y}, metric).details["chance"].item() == pytest.approx(chance, abs=1e-12)
        assert mean_over_all_orders(x, y, metric) == pytest.approx(chance, abs=1e-9)


def test_equal_distances_raise_the_chance_of_an_imbalance_and_it_is_told() -> None:
    x = layers(1, 5, (3,))["layer0"]
    y = np.array([[0.0], [0], [1], [1], [1]])
    metric = InformationImbalance()
    chance = compare({"x": x}, {"y": y}, metric).details["chance"].item()
    assert chance > 1.2
    assert mean_over_all_orders(x, y, metric) == pytest.approx(chance, abs=1e-9)
    a, b = Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y})
    text = f"equal distances raise ranks: unrelated layers reach {chance:.2f}, not 1; read values against `chance`"
    with pytest.warns(CautionWarning) as told:
        repsim.compare(a, b, metric)
    smallest = "the smallest value there is, of equal layers, is 0.40 at n = 5: use more samples"
    said = [str(w.message).removeprefix("compare features × features, information_imbalance: ") for w in told]
    assert said == [f"{smallest}.", f"{text}."]


def test_similarities_and_distances_are_two_measures() -> None:
    """Figures of the two forms on independent rows; the difference is the definition's, not noise."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 60, 8))
    similarity, distance = one(x, y, SecondOrderCosine()), one(x, y, SecondOrderCosine(form="distance"))
    assert similarity < 0.1
    assert 0.6 < distance < 0.8


def test_the_joint_detail_is_the_mean_product() -> None:
    x, y = layers(1, 20, (3, 4)).values()
    found = compare({"x": x}, {"y": y}, RankSimilarity(4)).details
    lists = zip(oracle.ordered(x, 4, "cosine"), oracle.ordered(y, 4, "cosine"), strict=True)
    jaccard = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in lists]
    assert found["jaccard"].item() == pytest.approx(np.mean(jaccard), abs=1e-12)
    ranks = oracle.rank_similarities(x, y, 4, "cosine")
    assert found["joint"].item() == pytest.approx(np.mean(np.multiply(jaccard, ranks)), abs=1e-12)


# --- The published CKNNA --------------------------------------------------------------------------------------


def published_cknna(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """platonic-rep: rows of length 1, not centred, masks multiplied, unbiased HSIC of the products; both orders."""
    grams, masks = [], []
    for z in (x, y):
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        grams.append(z @ z.T)
        masks.append(np.zeros((len(z), len(z))))
        for i, row in enumerate(neighbors.neighbours(z, k, "inner_product")):
            masks[-1][i, row] = 1

    def alignment(i: int, j: int) -> float:
        both = masks[i] * masks[j]
        a, b = grams[i] * both, grams[j] * both
        n = len(a)
        found = []
        for left, right in ((a, b), (b, a)):
            cross = (left @ right).sum()
            level = left.sum() * right.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)
            found.append((np.trace(left @ right) + level) / (n * (n - 3)))
        return float(np.mean(found))

    return alignment(0, 1) / float(np.sqrt(alignment(0, 0) * alignment(1, 1)))


@pytest.mark.parametrize("k", [2, 5, 10])
def test_cknna_of_unit_rows_is_the_published_one(k: int) -> None:
    x, y = layers(1, 30, (6, 9)).values()
    assert one(x, y, CKNNA(k, "unit")) == pytest.approx(published_cknna(x, y, k), abs=1e-9)
    assert abs(one(x, y, CKNNA(k, "unit")) - one(x, y, CKNNA(k))) > 1e-4
    assert one(x, x.copy(), CKNNA(k, "unit")) == pytest.approx(1, abs=1e-12)


def test_cknna_of_unit_rows_is_blind_to_the_length_of_rows_and_sees_shifts() -> None:
    x, y = layers(1, 30, (6, 9)).values()
    metric = CKNNA(5, "unit")
    longer = x * np.random.default_rng(0).uniform(0.5, 2, (30, 1))
    assert one(longer, y, metric) == pytest.approx(one(x, y, metric), abs=1e-9)
    assert abs(one(x + 3, y, metric) - one(x, y, metric)) > 1e-3
    assert metric.invariances == {"orthogonal", "scale"}


# --- Hard inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [KNNJaccard(3), RankSimilarity(3), SecondOrderCosine(3)], ids=metric_name)
def test_a_sample_without_a_direction_has_no_cosine(metric: Metric) -> None:
    x, y = layers(1, 20, (6, 9)).values()
    x[4] = 0
    found = compare({"x": x}, {"y": y}, metric)
    reason = (
        "the row layer has 1 of 20 samples without a direction (all zero), first sample 4, so no cosine distance; use "
        "distance='euclidean'"
    )
    assert np.isnan(found.values.item())
    assert found.reasons == {(0, 0): reason}


def test_distances_of_duplicates_alone_have_no_cosine() -> None:
    x = np.repeat(np.random.default_rng(0).standard_normal((5, 4)), 4, axis=0)
    found = compare({"x": x}, {"x": x.copy()}, SecondOrderCosine(3, "distance"))
    reason = "samples whose neighbours are all at cosine distance 0; use form='similarity'"
    assert found.reasons == {(0, 0): reason}
    assert one(x, x.copy(), SecondOrderCosine(3)) == pytest.approx(1, abs=1e-12)


@EVERY
def test_permuted_states_are_those_of_permuted_rows(metric: Metric) -> None:
    x, y = (torch.from_numpy(z) for z in layers(1, 20, (6, 9)).values())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    moved = metric.permuted(metric.prepare([y], None), order)
    assert moved is not None
    anew = metric.prepare([x, y[order]], None)
    np.testing.assert_allclose(
        metric.pairwise(anew[:1], moved).values, metric.pairwise(anew[:1], anew[1:]).values, atol=1e-12
    )


def test_ties_broken_by_the_old_order_are_not_permuted() -> None:
    x = torch.arange(6.0)[:, None]  # neighbours on both sides, equally near, none of them in the last place
    metric = RankSimilarity(2, "euclidean")
    assert metric.permuted(metric.prepare([x], None), torch.arange(6)) is None


@EVERY
def test_resamples_weigh_samples(metric: Any) -> None:
    x, y = (torch.from_numpy(z) for z in layers(1, 20, (6, 9)).values())
    counts = torch.from_numpy(np.random.default_rng(0).multinomial(20, np.ones(20) / 20, 3))
    states = metric.prepare([x, y], None)
    found = metric.bootstrapped(states[:1], states[1:], counts)
    each: Callable[..., Any] = metric.per_sample if hasattr(metric, "per_sample") else metric._rank_of_nearest
    values = each(states[0], states[1]).numpy() * (2 / 20 if isinstance(metric, InformationImbalance) else 1)
    np.testing.assert_allclose(found[:, 0, 0], counts.numpy() @ values / 20, atol=1e-12)


# --- Settings -------------------------------------------------------------------------------------------------


def test_names_and_titles() -> None:
    assert get_metric("knn_jaccard(distance='euclidean')") == KNNJaccard(10, "euclidean")
    assert KNNJaccard(5).title == "5-NN Jaccard, cosine"
    assert RankSimilarity().title == "rank similarity of 10 neighbours, cosine"
    assert SecondOrderCosine(form="distance").title == "second-order cosine, 10 neighbours, of distances"
    assert InformationImbalance(3).title == "information imbalance, rows → columns, k = 3"
    assert metric_name(CKNNA(rows="unit")) == "cknna(rows='unit')"


# A measure, its settings, and the whole message after its name.
WRONG = [
    (KNNJaccard, {"k": 0}, "k must be at least 1; got 0. 10 is usual."),
    (RankSimilarity, {"k": 2.5}, "k must be an integer; got 2.5. 10 is usual."),
    (KNNJaccard, {"distance": "z"}, "distance must be 'cosine' or 'euclidean'; got 'z'. Choose one of these."),
    (SecondOrderCosine, {"form": "z"}, "form must be 'similarity' or 'distance'; got 'z'. Choose one of these."),
    (InformationImbalance, {"k": 0}, "k must be at least 1; got 0. The paper uses 1."),
    (InformationImbalance, {"k": True}, "k must be an integer; got True. The paper uses 1."),
    (CKNNA, {"rows": "z"}, "rows must be 'centred' or 'unit'; got 'z'. 'unit' is the published pipeline."),
]


@pytest.mark.parametrize(("kind", "given", "text"), WRONG)
def test_wrong_settings(kind: type, given: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=exactly(f"{kind.__name__}: {text}")):
        kind(**given)


@pytest.mark.parametrize("kind", [KNNJaccard, RankSimilarity, SecondOrderCosine, InformationImbalance])
def test_too_few_samples_for_k(kind: Any) -> None:
    x = np.random.default_rng(0).standard_normal((8, 3))
    name = metric_name(kind(8))
    text = f"compare: {name} needs at least 9 samples; got 8. Extract on more samples."
    with pytest.raises(ValueError, match=exactly(text)):
        one(x, x, kind(8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert 0 < one(x, x, kind(7)) <= 1 + 1e-12
