"""A similarity matrix as one .npz without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim._checks import message
from repsim._files import whole_file

if TYPE_CHECKING:
    from repsim.similarity import SimilarityMatrix

_FACTS = ("rows", "cols", "metric", "row_model", "col_model", "n", "cautions", "provenance")


def write(matrix: "SimilarityMatrix", path: Path) -> None:
    """Writes everything, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    facts = _pack(matrix, "", arrays)
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, facts=np.array(json.dumps({"format": 1, **facts})), **arrays)  # type: ignore[arg-type]


def read(kind: type["SimilarityMatrix"], path: Path) -> "SimilarityMatrix":
    """Reads what `write` wrote; raises FileNotFoundError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(message("SimilarityMatrix.load", "the file must exist", str(path), "Check the path"))
    try:
        with np.load(path, allow_pickle=False) as stored:
            return _unpack(kind, json.loads(str(stored["facts"])), "", {k: stored[k] for k in stored.files})
    except Exception as error:  # a damaged archive fails in as many ways as it has bytes
        # numpy's own texts advise to turn pickle on, so only ours are passed on.
        ours = str(error) if str(error).startswith("SimilarityMatrix") else "damaged, or something else"
        advice = "Make it again with compare(...).save(path)"
        must = "the file must be one that save wrote"
        raise ValueError(message("SimilarityMatrix.load", must, f"{path} ({ours})", advice)) from error


def _pack(matrix: "SimilarityMatrix", prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Puts a matrix's arrays under `prefix`, its tasks' below it; returns what is not an array."""
    arrays[f"{prefix}values"] = matrix.values
    arrays |= {f"{prefix}details/{name}": array for name, array in matrix.details.items()}
    facts: dict[str, Any] = {name: getattr(matrix, name) for name in _FACTS}
    facts["reasons"] = [[i, j, text] for (i, j), text in matrix.reasons.items()]
    tasks = enumerate(matrix.tasks.items())
    facts["tasks"] = {name: _pack(part, f"{prefix}task{k}/", arrays) for k, (name, part) in tasks}
    return facts


def _unpack(
    kind: type["SimilarityMatrix"], facts: Mapping[str, Any], prefix: str, arrays: Mapping[str, np.ndarray]
) -> "SimilarityMatrix":
    details = f"{prefix}details/"
    given = {name: facts[name] for name in _FACTS}
    given |= {name: tuple(facts[name]) for name in ("rows", "cols", "cautions")}
    tasks = enumerate(facts.get("tasks", {}).items())
    return kind(
        values=arrays[f"{prefix}values"],
        details={k.removeprefix(details): array for k, array in arrays.items() if k.startswith(details)},
        reasons={(i, j): text for i, j, text in facts["reasons"]},
        tasks={name: _unpack(kind, part, f"{prefix}task{k}/", arrays) for k, (name, part) in tasks},
        **given,
    )
