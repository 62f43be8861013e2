"""The null of the best cell, calibrated values and restricted permutations against counting, by hand and in full."""

import itertools
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning
from repsim.numerics.permutation_null import against_chance, count_orders, fewest_permutations, random_order
from repsim.similarity.inference import permutation_test
from tests.conftest import exactly


def held(s: Any, null: Any, alpha: float = 0.05, **other: Any) -> dict[str, np.ndarray]:
    """One row of cells."""
    chance = np.asarray(null, dtype=float)
    chance = chance[:, None, None] if chance.ndim == 1 else chance
    settings = {"larger_is_alike": True, "self_value": 1.0, **other}
    return against_chance(np.atleast_2d(np.asarray(s, dtype=float)), chance, alpha=alpha, **settings)


def one(s: float, null: Any, **other: Any) -> tuple[float, float]:
    found = held(s, null, **other)
    return float(found["calibrated"][0, 0]), float(found["p_value"][0, 0])


def test_the_published_examples() -> None:
    even = np.linspace(0, 0.5, 19)
    assert one(0.9, even) == pytest.approx((0.8, 0.05))
    assert one(0.25, even) == pytest.approx((0, 11 / 20))
    assert one(0.9, np.zeros(18))[0] == 0  # 18 permutations can show nothing at 0.05


def test_a_distance_is_a_similarity_turned_round() -> None:
    rng = np.random.default_rng(0)
    s, null = rng.uniform(size=(3, 4)), rng.uniform(size=(39, 3, 4))
    up = held(s, null)
    down = held(1 - s, 1 - null, larger_is_alike=False, self_value=0.0)
    for name in ("p_value", "p_adjusted", "p_max", "calibrated", "calibrated_max"):
        np.testing.assert_allclose(down[name], up[name], atol=1e-12)


def test_values_are_above_zero_exactly_where_the_test_rejects() -> None:
    rng = np.random.default_rng(1)
    for k, alpha in ((19, 0.05), (39, 0.05), (99, 0.1), (64, 0.2)):
        found = held(rng.normal(0.5, 0.4, (20, 20)), rng.normal(0, 0.3, (k, 20, 20)), alpha, self_value=5.0)
        reject = found["p_value"] <= np.floor(alpha * (k + 1) + 1e-9) / (k + 1) + 1e-12
        np.testing.assert_array_equal(found["calibrated"] > 0, reject)
        assert reject.any()
        assert not reject.all()


def test_the_best_cell_is_held_against_the_best_of_chance() -> None:
    rng = np.random.default_rng(2)
    s, null = rng.normal(size=(3, 4)), rng.normal(size=(49, 3, 4))
    found, best = held(s, null, self_value=5.0), null.reshape(49, -1).max(1)
    for i, j in itertools.product(range(3), range(4)):
        assert found["p_adjusted"][i, j] == pytest.approx((1 + np.sum(best >= s[i, j])) / 50)
    assert np.all(found["p_max"] == found["p_adjusted"].min())
    threshold = np.sort(np.append(best, s.max()))[int(np.ceil(0.95 * 50)) - 1]
    assert found["calibrated_max"][0, 0] == pytest.approx(max(0, (s.max() - threshold) / (5 - threshold)))


def test_cells_without_a_number_take_no_other_with_them() -> None:
    rng = np.random.default_rng(3)
    s, null = rng.normal(size=(1, 3)), rng.normal(size=(39, 1, 3))
    gap = s.copy()
    gap[0, 1] = np.nan
    found, alone = held(gap, null), held(s[:, [0, 2]], null[:, :, [0, 2]])
    for name in found:
        assert np.isnan(found[name][0, 1])
        np.testing.assert_allclose(found[name][:, [0, 2]], alone[name], atol=1e-12)
    assert all(np.isnan(x).all() for x in held(np.full((1, 3), np.nan), null).values())


def test_orders_are_uniform_among_those_that_are_allowed() -> None:
    within, groups = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), torch.tensor([5, 5, 2, 2, 9, 9, 7, 8])
    allowed = set()
    for order in itertools.permutations(range(8)):
        kept = all(within[i] == within[j] for i, j in enumerate(order))
        pairs = [order[0:2], order[2:4], order[4:6]]
        if kept and all(p in ((0, 1), (2, 3), (4, 5)) for p in pairs):
            allowed.add(order)
    assert len(allowed) == count_orders(8, within, groups) == 12
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(tuple(random_order(8, generator, within, groups).tolist()) for _ in range(6000))
    assert drawn.keys() == allowed
    assert all(400 < count < 600 for count in drawn.values())
    assert count_orders(4, None, torch.tensor([0, 0, 1, 2])) == 2  # the pair has no other pair to change with
    assert count_orders(1000, None, None) == np.inf


def test_the_fewest_permutations_are_exact() -> None:
    assert [fewest_permutations(alpha) for alpha in (0.05, 0.01, 0.3, 1 / 3)] == [20, 100, 4, 4]


# The test of matrices.


@pytest.fixture(autouse=True)
def _no_cautions() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        yield


def unrelated(seed: int, n: int = 40, count: int = 5) -> tuple[Activations, Activations]:
    rng = np.random.default_rng(seed)
    a, b = (Activations.from_arrays({f"{i}": rng.normal(size=(n, 4)) for i in range(count)}) for _ in range(2))
    return a, b


