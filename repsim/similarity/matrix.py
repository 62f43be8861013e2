"""`SimilarityMatrix`: all pairs of layers and what stands beside each value, with its file and its picture."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from repsim._common.archive import read_archive, write_archive
from repsim._common.files import whole_file
from repsim._common.html import note
from repsim._common.html import picture as picture_html
from repsim._common.messages import InternalError, did_you_mean, message, shown
from repsim.metrics import MetricFacts, is_own, known_metric
from repsim.networks.correspondence import matched_layers, same_architecture

if TYPE_CHECKING:
    import pandas as pd
    import xarray


@dataclass(frozen=True, eq=False)
class SimilarityMatrix:
    """The similarity of every layer of one side with every layer of the other.

    Attributes:
        values: (r, c) float64, NaN where there is no number.
        rows: Layer names of the first side, in execution order.
        cols: Layer names of the second side.
        metric: The metric's name and changed settings; `repsim.metrics.get_metric` gives it back, of a measure of the
            user's own where its module can be imported.
        row_model: What the first side is called.
        col_model: What the second side is called.
        n: Samples.
        details: Name -> (r, c) array of what stands beside each value (accuracies, intervals, ranks, …).
        reasons: (row, column) numbers of every NaN -> why there is no number.
        cautions: What a careful reader should know, one sentence each.
        provenance: Versions, weights and data with digests, settings, time.
        tasks: Where several downstream tasks were asked, each one's own matrix; this one is their mean.
        facts: What a measure of the user's own says of its values; None of the package's, which it knows.
    """

    values: Float[np.ndarray, "r c"]
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    metric: str
    row_model: str
    col_model: str
    n: int
    details: Mapping[str, Float[np.ndarray, "r c"]] = field(default_factory=dict)
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, "SimilarityMatrix"] = field(default_factory=dict)
    facts: MetricFacts | None = None

    def __post_init__(self) -> None:
        if is_own(self.metric) != (self.facts is not None):
            must = "facts must be given of measures of one's own, and of no other"
            got = f"{self.metric!r} {'with' if self.facts else 'without'} facts"
            raise ValueError(message("SimilarityMatrix", must, got, "Pass facts=metric.facts, or leave them out"))
        shape = (len(self.rows), len(self.cols))
        wrong = [name for name, d in {"values": self.values, **self.details}.items() if d.shape != shape]
        if wrong:
            raise ValueError(
                message(
                    "SimilarityMatrix",
                    f"arrays must be {shape}",
                    f"another shape of {wrong[0]}",
                    "Align them",
                )
            )
        _check_numbers({"values": self.values, **self.details}, self.n)
        low, high = self.definition.bounds
        finite = self.values[~np.isnan(self.values)]
        if finite.size and (finite.min() < low or finite.max() > high):
            got = f"[{finite.min():.6g}, {finite.max():.6g}]"
            raise InternalError(
                message("SimilarityMatrix", f"{self.metric} must lie in [{low:g}, {high:g}]", got, "Report this")
            )
        holes = {(int(i), int(j)) for i, j in np.argwhere(np.isnan(self.values))}
        if holes != set(self.reasons):
            raise InternalError(
                message("SimilarityMatrix", "every NaN must have a reason", f"{len(holes)} NaN", "Report this")
            )

    @property
    def definition(self) -> MetricFacts:
        """What the measure says of its values."""
        return self.facts or known_metric(self.metric).facts

    def __repr__(self) -> str:
        shape = f"{len(self.rows)} × {len(self.cols)} layers"
        return f"SimilarityMatrix({self.metric}, {self.row_model} × {self.col_model}, {shape}, n = {self.n:,})"

    def _repr_png_(self) -> bytes:
        """The heatmap, for what shows no HTML."""
        buffer = io.BytesIO()
        self._draw(buffer)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """What a notebook shows: the heatmap and the cautions."""
        i, j, value = next(iter(sorted(self.best(), key=lambda found: found[2] * self._sign)), ("none", "none", np.nan))
        alt = f"Heatmap of {self!r}; most alike are {i} and {j} with {value:.3f}."
        return note(repr(self), picture_html(self._repr_png_(), alt), self.cautions)

    def __getitem__(self, layers: tuple[str, str]) -> float:
        """The value of a layer of the first side and one of the second: `matrix["layer1.0", "layer2.0"]`.

        Raises:
            KeyError: An unknown layer.
        """
        if not isinstance(layers, tuple) or len(layers) != 2:
            advice = 'Write matrix["layer1.0", "layer2.0"]'
            raise KeyError(message("SimilarityMatrix", "two layers must be named", shown(layers), advice))
        i, j = (_places(layer, known)[0] for layer, known in zip(layers, (self.rows, self.cols), strict=True))
        return float(self.values[i, j])

    def sel(
        self, *, rows: str | Sequence[str] | None = None, cols: str | Sequence[str] | None = None
    ) -> "SimilarityMatrix":
        """The matrix of some layers, named by names or globs: `matrix.sel(rows="layer3.*")`.

        Args:
            rows: Of the first side; None takes all.
            cols: Of the second side.

        Returns:
            The part, layers in their order.

        Raises:
            KeyError: A name or glob without a layer.
        """
        chosen = []
        for asked, known in ((rows, self.rows), (cols, self.cols)):
            names = known if asked is None else [asked] if isinstance(asked, str) else asked
            chosen.append(sorted({place for name in names for place in _places(name, known)}))
        return self.taken(*chosen)

    def best(self) -> list[tuple[str, str, float]]:
        """(row layer, column layer, value): for each row the column most alike; rows without a number are left out."""
        found = []
        for row, values in zip(self.rows, self.values, strict=True):
            if not np.isnan(values).all():
                j = int(np.nanargmin(self._sign * values))
                found.append((row, self.cols[j], float(values[j])))
        return found

    @property
    def _sign(self) -> int:
        """Times a value, smaller is more alike."""
        return -1 if self.definition.kind == "similarity" else 1

    def save_picture(self, path: str | Path) -> Path:
        """Writes the heatmap as a PNG, PDF or SVG (by the suffix), whole or not at all."""
        with whole_file(path) as temporary:
            self._draw(temporary)
        return Path(path)

    def _draw(self, target: "io.BytesIO | Path") -> None:
        from repsim.plots import picture

        picture(self).savefig(target, dpi=150)

    def taken(self, rows: Sequence[int], cols: Sequence[int]) -> "SimilarityMatrix":
        """The matrix of some layers, by number, in the order given."""
        cells = np.ix_(rows, cols)
        at = {(int(i), int(j)): (a, b) for a, i in enumerate(rows) for b, j in enumerate(cols)}
        return replace(
            self,
            values=self.values[cells],
            rows=tuple(self.rows[i] for i in rows),
            cols=tuple(self.cols[j] for j in cols),
            details={name: array[cells] for name, array in self.details.items()},
            reasons={at[cell]: why for cell, why in self.reasons.items() if cell in at},
            tasks={name: part.taken(rows, cols) for name, part in self.tasks.items()},
        )

    def matched(self) -> list[tuple[str, str, float]]:
        """(row layer, column layer, value) of layers that correspond: by place in stages, then by relative depth."""
        sides = (self.provenance.get(side, {}) for side in ("rows", "cols"))
        index = matched_layers(self.rows, self.cols, same=same_architecture(*sides))
        return [(self.rows[i], self.cols[j], float(self.values[i, j])) for i, j in index]

    def to_frame(self) -> "pd.DataFrame":
        """One row per pair of layers, with the value, every detail, n and the reason of a NaN."""
        import pandas as pd

        r, c = self.values.shape
        table = {
            "row_model": [self.row_model] * (r * c),
            "row_layer": np.repeat(self.rows, c),
            "col_model": [self.col_model] * (r * c),
            "col_layer": np.tile(self.cols, r),
            "metric": [self.metric] * (r * c),
            "value": self.values.ravel(),
            "n": [self.n] * (r * c),
            **{name: array.ravel() for name, array in self.details.items()},
            "reason": [self.reasons.get((i, j), "") for i in range(r) for j in range(c)],
        }
        return pd.DataFrame(table)

    def to_xarray(self) -> "xarray.Dataset":
        """Values and details over the dimensions `row` and `col`, named by layers; needs the package xarray.

        Raises:
            ImportError: xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            advice = 'Install it with pip install "repsim-toolkit[xarray]"'
            raise ImportError(message("to_xarray", "xarray must be installed", "no such package", advice)) from error
        arrays = {"value": (("row", "col"), self.values)} | {n: (("row", "col"), a) for n, a in self.details.items()}
        facts = {"metric": self.metric, "row_model": self.row_model, "col_model": self.col_model, "n": self.n}
        coordinates = {"row": list(self.rows), "col": list(self.cols)}
        return xarray.Dataset(arrays, coordinates, {**facts, "cautions": list(self.cautions)})

    def save(self, path: str | Path) -> Path:
        """Writes everything to one .npz without pickle, whole or not at all; `load` reads it back.

        Raises:
            OSError: The file could not be written; what stood there is untouched.
        """
        arrays: dict[str, np.ndarray] = {}
        write_archive(path, _pack(self, "", arrays), arrays)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "SimilarityMatrix":
        """Reads a file of `save`. Nothing in it is executed.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a file of `save`, or a damaged one.
        """
        again = "Make it again with compare(...).save(path)"
        return read_archive(
            path, lambda facts, arrays: _unpack(cls, facts, "", arrays), function="SimilarityMatrix.load", again=again
        )


