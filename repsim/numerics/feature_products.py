"""Σ K_ab L_ab of all pairs of layers by way of their features: products XᵀY of layers that lie side by side."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.numerics.centring import CentredLayer, norms_of_rows, to_unit_rows
from repsim.numerics.matmul import matmul_nt

#: Features that are multiplied at once on a CPU: sums of their products stay in its caches.
_GROUP = 768

#: Rows that are multiplied at once there. Errors of float32 sums grow with their square root.
_ROWS = 128

#: Both elsewhere, where small products would leave the device idle.
_ELSEWHERE = 4096, 1024

#: How many such products float32 adds up before float64 does; their rows lie side by side together.
_BLOCK = 5

#: Groups of features that one group meets while it is at hand.
_PARTNERS = 4


def feature_products(rows: Sequence[CentredLayer], cols: Sequence[CentredLayer], same: bool) -> Float[Tensor, "l l"]:
    """Σ_{a≠b} K_ab L_ab = ‖XᵀY‖² - Σ_a K_aa L_aa of centred Gram matrices, each layer scaled to mean row norm² 1.

    Args:
        rows: r prepared layers.
        cols: c prepared layers.
        same: The columns are the rows again.

    Returns:
        (l, l) over the rows, followed by the columns unless they are the same: every row layer with every column
        layer, and every layer with itself. Other entries are 0, and so are those of constant layers.

    Cost: n (Σp)(Σq) multiplications, half of them where both are the same; memory: some 30 MB on a CPU.
    """
    layers = list(rows) if same else [*rows, *cols]
    scale = torch.tensor([to_unit_rows(a) ** 2 for a in layers], dtype=torch.float64, device=layers[0].x.device)
    if same:
        norms = _norms(layers) * torch.outer(scale, scale)
        diagonal = norms_of_rows(layers)
        return norms - diagonal @ diagonal.T
    r = len(rows)
    own, norms = _own_norms(layers) * scale**2, _norms(rows, cols) * torch.outer(scale[:r], scale[r:])
    diagonal = norms_of_rows(layers)
    found = torch.diag(own - torch.linalg.vecdot(diagonal, diagonal))
    found[:r, r:] = norms - diagonal[:r] @ diagonal[r:].T
    return found


class _Group:
    """Neighbouring layers, or a part of a wide one, side by side.

    Attributes:
        layers: Which ones.
        owners: (layers, w) float64, 1 where a column is the layer's.
    """

    def __init__(self, first: int, parts: Sequence[CentredLayer]) -> None:
        self._parts, self.layers = parts, slice(first, first + len(parts))
        self._widths = [part.width for part in parts]
        self._mean = torch.cat([part.mean for part in parts])
        self._plain = all(part.unit == 1 and part.removed is None for part in parts)
        owner = torch.repeat_interleave(torch.tensor(self._widths))
        self.owners = torch.nn.functional.one_hot(owner, len(parts)).T.double().to(self._mean.device)

    @property
    def width(self) -> int:
        return len(self._mean)

    def rows(self, start: int, stop: int, room: Tensor) -> Float[Tensor, "b w"]:
        """The centred rows start..stop, written to the beginning of `room`."""
        out = room[: (stop - start) * self.width].view(stop - start, self.width)
        torch.cat([part.picked(start, stop) for part in self._parts], 1, out=out)
        out.sub_(self._mean)
        if not self._plain:
            for part, columns in zip(self._parts, out.split(self._widths, 1), strict=True):
                part.finish(columns, start, stop)
        return out


class _Blocks:
    """Where blocks of rows start and stop, how many rows are multiplied at once, and room for a group's block."""

    def __init__(self, like: CentredLayer) -> None:
        size, self.step = _sizes(like)
        height = min(like.n, _BLOCK * self.step)
        self.spans = [(start, min(start + height, like.n)) for start in range(0, like.n, height)]
        self._like, self._size = like.mean, height * size

    def room(self) -> Tensor:
        return self._like.new_empty(self._size)


def _groups(layers: Sequence[CentredLayer]) -> list[_Group]:
    """Neighbours whose widths add up to about `_GROUP`; wider ones are cut."""
    groups: list[tuple[int, list[CentredLayer]]] = []
    (size, _), room = _sizes(layers[0]), 0
    for i, layer in enumerate(layers):
        for start in range(0, layer.width, size):
            part = layer.columns(slice(start, start + size))
            if start or part.width > room:
                groups.append((i, []))
                room = size
            groups[-1][1].append(part)
            room -= part.width
    return [_Group(first, parts) for first, parts in groups]


def _norms(rows: Sequence[CentredLayer], cols: Sequence[CentredLayer] | None = None) -> Float[Tensor, "r c"]:
    """‖XᵀY‖² of all pairs of layers, of the rows with themselves where there are no columns."""
    left, blocks = _groups(rows), _Blocks(rows[0])
    right = left if cols is None else _groups(cols)
    found = torch.zeros(len(rows), len(rows if cols is None else cols), dtype=torch.float64, device=rows[0].x.device)
    for i, a in enumerate(left):
        partners = left[i:] if cols is None else right
        for b, product in _products(a, partners, blocks):
            part = a.owners @ product.square_() @ b.owners.T
            found[a.layers, b.layers] += part
            if cols is None and a is not b:
                found[b.layers, a.layers] += part.T
    return found


def _products(a: _Group, partners: Sequence[_Group], blocks: _Blocks) -> Iterator[tuple[_Group, Float[Tensor, "v w"]]]:
    """One group's XᵀY with each of its partners, in float64."""
    rooms = blocks.room(), blocks.room()
    for few in (partners[at : at + _PARTNERS] for at in range(0, len(partners), _PARTNERS)):
        totals = [a.owners.new_zeros(a.width, b.width) for b in few]
        for start, stop in blocks.spans:
            x = a.rows(start, stop, rooms[0]).split(blocks.step)
            for b, total in zip(few, totals, strict=True):
                y = x if b is a else b.rows(start, stop, rooms[1]).split(blocks.step)
                product = matmul_nt(x[0].T, y[0].T)
                for some, others in zip(x[1:], y[1:], strict=True):
                    product = matmul_nt(some.T, others.T, product)
                total += product
        yield from zip(few, totals, strict=True)


def _own_norms(layers: Sequence[CentredLayer]) -> Float[Tensor, " l"]:
    """‖XᵀX‖² of each layer. Narrow neighbours of one width are multiplied together."""
    found, blocks = [], _Blocks(layers[0])
    size, room = _sizes(layers[0])[0], blocks.room()
    for width, run in itertools.groupby(layers, lambda layer: layer.width):
        alike = list(run)
        if width > size:
            found += [_norms([layer])[0] for layer in alike]
            continue
        at_once = size // width
        for parts in (alike[at : at + at_once] for at in range(0, len(alike), at_once)):
            group = _Group(0, parts)
            total = group.owners.new_zeros(len(parts), width, width)
            for start, stop in blocks.spans:
                together = group.rows(start, stop, room).unflatten(1, (len(parts), width))
                for x in together.split(blocks.step):
                    total += torch.bmm(x.permute(1, 2, 0), x.permute(1, 0, 2))
            found.append(total.square_().sum((1, 2)))
    return torch.cat(found)


def _sizes(layer: CentredLayer) -> tuple[int, int]:
    """Features and rows that are multiplied at once where the layer lies."""
    return (_GROUP, _ROWS) if layer.x.device.type == "cpu" else _ELSEWHERE
