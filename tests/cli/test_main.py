"""The command line: what it writes and prints, and one line for every mistake."""

import contextlib
import csv
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repsim import (
    Activations,
    CautionWarning,
    SimilarityMatrix,
    bootstrap,
    compare,
    extract,
    load_data,
    load_model,
    metrics,
    permutation_test,
)
from repsim._common.files import sha256_of
from repsim._common.provenance import versions
from repsim.cli.demo import Demo
from repsim.cli.main import main
from repsim.metrics import METRICS, PairwiseResult
from repsim.metrics.alignment.cka import CKA
from tests.support import commands
from tests.support.commands import PGD, STANDARD, Run

ROOT = Path(__file__).parents[2]
DIGITS = ["--data", "digits", "--limit", "120"]
BLOCKS = ["--layers", "layer*.*"]


def ran(folder: Path, *words: str) -> Run:
    return commands.ran("compare", folder, *words)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The two networks in the repository, by CKA and TD."""
    folder = tmp_path_factory.mktemp("pair") / "deep" / "out"
    return ran(folder, STANDARD, PGD, *DIGITS, "--metric", "cka", "--metric", "td(folds=3)")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One network with itself."""
    folder = tmp_path_factory.mktemp("alone")
    return ran(folder, PGD, PGD, *DIGITS, *BLOCKS, "--metric", "cka", "--metric", "td(folds=3)")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("run.json", "features"))


# --- compare --------------------------------------------------------------------------------------------------


