"""What judging augmentation strategies costs once the networks are trained, stage by stage, and how it grows.

Eight strategies with eight networks each: the small digits network that ships with repsim, its weights moved at random
by a tenth, by more for each further strategy. All residual blocks, two tasks, the noise floor, 1,200 images to fit on
and 597 to ask about. Then ten times as many networks of each strategy: pairs grow a hundredfold, and cost no more than
the counting of answers.

    python benchmarks/augment.py
"""

import copy
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _measure import Table, arguments, calibrated

import repsim
from repsim.metrics import CKA, TD
from repsim.studies.augmentation.judging import judge

STANDARD = Path(__file__).resolve().parents[1] / "data" / "digits_standard.safetensors"
TASKS = {"parity": {"even": [0, 2, 4, 6, 8], "odd": [1, 3, 5, 7, 9]}}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--strategies", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    strategies, seeds, more = (2, 2, 2) if args.quick else (args.strategies, args.seeds, 10)
    limit = 100 if args.quick else None
    data = repsim.load_data("digits", split="train", limit=limit), repsim.load_data("digits", split="test", limit=limit)
    judged(moved(2, 2), *data)  # what is imported late
    with calibrated():
        whole = {}
        for count in (seeds, seeds * more):
            networks = moved(strategies, count)
            stages = judged(networks, *data)
            whole[count] = stages["all"]
            pairs = strategies * count * (count - 1) // 2
            table = Table(
                f"{strategies} strategies × {count} networks, {pairs:,} pairs, {len(stages['layers'])} layers"
            )
            for stage in (
                "run networks",
                "fit heads",
                "count pairs",
                "CKA",
                "tables and reading",
                "pictures and files",
            ):
                table.row(f"seconds: {stage}", stages[stage])
            table.row("seconds in all", stages["all"], "goal: 60 on two cores" if count == seeds else "")
    few, many = whole
    table = Table("growth")
    table.row(
        f"seconds with {many // few} times the networks / without", whole[many] / whole[few], f"goal: {many // few}"
    )


def moved(strategies: int, seeds: int) -> dict[str, list[repsim.Network]]:
    """Networks that answer much alike, less so in each further strategy."""
    start = repsim.load_model(STANDARD)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for k in range(strategies):
        found[f"strategy {k}"] = []
        for seed in range(seeds):
            network = copy.deepcopy(start)
            network.name = f"seed-{seed}"
            with torch.no_grad():
                for weight in network.parameters():
                    weight += (
                        (0.1 + 0.02 * k) * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
                    )
            found[f"strategy {k}"].append(network)
    return found


def judged(networks: dict[str, list[repsim.Network]], train: repsim.ImageSet, test: repsim.ImageSet) -> dict[str, Any]:
    """Seconds of each stage of `judge` and of writing what it finds; the layers."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                seconds[stage] += time.perf_counter() - start

        return run

    from repsim.studies.augmentation import judging as augmentation

    begun = time.perf_counter()
    with (
        patch.object(augmentation, "asked_sets", timed("run networks", augmentation.asked_sets)),
        patch.object(TD, "prepare_tasks", timed("fit heads", TD.prepare_tasks)),
        patch.object(TD, "pairwise", timed("count pairs", TD.pairwise)),
        patch.object(CKA, "prepare", timed("CKA", CKA.prepare)),
        patch.object(CKA, "pairwise", timed("CKA", CKA.pairwise)),
    ):
        found = judge(networks, train, test, tasks=TASKS, progress=False)
    seconds["tables and reading"] = time.perf_counter() - begun - sum(seconds.values())
    written = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found.save(folder)
    seconds["pictures and files"] = time.perf_counter() - written
    return {**seconds, "all": time.perf_counter() - begun, "layers": found.parts[0].protocol["layers"]}


if __name__ == "__main__":
    main()
