"""A run's folder as one HTML file: what to take away, maps, pictures, tables, protocol. It asks no network."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from repsim._common.files import write_text
from repsim._common.messages import message
from repsim._common.provenance import versions
from repsim.similarity.matrix import SimilarityMatrix
from repsim.studies.report.cells import BESIDE, colours, script_json, shown_data
from repsim.studies.report.run_files import RunFiles, Table, read_run
from repsim.studies.report.takeaways import takeaways

#: What the page is called in the run's folder.
NAME = "report.html"

#: Bytes of pictures that a page holds; what is beyond stays beside it.
_PICTURES = 4_000_000

_HERE = Path(__file__).parent

#: Verb -> what the page is called.
_TITLES = {
    "compare": "Two networks, layer by layer",
    "robustness": "Standard and robust networks",
    "augment": "Augmentation strategies",
    "demo": "Standard and robust networks on digits",
}


def write_page(
    folder: str | Path, *, waiting: Mapping[str, Path] | None = None, verb: str = "", command: str = ""
) -> Path:
    """Writes `report.html` into a folder of results, from the files that are there.

    Args:
        folder: What `--out` of a verb named.
        waiting: Name -> path of files that a running verb has written and not yet put into the folder.
        verb: Whose run it is, where its list does not say yet.
        command: The words that began it, where its list does not say yet.

    Returns:
        The file.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No results in it, or damaged ones.
    """
    folder = Path(folder)
    path = folder / NAME
    found = read_run(folder, waiting or {})
    run = {"verb": verb, "command": command} if waiting else found.run
    write_text(path, html_of(replace(found, run={name: told for name, told in run.items() if told != ""})))
    return path


def write_index(folders: Sequence[str | Path], path: str | Path) -> Path:
    """Writes a page that names several runs, with their first lines and links to their pages.

    Args:
        folders: Each with its `report.html`.
        path: Where to.

    Returns:
        The file.

    Raises:
        ValueError: No folder, or a path inside a run's folder that is its own page.
    """
    path = Path(path)
    if not folders:
        raise ValueError(message("report", "there must be a folder", "none", "Pass the --out of a run"))
    if any(path.absolute() == (Path(folder) / NAME).absolute() for folder in folders):
        raise ValueError(message("report", "--index must be a file of its own", str(path), "Choose another name"))
    runs = [read_run(Path(folder), {}) for folder in folders]
    entries = [
        {
            "name": str(run.folder),
            "link": quote(os.path.relpath(run.folder / NAME, path.absolute().parent).replace(os.sep, "/")),
            "title": _title(run),
            "takeaways": takeaways(run),
        }
        for run in runs
    ]
    write_text(path, _rendered({"title": "Results", "index": entries, "maps": []}))
    return path


def html_of(run: RunFiles) -> str:
    """The page of a run, as text."""
    left = _PICTURES
    pictures: dict[str, str] = {}
    for name, picture in run.pictures.items():
        size = picture.stat().st_size
        if size <= left:
            left -= size
            pictures[name] = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    maps = shown_data(run.matrices)
    own = {f"{finding.name}.png" for finding in run.findings} | {f"{name[:-4]}.png" for name in run.matrices}
    left_over = {name: source for name, source in pictures.items() if name not in own}
    facts = dict(run.facts)
    context = {
        "title": _title(run),
        "takeaways": takeaways(run),
        "unfinished": run.run.get("finished") is False,
        "maps": [_map(k, entry, run.matrices, pictures) for k, entry in enumerate(maps)],
        "findings": [
            {
                "title": f.title,
                "reading": f.reading,
                "picture": pictures.get(f"{f.name}.png"),
                "file": f"{f.name}.png",
                "alt": f"{f.title} {f.reading[0] if f.reading else ''}",
                "tables": f.tables,
                "protocol": _json(f.protocol),
            }
            for f in run.findings
        ],
        "pictures": [{"source": source, "file": name, "alt": _alt(name, run)} for name, source in left_over.items()],
        "tables": run.tables,
        "text": run.text,
        "left_out": [name for name in run.pictures if name not in pictures],
        "facts": _short_facts(run),
        "protocol": _json(facts) if facts else "",
        "data": script_json({"colours": colours(), "maps": maps}),
    }
    return _rendered(context)


def _rendered(context: Mapping[str, Any]) -> str:
    """The template with its style and script inside, which alone may run: by their digests."""
    from jinja2 import Environment
    from markupsafe import Markup

    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (_HERE / "page.html").read_text(encoding="utf-8")
    )
    inlined = {"style": Markup(style), "script": Markup(script), "data": Markup(context.get("data", "{}"))}
    allowed = {"style_digest": _digest(style), "script_digest": _digest(script)}
    return template.render({**context, **inlined, **allowed})


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _title(run: RunFiles) -> str:
    known = "compare" if run.matrices else "augment" if {"strategies", "checkpoints"} & set(run.facts) else ""
    return _TITLES.get(run.run.get("verb", known), "Results")


def _map(
    number: int, entry: Mapping[str, Any], matrices: Mapping[str, SimilarityMatrix], pictures: Mapping[str, str]
) -> dict[str, Any]:
    """What stands around one interactive heatmap: its pictures for who runs no script, cautions, matched layers."""
    measures = []
    for measure in entry["measures"]:
        matrix = matrices[f"{measure['name']}.npz"]
        measures.append(
            {
                "title": measure["title"],
                "name": measure["name"],
                "metric": matrix.metric,
                "cautions": matrix.cautions,
                "picture": pictures.get(f"{measure['name']}.png"),
                "alt": f"Heatmap of {measure['title']}, {entry['rowModel']} by {entry['colModel']}",
                "table": matched_table(matrix),
            }
        )
    sides = f"{entry['rowModel']} × {entry['colModel']}"
    return {
        "number": number,
        "sides": sides,
        "measures": measures,
        "blocks": any(m["blocks"] for m in entry["measures"]),
    }


def matched_table(matrix: SimilarityMatrix) -> Table:
    """Layers that correspond, with the value and what stands beside it."""
    known = [name for name in BESIDE if name in matrix.details]
    rows = []
    for row, col, value in matrix.matched():
        cell = matrix.rows.index(row), matrix.cols.index(col)
        beside = [_number(float(matrix.details[name][cell])) for name in known]
        rows.append((row, col, _number(value), *beside))
    head = ("row layer", "column layer", "value", *known)
    return Table(f"{matrix.definition.title}: layers that correspond", head, tuple(rows), len(rows))


def _number(value: float) -> str:
    return "" if value != value else f"{value:.4g}"


def _alt(name: str, run: RunFiles) -> str:
    """What a picture without a text of its own shows."""
    shown = name.removesuffix(".png").replace("-", " ").replace("_", " ")
    sides = dict.fromkeys(f"{m.row_model} × {m.col_model}" for m in run.matrices.values())
    return f"Picture {shown}" + (f": {', '.join(sides)}" if sides else "")


def _short_facts(run: RunFiles) -> list[tuple[str, str]]:
    """What a reader asks first: command, images, networks, versions."""
    facts = [("command", run.run.get("command", "not recorded"))]
    data = run.facts.get("data")
    if isinstance(data, dict) and {"name", "n", "digest"} <= set(data):
        facts.append(("images", f"{data['name']}, {data['n']:,}, digest {str(data['digest'])[:12]}"))
    elif data:
        facts.append(("images", str(data)))
    for name in ("networks", "groups"):
        given = run.facts.get(name)
        if isinstance(given, dict):
            facts.append((name, "; ".join(_network(key, told) for key, told in given.items())))
    made = run.facts.get("versions") or run.run.get("versions") or versions()
    facts.append(("versions", ", ".join(f"{key} {value}" for key, value in made.items())))
    return facts


def _network(name: str, told: Any) -> str:
    if isinstance(told, list):
        return f"{name}: {', '.join(map(str, told))}"
    digest = told.get("sha256", told.get("digest")) if isinstance(told, dict) else None
    return f"{name} (sha256 {str(digest)[:12]})" if digest else str(name)


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False, default=str)
