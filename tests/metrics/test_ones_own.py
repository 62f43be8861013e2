"""A measure of one's own works wherever a name does, keeps its facts, and is refused in one line where it fails."""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch

import repsim
from repsim import Activations, SimilarityMatrix, metrics
from repsim.cli import main
from repsim.metrics import METRICS, Metric, MetricFacts, PairwiseResult, TaskMetric, get_metric, metric_name
from repsim.metrics.alignment.cka import CKA
from repsim.metrics.facts import Invariance
from tests.conftest import exactly
from tests.support.places import ROOT

N = 16

#: A measure as a user writes it: the share of distances between rows that both layers put in the same order.
SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from repsim.metrics import Metric, PairwiseResult


@dataclass(frozen=True)
class SameOrder(Metric):
    """Share of pairs of distances that both layers put in the same order."""

    power: float = 1.0

    kind: ClassVar[Literal["similarity", "distance"]] = "similarity"
    self_value: ClassVar[float] = 1.0
    cost: ClassVar[str] = "the square of the pairs of rows"
    title = "same order"
    meaning = "1: the same distances are the longer ones"
    source = "made up for a test"
    bounds = (0.0, 1.0)
    invariances = frozenset({"orthogonal", "scale", "shift"})

    def prepare(self, layers, labels):
        signs = []
        for x in layers:
            d = torch.pdist(x.double()) ** self.power
            signs.append(torch.sign(d[:, None] - d[None, :]).flatten())
        return signs

    def pairwise(self, rows, cols):
        return PairwiseResult(torch.stack([torch.stack([(a == b).double().mean() for b in cols]) for a in rows]))
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from; what was imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_a_user.py").write_text(SOURCE, encoding="utf-8")
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def module(place: Path) -> ModuleType:
    import of_a_user  # type: ignore[import-not-found]  # written above

    return of_a_user


def sides() -> tuple[Activations, Activations]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, N, 4))
    labels = np.arange(N) % 2
    a = Activations.from_arrays({"x": x, "y": y}, labels=labels, name="one")
    return a, Activations.from_arrays({"x": x + 0.5 * y, "y": y}, labels=labels, name="two")


def order(x: torch.Tensor, y: torch.Tensor) -> float:
    """The same measure with numpy."""
    signs = []
    for z in (x.numpy(), y.numpy()):
        i, j = np.triu_indices(len(z), 1)
        d = np.sqrt(((z[i] - z[j]) ** 2).sum(1))
        signs.append(np.sign(d[:, None] - d[None, :]))
    return float((signs[0] == signs[1]).mean())


def test_it_works_everywhere_that_a_name_does(module: ModuleType, tmp_path: Path) -> None:
    a, b = sides()
    metric, name = module.SameOrder(), "of_a_user:SameOrder"
    made = repsim.compare(a, b, metric)
    expected = [[order(a[i], b[j]) for j in b] for i in a]
    np.testing.assert_allclose(made.values, expected, rtol=0, atol=1e-12)
    assert made.metric == name
    assert made.definition == metric.facts
    np.testing.assert_array_equal(repsim.compare(a, b, name).values, made.values)
    again = repsim.bootstrap(a, b, metric, resamples=20)
    np.testing.assert_array_equal(again.values, made.values)
    assert (again.details["ci_low"] <= again.details["ci_high"]).all()
    chance = repsim.permutation_test(a, b, metric, permutations=20)
    assert chance.details["p_value"].max() <= 1
    assert chance.details["p_value"][1, 1] == 1 / 21
    told = repsim.difference((a, b), (a, a), metric, resamples=20)
    assert told.values.shape == (2, 2)
    many = repsim.compare_many({"one": a, "two": b}, metric)
    assert (many.metric, many.definition, many.values[0, 0]) == (name, metric.facts, 1)
    assert made.save_picture(tmp_path / "made.png").stat().st_size > 0
    ax = repsim.heatmap(made)
    assert ax.get_title().startswith("same order")