def test_a_comparison_writes_its_files_and_nothing_else(pair: Run) -> None:
    assert pair.code == 0
    assert names(pair.folder) == [
        "cka.csv",
        "cka.npz",
        "cka.png",
        "report.html",
        "summary.json",
        "td_folds=3.csv",
        "td_folds=3.npz",
        "td_folds=3.png",
    ]
    assert "Traceback" not in pair.err
    assert "caution" not in pair.err
    for name in ("cka", "td_folds=3"):
        assert (pair.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_matrices_are_whole_and_name_what_they_are_of(pair: Run) -> None:
    for name, metric in (("cka", METRICS["cka"]), ("td_folds=3", metrics.get_metric("td(folds=3)"))):
        made = SimilarityMatrix.load(pair.folder / f"{name}.npz")
        assert made.definition == metric.facts
        assert made.values.shape == (18, 18)
        assert (made.row_model, made.col_model, made.n) == ("digits_standard", "digits_pgd", 120)
        assert made.rows[0] == "conv1"
        assert made.rows[-1] == "linear"
        assert made.provenance["rows"]["sha256"] == sha256_of(STANDARD)
        assert made.provenance["cols"]["sha256"] == sha256_of(PGD)
        with open(pair.folder / f"{name}.csv", newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
        assert len(lines) == 18 * 18
        for line in lines:
            i, j = made.rows.index(line["row_layer"]), made.cols.index(line["col_layer"])
            assert float(line["value"]) == pytest.approx(made.values[i, j], abs=1e-12)


def test_the_table_and_the_summary_say_what_the_matrices_hold(pair: Run) -> None:
    lines = pair.out.splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("metric"))
    assert lines[head].split("  ")[0] == "metric"
    assert set(lines[head + 1]) == {"-", " "}
    facts = json.loads((pair.folder / "summary.json").read_text(encoding="utf-8"))
    assert [r["metric"] for r in facts["results"]] == ["cka", "td(folds=3)"]
    for k, result in enumerate(facts["results"]):
        made = SimilarityMatrix.load(pair.folder / f"{result['file']}.npz")
        assert result["min"] == pytest.approx(made.values.min())
        assert result["max"] == pytest.approx(made.values.max())
        assert result["matched_mean"] == pytest.approx(np.diag(made.values).mean())
        i, j = (made.rows.index(result["closest"][0]), made.cols.index(result["closest"][1]))
        best = made.values.max() if made.definition.kind == "similarity" else made.values.min()
        assert made.values[i, j] == best
        assert (result["n"], result["layers"], result["cells_without_number"]) == (120, [18, 18], 0)
        row = lines[head + 2 + k]
        assert row.startswith(result["metric"])
        for text in ("18 × 18", "120", f"{result['min']:.4f}", f"{result['max']:.4f}", f"{result['matched_mean']:.4f}"):
            assert text in row
        assert row.endswith(" ~ ".join(result["closest"]))
    assert lines[-1] == (
        f"written to {pair.folder}: cka.{{npz,csv,png}}, td_folds=3.{{npz,csv,png}}, summary.json, report.html"
    )
    assert sorted(facts["networks"]) == ["digits_pgd", "digits_standard"]
    assert facts["networks"]["digits_pgd"]["record"]["recipe"] == "pgd"
    assert facts["data"]["name"] == "digits/test"
    assert facts["data"]["n"] == 120
    assert facts["versions"] == versions()


def test_a_network_with_itself(alone: Run) -> None:
    assert alone.code == 0
    for name, value in (("cka", 1.0), ("td_folds=3", 0.0)):
        made = SimilarityMatrix.load(alone.folder / f"{name}.npz")
        assert made.rows == made.cols == ("layer1.0", "layer2.0", "layer3.0")
        assert made.row_model == made.col_model == "digits_pgd"
        np.testing.assert_allclose(np.diag(made.values), value, atol=1e-9)
        np.testing.assert_allclose(made.values, made.values.T, atol=1e-9)


def test_copies_of_one_file_are_told_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.safetensors").write_bytes(Path(STANDARD).read_bytes())
    specs = [str(tmp_path / folder / "net.safetensors") for folder in ("one", "two")]
    found = ran(tmp_path / "out", *specs, *DIGITS, *BLOCKS, "--metric", "cka")
    assert found.code == 0
    made = SimilarityMatrix.load(tmp_path / "out" / "cka.npz")
    assert (made.row_model, made.col_model) == ("net (A)", "net (B)")
    np.testing.assert_allclose(np.diag(made.values), 1.0, atol=1e-6)  # products of float32
    facts = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert sorted(facts["networks"]) == ["net (A)", "net (B)"]


def test_the_first_network_makes_the_rows(tmp_path: Path) -> None:
    found = ran(tmp_path, "digits_resnet8", PGD, *DIGITS, *BLOCKS, "--metric", "cka")
    assert found.code == 0
    made = SimilarityMatrix.load(tmp_path / "cka.npz")
    assert (made.row_model, made.col_model) == ("digits_resnet8", "digits_pgd")
    assert "digits_resnet8: untrained: random weights" in found.out.splitlines()


def test_a_weight_file_may_be_named_with_its_architecture(tmp_path: Path) -> None:
    whole = ran(tmp_path / "a", STANDARD, PGD, *DIGITS, *BLOCKS, "--metric", "cka")
    named = ran(tmp_path / "b", f"digits_resnet8:{STANDARD}", PGD, *DIGITS, *BLOCKS, "--metric", "cka")
    assert (whole.code, named.code) == (0, 0)
    one, two = (SimilarityMatrix.load(tmp_path / folder / "cka.npz") for folder in ("a", "b"))
    np.testing.assert_array_equal(one.values, two.values)
    assert two.row_model == "digits_standard"


def test_inputs_can_be_chosen(tmp_path: Path) -> None:
    options = ["--split", "train", "--seed", "3", "--reduction", "flatten", "--batch-size", "7", "--device", "cpu"]
    found = ran(tmp_path, STANDARD, PGD, "--data", "digits", "--limit", "60", *BLOCKS, *options, "--metric", "cka")
    assert found.code == 0
    made = SimilarityMatrix.load(tmp_path / "cka.npz")
    assert (made.provenance["rows"]["data"], made.provenance["rows"]["reduction"]) == ("digits/train", "flatten")
    assert made.n == 60
    assert made.provenance["device"] == "cpu"


@pytest.mark.filterwarnings("always::repsim.CautionWarning")
def test_cautions_are_one_line_each_on_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pairwise(self: CKA, rows: list[Any], cols: list[Any]) -> PairwiseResult:
        values = torch.zeros(len(rows), len(cols), dtype=torch.float64)
        return PairwiseResult(values, cautions=("mind the gap", "and the step"))

    monkeypatch.setattr(CKA, "compared", pairwise)
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, *BLOCKS, "--metric", "cka")
    assert found.code == 0
    head = "caution: compare digits_standard × digits_pgd, cka: "
    assert found.err.splitlines() == [f"{head}mind the gap.", f"{head}and the step."]
    facts = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert facts["results"][0]["cautions"] == ["mind the gap", "and the step"]


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
def test_a_matrix_without_a_number_is_summed_up_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pairwise(self: CKA, rows: list[Any], cols: list[Any]) -> PairwiseResult:
        values = torch.full((len(rows), len(cols)), torch.nan, dtype=torch.float64)
        reasons = {(i, j): "no reason" for i in range(len(rows)) for j in range(len(cols))}
        return PairwiseResult(values, reasons=reasons)

    monkeypatch.setattr(CKA, "compared", pairwise)
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, *BLOCKS, "--metric", "cka")
    assert found.code == 0
    (result,) = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["results"]
    assert (result["min"], result["max"], result["matched_mean"]) == (None, None, None)
    assert result["cells_without_number"] == 9
    assert names(tmp_path) == ["cka.csv", "cka.npz", "cka.png", "report.html", "summary.json"]


# --- compare: what options add --------------------------------------------------------------------------------


