"""Three lines to take away from a run, made of its own numbers."""

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from repsim.similarity.matrix import SimilarityMatrix
from repsim.studies.report.run_files import RunFiles

_LINES = 3


def takeaways(run: RunFiles) -> list[str]:
    """The first lines of what a run found: three at most.

    A study's are the first sentences of its findings, which say no more than their intervals carry; a comparison's are
    made of the matched layers.
    """
    if run.findings:
        groups = [str(name) for name in run.facts.get("groups", ())]
        first = [_headline(finding.reading, groups) for finding in run.findings if finding.reading]
        more = [sentence for finding in run.findings for sentence in finding.reading]
        return list(dict.fromkeys([*first, *more]))[:_LINES]
    told = [line for line in run.text.splitlines() if line.startswith("At ")]
    if told:  # the demo's, whose last lines are of the last block
        return [*told[-2:], run.text.strip().rpartition("\n")[2]][:_LINES]
    lines = [sentence(matrix) for matrix in run.matrices.values()]
    if not lines:  # of a version that kept its reading as text alone: a title, and sentences below it
        return [line.strip() for line in run.text.splitlines() if line.startswith("  ")][:_LINES]
    if len(lines) < _LINES:
        lines += [line for matrix in run.matrices.values() for line in _beside(matrix)]
    return lines[:_LINES]


def _headline(reading: Sequence[str], groups: Sequence[str]) -> str:
    """The first sentence that holds two groups against each other; where there is none, the first of all."""
    for text in reading:
        if sum(bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)) for name in groups) > 1:
            return text
    return reading[0]


def sentence(matrix: SimilarityMatrix) -> str:
    """What a matrix says in one sentence: its matched layers, and the pair that is most alike."""
    title = f"{matrix.definition.title}, {matrix.row_model} × {matrix.col_model}"
    alone = matrix.row_model == matrix.col_model and matrix.rows == matrix.cols
    matched = [value for *_, value in matrix.matched() if not math.isnan(value)]
    best = matrix.best()
    if len(best) == 0:
        return f"{title}: no cell has a number."
    sign = -1 if matrix.definition.kind == "similarity" else 1
    row, col, value = min(best, key=lambda found: sign * found[2])
    parts = []
    if alone and len(matrix.rows) > 1:  # a layer with itself says nothing
        others = matrix.values[~np.eye(len(matrix.rows), dtype=bool)]
        parts.append(f"{np.nanmean(others):.3f} on average over different layers" if np.isfinite(others).any() else "")
    elif matched:
        span = f"{min(matched):.3f} to {max(matched):.3f}"
        parts.append(f"{np.mean(matched):.3f} on average over {len(matched)} matched layers ({span})")
    if not alone:
        parts.append(f"most alike are {row} and {col} with {value:.3f}")
    return f"{title}: {'; '.join(filter(None, parts)) or f'{len(best)} layers'}; n = {matrix.n:,}."


def _beside(matrix: SimilarityMatrix) -> Iterator[str]:
    """Chance, cells without numbers, and how many cautions there are."""
    details, title = matrix.details, matrix.definition.title
    chance = details.get("chance", details.get("null_mean"))
    if chance is not None and "ci_low" in details and "ci_high" in details:
        inside = int(((details["ci_low"] <= chance) & (chance <= details["ci_high"])).sum())
        yield f"{title}: in {inside:,} of {matrix.values.size:,} pairs of layers the interval includes chance."
    if matrix.reasons:
        why = next(iter(matrix.reasons.values()))
        yield f"{title}: {len(matrix.reasons):,} of {matrix.values.size:,} pairs have no number: {why}."
    if matrix.cautions:
        first, *others = matrix.cautions
        more = f", and {len(others)} more" if others else ""
        yield f"{title}, to be read with care: {first}{more}."
