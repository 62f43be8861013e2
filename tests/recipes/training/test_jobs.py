"""The trainings of a study: files, the same weights however they are run, and what survives kills and errors."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repsim import ImageSet, load_model
from repsim.networks.weight_files import read_checkpoint
from repsim.recipes import train
from repsim.recipes.training import jobs as _jobs
from repsim.recipes.training.jobs import Job, missing, run_jobs, time_estimate
from repsim.recipes.training.workers import share_out
from repsim.studies.augmentation.networks import jobs
from repsim.studies.augmentation.plan import Plan
from tests.conftest import exactly
from tests.support.places import ROOT

ROOT = ROOT


def broken(x: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation with an error in it."""
    raise KeyError("no such thing")


def dying(x: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation whose process is killed, as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def halved(x: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation of one's own."""
    return x / 2


def plan(strategies: dict[str, Any], **changes: Any) -> Plan:
    """130 digits, two epochs, no attack for the scores."""
    settings = {"epochs": 2, "eval_eps": 0.0} | changes.pop("settings", {})
    return Plan.of({"data": "digits", "limit": 130, "strategies": strategies, "settings": settings, **changes})


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    data, test = plan({"none": "none"}).images()
    return data, test.take(range(40))


def digests(found: Sequence[Job]) -> list[str]:
    """Of the weights."""
    return [read_checkpoint(job.path).record["weights_sha256"] for job in found]


def here(found: Sequence[Job], images: tuple[ImageSet, ImageSet], **options: Any) -> list[str]:
    """Trains one network after the other in this process."""
    run_jobs(found, *images, parallel=1, progress=False, **options)
    return digests(found)


# --- What there is to do --------------------------------------------------------------------------------------


def test_each_strategy_and_seed_is_a_job_with_a_file_of_its_own(tmp_path: Path) -> None:
    names = {"none": "none", "crop:4+flip": "crop:4+flip", "a/../b c": "flip", "..": "cutout"}
    made = plan(names, seeds=[4, 2], threads=3, tasks={"unseen": {"held_out": [7, 3]}})
    found = jobs(made, tmp_path)
    assert [(job.label, job.seed) for job in found] == [(n, s) for n in names for s in (4, 2)]
    folders = ["none", "crop-4+flip", "a-..-b-c", "-"]
    assert [job.path.relative_to(tmp_path).parts for job in found] == [
        (folder, f"seed-{s}.safetensors") for folder in folders for s in (4, 2)
    ]


def test_two_strategies_of_one_folder_are_refused(tmp_path: Path) -> None:
    for pair in (("a b", "a:b"), ("Flip", "flip")):
        text = f"plan: strategies must have folders of their own; got {pair[0]!r} and {pair[1]!r}. Rename one of them."
        with pytest.raises(ValueError, match=exactly(text)):
            jobs(plan(dict.fromkeys(pair, "flip")), tmp_path)


def test_a_job_knows_all_that_its_training_depends_on(tmp_path: Path) -> None:
    made = plan({"mix": "crop:1+mixup:0.3"}, seeds=[5], threads=2, tasks={"t": {"held_out": [7, 3]}})
    (job,) = jobs(made, tmp_path)
    assert job == Job(
        made.strategies[0].name, 5, made.recipe(made.strategies[0]), tmp_path / "mix/seed-5.safetensors", (3, 7), 2
    )
    assert (job.name, job.state, job.epochs) == ("mix, seed 5", tmp_path / "mix/seed-5.state", 2)


# --- Training -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(images: tuple[ImageSet, ImageSet], tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Two strategies, two seeds, trained in this process."""
    found = jobs(plan({"none": "none", "flip": "flip"}, seeds=2), tmp_path_factory.mktemp("trained"))
    here(found, images)
    return found


def test_networks_are_those_of_train_and_say_how_they_were_made(
    images: tuple[ImageSet, ImageSet], trained: list[Job]
) -> None:
    assert len(set(digests(trained))) == 4
    assert missing(trained) == []
    assert sorted(p.name for p in trained[0].path.parent.iterdir()) == ["seed-0.safetensors", "seed-1.safetensors"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = train(trained[3].recipe, *images, seed=1, name="net", progress=False)
    torch.set_num_threads(threads)
    net = load_model(trained[3].path)
    for key, value in wanted.network.net.state_dict().items():
        assert torch.equal(net.net.state_dict()[key], value)
    record = net.provenance["record"]
    assert (record["strategy"], record["seed"], record["cost"]["threads"]) == ("flip", 1, 1)
    assert record["settings"]["augment"] == "flip"


def test_what_is_there_is_not_trained_again(
    images: tuple[ImageSet, ImageSet], trained: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, times = digests(trained), [job.path.stat().st_mtime_ns for job in trained]
    trained[1].path.unlink()
    trained[2].state.write_text("left by a kill between two files")
    assert missing(trained) == [trained[1]]
    assert here(trained, images) == before
    assert [job.path.stat().st_mtime_ns == t for job, t in zip(trained, times, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
    assert not trained[2].state.exists()
    monkeypatch.setattr(_jobs, "train", None)
    assert here(trained, images) == before
    assert time_estimate(trained, *images) == 0.0


def test_an_interrupted_training_goes_on_from_its_last_epoch(
    images: tuple[ImageSet, ImageSet], trained: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, epochs = jobs(plan({"none": "none", "flip": "flip"}, seeds=2), tmp_path), list[int]()

    def watched(*given: Any, after_epoch: Any, **options: Any) -> Any:
        def report(epoch: int) -> None:
            epochs.append(epoch)
            after_epoch(epoch)
            if epochs == [0, 1, 2, 0, 1]:
                raise KeyboardInterrupt

        return train(*given, after_epoch=report, **options)

    monkeypatch.setattr(_jobs, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        here(found, images, save_every=0)
    assert missing(found) == found[1:]
    epochs.clear()
    # The state after the first epoch stands; all else is trained from the beginning.
    assert here(found, images) == digests(trained)
    assert epochs == [1, 2, 0, 1, 2, 0, 1, 2]


def test_the_threads_of_this_process_are_put_back(images: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        run_jobs(jobs(plan({"none": "none"}, seeds=1, threads=2), tmp_path), *images, progress=False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert read_checkpoint(tmp_path / "none/seed-0.safetensors").record["cost"]["threads"] == 2


def test_held_out_classes_are_neither_trained_nor_scored_on(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, trained: list[Job]
) -> None:
    made = plan({"none": "none"}, seeds=1, tasks={"a": {"held_out": [8, 9]}, "b": {"held_out": [9, 2]}})
    found = jobs(made, tmp_path)
    here(found, images)
    record = read_checkpoint(found[0].path).record
    kept = [[i for i, y in enumerate(data.labels.tolist()) if y not in (2, 8, 9)] for data in images]
    assert record["data"]["train_digest"] == images[0].take(kept[0]).digest
    assert record["data"]["test_digest"] == images[1].take(kept[1]).digest
    assert record["num_classes"] == 8
    text = f"run_jobs: networks in the folder must be of this study; got {found[0].path} with train images="
    with pytest.raises(ValueError, match=re.escape(text)):
        run_jobs(jobs(plan({"none": "none"}, seeds=1), tmp_path), *images)


@pytest.mark.parametrize(
    ("change", "name", "found", "asked"),
    [
        ({"settings": {"epochs": 3}}, "epochs", "2", "3"),
        ({"settings": {"learning_rate": 0.05, "epochs": 4}}, "epochs", "2", "4"),
        ({"strategies": {"none": "flip"}}, "augment", "none", "flip"),
        ({"strategies": {"none": "mixup"}}, "recipe", "standard", "mixup"),
        ({"strategies": {"none": "label_noise:0.5"}}, "label_noise", "0.0", "0.5"),
    ],
)
def test_networks_of_another_study_are_refused_and_stay(
    change: dict[str, Any], name: str, found: str, asked: str, images: tuple[ImageSet, ImageSet], trained: list[Job]
) -> None:
    folder, before = trained[0].path.parents[1], trained[0].path.read_bytes()
    other = jobs(plan(**{"strategies": {"none": "none"}, "seeds": 3, **change}), folder)
    text = (
        f"run_jobs: networks in the folder must be of this study; got {trained[0].path} with {name}={found} for "
        f"{asked}. Choose another folder, or the settings it was made with."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        run_jobs(other, *images, progress=False)
    assert trained[0].path.read_bytes() == before
    assert not other[2].path.exists()


def test_a_file_of_another_seed_is_refused(
    images: tuple[ImageSet, ImageSet], trained: list[Job], tmp_path: Path
) -> None:
    (job,) = jobs(plan({"none": "none"}, seeds=[6]), tmp_path)
    job.path.parent.mkdir()
    job.path.write_bytes(trained[0].path.read_bytes())
    with pytest.raises(ValueError, match=re.escape(f"got {job.path} with seed=0 for 6. ")):
        run_jobs([job], *images)


# --- Several at once ------------------------------------------------------------------------------------------


def test_weights_do_not_depend_on_how_many_train_at_once_and_errors_leave_the_others_alone(
    images: tuple[ImageSet, ImageSet], trained: list[Job], tmp_path: Path
) -> None:
    strategies = {"none": "none", "broken": broken, "dying": dying, "flip": "flip", "halved": halved}
    found = jobs(plan(strategies, seeds=1), tmp_path)
    reason = "KeyError: 'no such thing'"
    text = (
        "run_jobs: every network must be trained to its end; got for broken, seed 0: "
        f"{reason} (1 more failed). 3 of 5 were trained and stay; run again to train the rest."
    )
    with pytest.raises(RuntimeError, match=exactly(text)):
        run_jobs(found, *images, parallel=2, progress=False)
    assert missing(found) == found[1:3]
    assert digests([found[0], found[3]]) == digests([trained[0], trained[2]])
    alone = [job for job in jobs(plan(strategies, seeds=1), tmp_path / "alone") if job.label != "dying"]
    with pytest.raises(RuntimeError, match=exactly(text.replace(" (1 more failed)", "").replace("5", "4"))) as caught:
        run_jobs(alone, *images, parallel=1, progress=False)
    assert isinstance(caught.value.__cause__, KeyError)
    assert digests(alone[-1:]) == digests(found[-1:])
    assert list(tmp_path.rglob(".*")) == []


def die_at_once(number: int, place: int, report: Any) -> None:
    """A piece of work whose process ends."""
    os._exit(7)


@pytest.mark.slow
def test_a_process_that_ends_is_named_and_so_is_what_it_leaves() -> None:
    reasons: dict[int, str] = {}
    share_out(die_at_once, 3, processes=1, report=print, failed=reasons.__setitem__)
    gone = "no process was left for it"
    assert reasons == {0: "its process ended with code 7", 1: gone, 2: gone}


def test_how_many_train_at_once_when_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = jobs(plan({"none": "none"}, seeds=20, threads=2), tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert _jobs._processes(many, None, "cpu") == 4
    assert _jobs._processes(many[:3], None, "cpu") == 3
    assert _jobs._processes(many, 6, "cpu") == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert _jobs._processes(many, None, "cpu") == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert _jobs._processes(many, None, "cuda") == 3


def test_what_cannot_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = jobs(plan({"none": "none"}, seeds=2), tmp_path)
    with pytest.raises(ValueError, match=exactly("run_jobs: parallel must be >= 1; got 0. Leave it out, or pass 1.")):
        _jobs._processes(found, 0, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = 'run_jobs: device must be there; got cuda, and no GPU. Pass device="cpu".'
    with pytest.raises(ValueError, match=exactly(text)):
        _jobs._processes(found, None, "cuda")


def test_functions_of_a_notebook_train_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "halved", halved, raising=False)
    found = jobs(plan({"mine": "__main__:halved"}, seeds=5), tmp_path)
    assert _jobs._processes(found, None, "cpu") == 1
    assert _jobs._processes(found, 1, "cpu") == 1
    text = (
        "run_jobs: functions must be importable from other processes; got one of this process alone in "
        "mine, seed 0. Move it to a module of its own, or pass parallel=1."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        _jobs._processes(found, 2, "cpu")


def test_the_estimate_counts_steps_of_each_recipe_and_scores(
    images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan({"none": "none", "flip": "flip"}, seeds=3, settings={"epochs": 50, "batch_size": 26})
    found = jobs(made, tmp_path)
    steps: list[str] = []
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    def timed(recipe: Any, data: ImageSet, *_: Any, after_epoch: Any, **__: Any) -> None:
        steps.append(f"{recipe.augment}, {recipe.epochs} epochs of {len(data)}")
        for epoch in range(3):
            after_epoch(epoch)

    monkeypatch.setattr(_jobs, "train", timed)
    monkeypatch.setattr("time.perf_counter", clock)
    # An epoch of 4 steps takes a second, and so do the scores of the 40 test images.
    each = 1 / 4 * 50 * 5 + 1
    assert time_estimate(found, *images, parallel=1) == pytest.approx(6 * each)
    assert time_estimate(found, *images, parallel=4) == pytest.approx(6 * each / 4)
    assert time_estimate(found, *images, parallel=100) == pytest.approx(each)
    assert steps[:2] == ["none, 2 epochs of 104", "flip, 2 epochs of 104"]
    assert len(steps) == 6
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_is_near_the_time_it_takes(images: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    found = jobs(plan({"none": "none"}, seeds=1, settings={"epochs": 20}), tmp_path)
    estimate = time_estimate(found, *images, parallel=1)
    here(found, images)
    cost = read_checkpoint(found[0].path).record["cost"]
    assert 0.1 < estimate / (cost["epochs"] * cost["seconds_per_epoch"]) < 10


# --- Kills ----------------------------------------------------------------------------------------------------


#: Forks a study again and again and kills it, its processes too, after a random number of epochs.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import sklearn.datasets, torch._dynamo  # once, not in every fork
from repsim.recipes.training.jobs import run_jobs
from repsim.studies.augmentation.networks import jobs
from repsim.studies.augmentation.plan import read_plan

def study(parallel):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        plan = read_plan(sys.argv[1])
        train, test = plan.images()
        run_jobs(jobs(plan, folder), train, test.take(range(40)), parallel=parallel, progress=False, save_every=0)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)

def written():
    return sorted((p.name, p.stat().st_mtime_ns) for p in folder.glob("*/seed*"))

def gone(group):
    for _ in range(1000):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False

if __name__ == "__main__":
    folder, draws = Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    for word in sys.argv[4:]:
        parallel, name = word.split(":")
        pid = os.fork() or study(int(parallel))
        if name:
            for _ in range(draws.randint(1, 8)):
                before, deadline = written(), time.monotonic() + 60
                while written() == before and time.monotonic() < deadline:
                    time.sleep(0.001)
            time.sleep(draws.uniform(0, 0.02))
            os.killpg(pid, getattr(signal, name))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(code, "all gone" if gone(pid) else "processes are left", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills whole groups of processes")
@pytest.mark.parametrize(
    "kills",
    [
        ["1:SIGKILL", "1:SIGKILL", "1:SIGKILL"],
        pytest.param(["2:SIGKILL", "2:SIGINT", "2:SIGKILL", "1:SIGINT"], marks=pytest.mark.slow),
    ],
    ids=["one process", "two processes and Ctrl-C"],
)
def test_a_study_killed_at_random_points_ends_with_the_same_weights(kills: list[str], tmp_path: Path) -> None:
    strategies, settings = {"flip": "flip+crop:1", "mix": "mixup+label_noise:0.1"}, {"epochs": 24}
    file, script, seed = tmp_path / "study.toml", tmp_path / "killer.py", random.SystemRandom().randrange(1000)
    file.write_text(
        'data = "digits"\nlimit = 130\nseeds = 2\nsettings = {epochs = 24, eval_eps = 0.0}\n[strategies]\n'
        + "".join(f'{name} = "{spec}"\n' for name, spec in strategies.items())
    )
    script.write_text(KILLER)
    command = [sys.executable, str(script), str(file), str(tmp_path / "kept"), str(seed), *kills, "1:"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=500)
    assert ended.stderr == ""
    codes = ["130" if "SIGINT" in kill else str(-signal.SIGKILL) for kill in kills]
    wanted = [f"{code} all gone" for code in [*codes, "0"]]
    assert ended.stdout.splitlines() == wanted, f"killed at the points of seed {seed}"
    made = plan(strategies, seeds=2, settings=settings)
    data, test = made.images()
    alone = here(jobs(made, tmp_path / "alone"), (data, test.take(range(40))))
    assert digests(jobs(made, tmp_path / "kept")) == alone, f"killed at the points of seed {seed}"
    assert [p.name for p in (tmp_path / "kept").glob("*/seed*") if p.suffix == ".state"] == []
