"""Matched units against every permutation and the linear programme, against closed forms, and on hard inputs."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import repsim
from repsim import Activations, CautionWarning
from repsim.metrics import CorrelationMatch, Metric, PermutationProcrustes, SoftMatching, get_metric, metric_name
from repsim.metrics.matching import transport
from tests.conftest import exactly
from tests.oracles import matching as oracle
from tests.support.sides import compare, layers, one, orthonormal

# n, width of the row layer, width of the column layer
SHAPES = {
    "equal": (20, 5, 5),
    "wider": (20, 4, 6),
    "narrower": (12, 7, 3),
    "four samples": (4, 6, 5),
    "one unit": (9, 1, 4),
}
SHAPE = pytest.mark.parametrize("shape", SHAPES)
SCALINGS = ("none", "centred", "unit")
BOTH = pytest.mark.parametrize("switch", [True, False])
EVERY = pytest.mark.parametrize(
    "metric",
    [
        PermutationProcrustes(),
        PermutationProcrustes(centred=False, normalized=False),
        PermutationProcrustes(angular=True),
        *(SoftMatching(scaling) for scaling in SCALINGS),  # type: ignore[arg-type]
        SoftMatching(mass=0.5),
        CorrelationMatch(),
        CorrelationMatch(soft=True),
    ],
    ids=metric_name,
)


def two(shape: str) -> tuple[np.ndarray, np.ndarray]:
    n, p, q = SHAPES[shape]
    return layers(1, n, (p,))["layer0"], layers(2, n, (q,))["layer0"]


# --- Values ---------------------------------------------------------------------------------------------------


@SHAPE
@BOTH
@pytest.mark.parametrize("normalized", [True, False])
def test_permutation_procrustes_is_the_best_of_all_permutations(shape: str, switch: bool, normalized: bool) -> None:
    x, y = two(shape)
    expected = oracle.permutation_procrustes(x, y, center=switch, normalize=normalized)
    assert one(x, y, PermutationProcrustes(switch, normalized)) == pytest.approx(expected, abs=1e-9)


@SHAPE
@BOTH
def test_the_angle(shape: str, switch: bool) -> None:
    x, y = two(shape)
    found = one(x, y, PermutationProcrustes(switch, angular=True))
    assert found == pytest.approx(oracle.angle(x, y, center=switch), abs=1e-9)


@SHAPE
@pytest.mark.parametrize("scaling", SCALINGS)
def test_soft_matching_is_the_assignment_of_replicated_units(shape: str, scaling: str) -> None:
    x, y = two(shape)
    assert one(x, y, SoftMatching(scaling)) == pytest.approx(oracle.soft_matching(x, y, scaling), abs=1e-9)  # type: ignore[arg-type]


@SHAPE
@pytest.mark.parametrize("mass", [0.3, 0.5, 0.9])
def test_partial_matching_is_the_programme_with_inequalities(shape: str, mass: float) -> None:
    x, y = two(shape)
    for scaling in SCALINGS:
        expected = oracle.partial_matching(x, y, scaling, mass)
        assert one(x, y, SoftMatching(scaling, mass)) == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]


@SHAPE
@BOTH
def test_correlation_match_is_the_best_of_all_matches(shape: str, switch: bool) -> None:
    x, y = two(shape)
    expected = oracle.correlation_match(x, y, soft=switch)
    assert one(x, y, CorrelationMatch(switch)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("mass", [1.0, 0.4])
def test_scipy_alone_gives_what_pot_gives(monkeypatch: pytest.MonkeyPatch, mass: float) -> None:
    cost = np.random.default_rng(0).random((7, 11))
    with_pot = transport.transported(cost, mass)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    alone = transport.transported(cost, mass)
    for plan in (with_pot, alone):
        assert plan.mass.sum() == pytest.approx(mass, abs=1e-12)
        assert np.bincount(plan.rows, plan.mass, 7).max() <= 1 / 7 + 1e-12
        assert np.bincount(plan.cols, plan.mass, 11).max() <= 1 / 11 + 1e-12
    totals = [float((plan.mass * cost[plan.rows, plan.cols]).sum()) for plan in (with_pot, alone)]
    assert totals[0] == pytest.approx(totals[1], abs=1e-12)


# --- Closed forms ---------------------------------------------------------------------------------------------


def test_a_permuted_copy_is_the_layer() -> None:
    x = layers(1, 30, (8,))["layer0"]
    moved = x[:, np.random.default_rng(0).permutation(8)]
    for metric in (
        PermutationProcrustes(),
        PermutationProcrustes(centred=False, normalized=False),
        SoftMatching("none"),
    ):
        assert one(x, moved, metric) == pytest.approx(0, abs=1e-15)
    assert one(x, moved, SoftMatching()) == pytest.approx(0, abs=1e-12)
    for soft in (True, False):
        assert one(x, moved, CorrelationMatch(soft)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("m", [3, 5])
def test_the_identity_against_its_negative_pairs_orthogonal_units(m: int) -> None:
    raw = PermutationProcrustes(centred=False, normalized=False)
    assert one(np.eye(m), -np.eye(m), raw) == pytest.approx(np.sqrt(2 * m), abs=1e-12)


def test_the_distance_to_some_of_its_own_columns_is_the_norm_of_the_others() -> None:
    """Of orthogonal units; elsewhere a short unit may fit a long one that is left out better than itself."""
    x = orthonormal(15, 6) * np.arange(1, 7)
    raw = PermutationProcrustes(centred=False, normalized=False)
    assert one(x, x[:, :4], raw) == pytest.approx(np.linalg.norm(x[:, 4:]), rel=1e-12)


def test_it_is_never_below_procrustes_with_rotations() -> None:
    x, y = two("equal")
    assert one(x, y, "permutation_procrustes") > one(x, y, "procrustes") + 0.01
    assert one(x, y, PermutationProcrustes(angular=True)) > one(x, y, "angular_procrustes") + 0.01


def test_units_that_are_there_twice_do_not_count_twice() -> None:
    x = layers(1, 20, (3,))["layer0"]
    for scaling in SCALINGS:
        assert one(x, np.hstack([x, x]), SoftMatching(scaling)) == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]


def test_one_unit_is_shared_among_all() -> None:
    x, y = two("one unit")
    assert one(x, y, SoftMatching("none")) == pytest.approx(np.sqrt(((x - y) ** 2).sum(0).mean()), rel=1e-12)


def test_units_of_length_1_give_correlations() -> None:
    x, y = two("equal")
    found = compare({"x": x}, {"y": y}, SoftMatching())
    correlation = oracle.correlation_match(x, y, soft=False)  # p = q: the same best permutation
    assert found.details["correlation"].item() == pytest.approx(correlation, abs=1e-12)
    assert found.values.item() ** 2 == pytest.approx(2 - 2 * correlation, abs=1e-12)


def test_half_of_the_mass_finds_the_half_that_is_shared() -> None:
    a, b, c = orthonormal(10, 3).T
    ab, ac = np.stack([a, b], 1), np.stack([a, c], 1)
    half, whole = (compare({"x": ab}, {"y": ac}, SoftMatching(mass=s)) for s in (0.5, 1))
    # cost 1 − corr: 0 at s = .5 and .5 at 1; the matched correlation is .5 both times, 1 and .5 by matched mass.
    assert half.values.item() == pytest.approx(0, abs=1e-7)
    assert half.details["correlation"].item() == pytest.approx(1, abs=1e-12)
    assert whole.values.item() == pytest.approx(1, abs=1e-12)
    assert whole.details["correlation"].item() == pytest.approx(0.5, abs=1e-12)


def test_the_cost_of_mass_is_convex_and_grows() -> None:
    x, y = two("wider")
    masses = np.linspace(0.1, 1, 10)
    cost = np.array([one(x, y, SoftMatching(mass=float(s))) ** 2 * s for s in masses])
    assert (np.diff(cost) > 0).all()
    assert (np.diff(cost, 2) > -1e-12).all()


def test_correlations_of_orthogonal_units() -> None:
    a, b, c = orthonormal(12, 3).T
    ab, ac, abc, alone = np.stack([a, b], 1), np.stack([a, c], 1), np.stack([a, b, c], 1), a[:, None]
    for x, y, hard, soft in ((ab, ac, 0.5, 0.5), (alone, abc, 1, 2 / 3), (alone, -alone, -1, -1)):
        assert one(x, y, CorrelationMatch()) == pytest.approx(hard, abs=1e-12)
        assert one(x, y, CorrelationMatch(soft=True)) == pytest.approx(soft, abs=1e-12)


def test_the_distance_obeys_the_triangle_inequality() -> None:
    for seed in range(5):
        x, y, z = (layers(seed * 3 + i, 8, (w,))["layer0"] for i, w in enumerate((3, 4, 6)))
        for metric in (PermutationProcrustes(), SoftMatching(), SoftMatching("none")):
            assert one(x, z, metric) <= one(x, y, metric) + one(y, z, metric) + 1e-12


# --- Hard inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [SoftMatching(), CorrelationMatch(), CorrelationMatch(soft=True)], ids=metric_name)
def test_units_that_are_constant_are_left_out_and_told(metric: Metric) -> None:
    x, y = two("equal")
    dead = np.insert(x, [1, 3], 7.25, axis=1)
    a, b = Activations.from_arrays({"x": dead}, name="one"), Activations.from_arrays({"y": y}, name="two")
    text = "units that are constant have no correlation and are left out, in one layer 2 of 7"
    with pytest.warns(CautionWarning, match=f"^compare one × two, {re.escape(metric_name(metric))}: {text}.$"):
        found = repsim.compare(a, b, metric)
    assert found.values.item() == pytest.approx(one(x, y, metric), abs=1e-12)
    assert (found.details["dead_row"].item(), found.details["dead_col"].item()) == (2, 0)
    with pytest.warns(CautionWarning, match="left out"):
        assert repsim.compare(a, a, metric).values.item() == pytest.approx(metric.self_value, abs=1e-7)


def test_unequal_widths_are_told() -> None:
    x, y = two("wider")
    text = (
        "compare features × features, permutation_procrustes: layers of unequal widths, such as 4 and 6, are padded "
        "with zero units: a unit without a partner counts with its whole norm."
    )
    a, b = (Activations.from_arrays({"x": z}) for z in (x, y))
    with pytest.warns(CautionWarning, match=f"^{re.escape(text)}$"):
        repsim.compare(a, b, "permutation_procrustes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repsim.compare(a, a, "permutation_procrustes")


@EVERY
@pytest.mark.parametrize(("scale", "dtype"), [(1e30, np.float32), (1e-30, np.float32), (1e150, float), (1e-150, float)])
def test_huge_and_tiny_features(metric: Metric, scale: float, dtype: type) -> None:
    x, y = two("equal")
    base = one(x.astype(dtype), y.astype(dtype), metric)
    found = one((scale * x.astype(float)).astype(dtype), (scale * y.astype(float)).astype(dtype), metric)
    factor = 1 if "positive scale" in metric.invariances else scale
    assert found == pytest.approx(base * factor, rel=1e-5)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_from_what_they_are(metric: Metric, dtype: torch.dtype) -> None:
    x, y = (torch.from_numpy(z).to(dtype) for z in two("wider"))
    expected = one(x.double().numpy(), y.double().numpy(), metric)
    assert float(compare({"x": x}, {"y": y}, metric).values.item()) == pytest.approx(expected, abs=1e-9)


@EVERY
def test_duplicate_rows_and_units(metric: Metric) -> None:
    x = layers(1, 10, (3,))["layer0"]
    doubled = np.hstack([np.vstack([x, x]), np.vstack([x, x])])
    assert one(doubled, doubled.copy(), metric) == pytest.approx(metric.self_value, abs=1e-7)


@EVERY
def test_permuted_states_are_those_of_permuted_rows(metric: Metric) -> None:
    x, y = (torch.from_numpy(z) for z in two("wider"))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    moved = metric.permuted(metric.prepare([y], None), order)
    anew = metric.prepare([x, y[order]], None)
    assert moved is not None
    expected = metric.pairwise(anew[:1], anew[1:]).values
    np.testing.assert_allclose(metric.pairwise(anew[:1], moved).values, expected, rtol=1e-12)


@drawn(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 12), p=st.integers(1, 5), q=st.integers(1, 5))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_features_on_a_grid_match_the_oracles(seed: int, n: int, p: int, q: int) -> None:
    """Equal units, ties of correlations, and units that are constant."""
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 3, (n, w)).astype(float) for w in (p, q))
    x[0, 0], y[0, 0] = 7, 9  # a layer of constant units alone has no number
    for scaling in SCALINGS:
        assert one(x, y, SoftMatching(scaling)) == pytest.approx(oracle.soft_matching(x, y, scaling), abs=1e-7)  # type: ignore[arg-type]
    for soft in (True, False):
        expected = oracle.correlation_match(x, y, soft=soft)
        assert one(x, y, CorrelationMatch(soft)) == pytest.approx(expected, abs=1e-9)
    expected = oracle.permutation_procrustes(x, y, center=True, normalize=True)
    assert one(x, y, "permutation_procrustes") == pytest.approx(expected, abs=1e-9)


# --- Settings -------------------------------------------------------------------------------------------------


def test_names_with_settings() -> None:
    assert get_metric("soft_matching(scaling='none', mass=0.5)") == SoftMatching("none", 0.5)
    assert get_metric("correlation_match(soft=True)") == get_metric("soft_correlation_match")
    assert metric_name(PermutationProcrustes(centred=False)) == "permutation_procrustes(centred=False)"
    assert PermutationProcrustes(angular=True).title == "angular permutation Procrustes, radians"
    assert (
        PermutationProcrustes(False, False).title == "permutation Procrustes distance, not centred, norms as they are"
    )
    assert SoftMatching("centred", 0.5).title == "partial soft matching distance, 0.5 of units, centred units"


# A measure, its settings, and the whole message after its name.
WRONG = [
    (
        PermutationProcrustes,
        {"centred": 1},
        "centred must be True or False; got 1. Pass centred=True or centred=False.",
    ),
    (CorrelationMatch, {"soft": "no"}, "soft must be True or False; got 'no'. Pass soft=True or soft=False."),
    (SoftMatching, {"scaling": "z"}, "scaling must be 'none', 'centred' or 'unit'; got 'z'. Choose one of these."),
    (
        SoftMatching,
        {"mass": 0},
        "mass must be in (0, 1]; got 0. Pass the share of each layer that is matched, as in 0.5.",
    ),
    (
        SoftMatching,
        {"mass": True},
        "mass must be a number; got True. Pass the share of each layer that is matched, as in 0.5.",
    ),
]


@pytest.mark.parametrize(("kind", "given", "text"), WRONG)
def test_wrong_settings(kind: type, given: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=exactly(f"{kind.__name__}: {text}")):
        kind(**given)
