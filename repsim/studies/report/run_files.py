"""What a run has left in its folder: matrices, findings, pictures, tables, and what it says of itself."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repsim._common.messages import message
from repsim._common.run_folder import LIST, is_kept
from repsim.similarity.matrix import SimilarityMatrix

#: Files that are read for what they say and are no findings.
_FACTS = ("summary.json", "study.json")

#: Texts for people, of verbs that write one.
_TEXTS = ("report.txt", "reading.txt")

#: Rows of a table that the page holds.
_ROWS = 400


@dataclass(frozen=True)
class Table:
    """Rows as text.

    Attributes:
        title: Over it.
        head: Names of the columns.
        rows: The first ones.
        total: How many there are.
        file: Where all of them are; "" where these are all.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int
    file: str = ""


@dataclass(frozen=True)
class SavedFinding:
    """One analysis of a study, as its files tell it.

    Attributes:
        name: What its files are called.
        title: The question.
        reading: What the numbers say.
        protocol: All that they depend on.
        tables: Its tables.
    """

    name: str
    title: str
    reading: tuple[str, ...]
    protocol: Mapping[str, Any]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class RunFiles:
    """A folder of results, read.

    Attributes:
        folder: Where.
        run: The list of its files and how it was made; empty of runs that kept none.
        facts: summary.json and study.json, together.
        text: What the run printed for people.
        matrices: File -> matrix.
        findings: In the order in which the run names them.
        pictures: Name -> path, of all pictures.
        tables: Of no matrix and no finding.
    """

    folder: Path
    run: Mapping[str, Any]
    facts: Mapping[str, Any]
    text: str
    matrices: Mapping[str, SimilarityMatrix]
    findings: tuple[SavedFinding, ...]
    pictures: Mapping[str, Path]
    tables: tuple[Table, ...]


def read_run(folder: Path, waiting: Mapping[str, Path]) -> RunFiles:
    """Reads a run's folder.

    Args:
        folder: What `--out` named.
        waiting: Name -> path of files that a running verb has written and not yet put into the folder.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No results in it, or damaged ones.
    """
    if not folder.is_dir() and not waiting:
        advice = "Pass the --out of repsim compare, robustness, augment or demo"
        raise FileNotFoundError(message("report", "the folder must exist", str(folder), advice))
    run = _json(folder / LIST) if (folder / LIST).exists() and not waiting else {}
    files = dict(waiting) if waiting else {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    if run.get("files"):  # what else lies there is not this run's
        files = {name: path for name, path in files.items() if name in run["files"]}
    facts: dict[str, Any] = {}
    for name in _FACTS:
        facts |= _json(files[name]) if name in files else {}
    matrices = _matrices(files, {f"{part['file']}.npz" for part in facts.get("results", []) if "file" in part})
    findings = _findings(files, facts)
    own = {table.file for finding in findings for table in finding.tables}
    tables = {name: path for name, path in files.items() if name.endswith(".csv") and name not in own}
    tables = {name: path for name, path in tables.items() if f"{name[:-4]}.npz" not in matrices}
    text = "\n\n".join(files[name].read_text(encoding="utf-8", errors="replace") for name in _TEXTS if name in files)
    pictures = {name: path for name, path in files.items() if name.endswith(".png")}
    if not matrices and not findings and not pictures:
        must, advice = "the folder must hold results", "Pass the --out of repsim compare, robustness, augment or demo"
        raise ValueError(message("report", must, f"none in {folder}", advice))
    others = tuple(_table(name, path) for name, path in tables.items())
    return RunFiles(folder, run, facts, text, matrices, findings, pictures, others)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(message("report", f"{path} must be JSON", "a damaged file", "Run it again")) from error
    if not isinstance(found, dict):
        raise ValueError(message("report", f"{path} must hold facts by name", type(found).__name__, "Run it again"))
    return found


def _matrices(files: Mapping[str, Path], named: set[str]) -> dict[str, SimilarityMatrix]:
    """All matrices; those that the run names must be whole, other archives may be of something else."""
    found = {}
    for name, path in files.items():
        if name.endswith(".npz") and not is_kept(name):
            try:
                found[name] = SimilarityMatrix.load(path)
            except ValueError:
                if name in named:
                    raise
    return found


def _findings(files: Mapping[str, Path], facts: Mapping[str, Any]) -> tuple[SavedFinding, ...]:
    named = [part["name"] for part in facts.get("parts", []) if isinstance(part, dict) and "name" in part]
    names = [path[:-5] for path in files if path.endswith(".json") and path not in (*_FACTS, LIST)]
    found = []
    for name in sorted(names, key=lambda name: (named.index(name) if name in named else len(named), name)):
        told = _json(files[f"{name}.json"])
        if not {"title", "reading", "protocol"} <= set(told):
            continue
        own = [f for f in files if f.endswith(".csv") and (f == f"{name}.csv" or f.startswith(f"{name}-"))]
        tables = tuple(_table(file, files[file]) for file in sorted(own, key=len))
        reading = tuple(str(sentence) for sentence in told["reading"])
        found.append(SavedFinding(name, str(told["title"]), reading, dict(told["protocol"]), tables))
    return tuple(found)


def _table(name: str, path: Path) -> Table:
    with open(path, encoding="utf-8", newline="") as stream:
        lines = csv.reader(stream)
        head = tuple(next(lines, []))
        rows, total = [], 0
        for line in lines:
            total += 1
            if total <= _ROWS:
                rows.append(tuple(_number(cell) for cell in line))
    return Table(name.removesuffix(".csv"), head, tuple(rows), total, name)


def _number(cell: str) -> str:
    """A number in so many digits as one reads."""
    try:
        value = float(cell)
    except ValueError:
        return cell
    return cell if len(cell) <= 7 or value != value else f"{value:.4g}"
