"""Every number the package answers, as digests: proof that a change of its code changed no value.

    python benchmarks/values.py before.json                         on one commit
    python benchmarks/values.py after.json --against before.json    on another: prints what differs, ends with 1 if any

What is computed, on one thread and with fixed seeds:

    matrices     Two trained ResNets on 100 CIFAR-10 test images: all measures with all details, live sources,
                 intervals, permutations, differences, penalties, dimensions, tables of networks, disagreements.
    digits       Features of attacked images, probes, and `repsim compare` under an attack and a corruption.
    certify      `repsim certify` on a network that ships.
    train        A short training by every recipe: the weights, and the numbers of its record.
    augment      Two strategies, two seeds: networks, tables, protocols.
    robustness   Two groups of two networks with all analyses: tables, protocols.

A digest is of the raw bytes, so one last bit tells; beside it stand shape and first numbers, to be read. Texts, times,
versions and paths are left out. Another machine, or another version of a library, gives other last bits: take both
files on the same one. Only public names and the command line are used, so one copy of this script serves both commits.

The ResNets and images are sought in a folder `shared` beside the repository, or in --shared. Without them there are no
matrices, which is said.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before the libraries that read it; processes started here inherit it

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import repsim
from repsim.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]
STANDARD, PGD = (str(ROOT / f"data/digits_{name}.safetensors") for name in ("standard", "pgd"))
WEIGHTS = {20: "checkpoints/resnet20-12fca82f.th", 56: "checkpoints/resnet56-4bfd9763.th"}
ARCHIVE = "data/cifar10-jpeg.tar.xz"
#: Images of each class.
PER_CLASS = 10
#: Recipe -> settings that make it short; all train two epochs.
RECIPES: dict[str, dict[str, int]] = {
    "standard": {},
    "pgd": {},
    "trades": {},
    "fast": {},
    "free": {"replays": 2},
    "noise": {"certify_images": 10},
    "macer": {"certify_images": 10, "warmup_epochs": 1, "copies": 4},
    "noisy_pretraining": {"certify_images": 10, "finetune_epochs": 1},
    "mixup": {},
    "cutmix": {},
}
#: Words in the names of fields and columns that are no result.
NO_RESULT = {"seconds", "time", "date", "versions", "version", "path", "provenance"}

Found = dict[str, dict[str, Any]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json", help="where the digests go")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="digests to compare with")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="default: beside the repository")
    args = parser.parse_args()
    before = None if args.against is None else json.loads(args.against.read_text())
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", repsim.CautionWarning)
    found: Found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Iterator[tuple[str, np.ndarray]]]] = {
            "matrices": lambda: matrices(args.shared, folder),
            "digits": lambda: digits(folder),
            "certify": lambda: certificates(folder),
            "train": lambda: trainings(folder),  # before the study, which asks the networks
            "augment": lambda: augmentation(folder),
            "robustness": lambda: robustness(folder),
        }
        for part, run in parts.items():
            start = time.perf_counter()
            count = len(found)
            for name, array in run():
                assert f"{part}/{name}" not in found, f"{part}/{name} came twice"
                found[f"{part}/{name}"] = digest(array)
            print(f"{part}: {len(found) - count} digests, {time.perf_counter() - start:.0f} s", flush=True)
    args.out.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
    return 0 if before is None else report(before, found)


def report(before: Found, after: Found) -> int:
    """Prints each name that differs; 1 if there is one."""
    count = 0
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            count += 1
            print(f"DIFFERS {name}: {shown(old)} -> {shown(new)}")
    same = len(before.keys() | after.keys()) - count
    print(f"{same} equal, {count} differ")
    return 1 if count else 0


def shown(entry: dict[str, Any] | None) -> str:
    return "absent" if entry is None else f"{entry['sha256'][:12]} {entry['shape']} {entry['first']}"


def digest(array: np.ndarray) -> dict[str, Any]:
    """Of type, shape and bytes; and the first numbers."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)  # one NaN is as good as another
    array = np.ascontiguousarray(array)
    head = f"{array.dtype.str} {array.shape} ".encode()
    first = [x if math.isfinite(x) else str(x) for x in array.ravel()[:3].tolist()]
    return {
        "sha256": hashlib.sha256(head + array.tobytes()).hexdigest(),
        "shape": list(array.shape),
        "first": first,
    }


