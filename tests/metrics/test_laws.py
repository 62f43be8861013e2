"""What every metric declares of itself, tested both ways: it holds where declared and fails where not."""

import dataclasses
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix, metrics
from repsim.metrics import METRICS, Metric, get_metric, metric_name
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.geometry.rtd import RTD
from repsim.metrics.spectral.cca import CCA
from repsim.metrics.transferred.base import HeadMetric, SoftmaxHeads
from repsim.metrics.transferred.td import TD
from tests.support.sides import NAMES

EVERY = pytest.mark.parametrize("name", NAMES)
N = 120
ORDER = np.random.default_rng(9).permutation(N)
FIT = tuple(range(0, N, 2))


def subject(name: str) -> Metric:
    """The metric, iterative ones so tight that the rows they answer cannot move by stopping early."""
    metric = METRICS[name]
    if isinstance(metric, RTD):
        return dataclasses.replace(metric, samples=24, subsets=2)
    if isinstance(metric, SoftmaxHeads):
        return dataclasses.replace(metric, folds=3, tol=1e-10)
    return dataclasses.replace(metric, folds=3) if isinstance(metric, HeadMetric) else metric


def task() -> np.ndarray:
    return np.random.default_rng(8).permutation(np.arange(N) % 3)


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two layers that agree in their strong directions and less in their weak ones, of classes that overlap."""
    rng = np.random.default_rng(7)
    shared = rng.standard_normal((3, 6))[task()] + rng.standard_normal((N, 6))
    noise = np.array([0.1, 0.2, 0.3, 0.7, 1.2, 2.0])
    x = (shared + noise * rng.standard_normal((N, 6))) * [3, 2, 1, 1, 0.5, 0.3]
    y = (shared + noise * rng.standard_normal((N, 6)))[:, :5] * [3, 2, 1, 1, 0.4]
    return x, y


def compare(
    rows: dict[str, np.ndarray], cols: dict[str, np.ndarray] | None, metric: Metric, labels: np.ndarray
) -> SimilarityMatrix:
    """Compares two sides, or one object with itself where `cols` is None, whatever the cautions."""
    a = Activations.from_arrays(rows, labels=labels)
    b = a if cols is None else Activations.from_arrays(cols, labels=labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return repsim.compare(a, b, metric)


def value(x: np.ndarray, y: np.ndarray, metric: Metric) -> float:
    return float(compare({"x": x}, {"y": y}, metric, task()).values[0, 0])


def turned(x: np.ndarray) -> np.ndarray:
    return x @ np.linalg.qr(np.random.default_rng(6).standard_normal((x.shape[1], x.shape[1])))[0]


def mixed(x: np.ndarray) -> np.ndarray:
    """An invertible map that is far from a rotation: it gives the weak directions the most room."""
    return turned(x * np.logspace(-1, 1.5, x.shape[1]))


TRANSFORMATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "orthogonal": turned,
    "scale": lambda x: -37.5 * x,
    "shift": lambda x: x + 20 * np.random.default_rng(5).standard_normal(x.shape[1]),
    "invertible": mixed,
    "permutation": lambda x: x[:, ::-1].copy(),
    "positive scale": lambda x: 37.5 * x,
    "unit scale": lambda x: x * np.logspace(-1, 1.5, x.shape[1]),
}
INCLUDED = {
    "orthogonal": {"permutation"},
    "scale": {"positive scale"},
    "unit scale": {"positive scale"},
    "invertible": {"orthogonal", "permutation", "scale", "positive scale", "unit scale"},
}


def unchanged_under(metric: Metric) -> set[str]:
    """The declared transformations and those that they include."""
    return set(metric.invariances).union(*(INCLUDED.get(name, set()) for name in metric.invariances))


@EVERY
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_a_declared_invariance_holds_on_either_side_and_no_other_does_on_both(name: str, transformation: str) -> None:
    metric, (x, y), change = subject(name), pair(), TRANSFORMATIONS[transformation]
    base = value(x, y, metric)
    moves = abs(value(change(x), y, metric) - base), abs(value(x, change(y), metric) - base)
    if transformation in unchanged_under(metric):
        assert max(moves) <= 1e-9
    else:
        assert max(moves) > 1e-4


@EVERY
def test_what_is_declared_is_known(name: str) -> None:
    metric = METRICS[name]
    assert metric.invariances <= TRANSFORMATIONS.keys()
    assert metric.kind in ("similarity", "distance")
    low, high = metric.bounds
    assert low < high
    assert low <= metric.self_value <= high
    assert metric.kind == "similarity" or metric.self_value == low == 0
    assert low <= metric.display[0] < metric.display[1] <= high
    assert metric.min_samples >= 3
    for text in (metric.title, metric.meaning, metric.source, metric.cost):
        assert text.strip() == text != ""


@EVERY
def test_an_invertible_map_includes_every_other_transformation(name: str) -> None:
    declared = METRICS[name].invariances
    assert "invertible" not in declared or {"orthogonal", "scale"} <= declared


@EVERY
def test_sides_swap_exactly_where_declared(name: str) -> None:
    metric, (x, y) = subject(name), pair()
    rows, cols = {"x": x, "mixed": mixed(x)}, {"y": y, "one": y[:, :1], "turned": turned(y)}
    there, back = (compare(*sides, metric, task()).values for sides in ((rows, cols), (cols, rows)))
    assert there.shape == (2, 3)
    if metric.symmetric:
        np.testing.assert_allclose(there, back.T, rtol=0, atol=1e-9)
    else:
        assert np.abs(there - back.T).max() > 5e-3


@EVERY
def test_a_layer_with_itself_has_the_self_value_and_with_others_another(name: str) -> None:
    metric, (x, y) = subject(name), pair()
    layers = {"x": x, "y": y, "one": x[:, :1]}
    for cols in (None, {k: z.copy() for k, z in layers.items()}):
        found = compare(layers, cols, metric, task()).values
        np.testing.assert_allclose(np.diag(found), metric.facts.self_value_of(N), rtol=0, atol=1e-9)
        assert abs(found[0, 1] - metric.facts.self_value_of(N)) > 0.01


@EVERY
def test_more_noise_is_less_alike(name: str) -> None:
    metric, (x, _) = subject(name), pair()
    noise = np.random.default_rng(4).standard_normal(x.shape) * x.std(axis=0)
    found = [value(x, x + level * noise, metric) for level in (0, 0.3, 1, 10)]
    assert found == sorted(found, reverse=metric.kind == "similarity")
    assert len(set(found)) == 4


@EVERY
def test_one_order_of_rows_for_both_sides_leaves_it(name: str) -> None:
    """Folds are drawn by position, so heads are fitted on the same samples by number."""
    metric, (x, y) = subject(name), pair()
    if isinstance(metric, RTD):  # subsets are drawn by position too
        metric = dataclasses.replace(metric, samples=N)
    moved = metric
    if isinstance(metric, HeadMetric):
        metric = dataclasses.replace(metric, fit_rows=FIT)
        moved = dataclasses.replace(metric, fit_rows=tuple(np.flatnonzero(np.isin(ORDER, FIT))))
    if isinstance(metric, RTD):  # its subsets are drawn by position too
        metric = moved = dataclasses.replace(metric, samples=len(ORDER))
    base = compare({"x": x}, {"y": y}, metric, task()).values
    same = compare({"x": x[ORDER]}, {"y": y[ORDER]}, moved, task()[ORDER]).values
    # ripser computes in float32.
    np.testing.assert_allclose(same, base, rtol=0, atol=1e-5 if isinstance(metric, RTD) else 1e-9)


@EVERY
def test_another_order_of_rows_on_one_side_destroys_it(name: str) -> None:
    metric, (x, y) = subject(name), pair()
    aligned, shuffled = value(x, y, metric), value(x, y[ORDER], metric)
    assert (aligned - shuffled if metric.kind == "similarity" else shuffled - aligned) > 0.15


@EVERY
def test_each_cell_is_the_pair_alone(name: str) -> None:
    metric, (x, y) = subject(name), pair()
    rows = {"a": x, "b": x[:, 2:], "c": mixed(x)}
    cols = {"d": y, "e": y[:, :2]}
    found = compare(rows, cols, metric, task())
    assert found.rows == ("a", "b", "c")
    assert found.cols == ("d", "e")
    alone = [[value(x, y, metric) for y in cols.values()] for x in rows.values()]
    np.testing.assert_allclose(found.values, alone, rtol=0, atol=1e-9)
    for detail in found.details.values():
        assert detail.shape == (3, 2)


@EVERY
def test_float32_and_float64_agree(name: str) -> None:
    metric, (x, y) = METRICS[name], pair()
    single = value(x.astype(np.float32), y.astype(np.float32), metric)
    assert single == pytest.approx(value(x, y, metric), abs=1e-4)


@EVERY
def test_the_repr_rebuilds_it(name: str) -> None:
    metric = METRICS[name]
    assert eval(repr(metric), dict(vars(metrics))) == metric
    assert hash(eval(repr(metric), dict(vars(metrics)))) == hash(metric)
    assert get_metric(name) is metric
    assert get_metric(metric) is metric
    assert metric_name(metric) == name
    assert get_metric(f"{name}()") == metric


# A text, the metric it means, and the name that metric is given.
NAMED = {
    "cka(debiased=True)": (CKA(), "cka"),
    "cka(debiased=False)": (CKA(debiased=False), "cka_biased"),
    "svcca(variance=0.9)": (CCA("mean", variance=0.9), "mean_cca(variance=0.9)"),
    "svcca(variance=1)": (CCA("mean"), "mean_cca"),
    "pwcca(variance=0.5)": (CCA("pwcca", variance=0.5), "mean_cca(summary='pwcca', variance=0.5)"),
    "mean_cca(summary='r2')": (CCA("r2"), "r2_cca"),
    "td(seed=3)": (TD(seed=3), "td(seed=3)"),
    "td( penalty = 1e-2, folds=4 )": (TD(folds=4, penalty=0.01), "td(folds=4, penalty=0.01)"),
    "td(fit_rows=(0, 2, 5))": (TD(fit_rows=(0, 2, 5)), "td(fit_rows=(0, 2, 5))"),
    "td(fit_rows=[7])": (TD(fit_rows=(7,)), "td(fit_rows=(7,))"),
}


@pytest.mark.parametrize("text", NAMED)
def test_names_with_settings_go_both_ways(text: str) -> None:
    metric, name = NAMED[text]
    assert get_metric(text) == metric
    assert metric_name(metric) == name
    assert get_metric(name) == metric
    assert eval(repr(metric), dict(vars(metrics))) == metric


def test_settings_from_numpy_and_torch_have_names_too() -> None:
    metric = TD(fit_rows=torch.arange(3))  # type: ignore[arg-type]
    assert metric == TD(fit_rows=(0, 1, 2))
    assert get_metric(metric_name(metric)) == metric


KNOWN = ", ".join(list(METRICS)[:12]) + f", … ({len(METRICS) - 12} more)"
WRITE = "Write it as in td(seed=1, penalty=0.01)."

CKA_HAS = "debiased, without_components, without_rows, deconfounded"

# A text that is no metric, and the whole message after "metric: ".
UNKNOWN = {
    "frobnicate": "the metric must be known; got 'frobnicate'. Close matches: procrustes.",
    "cka_debiased": (
        "the metric must be known; got 'cka_debiased'. Close matches: cka_biased, cka_rbf, cka_minibatch, cka."
    ),
    "tdd(seed=1)": "the metric must be known; got 'tdd'. Close matches: td, rtd, td_soft.",
    "": f"the metric must be known; got ''. Known: {KNOWN}.",
    "td(1)": f"settings must be name=value; got 'td(1)' (settings need names). {WRITE}",
    "td(seed=1": f"settings must be name=value; got 'td(seed=1' ('(' was never closed). {WRITE}",
    "td(seed=1).x": f"settings must be name=value; got 'td(seed=1).x' (no call). {WRITE}",
    "cka(seed=1)": f"settings must be name=value; got 'cka(seed=1)' (no setting 'seed'; there are {CKA_HAS}). {WRITE}",
}


@pytest.mark.parametrize("text", UNKNOWN)
def test_texts_that_are_no_metric(text: str) -> None:
    with pytest.raises(ValueError, match=r"^metric: ") as caught:
        get_metric(text)
    assert str(caught.value) == f"metric: {UNKNOWN[text]}"


@pytest.mark.parametrize("text", ["td(seed=x)", "td(seed=__import__('sys').exit())"])
def test_settings_are_plain_values_and_never_executed(text: str) -> None:
    """The reason is for a reader to act on: no place in memory."""
    start, end = re.escape(f"metric: settings must be name=value; got {text!r} ("), re.escape(f"). {WRITE}")
    with pytest.raises(ValueError, match=f"^{start}[^<>]+{end}$"):
        get_metric(text)


@EVERY
@pytest.mark.parametrize("fill", [0.0, 0.1, 12345.678, -1e30])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_constant_layer_has_no_value_and_takes_no_other_with_it(name: str, fill: float, dtype: type) -> None:
    metric, (x, y) = METRICS[name], pair()
    x, y = x.astype(dtype), y.astype(dtype)
    constant = np.full((N, 5), fill, dtype=dtype)
    a = Activations.from_arrays({"x": x, "flat": constant}, labels=task(), name="one")
    b = Activations.from_arrays({"flat": constant, "y": y}, labels=task(), name="two")
    text = "constant features: every sample has the same row"
    with pytest.warns(CautionWarning) as told:
        found = repsim.compare(a, b, metric)
    cautions = {str(caution.message) for caution in told}
    assert f"compare one × two, {name}: 3 of 4 cells are NaN; x × flat: the column layer has {text}." in cautions
    assert found.values[0, 1] == pytest.approx(value(x, y, metric), abs=1e-12)
    np.testing.assert_array_equal(np.isnan(found.values), [[True, False], [True, True]])
    row, column = f"the row layer has {text}", f"the column layer has {text}"
    assert found.reasons == {(0, 0): column, (1, 0): row, (1, 1): row}


@EVERY
def test_rows_that_are_one_row_repeated_are_constant(name: str) -> None:
    """Rounding of a mean must not pass for a spread."""
    x, _ = pair()
    rng = np.random.default_rng(3)
    for scale in (1.0, 1e4, 1e30, 1e-30):
        flat = np.tile((scale * rng.standard_normal(40)).astype(np.float32), (N, 1))
        assert np.isnan(value(flat, x.astype(np.float32), METRICS[name]))


@EVERY
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_spread_of_one_rounding_is_constant(name: str, dtype: type) -> None:
    """As 0.1 + 0.2 beside 0.3: a layer whose rows were computed in two orders."""
    x, _ = pair()
    one = dtype(1.9)
    flat = np.where(np.arange(N)[:, None] % 2, one, np.nextafter(one, dtype(2))) * np.ones((1, 4), dtype)
    assert len(np.unique(flat)) == 2
    assert np.isnan(value(flat, x.astype(dtype), METRICS[name]))


@EVERY
def test_a_layer_that_is_nearly_constant_is_not(name: str) -> None:
    if "shift" not in METRICS[name].invariances:
        pytest.skip("what lies far from the origin is another layer to this measure")
    x, y = pair()
    far = x + 1e8
    assert value(far, y, subject(name)) == pytest.approx(value(x, y, subject(name)), abs=1e-6)


@EVERY
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_name(name: str, bad: float) -> None:
    x, y = pair()
    x[3, 1] = x[17, 0] = bad
    with pytest.raises(ValueError, match="finite") as caught:
        compare({"fine": y, "broken": x}, {"y": y}, METRICS[name], task())
    assert str(caught.value) == (
        "Activations: layer 'broken' must be finite; got NaN or infinity, first in row 3. "
        "Look for a diverged network, an overflow in float16, or broken inputs."
    )


@EVERY
def test_another_number_of_samples_is_refused(name: str) -> None:
    x, y = pair()
    a = Activations.from_arrays({"x": x}, name="one")
    b = Activations.from_arrays({"y": y[:-1]}, name="two")
    with pytest.raises(ValueError, match="samples") as caught:
        repsim.compare(a, b, METRICS[name])
    assert str(caught.value) == (
        "compare: both sides must hold the same samples; got 120 samples for 'one' and 119 for 'two'. "
        "Extract both on one set."
    )


@st.composite
def random_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two layers of any widths, some of their columns equal, and labels that every fold can hold."""
    n = draw(st.integers(12, 40))
    p, q = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-3, 3)
    y = rng.standard_normal((n, q)) + draw(st.sampled_from([0.0, 1.0, 10.0])) * x[:, :1]
    return x, y, rng.permutation(np.arange(n) % 2)


@EVERY
@given(drawn=random_pairs())
@settings(max_examples=12, deadline=None, derandomize=True)
def test_laws_hold_for_any_shape(name: str, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    metric, (x, y, labels) = subject(name), drawn
    rows, cols = {"x": x}, {"y": y, "x": x.copy()}
    found = compare(rows, cols, metric, labels)
    low, high = metric.bounds
    assert np.isfinite(found.values).all()
    assert low <= found.values.min() <= found.values.max() <= high
    assert found.values[0, 1] == pytest.approx(metric.facts.self_value_of(len(x)), abs=1e-9)
    if metric.symmetric:
        np.testing.assert_allclose(compare(cols, rows, metric, labels).values, found.values.T, rtol=0, atol=1e-9)
    if {"orthogonal", "scale", "shift"} <= metric.invariances:
        moved = compare({"x": 0.01 * turned(x) - 3}, cols, metric, labels)
        rounding = 1e-6 if isinstance(metric, RTD) else 1e-8  # ripser computes in float32
        np.testing.assert_allclose(moved.values, found.values, rtol=0, atol=rounding)
