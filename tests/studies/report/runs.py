"""Folders of results to make pages of: matrices, a study, names that must stay text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repsim import SimilarityMatrix
from repsim.studies.common.finding import Finding

BAD = "<script>document.title='broken'</script>"
ODD = 'a"b&c\'$\\frac{x$</style></script><img src=x onerror=document.title="broken">'


def matrix(r: int = 5, c: int = 7, metric: str = "cka", *, seed: int = 0, **changes: Any) -> SimilarityMatrix:
    rng = np.random.default_rng(seed)
    values = changes.pop("values", None)
    if values is None:
        values = rng.uniform(0.05, 0.95, (r, c))
        values[0, 1] = np.nan
    given: dict[str, Any] = {
        "rows": tuple(f"layer{i // 3}.{i % 3}" for i in range(r)),
        "cols": tuple(f"layer{j // 3}.{j % 3}" for j in range(c)),
        "metric": metric,
        "row_model": "standard",
        "col_model": "robust",
        "n": 1000,
        "reasons": {(int(i), int(j)): f"constant {BAD}" for i, j in np.argwhere(np.isnan(values))},
        "details": {"ci_low": values - 0.05, "ci_high": values + 0.05, "p": values / 10, "chance": values * 0 + 0.1},
        "cautions": (f"mind {BAD}",),
    }
    return SimilarityMatrix(values, **{**given, **changes})


def compared(folder: Path, *matrices: SimilarityMatrix, picture: bool = True) -> Path:
    """What `repsim compare` leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    for made in matrices:
        made.save(folder / f"{made.metric}.npz")
        made.to_frame().to_csv(folder / f"{made.metric}.csv", index=False)
        if picture:
            made.save_picture(folder / f"{made.metric}.png")
    facts = {
        "results": [{"file": made.metric} for made in matrices],
        "data": {"name": f"digits/test {BAD}", "n": 1000, "digest": "0123456789abcdef"},
        "networks": {"standard": {"sha256": "ab" * 32}, BAD: {}},
        "versions": {"python": "3.11", "repsim-toolkit": "0.2.0"},
    }
    (folder / "summary.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def studied(folder: Path) -> Path:
    """What `repsim robustness` leaves."""
    table = pd.DataFrame(
        {"layer": [f"l{k}" for k in range(12)], "value": [*range(9, -1, -1), 10, float("nan")], BAD: 1}
    )

    def draw() -> Figure:
        figure = Figure()
        figure.add_subplot().plot([0, 1])
        return figure

    made = Finding(
        "over_seeds", f"Where? {BAD}", {"": table, "more": table}, ("First.", f"Second {BAD}."), draw, {"n": 5}
    )
    files = [file.name for file in made.save(folder)]
    facts = {"parts": [{"name": "over_seeds", "files": files}], "groups": {"standard": ["a", "b"]}}
    (folder / "summary.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "run.json").write_text(
        json.dumps({"verb": "robustness", "finished": False, "files": dict.fromkeys([*files, "summary.json"])})
    )
    return folder
