"""What the documentation says of the code is what the code says."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import repsim
from repsim.metrics import METRICS
from tests.support.places import ROOT


def test_the_table_of_measures_is_the_codes_own() -> None:
    script = [sys.executable, "docs/make_measures.py", "--check"]
    assert subprocess.run(script, cwd=ROOT, check=False).returncode == 0, "run: python docs/make_measures.py"


def test_the_readme_lists_every_measure() -> None:
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(METRICS)


def test_every_name_of_the_package_that_the_pages_use_exists() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    used = {
        name for page in pages for name in re.findall(r"\brepsim\.([a-z_]+)\b(?!/)", page.read_text(encoding="utf-8"))
    }
    known = {name for name in used if hasattr(repsim, name) or importlib.util.find_spec(f"repsim.{name}")}
    assert used - known == set()


def test_everything_that_the_pages_and_notebooks_import_is_there() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for page in pages:
        for place, names in re.findall(r"from (repsim[\w.]*) import ([\w, ]+)", page.read_text(encoding="utf-8")):
            module = importlib.import_module(place)
            assert [name for name in names.split(", ") if not hasattr(module, name)] == [], f"{page.name}: {place}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "benchmarks/README.md",
    ]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")
def test_the_ten_lines_of_the_readme_show_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    code = re.findall(
        r"^## Ten lines\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    exec(code[0].replace("limit=500", "limit=100"), {})
    assert (tmp_path / "td.png").stat().st_size > 5_000
    assert "layer3.0" in capsys.readouterr().out