def sides(**options: Any) -> tuple[Activations, Activations]:
    """What `compare` extracts with BLOCKS and DIGITS."""
    data = load_data("digits", limit=120)
    options = {"layers": "layer*.*", "progress": False, **options}
    a, b = (extract(load_model(file, name=Path(file).stem), data, **options) for file in (STANDARD, PGD))
    return a, b


def results(found: Run) -> list[dict[str, Any]]:
    return found.summary["results"]


def table(found: Run) -> list[list[str]]:
    """The cells of the end table, its head first."""
    lines = found.out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("metric"))
    starts = [0, *(m.end() for m in re.finditer("  ", lines[at + 1]))]
    cells = [[line[a:b].strip() for a, b in pairwise([*starts, None])] for line in lines[at:-1]]
    return [cells[0], *cells[2:]]


def check_csv(folder: Path, name: str, expected: SimilarityMatrix) -> None:
    """The table beside a matrix holds every detail of it."""
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == expected.values.size
    for line in lines:
        cell = expected.rows.index(line["row_layer"]), expected.cols.index(line["col_layer"])
        for detail, array in expected.details.items():
            number = float(line[detail] or "nan")
            assert number == pytest.approx(float(array[cell]), rel=1e-9, abs=1e-12, nan_ok=True), detail