@pytest.mark.parametrize("name", ["cka", "procrustes"])
def test_the_best_of_many_unrelated_pairs_is_even(name: str) -> None:
    p = [permutation_test(*unrelated(s), name, permutations=20).details["p_max"][0, 0] for s in range(12)]
    assert np.mean(p) == pytest.approx(11 / 21, abs=0.25)
    assert np.mean(np.array(p) < 0.1) <= 0.34


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cka", "procrustes", "mutual_knn", "rsa"])
def test_the_best_pair_has_the_size_of_the_test(name: str) -> None:
    found = [permutation_test(*unrelated(s), name, permutations=39).details for s in range(300)]
    p = np.array([each["p_max"][0, 0] for each in found])
    assert np.mean(p <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / 300))
    naive = np.array([each["p_value"].min() for each in found])
    assert np.mean(naive <= 0.05) > 0.4
    np.testing.assert_array_equal(np.array([each["calibrated_max"][0, 0] for each in found]) > 0, p <= 0.05)


def test_a_layer_with_itself_is_calibrated_to_one() -> None:
    a, _ = unrelated(0, count=2)
    found = permutation_test(a, a, "cka", permutations=99).details
    np.testing.assert_allclose(np.diag(found["calibrated"]), 1, atol=1e-6)
    assert found["p_max"][0, 0] == 0.01
    assert found["calibrated"][0, 1] == 0


def test_agreement_through_classes_alone_goes_within_classes() -> None:
    """Two layers know the class and nothing else: together by the classes, unrelated within them."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    a, b = (Activations.from_arrays({"x": 3 * np.eye(3)[y] + rng.normal(size=(90, 3))}, labels=y) for _ in range(2))
    assert permutation_test(a, b, "cka", permutations=50).details["p_value"].item() == 1 / 51
    found = permutation_test(a, b, "cka", permutations=50, within="classes")
    assert found.details["p_value"].item() > 0.1
    same = permutation_test(a, b, "cka", permutations=50, within=y + 7)
    np.testing.assert_array_equal(found.details["p_value"], same.details["p_value"])
    assert found.provenance["permutation_test"]["within"] == "classes"


@pytest.mark.slow
def test_several_rows_of_a_subject_need_groups() -> None:
    """Eight rows of each of 12 subjects: without groups unrelated subjects are called alike, with them they are not."""
    plain, grouped = [], []
    who = np.repeat(np.arange(12), 8)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sides = [2 * rng.normal(size=(12, 3))[who] + rng.normal(size=(96, 3)) for _ in range(2)]
        a, b = (Activations.from_arrays({"x": x}) for x in sides)
        plain.append(permutation_test(a, b, "cka", permutations=39).details["p_value"].item())
        grouped.append(permutation_test(a, b, "cka", permutations=39, groups=who).details["p_value"].item())
    assert np.mean(np.array(plain) <= 0.05) > 0.4
    assert np.mean(np.array(grouped) <= 0.05) <= 0.12


def test_values_that_no_permutation_changes_are_told_of() -> None:
    a = Activations.from_arrays({"one": np.random.default_rng(0).normal(size=(12, 12))})
    text = "1 of 1 values are the same under every permutation: chance cannot be told there"
    with pytest.warns(CautionWarning, match=text):
        found = permutation_test(a, a, "linear_regression", permutations=20)
    assert text in found.cautions
    assert (found.details["p_value"].item(), found.details["calibrated"].item()) == (1, 0)


def refused(call: str) -> Any:
    a, b = unrelated(0)
    y = np.arange(40) % 4
    return {
        "permutations": lambda: permutation_test(a, b, permutations=99, alpha=0.01),
        "alpha": lambda: permutation_test(a, b, alpha=5),
        "length": lambda: permutation_test(a, b, groups=np.arange(39)),
        "type": lambda: permutation_test(a, b, groups=np.linspace(0, 1, 40)),
        "word": lambda: permutation_test(a, b, within="class"),
        "labels": lambda: permutation_test(a, b, within="classes"),
        "mixed": lambda: permutation_test(a, b, within=y, groups=y // 2),
        "few": lambda: permutation_test(a, b, groups=np.arange(40) // 14),
        "td": lambda: permutation_test(a, b, "td", within=y),
    }[call]()


REFUSED = {
    "permutations": "permutation_test: permutations must be a whole number >= 100; got 99. 200 is usual.",
    "alpha": "permutation_test: alpha must be in (0, 1); got 5. 0.05 is usual.",
    "length": (
        "permutation_test: groups must be 40 whole numbers, one per sample; got int64 of shape (39,). "
        "Pass one whole number per row."
    ),
    "type": (
        "permutation_test: groups must be 40 whole numbers, one per sample; got float64 of shape (40,). "
        "Pass one whole number per row."
    ),
    "word": (
        "permutation_test: within must be \"classes\" or a column; got 'class'. "
        'Pass within="classes", or one whole number per sample.'
    ),
    "labels": (
        'permutation_test: within="classes" needs labels; got none. '
        "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y)."
    ),
    "mixed": (
        "permutation_test: each group must be of one kind; got a group with samples of several kinds. "
        "Leave within out, or groups."
    ),
    "few": (
        "permutation_test: at least 20 orders must be possible for a p-value of 0.05; got 2. "
        "Only groups of one size, and samples of one kind, change places: give more of them."
    ),
    "td": (
        "permutation_test: td permutes answers within each class, and takes no other restriction; got within. "
        "Leave it out, or test a measure of features."
    ),
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_is_refused(call: str) -> None:
    with pytest.raises(ValueError, match=exactly(REFUSED[call])):
        refused(call)


def test_a_column_is_made_of_numbers() -> None:
    text = "permutation_test: groups must be whole numbers; got object. Pass one whole number per sample."
    with pytest.raises(TypeError, match=exactly(text)):
        repsim.permutation_test(*unrelated(0), groups=object())
