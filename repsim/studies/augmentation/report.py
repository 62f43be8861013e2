"""What the numbers of judged strategies say, sentence by sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from repsim.studies.augmentation.pair_statistics import Numbers
from repsim.studies.augmentation.ranks import LEAST_GROUPS, LEAST_NETWORKS
from repsim.studies.augmentation.tables import accuracy_alone, score_of

if TYPE_CHECKING:
    from pandas import DataFrame

#: Measure -> what sentences call it, and whether less of it is more alike.
_ORDERED = {"td": ("TD", True), "td_ratio": ("TD ratio", True), "cka": ("CKA", False)}

_CALLED = {"td": "TD", "td_ratio": "TD ratio", "td_tasks": "mean TD over tasks", "cka": "CKA"}

_CALLED |= {
    "accuracy": "accuracy",
    "probe_accuracy": "accuracy of linear heads",
    "error_consistency": "error consistency",
}


def reading(
    judged: Mapping[str, Numbers], differences: "DataFrame", correlations: "DataFrame", reasons: Mapping[str, str]
) -> tuple[str, ...]:
    """The sentences.

    Args:
        judged: Strategy -> its numbers.
        differences: Of every strategy from the reference.
        correlations: Of accuracy with the measures.
        reasons: Strategy -> why a number of it is missing.
    """
    said = [f"{name}: a number is missing: {why}." for name, why in reasons.items()]
    said += _orders(judged)
    read = (score_of(judged), "td_ratio", "td")
    said += [_against(differences, name, read) for name in differences["strategy"].unique()] if len(differences) else []
    said += _correlated(judged, correlations)
    said += _accuracy_alone(judged)
    fewest = min(own["td"].networks for own in judged.values())
    said.append(
        f"With {fewest} networks of each strategy there is one pair, and no standard error."
        if fewest < LEAST_NETWORKS
        else "Intervals of differences hold 95 % over the choice of networks, by leaving out one at a time; each is "
        "for one comparison alone, and what is said to lie beyond its uncertainty is corrected by Holm over the "
        "accuracies and TD ratios of all strategies. They do not cover the choice of images or of the downstream task."
    )
    said.append(
        "A raw TD is mostly accuracy: two worse heads disagree more often even where their errors are as alike. Read "
        "it with its ratio, TD as a share of what independent errors of the same accuracies would give."
    )
    return tuple(said)


def _orders(judged: Mapping[str, Numbers]) -> list[str]:
    """The strategies from best to worst by each number."""
    score = score_of(judged)
    called = "own heads" if score == "accuracy" else "linear heads, as the networks give no classes"
    said = [f"Most accurate first ({called}): {_order(judged, score, False)}."]
    said += [
        f"Most alike first, by {name}: {_order(judged, measure, less)}." for measure, (name, less) in _ORDERED.items()
    ]
    swapped, pairs = _swapped(judged)
    if pairs:
        said.append(f"TD and TD ratio put {swapped} of {pairs} pairs of strategies in another order.")
    return said


def _order(judged: Mapping[str, Numbers], measure: str, less_first: bool) -> str:
    values = {name: own[measure].estimate.value for name, own in judged.items()}
    known = [name for name in values if not math.isnan(values[name])]
    order = sorted(known, key=lambda name: values[name] if less_first else -values[name])
    missing = [f"{name} (no number)" for name in values if name not in known]
    return ", ".join([*order, *missing])


def _swapped(judged: Mapping[str, Numbers]) -> tuple[int, int]:
    """How many pairs of strategies TD and TD ratio put in opposite orders, of how many."""
    values = [(own["td"].estimate.value, own["td_ratio"].estimate.value) for own in judged.values()]
    pairs = [(x, y) for i, x in enumerate(values) for y in values[:i] if not math.isnan(x[0] + x[1] + y[0] + y[1])]
    return sum((x[0] - y[0]) * (x[1] - y[1]) < 0 for x, y in pairs), len(pairs)


def _against(differences: "DataFrame", strategy: str, measures: Sequence[str]) -> str:
    """One strategy beside the reference: of raw TD, which follows accuracy, nothing is claimed."""
    rows = differences[differences["strategy"] == strategy].set_index("measure")
    parts = []
    for measure in measures:
        row = rows.loc[measure]
        text = f"{_CALLED[measure]} {row['difference']:+.4f}"
        if not math.isnan(row["ci_low"]):
            text += f" [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]"
        if measure != "td":
            text += f", {row['verdict']}"
        elif not math.isnan(row["by_accuracy"]):
            text += f", of which the other accuracy alone would change {row['by_accuracy']:+.4f}"
        parts.append(text)
    return f"{strategy} against {rows['against'].iloc[0]}: {'; '.join(parts)}."


def _correlated(judged: Mapping[str, Numbers], correlations: "DataFrame") -> list[str]:
    """Whether accuracy and the measures come in the same order."""
    if len(judged) < LEAST_GROUPS:
        return [f"{len(judged)} strategies are too few for a rank correlation; it takes {LEAST_GROUPS}."]
    parts = []
    for row in correlations.to_dict("records"):
        if row["with"] in _ORDERED:
            text = f"{_CALLED[row['with']]} {row['spearman']:+.2f}"
            if not math.isnan(row["spearman_low"]):
                text += f" ({row['spearman_low']:+.2f} to {row['spearman_high']:+.2f} over resampled networks)"
            parts.append(text + f" (Kendall {row['kendall']:+.2f})")
    if not parts:
        return []
    meaning = "-1 for a distance and +1 for CKA mean that more accurate strategies make networks more alike"
    said = [
        f"Rank correlation of accuracy over {len(judged)} strategies, Spearman, with {', '.join(parts)}; {meaning}."
    ]
    if "over resampled networks" in said[0]:
        said.append(
            "Where rank correlations move over resampled networks is no confidence interval: a resample adds the "
            "noise of the seeds once more and blurs a clear order, so the range lies too near to 0."
        )
    return said


def _accuracy_alone(judged: Mapping[str, Numbers]) -> list[str]:
    together = accuracy_alone(judged)
    if math.isnan(together):
        return []
    expected = "what independent errors of the same accuracies would give"
    if together <= 0:
        return [f"Accuracy does not explain TD here: over {len(judged)} strategies TD does not rise with {expected}."]
    variance = f"{100 * together**2:.0f} % of the variance of the {len(judged)} strategies' TDs (R²)"
    return [f"How much of TD is accuracy: a line through {expected} explains {variance}."]
