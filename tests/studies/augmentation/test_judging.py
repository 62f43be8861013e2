"""Augmentation strategies judged by TD: known answers, standard errors, readings, pictures, what is refused."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from scipy.stats import t as student

import repsim
from repsim import Activations, ImageSet, Network
from repsim.metrics import TD
from repsim.plots.study_strategies import accuracy_scatter, layer_heatmaps
from repsim.studies.augmentation.features import Task
from repsim.studies.augmentation.judging import Judgement, judge, judged
from repsim.studies.augmentation.pair_statistics import StrategyFeatures
from repsim.studies.augmentation.ranks import correlations, rank_correlation
from repsim.studies.augmentation.tables import accuracy_alone
from repsim.studies.common.claims import claims
from repsim.studies.common.network_means import NetworkMean
from tests.conftest import exactly
from tests.oracles import augmentation as oracle
from tests.support.pictures import assert_apart, assert_inside, no_windows

__all__ = ["no_windows"]

CLASSES, FITTED, ASKED = 4, 80, 120
TRUTH = np.tile(np.arange(CLASSES), (FITTED + ASKED) // CLASSES)
#: Heads without the noise floor: what takes the time.
PLAIN = TD(resamples=0)


def answers(wrong: float, networks: int, seed: int, shared: float = 0.0) -> np.ndarray:
    """(s, m) answers to the asked rows, a share of them wrong; a share of the wrong ones common to all networks."""
    rng = np.random.default_rng(seed)
    truth = TRUTH[FITTED:]
    common = rng.random(ASKED) < wrong * shared
    said = []
    for _ in range(networks):
        own = common | (rng.random(ASKED) < wrong * (1 - shared))
        said.append(np.where(own, (truth + rng.integers(1, CLASSES, ASKED)) % CLASSES, truth))
    return np.array(said)


def sides(said: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray] | None = None) -> StrategyFeatures:
    """Networks whose heads must give these answers: each layer's rows are corners, one for each answer.

    Args:
        said: Strategy -> (s, m) answers of the heads at the last layer.
        own: What the networks' own heads answer to all rows; None is the same as the heads do, and right when fitted.
    """
    groups = {}
    for name, group in said.items():
        groups[name] = []
        for i, each in enumerate(group):
            corner = np.concatenate([TRUTH[:FITTED], each])
            first = np.eye(CLASSES, dtype=np.float32)[TRUTH] + 0.01 * (i + 1)
            features = {"block1": first, "block2": np.eye(CLASSES, dtype=np.float32)[corner]}
            head = corner if own is None else own[name][i]
            outputs = 10.0 * np.eye(CLASSES, dtype=np.float32)[head]
            side = Activations.from_arrays(features, labels=TRUTH, outputs=outputs, name=f"{name}/seed-{i}")
            groups[name].append(replace(side, provenance={"record": {"seed": i}}))
    return StrategyFeatures(groups, FITTED, {"labels": torch.from_numpy(TRUTH)})


# --- Numbers --------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_answers() -> None:
    said = {"none": answers(0.1, 4, 1), "flip": answers(0.3, 4, 2, shared=0.5)}
    found = judged([sides(said)], PLAIN, {})
    truth = TRUTH[FITTED:]
    assert found.layer == "block2"
    for name, group in said.items():
        row = found.table.set_index("strategy").loc[name]
        for number in ("td", "td_ratio", "error_consistency"):
            assert row[number] == pytest.approx(oracle.pair_numbers(group, truth, CLASSES)[number], abs=1e-12)
            error = oracle.jackknife_error(group, truth, CLASSES, number)
            assert row[f"{number}_se"] == pytest.approx(error, abs=1e-12)
        accuracies = (group == truth).mean(1)
        for number in ("accuracy", "probe_accuracy"):
            assert row[number] == pytest.approx(accuracies.mean(), abs=1e-12)
            assert row[f"{number}_se"] == pytest.approx(accuracies.std(ddof=1) / 2, abs=1e-12)
        assert row["outputs_disagree"] == pytest.approx(row["td"], abs=1e-12)
        assert row[["networks", "pairs", "n_test", "train_accuracy"]].tolist() == [4, 6, ASKED, 1.0]
        assert row["gap"] == pytest.approx(1 - accuracies.mean(), abs=1e-12)


def test_own_heads_are_not_the_probes() -> None:
    said = {"none": answers(0.2, 3, 1), "flip": answers(0.2, 3, 2)}
    right = {name: np.tile(TRUTH, (3, 1)) for name in said}
    row = judged([sides(said, right)], PLAIN, {}).table.set_index("strategy").loc["none"]
    assert row[["accuracy", "gap", "outputs_disagree"]].tolist() == [1.0, 0.0, 0.0]
    assert row["td"] == pytest.approx(oracle.pair_numbers(said["none"], TRUTH[FITTED:], CLASSES)["td"], abs=1e-12)


def test_differences_are_one_statistic_and_split_into_accuracy_and_the_rest() -> None:
    said = {"mixup": answers(0.05, 5, 3), "none": answers(0.15, 5, 4, shared=0.4), "flip": answers(0.4, 5, 5)}
    found = judged([sides(said)], PLAIN, {})
    truth, rows = TRUTH[FITTED:], found.parts[0].tables["differences"].set_index(["strategy", "measure"])
    assert set(rows["against"]) == {"none"}
    base = oracle.pair_numbers(said["none"], truth, CLASSES)
    for name in ("mixup", "flip"):
        own = oracle.pair_numbers(said[name], truth, CLASSES)
        for number in ("td", "td_ratio", "error_consistency"):
            row = rows.loc[name, number]
            assert row["difference"] == pytest.approx(own[number] - base[number], abs=1e-12)
            error = oracle.difference_error(said[name], said["none"], truth, CLASSES, number)
            assert row["standard_error"] == pytest.approx(error, abs=1e-12)
            half = 2.7764451051977934 * error  # Student's with 4 degrees of freedom
            assert row["ci_high"] - row["difference"] == pytest.approx(half, abs=1e-9)
            assert row["p"] == pytest.approx(2 * student.sf(abs(row["difference"]) / error, 4), abs=1e-9)
            if number != "td_ratio":
                assert math.isnan(row["p_holm"])
                assert not isinstance(row["verdict"], str)
                continue
            assert row["p_holm"] >= row["p"]
            inside = row["ci_low"] <= 0 <= row["ci_high"]
            beyond = {True: "inside its uncertainty", False: "beyond its uncertainty"}[inside]
            held = inside or row["p_holm"] < 0.05
            assert row["verdict"].startswith(beyond if held else "not enough after the correction")
        rest = own["independent"] * (own["td_ratio"] - base["td_ratio"])
        td = rows.loc[name, "td"]
        assert td["by_accuracy"] + rest == pytest.approx(td["difference"], abs=1e-12)


def test_td_agrees_with_compare_many_and_cka_with_it_too(digits: ImageSet) -> None:
    train, test = digits.take(range(100)), digits.take(range(100, 150))
    found = judge(untrained("none", "flip"), train, test, metric=PLAIN)
    both = {str(s): side for s, side in enumerate(extracted(untrained("none")["none"], train, test))}
    metric = replace(PLAIN, fit_rows=tuple(range(100)))
    td = repsim.compare_many(both, metric, layers=found.layer).values
    asked = {name: Activations.from_arrays({found.layer: side[found.layer][100:]}) for name, side in both.items()}
    cka = repsim.compare_many(asked, "cka", layers=found.layer).values
    upper = np.triu_indices(3, 1)
    row = found.table.set_index("strategy").loc["none"]
    assert row["td"] == pytest.approx(td[upper].mean(), abs=1e-12)
    assert row["cka"] == pytest.approx(cka[upper].mean(), abs=1e-6)


def test_the_floor_and_the_excess_stand_beside_td() -> None:
    table = judged([sides({"none": answers(0.2, 3, 1), "flip": answers(0.2, 3, 2)})], TD(), {}).table
    assert table["floor"].tolist() == [0.0, 0.0]  # corners: every resample answers alike
    assert table["excess"].to_numpy() == pytest.approx(table["td"].to_numpy(), abs=1e-12)
    assert "floor" not in judged([sides({"none": answers(0.2, 3, 1)})], PLAIN, {}).table


def test_perfect_heads_have_no_ratio_and_the_rest_stands() -> None:
    said = {"none": np.tile(TRUTH[FITTED:], (3, 1)), "flip": answers(0.2, 3, 2)}
    found = judged([sides(said)], PLAIN, {})
    row = found.table.set_index("strategy").loc["none"]
    assert row["td"] == 0
    assert math.isnan(row["td_ratio"])
    assert "Most alike first, by TD ratio: flip, none (no number)." in found.reading
    rows = found.parts[0].tables["differences"].set_index("measure")
    assert rows.loc["td_ratio", "verdict"] == "no number"


# --- Pairs of drawn networks ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5).filter(lambda c: sum(k > 0 for k in c) >= 2))
def test_a_network_drawn_twice_makes_no_pair_with_itself(counts: list[int]) -> None:
    table = np.random.default_rng(0).random((5, 5))
    table = (table + table.T) / 2
    np.fill_diagonal(table, 0.0)
    weights = np.array([counts], dtype=float)
    found = NetworkMean(table).under(weights)[0]
    assert found == pytest.approx(oracle.weighted_pair_mean(table, weights[0]), abs=1e-12)
    assert NetworkMean(np.full((5, 5), 0.3)).under(weights)[0] == pytest.approx(0.3, abs=1e-12)


def test_one_network_has_no_pairs() -> None:
    assert math.isnan(NetworkMean(np.ones((3, 3))).of([1]))
    assert NetworkMean(np.array([1.0, 2, 3])).of([1]) == 2


def test_two_networks_have_a_value_and_no_error() -> None:
    estimate = NetworkMean(np.full((2, 2), 0.25)).estimate
    assert estimate.value == 0.25
    assert math.isnan(estimate.error)
    assert claims([estimate])[0].standing == "no claim without an interval"


def test_equal_strategies_differ_inside_their_uncertainty() -> None:
    """Both groups are drawn from one distribution of answers: a difference may be claimed in one case of twenty."""
    inside = {"td": 0, "td_ratio": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hard = rng.beta(0.3, 2, ASKED)  # how often each image is answered wrongly, alike for all networks
        skill = rng.normal(0, 0.03, 10)
        wrong = rng.random((10, ASKED)) < np.clip(hard + skill[:, None], 0, 1)
        truth = TRUTH[FITTED:]
        said = np.where(wrong, (truth + rng.integers(1, CLASSES, (10, ASKED))) % CLASSES, truth)
        td = (said[:, None] != said).mean(2)
        a = (said == truth).mean(1)
        alone = 1 - np.outer(a, a) - np.outer(1 - a, 1 - a) / (CLASSES - 1)
        for name, below in (("td", None), ("td_ratio", alone)):
            parts = [NetworkMean(td[g, g], None if below is None else below[g, g]) for g in (slice(5), slice(5, 10))]
            inside[name] += not claims([parts[0].less(parts[1])])[0].holds
    assert min(inside.values()) >= 180


# --- Rank correlations ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=4, max_size=9))
def test_rank_correlations_are_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    rho, tau = (float(c[0]) for c in correlations(x[None], y[None]))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(rho)
        assert math.isnan(tau)
    else:
        assert rho == pytest.approx(spearmanr(x, y)[0], abs=1e-12)
        assert tau == pytest.approx(kendalltau(x, y)[0], abs=1e-12)


def levels(values: Sequence[float], spread: float, networks: int = 5, seed: int = 0) -> list[NetworkMean]:
    rng = np.random.default_rng(seed)
    return [NetworkMean(v + spread * rng.standard_normal(networks)) for v in values]


def test_an_order_that_no_draw_changes_has_a_narrow_interval_and_noise_a_wide_one() -> None:
    x = levels([1, 2, 3, 4, 5], 1e-6)
    sure = rank_correlation(x, levels([5, 4, 3, 2, 1], 1e-6))
    assert sure is not None
    assert sure.spearman == sure.spearman_low == sure.spearman_high == pytest.approx(-1)
    assert sure.kendall_high == pytest.approx(-1)
    unsure = rank_correlation(x, levels([0] * 5, 1.0, seed=3))
    assert unsure is not None
    assert unsure.spearman_high - unsure.spearman_low > 0.8
    assert unsure == rank_correlation(x, levels([0] * 5, 1.0, seed=3))


def test_few_strategies_have_no_correlation_and_few_networks_no_interval() -> None:
    assert rank_correlation(levels([1, 2, 3], 0.1), levels([1, 2, 3], 0.1)) is None
    two = rank_correlation(levels([1, 2, 3, 4], 0.1, networks=2), levels([1, 2, 3, 4], 0.1, networks=2))
    assert two is not None
    assert two.spearman == pytest.approx(1)
    assert math.isnan(two.spearman_low)
    assert rank_correlation(levels([1, 2, 3, math.nan], 0.1), levels([1, 2, 3, 4], 0.1)) is None


# --- Readings -------------------------------------------------------------------------------------------------


def test_the_reading_of_a_harmful_strategy_whose_td_is_accuracy_alone() -> None:
    """Errors that are independent and evenly spread: TD is what the accuracies give, and the ratio stays near 1."""
    said = {name: answers(wrong, 6, seed) for seed, (name, wrong) in enumerate(STRENGTHS.items())}
    found = judged([sides(said)], PLAIN, {})
    text = found.reading
    assert text[0] == "Most accurate first (own heads): noise, none, crop, flip."
    assert text[1] == "Most alike first, by TD: noise, none, crop, flip."
    assert re.fullmatch(r"TD and TD ratio put \d of 6 pairs of strategies in another order\.", text[4])
    flip = next(sentence for sentence in text if sentence.startswith("flip against none"))
    pattern = (
        r"flip against none: accuracy -0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\], beyond its uncertainty; TD ratio "
        r"[+-]0\.\d{4} \[-0\.\d{4}, \+0\.\d{4}\], inside its uncertainty; TD \+0\.\d{4} \[\+0\.\d{4}, "
        r"\+0\.\d{4}\], of which the other accuracy alone would change \+0\.\d{4}\."
    )
    assert re.fullmatch(pattern, flip)
    ranks = next(sentence for sentence in text if sentence.startswith("Rank correlation of accuracy over 4"))
    assert re.search(r"TD -1\.00 \(-1\.00 to -(1\.00|0\.80) over resampled networks\) \(Kendall -1\.00\)", ranks)
    share = next(sentence for sentence in text if sentence.startswith("How much of TD is accuracy"))
    assert "explains 100 % of the variance of the 4 strategies' TDs (R²)." in share or "explains 99 %" in share
    assert accuracy_alone(found.strategies) > 0.98


STRENGTHS = {"none": 0.12, "noise": 0.02, "crop": 0.25, "flip": 0.5}


def test_too_few_strategies_are_said_to_be() -> None:
    found = judged([sides({"a": answers(0.1, 2, 0), "b": answers(0.3, 2, 1)})], PLAIN, {})
    text = "\n".join(found.reading)
    assert "2 strategies are too few for a rank correlation; it takes 4." in text
    assert "With 2 networks of each strategy there is one pair, and no standard error." in text
    assert "b against a: accuracy -" in text  # no strategy "none": the first one is the reference
    assert "no claim without an interval" in text
    assert "Intervals" not in text
    assert "R²" not in text
    assert len(found.parts[0].tables["correlations"]) == 0


def test_a_td_that_does_not_rise_with_the_errors_is_not_called_accuracy() -> None:
    """The less accurate a strategy, the more of its wrong answers all networks share."""
    said = {str(k): answers(0.15 - 0.04 * k, 5, k) for k in range(4)}
    for k, group in enumerate(said.values()):
        group[:, : 25 * k] = (TRUTH[FITTED:][: 25 * k] + 1) % CLASSES
    text = "\n".join(judged([sides(said)], PLAIN, {}).reading)
    why = "over 4 strategies TD does not rise with what independent errors of the same accuracies would give."
    assert f"Accuracy does not explain TD here: {why}" in text
    assert "R²" not in text


def test_one_strategy_alone_has_its_row_and_no_differences() -> None:
    found = judged([sides({"mixup": answers(0.1, 3, 0)})], PLAIN, {})
    assert found.table["strategy"].tolist() == ["mixup"]
    assert len(found.parts[0].tables["differences"]) == 0


def test_a_number_that_is_missing_has_its_reason_everywhere() -> None:
    asked = sides({"none": answers(0.1, 3, 0), "flip": answers(0.3, 3, 1)})
    broken = asked.sides["flip"][1]
    flat = {layer: torch.ones_like(x) if layer == "block2" else x for layer, x in broken.features.items()}
    group = [asked.sides["flip"][0], replace(broken, features=flat), asked.sides["flip"][2]]
    found = judged([replace(asked, sides={**asked.sides, "flip": group})], PLAIN, {})
    why = "flip/seed-0 × flip/seed-1: the column layer has constant features: every sample has the same row"
    assert found.reading[0] == f"flip: a number is missing: {why}."
    assert math.isnan(found.table.set_index("strategy").loc["flip", "td"])
    table = found.parts[1].tables[""].set_index(["layer", "strategy"])
    assert table.loc["block2", "flip"]["reason"] == why
    assert table.loc["block1", "flip"]["reason"] == ""
    assert f"labels, 'block2', flip: {why}." in found.parts[1].reading
    ax = found.parts[1].draw().axes[0]
    assert len([patch for patch in ax.patches if patch.get_hatch() == "////"]) == 1


def test_networks_without_answers_are_ordered_by_the_probes() -> None:
    asked = sides({"none": answers(0.1, 3, 0), "flip": answers(0.3, 3, 1)})
    bare = {name: [replace(side, outputs=None) for side in group] for name, group in asked.sides.items()}
    found = judged([replace(asked, sides=bare)], PLAIN, {})
    assert "accuracy" not in found.table
    assert found.reading[0].startswith("Most accurate first (linear heads, as the networks give no classes): none")
    assert found.parts[0].draw().axes[0].get_xlabel() == "accuracy of the linear heads, test images"
    assert found.layer == "block2"


# --- Tasks ----------------------------------------------------------------------------------------------------


def test_tasks_stand_beside_the_labels_with_their_mean(digits: ImageSet) -> None:
    train, test = digits.take(range(100)), digits.take(range(100, 150))
    other = digits.take(range(50, 150)), digits.take(range(50))
    tasks: dict[str, Task] = {
        "parity": {"even": [0, 2, 4, 6, 8], "odd": [1, 3, 5, 7, 9]},
        "unseen": [8, 9],
        "elsewhere": other,
    }
    found = judge(untrained("none", "flip"), train, test, tasks=tasks, metric=PLAIN, without=[8, 9], layers="layer3.0")
    rows = found.parts[1].tables[""].set_index(["task", "strategy"])
    every = ["labels", "parity", "unseen", "elsewhere"]
    assert list(rows.index.get_level_values(0).unique()) == every
    for name in ("none", "flip"):
        mean = np.mean([rows.loc[(task, name), "td"] for task in every])
        assert found.table.set_index("strategy").loc[name, "td_tasks"] == pytest.approx(mean, abs=1e-12)
    known = ~torch.isin(test.labels, torch.tensor([8, 9]))
    assert set(found.table["n_test"]) == {int(known.sum())}
    assert found.parts[0].protocol["tasks"] == every
    assert found.parts[0].protocol["classes_not_trained_on"] == [8, 9]
    assert len(found.parts[1].draw().axes) == 6  # three panels with their colour bars


def test_heads_are_fitted_on_as_many_images_as_asked(digits: ImageSet) -> None:
    train, test = digits.take(range(100)), digits.take(range(100, 150))
    found = judge(untrained("none"), train, test, metric=PLAIN, fit_limit=60)
    assert found.parts[0].protocol["fitted_on"]["n"] == 60
    assert found.parts[0].protocol["asked_about"] == {"name": test.name, "n": 50, "digest": test.digest}


# --- Between strategies ---------------------------------------------------------------------------------------


def test_strategies_against_each_other_leave_out_pairs_of_one_seed() -> None:
    said = {"none": answers(0.1, 3, 1), "flip": answers(0.3, 3, 2)}
    found = judged([sides(said)], PLAIN, {}, between=True)
    table = found.parts[2].tables[""].set_index(["strategy", "other"])
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    mean = np.mean([(said["none"][i] != said["flip"][j]).mean() for i, j in pairs])
    assert table.loc[("none", "flip"), "td"] == pytest.approx(mean, abs=1e-12)
    assert table.loc[("flip", "none"), "td"] == pytest.approx(mean, abs=1e-12)
    within = found.table.set_index("strategy").loc["flip", ["td", "td_se", "td_ratio", "td_ratio_se"]]
    assert table.loc[("flip", "flip"), within.index].to_numpy() == pytest.approx(
        within.to_numpy(dtype=float), abs=1e-12
    )
    assert found.parts[2].reading[0].startswith(f"none: TD is least to flip, {mean:.4f}")


# --- Files and pictures ---------------------------------------------------------------------------------------


def test_everything_is_written(tmp_path: Path) -> None:
    found = judged([sides({"none": answers(0.1, 3, 0), "flip": answers(0.3, 3, 1)})], PLAIN, {"a": 1}, between=True)
    files = [file.name for file in found.save(tmp_path)]
    tables = ["strategies.csv", "strategies-networks.csv", "strategies-differences.csv", "strategies-correlations.csv"]
    assert files[:6] == ["strategies.png", *tables, "strategies.json"]
    assert files[6:] == ["layers.png", "layers.csv", "layers.json", "between.png", "between.csv", "between.json"]
    text = json.loads((tmp_path / "strategies.json").read_text(encoding="utf-8"))
    assert text["reading"] == list(found.reading)
    assert text["protocol"] == {
        "a": 1,
        "layer": "block2",
        "reference": "none",
        "tasks": ["labels"],
        "corrected_by_holm_over": "accuracy and td_ratio of every strategy less none, at block2",
    }
    back = pd.read_csv(tmp_path / "strategies.csv", keep_default_na=False)  # "none" is a name
    assert back["strategy"].tolist() == ["none", "flip"]
    assert str(found).startswith("2 strategies, 3 networks of each, at 'block2'\n  Most accurate first")


NAMES = ["none", "flip", "crop:4+flip", "cutout", "randaugment", "trivialaugment", "augmix", "mixup"]
NAMES += ["gaussian_noise:0.1", "vertical_flip", "rotation:30", "label_noise:0.2"]


def crowd(names: Sequence[str], closer: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    accuracy = 0.98 - closer * 0.02 * np.arange(len(names)) / len(names) * 12
    table = pd.DataFrame({"strategy": names, "networks": 4, "accuracy": accuracy, "td": 1.05 - accuracy})
    table["td_ratio"] = 0.4 + 0.05 * rng.standard_normal(len(names))
    return table.assign(accuracy_se=0.004, td_se=0.006, td_ratio_se=0.03)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_strategies_are_named_beside_their_points(count: int) -> None:
    figure = accuracy_scatter(crowd(NAMES[:count]), "accuracy")
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert sorted(text.get_text() for text in ax.texts) == sorted(NAMES[:count])
        assert_apart(list(ax.texts))
    assert_inside(figure)
    assert figure.axes[0].get_ylabel() == "TD, share of answers that differ"


def test_where_names_find_no_room_numbers_stand_for_them() -> None:
    names = [f"a strategy with a long name {k}" for k in range(30)]
    figure = accuracy_scatter(crowd(names, closer=0.02), "accuracy")
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert sorted(int(text.get_text()) for text in ax.texts) == list(range(1, 31))
        assert_apart(list(ax.texts))
    assert_inside(figure)
    assert "30 " in figure.get_supxlabel()


def test_a_strategy_without_numbers_is_no_point() -> None:
    table = crowd(NAMES[:3])
    table.loc[1, "td_ratio"] = math.nan
    left, right = accuracy_scatter(table, "accuracy").axes
    assert len(left.texts) == 3
    assert sorted(text.get_text() for text in right.texts) == ["crop:4+flip", "none"]
    table["td_ratio"] = math.nan
    assert [text.get_text() for text in accuracy_scatter(table, "accuracy").axes[1].texts] == ["no numbers"]


@pytest.mark.parametrize("count", [3, 60])
def test_layers_are_readable(count: int) -> None:
    layers = [f"layer{k // 10}.{k % 10}" for k in range(count)]
    rows = [
        {"task": "labels", "layer": layer, "strategy": name, "td": 0.01 * i, "cka": 1 - 0.01 * i}
        for layer in layers
        for i, name in enumerate(NAMES)
    ]
    figure = layer_heatmaps(pd.DataFrame(rows), ["labels"], layers, layers[-1])
    figure.draw_without_rendering()
    assert_inside(figure)
    for ax in figure.axes[:2]:
        assert [label.get_text() for label in ax.get_yticklabels()] == NAMES
        assert_apart(ax.get_xticklabels())
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first strategy at the top
    assert len(figure.axes[0].texts) == (36 if count == 3 else 0)


# --- What is refused ------------------------------------------------------------------------------------------


def untrained(*names: str, networks: int = 3, architecture: str = "digits_resnet8") -> dict[str, list[Network]]:
    """Networks at random weights."""
    return {
        name: [repsim.load_model(architecture, seed=10 * k + i, name=f"seed-{i}") for i in range(networks)]
        for k, name in enumerate(names)
    }


def extracted(networks: Sequence[Network], train: ImageSet, test: ImageSet) -> list[Activations]:
    """Features of both sets, one below the other."""
    found = []
    for network in networks:
        one, two = (repsim.extract(network, data, layers="layer*.*", progress=False) for data in (train, test))
        rows = {layer: torch.cat([one[layer], two[layer]]) for layer in one}
        found.append(Activations.from_arrays(rows, labels=torch.cat([train.labels, test.labels]), name=network.name))
    return found


@pytest.fixture(scope="module")
def halves(digits: ImageSet) -> tuple[ImageSet, ImageSet]:
    return digits.take(range(100)), digits.take(range(100, 150))


def refused(networks: Mapping[str, Sequence[Network]], halves: tuple[ImageSet, ImageSet], text: str, **given) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        judge(networks, *halves, **{"metric": PLAIN, **given})


def test_groups_that_cannot_be_judged(halves: tuple[ImageSet, ImageSet]) -> None:
    refused({}, halves, "judge: there must be strategies; got none. Pass {name: networks}.")
    one = untrained("none", networks=1) | untrained("flip")
    text = "judge: every strategy must have two networks; got 1 of 'none', 3 of 'flip'. "
    refused(one, halves, text + "One network has no pair to differ in; train more seeds.")
    unequal = untrained("none", networks=2) | untrained("flip")
    text = "judge: every strategy must have equally many networks; got 2 of 'none', 3 of 'flip'. "
    refused(unequal, halves, text + "Train the missing ones, or leave networks out of the others.")
    copied = untrained("none", "flip")
    copied["flip"][2] = repsim.load_model("digits_resnet8", seed=10, name="copy")
    text = (
        "judge: every network must have weights of its own; got the same in 'seed-0' of 'flip' and 'copy' of 'flip'. "
    )
    refused(copied, halves, text + "A copy is no second seed; leave it out.")
    other = untrained("none") | untrained("flip", architecture="small_conv_mnist")
    text = "judge: all networks must have one architecture; got digits_resnet8 ('seed-0' of 'none') and "
    text += "small_conv_mnist ('seed-0' of 'flip'). "
    refused(other, halves, text + "Judge networks of one architecture at a time.")


def test_images_and_measures_that_do_not_go_together(halves: tuple[ImageSet, ImageSet]) -> None:
    networks, (train, test) = untrained("none"), halves
    text = f"judge: train and test must be different images; got {train.name!r} twice. "
    refused(networks, (train, train), text + "Pass images to fit on and other images to ask about.")
    small = train, test.take(range(3))
    refused(networks, small, "judge: there must be 4 test images; got 3. Pass more test images.")
    text = "judge: metric must be TD, fitted on the training images; got CKA(debiased=True, without_components=0, "
    text += 'without_rows=0.0, deconfounded=None). Pass "td", or "td(...)" without fit_rows.'
    refused(networks, halves, text, metric="cka")
    lacking = train.take([i for i, y in enumerate(train.labels.tolist()) if y != 3]), test
    text = "judge: task 'labels' must have images of every class to fit on; got none of class 3. "
    refused(networks, lacking, text + "Fit on more images, or choose other classes.")
    renamed = train, replace(test, classes=tuple("abcdefghij"))
    text = "judge: both sets of task 'labels' must have the same classes; got 10 and 10 classes, or other names. "
    refused(networks, renamed, text + "A folder for each class in both, also where it is empty in one.")
    wide = train, ImageSet(torch.zeros(8, 1, 9, 9), torch.arange(8), tuple("abcdefgh"), "wide")
    text = "judge: images to fit on and to ask about must be alike, task 'labels'; got 1×8×8 uint8 and 1×9×9 float32. "
    refused(networks, wide, text + "Load both in one way.")


def test_layers_and_tasks_that_do_not_fit(halves: tuple[ImageSet, ImageSet]) -> None:
    networks, (train, test) = untrained("none"), halves
    text = "judge: layers must hold one before the networks' own head; got 'linear' alone, which is the head. "
    refused(networks, halves, text + "Name a layer before it.", layers="linear")
    text = "judge: a task must not be called 'labels'; got it. That is the labels' task."
    refused(networks, halves, text, tasks={"labels": [1, 2]})
    text = "judge, task 'odd': coarser: groups must split classes of these labels; got 1 groups. "
    refused(networks, halves, text + "Name at least two groups that share no class.", tasks={"odd": {"odd": [1]}})
    text = "judge, task 'few': held_out: classes must be among the labels; got class 11, which no sample has. "
    refused(networks, halves, text + "Name at least two different classes of these labels.", tasks={"few": [1, 11]})
    text = "judge: another data set must be two sets of images; got 1 things for 'other'. "
    refused(networks, halves, text + "Pass (images to fit on, images to ask about).", tasks={"other": (train,)})
    colour = [replace(d, images=d.images.expand(-1, 3, -1, -1).clone()) for d in (train, test)]
    text = r"\Ajudge, task 'colour', none/seed-0: extract: the network must run on the samples; got RuntimeError: Given"
    with pytest.raises(ValueError, match=text):
        judge(networks, train, test, tasks={"colour": (colour[0], colour[1])}, metric=PLAIN)


def test_a_judgement_shows_itself(halves: tuple[ImageSet, ImageSet]) -> None:
    found = judge(untrained("none", "flip"), *halves, metric=PLAIN)
    assert isinstance(found, Judgement)
    assert found.layer == "layer3.0"
    protocol = found.parts[0].protocol
    assert list(protocol["networks"]["flip"]) == ["seed-0", "seed-1", "seed-2"]
    assert len({digest for group in protocol["networks"].values() for digest in group.values()}) == 6
    assert protocol["layers"] == ["conv1", "layer1.0", "layer2.0", "layer3.0"]
