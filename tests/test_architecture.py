"""The directions in which the package's files may import each other, and what every file and name must have."""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import repsim

PACKAGE = Path(repsim.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: Slow to import, so only inside the functions that need them.
LATE = ("matplotlib", "seaborn", "pandas", "torchvision", "sklearn", "tqdm")


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


def reaches(names: set[str], target: str) -> set[str]:
    return {name for name in names if name == target or name.startswith(f"{target}.")}


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


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


@pytest.mark.parametrize("file", [f for f in FILES if module(f).startswith("repsim.metrics")], ids=name_of)
def test_metrics_know_only_tensors(file: Path) -> None:
    names = imported(file, everywhere=True)
    for target in ("models", "extraction", "data", "imagefolder", "checkpoints", "architectures", "activations"):
        assert not reaches(names, f"repsim.{target}"), target
    for target in ("plots", "similarity", "recipes", "attacks", "demo", "cli", "_files"):
        assert not reaches(names, f"repsim.{target}"), target


@pytest.mark.parametrize("file", [f for f in FILES if module(f).startswith("repsim.plots")], ids=name_of)
def test_plots_know_only_results(file: Path) -> None:
    own = ("repsim._common.messages", "repsim.networks.layers", "repsim.plots")
    found = ("similarity", "ridge", "disagreement", "data", "smoothing", "blocks")
    results = tuple(f"repsim.{name}" for name in found)  # as types alone
    for everywhere, allowed in ((False, own), (True, own + results)):
        ours = reaches(imported(file, everywhere=everywhere), "repsim")
        assert [name for name in ours if not any(reaches({name}, target) for target in allowed)] == []


@pytest.mark.parametrize("file", [f for f in FILES if module(f) != "repsim.__main__"], ids=name_of)
def test_nothing_imports_the_command_line(file: Path) -> None:
    names = imported(file, everywhere=True)
    assert not reaches(names, "repsim.cli.main")
    assert not reaches(names, "repsim.__main__")


def test_only_what_stands_on_top_imports_recipes_and_the_demo() -> None:
    users = {module(f) for f in FILES if reaches(imported(f, everywhere=True), "repsim.recipes")}
    below = {m for m in users if not m.startswith(("repsim.recipes", "repsim.studies"))}
    assert below <= {"repsim.cli.demo", "repsim.cli.train"}
    users = {module(f) for f in FILES if reaches(imported(f, everywhere=True), "repsim.studies")}
    below = {m for m in users if not m.startswith("repsim.studies")}
    assert below <= {"repsim.cli.robustness", "repsim.cli.augment", "repsim.cli.main"}
    assert {module(f) for f in FILES if reaches(imported(f, everywhere=True), "repsim.cli.demo")} <= {"repsim.cli.main"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_slow_packages_are_imported_where_they_are_used(file: Path) -> None:
    early = imported(file, everywhere=False)
    assert [name for package in LATE for name in reaches(early, package)] == []


def test_importing_repsim_loads_no_slow_package() -> None:
    code = f"import json, sys, repsim; print(json.dumps([p for p in {LATE!r} if p in sys.modules]))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert set(json.loads(made.stdout)) <= {"tqdm"}  # small, and torch may bring it
    assert made.stderr == ""


def test_files_import_no_one_in_a_circle() -> None:
    graph = {module(f): imported(f, everywhere=False) for f in FILES}
    edges = {a: {b for b in graph if b != a and b in names} for a, names in graph.items()}
    # The package's own page names everything below it; that is no circle.
    edges = {a: {b for b in found if not a.startswith(f"{b}.")} for a, found in edges.items()}
    done: set[str] = set()
    while ready := {a for a, found in edges.items() if a not in done and found <= done}:
        done |= ready
    assert set(edges) - done == set()


# --- Files and names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_has_one_job_that_fits_350_lines(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    assert ast.get_docstring(ast.parse(text))


def test_the_public_names_exist_and_are_sorted() -> None:
    assert len(set(repsim.__all__)) == len(repsim.__all__)
    assert repsim.__all__ == sorted(repsim.__all__, key=lambda name: (name.islower(), name))
    for name in repsim.__all__:
        assert getattr(repsim, name) is not None
    public = {n for n, v in vars(repsim).items() if not n.startswith("_") and not isinstance(v, ModuleType)}
    assert public <= set(repsim.__all__)


@pytest.mark.parametrize("name", repsim.__all__)
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
