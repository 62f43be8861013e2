"""Many networks against each other: every cell against a loop over `compare`, and what a cell without a number says."""

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from repsim import Activations, CautionWarning, SimilarityMatrix, compare
from repsim.metrics.alignment.cka import CKA
from repsim.networks.correspondence import matched_layers
from repsim.similarity.many import compare_many
from tests.conftest import exactly
from tests.oracles import cka as oracle

N = 60
TD_FAST = "td(resamples=0, folds=2, penalty=0.1)"
LABELS = np.arange(N) % 3


def features(seed: int, layers: Sequence[str], width: int = 5, noise: float = 1.0) -> dict[str, np.ndarray]:
    """Layers that share three directions with every other network's, the later the less."""
    shared = np.random.default_rng(99).standard_normal((N, 3)) + 2 * np.eye(3)[LABELS]
    rng = np.random.default_rng(seed)
    return {
        name: shared @ rng.standard_normal((3, width + k)) + (k + noise) * rng.standard_normal((N, width + k))
        for k, name in enumerate(layers)
    }


def networks(**layers: Sequence[str]) -> dict[str, Activations]:
    return {
        name: Activations.from_arrays(features(seed, own, noise=0.5 + seed / 2), labels=LABELS, name="net")
        for seed, (name, own) in enumerate(layers.items())
    }


def three() -> dict[str, Activations]:
    return networks(a=["x", "y", "z"], b=["x", "y", "z"], c=["x", "y", "z"])


def quiet(sides: dict[str, Activations], metric: Any = "cka", **keywords: Any) -> SimilarityMatrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return compare_many(sides, metric, **keywords)


def pair(a: Activations, b: Activations, metric: Any) -> SimilarityMatrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return compare(a, b, metric)


def cell(table: SimilarityMatrix, rule: str) -> float:
    """One pair of networks by the rule's words, in slow loops."""
    values = table.values
    if rule == "matched":
        return float(np.mean([v for *_, v in table.matched()]))
    if rule == "last":
        return float(values[-1, -1])
    if rule != "best":
        return float(values[table.rows.index(rule), table.cols.index(rule)])
    best = max if table.definition.kind == "similarity" else min
    forth = np.mean([best(row) for row in values])
    back = np.mean([best(col) for col in values.T])
    return float((forth + back) / 2 if table.definition.symmetric else forth)


# --- Values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cka", "pwcca", "procrustes", TD_FAST])
def test_every_cell_is_what_compare_gives(metric: str) -> None:
    sides = networks(a=["x", "y"], b=["x", "y"]) if metric == TD_FAST else three()
    tables = {(i, j): pair(a, b, metric) for i, a in enumerate(sides.values()) for j, b in enumerate(sides.values())}
    for rule in ("matched", "best") if metric == TD_FAST else ("matched", "last", "best", "y"):
        found = quiet(sides, metric, layers=rule)
        assert found.rows == found.cols == tuple(sides)
        assert (found.row_model, found.col_model, found.n) == ("networks", "networks", N)
        for at, table in tables.items():
            assert found.values[at] == pytest.approx(cell(table, rule), abs=1e-7), (rule, at)
        assert np.allclose(found.values, found.values.T) == (metric != "pwcca")


def test_values_against_the_formula() -> None:
    sides = three()
    found = compare_many(sides, "cka")
    names = list(sides)
    for i, j in np.ndindex(3, 3):
        a, b = sides[names[i]], sides[names[j]]
        expected = np.mean([oracle.debiased(a[x].numpy(), b[x].numpy()) for x in ("x", "y", "z")])
        assert found.values[i, j] == pytest.approx(expected, abs=1e-9)
    assert 0.05 < found.values[0, 2] < 0.95


@pytest.mark.parametrize("rule", ["matched", "last", "best", "x"])
@pytest.mark.parametrize(("metric", "same"), [("cka", 1.0), ("procrustes", 0.0), ("pwcca", 1.0)])
def test_a_network_equals_itself(metric: str, same: float, rule: str) -> None:
    found = quiet(three(), metric, layers=rule)
    np.testing.assert_allclose(found.values.diagonal(), same, atol=1e-7)


