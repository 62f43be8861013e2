"""CKA and RSA less what a third explains: regressions entry by entry, closed forms, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations
from repsim.cli.main import main
from repsim.metrics import CKA, RSA, Confounder, Metric, get_metric, metric_name
from tests.conftest import exactly
from tests.oracles import deconfounded as oracle
from tests.support.places import DATA
from tests.support.sides import compare, layers, one, orthonormal

SHAPES = {"narrow": (25, 5, 7, 4), "wide": (12, 30, 41, 20), "five samples": (5, 6, 7, 4)}
SHAPE = pytest.mark.parametrize("shape", SHAPES)


def three(shape: str, dtype: Any = float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, *widths = SHAPES[shape]
    x, y, z = layers(1, n, widths).values()
    return x.astype(dtype), y.astype(dtype), z.astype(dtype)


def forms(z: Any) -> list[Metric]:
    return [
        CKA(deconfounded=z),
        CKA(debiased=False, deconfounded=z),
        RSA(deconfounded=z),
        RSA(comparison="pearson", deconfounded=z),
    ]


def expected(x: np.ndarray, y: np.ndarray, z: np.ndarray, metric: Metric) -> float:
    if isinstance(metric, RSA):
        return oracle.rsa(x, y, z, metric.comparison)
    assert isinstance(metric, CKA)
    return (oracle.debiased_cka if metric.debiased else oracle.cka)(x, y, z)


FORMS = pytest.mark.parametrize("form", range(4), ids=["cka", "cka_biased", "rsa", "rsa-pearson"])


@SHAPE
@FORMS
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_is_what_a_regression_leaves(shape: str, form: int, dtype: type) -> None:
    x, y, z = three(shape, dtype)
    metric = forms(z)[form]
    tolerance = 1e-9 if dtype == np.float64 or form < 2 else 1e-7
    assert one(x, y, metric) == pytest.approx(expected(x, y, z, metric), abs=tolerance)


def test_orthogonal_features() -> None:
    """CKA of {h1, h2} and {h1, h3} is 1/2; h1 explains all of it, h4 none, h2 half of what they do not share."""
    h = orthonormal(12, 4)
    x, y = h[:, :2], h[:, [0, 2]]
    biased = CKA(debiased=False)
    assert one(x, y, biased) == pytest.approx(1 / 2, abs=1e-12)
    for column, value in ((3, 1 / 2), (0, 0), (1, 1 / np.sqrt(2))):
        found = one(x, y, CKA(debiased=False, deconfounded=h[:, [column]]))
        assert found == pytest.approx(value, abs=1e-12)


@FORMS
def test_the_parts_stand_beside_the_value(form: int) -> None:
    x, y, z = three("narrow")
    plain = [CKA(), CKA(debiased=False), RSA(), RSA(comparison="pearson")][form]
    found = compare({"x": x, "z": z + 0.1 * x[:, :4]}, {"y": y}, forms(z)[form])
    for i, row in enumerate((x, z + 0.1 * x[:, :4])):
        parts = [found.details[name][i, 0] for name in ("confounded", "confounder_row", "confounder_col")]
        np.testing.assert_allclose(parts, [one(row, y, plain), one(row, z, plain), one(z, y, plain)], atol=1e-9)
    assert "chance" not in found.details


@FORMS
def test_a_layer_with_itself_is_at_1_and_sides_can_be_swapped(form: int) -> None:
    x, y, z = three("narrow")
    metric = forms(z)[form]
    assert one(x, x.copy(), metric) == pytest.approx(1, abs=1e-9)
    assert one(x, y, metric) == pytest.approx(one(y, x, metric), abs=1e-12)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    assert one(3 * x + 5, y, forms(-2 * z @ turn + 7)[form]) == pytest.approx(one(x, y, metric), abs=1e-9)


@FORMS
def test_a_layer_that_is_the_confounder_has_no_number(form: int) -> None:
    x, y, z = three("narrow")
    found = compare({"x": x, "z": 3 * z + 1}, {"y": y, "z": z}, forms(z)[form])
    row, column = (
        f"the {s} layer is the confounder, at most turned and scaled: nothing is left of it" for s in ("row", "column")
    )
    assert found.reasons == {(0, 1): column, (1, 0): row, (1, 1): row}
    assert found.values[0, 0] == pytest.approx(one(x, y, forms(z)[form]), abs=1e-12)


@FORMS
def test_a_constant_confounder_gives_no_number(form: int) -> None:
    x, y, z = three("narrow")
    found = compare({"x": x}, {"y": y}, forms(np.ones_like(z))[form])
    reason = "a layer beside the confounder: the column layer has constant features: every sample has the same row"
    assert found.reasons == {(0, 0): reason}


@FORMS
def test_resamples_and_permutations_leave_the_confounder_where_it_is(form: int) -> None:
    x, y, z = three("narrow")
    metric = forms(z)[form]
    states = metric.prepare([torch.from_numpy(x), torch.from_numpy(y)], None)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    moved = metric.permuted(states[1:], order)
    assert moved is not None
    assert metric.pairwise(states[:1], moved).values.item() == pytest.approx(one(x, y[order.numpy()], metric), abs=1e-9)
    kept = np.arange(25) % 4 != 0  # weights of 0 and 1 are a subset
    found = metric.bootstrapped(states[:1], states[1:], torch.from_numpy(kept.astype(int))[None])
    assert found is not None
    if not (isinstance(metric, RSA) and metric.comparison == "spearman"):  # ranks stay those of the full sample
        assert found.item() == pytest.approx(expected(x[kept], y[kept], z[kept], metric), abs=1e-9)


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
@FORMS
def test_intervals_and_p_values(form: int) -> None:
    x, y, z = three("narrow")
    a, b = Activations.from_arrays({"x": x}), Activations.from_arrays({"y": y})
    metric = forms(z)[form]
    interval = repsim.bootstrap(a, b, metric, resamples=20)
    assert interval.details["ci_low"] < interval.details["ci_high"]
    assert 0 < repsim.permutation_test(a, b, metric, permutations=20).details["p_value"] <= 1
    assert repsim.compare_many({"a": a, "b": b}, metric).values[0, 1] == pytest.approx(one(x, y, metric), abs=1e-12)


def test_a_gram_matrix_serves_as_well_as_the_features() -> None:
    x, y, z = three("narrow")
    for by_features, by_gram in zip(forms(z), forms(Confounder.from_gram(z @ z.T)), strict=True):
        assert one(x, y, by_gram) == pytest.approx(one(x, y, by_features), abs=1e-7)


def test_pixels_of_any_shape_and_type() -> None:
    x, y, _ = three("narrow")
    pixels = np.random.default_rng(0).integers(0, 255, (25, 3, 4, 4)).astype(np.uint8)
    assert one(x, y, CKA(deconfounded=pixels)) == one(x, y, CKA(deconfounded=pixels.reshape(25, -1).astype(float)))


# --- Names ----------------------------------------------------------------------------------------------------


def test_a_saved_result_knows_the_confounder_by_name(tmp_path: Path) -> None:
    x, y, z = three("narrow")
    found = compare({"x": x}, {"y": y}, CKA(deconfounded=Confounder(z, "pixels")))
    again = repsim.SimilarityMatrix.load(found.save(tmp_path / "x.npz"))
    assert again.metric == found.metric == f"cka(deconfounded={str(Confounder(z, 'pixels'))!r})"
    assert again.definition == found.definition
    assert again.definition.bounds == (-1, 1)
    assert again.definition.title == f"CKA, debiased, less {Confounder(z, 'pixels')}"


def test_names_go_both_ways() -> None:
    z = np.eye(4)
    metric = CKA(deconfounded=Confounder(z, "pixels"))
    assert get_metric(metric_name(metric)) == metric
    assert eval(repr(metric), dict(vars(repsim.metrics))) == metric
    assert Confounder(z) != Confounder(2 * z)
    assert Confounder(z).startswith("confounder ")


def test_the_shell_takes_the_images_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    standard, robust = DATA / "digits_standard.safetensors", DATA / "digits_pgd.safetensors"
    asked = [
        "compare",
        str(standard),
        str(robust),
        "--data",
        "digits",
        "--limit",
        "60",
        "--layers",
        "layer1.0",
        "layer2.0",
    ]
    asked += ["--metric", "cka(deconfounded='inputs')", "--metric", "cka", "--out", str(tmp_path)]
    assert main(asked) == 0
    results = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["results"]
    images = repsim.load_data("digits", limit=60).images
    assert results[0]["metric"] == metric_name(CKA(deconfounded=Confounder(images, "inputs")))
    less, plain = (repsim.SimilarityMatrix.load(tmp_path / f"{r['file']}.npz") for r in results)
    np.testing.assert_allclose(less.details["confounded"], plain.values, atol=1e-6)
    assert np.abs(less.values - plain.values).max() > 0.01


# --- What is refused ------------------------------------------------------------------------------------------

PASS = "Pass features of the same samples, as in deconfounded=data.images."


def test_a_name_alone_cannot_be_computed_with() -> None:
    x, y, _ = three("narrow")
    for name, title in (("cka", "CKA"), ("rsa", "RSA")):
        text = f"{title}: the confounder itself is needed; got its name, 'inputs'. {PASS}"
        with pytest.raises(ValueError, match=exactly(text)):
            one(x, y, f"{name}(deconfounded='inputs')")


def test_a_confounder_of_other_samples() -> None:
    x, y, z = three("narrow")
    text = f"CKA: the confounder must hold the same samples; got 24 rows for 25 samples. {PASS}"
    with pytest.raises(ValueError, match=exactly(text)):
        one(x, y, CKA(deconfounded=z[:-1]))


ROWS = "Pass one row per sample, as in data.images."
WRONG = [
    (lambda: Confounder(np.ones(4)), f"Confounder: features must be (n, p) or of more axes; got shape (4,). {ROWS}"),
    (lambda: Confounder(object()), f"Confounder: features must be an array of numbers; got object. {ROWS}"),
    (lambda: Confounder([[np.nan]]), "Confounder: features must be finite; got NaN or infinity. Look at the features."),
    (
        lambda: Confounder.from_gram(np.ones((2, 3))),
        "Confounder: a Gram matrix must be square and symmetric; got shape (2, 3). Pass X @ X.T of some features.",
    ),
    (
        lambda: Confounder.from_gram(-np.eye(3)),
        "Confounder: a Gram matrix must be positive semidefinite; got an eigenvalue of -1. "
        "Pass X @ X.T of some features.",
    ),
    (
        lambda: CKA(deconfounded=""),
        "CKA: deconfounded must name or hold a confounder; got ''. Pass features of the same samples, as in "
        "data.images, or leave it out.",
    ),
    (
        lambda: RSA(comparison="cosine", deconfounded=np.eye(3)),
        "RSA: deconfounded needs comparison 'spearman' or 'pearson'; got 'cosine'. Choose one of these.",
    ),
]


@pytest.mark.parametrize(("make", "text"), WRONG)
def test_what_is_no_confounder(make: Any, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=exactly(text)):
        make()
