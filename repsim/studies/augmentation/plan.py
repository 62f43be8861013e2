"""What a study of augmentation strategies asks: `read_plan` reads and checks it, `strategy` is one row of it.

A file such as

    data = "digits"
    seeds = 5

    [settings]
    epochs = 20

    [strategies]
    none = "none"
    flip = "flip"

    [tasks]
    parity = {even = [0, 2, 4, 6, 8], odd = [1, 3, 5, 7, 9]}
    unseen = {held_out = [8, 9]}
    other = {data = "mnist"}

trains five networks by each of three strategies, all of them without eights and nines, and asks them about three tasks
besides the classes they were trained on. A file names what the package knows; a strategy of one's own, as in
"package.module:function", comes from the caller: on the command line, or in the `changes` of `read_plan`.
"""

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repsim._common.messages import did_you_mean, message, some
from repsim._common.references import known_name
from repsim.data.image_set import ImageSet
from repsim.data.load import load_data
from repsim.data.named import NAMED
from repsim.networks.recorded import known_architecture
from repsim.recipes import Recipe
from repsim.recipes.standard import Standard
from repsim.studies.augmentation.strategies import KINDS, Strategy, strategy

__all__ = ["Plan", "PlannedTask", "Strategy", "read_plan", "strategy"]


@dataclass(frozen=True)
class PlannedTask:
    """A downstream task beside the training labels; one of the three is given.

    Attributes:
        groups: Group -> the classes it is made of: coarser labels.
        held_out: Classes that no network is trained on, to be told apart.
        data: Another data set, whose own images and labels are asked about.
    """

    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    held_out: tuple[int, ...] = ()
    data: str = ""


@dataclass(frozen=True)
class Plan:
    """A study of strategies: what is trained, on which images, and what the networks are asked.

    Attributes:
        data: As `load_data` takes it; a folder of images must have train/ and test/.
        strategies: At least one, with different names.
        seeds: One network of each strategy for each.
        preset: Whose network and schedule all strategies share: "digits", "mnist" or "cifar10".
        architecture: A name that `load_model` knows; None is the preset's.
        settings: Settings that differ from the preset, such as epochs.
        layers: What is compared, as `extract` takes it; None is the study's own choice.
        limit: Train on this many images, classes in proportion; None is all.
        size: Folders of images: resize the shorter side and crop the centre.
        root: Where data sets are kept; None as for `load_data`.
        threads: Of each training on a CPU. The last bits of the weights may depend on it, so it is a part of the plan,
            while the number of trainings at once is not.
        tasks: Name -> what the networks are asked besides the training labels.
    """

    data: str
    strategies: tuple[Strategy, ...]
    seeds: tuple[int, ...]
    preset: str
    architecture: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    layers: str | tuple[str, ...] | None = None
    limit: int | None = None
    size: int | None = None
    root: Path | None = None
    threads: int = 1
    tasks: Mapping[str, PlannedTask] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Mapping[str, Any], *, where: str = "the plan") -> "Plan":
        """A plan from the keys of a strategy file, checked.

        Args:
            table: The keys; strategies may be functions as well as texts. A key that is None counts as not given.
            where: What errors call it.

        Returns:
            The plan.

        Raises:
            ValueError: An unknown or a missing key, a value out of its range, an unknown strategy or setting.
            TypeError: A value of another type.
        """
        return _Reader(where).plan({key: value for key, value in table.items() if value is not None})

    def recipe(self, strategy: Strategy) -> Recipe:
        """The recipe of one of the strategies."""
        settings = dict(self.settings)
        architecture = settings.pop("architecture", self.architecture)
        if self.architecture not in (None, architecture):
            got, advice = f"{self.architecture!r} and, in settings, {architecture!r}", "Leave one of them out"
            raise ValueError(message("plan", "the architecture must be named once", got, advice))
        return strategy.recipe_for(self.preset, architecture, **settings)

    @property
    def held_out(self) -> tuple[int, ...]:
        """The classes that no network is trained on, over all tasks."""
        return tuple(sorted({c for task in self.tasks.values() for c in task.held_out}))

    def images(self, *, download: bool = False) -> tuple[ImageSet, ImageSet]:
        """The images to train on and to test on, with held-out classes still in them."""
        train, test = load_data(
            self.data,
            split=("train", "test"),
            limit=(self.limit, None),
            root=self.root,
            size=self.size,
            download=download,
        )
        unknown = sorted(set(self.held_out) - set(train.labels.tolist()))
        if unknown or len(train.labels.unique()) - len(self.held_out) < 2:
            got = f"class {unknown[0]} that no image has" if unknown else f"{some(map(str, self.held_out))}"
            advice = "Hold out other classes"
            raise ValueError(message("plan", "held-out classes must leave two of the data's classes", got, advice))
        return train, test


