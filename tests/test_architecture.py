"""One table of the directions in which folders may import each other, and what every file and name must have."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import repsim
from repsim._common.alone import ENTRIES

PACKAGE = Path(repsim.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: Slow to import, so only inside the functions that need them.
LATE = ("matplotlib", "seaborn", "pandas", "torchvision", "sklearn", "tqdm")

#: Folder -> the folders that its files may import, late imports and those for types included. Nothing else in the
#: package says so; `docs/architecture.md` has the same table for readers, and a test below holds the two together.
MAY_IMPORT = {
    "_common": set(),
    "numerics": {"_common"},
    "data": {"numerics", "_common"},
    "plots": {"_common"},
    "networks": {"data", "_common"},
    "probes": {"numerics", "_common"},
    "robustness": {"networks", "data", "numerics", "_common"},
    "metrics": {"probes", "numerics", "_common"},
    "features": {"robustness", "networks", "data", "numerics", "_common"},
    "recipes": {"metrics", "robustness", "networks", "data", "_common"},
    "similarity": {"features", "metrics", "probes", "networks", "plots", "numerics", "_common"},
    "studies": {
        "similarity",
        "recipes",
        "features",
        "metrics",
        "robustness",
        "probes",
        "networks",
        "plots",
        "data",
        "numerics",
        "_common",
    },
}
#: The package's own page names what it offers; the command line stands on top of all.
MAY_IMPORT["the page"] = {*MAY_IMPORT}
MAY_IMPORT["cli"] = {*MAY_IMPORT}
MAY_IMPORT["__main__"] = {"cli"}


def module(file: Path) -> str:
    """A file's dotted name."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(tree: ast.AST, *, everywhere: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements; without `everywhere` just those that run when the file is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or typing_only(node)
        if everywhere or not late:
            yield from statements(node, everywhere=everywhere)


def typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(file: Path, *, everywhere: bool) -> set[str]:
    """Dotted names that a file imports, of modules and of what is taken from them."""
    found = set()
    for statement in statements(ast.parse(file.read_text(encoding="utf-8")), everywhere=everywhere):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        else:
            assert statement.level == 0, f"{file.name}: imports are written in full"
            assert statement.module is not None
            found |= {statement.module} | {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


def folder(dotted: str) -> str:
    """The folder of the package that a module is in."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "the page"


def reaches(names: set[str], target: str) -> set[str]:
    return {name for name in names if name == target or name.startswith(f"{target}.")}


# --- The reader of imports itself -----------------------------------------------------------------------------


def test_the_reader_tells_late_imports_from_early_ones(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "import a.b\n"
        "from c import d as e\n"
        "if TYPE_CHECKING:\n    import f\n"
        "try:\n    import g\nexcept ImportError:\n    pass\n"
        "class K:\n    import h\n    def m(self):\n        from i import j\n"
        "def k():\n    import l\n"
    )
    early = {"a.b", "c", "c.d", "g", "h"}
    assert imported(file, everywhere=False) == early
    assert imported(file, everywhere=True) == early | {"f", "i", "i.j", "l"}
    assert reaches({"a.b", "ab"}, "a") == {"a.b"}


def test_the_files_are_found() -> None:
    found = {module(file) for file in FILES}
    assert {
        "repsim",
        "repsim.metrics",
        "repsim.metrics.alignment.cka",
        "repsim.similarity.comparison",
        "repsim.cli.main",
    } <= found


# --- Directions -----------------------------------------------------------------------------------------------


def test_folders_import_only_what_the_table_allows() -> None:
    modules = {module(file) for file in FILES}
    wrong = []
    for file in FILES:
        here = folder(module(file))
        for name in reaches(imported(file, everywhere=True), "repsim"):
            target = name if name in modules else name.rpartition(".")[0]
            there = folder(target)
            if there != here and there not in MAY_IMPORT[here]:
                wrong.append(f"{module(file)} imports {target}")
    assert sorted(set(wrong)) == []


def test_the_table_has_no_circle_and_every_folder() -> None:
    assert {folder(module(file)) for file in FILES} == set(MAY_IMPORT)
    done: set[str] = set()
    while ready := {name for name, below in MAY_IMPORT.items() if name not in done and below <= done}:
        done |= ready
    assert set(MAY_IMPORT) - done == set()


def test_the_page_on_architecture_has_the_same_table() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    told: dict[str, set[str]] = {}
    for left, right in re.findall(r"^\| (`.+?) \| (.+?) \|$", page, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", left):
            told[name] = {*told} if right == "all above" else set(re.findall(r"`(\w+)`", right))
    assert told == {name: MAY_IMPORT[name] - {"the page"} for name in told}
    assert set(MAY_IMPORT) - set(told) == {"the page", "__main__"}


def test_files_import_no_one_in_a_circle() -> None:
    """Late imports and those for types count: a circle that never bites is one all the same."""
    graph = {module(f): imported(f, everywhere=True) for f in FILES}
    edges = {a: {b for b in graph if b != a and b in names} for a, names in graph.items()}
    # A page names everything below it, and importing a file runs the page above it; that is no circle.
    edges = {a: {b for b in found if not a.startswith(f"{b}.")} for a, found in edges.items()}
    done: set[str] = set()
    while ready := {a for a, found in edges.items() if a not in done and found <= done}:
        done |= ready
    assert set(edges) - done == set()


def test_slow_packages_are_imported_where_they_are_used() -> None:
    early = {module(file): imported(file, everywhere=False) for file in FILES}
    assert [(file, name) for file, names in early.items() for slow in LATE for name in reaches(names, slow)] == []


def test_importing_repsim_loads_no_slow_package() -> None:
    code = f"import json, sys, repsim; print(json.dumps([p for p in {('torch', *LATE)!r} if p in sys.modules]))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(made.stdout) == []
    assert made.stderr == ""


# --- Files and names ------------------------------------------------------------------------------------------


def test_a_file_has_one_job_that_fits_350_lines() -> None:
    texts = {module(file): file.read_text(encoding="utf-8") for file in FILES}
    assert [name for name, text in texts.items() if len(text.splitlines()) > 350] == []
    assert [name for name, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []


def test_no_folder_is_crowded_and_no_file_hides() -> None:
    folders = {file.parent for file in FILES}
    counts = {path: sum(entry.name not in ("__pycache__", "py.typed") for entry in path.iterdir()) for path in folders}
    assert {module(path / "__init__.py"): count for path, count in counts.items() if count > 15} == {}
    hidden = [module(file) for file in FILES if file.name.startswith("_") and not file.name.startswith("__")]
    assert hidden == []


def test_the_package_knows_its_own_entries() -> None:
    """What else lies in the folder is another distribution's."""
    assert {entry.name for entry in PACKAGE.iterdir()} - {"__pycache__", "py.typed"} == ENTRIES


def test_no_file_is_called_as_the_public_function_in_it() -> None:
    """Or `import repsim.x.f as f` would give now the file and now the function."""
    for file in FILES:
        if file.name == "__init__.py":
            page = importlib.import_module(module(file))
            below = {entry.stem for entry in file.parent.iterdir() if entry.suffix == ".py" or entry.is_dir()}
            shadowed = {name for name in below & set(vars(page)) if not isinstance(vars(page)[name], ModuleType)}
            # `repsim.cli:main` is what the installed command has always called.
            assert shadowed <= ({"main"} if module(file) == "repsim.cli" else set()), module(file)


def test_the_public_names_exist_and_are_sorted() -> None:
    assert len(set(repsim.__all__)) == len(repsim.__all__)
    assert repsim.__all__ == sorted(repsim.__all__, key=lambda name: (name.islower(), name))
    for name in repsim.__all__:
        assert getattr(repsim, name) is not None
    assert {name for name in dir(repsim) if not name.startswith("_")} == set(repsim.__all__) - {"__version__"}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"\Amodule 'repsim' has no attribute 'frobnicate'\Z"):
        repsim.frobnicate  # noqa: B018  # type: ignore[attr-defined]


def test_what_editors_see_is_what_is_imported() -> None:
    """The page imports its names when they are asked for; the imports for types say the same to a type checker."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if typing_only(node))
    seen = {
        alias.name: statement.module
        for statement in statements(block, everywhere=True)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    pages = {name: page for page, names in repsim._PAGES.items() for name in names}
    modules = {name: place.rpartition(".")[0] for name, place in repsim._MODULES.items()}
    assert seen == {**pages, **modules}
    assert set(seen) == set(repsim.__all__) - {"__version__"}
    for name, place in repsim._MODULES.items():
        assert getattr(repsim, name) is importlib.import_module(place)
    for name, page in pages.items():
        assert getattr(repsim, name) is getattr(importlib.import_module(page), name)


@pytest.mark.parametrize("name", [name for name in repsim.__all__ if name != "__version__"])
def test_public_names_say_what_they_take_and_give(name: str) -> None:
    thing = getattr(repsim, name)
    text = inspect.getdoc(thing)
    assert text
    if isinstance(thing, ModuleType) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        return
    takes = [p for p in inspect.signature(thing).parameters if p != "self"]
    sections = {"Args:", "Attributes:"} & set(text.splitlines())
    assert len(sections) == 1
    described = text.split(sections.pop(), 1)[1].split("\n\n")[0]
    for parameter in takes:
        assert f"\n    {parameter}: " in described, parameter
    if not inspect.isclass(thing):
        assert "Returns:" in text.splitlines()
    else:
        for method, function in inspect.getmembers(thing, inspect.isroutine):
            if not method.startswith("_") and method in vars(thing) and method != "forward":
                assert inspect.getdoc(function), method
