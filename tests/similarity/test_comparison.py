"""The matrix and what stands beside it: checks, files, tables, and what `compare` puts into it."""

import dataclasses
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, CautionWarning, SimilarityMatrix, compare
from repsim._common.files import sha256_of
from repsim._common.provenance import versions
from repsim.metrics import METRICS, PairwiseResult
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.base import within_bounds
from repsim.numerics.spectrum import direction_products
from tests.conftest import exactly
from tests.support.places import DATA
from tests.support.sides import NAMES, missing

WHY = "the row layer is constant"


def matrix(**changes: Any) -> SimilarityMatrix:
    """2 × 3 layers of made-up values, every field filled, one cell without a number."""
    whole: dict[str, Any] = {
        "values": np.array([[0.25, np.nan, 0.5], [1.0, -0.125, 0.75]]),
        "rows": ("conv1", "fc"),
        "cols": ("stem", "fc", "schöne.Schicht"),
        "metric": "cka",
        "row_model": "résnet",
        "col_model": "other",
        "n": 1597,
        "details": {"chance": np.arange(6.0).reshape(2, 3), "width": np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]])},
        "reasons": {(0, 1): WHY},
        "cautions": ("one thing", "λ is another"),
        "provenance": {"metric": "CKA(debiased=True)", "seconds": 0.5, "rows": {"samples": None, "list": [1, 2]}},
    }
    return SimilarityMatrix(**{**whole, **changes})


def side(n: int = 40, widths: tuple[int, ...] = (5, 7), seed: int = 0, **keywords: Any) -> Activations:
    """Features that share 3 directions with every other side, so that no similarity is trivial."""
    shared = torch.randn(n, 3, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    own = torch.Generator().manual_seed(seed)
    features = {}
    for k, p in enumerate(widths):
        mix = torch.randn(3, p, generator=own, dtype=torch.float64)
        noise = torch.randn(n, p, generator=own, dtype=torch.float64)
        features[f"layer{k}"] = shared @ mix + (0.5 + k) * noise
    return Activations(features, **{"labels": torch.arange(n) % 3, **keywords})


def copied(a: Activations) -> Activations:
    return dataclasses.replace(a, features={layer: a[layer].clone() for layer in a})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- What must hold -------------------------------------------------------------------------------------------


def test_a_matrix_says_what_it_is() -> None:
    made = matrix()
    assert repr(made) == "SimilarityMatrix(cka, résnet × other, 2 × 3 layers, n = 1,597)"
    assert made.definition == METRICS["cka"].facts
    assert (
        matrix(metric="td(seed=3)", values=np.full((2, 3), 0.5), reasons={}).definition
        == repsim.metrics.TD(seed=3).facts
    )


def test_a_matrix_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        matrix().n = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"values": np.zeros((3, 2)), "reasons": {}},
            "SimilarityMatrix: arrays must be (2, 3); got another shape of values. Align them.",
        ),
        (
            {"details": {"good": np.zeros((2, 3)), "bad": np.zeros(3)}},
            "SimilarityMatrix: arrays must be (2, 3); got another shape of bad. Align them.",
        ),
        (
            {"values": np.array([[0.0, 0.5, 1.5], [0.0, 0.0, 0.0]]), "reasons": {}},
            "SimilarityMatrix: cka must lie in [-1, 1]; got [0, 1.5]. Report this.",
        ),
        (
            {"values": np.array([[-1e-3, np.nan, 1.0], [0.0, 0.0, 0.0]]), "metric": "cka_biased"},
            "SimilarityMatrix: cka_biased must lie in [0, 1]; got [-0.001, 1]. Report this.",
        ),
        (
            {"values": np.array([[np.inf, np.nan, 1.0], [0.0, 0.0, 0.0]])},
            "SimilarityMatrix: cka must lie in [-1, 1]; got [0, inf]. Report this.",
        ),
        (
            {"reasons": {}},
            "SimilarityMatrix: every NaN must have a reason; got 1 NaN. Report this.",
        ),
        (
            {"reasons": {(1, 1): WHY}},
            "SimilarityMatrix: every NaN must have a reason; got 1 NaN. Report this.",
        ),
        (
            {"values": np.zeros((2, 3))},
            "SimilarityMatrix: every NaN must have a reason; got 0 NaN. Report this.",
        ),
    ],
)
def test_a_matrix_that_contradicts_itself_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        matrix(**changes)


