"""The page of a run as text: what is in it, what is not, and folders that are none of a run."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from repsim.cli.main import main
from repsim.studies.report import write_index, write_page
from repsim.studies.report.cells import script_json, shown_data
from repsim.studies.report.run_files import read_run
from repsim.studies.report.takeaways import sentence, takeaways
from tests.conftest import exactly
from tests.studies.report.runs import BAD, ODD, compared, matrix, studied


class Page(HTMLParser):
    """The tags with their attributes, and the text of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(folder: Path) -> Page:
    return Page(write_page(folder).read_text(encoding="utf-8"))


def test_a_page_holds_all_of_a_run_and_asks_for_nothing(tmp_path: Path) -> None:
    page = page_of(compared(tmp_path / "run", matrix(), matrix(metric="td", seed=1)))
    assert len(page.all("script")) == 2  # the data and ours
    assert len(page.all("canvas")) == 1  # one map with a switch between both measures
    assert len(page.all("option")) == 2
    outside = [
        v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "action", "data")
    ]
    assert outside
    assert all((value or "").startswith("data:") for value in outside)
    assert all(image["alt"] for image in page.all("img"))
    policy = next(meta["content"] or "" for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    text = "\n".join(page.text)
    assert f"mind {BAD}" in text
    assert f"digits/test {BAD}, 1,000, digest 0123456789ab" in text
    assert "standard (sha256 abababababab)" in text
    assert "not recorded" in text


def test_takeaways_are_three_lines_of_the_numbers(tmp_path: Path) -> None:
    run = read_run(compared(tmp_path, matrix(), picture=False), {})
    lines = takeaways(run)
    assert len(lines) == 3
    made = matrix()
    matched = [value for *_, value in made.matched() if value == value]
    assert lines[0].startswith(
        f"CKA, debiased, standard × robust: {np.mean(matched):.3f} on average over 5 matched layers"
    )
    i, j = np.unravel_index(np.nanargmax(made.values), made.values.shape)
    assert f"most alike are {made.rows[i]} and {made.cols[j]} with {np.nanmax(made.values):.3f}; n = 1,000." in lines[0]
    inside = int((made.details["ci_low"] <= 0.1).sum())
    assert lines[1] == f"CKA, debiased: in {inside} of 35 pairs of layers the interval includes chance."
    assert lines[2] == f"CKA, debiased: 1 of 35 pairs have no number: constant {BAD}."


def test_takeaways_of_a_study_are_what_holds_groups_against_each_other(tmp_path: Path) -> None:
    run = read_run(studied(tmp_path), {})
    (finding,) = run.findings
    readings = [("a: 1.", "a less b: 2.", "b: 3."), ("a: 1.", "a × b: 4."), ("ab: 5.",)]
    run = replace(
        run, findings=tuple(replace(finding, reading=r) for r in readings), facts={"groups": {"a": [], "b": []}}
    )
    assert takeaways(run) == ["a less b: 2.", "a × b: 4.", "ab: 5."]
    run = replace(run, findings=(replace(finding, reading=("same", "same", "more")),), facts={})
    assert takeaways(run) == ["same", "more"]


def test_takeaways_of_one_network_and_of_nothing() -> None:
    alone = matrix(2, 2, col_model="standard", details={}, values=np.array([[1.0, 0.2], [0.4, 1.0]]))
    assert sentence(alone) == "CKA, debiased, standard × standard: 0.300 on average over different layers; n = 1,000."
    nothing = matrix(2, 2, details={}, values=np.full((2, 2), np.nan))
    assert sentence(nothing) == "CKA, debiased, standard × robust: no cell has a number."


def test_a_study_has_its_sentences_pictures_tables_and_protocol(tmp_path: Path) -> None:
    page = page_of(studied(tmp_path / "study"))
    text = "\n".join(page.text)
    for part in ("Standard and robust networks", "First.", f"Second {BAD}.", f"Where? {BAD}", "standard: a, b"):
        assert part in text
    assert "This run did not come to its end" in text
    assert [image["alt"] for image in page.all("img")] == [f"Where? {BAD} First."]
    assert len(page.all("table")) == 2
    assert len(page.all("script")) == 2


def test_a_page_that_a_running_verb_makes_names_verb_and_command(tmp_path: Path) -> None:
    folder = compared(tmp_path / "run", matrix(), picture=False)
    waiting = {path.name: path for path in folder.iterdir()}
    page = Page(write_page(tmp_path / "out", waiting=waiting, verb="demo", command="repsim demo").read_text("utf-8"))
    assert "Standard and robust networks on digits" in page.text
    assert "repsim demo" in page.text


def test_a_folder_of_an_older_version_has_its_pictures_tables_and_text(tmp_path: Path) -> None:
    folder = studied(tmp_path / "old")
    for name in ("run.json", "summary.json", "over_seeds.json"):
        (folder / name).unlink()
    (folder / "reading.txt").write_text(f"Where?\n  First {BAD}.\n  Second.\n\nMore?\n  Third.\n  Fourth.\n")
    assert takeaways(read_run(folder, {})) == [f"First {BAD}.", "Second.", "Third."]
    page = page_of(folder)
    assert "Results" in page.text
    assert [image["alt"] for image in page.all("img")] == ["Picture over seeds"]
    assert len(page.all("table")) == 2
    assert len(page.all("script")) == 2


def test_what_else_lies_in_the_folder_is_left_out(tmp_path: Path) -> None:
    folder = studied(tmp_path / "study")
    (folder / "other.csv").write_text("secret\n1\n")
    assert "secret" not in write_page(folder).read_text(encoding="utf-8")


def test_names_stay_text_wherever_they_stand(tmp_path: Path) -> None:
    odd = matrix(2, 2, rows=(ODD, "b\nc"), cols=("x" * 200, BAD), row_model=ODD, col_model=BAD)
    text = write_page(compared(tmp_path, odd, picture=False)).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 2
    assert page.all("img") == []
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["maps"][0]["rows"] == [ODD, "b\nc"]
    assert "<" not in script_json({"x": "</script><!--\u2028"})
    assert json.loads(script_json({"x": "</script>\u2028&"})) == {"x": "</script>\u2028&"}


def test_cells_are_the_values_with_what_stands_beside_them() -> None:
    made = matrix()
    (entry,) = shown_data({"cka.npz": made})
    measure = entry["measures"][0]
    shown = np.array([np.nan if v is None else v for v in measure["values"]]).reshape(5, 7)
    np.testing.assert_allclose(shown, made.values, rtol=1e-4)
    assert measure["beside"]["chance"]["values"] is None or len(measure["beside"]["chance"]["values"]) == 35
    assert measure["reasons"] == {"texts": [f"constant {BAD}"], "cells": {"1": 0}}
    nothing = matrix(300, 300, details={}, values=np.full((300, 300), np.nan))
    assert shown_data({"x.npz": nothing})[0]["measures"][0]["values"] is None


def test_a_large_comparison_stays_small(tmp_path: Path) -> None:
    made = [matrix(82, 82, metric, seed=k) for k, metric in enumerate(("cka", "td", "rsa"))]
    path = write_page(compared(tmp_path, *made, picture=False))
    assert path.stat().st_size < 6_000_000


def test_pages_of_several_runs_have_an_index(tmp_path: Path) -> None:
    folders = [compared(tmp_path / "a b", matrix(), picture=False), studied(tmp_path / "c")]
    for folder in folders:
        write_page(folder)
    page = Page(write_index(folders, tmp_path / "index.html").read_text(encoding="utf-8"))
    assert [link["href"] for link in page.all("a")] == ["a%20b/report.html", "c/report.html"]
    assert "First." in page.text
    text = f"report: --index must be a file of its own; got {folders[0] / 'report.html'}. Choose another name."
    with pytest.raises(ValueError, match=exactly(text)):
        write_index(folders, folders[0] / "report.html")


def test_folders_that_are_none_of_a_run_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    advice = "Pass the --out of repsim compare, robustness, augment or demo."
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "summary.json").write_text("{")
    expected = {
        "nothing": f"report: the folder must exist; got {tmp_path / 'nothing'}. {advice}",
        "empty": f"report: the folder must hold results; got none in {tmp_path / 'empty'}. {advice}",
        "damaged": f"report: {tmp_path / 'damaged' / 'summary.json'} must be JSON; got a damaged file. Run it again.",
    }
    for name, text in expected.items():
        assert main(["report", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.strip() == text
        assert not (tmp_path / name / "report.html").exists()


def test_a_damaged_matrix_that_the_run_names_is_refused(tmp_path: Path) -> None:
    folder = compared(tmp_path, matrix(), picture=False)
    (folder / "other.npz").write_bytes(b"not a matrix")
    write_page(folder)
    (folder / "cka.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"\ASimilarityMatrix\.load: "):
        write_page(folder)


def test_the_verb_makes_pages_and_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(studied(tmp_path / "a")), str(compared(tmp_path / "old", matrix(), picture=False))]
    index = tmp_path / "all.html"
    assert main(["report", *folders, "--index", str(index)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [f"written to {Path(f) / 'report.html'}" for f in folders] + [f"written to {index}"]
    listed = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert re.fullmatch(r"[0-9a-f]{64}", listed["files"]["report.html"])
    assert main(["report", *folders, "--index", str(index)]) == 0  # again, with its own page in the folder
