"""The tables of strategies judged by TD: one row per strategy, per difference, per correlation, per layer and task."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim.studies.augmentation.pair_statistics import Numbers, PairStatistics
from repsim.studies.augmentation.ranks import LEAST_GROUPS, rank_correlation
from repsim.studies.common.claims import claims

if TYPE_CHECKING:
    from pandas import DataFrame

#: The numbers of a strategy in the order of the table, where they are known.
COLUMNS = (
    "accuracy",
    "train_accuracy",
    "gap",
    "probe_accuracy",
    "td",
    "td_ratio",
    "error_consistency",
    "td_tasks",
    "cka",
    "floor",
    "excess",
    "outputs_disagree",
)

#: Which of them are held against accuracy, and each strategy's against the reference's.
COMPARED = ("td", "td_ratio", "td_tasks", "error_consistency", "cka")


def score_of(judged: Mapping[str, Numbers]) -> str:
    """What strategies are ordered by: of the networks' own heads, or of the probes where they have none."""
    return "accuracy" if all("accuracy" in own for own in judged.values()) else "probe_accuracy"


def main_table(judged: Mapping[str, Numbers], asked: int) -> "DataFrame":
    """One row per strategy: every number with its standard error over networks."""
    import pandas as pd

    rows = []
    for name, own in judged.items():
        count = own["td"].networks
        row: dict[str, Any] = {"strategy": name, "networks": count, "pairs": count * (count - 1) // 2, "n_test": asked}
        for column in COLUMNS:
            if column in own:
                row |= {column: own[column].estimate.value, f"{column}_se": own[column].estimate.error}
        rows.append(row)
    return pd.DataFrame(rows)


def network_table(judged: Mapping[str, Numbers], names: Mapping[str, Sequence[str]]) -> "DataFrame":
    """One row per network: what is known of each alone."""
    import pandas as pd

    alone = ("accuracy", "train_accuracy", "probe_accuracy", "floor")
    return pd.DataFrame(
        [
            {"strategy": name, "network": network}
            | {column: float(own[column].above[i]) for column in alone if column in own}
            for name, own in judged.items()
            for i, network in enumerate(names[name])
        ]
    )


def differences(judged: Mapping[str, Numbers], reference: str) -> "DataFrame":
    """Every strategy less the reference: each difference one jackknifed statistic of both groups of networks.

    `by_accuracy` stands beside a difference of TD: r₀ (I − I₀), what the other accuracy alone would change at the
    reference's TD ratio r₀, with I the TD of independent errors. The rest of the difference is I (r − r₀).
    `p_holm` and `verdict` are of accuracy and the TD ratio alone, corrected over these of all strategies.
    """
    import pandas as pd

    base = judged[reference]
    asked = {
        (name, measure): own[measure].less(base[measure])
        for name, own in judged.items()
        for measure in (score_of(judged), *COMPARED)
        if name != reference and measure in own
    }
    # Raw TD and CKA follow accuracy: nothing is claimed of them.
    read = [pair for pair in asked if pair[1] in (score_of(judged), "td_ratio")]
    claimed = dict(zip(read, claims([asked[pair] for pair in read]), strict=True))
    rows = []
    for (name, measure), found in asked.items():
        low, high = found.interval()
        row = {"strategy": name, "against": reference, "measure": measure, "difference": found.value}
        row |= {"standard_error": found.error, "ci_low": low, "ci_high": high, "p": found.p}
        if (name, measure) in claimed:
            claim = claimed[name, measure]
            row |= {"p_holm": claim.adjusted, "verdict": claim.standing}
        if measure == "td":
            ratio = base["td_ratio"].estimate.value
            row["by_accuracy"] = ratio * judged[name]["independent"].less(base["independent"]).value
        rows.append(row)
    return pd.DataFrame(rows)


def correlations(judged: Mapping[str, Numbers], *, seed: int) -> "DataFrame":
    """Rank correlations of accuracy with each measure over strategies; without rows for fewer than four of them."""
    import pandas as pd

    score = score_of(judged)
    rows = []
    for measure in COMPARED:
        if any(measure not in own for own in judged.values()):
            continue
        found = rank_correlation(
            [own[score] for own in judged.values()], [own[measure] for own in judged.values()], seed=seed
        )
        if found is not None:
            rows.append({"of": score, "with": measure, "strategies": len(judged), **vars(found)})
    return pd.DataFrame(rows)


def accuracy_alone(judged: Mapping[str, Numbers]) -> float:
    """Pearson correlation of the strategies' TDs with what independent errors of the same accuracies would give.

    NaN for fewer than four strategies, or where one of the two does not vary.
    """
    td, alone = (np.array([own[name].estimate.value for own in judged.values()]) for name in ("td", "independent"))
    if len(td) < LEAST_GROUPS or np.isnan(td).any() or np.ptp(td) == 0 or np.ptp(alone) == 0:
        return math.nan
    return float(np.corrcoef(td, alone)[0, 1])


def layer_table(counted: PairStatistics) -> "DataFrame":
    """One row per task, layer and strategy, with the reason where a number is missing."""
    import pandas as pd

    names = ("probe_accuracy", "td", "td_ratio", "error_consistency", "cka", "floor", "excess")
    rows = []
    for (task, layer), groups in counted.numbers.items():
        for strategy, own in groups.items():
            row: dict[str, Any] = {"task": task, "layer": layer, "strategy": strategy}
            for name in names:
                if name in own:
                    row |= {name: own[name].estimate.value, f"{name}_se": own[name].estimate.error}
            rows.append(row | {"reason": counted.reasons.get((task, layer, strategy), "")})
    return pd.DataFrame(rows)