def test_matched_layers_share_names_or_else_relative_depth() -> None:
    assert matched_layers(["x", "y"], ["y", "z", "x"]) == [(0, 2), (1, 0)]
    assert matched_layers(["x", "y"], ["p", "q"]) == [(0, 0), (1, 1)]
    assert matched_layers(["x", "y"], ["p"]) == [(1, 0)]
    sides = networks(a=["x", "y"], b=["p", "q"], c=["y", "q", "w"])
    found = compare_many(sides, "cka")
    for (i, j), count in {(0, 1): 2, (0, 2): 2, (1, 2): 2, (2, 2): 3}.items():
        a, b = list(sides.values())[i], list(sides.values())[j]
        assert found.values[i, j] == pytest.approx(cell(compare(a, b, "cka"), "matched"), abs=1e-9)
        assert found.details["layers"][i, j] == found.details["layers"][j, i] == count


def test_the_best_partner_may_be_at_another_depth_and_serve_twice() -> None:
    base = features(0, ["x", "y"])
    sides = {
        "a": Activations.from_arrays({"one": base["x"], "two": base["y"]}),
        "b": Activations.from_arrays({"one": base["y"], "two": base["x"], "three": 2 * base["x"]}),
    }
    found = compare_many(sides, "cka", layers="best")
    np.testing.assert_allclose(found.values, 1, atol=1e-9)
    assert compare_many(sides, "cka", layers="one").values[0, 1] < 0.99
    # a's two layers and b's three choose; "two" × "one" and "one" × "two" are chosen from both sides.
    assert found.details["layers"][0, 1] == 3
    assert found.details["layers"][0, 0] == 2


def test_another_order_of_networks_gives_the_same_table_in_another_order() -> None:
    sides = three()
    turned = dict(reversed(sides.items()))
    one, other = quiet(sides, "pwcca"), quiet(turned, "pwcca")
    np.testing.assert_allclose(one.values, other.values[::-1, ::-1], atol=1e-12)
    assert other.rows == ("c", "b", "a")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_width_and_precision_do_not_matter(scale: float) -> None:
    wide = {k: torch.from_numpy(v) for k, v in features(5, ["x"], width=200).items()}  # p > n
    sides = {
        "a": Activations.from_arrays({"x": wide["x"] * scale + 100 * scale}),
        "b": Activations.from_arrays({"x": wide["x"]}),
        "half": Activations.from_arrays({"x": wide["x"].half()}),
    }
    found = compare_many(sides, "cka")
    np.testing.assert_allclose(found.values, 1, atol=2e-3)


# --- Details --------------------------------------------------------------------------------------------------


def test_details_are_averaged_and_change_sides_with_the_cell() -> None:
    sides = three()
    sides["c"] = Activations.from_arrays(features(2, ["x", "y", "z"], width=9), labels=LABELS)
    found = compare_many(sides, "cka")
    assert found.details["width_row"][0].tolist() == [6, 6, 6]
    assert found.details["width_col"][0].tolist() == [6, 6, 10]
    np.testing.assert_array_equal(found.details["width_row"], found.details["width_col"].T)
    td = quiet(sides, TD_FAST)
    single = pair(sides["a"], sides["c"], TD_FAST).details["accuracy_row"].diagonal().mean()
    assert td.details["accuracy_row"][0, 2] == td.details["accuracy_col"][2, 0] == pytest.approx(single)
    assert td.details["accuracy_row"][0, 2] != pytest.approx(td.details["accuracy_col"][0, 2])
    assert (td.details["converged"] == 1).all()


@pytest.mark.parametrize(("rule", "there"), [("matched", False), ("best", False), ("last", True), ("x", True)])
def test_intervals_stand_only_beside_single_values(rule: str, there: bool) -> None:
    found = quiet(three(), TD_FAST, layers=rule)
    assert ("ci_low" in found.details) == ("ci_high" in found.details) == there
    if there:
        assert (found.details["ci_low"] <= found.values).all()
        assert (found.details["layers"] == 1).all()


