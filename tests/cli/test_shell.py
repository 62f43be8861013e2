"""What a person at a shell meets: examples, silence on request, JSON for other programs, tables that fit."""

import io
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from repsim.cli.main import _parser, main
from repsim.cli.tables import print_table
from repsim.cli.verbs import EXAMPLES, VERBS
from tests.support.commands import PGD, STANDARD, ran

USUAL = (STANDARD, PGD, "--data", "digits", "--limit", "60", "--layers", "layer*.0", "--metric", "cka")


@pytest.mark.parametrize("name", VERBS)
def test_help_ends_with_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "\nexamples:\n" in shown
    for line in EXAMPLES[name]:
        assert f"\n  {line}" in shown
        words = shlex.split(line)
        assert words[:2] == ["repsim", name]
        assert _parser(words[1:]).parse_args(words[1:]).verb == name


def test_quiet_prints_nothing_and_writes_all(tmp_path: Path) -> None:
    found = ran("compare", tmp_path, *USUAL, "--quiet")
    assert (found.code, found.out, found.err) == (0, "", "")
    assert found.names == ["cka.csv", "cka.npz", "cka.png", "report.html", "summary.json"]
    assert "TQDM_DISABLE" not in os.environ
    wrong = ran("compare", tmp_path, STANDARD, PGD, "--data", "digits", "--metric", "nothing", "--quiet")
    assert wrong.code == 2
    assert wrong.out == ""
    assert "nothing" in wrong.err


def test_json_is_the_summary_and_nothing_else(tmp_path: Path) -> None:
    found = ran("compare", tmp_path, *USUAL, "--json")
    assert found.code == 0
    assert json.loads(found.out) == found.summary
    assert json.loads(found.out)["results"][0]["metric"] == "cka"


def test_a_run_keeps_its_command_and_its_page(tmp_path: Path) -> None:
    found = ran("compare", tmp_path, *USUAL)
    assert found.out.splitlines()[-1].endswith("summary.json, report.html")
    facts = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    command = shlex.join(["repsim", "compare", *USUAL, "--out", str(tmp_path)])
    assert facts["command"] == command
    assert "report.html" in facts["files"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "--limit 60 --layers" in page
    first = page.count("<canvas")
    assert first == 1
    assert main(["report", str(tmp_path)]) == 0  # anew, from the files alone
    again = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert again == page


def test_a_page_that_fails_costs_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("rows")

    monkeypatch.setattr("repsim.studies.report.write_page", fails)
    found = ran("compare", tmp_path, *USUAL)
    assert found.code == 0
    assert found.names == ["cka.csv", "cka.npz", "cka.png", "summary.json"]
    page = tmp_path / "report.html"
    assert found.err == f"caution: {page} was not written ('rows'); repsim report {tmp_path} makes it anew\n"


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_tables_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    head = ["metric", "layers", "least", "most", "closest pair"]
    row = [
        "cka(deconfounded='inputs')",
        "27 × 27",
        "0.0123",
        "0.9876",
        "features.stage1.block.0 ~ features.stage2.block.1",
    ]
    print_table(head, [row])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for number in ("27 × 27", "0.0123", "0.9876"):
        assert number in terminal.getvalue()
    assert (row[-1] in terminal.getvalue()) == (width == 200)
    if width < 200:
        assert re.search(r"…[^\n]*block\.1", terminal.getvalue())


def test_tables_in_files_are_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(["a", "b"], [["x" * 50, "y" * 50]])
    assert capsys.readouterr().out.splitlines()[2] == f"{'x' * 50}  {'y' * 50}"
