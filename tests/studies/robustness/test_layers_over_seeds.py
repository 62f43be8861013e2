"""Groups of networks layer by layer: statistics against slow loops, what may be claimed, and the pictures."""

import itertools
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from repsim import Activations, ImageSet, compare, load_model
from repsim.metrics import METRICS
from repsim.networks.layers import study_layers
from repsim.networks.network import Network
from repsim.plots.study_panels import Line, LinePanel, study_figure
from repsim.studies.common.claims import Claim, claims, columns, holm, runs, shown, span
from repsim.studies.common.groups import GroupFeatures, features
from repsim.studies.common.jackknife import Estimate, jackknife
from repsim.studies.common.layer_comparisons import LayerComparisons, PairTable, contrast, corrected, symmetric
from repsim.studies.robustness.cross_layers import cross_layer, cross_layer_of
from repsim.studies.robustness.layers_over_seeds import OwnAndRefittedHeads, over_seeds, over_seeds_of
from repsim.studies.robustness.self_similarity import SelfSimilarity, of_pair
from tests.conftest import exactly
from tests.support.groups import group, grouped, side
from tests.support.pictures import assert_apart, assert_inside, written

DEPTH = 4
SAME = [0.0] * DEPTH
LATE = [0.0, 0.0, 1.5, 1.5]


def fresh(name: str, seed: int, architecture: str = "digits_resnet8") -> Network:
    return load_model(architecture, seed=seed, name=name)