def test_networks_that_carry_their_own_answers_say_how_often_those_differ() -> None:
    rng = np.random.default_rng(3)
    logits = [rng.standard_normal((N, 3)) for _ in range(2)]
    sides = {
        f"n{k}": Activations.from_arrays(features(k, ["x"]), labels=LABELS, outputs=out) for k, out in enumerate(logits)
    }
    found = quiet(sides, TD_FAST)
    expected = float((logits[0].argmax(1) != logits[1].argmax(1)).mean())
    np.testing.assert_allclose(found.details["outputs_disagree"], [[0, expected], [expected, 0]])


def test_the_rule_and_the_origins_are_recorded_and_survive_the_file(tmp_path: Any) -> None:
    made = compare_many(three(), "cka", layers="last")
    assert made.provenance["layers"] == "last"
    assert list(made.provenance["networks"]) == ["a", "b", "c"]
    assert made.provenance["metric"] == repr(CKA())
    loaded = SimilarityMatrix.load(made.save(tmp_path / "table.npz"))
    np.testing.assert_array_equal(loaded.values, made.values)
    assert loaded.provenance == made.provenance
    assert len(made.to_frame()) == 9


# --- Once per layer -------------------------------------------------------------------------------------------


class Counting(CKA):
    prepared: list[int]
    crossed: int

    def prepare(self, layers: Any, labels: Any = None) -> Any:
        object.__setattr__(self, "prepared", [*getattr(self, "prepared", []), len(layers)])
        return super().prepare(layers, labels)

    def pairwise(self, rows: Any, cols: Any) -> Any:
        object.__setattr__(self, "crossed", getattr(self, "crossed", 0) + len(rows) * len(cols))
        return super().pairwise(rows, cols)


@pytest.mark.parametrize(
    ("rule", "layers", "pairs"), [("matched", 9, 18), ("last", 3, 6), ("best", 9, 54), ("y", 3, 6)]
)
def test_layers_are_prepared_once_and_pairs_crossed_once(rule: str, layers: int, pairs: int) -> None:
    metric = Counting()
    compare_many(three(), metric, layers=rule)
    assert metric.prepared == [layers]
    assert metric.crossed == pairs


# --- Without a number -----------------------------------------------------------------------------------------


def test_a_constant_layer_leaves_the_cells_of_its_network_without_a_number() -> None:
    sides = three()
    dead = features(1, ["x", "y", "z"])
    dead["y"][:] = 3
    sides["b"] = Activations.from_arrays(dead)
    with pytest.warns(CautionWarning, match=re.escape("5 of 9 cells are NaN; a × b: y × y: the column layer has")):
        found = compare_many(sides, "cka")
    assert np.isnan(found.values).tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    constant = "layer has constant features: every sample has the same row"
    assert found.reasons[0, 1] == found.reasons[1, 0] == f"a × b: y × y: the column {constant}"
    assert found.reasons[1, 2] == found.reasons[2, 1] == f"b × c: y × y: the row {constant}"
    assert math.isnan(found.details["width_row"][0, 1])
    with pytest.warns(CautionWarning, match="5 of 9 cells"):
        best = compare_many(sides, "cka", layers="best")
    assert best.reasons[0, 1] == f"a × b: x × y: the column {constant}"
    # From a's side a dead layer of b is never the best partner; it has no partner of its own.
    one_way = quiet(sides, "pwcca", layers="best")
    assert math.isfinite(one_way.values[0, 1])
    assert math.isnan(one_way.values[1, 0])
    assert not np.isnan(compare_many(sides, "cka", layers="last").values).any()