def read_plan(path: str | Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a strategy file.

    Args:
        path: A TOML file with the keys of `Plan`; `data` and `strategies` must be there. `seeds` is how many, or a
            list of them, and 5 where nothing is said.
        changes: Keys that shall differ from the file, as a command line gives them; None leaves one as it is.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No TOML, an unknown key, a value out of its range.
        TypeError: A value of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(message("plan", "the strategy file must exist", str(path), "Check the path"))
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table = toml.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # what is no UTF-8, and tables inside tables without end
        advice = 'Write, say, data = "digits" and a table [strategies]'
        raise ValueError(message("plan", f"{path} must be TOML", str(error), advice)) from error
    given = {k: v for k, v in (changes or {}).items() if v is not None}
    _check_names({k: v for k, v in table.items() if k not in given}, path)
    return Plan.of({**table, **given}, where=str(path))


def _check_names(table: Mapping[str, Any], path: Path) -> None:
    """What a file names of data, networks and strategies the package knows: the rest would be imported, and so run."""
    caller = "Write what is your own on the command line, as in --strategies mine=package.module:function"
    strategies = table.get("strategies")
    for text in strategies.values() if isinstance(strategies, Mapping) else ():
        for part in text.split("+") if isinstance(text, str) else ():
            if ":" in part and part.partition(":")[0].strip() not in KINDS:
                known_name(part.strip(), KINDS, "plan", what="strategy", path=path, caller=caller)
    tasks = table.get("tasks")
    asked = (
        [task.get("data") for task in tasks.values() if isinstance(task, Mapping)] if isinstance(tasks, Mapping) else []
    )
    for data in (table.get("data"), *asked):
        if isinstance(data, str) and ":" in data and data.partition(":")[0] not in ("imagefolder", "text"):
            caller = "Write what is your own on the command line, as in --data package.module:function"
            known_name(data, (*NAMED, "imagefolder:PATH"), "plan", what="data set", path=path, caller=caller)
    settings = table.get("settings")
    inside = settings.get("architecture") if isinstance(settings, Mapping) else None
    for name in (table.get("architecture"), inside):
        if isinstance(name, str) and name:
            caller = "Write what is your own on the command line, as in --architecture package.module:function"
            known_architecture(name, "plan", path=path, caller=caller)


@dataclass(frozen=True)
class _Reader:
    """Makes a plan from what a file or a command line says."""

    where: str

    def plan(self, table: Mapping[str, Any]) -> Plan:
        known = [setting.name for setting in dataclasses.fields(Plan)]
        for name in table:
            if name not in known:
                raise self.wrong("keys must be known", repr(name), did_you_mean(name, known))
        data = self.text(table, "data")
        if not data:
            raise self.wrong("data must be given", "none", 'Write, say, data = "digits"')
        preset = self.text(table, "preset") or (data if data in Standard.PRESETS else "")
        if not preset:
            advice = f"Write preset = one of {', '.join(Standard.PRESETS)}"
            raise self.wrong(f"preset must be given for data {data!r}", "none", advice)
        settings = self.table(table, "settings")
        made = Plan(
            data,
            self.strategies(self.table(table, "strategies")),
            self.seeds(table.get("seeds", 5)),
            preset,
            self.text(table, "architecture") or None,
            settings,
            self.layers(table.get("layers")),
            self.count(table, "limit"),
            self.count(table, "size"),
            Path(str(table["root"])) if "root" in table else None,
            self.count(table, "threads") or 1,
            {name: self.task(name, value) for name, value in self.table(table, "tasks").items()},
        )
        for one in made.strategies:
            made.recipe(one)
        return made

    def strategies(self, table: Mapping[str, Any]) -> tuple[Strategy, ...]:
        if not table:
            raise self.wrong("strategies must be given", "none", 'Write, say, [strategies] and flip = "flip"')
        return tuple(strategy(self.spec(name, spec), name=name) for name, spec in table.items())

    def spec(self, name: str, value: Any) -> Any:
        if isinstance(value, str) or callable(value):
            return value
        must = f"strategy {name!r} must be a text or a function"
        raise self.wrong(must, f"{value!r}", 'Write, say, flip = "flip"', kind=TypeError)

    def seeds(self, value: Any) -> tuple[int, ...]:
        seeds = tuple(range(value)) if type(value) is int else tuple(value) if isinstance(value, list | tuple) else ()
        if not seeds or not all(type(s) is int and s >= 0 for s in seeds) or len(set(seeds)) < len(seeds):
            advice = "Write seeds = 5, or a list of them"
            raise self.wrong("seeds must be a number >= 1 or different integers >= 0", f"{value!r}", advice)
        return seeds

    def layers(self, value: Any) -> str | tuple[str, ...] | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
            return tuple(value)
        advice = 'Write layers = "layer*" or a list of names'
        raise self.wrong("layers must be names of layers", f"{value!r}", advice, kind=TypeError)

    def task(self, name: str, value: Any) -> PlannedTask:
        if isinstance(value, dict) and set(value) == {"data"} and isinstance(value["data"], str):
            return PlannedTask(data=value["data"])
        lists = isinstance(value, dict) and all(
            isinstance(v, list | tuple) and v and all(type(c) is int and c >= 0 for c in v) for v in value.values()
        )
        if not lists or not (set(value) == {"held_out"} or len(value) > 1):
            advice = f'Write, say, {name} = {{low = [0, 1], high = [2]}}, {{held_out = [8, 9]}} or {{data = "mnist"}}'
            raise self.wrong(f"task {name!r} must be groups of classes, held_out or data", f"{value!r}", advice)
        groups = {group: tuple(classes) for group, classes in value.items()}
        listed = [c for classes in groups.values() for c in classes]
        if len(set(listed)) < len(listed) or len(listed) < 2:
            got = f"{value!r}"
            raise self.wrong(f"task {name!r} must name at least two classes, each once", got, "Correct the classes")
        return PlannedTask(held_out=groups["held_out"]) if set(groups) == {"held_out"} else PlannedTask(groups)

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise self.wrong(f"{key} must be a text", f"{value!r}", "Put it in quotes", kind=TypeError)
        return value

    def table(self, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(f"{key} must be a table", f"{value!r}", f"Write [{key}] and its lines", kind=TypeError)
        return value

    def count(self, table: Mapping[str, Any], key: str) -> int | None:
        value = table.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise self.wrong(f"{key} must be an integer >= 1", f"{value!r}", "Correct it")
        return value

    def wrong(self, must: str, got: str, do: str, *, kind: type[Exception] = ValueError) -> Exception:
        return kind(message("plan", f"{must} in {self.where}", got, do))
