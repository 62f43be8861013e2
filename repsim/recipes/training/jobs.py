"""Many trainings: what is missing is trained, several networks at once, and kept file by file."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim._common.references import THIS_PROCESS
from repsim.data.image_set import ImageSet
from repsim.networks.weight_files import read_checkpoint
from repsim.recipes.training.loop import train
from repsim.recipes.training.recipe import Recipe
from repsim.recipes.training.workers import one_line, share_out


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        label: What the record calls the way in which it is trained; networks of one label differ in their seed.
        seed: Of all that is random in its training.
        recipe: What trains it.
        path: Its checkpoint; the file exists once it is trained.
        held_out: Classes it is neither trained nor scored on.
        threads: Of its training on a CPU.
    """

    label: str
    seed: int
    recipe: Recipe
    path: Path
    held_out: tuple[int, ...] = ()
    threads: int = 1

    @property
    def name(self) -> str:
        """The label and the seed."""
        return f"{self.label}, seed {self.seed}"

    @property
    def state(self) -> Path:
        """The file that its unfinished training goes on from."""
        return self.path.with_suffix(".state")

    @property
    def epochs(self) -> int:
        """Passes over the images, over all stages."""
        return sum(stage.epochs for stage in self.recipe.stages())


def missing(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose network is still to be trained."""
    return [job for job in jobs if not job.path.exists()]


def run_jobs(
    jobs: Sequence[Job],
    train: ImageSet,
    test: ImageSet,
    *,
    parallel: int | None = None,
    device: str = "cpu",
    progress: bool = True,
    save_every: float = 60.0,
) -> None:
    """Trains the networks that are missing; the weights do not depend on how many are trained at once.

    Each network is a file that is whole or not there. A training that is interrupted, by whatever means, goes on
    from its last state when this is called again.

    Args:
        jobs: The trainings.
        train: The images; held-out classes are left out here.
        test: For the scores in the checkpoints.
        parallel: Trainings at once, each in a process of its own, or 1 for none beside this one. None is as many as
            the cores, or the GPUs, have room for.
        device: "cpu", or "cuda" for all GPUs in turn.
        progress: Show one bar of all epochs when it takes more than two seconds.
        save_every: Seconds between two states of a training at least.

    Raises:
        ValueError: A network in the folder that was trained in another way, which stays as it is; a function of the
            main script or a notebook, which other processes cannot reach, and `parallel` above 1.
        RuntimeError: Trainings that failed, by label and seed; the others are done.

    Cost:
        The trainings, over the number of processes; about three seconds for a process to start. The images are kept
        once in each process.
    """
    work = _Training(tuple(missing(jobs)), *_kept(jobs, train, test), device, save_every)
    for job in jobs:
        if job.path.exists():
            _check(job, work.train[job.held_out])
            job.state.unlink(missing_ok=True)
    left = work.jobs
    if not left:
        return
    processes = _processes(left, parallel, device)
    done, reasons = [0] * len(left), dict[int, str]()
    cause: Exception | None = None
    with progress_bar(sum(job.epochs for job in left), f"train {len(left)} networks", "epoch", show=progress) as bar:

        def report(number: int, epoch: int) -> None:
            bar.update(epoch - done[number])
            done[number] = epoch

        if processes > 1:
            share_out(work, len(left), processes=processes, report=report, failed=reasons.__setitem__)
        else:
            for number in range(len(left)):
                try:
                    work(number, 0, lambda epoch, number=number: report(number, epoch))
                except Exception as error:
                    reasons[number], cause = one_line(error), cause or error
    if reasons:
        first = min(reasons)
        more = f" ({len(reasons) - 1} more failed)" if len(reasons) > 1 else ""
        got = f"for {left[first].name}: {reasons[first]}{more}"
        advice = f"{len(left) - len(reasons)} of {len(left)} were trained and stay; run again to train the rest"
        raise RuntimeError(message("run_jobs", "every network must be trained to its end", got, advice)) from cause


def time_estimate(
    jobs: Sequence[Job], train: ImageSet, test: ImageSet, *, parallel: int | None = None, device: str = "cpu"
) -> float:
    """Seconds that the missing networks will take, from a few timed steps of each recipe.

    Args:
        jobs: The trainings.
        train: The images.
        test: For the scores.
        parallel: As in `run_jobs`.
        device: As in `run_jobs`.

    Returns:
        Seconds, from the beginning of all trainings that have not ended; the start of processes is not counted.

    Cost:
        Eight steps and the scores of 64 images for each recipe.
    """
    left = missing(jobs)
    if not left:
        return 0.0
    sets = dict(zip(("train", "test"), _kept(left, train, test), strict=True))
    one_of_each = {repr(job.recipe): job for job in left}
    seconds = {
        recipe: _timed(job, sets["train"][job.held_out], sets["test"][job.held_out], device)
        for recipe, job in one_of_each.items()
    }
    each = [seconds[repr(job.recipe)] for job in left]
    return max(max(each), sum(each) / _processes(left, parallel, device))


@dataclass(frozen=True)
class _Training:
    """The work that processes share; each piece is a job."""

    jobs: tuple[Job, ...]
    train: Mapping[tuple[int, ...], ImageSet]  # by the classes left out
    test: Mapping[tuple[int, ...], ImageSet]
    device: str
    save_every: float

    def __call__(self, number: int, place: int, report: Callable[[int], None]) -> None:
        job = self.jobs[number]
        device = f"cuda:{place % torch.cuda.device_count()}" if self.device == "cuda" else self.device
        with _threads(job.threads):
            made = train(
                job.recipe,
                self.train[job.held_out],
                self.test[job.held_out],
                seed=job.seed,
                name=job.name,
                resume=job.state,
                save_every=self.save_every,
                device=device,
                progress=False,
                after_epoch=report,
            )
        made.record["strategy"] = job.label
        made.save(job.path)
        job.state.unlink(missing_ok=True)
        report(job.epochs)


def _kept(
    jobs: Sequence[Job], train: ImageSet, test: ImageSet
) -> tuple[dict[tuple[int, ...], ImageSet], dict[tuple[int, ...], ImageSet]]:
    """The images without the classes that jobs leave out."""

    def without(data: ImageSet, classes: tuple[int, ...]) -> ImageSet:
        kept = ~torch.isin(data.labels, torch.tensor(classes, dtype=torch.int64))
        return data.take(kept.nonzero().flatten()) if classes else data

    wanted = {job.held_out for job in jobs}
    return {held: without(train, held) for held in wanted}, {held: without(test, held) for held in wanted}


def _check(job: Job, train: ImageSet) -> None:
    """A network that is there must be the one this job would train."""
    record = read_checkpoint(job.path).record
    settings = json.loads(json.dumps(dataclasses.asdict(job.recipe)))
    asked = {"recipe": job.recipe.name, **settings, "seed": job.seed, "train images": train.digest}
    found = {"recipe": record.get("recipe"), **record.get("settings", {}), "seed": record.get("seed")}
    found["train images"] = record.get("data", {}).get("train_digest")
    for name in {**asked, **found}:
        if asked.get(name) != found.get(name):
            must = "networks in the folder must be of this study"
            got = f"{job.path} with {name}={found.get(name)} for {asked.get(name)}"
            raise ValueError(message("run_jobs", must, got, "Choose another folder, or the settings it was made with"))


def _processes(left: Sequence[Job], parallel: int | None, device: str) -> int:
    """How many trainings at once."""
    if parallel is not None and parallel < 1:
        raise ValueError(message("run_jobs", "parallel must be >= 1", f"{parallel}", "Leave it out, or pass 1"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(message("run_jobs", "device must be there", "cuda, and no GPU", 'Pass device="cpu"'))
    near = ("__main__:", THIS_PROCESS)
    local = [job for job in left if any(x in job.recipe.augment + "+" + job.recipe.architecture for x in near)]
    if local and parallel is None:
        return 1
    if local and parallel is not None and parallel > 1:
        must = "functions must be importable from other processes"
        advice = "Move it to a module of its own, or pass parallel=1"
        raise ValueError(message("run_jobs", must, f"one of this process alone in {local[0].name}", advice))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = torch.cuda.device_count() if device == "cuda" else cores // max(job.threads for job in left)
    return min(parallel or max(1, room), len(left))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The threads of PyTorch: sums in another number of parts end in other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(job: Job, data: ImageSet, test: ImageSet, device: str) -> float:
    """Seconds of one training, from its second epoch on a few images and the scores of a few."""
    size = job.recipe.batch_size
    few = data.take(torch.linspace(0, len(data) - 1, min(len(data), 4 * size)).long())
    asked = test.take(torch.linspace(0, len(test) - 1, min(len(test), 64)).long())
    stamps: list[float] = []
    with _threads(job.threads):
        train(
            dataclasses.replace(job.recipe, epochs=2, decay_epochs=()),
            few,
            asked,
            seed=job.seed,
            name=job.name,
            device=device,
            progress=False,
            after_epoch=lambda _: stamps.append(time.perf_counter()),
        )
    stamps.append(time.perf_counter())
    step = (stamps[2] - stamps[1]) / max(1, len(few) // size)
    return step * job.epochs * max(1, len(data) // size) + (stamps[3] - stamps[2]) * len(test) / len(asked)
