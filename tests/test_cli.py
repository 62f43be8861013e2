"""The command line: what it writes and prints, and one line for every mistake."""

import contextlib
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repsim import SimilarityMatrix, metrics
from repsim._files import sha256_of
from repsim.cli import main
from repsim.demo import Demo
from repsim.metrics import METRICS, Cross
from repsim.metrics.cka import CKA
from repsim.similarity import versions

ROOT = Path(__file__).parents[1]
STANDARD = str(ROOT / "data" / "digits_standard.safetensors")
PGD = str(ROOT / "data" / "digits_pgd.safetensors")
DIGITS = ["--data", "digits", "--limit", "120"]
BLOCKS = ["--layers", "layer*.*"]


@dataclass(frozen=True)
class Run:
    """What one command left behind."""

    code: int
    out: str
    err: str
    folder: Path


def ran(folder: Path, *arguments: str) -> Run:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["compare", *arguments, "--out", str(folder)])
    return Run(code, out.getvalue(), err.getvalue(), folder)


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
    return sorted(path.name for path in folder.iterdir())


# --- compare --------------------------------------------------------------------------------------------------


def test_a_comparison_writes_its_files_and_nothing_else(pair: Run) -> None:
    assert pair.code == 0
    assert names(pair.folder) == [
        "cka.csv",
        "cka.npz",
        "cka.png",
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
        assert made.definition == metric
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
    assert lines[-1] == (f"written to {pair.folder}: cka.{{npz,csv,png}}, td_folds=3.{{npz,csv,png}}, summary.json")
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
    def cross(self: CKA, rows: list[Any], cols: list[Any]) -> Cross:
        values = torch.zeros(len(rows), len(cols), dtype=torch.float64)
        return Cross(values, cautions=("mind the gap", "and the step"))

    monkeypatch.setattr(CKA, "cross", cross)
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, *BLOCKS, "--metric", "cka")
    assert found.code == 0
    head = "caution: compare digits_standard × digits_pgd, cka: "
    assert found.err.splitlines() == [f"{head}mind the gap.", f"{head}and the step."]
    facts = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert facts["results"][0]["cautions"] == ["mind the gap", "and the step"]


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
def test_a_matrix_without_a_number_is_summed_up_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cross(self: CKA, rows: list[Any], cols: list[Any]) -> Cross:
        values = torch.full((len(rows), len(cols)), torch.nan, dtype=torch.float64)
        reasons = {(i, j): "no reason" for i in range(len(rows)) for j in range(len(cols))}
        return Cross(values, reasons=reasons)

    monkeypatch.setattr(CKA, "cross", cross)
    found = ran(tmp_path, STANDARD, PGD, *DIGITS, *BLOCKS, "--metric", "cka")
    assert found.code == 0
    (result,) = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["results"]
    assert (result["min"], result["max"], result["matched_mean"]) == (None, None, None)
    assert result["cells_without_number"] == 9
    assert names(tmp_path) == ["cka.csv", "cka.npz", "cka.png", "summary.json"]


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
        return Demo({}, {}, (out / "a.png", out / "a.npz", out / "b.png"), "a table\nand its reading")

    monkeypatch.setattr("repsim.demo.run", run)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert asked == [tmp_path]
    assert capsys.readouterr().out == (
        f"a table\nand its reading\n\nwritten to {tmp_path}: a.png, b.png, and 3 files in all\n"
    )


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("layers", "compare", "heatmap", "metrics", "demo"))


# --- Mistakes -------------------------------------------------------------------------------------------------

COMPARE = ["compare", STANDARD, PGD, *DIGITS, *BLOCKS]

MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown metric": (
        [*COMPARE, "--metric", "ckaa"],
        "metric: the metric must be known; got 'ckaa'. Close matches: cka, ",
    ),
    "unknown setting": (
        [*COMPARE, "--metric", "cka(seed=1)"],
        "metric: settings must be name=value; got 'cka(seed=1)' (no setting 'seed'; there are debiased). "
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
        "digits_standard.safetensors, which carries None. Pass normalize=None.",
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
    assert not (tmp_path / "out").exists()
    assert names(tmp_path) == []


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
    monkeypatch.setattr(CKA, "cross", lambda self, rows, cols: Cross(values))
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
    assert names(tmp_path) == ["cka.csv", "cka.npz", "cka.png", "summary.json"]
    for name in (refused, "summary.json"):
        assert (tmp_path / name).read_bytes() == before[name]
    again = SimilarityMatrix.load(tmp_path / "cka.npz")  # before or after, and whole
    assert again.values.shape == (3, 3)


def test_an_output_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main([*COMPARE, "--metric", "cka", "--out", str(tmp_path / "file" / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"save: {tmp_path / 'file' / 'out' / 'cka.npz'} could not be written (")
    assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "in the way"