def test_settings_stand_in_its_name(module: ModuleType) -> None:
    metric = module.SameOrder(power=2.5)
    assert metric_name(metric) == "of_a_user:SameOrder(power=2.5)"
    assert get_metric(metric_name(metric)) == metric
    assert get_metric("of_a_user:SameOrder()") == module.SameOrder() == get_metric("of_a_user:SameOrder(power=1.0)")
    assert metric_name(module.SameOrder(power=1.0)) == "of_a_user:SameOrder"


def test_a_saved_matrix_is_read_where_the_measure_is_not(module: ModuleType, tmp_path: Path) -> None:
    a, b = sides()
    made = repsim.compare(a, b, module.SameOrder(power=2.5))
    path = made.save(tmp_path / "kept" / "made.npz")
    mark = tmp_path / "kept" / "ran"
    (path.parent / "of_a_user.py").write_text(f"open({str(mark)!r}, 'w').close()\n", encoding="utf-8")
    code = (
        "import sys, repsim\n"
        "found = repsim.SimilarityMatrix.load('made.npz')\n"
        "found.save_picture('made.png')\n"
        "assert 'of_a_user' not in sys.modules\n"
        "print(found.definition)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path.parent,
        env={"PYTHONPATH": f"{ROOT}:{path.parent}", "MPLBACKEND": "Agg", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not mark.exists()
    assert eval(ran.stdout, {"MetricFacts": MetricFacts, "frozenset": frozenset}) == made.definition
    assert SimilarityMatrix.load(path).definition == made.definition


def _without_facts(facts: dict[str, Any]) -> None:
    del facts["facts"]


def _of_the_package(facts: dict[str, Any]) -> None:
    facts["metric"] = "cka"


def _of_no_bounds(facts: dict[str, Any]) -> None:
    facts["facts"]["bounds"] = [1.0, 0.0]


RULE = "facts must be given of measures of one's own, and of no other"
DAMAGED = {
    _without_facts: f"SimilarityMatrix: {RULE}; got 'of_a_user:SameOrder' without facts. "
    "Pass facts=metric.facts, or leave them out.",
    _of_the_package: f"SimilarityMatrix: {RULE}; got 'cka' with facts. Pass facts=metric.facts, or leave them out.",
    _of_no_bounds: "metric: the fact bounds must be two numbers, the lower one first; got (1.0, 0.0). Correct what the "
    "measure says of itself.",
}


@pytest.mark.parametrize("change", DAMAGED, ids=lambda change: change.__name__)
def test_a_file_whose_facts_do_not_fit_is_refused(module: ModuleType, tmp_path: Path, change: Any) -> None:
    path = repsim.compare(*sides(), module.SameOrder()).save(tmp_path / "made.npz")
    with np.load(path) as stored:
        facts, arrays = json.loads(str(stored["facts"])), {k: stored[k] for k in stored.files if k != "facts"}
    change(facts)
    np.savez(path, facts=np.array(json.dumps(facts)), **arrays)
    text = (
        f"SimilarityMatrix.load: the file must be one that save wrote; got {path} ({DAMAGED[change]}). "
        "Make it again with compare(...).save(path)."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        SimilarityMatrix.load(path)


def test_the_command_line_takes_its_place(module: ModuleType, tmp_path: Path) -> None:
    net, out = str(ROOT / "data" / "digits_standard.safetensors"), tmp_path / "out"
    words = ["compare", net, net, "--data", "digits", "--limit", "30", "--layers", "conv1", "layer1"]
    words += ["--metric", "of_a_user:SameOrder(power=0.5)", "--out", str(out)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(words) == 0
    (result,) = json.loads((out / "summary.json").read_text(encoding="utf-8"))["results"]
    assert result["metric"] == "of_a_user:SameOrder(power=0.5)"
    assert SimilarityMatrix.load(out / f"{result['file']}.npz").definition == module.SameOrder(power=0.5).facts


# --- What is refused ------------------------------------------------------------------------------------------

PLACES = {
    "of_a_user:Nothing": "package.module:function must exist; got 'of_a_user:Nothing' (module 'of_a_user' has no "
    "attribute 'Nothing'). Check the name; the module must be importable from where you run.",
    "of_a_user:torch.add": "of_a_user:torch.add must be a class of measures; got {add!r}. "
    "Name a subclass of repsim.metrics.Metric.",
    "of_a_user:SameOrder(width=2)": "settings must be name=value; got 'of_a_user:SameOrder(width=2)' "
    "(no setting 'width'; there are power). Write it as in td(seed=1, penalty=0.01).",
    "of_a_user:SameOrder(power='x')": "settings must be name=value; got \"of_a_user:SameOrder(power='x')\" "
    "(power is float, not str). Write it as in td(seed=1, penalty=0.01).",
    "of_a_user:SameOrder(2.0)": "settings must be name=value; got 'of_a_user:SameOrder(2.0)' "
    "(settings need names). Write it as in td(seed=1, penalty=0.01).",
    "of_a_user:SameOrder(**{})": "settings must be name=value; got 'of_a_user:SameOrder(**{})' "
    "(no setting '**'; there are power). Write it as in td(seed=1, penalty=0.01).",
}


@pytest.mark.parametrize("text", PLACES)
def test_places_where_no_measure_is(place: Path, text: str) -> None:
    told = PLACES[text].replace("{add!r}", f"{torch.add!r}")
    with pytest.raises(ValueError, match=exactly(f"metric: {told}")):
        get_metric(text)


@dataclass(frozen=True)
class Mine(Metric):
    """A measure that says all it must; below, each subclass spoils one thing."""

    kind: ClassVar[Any] = "distance"
    self_value: ClassVar[float] = 0.0
    cost: ClassVar[str] = "nothing"
    title: ClassVar[str] = "mine"  # type: ignore[assignment]
    meaning: ClassVar[str] = "nothing"  # type: ignore[assignment]
    source: ClassVar[str] = "here"  # type: ignore[assignment]
    bounds: ClassVar[Any] = (0.0, 2.0)  # type: ignore[assignment]
    invariances: ClassVar[Any] = frozenset()  # type: ignore[assignment]

    def prepare(self, layers: Any, labels: Any) -> list[Any]:
        return list(layers)

    def pairwise(self, rows: Any, cols: Any) -> Any:
        return PairwiseResult(torch.zeros(len(rows), len(cols), dtype=torch.float64))


def spoiled(**facts: Any) -> Metric:
    return dataclass(frozen=True)(type("Spoiled", (Mine,), {"__module__": "elsewhere", **facts}))()


SAY = "Correct what the measure says of itself."
FACTS = {
    "bounds the wrong way": ({"bounds": (1, 0)}, "bounds must be two numbers, the lower one first; got (1, 0)."),
    "no bounds": ({"bounds": None}, "bounds must be two numbers, the lower one first; got None."),
    "bounds of NaN": ({"bounds": (0, float("nan"))}, "bounds must be two numbers, the lower one first; got (0, nan)."),
    "self value outside": ({"self_value": 3.0}, "self_value must lie in the bounds; got 3.0 and (0.0, 2.0)."),
    "another kind": ({"kind": "both"}, "kind must be similarity or distance; got 'both'."),
    "symmetric in words": ({"symmetric": "yes"}, "symmetric must be True or False; got 'yes'."),
    "display outside": ({"display": (0, 9)}, "display must lie in the bounds; got (0, 9) and (0.0, 2.0)."),
    "no title": ({"title": " "}, "title must be a text; got ' '."),
    "unknown invariance": (
        {"invariances": frozenset({"time"})},
        f"invariances must be a frozenset of {', '.join(get_args(Invariance))}; got frozenset({{'time'}}).",
    ),
}


@pytest.mark.parametrize("wrong", FACTS)
def test_facts_that_contradict_themselves(wrong: str) -> None:
    facts, told = FACTS[wrong]
    with pytest.raises(ValueError, match=exactly(f"metric: the fact {told} {SAY}")):
        repsim.compare(*sides(), spoiled(**facts))


def bare() -> type[Any]:
    """A class that does not say its kind, and is no dataclass."""
    facts = {"title": "x", "meaning": "x", "source": "x", "bounds": (0, 1), "invariances": frozenset()}
    return type("Bare", (Metric,), {**facts, "prepare": Mine.prepare, "pairwise": Mine.pairwise})


def test_a_fact_that_is_missing() -> None:
    metric = dataclass(frozen=True)(bare())()
    told = (
        "metric: Bare must say all its facts; got 'Bare' object has no attribute 'kind'. "
        "See repsim.metrics.Metric for what a measure says of itself."
    )
    with pytest.raises(ValueError, match=exactly(told)):
        repsim.compare(*sides(), metric)


def test_bounds_left_out_altogether(place: Path) -> None:
    (place / "boundless.py").write_text(SOURCE.replace("    bounds = (0.0, 1.0)\n", ""), encoding="utf-8")
    told = r"\Ametric: boundless:SameOrder must be complete; got Can't instantiate [^\n]*bounds[^\n]*\. Give its "
    told += r"settings by name, and say all that repsim\.metrics\.Metric asks for\.\Z"
    with pytest.raises(ValueError, match=told):
        get_metric("boundless:SameOrder")


@pytest.mark.parametrize("name", ["TD", "cka"])
def test_the_name_of_one_of_the_package(name: str) -> None:
    own = dataclass(frozen=True)(type(name, (Mine,), {"__module__": "elsewhere", "__qualname__": name}))
    told = (
        f"metric: a measure of one's own must have a name of its own; got elsewhere:{name}, as repsim has one. "
        "Rename the class."
    )
    with pytest.raises(ValueError, match=exactly(told)):
        repsim.compare(*sides(), own())


def test_settings_that_no_name_can_say() -> None:
    @dataclass(frozen=True)
    class Weighted(Mine):
        weight: Any = None

    assert metric_name(get_metric(Weighted(("a", 1, None)))).endswith("Weighted(weight=('a', 1, None))")
    told = (
        f"metric: the setting Weighted.weight must be a plain value; got {len!r}. "
        "Take numbers, texts, and tuples of them."
    )
    with pytest.raises(ValueError, match=exactly(told)):
        repsim.compare(*sides(), Weighted(len))


def test_a_class_that_is_no_frozen_dataclass() -> None:
    told = (
        "metric: Bare must be a frozen dataclass of its settings; got another class. "
        "Write @dataclass(frozen=True) above it."
    )
    with pytest.raises(ValueError, match=exactly(told)):
        repsim.compare(*sides(), bare()())


@pytest.mark.parametrize("thing", [CKA, 3, None], ids=["a class", "a number", "None"])
def test_what_is_neither_a_name_nor_a_metric(thing: Any) -> None:
    told = (
        f"metric: a metric must be a name or a Metric; got {thing!r}. "
        "Write it as in compare(a, b, Mine()); a class becomes a metric by its brackets."
    )
    with pytest.raises(TypeError, match=exactly(told)):
        repsim.compare(*sides(), thing)


def returning(method: str, found: Any) -> Metric:
    return spoiled(**{method: lambda self, *_: found})


ONE = torch.zeros(2, 2, dtype=torch.float64)
PER_PAIR = "Return one value per pair of layers."
RESULTS = {
    "a number": (
        returning("pairwise", 0.5),
        "pairwise must return a PairwiseResult; got float. Return PairwiseResult(values).",
    ),
    "another shape": (
        returning("pairwise", PairwiseResult(ONE[:1])),
        f"values must be a float64 tensor of shape (2, 2); got (1, 2), torch.float64. {PER_PAIR}",
    ),
    "float32": (
        returning("pairwise", PairwiseResult(ONE.float())),
        f"values must be a float64 tensor of shape (2, 2); got (2, 2), torch.float32. {PER_PAIR}",
    ),
    "an array": (
        returning("pairwise", PairwiseResult(ONE.numpy())),  # type: ignore[arg-type]
        f"values must be a float64 tensor of shape (2, 2); got ndarray. {PER_PAIR}",
    ),
    "a detail of another shape": (
        returning("pairwise", PairwiseResult(ONE, {"rank": ONE[0]})),
        f"the detail 'rank' must be a tensor of shape (2, 2); got (2,), torch.float64. {PER_PAIR}",
    ),
    "NaN without a reason": (
        returning("pairwise", PairwiseResult(ONE / 0)),
        "every NaN must have a reason; got 4 NaN and 0 reasons. Say in reasons, by (row, column), why there is no "
        "number.",
    ),
    "outside the bounds": (
        returning("pairwise", PairwiseResult(ONE + 2.5)),
        "values must lie in the bounds [0, 2]; got [2.5, 2.5]. Correct the measure or its bounds.",
    ),
    "too few states": (returning("prepare", [1]), "there must be a list of 4 states; got 1. One per layer."),
    "states in a tuple": (
        returning("prepare", (1, 2, 3, 4)),
        "there must be a list of 4 states; got tuple. One per layer.",
    ),
}


@pytest.mark.parametrize("what", RESULTS)
def test_results_that_are_none(what: str) -> None:
    metric, told = RESULTS[what]
    errors = TypeError if what == "a number" else ValueError
    with pytest.raises(errors, match=exactly(f"Spoiled: {told}")):
        repsim.compare(*sides(), metric)


def test_resamples_of_another_shape() -> None:
    told = (
        "Spoiled: what bootstrapped returns must be a tensor of shape (20, 2, 2); got (2, 2), torch.float64. "
        f"{PER_PAIR}"
    )
    with pytest.raises(ValueError, match=exactly(told)):
        repsim.bootstrap(*sides(), returning("bootstrapped", ONE), resamples=20)


def test_a_parent_s_result_may_be_changed() -> None:
    """Only what leaves the measure is held to its bounds, not what it asks its parent for."""

    @dataclass(frozen=True)
    class Farther(Mine):
        bounds: ClassVar[Any] = (5.0, 6.0)
        self_value: ClassVar[float] = 5.0

        def pairwise(self, rows: Any, cols: Any) -> PairwiseResult:
            return PairwiseResult(super().pairwise(rows, cols).values + 5)

    assert (repsim.compare(*sides(), Farther()).values == 5).all()


def test_a_measure_of_answers_is_never_prepared_on_copies_of_rows() -> None:
    @dataclass(frozen=True)
    class Heads(TaskMetric):
        kind: ClassVar[Any] = "distance"
        self_value: ClassVar[float] = 0.0
        title: ClassVar[str] = "heads"  # type: ignore[assignment]
        meaning: ClassVar[str] = "nothing"  # type: ignore[assignment]
        source: ClassVar[str] = "here"  # type: ignore[assignment]
        bounds: ClassVar[Any] = (0.0, 1.0)  # type: ignore[assignment]
        invariances: ClassVar[Any] = frozenset()  # type: ignore[assignment]
        pairwise = Mine.pairwise

        def prepare_tasks(self, layers: Any, tasks: Any) -> dict[str, list[Any]]:
            return {task: list(layers) for task in tasks}

    metric = Heads()
    assert (repsim.compare(*sides(), metric).values == 0).all()
    for function, method in ((repsim.bootstrap, "bootstrapped"), (repsim.permutation_test, "permuted")):
        told = (
            f"{function.__name__}: a measure of answers must say what it is of other rows, by `{method}`; "
            f"got {metric_name(metric)} without. Define it, or use compare."
        )
        with pytest.raises(ValueError, match=exactly(told)):
            function(*sides(), metric)


def test_two_measures_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("other")
    other.METRICS = {"cka": Mine()}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other", other)
    second = type("Second", (Mine,), {"__module__": "other"})
    told = (
        "metrics: every measure must have a name of its own; got 'cka' in other and in "
        "repsim.metrics.alignment.cka. Rename one."
    )
    with pytest.raises(ValueError, match=exactly(told)):
        metrics._by_name((CKA, second))


def test_every_class_of_measures_in_the_folders_is_listed() -> None:
    """So that editors see `repsim.metrics.TD`, and no file is forgotten."""
    folder = Path(metrics.__file__).parent
    tables = [file for file in folder.rglob("*.py") if "\nMETRICS" in file.read_text("utf-8") and file.parent != folder]
    assert {type(metric).__module__ for metric in METRICS.values()} == {
        "repsim." + ".".join(file.relative_to(folder.parent).with_suffix("").parts) for file in tables
    }
    for metric in METRICS.values():
        assert getattr(metrics, type(metric).__name__) is type(metric)
        name = type(metric).__name__
        assert f" import {name} as {name}\n" in Path(metrics.__file__).read_text(encoding="utf-8")
