"""Which layers of two networks correspond: by place within stages, then by relative depth."""

import bisect
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

#: The parts of a name as (stem, number), its call at the end, and the layer's place in its network.
_Layer = tuple[tuple[tuple[str, int | None], ...], int]


def matched_layers(rows: Sequence[str], cols: Sequence[str], *, same: bool = False) -> list[tuple[int, int]]:
    """Places (row, column) of layers that correspond.

    Names are read part by part between the dots. Parts that are numbered, as the stages of a network, the blocks of a
    stage or the repeated calls of a module, correspond by their number where both networks count equally far, and by
    relative depth where they do not: the first with the first, the last with the last, the others evenly between.
    What then has no counterpart by name is matched by relative depth within the gap in which it stands; so are all
    layers where the names have little in common. Equal names at other depths alone correspond to nothing.

    Args:
        rows: Layer names of one network, in execution order.
        cols: Layer names of another one.
        same: Both are known to be one architecture (`same_architecture`): equal names are equal layers, however few
            of them were chosen.

    Returns:
        The pairs in the order of the rows, each layer at most once.

    Example:
        >>> three, nine = ([f"layer1.{i}" for i in range(k)] for k in (3, 9))
        >>> matched_layers(three, nine)
        [(0, 0), (1, 4), (2, 8)]
        >>> matched_layers(["conv", "block", "fc"], ["embed", "mix", "head"])
        [(0, 0), (1, 1), (2, 2)]
    """
    place = {name: j for j, name in enumerate(cols)}
    named = [(i, place[name]) for i, name in enumerate(rows) if name in place]
    fewer = min(len(rows), len(cols))
    if named and (same or fewer == 1 or len(named) == len(rows) == len(cols)):  # a layer alone tells of no depth
        return named
    found = sorted(_by_parts(_read(rows), _read(cols)))
    if len(found) == fewer:
        return found
    found = _filled(_in_order(found), len(rows), len(cols))
    if 2 * len(found) <= fewer:
        return _spread(range(len(rows)), range(len(cols)))
    return found


def same_architecture(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two networks are of one architecture and size, as far as their provenance tells."""
    known = [(p.get("architecture"), p.get("parameters")) for p in (a, b)]
    return None not in known[0] and known[0] == known[1]


def _read(names: Sequence[str]) -> list[_Layer]:
    read = []
    for place, name in enumerate(names):
        path, _, call = name.partition("#")
        parts = [re.fullmatch(r"(.*?)(\d*)", part) for part in path.split(".")]
        numbered = [(part[1], int(part[2]) if part[2] else None) for part in parts if part]
        read.append(((*numbered, ("#", int(call) if call.isdecimal() else 1)), place))
    return read


def _by_parts(rows: Sequence[_Layer], cols: Sequence[_Layer]) -> list[tuple[int, int]]:
    """Pairs of layers whose first parts correspond, then their second ones, and so on to the call."""
    if not (rows and cols):
        return []
    if not rows[0][0] or not cols[0][0]:
        return [(rows[0][1], cols[0][1])] if not rows[0][0] and not cols[0][0] else []
    ours, theirs = _members(rows), _members(cols)
    pairs = []
    for kind in ours.keys() & theirs.keys():
        one, other = ours[kind], theirs[kind]
        first, second = sorted(one), sorted(other)
        alike = first[-1] == second[-1] or (1 in (len(first), len(second)) and _hold_series(one, other))
        numbers = [(x, x) for x in first if x in other] if alike else []
        numbers = numbers or _spread(first, second)
        for x, y in numbers:
            pairs += _by_parts(one[x], other[y])
    return pairs


def _hold_series(*sides: Mapping[int, Sequence[_Layer]]) -> bool:
    """Whether members are stages, which hold nothing but numbered blocks: one alone was chosen, not all there is."""
    below = {path[0] for side in sides for layers in side.values() for path, _ in layers if path}
    kinds = {(stem, number is None) for stem, number in below if stem != "#"}
    return len(kinds) == 1 and not next(iter(kinds))[1]


def _members(layers: Sequence[_Layer]) -> dict[tuple[str, bool], dict[int, list[_Layer]]]:
    """Stem of the first part, and whether it is numbered -> number -> the layers below it, without that part."""
    found: dict[tuple[str, bool], dict[int, list[_Layer]]] = defaultdict(lambda: defaultdict(list))
    for ((stem, number), *rest), place in layers:
        found[stem, number is not None][number or 0].append((tuple(rest), place))
    return found


def _spread(rows: Sequence[int], cols: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs by relative depth: the fewer layers, evenly over the more, from the first to the last."""
    if len(rows) > len(cols):
        return [(x, y) for y, x in _spread(cols, rows)]
    if len(rows) < 2:
        return [(x, cols[-1]) for x in rows]
    step = (len(cols) - 1) / (len(rows) - 1)
    return [(x, cols[int(k * step + 0.5)]) for k, x in enumerate(rows)]


def _in_order(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The most of the pairs, sorted by row, that stand in one order in both networks."""
    ends: list[int] = []  # the smallest last column of a chain of each length, and which pair that is
    at: list[int] = []
    before: list[int] = []
    for k, (_, col) in enumerate(pairs):
        length = bisect.bisect_left(ends, col)
        before.append(at[length - 1] if length else -1)
        ends[length:] = [col, *ends[length + 1 :]]
        at[length:] = [k, *at[length + 1 :]]
    chain = []
    k = at[-1] if at else -1
    while k >= 0:
        chain.append(pairs[k])
        k = before[k]
    return chain[::-1]


def _filled(pairs: Sequence[tuple[int, int]], rows: int, cols: int) -> list[tuple[int, int]]:
    """The pairs, and between each two of them what both networks have there, by relative depth."""
    found: list[tuple[int, int]] = []
    row = col = 0
    for i, j in [*pairs, (rows, cols)]:
        if i > row and j > col:
            found += _spread(range(row, i), range(col, j))
        found += [(i, j)] if (i, j) != (rows, cols) else []
        row, col = i + 1, j + 1
    return found
