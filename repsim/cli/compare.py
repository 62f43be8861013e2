"""`repsim compare`: two networks and images in, a folder of matrices, tables and pictures out."""

import argparse
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from repsim._common.files import whole_file, write_text
from repsim._common.messages import message
from repsim._common.provenance import CautionWarning, versions
from repsim.cli.arguments import NETWORK, NORMALIZE, TaskGroups, add_images, asked_images, named_network, read_tasks
from repsim.cli.conditions import (
    Sides,
    add_conditions,
    add_features,
    check_conditions,
    conditions,
    folder_of,
    option_of,
    print_conditions,
    print_plans,
    sides_of,
)
from repsim.cli.tables import file_name, number, print_table
from repsim.cli.verbs import Verb
from repsim.data.image_set import ImageSet
from repsim.data.tasks import coarser
from repsim.features.activations import Activations, normalisation_of
from repsim.features.live_activations import LiveActivations
from repsim.metrics import CKA, RSA, Confounder, Metric, TaskMetric, get_metric, metric_name
from repsim.networks.layers import select_layers
from repsim.networks.network import Network
from repsim.similarity.comparison import compare
from repsim.similarity.inference import bootstrap, permutation_test
from repsim.similarity.matrix import SimilarityMatrix


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `repsim compare` takes to its parser."""
    parser.add_argument("a", metavar="A", help=NETWORK)
    parser.add_argument("b", metavar="B", help="the other network, or the same one again")
    metric = (
        'repeatable, as in td, "td(seed=1)", "cka(deconfounded=\'inputs\')" or "my.module:Mine(setting=1)"; default '
    )
    parser.add_argument("--metric", action="append", help=metric + "cka and td, with --live cka_minibatch")
    add_images(parser, seed="what is random in attacks and corruptions")
    parser.add_argument("--normalize", help=f"of both networks: {NORMALIZE}")
    parser.add_argument("--normalize-a", help="of A alone")
    parser.add_argument("--normalize-b", help="of B alone")
    parser.add_argument("--layers", nargs="+", metavar="GLOB", help="names or globs; default: leaf modules and blocks")
    parser.add_argument(
        "--reduction", help="auto (default), mean, max, pool:K, flatten (--live's), cls, last, mean_tokens"
    )
    for side in "ab":
        parser.add_argument(f"--layers-{side}", nargs="+", metavar="GLOB", help=f"of {side.upper()} alone")
        parser.add_argument(f"--reduction-{side}", help=f"of {side.upper()} alone")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", help='where to compute, as in "cuda"')
    parser.add_argument("--bootstrap", type=int, metavar="N", help="add an interval to every value, from N resamples")
    parser.add_argument("--permutations", type=int, metavar="N", help="add p-values, from N permutations")
    parser.add_argument("--live", action="store_true", help="never keep features: read them batch by batch")
    add_features(parser)
    tasks = 'downstream tasks for forms of TD: {"life": {"animal": [2, 3], "vehicle": [0, 1]}, …}'
    parser.add_argument("--tasks", type=Path, metavar="FILE.json", help=tasks)
    add_conditions(parser)
    parser.add_argument("--json", action="store_true", help="print what summary.json holds, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")


def run(arguments: argparse.Namespace) -> None:
    """Compares as asked, writes everything to the output folder and prints a table.

    Raises:
        ValueError: Options that do not go together, or whatever the package finds wrong.
    """
    _check_options(arguments)
    metrics = [get_metric(m) for m in arguments.metric or (["cka_minibatch"] if arguments.live else ["cka", "td"])]
    groups = read_tasks(arguments.tasks) if arguments.tasks else {}
    networks = _networks(arguments)
    for network, side in zip(networks, "ab", strict=True):
        select_layers(
            network, option_of(arguments, "layers", side)
        )  # a wrong name is told of before an attack, not after
    data = asked_images(arguments)
    if arguments.dry_run:
        print_plans(arguments, networks, data)
        return
    tasks = {name: _task(name, of, data, arguments.tasks) for name, of in groups.items()}
    metrics = [_with_inputs(metric, data) for metric in metrics]
    shown = conditions(arguments, networks, data)
    sides = sides_of(arguments, networks, shown.images)
    results = []
    for metric in metrics:
        matrix = _asked(arguments, sides, metric, tasks)
        name = file_name(metric_name(metric))
        path = matrix.save(arguments.out / f"{name}.npz")
        with whole_file(path.with_suffix(".csv")) as temporary:
            matrix.to_frame().to_csv(temporary, index=False)
        matrix.save_picture(path.with_suffix(".png"))
        results.append(_summary(matrix, name, ignored=list(tasks) if not matrix.tasks else []))
    facts = {"results": results, "data": {"name": data.name, "n": len(data), "digest": data.digest}}
    facts |= {"networks": {n.name: n.provenance for n in networks}, "versions": versions(), "tasks": groups}
    facts["conditions"] = shown.facts
    facts["sides"] = [_seen(side) for side in sides]
    facts["features"] = [folder_of(side) for side in sides]
    write_text(arguments.out / "summary.json", json.dumps(facts, indent=1))
    print_conditions(shown.facts)
    _print_sides(facts["sides"])
    _print_results(results)
    files = [*(r["file"] + ".{npz,csv,png}" for r in results), "summary.json", "report.html"]
    print(f"written to {arguments.out}: {', '.join(files)}")


def _with_inputs(metric: Metric, data: ImageSet) -> Metric:
    """A measure less the similarity of the images as they were, where that is asked for as deconfounded='inputs'."""
    if isinstance(metric, CKA | RSA) and metric.deconfounded == "inputs":
        return replace(metric, deconfounded=Confounder(data.images, "inputs"))
    return metric


def _check_options(arguments: argparse.Namespace) -> None:
    """What can be refused before anything is loaded."""
    check_conditions(arguments)
    resampling = [name for name in ("bootstrap", "permutations") if getattr(arguments, name) is not None]
    for name in resampling:
        if getattr(arguments, name) < 20:
            got = f"{getattr(arguments, name)}"
            raise ValueError(message("repsim", f"--{name} must be at least 20", got, "200 is usual"))
    kept = [name for name in ("keep_features", "memory", "dry_run") if arguments.live and getattr(arguments, name)]
    if arguments.live and (resampling or arguments.tasks or kept):
        names = [*resampling, *(["tasks"] if arguments.tasks else []), *kept]
        given = ", ".join("--plan" if name == "dry_run" else f"--{name.replace('_', '-')}" for name in names)
        advice = "Leave --live out, or the others"
        raise ValueError(message("repsim", "--live keeps no features to go back to", given, advice))
    if arguments.keep_features and arguments.no_features:
        got, advice = "--keep-features and --no-features", "Leave one of them out"
        raise ValueError(message("repsim", "features are kept, or not", got, advice))
    if arguments.tasks and resampling:
        given = f"--tasks and --{resampling[0]}"
        raise ValueError(message("repsim", "resampling takes one task, the labels", given, "Leave one of them out"))


def _networks(arguments: argparse.Namespace) -> tuple[Network, Network]:
    """Both networks under different names, or the same object twice where one shall be compared with itself."""
    normalize = [x if x is not None else arguments.normalize for x in (arguments.normalize_a, arguments.normalize_b)]
    a = named_network(arguments.a, normalize[0])
    if arguments.a == arguments.b and normalize[0] == normalize[1]:
        b = a
    else:
        b = named_network(arguments.b, normalize[1])
        if a.name == b.name:
            a.name, b.name = f"{a.name} (A)", f"{b.name} (B)"
    for network in [a] if a is b else [a, b]:
        if arguments.device:
            network.to(arguments.device)
        for note in network.provenance["notes"]:
            print(f"{network.name}: {note}")
    return a, b


def _task(name: str, groups: TaskGroups, data: ImageSet, path: Path) -> Tensor:
    try:
        return coarser(data.labels, groups)
    except ValueError as error:
        raise ValueError(f"{path}, task {name!r}: {error}") from error


def _asked(
    arguments: argparse.Namespace, sides: Sides, metric: Metric, tasks: Mapping[str, Tensor]
) -> SimilarityMatrix:
    """The matrix with all that the options add to it."""
    a, b = sides
    found = []
    if isinstance(a, Activations) and isinstance(b, Activations):
        if arguments.permutations is not None:
            found.append(permutation_test(a, b, metric, permutations=arguments.permutations))
        if arguments.bootstrap is not None:
            with warnings.catch_warnings():
                if found:  # it has said already what there is to say of these values
                    warnings.simplefilter("ignore", CautionWarning)
                found.append(bootstrap(a, b, metric, resamples=arguments.bootstrap))
    if not found:
        return compare(a, b, metric, tasks=tasks if tasks and isinstance(metric, TaskMetric) else None)
    # The bootstrap comes last: its interval stands in place of the measure's own, as without --permutations.
    details = {name: array for matrix in found for name, array in matrix.details.items()}
    provenance = {name: fact for matrix in found for name, fact in matrix.provenance.items()}
    cautions = dict.fromkeys(text for matrix in found for text in matrix.cautions)
    return replace(found[-1], details=details, provenance=provenance, cautions=tuple(cautions))


def _summary(matrix: SimilarityMatrix, name: str, ignored: list[str]) -> dict[str, Any]:
    values = matrix.values
    some = bool((~np.isnan(values)).any())
    best = np.nanargmax if matrix.definition.kind == "similarity" else np.nanargmin
    i, j = np.unravel_index(best(values), values.shape) if some else (0, 0)
    return {
        "metric": matrix.metric,
        "file": name,
        "layers": values.shape,
        "n": matrix.n,
        "min": float(np.nanmin(values)) if some else None,
        "max": float(np.nanmax(values)) if some else None,
        "matched": len(matrix.matched()),
        "matched_mean": _matched_mean(matrix),
        "closest": [matrix.rows[i], matrix.cols[j]] if some else ["none"],
        "cells_without_number": len(matrix.reasons),
        "cautions": list(matrix.cautions),
        "bootstrap": matrix.provenance.get("bootstrap"),
        "permutation_test": matrix.provenance.get("permutation_test"),
        "p_max": float(np.nanmin(matrix.details["p_max"])) if some and "p_max" in matrix.details else None,
        "tasks": {task: {"matched_mean": _matched_mean(part)} for task, part in matrix.tasks.items()},
        "tasks_ignored": ignored,
    }


def _seen(side: Activations | LiveActivations) -> dict[str, Any]:
    """What a network sees and how often its own head is right."""
    accuracy = side.accuracy if isinstance(side, Activations) else None
    return {"network": side.name, "accuracy": accuracy, "input": normalisation_of(side.provenance)}


def _print_sides(sides: list[dict[str, Any]]) -> None:
    rows = [[side["network"], number(side["accuracy"]), side["input"]] for side in sides]
    print_table(["network", "its own head right", "input"], list(dict.fromkeys(map(tuple, rows))))
    print()


def _matched_mean(matrix: SimilarityMatrix) -> float | None:
    matched = [v for *_, v in matrix.matched() if v == v]
    return float(np.mean(matched)) if matched else None


def _print_results(results: list[dict[str, Any]]) -> None:
    head = ["metric", "layers", "n", "least", "most", "matched layers", "their mean", "closest pair", "added"]
    rows = []
    for r in results:
        numbers = [number(r["min"]), number(r["max"]), f"{r['matched']}", number(r["matched_mean"])]
        layers = f"{r['layers'][0]} × {r['layers'][1]}"
        rows.append([r["metric"], layers, f"{r['n']:,}", *numbers, " ~ ".join(r["closest"]), _added(r)])
        rows += [
            [f"  {task}", "", "", "", "", "", number(part["matched_mean"]), "", ""] for task, part in r["tasks"].items()
        ]
    shown = len(head) if any(row[-1] for row in rows) else len(head) - 1
    print_table(head[:shown], [row[:shown] for row in rows])


def _added(result: Mapping[str, Any]) -> str:
    """What the options have added to a matrix, or what it has not taken."""
    parts = []
    if result["bootstrap"]:
        given = result["bootstrap"]
        parts.append(f"{100 * given['level']:g} % intervals ({given['resamples']:,} resamples)")
    if result["permutation_test"]:
        count = f"{result['permutation_test']['permutations']:,} permutations"
        best = f"; of the best pair {number(result['p_max'])}" if result["p_max"] is not None else ""
        parts.append(f"p-values ({count}{best})")
    if result["tasks"]:
        parts.append(f"mean of {len(result['tasks'])} tasks")
    if result["tasks_ignored"]:
        parts.append("tasks ignored: no measure of answers")
    return ", ".join(parts)


COMPARE = Verb(add_arguments, run, "folder", page=True)