_FACTS = ("rows", "cols", "metric", "row_model", "col_model", "n", "cautions", "provenance")


def _places(asked: str, known: Sequence[str]) -> list[int]:
    """Numbers of the layers that a name or a glob means."""
    exact = [k for k, name in enumerate(known) if name == asked]
    found = exact or [k for k, name in enumerate(known) if fnmatchcase(name, str(asked))]
    if not found:
        advice = did_you_mean(str(asked), known)
        raise KeyError(message("SimilarityMatrix", "the layer must exist", shown(asked), advice))
    return found


def _check_numbers(arrays: Mapping[str, np.ndarray], n: Any) -> None:
    """Similarities and what stands beside them are real numbers, of so many samples as there can be."""
    for name, array in arrays.items():
        if array.dtype.kind not in ("f" if name == "values" else "fiub"):
            must, got = f"{name} must be real numbers", str(array.dtype)
            raise ValueError(message("SimilarityMatrix", must, got, "Pass float64"))
    if type(n) is not int or n < 0:
        raise ValueError(
            message("SimilarityMatrix", "n must be a number of samples", shown(n), "Pass how many there are")
        )


def _pack(matrix: "SimilarityMatrix", prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Puts a matrix's arrays under `prefix`, its tasks' below it; returns what is not an array."""
    arrays[f"{prefix}values"] = matrix.values
    arrays |= {f"{prefix}details/{name}": array for name, array in matrix.details.items()}
    facts: dict[str, Any] = {name: getattr(matrix, name) for name in _FACTS}
    facts["reasons"] = [[i, j, text] for (i, j), text in matrix.reasons.items()]
    if matrix.facts is not None:
        facts["facts"] = {**asdict(matrix.facts), "invariances": sorted(matrix.facts.invariances)}
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
    own = facts.get("facts")
    if own is not None:  # as JSON has them
        pairs = {name: tuple(own[name]) for name in ("bounds", "display")}
        given["facts"] = MetricFacts(**{**own, **pairs, "invariances": frozenset(own["invariances"])})
    return kind(
        values=arrays[f"{prefix}values"],
        details={k.removeprefix(details): array for k, array in arrays.items() if k.startswith(details)},
        reasons={(i, j): text for i, j, text in facts["reasons"]},
        tasks={name: _unpack(kind, part, f"{prefix}task{k}/", arrays) for k, (name, part) in tasks},
        **given,
    )