TD = "td(folds=3, resamples=0)"
TD_FILE = "td_folds=3__resamples=0"
RESAMPLED = {"resamples": 30, "level": 0.95, "seed": 0}
PERMUTED = {"permutations": 25, "alpha": 0.05, "seed": 0}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Intervals and p-values for a measure of features and one of answers."""
    options = ["--bootstrap", "30", "--permutations", "25", "--metric", "cka", "--metric", TD]
    with warnings.catch_warnings():
        warnings.simplefilter("always", CautionWarning)
        return ran(tmp_path_factory.mktemp("both"), STANDARD, PGD, *DIGITS, *BLOCKS, *options)


#: Heads that answer all rows right are not changed by answers that change places within a class.
IDLE = "3 of 9 values are the same under every permutation: chance cannot be told there"


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
@pytest.mark.parametrize(("name", "metric"), [("cka", "cka"), (TD_FILE, TD)])
def test_intervals_and_p_values_together_are_those_of_the_package(both: Run, name: str, metric: str) -> None:
    assert both.code == 0
    (line,) = both.err.splitlines()
    assert line.endswith(f"{IDLE}.")
    made = SimilarityMatrix.load(both.folder / f"{name}.npz")
    assert (IDLE in made.cautions) == (metric == TD)
    a, b = sides()
    plain = compare(a, b, metric)
    resampled = bootstrap(a, b, metric, resamples=30)
    permuted = permutation_test(a, b, metric, permutations=25)
    np.testing.assert_array_equal(made.values, plain.values)
    for detail in ("ci_low", "ci_high", "standard_error", "bootstrap_bias"):
        np.testing.assert_array_equal(made.details[detail], resampled.details[detail])
    for detail in ("p_value", "null_mean", "null_low", "null_high"):
        np.testing.assert_array_equal(made.details[detail], permuted.details[detail])
    assert set(made.details) == set(resampled.details) | set(permuted.details)
    assert made.provenance["bootstrap"] == RESAMPLED
    assert made.provenance["permutation_test"] == PERMUTED
    check_csv(both.folder, name, made)


def test_the_table_and_the_summary_say_what_was_added(both: Run) -> None:
    assert [(r["bootstrap"], r["permutation_test"]) for r in results(both)] == [(RESAMPLED, PERMUTED)] * 2
    head, *rows = table(both)
    assert head[-1] == "added"
    for row, result in zip(rows, results(both), strict=True):
        best = SimilarityMatrix.load(both.folder / f"{result['file']}.npz").details["p_max"]
        assert result["p_max"] == best.max() == best.min() >= 1 / 26
        added = f"95 % intervals (30 resamples), p-values (25 permutations; of the best pair {best.min():.4f})"
        assert row[-1] == added


@pytest.mark.parametrize(
    ("options", "added", "details"),
    [
        (["--bootstrap", "20"], "95 % intervals (20 resamples)", {"ci_low", "ci_high", "standard_error"}),
        (
            ["--permutations", "1000"],
            "p-values (1,000 permutations; of the best pair 0.0010)",
            {"p_value", "null_mean", "null_low"},
        ),
    ],
)
def test_intervals_or_p_values_alone(options: list[str], added: str, details: set[str], tmp_path: Path) -> None:
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, *BLOCKS, *options, "--metric", "cka", "--device", "cpu")
    assert found.code == 0
    made = SimilarityMatrix.load(tmp_path / "cka.npz")
    assert details <= set(made.details)
    assert ("p_value" in made.details) != ("standard_error" in made.details)
    assert table(found)[1][-1] == added
    (result,) = results(found)
    assert (result["bootstrap"] is None) == ("p_value" in made.details)
    assert (result["permutation_test"] is None) == ("standard_error" in made.details)


def test_without_options_nothing_is_added(pair: Run) -> None:
    assert "added" not in table(pair)[0]
    for result in results(pair):
        assert (result["bootstrap"], result["permutation_test"]) == (None, None)
        assert (result["tasks"], result["tasks_ignored"]) == ({}, [])
    assert pair.summary["tasks"] == {}


@pytest.mark.filterwarnings("always::repsim.CautionWarning")
def test_cautions_are_said_once_however_much_is_added(tmp_path: Path) -> None:
    options = ["--bootstrap", "20", "--permutations", "20", "--metric", "td(folds=3, resamples=0, max_iter=1)"]
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, "--layers", "layer3.0", *options)
    assert found.code == 0
    (line,) = found.err.splitlines()
    assert line.startswith("caution: permutation_test digits_standard × digits_pgd, td(")
    made = SimilarityMatrix.load(next(tmp_path.glob("*.npz")))
    for detail in ("ci_low", "ci_high", "standard_error", "p_value"):
        assert np.isnan(made.details[detail]).all()


# --- compare --live -------------------------------------------------------------------------------------------


def test_live_networks_are_compared_batch_by_batch_on_whole_maps(tmp_path: Path) -> None:
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, *BLOCKS, "--live", "--batch-size", "50")
    assert (found.code, found.err) == (0, "")
    assert names(tmp_path) == [
        "cka_minibatch.csv",
        "cka_minibatch.npz",
        "cka_minibatch.png",
        "report.html",
        "summary.json",
    ]
    made = SimilarityMatrix.load(tmp_path / "cka_minibatch.npz")
    expected = compare(*sides(reduction="flatten"), "cka_minibatch")
    np.testing.assert_allclose(made.values, expected.values, atol=1e-6)  # products of float32
    assert (made.row_model, made.col_model, made.n) == ("digits_standard", "digits_pgd", 120)
    assert made.provenance["rows"]["reduction"] == made.provenance["cols"]["reduction"] == "flatten"
    assert "LiveActivations('digits_standard', 3 layers × 120 samples, width 256 to 1,024, flatten)" in found.out
    assert found.out.count("LiveActivations(") == 2
    assert results(found)[0]["matched_mean"] == pytest.approx(np.diag(expected.values).mean(), abs=1e-6)


def test_live_takes_another_measure_and_reduction(tmp_path: Path) -> None:
    options = ["--live", "--metric", "cka", "--reduction", "mean", "--device", "cpu"]
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, *BLOCKS, *options)
    assert found.code == 0
    made = SimilarityMatrix.load(tmp_path / "cka.npz")
    np.testing.assert_allclose(made.values, compare(*sides(), "cka").values, atol=1e-6)
    assert made.provenance["rows"]["reduction"] == "mean"


def test_a_live_network_with_itself(tmp_path: Path) -> None:
    found = ran(tmp_path, PGD, PGD, *DIGITS, *BLOCKS, "--live")
    assert found.code == 0
    made = SimilarityMatrix.load(tmp_path / "cka_minibatch.npz")
    np.testing.assert_allclose(np.diag(made.values), 1.0, atol=1e-9)
    np.testing.assert_array_equal(made.values, made.values.T)
    assert found.out.count("LiveActivations(") == 1


# --- compare --tasks ------------------------------------------------------------------------------------------

TASKS = {"round": {"round": [0, 6, 8, 9], "other": [1, 2, 3, 4, 5, 7]}, "odd/even": {"odd": [1, 3, 5], "even": [0, 2]}}


@pytest.fixture(scope="module")
def tasked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two tasks for forms of TD, and a measure that has none."""
    folder = tmp_path_factory.mktemp("tasked")
    (folder / "tasks.json").write_text(json.dumps(TASKS), encoding="utf-8")
    asked = [x for metric in (TD, "cka", "td_soft", "td_regression") for x in ("--metric", metric)]
    options = ["--tasks", str(folder / "tasks.json"), *asked]
    return ran(folder / "out", STANDARD, PGD, *DIGITS, *BLOCKS, *options)


