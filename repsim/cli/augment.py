"""`repsim augment`: trains networks by augmentation strategies and judges the strategies by Transferred Discrepancy."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim._common.files import write_text
from repsim._common.messages import message
from repsim.cli.arguments import add_data_options, named_network, read_tasks
from repsim.cli.tables import print_table
from repsim.cli.train import settings_of
from repsim.cli.verbs import Verb

if TYPE_CHECKING:
    from pandas import DataFrame

    from repsim.networks.network import Network
    from repsim.recipes.training.jobs import Job
    from repsim.studies.augmentation.plan import Plan

_STRATEGIES = "crop:4+flip,mine=package.module:function: strategies by text, NAME=TEXT to name one"

_CHECKPOINTS = "repeatable: judge networks that are trained already, as in flip='runs/flip-*.safetensors'"

_TASKS = 'downstream tasks beside the labels: {"life": {"animal": [2, 3], "vehicle": [0, 1]}, …}'

#: Columns of the printed table: what they are called and where they are found.
_SHOWN = {
    "accuracy": "accuracy",
    "gap": "train − test",
    "probe_accuracy": "probe acc.",
    "td": "TD",
    "td_ratio": "TD ratio",
    "error_consistency": "err. cons.",
    "td_tasks": "TD, tasks",
    "cka": "CKA",
    "floor": "floor",
    "excess": "excess",
    "outputs_disagree": "own heads",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `repsim augment` takes to its parser."""
    parser.add_argument(
        "study", nargs="?", type=Path, metavar="STUDY.toml", help="a strategy file; options override it"
    )
    parser.add_argument("--strategies", metavar="TEXT,…", help=_STRATEGIES)
    parser.add_argument("--checkpoints", action="append", default=[], metavar="STRATEGY=GLOB", help=_CHECKPOINTS)
    parser.add_argument("--seeds", metavar="N", help="networks of each strategy, or their seeds: 0,1,7; default: 5")
    parser.add_argument("--data", help='"digits", "cifar10", …, "imagefolder:PATH" with train/ and test/')
    parser.add_argument("--preset", help='network and schedule: "digits", "mnist", "cifar10"; default: those of --data')
    parser.add_argument("--architecture", help="another network; with --checkpoints, of files that do not say theirs")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of every training")
    parser.add_argument("--epochs", type=int, metavar="N", help="the same as --set epochs=N")
    parser.add_argument("--tasks", type=Path, metavar="FILE.json", help=_TASKS)
    parser.add_argument("--layers", nargs="+", metavar="GLOB", help="names or globs; default: residual blocks")
    parser.add_argument("--reduction", default="mean", help="mean (default), max, pool:K, flatten, cls, mean_tokens")
    parser.add_argument("--metric", default="td", help='TD with its settings, as in "td(resamples=0)"')
    parser.add_argument("--fit-limit", type=int, metavar="N", help="fit heads on this many training images")
    parser.add_argument("--between", action="store_true", help="also compare networks of different strategies")
    add_data_options(parser, limit="train on")
    parser.add_argument("--normalize", help="with --checkpoints: cifar10, imagenet, none, or what the file carries")
    parser.add_argument("--threads", type=int, metavar="N", help="of each training on a CPU; default: 1")
    parser.add_argument("--parallel", type=int, metavar="N", help="trainings at once; default: what the cores take")
    parser.add_argument("--device", default="cpu", help='where to train, as in "cuda"')
    parser.add_argument(
        "--dry-run", action="store_true", help="show what is done, what is missing and how long it takes"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="networks, tables, pictures, reading")


def run(arguments: argparse.Namespace) -> None:
    """Runs `repsim augment`: trains what is missing, judges, writes and prints."""
    from repsim.studies.augmentation.judging import judge
    from repsim.studies.augmentation.networks import tasks_of
    from repsim.studies.augmentation.rehearsal import rehearse

    patterns = _patterns(arguments)
    plan = _plan(arguments, patterns)
    train, test = plan.images(download=arguments.download)
    tasks = tasks_of(plan, download=arguments.download)
    layers = plan.layers if isinstance(plan.layers, str) or plan.layers is None else list(plan.layers)
    question = {"tasks": tasks, "layers": layers, "reduction": arguments.reduction}
    question |= {"metric": arguments.metric, "fit_limit": arguments.fit_limit}
    if not patterns:
        rehearse(plan, train, test, **question)
    facts: dict[str, Any] = {"data": plan.data, "tasks": {name: asdict(task) for name, task in plan.tasks.items()}}
    if patterns:
        if arguments.dry_run:
            must = "--dry-run is for networks that are to be trained"
            raise ValueError(message("augment", must, "--checkpoints", "Leave one of them out"))
        networks = _loaded(arguments, patterns)
        facts["checkpoints"] = patterns
    else:
        trained = _trained(arguments, plan, train, test)
        if trained is None:
            return
        networks, facts["strategies"], facts["seeds"] = trained, _recorded(plan), list(plan.seeds)
    judgement = judge(
        networks,
        train,
        test,
        **question,
        without=plan.held_out,
        between=arguments.between,
    )
    files = judgement.save(arguments.out)
    write_text(arguments.out / "study.json", json.dumps(facts, indent=1, default=str) + "\n")
    write_text(arguments.out / "reading.txt", f"{judgement}\n")
    _print(judgement.table)
    for strategy in plan.strategies:
        if strategy.note and not patterns:
            print(f"{strategy.name}: {strategy.note}")
    print("\n" + "\n".join(judgement.reading))
    pictures = ", ".join(file.name for file in files if file.suffix == ".png")
    print(f"\nwritten to {arguments.out}: report.html, {pictures}, and {len(files) + 3} files in all")


