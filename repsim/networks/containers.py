"""Where the weights stand inside a file: in containers of whatever name, beside optimisers, among several networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from repsim._common.messages import message, some

#: Where training scripts put the weights inside a file, the usual places first.
CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "ema",
    "model_ema",
    "state_dict_ema",
)

#: What stands beside weights and holds tensors that are none.
_BESIDE = ("optim", "sched", "scaler", "amp", "loss", "criterion", "lr_", "rng")

#: Containers inside each other; a file may also hold one inside itself.
_DEEPEST = 20


def unreadable(path: Path, got: str, do: str) -> ValueError:
    """The error of a file that is no weight file."""
    return ValueError(message("load_model", f"{path} must be a weight file", got, do))


def find_weights(content: Any, path: Path, notes: list[str], part: str | None = None) -> dict[str, Tensor]:
    """The one set of weights that a file's content means.

    Args:
        content: What was read: mappings and lists in each other, with tensors among them.
        path: The file, for messages.
        notes: What is decided is added here, in words.
        part: Which of several networks is meant: the key that its weights stand under, or a prefix of their names,
            such as "teacher" or "module.encoder_q".

    Raises:
        ValueError: No weights, several networks and no `part`, or a `part` that is not there.
    """
    if part is None:
        return _unwrapped(content, path, notes, 0)
    under = _under(content, part)
    if under is not None:
        notes.append(f"part {part!r} taken")
        return _unwrapped(under, path, notes, 0)
    state = _unwrapped(content, path, notes, 0)
    inside = {key: value for key, value in state.items() if f".{part}." in f".{key}"}
    if not inside:
        heads = dict.fromkeys(key.rpartition(".")[0].partition(".")[0] or key for key in state)
        got = f"{path} with names that begin with {some(heads)}"
        raise ValueError(message("load_model", f"part {part!r} must be in the file", got, "Choose one of these"))
    notes.append(f"part {part!r} taken, {len(state) - len(inside)} other tensors left")
    return inside


def _unwrapped(content: Any, path: Path, notes: list[str], depth: int) -> dict[str, Tensor]:
    if depth > _DEEPEST:
        raise unreadable(path, f"containers inside each other, more than {_DEEPEST}", "Save model.state_dict()")
    if isinstance(content, list | tuple) and len(content) > 0 and isinstance(content[0], Mapping):
        if len(content) > 1:
            notes.append(f"a list of {len(content)} sets of weights: took the first")
        return _unwrapped(content[0], path, notes, depth + 1)
    if isinstance(content, Mapping):
        direct = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        inside = [k for k in CONTAINERS if _tensors(content.get(k))]
        if not inside:
            inside = _networks(content, path, least=len(direct))
        if inside:
            also = f" (there are also {', '.join(inside[1:])})" if inside[1:] else ""
            notes.append(f"weights taken from {inside[0]!r}{also}")
            return _unwrapped(content[inside[0]], path, notes, depth + 1)
        if direct:
            return direct
    got = (
        f"{type(content).__name__} with {some(map(str, content))}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    raise unreadable(
        path,
        f"no state dict in it ({got})",
        f"Save model.state_dict(), or put it under one of {some(CONTAINERS)}",
    )


def _networks(content: Mapping[Any, Any], path: Path, least: int) -> list[Any]:
    """Keys of the containers of other names, the largest first; none where tensors beside them are more."""
    sizes = {
        key: size
        for key, value in content.items()
        if isinstance(key, str)
        and isinstance(value, Mapping)
        and not key.lower().startswith(_BESIDE)
        and (size := _tensors(value)) > least
    }
    found = sorted(sizes, key=lambda key: -sizes[key])
    if len(found) > 1 and 2 * sizes[found[1]] > sizes[found[0]]:
        rivals = [key for key in found if 2 * sizes[key] > sizes[found[0]]]
        advice = f"Say which, as in part={rivals[0]!r}"
        raise ValueError(message("load_model", "one network must be meant", f"{path} with {some(rivals)}", advice))
    return found


def _under(content: Any, part: str) -> Any:
    """What stands under a key, at whatever depth, where tensors are inside; None where nothing does."""
    for one in _mappings(content):
        if _tensors(one.get(part)):
            return one[part]
    return None


def _tensors(content: Any) -> int:
    """How many tensors are somewhere inside."""
    inside = [content] if isinstance(content, list | tuple) else []
    return sum(isinstance(v, Tensor) for one in [*inside, *_mappings(content)] for v in _values(one))


def _mappings(content: Any) -> list[Mapping[Any, Any]]:
    """All mappings inside, the outer ones first. Each object is looked into once: files may hold one in many places."""
    seen, waiting, found = set[int](), [content], list[Mapping[Any, Any]]()
    for one in waiting:
        if isinstance(one, Mapping | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            found += [one] if isinstance(one, Mapping) else []
            waiting += _values(one)
    return found


def _values(one: Any) -> list[Any]:
    return list(one.values() if isinstance(one, Mapping) else one)