def test_tasks_are_groups_of_the_datas_classes(tasked: Run) -> None:
    assert (tasked.code, tasked.err) == (0, "")
    a, b = sides()
    labels = load_data("digits", limit=120).labels.tolist()
    given = {
        task: [next((k for k, classes in enumerate(groups.values()) if y in classes), -100) for y in labels]
        for task, groups in TASKS.items()
    }
    for result in results(tasked):
        made = SimilarityMatrix.load(tasked.folder / f"{result['file']}.npz")
        if result["metric"] == "cka":
            expected = compare(a, b, "cka")
            assert (result["tasks"], result["tasks_ignored"]) == ({}, ["round", "odd/even"])
        else:
            expected = compare(a, b, result["metric"], tasks=given)
            assert result["tasks_ignored"] == []
            assert list(result["tasks"]) == list(made.tasks) == list(TASKS)
            for task, part in expected.tasks.items():
                np.testing.assert_array_equal(made.tasks[task].values, part.values)
                mean = pytest.approx(np.diag(part.values).mean())
                assert result["tasks"][task] == {"matched_mean": mean}
            assert set(made.details) == {f"task: {task}" for task in TASKS}
        np.testing.assert_array_equal(made.values, expected.values)
        check_csv(tasked.folder, result["file"], expected)
    assert tasked.summary["tasks"] == TASKS


def test_the_table_has_a_row_per_task(tasked: Run) -> None:
    rows = table(tasked)[1:]
    expected = []
    for result in results(tasked):
        expected.append((result["metric"], f"{result['matched_mean']:.4f}"))
        expected += [(task, f"{part['matched_mean']:.4f}") for task, part in result["tasks"].items()]
    assert [(row[0], row[6]) for row in rows] == expected
    added = {row[0]: row[-1] for row in rows}
    assert added[TD] == added["td_regression"] == "mean of 2 tasks"
    assert added["cka"] == "tasks ignored: no measure of answers"
    assert added["round"] == ""


SHAPE = 'Write {"life": {"animal": [2, 3], "vehicle": [0, 1]}}: tasks, their groups, the classes of each.'

WRONG_TASKS: dict[str, tuple[str, str]] = {
    "text that is no JSON": (
        "{'round': 1}",
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    "nothing": ("", "Expecting value: line 1 column 1 (char 0)"),
    "a list": ("[1, 2]", "no object"),
    "no task": ("{}", "no tasks"),
    "no groups": ('{"t": [0, 1]}', "no groups in task 't'"),
    "a class in place of a list": ('{"t": {"a": 0, "b": [1]}}', "no list of class numbers in task 't', group 'a'"),
    "classes by name": ('{"t": {"a": [0], "b": ["one"]}}', "no list of class numbers in task 't', group 'b'"),
    "a truth in place of a class": (
        '{"t": {"a": [0], "b": [true]}}',
        "no list of class numbers in task 't', group 'b'",
    ),
    "half a class": ('{"t": {"a": [0], "b": [1.5]}}', "no list of class numbers in task 't', group 'b'"),
    "a group twice": ('{"t": {"a": [0], "a": [1], "b": [2]}}', "the name 'a' twice in one object"),
    "a task twice": ('{"t": {"a": [0], "b": [1]}, "t": {"a": [1], "b": [0]}}', "the name 't' twice in one object"),
}


@pytest.mark.parametrize("mistake", WRONG_TASKS)
def test_a_wrong_file_of_tasks_is_one_line(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, reason = WRONG_TASKS[mistake]
    file = tmp_path / "t.json"
    file.write_text(text, encoding="utf-8")
    assert main([*COMPARE, "--tasks", str(file), "--out", str(tmp_path / "out")]) == 2
    must = "repsim: the file of --tasks must hold tasks as JSON"
    assert capsys.readouterr().err == f"{must}; got {file} ({reason}). {SHAPE}\n"
    assert names(tmp_path) == ["t.json"]


def test_a_file_of_tasks_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.json"
    file.write_bytes(b"\xff\xfe\x00")
    assert main([*COMPARE, "--tasks", str(file), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"repsim: the file of --tasks must hold tasks as JSON; got {file} ('utf-8' codec can't decode "
    )
    assert err.endswith(f"). {SHAPE}\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("groups", "got"),
    [
        ('{"a": [0], "b": [12]}', "2 groups, class 12 that no sample has"),
        ('{"a": [0, 1], "b": [1]}', "2 groups, class 1 in two of them"),
        ('{"a": [0]}', "1 groups"),
        ("{}", "0 groups"),
    ],
)
def test_a_task_that_does_not_fit_the_data_is_named(
    groups: str, got: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.json"
    file.write_text(f'{{"fine": {{"a": [0], "b": [1]}}, "t": {groups}}}', encoding="utf-8")
    assert main([*COMPARE, "--tasks", str(file), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"{file}, task 't': coarser: groups must split classes of these labels; got {got}. "
        "Name at least two groups that share no class.\n"
    )
    assert names(tmp_path) == ["t.json"]


# --- The other verbs ------------------------------------------------------------------------------------------


def test_layers_lists_names_kinds_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", STANDARD]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert len(lines) == 18
    assert lines[0] == ["conv1", "Conv2d", "144", "parameters"]
    assert lines[-1] == ["linear", "Linear", "650", "parameters"]
    assert ["layer1.0", "BasicBlock", "4,672", "parameters"] in lines
    assert err == ""


def test_layers_takes_globs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "resnet20", "--layers", "layer*.*", "linear"]) == 0
    found = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert found == [f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1, 2)] + ["linear"]


def test_a_saved_matrix_is_drawn_beside_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: Run) -> None:
    npz = tmp_path / "m.npz"
    npz.write_bytes((pair.folder / "cka.npz").read_bytes())
    assert main(["heatmap", str(npz)]) == 0
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines() == [
        "SimilarityMatrix(cka, digits_standard × digits_pgd, 18 × 18 layers, n = 120)",
        f"written to {tmp_path / 'm.png'}",
    ]
    assert names(tmp_path) == ["m.npz", "m.png"]


def test_a_saved_matrix_is_drawn_as_asked(tmp_path: Path, alone: Run) -> None:
    npz, out = str(alone.folder / "td_folds=3.npz"), tmp_path / "new" / "m.svg"
    assert main(["heatmap", npz, "--out", str(out), "--limits", "data", "--mask", "--annotate"]) == 0
    assert "<svg" in out.read_text(encoding="utf-8")


def test_metrics_lists_every_measure_with_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, metric in METRICS.items():
        (row,) = [line for line in lines if line.split("  ")[0] == name]
        for fact in (metric.kind, f"[{metric.bounds[0]:g}, {metric.bounds[1]:g}]", metric.cost, metric.source):
            assert fact in row
        assert all(invariance in row for invariance in metric.invariances)
        assert f"{name}: {metric.meaning}" in lines


def test_the_module_is_the_command() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "repsim", "metrics"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert made.returncode == 0
    assert made.stderr == ""
    assert [line.split()[0] for line in made.stdout.splitlines()[2 : 2 + len(METRICS)]] == sorted(METRICS)


def test_the_demo_prints_its_table_and_where_the_pictures_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def run(out: Path) -> Demo:
        asked.append(out)
        return Demo({}, {}, {}, (out / "a.png", out / "a.npz", out / "b.png"), "a table\nand its reading")

    monkeypatch.setattr("repsim.cli.demo.run", run)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert asked == [tmp_path]
    assert capsys.readouterr().out == (
        f"a table\nand its reading\n\nwritten to {tmp_path}: report.html, a.png, b.png, and 4 files in all\n"
    )


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("layers", "compare", "heatmap", "train", "certify", "metrics", "demo"))


