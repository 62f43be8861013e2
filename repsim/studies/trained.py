"""From a plan to what `judge` takes: its networks, trained where they are missing, and its tasks."""

from pathlib import Path

from repsim.data import ImageSet, load_data
from repsim.models import Network, load_model
from repsim.studies._asked import Task
from repsim.studies._jobs import jobs, run_jobs
from repsim.studies.strategies import Plan


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
        networks[job.strategy.name].append(load_model(job.path).to(device))
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
            fit, asked = (
                load_data(
                    task.data,
                    split=split,
                    limit=plan.limit if split == "train" else None,
                    root=plan.root,
                    size=plan.size if task.data.startswith("imagefolder") else None,
                    download=download,
                )
                for split in ("train", "test")
            )
            found[name] = fit, asked
        else:
            found[name] = task.held_out or task.groups
    return found
