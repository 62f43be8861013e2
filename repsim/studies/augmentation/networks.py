"""The networks that a judgement is made of: trained here, or found elsewhere."""

import dataclasses
import glob
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from repsim._common.messages import message, some
from repsim.data.image_set import ImageSet
from repsim.data.load import load_data
from repsim.networks.load import load_model
from repsim.networks.network import Network
from repsim.networks.weight_files import read_checkpoint
from repsim.recipes import RECIPES
from repsim.recipes.training.jobs import Job, run_jobs
from repsim.studies.augmentation.features import Task
from repsim.studies.augmentation.plan import Plan
from repsim.studies.common.group_checks import check_sizes


def jobs(plan: Plan, folder: str | Path) -> list[Job]:
    """The trainings of a plan, strategy by strategy, each with its file FOLDER/STRATEGY/seed-N.safetensors.

    Args:
        plan: The study.
        folder: Where its networks are kept. Characters of a strategy that are unsafe in file names become "-".

    Returns:
        One job for each strategy and seed.

    Raises:
        ValueError: Two strategies whose folders would be the same.
    """
    taken: dict[str, str] = {}
    found = []
    for strategy in plan.strategies:
        name = re.sub(r"[^\w.+=,-]", "-", strategy.name, flags=re.ASCII).strip(".") or "-"
        if name.lower() in taken:  # some file systems do not tell cases apart
            got = f"{taken[name.lower()]!r} and {strategy.name!r}"
            raise ValueError(message("plan", "strategies must have folders of their own", got, "Rename one of them"))
        taken[name.lower()] = strategy.name
        for seed in plan.seeds:
            path = Path(folder) / name / f"seed-{seed}.safetensors"
            found.append(Job(strategy.name, seed, plan.recipe(strategy), path, plan.held_out, plan.threads))
    return found


def networks_of(
    plan: Plan,
    folder: str | Path,
    train: ImageSet,
    test: ImageSet,
    *,
    parallel: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, list[Network]]:
    """The networks of every strategy of a plan; those that are not in the folder yet are trained.

    Args:
        plan: The study.
        folder: Where its networks are kept, as FOLDER/STRATEGY/seed-N.safetensors.
        train: Of `plan.images()`.
        test: The other one.
        parallel: Trainings at once, each in a process of its own; 1 trains in this process, None takes what the cores
            have room for.
        device: Where to train, as in "cuda".
        progress: Show one bar of all epochs when it takes more than two seconds.

    Returns:
        Strategy -> its networks, in the order of the plan's seeds.

    Raises:
        ValueError: Networks in the folder that were trained in another way; they stay as they are.
        RuntimeError: A training that failed; the others are done.
    """
    work = jobs(plan, folder)
    run_jobs(work, train, test, parallel=parallel, device=device, progress=progress)
    networks: dict[str, list[Network]] = {strategy.name: [] for strategy in plan.strategies}
    for job in work:
        networks[job.label].append(_read(job).to(device))
    return networks


def tasks_of(plan: Plan, *, download: bool = False) -> dict[str, Task]:
    """The tasks of a plan as `judge` takes them; another data set is limited as the plan's own is.

    Args:
        plan: The study.
        download: Fetch a data set that is not there.
    """
    found: dict[str, Task] = {}
    for name, task in plan.tasks.items():
        if task.data:
            found[name] = load_data(
                task.data,
                split=("train", "test"),
                limit=(plan.limit, None),
                root=plan.root,
                size=plan.size if task.data.startswith("imagefolder") else None,
                download=download,
            )
        else:
            found[name] = task.held_out or task.groups
    return found


def trained_networks(patterns: Mapping[str, str], load: Callable[[Path], Network]) -> dict[str, list[Network]]:
    """Loads the networks of each strategy.

    Args:
        patterns: Strategy -> a glob of weight files.
        load: Makes a network of a file.

    Returns:
        Strategy -> its networks, by number and name.

    Raises:
        FileNotFoundError: A pattern that no file matches.
        ValueError: Fewer than two files of a strategy, or unequally many: pairs of networks and their standard errors
            could not be held against each other.
    """
    files = {name: _files(name, pattern) for name, pattern in patterns.items()}
    lacking = _lacking(files)
    advice, missing = "Train the missing ones, or name equally many", ""
    if lacking:
        missing = f"; missing: {some([str(path) for _, path in lacking])}"
        advice = f"Train them, as in: {_command(*lacking[0])}"
    check_sizes("augment", {name: len(paths) for name, paths in files.items()}, advice=advice, missing=missing)
    networks = {}
    for strategy, paths in files.items():
        stems = [path.stem for path in paths]
        names = stems if len(set(stems)) == len(stems) else [f"{path.parent.name}/{path.stem}" for path in paths]
        networks[strategy] = [load(path) for path in paths]
        for network, name in zip(networks[strategy], names, strict=True):
            network.name = name
    return networks


def _read(job: Job) -> Network:
    """A job's network; what it is built by is the job's to say, as a file's record must not name code."""
    return load_model(job.recipe.architecture, checkpoint=job.path, name=job.path.stem)


def _files(strategy: str, pattern: str) -> list[Path]:
    found = [Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
    if not found:
        must = f"--checkpoints {strategy}=… must name weight files"
        raise FileNotFoundError(message("augment", must, f"none by {pattern}", "Check the pattern; quote its stars"))
    return sorted(found, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(path))])


def _lacking(files: Mapping[str, list[Path]]) -> list[tuple[Path, Path]]:
    """(A file of the same strategy, the file that is not there) where others have one of that name."""
    most = max(map(len, files.values()))
    stems = {path.stem: None for paths in files.values() for path in paths}
    return [
        (paths[0], paths[0].with_stem(stem))
        for paths in files.values()
        for stem in stems
        if len(paths) < most and stem not in {path.stem for path in paths}
    ]


def _command(sibling: Path, missing: Path) -> str:
    """How to train a network like one that is there."""
    record = read_checkpoint(sibling).record
    number = re.search(r"\d+$", missing.stem)
    if str(record.get("recipe")) not in RECIPES or not isinstance(record.get("settings"), dict) or number is None:
        return f"the training of {sibling}, with another seed"
    kind = RECIPES[record["recipe"]]
    usual = {setting.name: setting.default for setting in dataclasses.fields(kind)}
    changed = {name: value for name, value in record["settings"].items() if _plain(usual.get(name)) != value}
    words = ["repsim", "train", record["recipe"]]
    source = str(record.get("data", {}).get("train", "DATA")).removesuffix("/train")
    threads = record.get("cost", {}).get("threads", 1)
    words += ["--data", source, "--preset", "digits"]
    for name, value in changed.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--threads", f"{threads}", "--seed", f"{int(number.group())}", "--out", str(missing)]
    return shlex.join(words)


def _plain(value: object) -> object:
    """As a file gives it back."""
    return list(value) if isinstance(value, tuple) else value