def test_a_matrix_of_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\Ametric: the metric must be known; got 'ckaa'\. Close matches: cka, "):
        matrix(metric="ckaa")


# --- Files ----------------------------------------------------------------------------------------------------


def test_a_file_gives_back_every_field(tmp_path: Path) -> None:
    made = matrix()
    path = made.save(str(tmp_path / "deep" / "cka.npz"))
    assert path == tmp_path / "deep" / "cka.npz"
    back = SimilarityMatrix.load(path)
    for field in dataclasses.fields(SimilarityMatrix):
        ours, theirs = getattr(made, field.name), getattr(back, field.name)
        if field.name == "values":
            np.testing.assert_array_equal(theirs, ours)
            assert theirs.dtype == np.float64
        elif field.name == "details":
            assert list(theirs) == list(ours)
            for name in ours:
                np.testing.assert_array_equal(theirs[name], ours[name])
        else:
            assert theirs == ours, field.name
            assert type(theirs) is type(ours), field.name
    assert names(path.parent) == ["cka.npz"]


def test_a_file_of_a_real_comparison_gives_back_every_field(tmp_path: Path) -> None:
    made = compare(side(name="a"), side(seed=1, widths=(4, 6, 8), name="b"), "td(folds=3)")
    back = SimilarityMatrix.load(made.save(tmp_path / "td.npz"))
    np.testing.assert_array_equal(back.values, made.values)
    assert (back.rows, back.cols, back.metric, back.n) == (made.rows, made.cols, "td(folds=3)", 40)
    assert back.provenance == made.provenance
    assert sorted(back.details) == sorted(made.details)
    assert {"accuracy_row", "ci_low", "ci_high", "td_ratio"} <= set(back.details)
    for name, array in made.details.items():
        np.testing.assert_array_equal(back.details[name], array)


def test_every_array_of_a_file_is_read_without_pickle(tmp_path: Path) -> None:
    path = matrix().save(tmp_path / "a.npz")
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert sorted(arrays) == ["details/chance", "details/width", "facts", "values"]
    assert all(array.dtype.kind in "fU" for array in arrays.values())
    assert json.loads(str(arrays["facts"]))["format"] == 1


def test_a_suffix_is_not_invented(tmp_path: Path) -> None:
    matrix().save(tmp_path / "a.matrix")
    assert names(tmp_path) == ["a.matrix"]
    assert SimilarityMatrix.load(tmp_path / "a.matrix").n == 1597


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "no.npz"
    text = f"SimilarityMatrix.load: the file must exist; got {path}. Check the path."
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        SimilarityMatrix.load(path)
    with pytest.raises(FileNotFoundError, match=exactly(text.replace(str(path), str(tmp_path)))):
        SimilarityMatrix.load(tmp_path)  # a folder