def saved(figure: Figure) -> Figure:
    """Drawn as saving does, until the layout has settled."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    canvas.draw()
    return figure


def fits(figure: Figure) -> None:
    """Nothing is cut, no label touches the next one, and the legend is not over an axes."""
    saved(figure)
    assert_inside(figure)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            assert_apart([text for _, text in written(axis)])
        for legend in figure.legends:
            box = legend.get_window_extent()
            tight = axes.get_tightbbox()
            assert tight is not None
            assert not box.overlaps(tight)


# --- Which layers, and features of many networks --------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("digits_resnet8", ["conv1", "layer1.0", "layer2.0", "layer3.0"]),
        ("resnet18", ["conv1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "avgpool"]),
        ("wrn28_1", ["conv1", *(f"block{i}.layer.{j}" for i in (1, 2, 3) for j in (0, 1, 2, 3))]),
        ("small_conv_cifar", None),
    ],
)
def test_study_layers_are_one_per_block(architecture: str, layers: list[str] | None) -> None:
    assert study_layers(load_model(architecture)) == layers


def test_a_block_within_a_block_is_part_of_it() -> None:
    class InnerBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(self.one(x))

    class OuterBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.mix = InnerBlock(), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mix(self.inner(x))

    stem, pool = nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1)
    net = nn.Sequential(nn.MaxPool2d(1), stem, OuterBlock(), OuterBlock(), nn.Conv2d(2, 2, 1), pool)
    assert study_layers(net) == ["1", "2", "3", "5"]


def test_features_are_those_of_extract_with_the_weights_digest(digits: ImageSet) -> None:
    one, two = fresh("one", 0), fresh("two", 1)
    found = features([one, two], digits, layers=None, reduction="mean", progress=False)
    assert list(found) == ["one", "two"]
    assert found["one"].layers == ("conv1", "layer1.0", "layer2.0", "layer3.0")
    digests = [side.provenance["weights_sha256"] for side in found.values()]
    assert len(set(digests)) == 2
    again = features([fresh("other", 0)], digits, layers="conv1", reduction="max", progress=False)["other"]
    assert again.provenance["weights_sha256"] == digests[0]
    assert (again.layers, again.reduction) == (("conv1",), "max")


def test_two_networks_of_one_name_are_refused(digits: ImageSet) -> None:
    text = (
        "features: networks must have unequal names; got a twice. Name them, as in load_model(..., name='standard-0'); "
        "a network belongs to one group."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        over_seeds({"x": [fresh("a", 0)], "y": [fresh("a", 1)]}, digits)


# --- Groups ---------------------------------------------------------------------------------------------------


def test_a_copy_is_no_second_seed(digits: ImageSet) -> None:
    text = (
        "over_seeds: every network must have weights of its own; got the same in 'a' and 'b'. A copy is no second "
        "seed; leave it out."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        over_seeds({"x": [fresh("a", 0), fresh("b", 0)]}, digits)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: grouped(), "study: there must be a group of networks; got none. Pass {name: [networks]}."),
        (
            lambda: grouped(x={}),
            "study: every group must hold a network; got none in 'x'. Leave the group out.",
        ),
        (
            lambda: grouped(x=group("a", 1, SAME), y=group("a", 1, SAME)),
            "study: a network belongs to one group; got 'a-0' in two. Leave it out of the other group, or rename one "
            "of the two.",
        ),
        (
            lambda: over_seeds_of(grouped(x=group("x", 1, SAME))),
            "study: there must be at least two networks; got 1. A network alone has no other to be like.",
        ),
        (
            lambda: over_seeds_of(grouped(x=group("x", 2, SAME)), metrics=()),
            'over_seeds: metrics must name each measure once; got none. Pass metrics=("cka", "td").',
        ),
        (
            lambda: over_seeds_of(grouped(x=group("x", 2, SAME)), metrics=("cka", "cka")),
            'over_seeds: metrics must name each measure once; got cka, cka. Pass metrics=("cka", "td").',
        ),
        (
            lambda: cross_layer_of(grouped(x=group("x", 2, SAME)), metric="td"),
            "cross_layer: the metric must be a symmetric similarity; got td. Use cka; over_seeds takes distances.",
        ),
        (
            lambda: cross_layer_of(grouped(x=group("x", 2, SAME)), metric="pwcca"),
            "cross_layer: the metric must be a symmetric similarity; got pwcca. Use cka; over_seeds takes distances.",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        make()


def test_layers_match_by_name_or_by_relative_depth() -> None:
    x = {name: np.random.default_rng(k).standard_normal((9, 3)) for k, name in enumerate("abcde")}
    sides = {
        "p": side("p", {k: x[k] for k in "abc"}),
        "q": side("q", {k: x[k] for k in "dbe"}),
        "r": side("r", {k: x[k] for k in "cb"}),
    }
    assert GroupFeatures({"g": sides}, "f").matched == {"b": ("b", "b", "b"), "c": ("c", "e", "c")}
    by_depth = GroupFeatures({"g": {"p": sides["p"], "s": side("s", {"u": x["d"]})}}, "f")
    assert by_depth.matched == {"c": ("c", "u")}
    renamed = side("s", dict(zip("uvw", x.values(), strict=False)))
    found = GroupFeatures({"g": {"p": sides["p"], "s": renamed}}, "f")
    assert found.matched == {"a": ("a", "u"), "b": ("b", "v"), "c": ("c", "w")}
    torch.testing.assert_close(found.at("b")["s"]["b"], renamed["v"])


def test_layers_without_a_counterpart_are_spoken_of() -> None:
    same = group("a", 2, SAME)
    assert GroupFeatures({"a": same}, "f").unmatched() == []
    layer = next(iter(same.values())).layers[0]
    others = group("b", 2, SAME, seed=5).items()
    short = {f"short {n}": replace(s, name=f"short {n}", features={layer: s[layer]}) for n, s in others}
    made = GroupFeatures({"a": same, "b": short}, "f")
    count = len(next(iter(same.values())))
    said = f"Layers that correspond in all networks: {layer!r} alone; of a {count}, b 1. The others are left out."
    assert over_seeds_of(made, metrics=("cka",)).reading[0] == said


def test_pairs_of_one_seed_do_not_count_between_groups() -> None:
    made = grouped(a=group("a", 3, SAME), b=group("b", 2, SAME))
    assert made.seeds == (0, 1, 2, 0, 1)
    assert made.apart[0].tolist() == [False, True, True, False, True]
    table = np.arange(25.0).reshape(5, 5)
    table += table.T
    expected = np.mean([table[i, j] for i, j in [(0, 4), (1, 3), (2, 3), (2, 4)]])
    assert PairTable(table, made).between("a", "b").value == pytest.approx(expected)
    alone = grouped(a=group("a", 1, SAME), b=group("b", 1, SAME))
    assert alone.one_beginning("a", "b")
    assert PairTable(table[:2, :2], alone).between("a", "b").value == table[0, 1]
    assert any(
        "all of these pairs began from the same weights" in line
        for line in over_seeds_of(alone, metrics=("cka",)).reading
    )


def begun(side: Activations, **record: Any) -> Activations:
    return replace(side, provenance={"record": record, "weights_sha256": f"now {record}"})


def test_one_seed_of_two_architectures_is_two_beginnings() -> None:
    a, b = group("a", 2, SAME).values()
    sides = {"a": begun(a, seed=0, architecture="resnet20"), "b": begun(b, seed=0, architecture="resnet56")}
    assert GroupFeatures({"g": sides}, "f").apart.tolist() == [[False, True], [True, False]]


def test_networks_finetuned_from_one_network_began_from_its_weights() -> None:
    first, second, third = group("a", 3, SAME).values()
    start = replace(begun(first, seed=0), provenance={"record": {"seed": 0}, "weights_sha256": "abc"})
    tuned = {n: begun(s, seed=n, start={"weights_sha256": "abc"}) for n, s in ((5, second), (6, third))}
    made = GroupFeatures({"a": {"start": start}, "b": {"five": tuned[5], "six": tuned[6]}}, "f")
    assert not made.apart.any()
    assert made.one_beginning("a", "b")


def test_unknown_seeds_are_taken_as_different() -> None:
    sides = {n: replace(s, provenance={}) for n, s in group("a", 3, SAME).items()}
    assert GroupFeatures({"a": sides}, "f").apart.sum() == 6


# --- Statistics -----------------------------------------------------------------------------------------------


def slow_jackknife(statistic: Callable[[list[int], list[int]], float], a: list[int], b: list[int]) -> float:
    variance = 0.0
    for first, members in ((True, a), (False, b)):
        left = []
        for out in members:
            rest = [i for i in members if i != out]
            left.append(statistic(rest, b) if first else statistic(a, rest))
        s = len(members)
        variance += (s - 1) / s * sum((v - np.mean(left)) ** 2 for v in left)
    return math.sqrt(variance)


def test_differences_from_a_baseline_are_one_jackknifed_statistic() -> None:
    made = grouped(a=group("a", 4, SAME), b=group("b", 3, SAME))
    table = np.random.default_rng(0).random((7, 7))
    table += table.T
    below = 1 + np.random.default_rng(1).random((7, 7))
    below += below.T
    a, b = [0, 1, 2, 3], [4, 5, 6]
    seeds = [0, 1, 2, 3, 0, 1, 2]

    def inside(t: np.ndarray, g: list[int]) -> float:
        return float(np.mean([t[i, j] for i, j in itertools.permutations(g, 2)]))

    def across(t: np.ndarray, x: list[int], y: list[int]) -> float:
        return float(np.mean([t[i, j] for i in x for j in y if seeds[i] != seeds[j]]))

    cases: list[tuple[Estimate, Callable[[list[int], list[int]], float]]] = [
        (PairTable(table, made).between("a", "b"), lambda x, y: across(table, x, y)),
        (PairTable(table, made).beyond("a", "b", "a"), lambda x, y: across(table, x, y) - inside(table, x)),
        (PairTable(table, made).beyond("a", "b", "b"), lambda x, y: across(table, x, y) - inside(table, y)),
        (PairTable(table, made).baselines_differ("a", "b"), lambda x, y: inside(table, y) - inside(table, x)),
        (PairTable(table, made, below).between("a", "b"), lambda x, y: across(table, x, y) / across(below, x, y)),
    ]
    for found, statistic in cases:
        assert found.value == pytest.approx(statistic(a, b))
        assert found.error == pytest.approx(slow_jackknife(statistic, a, b))
        assert found.degrees_of_freedom == 2
    ratio = PairTable(table, made, below).within("a")
    assert ratio.value == pytest.approx(inside(table, a) / inside(below, a))
    assert PairTable(table, made, below).plain.within("a").value == pytest.approx(inside(table, a))


def test_p_values_are_those_of_the_t_test_and_holms_are_by_hand() -> None:
    values = np.random.default_rng(3).normal(0.5, 1, 7)
    found = jackknife(lambda g: float(values[list(g[0])].mean()), [range(7)])
    _, expected = stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected)
    assert Estimate(0.0, 0.0, 2).p == 1
    assert math.isnan(Estimate(0.5, 0.0, 2).p)  # networks that agree exactly say nothing of others
    assert math.isnan(Estimate(0.5, math.nan, 0).p)
    assert holm([0.01, 0.04, 0.03, math.nan, 0.9]) == pytest.approx([0.04, 0.09, 0.09, math.nan, 0.9], nan_ok=True)
    assert holm([0.6, 0.7]) == [1, 1]


def test_words_say_what_the_numbers_say() -> None:
    sure = Estimate(0.5, 0.01, 4)
    assert shown(sure) == "0.500 [0.472, 0.528]"
    assert shown(Estimate(0.5, math.nan, 0), sign=True) == "+0.500 (no interval)"
    assert shown(Estimate(math.nan, math.nan, 2)) == "no number"
    assert Claim(sure, 0.004).verdict("up", "down") == "+0.500 [+0.472, +0.528], up (p = 0.004)"
    assert Claim(Estimate(-0.5, 0.01, 4), 0.004).verdict("up", "down").endswith("down (p = 0.004)")
    correction = "not enough after the correction for all that is asked (p = 0.08)"
    assert Claim(sure, 0.08).verdict("up", "down").endswith(f"], {correction}")
    assert Claim(Estimate(0.1, 0.1, 4), 0.4).verdict("up", "down").endswith("], inside its uncertainty")
    nothing = [Estimate(0.5, math.nan, 0), Estimate(0.5, 0.0, 2), Estimate(0.0, 0.0, 2), Estimate(math.nan, 0.1, 2)]
    assert [claim.verdict("up", "down", why="one class") for claim in claims(nothing)] == [
        "+0.500 (no interval), no claim without an interval",
        "+0.500, no claim: the networks of a group agree exactly",
        "no difference in any network",
        "no number (one class)",
    ]
    assert [claim.holds for claim in claims(nothing)] == [False] * 4
    assert claims([sure, *nothing])[0].standing == "beyond its uncertainty"
    assert runs("abcde", [True, True, False, True, False]) == "a to b, d"
    assert span([0.1, math.nan, 0.25]) == "0.100 to 0.250"
    assert span([math.nan]) == "no number"
    assert list(columns(sure, "x")) == ["x", "x_error", "x_low", "x_high"]


# --- Matched layers over seeds --------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cka", "procrustes"])
def test_a_difference_is_found_where_it_is(metric: str) -> None:
    made = grouped(plain=group("plain", 5, SAME), moved=group("moved", 5, LATE))
    part = over_seeds_of(made, metrics=(metric,))
    gaps = part.tables["differences"]
    assert gaps["outside"].tolist() == [False, False, True, True]
    sentence = next(line for line in part.reading if "less alike" in line)
    assert "less alike than two networks of either group at 2 of 4 layers (layer2 to layer3)" in sentence
    assert any("At the other 2 (layer0 to layer1)" in line for line in part.reading)
    assert not any("more alike than two" in line for line in part.reading)


def test_groups_of_one_distribution_are_not_told_apart() -> None:
    claims = 0
    for seed in range(40):
        made = grouped(a=group("a", 4, [0.0], seed=seed, n=40), b=group("b", 4, [0.0], seed=seed, n=40))
        claims += any(each.outside for each in LayerComparisons.of(made, "cka").contrasts("a", "b"))
    assert claims <= 4


@pytest.mark.parametrize("networks", [3, 5])
def test_no_difference_is_claimed_of_pairs_that_are_all_alike(networks: int) -> None:
    """Each network brings something of its own to all of its pairs, and each pair something besides."""
    made = grouped(a=group("a", networks, [0.0], n=4), b=group("b", networks, [0.0], n=4))
    claims = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        own, noise = rng.standard_normal(2 * networks), 0.5 * rng.standard_normal((6, 2 * networks, 2 * networks))
        layers = [contrast("", PairTable(symmetric(own[:, None] + own + e), made), "a", "b") for e in noise]
        claims += any(each.outside for each in corrected(layers))
    assert claims <= 4


def test_the_values_are_those_of_compare() -> None:
    made = grouped(a=group("a", 2, SAME), b=group("b", 2, SAME))
    table = over_seeds_of(made, metrics=("cka",)).tables[""]
    sides = list(made.sides.values())
    for k in range(DEPTH):
        value = [compare(sides[i], sides[j], "cka").values[k, k] for i, j in ((0, 1), (2, 3), (0, 3), (1, 2))]
        expected = [value[0], value[1], (value[2] + value[3]) / 2]
        found = table.loc[table["layer"] == f"layer{k}", "value"]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_small_groups_have_no_interval_and_say_so() -> None:
    part = over_seeds_of(grouped(a=group("a", 1, SAME), b=group("b", 2, LATE)), metrics=("cka",))
    assert "a has one network, so there is no seed-to-seed baseline and no interval." in part.reading
    assert any(line.endswith("with two networks it has no standard error.") for line in part.reading)
    assert any(line.endswith("no difference is claimed.") for line in part.reading)
    assert not part.tables["differences"]["outside"].any()
    one = over_seeds_of(grouped(a=group("a", 3, SAME)), metrics=("cka",))
    assert "differences" not in one.tables
    assert len(one.reading) == 1
    for each in (part, one):
        fits(each.draw())


def test_a_layer_without_numbers_is_named_and_left_out() -> None:
    a, b = group("a", 3, SAME), group("b", 3, LATE)
    flat = {"layer0": np.ones((60, 3))}
    bad = side("a-0", {**{k: a["a-0"][k].numpy() for k in a["a-0"].layers}, **flat}, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = over_seeds_of(grouped(a={**a, "a-0": bad}, b=b), metrics=("cka",))
    assert "cka: no number or no interval at layer0." in part.reading
    assert any("over 3 layers" in line for line in part.reading)
    cautions = part.protocol["metrics"]["cka"]["cautions"]
    assert any("constant features" in text for text in cautions)
    fits(part.draw())


def test_networks_of_one_group_more_alike_than_those_of_another() -> None:
    made = grouped(loose=group("loose", 5, SAME, noise=2.0), tight=group("tight", 5, SAME, noise=0.1))
    reading = over_seeds_of(made, metrics=("cka",)).reading
    said = "cka: networks among tight are more alike than among loose at layer0 to layer3"
    assert f"{said} (Holm's correction over the layers)." in reading
    # Less alike than the tight ones and more than the loose ones is nothing of its own: loose networks are so to all.
    assert any(line.startswith("cka: loose × tight") and "at none of 4 layers outside both" in line for line in reading)
    (apart, *_) = LayerComparisons.of(made, "cka").contrasts("loose", "tight")
    assert apart.beyond[0].value > 0 > apart.beyond[1].value
    assert max(found.p for found in apart.beyond) < 0.05
    assert apart.p == 1


def test_both_baselines_must_be_left() -> None:
    made = grouped(plain=group("plain", 4, [0.0]), moved=group("moved", 4, [1.0], noise=1.5))
    (found,) = LayerComparisons.of(made, "cka").contrasts("plain", "moved")
    each = [gap.p for gap in found.beyond]
    assert found.p == max(each) > min(each)
    assert abs(found.nearest.value) == min(abs(gap.value) for gap in found.beyond)


def answering(name: str, networks: int, wrong_own: float, wrong_features: float) -> dict[str, Activations]:
    """Networks whose own heads, and whose features, are wrong of their own about a share of the images."""
    n, labels = 240, np.arange(240) % 3
    found = {}
    for k in range(networks):
        rng = np.random.default_rng([k, *name.encode()])

        def spoilt(share: float, rng: np.random.Generator = rng) -> np.ndarray:
            answers = labels.copy()
            out = rng.random(n) < share
            answers[out] = (labels[out] + 1 + rng.integers(0, 2, out.sum())) % 3
            return np.eye(3)[answers]

        layers = {"last": 4 * spoilt(wrong_features) + 0.05 * rng.standard_normal((n, 3))}
        found[f"{name}-{k}"] = side(f"{name}-{k}", layers, seed=k, labels=labels, outputs=spoilt(wrong_own))
    return found


def test_heads_fitted_again_are_held_against_the_networks_own() -> None:
    made = grouped(same=answering("same", 4, 0.1, 0.1), mended=answering("mended", 4, 0.3, 0.02))
    part = over_seeds_of(made, metrics=("td",))
    table = part.tables["heads"].set_index("group")
    sides = list(made.groups["mended"].values())
    own = np.mean(
        [
            float((x.outputs.argmax(1) != y.outputs.argmax(1)).double().mean())
            for x, y in itertools.combinations(sides, 2)
            if x.outputs is not None and y.outputs is not None
        ]
    )
    assert table.loc["mended", "own_disagree"] == pytest.approx(own)
    assert 0.85 < table.loc["mended", "own_ratio"] < 1.15  # independent errors by construction
    assert table.loc["mended", "again_disagree"] < 0.1
    for name, row in table.iterrows():
        assert row["ratio_gain"] == pytest.approx(row["again_ratio"] - row["own_ratio"]), name
    right = [float((x.outputs.argmax(1) == x.labels).double().mean()) for x in sides if x.outputs is not None]
    expected = [1 - p * q - (1 - p) * (1 - q) / 2 for p, q in itertools.combinations(right, 2)]
    assert table.loc["mended", "own_ratio"] == pytest.approx(own / np.mean(expected))
    heads = OwnAndRefittedHeads.of(LayerComparisons.of(made, "td"))
    assert heads is not None
    gap = heads.gains_differ("same", "mended")
    a, b = made.numbers["same"], made.numbers["mended"]

    def gain(networks: list[int]) -> float:
        return heads.again.mean_within(tuple(networks)) - heads.own.mean_within(tuple(networks))

    assert gap.value == pytest.approx(gain([*b]) - gain([*a]))
    assert gap.error == pytest.approx(slow_jackknife(lambda x, y: gain(y) - gain(x), [*a], [*b]))
    assert any(line.startswith("Two networks of same answer") for line in part.reading)
    assert any(line.startswith("That change in mended less that in same") for line in part.reading)
    assert {"td_ratio", "accuracy_first", "accuracy_second"} <= set(part.tables[""].columns)
    assert OwnAndRefittedHeads.of(LayerComparisons.of(made, "cka")) is None


# --- Every layer with every other one -------------------------------------------------------------------------


def blocky(name: str, networks: int, together: int) -> dict[str, Activations]:
    """Eight layers, the first of which hold one thing and the others something of their own each."""
    found = {}
    for k in range(networks):
        rng = np.random.default_rng([k, *name.encode()])
        shared = rng.standard_normal((80, 6))
        layers = {}
        for depth in range(8):
            x = shared if depth < together else rng.standard_normal((80, 6))
            layers[f"layer{depth}"] = x + 0.05 * rng.standard_normal((80, 6))
        found[f"{name}-{k}"] = side(f"{name}-{k}", layers, seed=k)
    return found


def test_block_scores_and_their_difference_are_known() -> None:
    made = grouped(blocks=blocky("blocks", 3, 6), none=blocky("none", 3, 0))
    part = cross_layer_of(made)
    networks = part.tables[""].set_index("network")
    # 10 of 21 pairs more than one layer apart lie within the first six layers.
    assert networks["homogeneity"].tolist() == pytest.approx([10 / 21] * 3 + [0] * 3)
    matrix = compare(made.sides["blocks-1"], made.sides["blocks-1"], "cka").values
    off = [matrix[i, j] for i in range(8) for j in range(8) if i != j]
    far = [matrix[i, j] for i in range(8) for j in range(8) if abs(i - j) > 1]
    assert networks.loc["blocks-1", "mean_off_diagonal"] == pytest.approx(np.mean(off))
    assert networks.loc["blocks-1", "mean_beyond_lag"] == pytest.approx(np.mean(far))
    x = made.sides["blocks-1"]["layer2"].numpy()
    s = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    shares = part.tables["first_components"].set_index(["network", "layer"])["share"]
    assert shares["blocks-1", "layer2"] == pytest.approx(s[0] / s.sum())
    means = part.tables["groups"].set_index(["group", "statistic"])
    values = networks.loc[[f"none-{k}" for k in range(3)], "mean_off_diagonal"]
    assert means.loc[("none", "mean_off_diagonal"), "value"] == pytest.approx(values.mean())
    assert means.loc[("none", "mean_off_diagonal"), "error"] == pytest.approx(values.std(ddof=1) / 3**0.5)
    sentence = next(line for line in part.reading if line.startswith("none less blocks"))
    assert "homogeneity -0.476, no claim: the networks of a group agree exactly" in sentence
    assert "mean similarity of different layers" in sentence
    assert "smaller in none (p = " in sentence
    fits(part.draw())


def test_groups_of_one_kind_have_no_difference_claimed() -> None:
    part = cross_layer_of(grouped(a=blocky("a", 4, 0), b=blocky("b", 4, 0)))
    assert not (part.tables["differences"]["p_holm"] < 0.05).any()
    assert "larger in b" not in " ".join(part.reading)
    assert "smaller in b" not in " ".join(part.reading)


def test_panels_show_networks_of_different_seeds() -> None:
    part = cross_layer_of(grouped(a=blocky("a", 2, 4), b=blocky("b", 2, 4)))
    assert part.protocol["panels"] == {
        "two of a": ["a-0", "a-1"],
        "two of b": ["b-0", "b-1"],
        "a × b": ["a-0", "b-1"],
        "one of a": ["a-0", "a-0"],
        "one of b": ["b-0", "b-0"],
    }
    assert "same random weights stay alike" in part.protocol["pairs"]
    assert set(part.tables["matrices"]["panel"]) == set(part.protocol["panels"])


def test_blocks_of_two_networks_are_those_of_both_directions() -> None:
    a, b = blocky("a", 2, 6).values()
    matrix = compare(a, b, "cka")
    values = np.full((8, 8), 0.1)
    values[:4, :4] = [[0.9, 1, 1, 1], [0.9, 0.9, 1, 1], [0.9, 0.9, 0.9, 1], [0.9, 0.9, 0.9, 0.9]]
    found = of_pair(replace(matrix, values=values, details={}))
    assert found is not None
    assert [(block.start, block.stop, round(block.mean, 9)) for block in found.blocks] == [(0, 4, 0.95)]
    other = side("c", {"fc": np.random.default_rng(0).standard_normal((80, 3))})
    assert of_pair(compare(a, other, "cka")) is None


def test_one_network_alone_has_its_blocks_and_no_interval() -> None:
    part = cross_layer_of(grouped(a=blocky("a", 1, 6)))
    assert part.reading[0].startswith("a (1 network, means): homogeneity 0.476 (no interval), ")
    assert part.reading[1] == "a has one network, so there is no seed-to-seed baseline and no interval."
    assert "differences" not in part.tables
    fits(part.draw())
    pair = cross_layer_of(grouped(a=blocky("a", 1, 6), b=blocky("b", 1, 6)))
    assert "a × b: all pairs began from the same weights." in pair.reading
    assert any(line.endswith("so no difference is claimed.") for line in pair.reading)


def test_other_architectures_have_a_panel_without_score() -> None:
    short = side("s-0", {f"layer{k}": np.random.default_rng(k).standard_normal((80, 5)) for k in range(4)}, seed=7)
    part = cross_layer_of(grouped(a=blocky("a", 2, 6), b={"s-0": short}))
    fits(part.draw())
    assert part.protocol["layers"] == {"a-0": 8, "a-1": 8, "s-0": 4}


# --- Pictures, files, networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 60])
def test_pictures_fit_from_3_to_60_layers(depth: int) -> None:
    rng = np.random.default_rng(0)
    made = {}
    for name in ("standard", "adversarially-trained-linf-8-255"):
        made[name] = {
            f"{name}-{k}": side(
                f"{name}-{k}",
                {f"stage{i // 10}.block{i}.conv": rng.standard_normal((12, 3)) for i in range(depth)},
                seed=k,
            )
            for k in range(2)
        }
    every = GroupFeatures(made, "study")
    fits(cross_layer_of(every).draw())
    layers = next(iter(every.sides.values())).layers
    values = rng.random((3, depth))
    lines = {
        name: Line(row, row - 0.1, row + 0.1, colour=k) for k, (name, row) in enumerate(zip("abc", values, strict=True))
    }
    fits(study_figure([[LinePanel(lines, layers, "CKA, debiased", "larger: more alike")] * 2], note="Bands. " * 40))


def test_nothing_to_draw_is_refused() -> None:
    text = "study_figure: there must be a panel; got none. Pass rows of panels."
    with pytest.raises(ValueError, match=exactly(text)):
        study_figure([])


def test_from_networks_to_files(digits: ImageSet, tmp_path: Path) -> None:
    groups = {"a": [fresh("a-0", 0), fresh("a-1", 1)], "b": [fresh("b-0", 2), fresh("b-1", 3)]}
    for part in (
        cross_layer(groups, digits),
        over_seeds(groups, digits, metrics=("cka",), layers=["layer*.*", "conv1"]),
    ):
        files = part.save(tmp_path)
        assert all(file.stat().st_size > 100 for file in files)
        facts = json.loads((tmp_path / f"{part.name}.json").read_text())
        protocol = facts["protocol"]
        assert protocol["networks"] == {"a": ["a-0", "a-1"], "b": ["b-0", "b-1"]}
        assert protocol["seeds"] == {"a-0": 0, "a-1": 1, "b-0": 2, "b-1": 3}
        assert len(set(protocol["weights_sha256"].values())) == 4
        assert (protocol["n"], protocol["reduction"]) == (150, "mean")
        assert protocol["data"]["digest"] == digits.digest
        assert facts["reading"]
    assert protocol["layers"] == ["conv1", "layer1.0", "layer2.0", "layer3.0"]
    assert protocol["metrics"]["cka"]["chance"] == 0


def test_alone_is_the_network_as_compare_sees_it() -> None:
    one = blocky("a", 1, 6)["a-0"]
    made = SelfSimilarity.of(one, METRICS["cka"])
    np.testing.assert_array_equal(made.matrix.values, compare(one, one, "cka").values)
    assert made.numbers["mean_first_component"] == pytest.approx(np.mean(list(made.first.values())))