# --- Mistakes -------------------------------------------------------------------------------------------------

COMPARE = ["compare", STANDARD, PGD, *DIGITS, *BLOCKS]

MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown metric": (
        [*COMPARE, "--metric", "ckaa"],
        "metric: the metric must be known; got 'ckaa'. Close matches: cka, ",
    ),
    "unknown setting": (
        [*COMPARE, "--metric", "cka(seed=1)"],
        "metric: settings must be name=value; got 'cka(seed=1)' (no setting 'seed'; "
        "there are debiased, without_components, without_rows, deconfounded). "
        "Write it as in td(seed=1, penalty=0.01).",
    ),
    "broken setting": (
        [*COMPARE, "--metric", "td(seed=1"],
        "metric: settings must be name=value; got 'td(seed=1' ('(' was never closed). "
        "Write it as in td(seed=1, penalty=0.01).",
    ),
    "setting of another kind": (
        [*COMPARE, "--metric", "td(folds='five')"],
        "metric: ",
    ),
    "unknown data": (
        ["compare", STANDARD, PGD, "--data", "digit"],
        "load_data: name must be a known data set; got 'digit'. Close matches: digits",
    ),
    "unknown split": (
        [*COMPARE, "--split", "valid"],
        "load_data: split must be train, test or all; got 'valid'. Choose one of these.",
    ),
    "missing folder of images": (
        ["compare", STANDARD, PGD, "--data", "imagefolder:nowhere/at/all"],
        "load_data: ",
    ),
    "missing weights": (
        ["compare", "resnet20:nowhere/w.th", PGD, *DIGITS],
        "load_model: the weight file must exist; got nowhere/w.th. Check the path.",
    ),
    "missing file": (
        ["compare", "nowhere.safetensors", PGD, *DIGITS],
        "load_model: the weight file must exist; got nowhere.safetensors. Check the path.",
    ),
    "unknown architecture": (
        ["layers", "resnet21"],
        "load_model: the architecture must be known; got 'resnet21'. Close matches: resnet",
    ),
    "another architecture": (
        ["layers", f"resnet20:{STANDARD}"],
        "load_model: the weight file must fit the architecture; got digits_standard.safetensors: missing ",
    ),
    "no network": (
        ["layers", "os:getcwd"],
        "load_model: os:getcwd must return a torch.nn.Module; got str. Return the network from the function.",
    ),
    "a network without layers": (["layers", "torch.nn:Identity"], "extract: "),
    "unknown layer": (
        ["compare", STANDARD, PGD, *DIGITS, "--layers", "layer9"],
        "extract: layers must name modules of the network; got 'layer9'. Close matches: layer3, layer2, layer1",
    ),
    "unknown layer to list": (
        ["layers", STANDARD, "--layers", "layr1.0"],
        "extract: layers must name modules of the network; got 'layr1.0'. Close matches: layer1.0",
    ),
    "few resamples": (
        [*COMPARE, "--metric", "cka", "--bootstrap", "19"],
        "repsim: --bootstrap must be at least 20; got 19. 200 is usual.",
    ),
    "no permutations": (
        [*COMPARE, "--metric", "cka", "--bootstrap", "20", "--permutations", "0"],
        "repsim: --permutations must be at least 20; got 0. 200 is usual.",
    ),
    "intervals of live networks": (
        [*COMPARE, "--live", "--bootstrap", "20"],
        "repsim: --live keeps no features to go back to; got --bootstrap. Leave --live out, or the others.",
    ),
    "all of it of live networks": (
        [*COMPARE, "--live", "--bootstrap", "20", "--permutations", "20", "--tasks", "nowhere.json"],
        "repsim: --live keeps no features to go back to; got --bootstrap, --permutations, --tasks. "
        "Leave --live out, or the others.",
    ),
    "answers of live networks": (
        [*COMPARE, "--live", "--metric", "td"],
        "compare: live features take measures that need no more than a batch at a time; got td. "
        'Use "cka_minibatch", "cka" or "cka_biased", or keep smaller features: extract(..., reduction="mean").',
    ),
    "intervals over tasks": (
        [*COMPARE, "--tasks", "nowhere.json", "--permutations", "20"],
        "repsim: resampling takes one task, the labels; got --tasks and --permutations. Leave one of them out.",
    ),
    "missing tasks": (
        [*COMPARE, "--tasks", "nowhere.json"],
        "repsim: the file of --tasks must exist; got nowhere.json. Check the path.",
    ),
    "unknown reduction": ([*COMPARE, "--reduction", "median"], "extract: reduction must be known; got 'median'. "),
    "no batch": ([*COMPARE, "--batch-size", "0"], "extract: batch_size must be at least 1; got 0. Leave it out."),
    "limit below the classes": (
        ["compare", STANDARD, PGD, "--data", "digits", "--limit", "9"],
        "load_data: limit must leave every class an image; got limit=9 for 10 classes. Raise the limit.",
    ),
    "limit below the folds": (
        ["compare", STANDARD, PGD, "--data", "digits", "--limit", "30", *BLOCKS, "--metric", "td"],
        "stratified_folds: every class must have a sample in every fold; got class ",
    ),
    "negative seed": ([*COMPARE, "--seed", "-1"], "load_data: "),
    "unknown normalisation": (
        ["compare", "digits_resnet8", PGD, *DIGITS, "--normalize-a", "cifr10"],
        "load_model: normalize must be known by name; got 'cifr10'. Close matches: cifar10.",
    ),
    "normalisation that is no number": (
        ["compare", "digits_resnet8", PGD, *DIGITS, "--normalize", "a/b"],
        "repsim: --normalize must be known; got 'a/b'. Write means and stds as in .5,.5,.5/.2,.2,.2.",
    ),
    "normalisation of three parts": (
        ["compare", "digits_resnet8", PGD, *DIGITS, "--normalize", ".5/.2/.1"],
        "repsim: --normalize must be known; got '.5/.2/.1'. Write means and stds as in .5,.5,.5/.2,.2,.2.",
    ),
    "normalisation of unequal parts": (
        ["compare", "digits_resnet8", PGD, *DIGITS, "--normalize", ".5,.5/.2"],
        "load_model: normalize must be (means, positive stds) per channel; got ((0.5, 0.5), (0.2,)). ",
    ),
    "normalisation against the file's": (
        [*COMPARE, "--normalize", ".5/.2"],
        "load_model: normalize must be what the weight file carries; got normalize=((0.5,), (0.2,)) for "
        "digits_standard.safetensors, which carries None. Leave it out.",
    ),
    "normalisation of other channels": (
        ["compare", "resnet20", "resnet32", *DIGITS, *BLOCKS, "--normalize", "cifar10", "--metric", "cka"],
        "",
    ),
    "images of other channels": (["compare", "resnet20", "resnet32", *DIGITS, *BLOCKS, "--metric", "cka"], ""),
    "unknown device": ([*COMPARE, "--device", "abacus"], ""),
    "a device that is not there": ([*COMPARE, "--device", "cuda:99"], ""),
    "missing matrix": (
        ["heatmap", "nowhere.npz"],
        "SimilarityMatrix.load: the file must exist; got nowhere.npz. Check the path.",
    ),
    "a mask of two networks": (
        ["heatmap", "{pair}/cka.npz", "--mask"],
        "heatmap: mask needs a symmetric matrix; got digits_standard × digits_pgd. Leave mask out.",
    ),
    "a picture of no kind": (["heatmap", "{pair}/cka.npz", "--out", "{tmp}/a.xyz"], ""),
    "a matrix that is none": (
        ["heatmap", STANDARD],
        f"SimilarityMatrix.load: the file must be one that save wrote; got {STANDARD} (",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    mistake: str, tmp_path: Path, pair: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, text = MISTAKES[mistake]
    arguments = [a.format(pair=pair.folder, tmp=tmp_path) for a in arguments]
    if arguments[0] == "compare":
        arguments += ["--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert len(err) > 20
    assert "Traceback" not in err
    if text.endswith("."):
        assert err == text + "\n"
    else:
        assert err.startswith(text)
    # What is found wrong after the networks have run leaves their features.
    assert [path.name for path in tmp_path.rglob("*") if path.parent.name in ("out", tmp_path.name)] in (
        [],
        ["out", "features"],
    )


def test_a_web_page_in_place_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "resnet20.pth"
    page.write_text("<!DOCTYPE html>\n<html><body>404</body></html>\n")
    assert main(["compare", f"resnet20:{page}", PGD, *DIGITS, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"load_model: {page} must be a weight file; got a web page. "
        "The download link led to a page; fetch the file itself.\n"
    )
    assert names(tmp_path) == ["resnet20.pth"]


@pytest.mark.parametrize("arguments", [[], ["compare"], ["compare", STANDARD, PGD], ["heatmap"], ["nonsense"]])
def test_an_incomplete_command_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "repsim" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("place", ["after", "before"])
def test_debug_shows_where_a_mistake_was_found(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["layers", "resnet21", "--debug"] if place == "after" else ["layers", "--debug", "resnet21"]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert "ValueError: load_model: the architecture must be known; got 'resnet21'." in err


def test_an_error_of_the_package_is_not_taken_for_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = torch.full((3, 3), 7.0, dtype=torch.float64)
    monkeypatch.setattr(CKA, "compared", lambda self, rows, cols: PairwiseResult(values))
    with pytest.raises(RuntimeError, match="Report this"):
        main([*COMPARE, "--metric", "cka", "--out", str(tmp_path)])


def test_an_interruption_leaves_whole_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SimilarityMatrix, "to_frame", stop)
    assert main([*COMPARE, "--metric", "cka", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "stopped; files already written are whole\n"
    assert names(tmp_path) == ["cka.npz"]
    assert SimilarityMatrix.load(tmp_path / "cka.npz").n == 120


# --- A full disk ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The operating system refuses files beyond this many bytes, as on a disk that runs full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "refused"), [(200, "cka.npz"), (5_000, "cka.png")])
def test_a_full_disk_is_one_line_and_leaves_the_files_before(
    size: int, refused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(limit: int) -> int:
        with largest_file(limit):
            return main([*COMPARE, "--metric", "cka", "--out", str(tmp_path)])

    assert run(10**9) == 0
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    capsys.readouterr()
    assert run(size) == 2
    assert capsys.readouterr().err == (
        f"save: {tmp_path / refused} could not be written (File too large); nothing was changed. "
        "Free some space or choose another place.\n"
    )
    assert names(tmp_path) == ["cka.csv", "cka.npz", "cka.png", "report.html", "summary.json"]
    for name in (refused, "summary.json"):
        assert (tmp_path / name).read_bytes() == before[name]
    again = SimilarityMatrix.load(tmp_path / "cka.npz")  # before or after, and whole
    assert again.values.shape == (3, 3)


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "nothing-a", "nothing-b", "--data", "digits", "--out"],
        ["certify", "nothing", "--data", "digits", "--sigma", "0.25", "--out"],
        ["robustness", "--networks", "a=nothing", "--networks", "b=nothing", "--data", "digits", "--out"],
        ["augment", "--data", "digits", "--strategies", "none,flip", "--out"],
        ["demo", "--out"],
        ["train", "standard", "--data", "digits", "--out"],
    ],
)
def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    inside = tmp_path / "file" / "net.safetensors" if words[0] == "train" else tmp_path / "file"
    assert main([*words, str(inside)]) == 2
    folder = inside.parent if words[0] == "train" else inside
    expected = f"save: {folder} must be a folder; {tmp_path / 'file'} is a file. Choose another place.\n"
    assert capsys.readouterr().err == expected
    assert (tmp_path / "file").read_text() == "kept"