def foreign(path: Path, kind: str) -> None:
    """Writes a file that `save` did not."""
    good = {"values": np.zeros((1, 1)), "facts": np.array("{}")}
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no archive\n" * 20)
    elif kind == "array":
        with open(path, "wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "archive":
        np.savez(path, a=np.zeros(3))
    elif kind == "no facts":
        np.savez(path, values=np.zeros((1, 1)))
    elif kind == "facts that are no mapping":
        np.savez(path, **{**good, "facts": np.array("[1, 2]")})
    elif kind == "facts that are no json":
        np.savez(path, **{**good, "facts": np.array("rows")})
    elif kind == "facts without rows":
        np.savez(path, **good)
    elif kind == "objects":
        np.savez(path, **{**good, "facts": np.array([{"rows": 1}], dtype=object)})


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "array",
        "archive",
        "no facts",
        "facts that are no mapping",
        "facts that are no json",
        "facts without rows",
        "objects",
    ],
)
def test_a_foreign_file_is_one_line_without_dangerous_advice(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    foreign(path, kind)
    with pytest.raises(ValueError, match="must be one that save wrote") as error:
        SimilarityMatrix.load(path)
    head = f"SimilarityMatrix.load: the file must be one that save wrote; got {path} ("
    assert str(error.value).startswith(head)
    assert str(error.value).endswith("). Make it again with compare(...).save(path).")
    assert "\n" not in str(error.value)
    assert "unsafe" not in str(error.value)  # numpy's own text tells the reader to turn pickle on


def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = matrix().save(tmp_path / "a.npz")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["values"] = arrays["values"] * 7
    np.savez(path, **arrays)
    text = (
        f"SimilarityMatrix.load: the file must be one that save wrote; got {path} (SimilarityMatrix: cka must lie "
        "in [-1, 1]; got [-0.875, 7]. Report this.). Make it again with compare(...).save(path)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        SimilarityMatrix.load(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = matrix().save(tmp_path / "a.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for end in range(0, len(whole), 23):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="must be one that save wrote"):
            SimilarityMatrix.load(path)


def test_a_damaged_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    made = matrix()
    whole = made.save(tmp_path / "a.npz").read_bytes()
    path = tmp_path / "damaged.npz"
    refused = 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            back = SimilarityMatrix.load(path)
        except ValueError:
            refused += 1
        else:  # a time stamp, say; a value cannot change behind the archive's checksum
            np.testing.assert_array_equal(back.values, made.values)
            assert (back.rows, back.cols, back.n) == (made.rows, made.cols, made.n)
    assert refused > len(whole) / 3 / 4


def test_a_full_disk_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = matrix().save(tmp_path / "a.npz")
    before = path.read_bytes()

    def fill(stream: io.BufferedWriter, **arrays: np.ndarray) -> None:
        stream.write(b"PK half of an archive")
        stream.flush()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fill)
    text = (
        f"save: {path} could not be written (No space left on device); nothing was changed. "
        "Free some space or choose another place."
    )
    with pytest.raises(OSError, match=exactly(text)):
        matrix(n=5).save(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.npz"]


def test_the_operating_system_refusing_bytes_leaves_the_files_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    made = matrix()
    npz, png = made.save(tmp_path / "a.npz"), made.save_picture(tmp_path / "a.png")
    before = npz.read_bytes(), png.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for write, path in ((matrix(n=5).save, npz), (matrix(n=5).save_picture, png)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
        try:
            with pytest.raises(OSError, match=r"\Asave: .* could not be written \(File too large\)") as error:
                write(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(error.value) == (
            f"save: {path} could not be written (File too large); nothing was changed. "
            "Free some space or choose another place."
        )
    assert (npz.read_bytes(), png.read_bytes()) == before
    assert names(tmp_path) == ["a.npz", "a.png"]


def test_what_is_no_json_is_refused_before_a_file_is_touched(tmp_path: Path) -> None:
    path = matrix().save(tmp_path / "a.npz")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        matrix(provenance={"net": object()}).save(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.npz"]


# --- Tables and pictures --------------------------------------------------------------------------------------


def test_a_frame_has_one_line_per_pair_in_row_order() -> None:
    made = matrix()
    frame = made.to_frame()
    assert list(frame.columns) == [
        "row_model",
        "row_layer",
        "col_model",
        "col_layer",
        "metric",
        "value",
        "n",
        "chance",
        "width",
        "reason",
    ]
    assert len(frame) == 6
    assert frame["row_layer"].tolist() == ["conv1"] * 3 + ["fc"] * 3
    assert frame["col_layer"].tolist() == ["stem", "fc", "schöne.Schicht"] * 2
    for k in range(6):
        line = frame.iloc[k]
        i, j = made.rows.index(line["row_layer"]), made.cols.index(line["col_layer"])
        np.testing.assert_equal(line["value"], made.values[i, j])
        np.testing.assert_equal(line["chance"], made.details["chance"][i, j])
        np.testing.assert_equal(line["width"], made.details["width"][i, j])
        assert line["reason"] == (WHY if (i, j) == (0, 1) else "")
        assert (line["row_model"], line["col_model"]) == ("résnet", "other")
        assert (line["metric"], line["n"]) == ("cka", 1597)


def test_layers_are_matched_by_name_first() -> None:
    made = matrix(rows=("fc", "stem"), cols=("stem", "x", "fc"))
    assert made.matched()[0] == ("fc", "fc", 0.5)
    assert made.matched()[1] == ("stem", "stem", 1.0)
    assert len(made.matched()) == 2


def test_layers_without_a_common_name_are_matched_by_place() -> None:
    square = matrix(
        values=np.array([[0.1, 0.2], [0.3, np.nan]]), cols=("p", "q"), details={}, reasons={(1, 1): WHY}
    ).matched()
    assert [pair[:2] for pair in square] == [("conv1", "p"), ("fc", "q")]
    assert square[0][2] == 0.1
    assert np.isnan(square[1][2])


def test_layers_without_a_common_name_or_number_are_matched_by_relative_depth() -> None:
    assert [pair[:2] for pair in matrix(cols=("p", "q", "r")).matched()] == [("conv1", "p"), ("fc", "r")]


def test_equal_names_are_equal_layers_where_both_sides_are_one_architecture() -> None:
    one = {"architecture": "resnet20", "parameters": 272474}
    few, more = ("layer1.0", "layer1.1"), ("layer1.0", "layer1.1", "layer1.2")
    values = np.arange(6.0).reshape(2, 3) / 6
    for provenance, partner in (({"rows": one, "cols": one}, "layer1.1"), ({"rows": one}, "layer1.2")):
        made = matrix(values=values, rows=few, cols=more, details={}, reasons={}, provenance=provenance)
        assert made.matched()[1][:2] == ("layer1.1", partner)


def test_a_notebook_shows_the_heatmap_and_opens_no_window() -> None:
    open_before = plt.get_fignums()
    png = matrix()._repr_png_()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    picture = matplotlib.image.imread(io.BytesIO(png))
    assert min(picture.shape[:2]) > 300
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20
    assert plt.get_fignums() == open_before


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_a_picture_is_of_the_kind_its_suffix_says(tmp_path: Path, suffix: str, head: bytes) -> None:
    path = matrix().save_picture(tmp_path / "new" / f"a{suffix}")
    assert path.read_bytes().startswith(head)
    assert names(path.parent) == [f"a{suffix}"]


# --- compare --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
@pytest.mark.parametrize("metric", ["cka", "svcca", "pwcca", "td(folds=3)"])
def test_rows_are_the_first_side_and_columns_the_second(metric: str) -> None:
    a, b = side(widths=(4, 9), name="a"), side(widths=(3, 5, 8), seed=1, name="b")
    made = compare(a, b, metric)
    assert made.values.shape == (2, 3)
    assert made.values.dtype == np.float64
    assert (made.rows, made.cols) == (a.layers, b.layers)
    assert (made.row_model, made.col_model, made.n) == ("a", "b", 40)
    for i, row in enumerate(a.layers):
        for j, col in enumerate(b.layers):
            alone = compare(
                dataclasses.replace(a, features={row: a[row]}), dataclasses.replace(b, features={col: b[col]}), metric
            )
            np.testing.assert_allclose(made.values[i, j], alone.values[0, 0], atol=1e-9)
    # Otherwise a swap of layers would not show.
    assert len(np.unique(made.values.round(9), axis=0)) == 2
    assert len(np.unique(made.values.round(9), axis=1).T) == 3


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
@pytest.mark.parametrize("metric", NAMES)
def test_two_sides_swapped_are_the_transposed_matrix_just_where_the_metric_says_so(metric: str) -> None:
    a, b = side(widths=(4, 9)), side(widths=(3, 5, 8), seed=1)
    one, two = compare(a, b, metric).values, compare(b, a, metric).values
    assert np.allclose(one, two.T, atol=1e-9) is METRICS[metric].symmetric


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
@pytest.mark.parametrize("metric", NAMES)
def test_a_network_with_itself_is_as_with_its_copy(metric: str) -> None:
    a = side(widths=(4, 9, 6))
    same, copy = compare(a, a, metric), compare(a, copied(a), metric)
    np.testing.assert_allclose(same.values, copy.values, atol=1e-9)
    np.testing.assert_allclose(np.diag(same.values), METRICS[metric].facts.self_value_of(a.n), atol=1e-7)
    assert sorted(same.details) == sorted(copy.details)
    for name in same.details:
        np.testing.assert_allclose(same.details[name], copy.details[name], rtol=1e-6, atol=1e-6)


def test_a_network_with_itself_is_one_list_of_layers_for_the_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def noted(rows: Any, cols: Any) -> Any:
        seen.append(rows is cols)
        return direction_products(rows, cols)

    monkeypatch.setattr("repsim.metrics.spectral.base.direction_products", noted)
    a, b = (Activations.from_arrays({"x": torch.rand(40, 3), "y": torch.rand(40, 4)}) for _ in range(2))
    for side in (a, b):
        compare(a, side, "mean_cca")
    assert seen == [True, False]  # half the pairs are the other half again; a measure that is not told does both


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
def test_features_are_left_as_they_are() -> None:
    a = side()
    before = {layer: a[layer].clone() for layer in a}
    for metric in METRICS:
        if not missing(metric):
            compare(a, a, metric)
    assert all(torch.equal(a[layer], before[layer]) for layer in a)


def test_the_metric_is_recorded_so_that_it_can_be_had_again() -> None:
    made = compare(side(), side(seed=1), repsim.metrics.TD(seed=5, folds=4))
    assert made.metric == "td(seed=5, folds=4)"
    text = str(made.provenance["metric"])
    assert eval(text, dict(vars(repsim.metrics))) == repsim.metrics.TD(seed=5, folds=4)
    assert made.definition == repsim.metrics.TD(seed=5, folds=4).facts
    # Settings that are the default's stand there too: a default may change.
    assert text.startswith("TD(seed=5, folds=4, fit_rows=None, penalty=")


def test_where_numbers_come_from_is_recorded_and_is_json() -> None:
    root = DATA
    data = repsim.load_data("digits", limit=40)
    sides = [
        repsim.extract(repsim.load_model(root / f"digits_{name}.safetensors"), data, layers="layer*.*", progress=False)
        for name in ("standard", "pgd")
    ]
    made = compare(sides[0], sides[1], "cka")
    facts = json.loads(json.dumps(dict(made.provenance), allow_nan=False))
    assert facts == made.provenance
    assert sorted(facts) == ["cols", "device", "metric", "rows", "seconds", "time", "versions"]
    assert facts["rows"]["sha256"] == sha256_of(root / "digits_standard.safetensors")
    assert facts["cols"]["sha256"] == sha256_of(root / "digits_pgd.safetensors")
    assert facts["cols"]["record"]["recipe"] == "pgd"
    for part in (facts["rows"], facts["cols"]):
        assert (part["samples"], part["n"], part["reduction"], part["data"]) == (data.digest, 40, "auto", "digits/test")
    assert facts["device"] == "cpu"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["time"])
    assert facts["seconds"] >= 0


def test_the_versions_are_those_that_run() -> None:
    found = versions()
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["numpy"] == np.__version__
    assert sorted(found) == ["numpy", "python", "repsim-toolkit", "scikit-learn", "scipy", "torch"]


def test_a_device_can_be_named() -> None:
    a, b = side(), side(seed=1)
    named = compare(a, b, "cka", device="cpu")
    np.testing.assert_array_equal(named.values, compare(a, b, "cka").values)
    assert named.provenance["device"] == "cpu"


def test_every_caution_is_one_warning_at_the_callers_line() -> None:
    constant = torch.ones(40, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    wide = [torch.randn(40, width, generator=generator, dtype=torch.float64) for width in (60, 50)]
    a = Activations({"wide": wide[0], "still": constant}, name="a")
    b = Activations({"layer0": wide[1]}, name="b")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = compare(a, b, "cka_biased")
    assert len(made.cautions) == 2
    assert made.cautions[0].startswith(
        "biased CKA of these layers with their samples permuted reaches 0.58 on average at n = 40"
    )
    why = "the row layer has constant features: every sample has the same row"
    assert made.cautions[1] == f"1 of 2 cells are NaN; still × layer0: {why}"
    assert made.reasons == {(1, 0): why}
    assert [str(w.message) for w in caught] == [f"compare a × b, cka_biased: {c}." for c in made.cautions]
    assert all(w.category is CautionWarning and w.filename == __file__ for w in caught)


def test_no_caution_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(side(), side(seed=1), "cka").cautions == ()


def test_rounding_is_clipped_and_counted_and_anything_larger_refused() -> None:
    values = np.array([[1 + 5e-7, 0.5], [-1e-9, np.nan]])
    clipped, count = within_bounds(values, (0.0, 1.0))
    np.testing.assert_array_equal(clipped, [[1.0, 0.5], [0.0, np.nan]])
    assert count == 2
    untouched = np.array([[1.0, 0.0], [0.3, np.nan]])
    found, count = within_bounds(untouched, (0.0, 1.0))
    np.testing.assert_array_equal(found, untouched)
    assert count == 0
    for wrong in (1 + 2e-6, -2e-6):
        text = "compare: values must lie in [0, 1]; got 2.00e-06 outside. Report this."
        with pytest.raises(RuntimeError, match=exactly(text)):
            within_bounds(np.array([[wrong]]), (0.0, 1.0))


def test_rounding_is_clipped_where_only_one_bound_is_finite() -> None:
    clipped, count = within_bounds(np.array([[-1e-9, 1e6, 0.0]]), (0.0, float("inf")))
    np.testing.assert_array_equal(clipped, [[0.0, 1e6, 0.0]])
    assert count == 1


def test_clipping_stands_among_the_cautions_and_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([[1 + 1e-8, 0.5], [0.5, 1 + 1e-8]], dtype=torch.float64)
    monkeypatch.setattr(CKA, "compared", lambda self, rows, cols: PairwiseResult(values))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = compare(side(), side(seed=1), "cka")
    np.testing.assert_array_equal(made.values, [[1.0, 0.5], [0.5, 1.0]])
    assert made.cautions == ("2 values were clipped to the bounds; they were outside by rounding only",)


def test_a_result_far_outside_its_bounds_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([[1.25, 0.5], [0.5, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(CKA, "compared", lambda self, rows, cols: PairwiseResult(values))
    text = "compare: values must lie in [-1, 1]; got 2.50e-01 outside. Report this."
    with pytest.raises(RuntimeError, match=exactly(text)):
        compare(side(), side(seed=1), "cka")


def test_too_few_samples() -> None:
    text = "compare: cka needs at least 4 samples; got 3. Extract on more samples."
    with pytest.raises(ValueError, match=exactly(text)):
        compare(side(n=3), side(n=3), "cka")
    assert compare(side(n=4, widths=(3,)), side(n=4, widths=(3,), seed=1), "cka").n == 4


def test_other_samples_are_refused() -> None:
    a, b = side(name="a", digest="0123456789abcdef"), side(name="b", digest="fedcba9876543210")
    text = (
        "compare: both sides must hold the same samples in the same order; got digests 0123456789ab for 'a' and "
        "fedcba987654 for 'b'. Other samples, or another order: extract both sides on one ImageSet."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        compare(a, b, "cka")


def test_no_task_for_td_and_labels_of_either_side_serve() -> None:
    a, b = side(labels=None), side(seed=1, labels=None)
    text = (
        "TD: a downstream task is needed; got no labels. "
        "Give the activations labels: extract on an ImageSet, or from_arrays(..., labels=y)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        compare(a, b, "td")
    labelled = compare(side(), b, "td(folds=3)").values
    np.testing.assert_array_equal(labelled, compare(a, side(seed=1), "td(folds=3)").values)