def test_networks_of_unlike_depth_are_compared_at_the_ends_of_their_stages() -> None:
    short, long = ([f"stage{s}.{i}" for s in (1, 2) for i in range(k)] for k in (2, 5))
    sides = networks(a=short, b=long)
    found = compare_many(sides, "cka")
    each = [compare(sides["a"], sides["b"], "cka").values[i, j] for i, j in ((0, 0), (1, 4), (2, 5), (3, 9))]
    assert found.values[0, 1] == pytest.approx(np.mean(each), abs=1e-9)
    assert found.details["layers"][0, 1] == 4


def test_one_caution_speaks_for_all_pairs_that_it_holds_for() -> None:
    wide = [np.random.default_rng(k).standard_normal((N, 40 + k)) for k in range(3)]
    sides = {f"n{k}": Activations.from_arrays({"x": x}) for k, x in enumerate(wide)}
    with pytest.warns(CautionWarning) as seen:
        found = compare_many(sides, "cka_biased")
    assert len(seen) == 1
    text = found.cautions[0]
    assert text.startswith("n0 × n0: biased CKA of these layers with their samples permuted reaches 0.39")
    assert text.endswith(" (in 6 of 6 pairs of networks)")
    assert str(seen[0].message) == f"compare_many networks × networks, cka_biased: {text}."
    assert seen[0].filename == __file__


# --- Refusals -------------------------------------------------------------------------------------------------


def test_one_network_is_no_table() -> None:
    text = "compare_many: there must be at least two networks; got 1. Compare layers of one network with compare(a, a)."
    with pytest.raises(ValueError, match=exactly(text)):
        compare_many(networks(a=["x"]))
    with pytest.raises(ValueError, match="at least two networks; got 0"):
        compare_many({})


def test_other_samples_are_refused_by_the_networks_names() -> None:
    sides = three()
    short = {k: v[:-1] for k, v in features(1, ["x"]).items()}
    text = (
        "compare_many: both sides must hold the same samples; got 60 samples for 'a' and 59 for 'b'. "
        "Extract both on one set."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        compare_many({**sides, "b": Activations.from_arrays(short)})
    # The first network does not know its samples; the other two do, and they differ.
    ids = [f"s{k}" for k in range(N)]
    known = Activations.from_arrays(features(1, ["x"]), ids=ids)
    turned = Activations.from_arrays(features(2, ["x"]), ids=ids[::-1])
    with pytest.raises(ValueError, match=r"same samples in the same order; got digests .* for 'b' and .* for 'c'"):
        compare_many({"a": sides["a"], "b": known, "c": turned}, layers="x")


def test_labels_come_from_any_network_and_must_agree() -> None:
    sides = three()
    bare = {name: Activations.from_arrays(features(k, ["x", "y", "z"])) for k, name in enumerate("ab")}
    found = quiet({**bare, "c": sides["c"]}, TD_FAST, layers="last")
    assert np.isfinite(found.values).all()
    other = Activations.from_arrays(features(2, ["x", "y", "z"]), labels=(LABELS + 1) % 3)
    with pytest.raises(ValueError, match=r"\Acompare_many: both sides must carry the same labels"):
        compare_many({"a": bare["a"], "b": sides["b"], "c": other}, "td")
    with pytest.raises(ValueError, match="a downstream task is needed; got no labels"):
        compare_many(bare, "td")


def test_a_layer_that_a_network_lacks_is_named() -> None:
    text = (
        "compare_many: layers must be 'matched', 'last', 'best' or a layer of every network ('b'); got 'stem'. "
        "Close matches: stem1."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        compare_many(networks(a=["stem"], b=["stem1", "q"]), layers="stem")


def test_too_few_samples_and_unknown_metrics_are_refused() -> None:
    few = {name: Activations.from_arrays({"x": np.eye(3)}) for name in "ab"}
    text = "compare_many: cka needs at least 4 samples; got 3. Extract on more samples."
    with pytest.raises(ValueError, match=exactly(text)):
        compare_many(few, "cka")
    with pytest.raises(ValueError, match=r"\Ametric: the metric must be known"):
        compare_many(few, "ckaa")
