"""Which layers of two networks correspond."""

from collections.abc import Sequence


def matched_layers(rows: Sequence[str], cols: Sequence[str]) -> list[tuple[int, int]]:
    """Places (row, column) of layers that correspond: equal names, or else equal places where equally many.

    Args:
        rows: Layer names of one network, in execution order.
        cols: Layer names of another one.

    Returns:
        The pairs in the order of the rows; empty where nothing corresponds.

    Example:
        >>> matched_layers(["stem", "fc"], ["fc", "x", "stem"])
        [(0, 2), (1, 0)]
        >>> matched_layers(["conv", "fc"], ["block", "head"])
        [(0, 0), (1, 1)]
    """
    place = {name: j for j, name in enumerate(cols)}
    shared = [(i, place[name]) for i, name in enumerate(rows) if name in place]
    if shared or len(rows) != len(cols):
        return shared
    return [(i, i) for i in range(len(rows))]
