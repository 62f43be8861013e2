"""Results as one .npz without pickle: facts as JSON beside arrays, whole or not at all."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from repsim._common.files import whole_file
from repsim._common.messages import message, shown

Made = TypeVar("Made")

#: Of all archives; another number, another layout of what is in them.
FORMAT = 1

_DAMAGED = "damaged, or something else"


def write_archive(
    path: str | Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, compressed: bool = True
) -> None:
    """Writes facts and arrays.

    Args:
        path: Where to.
        facts: All that is no array, as JSON.
        arrays: Name -> array; none is called "facts".
        compressed: Whether it is worth the time, as it is not for noise.

    Raises:
        OSError: The file could not be written; what stood there is untouched.
    """
    save = np.savez_compressed if compressed else np.savez
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        save(stream, facts=np.array(json.dumps({"format": FORMAT, **facts})), **arrays)  # type: ignore[arg-type]


def read_archive(
    path: str | Path,
    make: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Made],
    *,
    function: str,
    again: str,
    must: str = "the file must be one that save wrote",
) -> Made:
    """Reads what `write_archive` wrote. Nothing in it is executed.

    Args:
        path: The file.
        make: What the facts and the arrays are; a ValueError of its own says in its text what is wrong with them.
        function: Who asks, for messages.
        again: How such a file is made anew, for messages.
        must: What the file must be, for messages.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not such a file, a damaged one, or one of another format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(message(function, "the file must exist", str(path), "Check the path"))

    def unreadable(reason: str) -> ValueError:
        return ValueError(message(function, must, f"{path} ({reason})", again))

    try:
        with np.load(path, allow_pickle=False) as stored:
            facts: Any = json.loads(str(stored["facts"]))
            arrays = {name: stored[name] for name in stored.files if name != "facts"}
        found = facts["format"]
    except Exception as error:  # a damaged archive fails in as many ways as it has bytes, and advises to turn pickle on
        raise unreadable(_DAMAGED) from error
    if found != FORMAT:
        raise unreadable(f"format {shown(found)}, where this version reads {FORMAT}")
    try:
        return make(facts, arrays)
    except ValueError as error:
        raise unreadable(str(error)) from error
    except Exception as error:  # facts of another kind
        raise unreadable(_DAMAGED) from error