def numbers(value: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of all numbers in a result, whatever it is made of; texts have none."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, pd.DataFrame):
        value = {str(column): value[column].to_numpy() for column in value}
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if not f.name.startswith("_")}
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not NO_RESULT & set(re.split(r"[^a-z]+", str(key).lower())):
                yield from numbers(part, f"{name}/{key}")
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "biuf":
            yield name, value
    elif isinstance(value, bool | int | float):
        yield name, np.array(value)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(x, bool | int | float) for x in value):
            yield name, np.array(value)
        else:
            for place, part in enumerate(value):
                yield from numbers(part, f"{name}/{place}")


def together(value: Any, name: str) -> tuple[str, np.ndarray]:
    """All numbers of a record as one digest, with the names that they stand under."""
    lines = [f"{key} {array.tolist()}" for key, array in sorted(numbers(value, ""), key=lambda pair: pair[0])]
    return name, np.frombuffer("\n".join(lines).encode(), np.uint8)


def matrices(shared: Path, folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    missing = [name for name in (*WEIGHTS.values(), ARCHIVE) if not (shared / name).is_file()]
    if missing:
        print(f"NOT COMPUTED: {', '.join(missing)} missing under {shared}, so there are no matrices; see --shared")
        return
    images = cifar(shared / ARCHIVE, folder / "cifar")
    nets = {
        depth: repsim.load_model(f"resnet{depth}", checkpoint=shared / file, normalize="imagenet")
        for depth, file in WEIGHTS.items()
    }
    a, b = (repsim.extract(net, images, layers="layer*.*", reduction="mean", progress=False) for net in nets.values())
    yield from numbers({"resnet20": a, "resnet56": b}, "extract")
    for metric in METRICS:
        yield from numbers(repsim.compare(a, b, metric), f"compare/{metric}")
    yield from numbers(repsim.compare(a, a, "cka"), "compare itself/cka")
    groups = {"vehicle": (0, 1, 8, 9), "animal": (2, 3, 4, 5, 6, 7)}
    tasks = {"labels": images.labels, "alive": repsim.tasks.coarser(images.labels, groups)}
    yield from numbers(repsim.compare(a, b, "td", tasks=tasks), "compare tasks/td")
    flat, other = (
        repsim.live(net, images, layers="layer*.*", reduction="flatten", batch_size=50, progress=False)
        for net in nets.values()
    )
    for metric in ("cka", "cka_biased", "cka_minibatch(batch_size=50)"):
        yield from numbers(repsim.compare(flat, other, metric), f"live/{metric}")

    untrained = repsim.load_model("resnet20", normalize="imagenet", seed=1)
    sides = {"resnet20": nets[20], "resnet56": nets[56], "untrained": untrained}
    few = {
        name: repsim.extract(net, images, layers="layer*.0", reduction="mean", progress=False)
        for name, net in sides.items()
    }
    a, b, c = few.values()
    for metric in ("cka", "cka_rbf", "td", "td_soft", "rsa", "mutual_knn", "procrustes", "svcca"):
        yield from numbers(repsim.bootstrap(a, b, metric, resamples=20), f"bootstrap/{metric}")
        yield from numbers(repsim.permutation_test(a, b, metric, permutations=20), f"permutation_test/{metric}")
    for metric in ("td", "cka"):
        yield from numbers(repsim.difference((a, b), (a, c), metric, resamples=99), f"difference/{metric}")
    for metric, rule in (("cka", "matched"), ("cka", "best"), ("td", "last"), ("linear_regression", "best")):
        yield from numbers(repsim.compare_many(few, metric, layers=rule), f"compare_many/{metric}/{rule}")
    yield from numbers(repsim.lambda_curve(a, b), "lambda_curve")
    yield from numbers(repsim.dimension(b), "dimension")
    for metric in ("td", "td_soft"):
        yield from numbers(repsim.disagreements(a, b, "layer3.0", metric=metric), f"disagreements/{metric}")


def cifar(archive: Path, folder: Path) -> repsim.ImageSet:
    """The first test images of each class."""
    with tarfile.open(archive) as stream:
        for member in stream:
            if member.isfile() and member.name.startswith("test/") and int(Path(member.name).stem) < PER_CLASS:
                stream.extract(member, folder, filter="data")
    images = repsim.load_data(f"imagefolder:{folder}", split="test", root=folder / "cache", progress=False)
    assert len(images) == 10 * PER_CLASS
    return images


def digits(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    images = repsim.load_data("digits", limit=100, progress=False)
    yield from numbers(images, "images")
    nets = [repsim.load_model(path) for path in (STANDARD, PGD)]
    a, b = (repsim.extract(net, images, attack="linf:0.1", reduction="mean", progress=False) for net in nets)
    yield from numbers({"standard": a, "pgd": b}, "extract attacked")
    train = torch.arange(len(images))[None] % 2 == torch.arange(2)[:, None]
    layers = [a[layer] for layer in a.layers[-3:]]
    for layer, probes in enumerate(repsim.fit_probes(layers, {"labels": images.labels}, train, progress=False)):
        yield from numbers(probes.heldout, f"fit_probes/{layer}/heldout")
        yield from numbers(probes.head("labels", fold=1), f"fit_probes/{layer}/head")
    conditions = ("--attack-a", "linf:0.1", "--attack-steps", "5", "--attack-b", "blur:3")
    repsim_command("compare", STANDARD, PGD, *DIGITS, *conditions, "--reduction", "mean", "--out", folder / "compare")
    yield from files(folder / "compare")


#: The images of most commands.
DIGITS = ("--data", "digits", "--limit", "100")


def certificates(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    draws = ("--sigma", "0.25", "--n0", "20", "--n", "500", "--seed", "1")
    repsim_command("certify", STANDARD, *draws, *DIGITS, "--out", folder / "certify")
    yield from files(folder / "certify")


def trainings(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for recipe, settings in RECIPES.items():
        changes = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        sizes = ("--data", "digits", "--limit", "200", "--test-limit", "50", "--epochs", "2")
        to = ("--out", folder / f"{recipe}.safetensors", "--snapshots", folder / f"{recipe}-epochs")
        repsim_command("train", recipe, *sizes, *changes, *to, "--seed", "3", "--threads", "1")
        yield from network(folder / f"{recipe}.safetensors", recipe)


def network(path: Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Weights, and the numbers of the record; the file's bytes hold times."""
    weights = load_file(path)
    yield f"{name}/weights", torch.cat([weights[key].flatten().double() for key in sorted(weights)]).numpy()
    yield together({key: tuple(x.shape) for key, x in weights.items()}, f"{name}/shapes")
    yield together(repsim.load_model(path).provenance["record"], f"{name}/record")


def augmentation(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    out = folder / "augment"
    study = ("--strategies", "none,flip", "--seeds", "2", "--between", "--reduction", "mean", "--out", out)
    sizes = ("--data", "digits", "--limit", "200", "--epochs", "2", "--threads", "1", "--parallel", "1")
    repsim_command("augment", *study, *sizes)
    yield from files(out)


def robustness(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    here = {name: str(folder / f"{name}.safetensors") for name in ("standard", "pgd")}
    groups = ("--networks", f"standard={STANDARD}", here["standard"], "--networks", f"pgd={PGD}", here["pgd"])
    epochs = [part for name in here for part in ("--snapshots", f"{name}={folder / name}-epochs")]
    sizes = ("--sizes", f"standard:short={here['standard']}", "--sizes", f"standard:long={STANDARD}")
    attack = ("--eps", "0.05,0.1", "--steps", "3", "--train-limit", "200", "--reduction", "mean")
    out = ("--out", folder / "robustness")
    repsim_command("robustness", *groups, *epochs, *sizes, *attack, *DIGITS, *out)
    yield from files(folder / "robustness")


def repsim_command(*words: str | Path) -> None:
    """Runs `repsim …` anew; a RuntimeError with its last line where it fails."""
    run = subprocess.run([sys.executable, "-m", "repsim", *map(str, words)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"repsim {words[0]} failed: {(run.stderr.strip().splitlines() or ['no message'])[-1]}")


def files(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The numbers of all tables, protocols, matrices and networks in a folder.

    Other archives are left out: their layout is no result, and tables or features hold their numbers.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".csv":
            yield from numbers(table(path), name)
        elif path.suffix == ".json":
            yield together(json.loads(path.read_text()), name)
        elif path.suffix == ".safetensors":
            yield from network(path, name)
        elif path.suffix == ".npz":
            with contextlib.suppress(ValueError):  # a matrix that cannot be read is reported as absent
                yield from numbers(repsim.SimilarityMatrix.load(path), name)


def table(path: Path) -> dict[str, np.ndarray]:
    """Column -> float64, of the columns in which numbers stand; NaN in their other cells."""
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = {column: np.array([number(row[column]) for row in rows]) for column in (rows[0] if rows else {})}
    return {column: array for column, array in columns.items() if not np.isnan(array).all()}


def number(cell: str) -> float:
    """A cell of a table; NaN where it holds none."""
    try:
        return {"True": 1.0, "False": 0.0}[cell] if cell in ("True", "False") else float(cell)
    except ValueError:
        return math.nan


if __name__ == "__main__":
    sys.exit(main())