def _patterns(arguments: argparse.Namespace) -> dict[str, str]:
    """Strategy -> where its networks are, of --checkpoints."""
    found: dict[str, str] = {}
    for text in arguments.checkpoints:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            advice = "Write, say, flip='runs/flip-*.safetensors'"
            raise ValueError(message("augment", "--checkpoints must be STRATEGY=GLOB", repr(text), advice))
        if name in found:
            advice = "Name all its files by one pattern"
            raise ValueError(message("augment", "--checkpoints must name a strategy once", f"{name!r} twice", advice))
        found[name] = pattern
    given = [
        name for name in ("strategies", "seeds", "preset", "epochs", "parallel", "threads") if getattr(arguments, name)
    ]
    if found and (given or arguments.set):
        got = ", ".join(f"--{name}" for name in [*given, *(["set"] if arguments.set else [])])
        raise ValueError(message("augment", "--checkpoints trains nothing", got, "Leave one or the other out"))
    if arguments.normalize and not found:
        advice = "Write --set normalize=NAME for what is trained"
        raise ValueError(message("augment", "--normalize is for --checkpoints", "it alone", advice))
    return found


def _plan(arguments: argparse.Namespace, patterns: Mapping[str, str]) -> "Plan":
    """The study of the file and the options."""
    from repsim.studies.augmentation.plan import Plan, read_plan

    changes: dict[str, Any] = {name: getattr(arguments, name) for name in ("data", "preset", "architecture", "threads")}
    changes |= {name: getattr(arguments, name) for name in ("limit", "size", "root", "layers")}
    changes["strategies"] = _strategies(arguments.strategies)
    changes["seeds"] = _seeds(arguments.seeds)
    changes["tasks"] = read_tasks(arguments.tasks) if arguments.tasks else None
    if patterns:  # nothing is trained: what a plan says of training has no effect
        changes |= {"strategies": dict.fromkeys(patterns, "none"), "preset": "digits", "architecture": None}
    settings = settings_of(arguments)
    if arguments.study is None:
        if changes["strategies"] is None:
            advice = "Pass STUDY.toml, --strategies or --checkpoints"
            raise ValueError(message("augment", "there must be strategies", "none", advice))
        return Plan.of({**changes, "settings": settings}, where="the command line")
    plan = read_plan(arguments.study, changes)
    return replace(plan, settings={**plan.settings, **settings})


def _strategies(text: str | None) -> dict[str, str] | None:
    """Name -> strategy, of "none,flip,mine=package.module:function"."""
    if text is None:
        return None
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, spec = part.strip().partition("=")
        if name in found:
            advice = "Name each strategy once"
            raise ValueError(message("augment", "--strategies must differ", f"{name!r} twice", advice))
        found[name] = spec if equals else name
    return found


def _seeds(text: str | None) -> int | list[int] | None:
    """How many seeds, or which."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(message("augment", "--seeds must be numbers", repr(text), "Write 5, or 0,1,7")) from error
    return numbers if "," in text else numbers[0]


def _trained(arguments: argparse.Namespace, plan: "Plan", train: Any, test: Any) -> "dict[str, list[Network]] | None":
    """The plan's networks, after training what is missing; None where only the plan is asked for."""
    from repsim.recipes.training.jobs import missing, time_estimate
    from repsim.studies.augmentation.networks import jobs, networks_of

    if len(plan.seeds) < 2:
        advice = "TD compares pairs of networks that differ in their seed; pass --seeds 2 or more"
        raise ValueError(message("augment", "there must be two seeds", f"{len(plan.seeds)}", advice))
    folder = arguments.out / "networks"
    where = {"parallel": arguments.parallel, "device": arguments.device}
    if arguments.dry_run:
        work = jobs(plan, folder)
        left = missing(work)
        _print_plan(work, left)
        seconds = time_estimate(work, train, test, **where) if left else 0.0
        print(f"{len(left)} of {len(work)} networks are to be trained: about {_duration(seconds)}")
        return None
    return networks_of(plan, folder, train, test, **where)


def _loaded(arguments: argparse.Namespace, patterns: Mapping[str, str]) -> "dict[str, list[Network]]":
    from repsim.studies.augmentation.networks import trained_networks

    def load(path: Path) -> "Network":
        spec = str(path) if arguments.architecture is None else f"{arguments.architecture}:{path}"
        return named_network(spec, arguments.normalize).to(arguments.device)

    return trained_networks(patterns, load)


def _recorded(plan: "Plan") -> dict[str, Any]:
    """How each strategy trains."""
    return {s.name: {"recipe": s.recipe, "settings": asdict(plan.recipe(s)), "note": s.note} for s in plan.strategies}


def _print_plan(work: "Sequence[Job]", left: "Sequence[Job]") -> None:
    rows: dict[str, list[int]] = {}
    waiting = {job.path for job in left}
    for job in work:
        counts = rows.setdefault(job.label, [0, 0])
        counts[job.path in waiting] += 1
    recipes = {job.label: (job.recipe.name, str(job.epochs)) for job in work}
    head = ["strategy", "recipe", "epochs", "done", "missing"]
    print_table(head, [[name, *recipes[name], *map(str, counts)] for name, counts in rows.items()])


def _print(table: "DataFrame") -> None:
    """The table, each number with its standard error in brackets."""
    columns = {column: title for column, title in _SHOWN.items() if column in table}
    head = ["strategy", "networks", *columns.values()]
    rows = []
    for row in table.to_dict("records"):
        numbers = [_with_error(row[column], row[f"{column}_se"]) for column in columns]
        rows.append([str(row["strategy"]), str(row["networks"]), *numbers])
    print_table(head, rows)


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" + ("" if math.isnan(error) else f" ({error:.4f})")


def _duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


AUGMENT = Verb(add_arguments, run, "folder", page=True)
