"""Clean against attacked images in one network: the control, both forms of TD, and what the reading may say."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import nn

from repsim import Activations, ImageSet, compare, extract, load_model
from repsim.metrics import get_metric
from repsim.networks.network import Network
from repsim.plots.study_attacks import _radius, attacked_curves
from repsim.robustness import ThreatModel
from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.noise_control import same_norm_noise
from repsim.studies.robustness.attack_effects import clean_and_attacked, curves_of, moved_features
from repsim.studies.robustness.attack_report import AttackCurves, differences, reading, summary
from tests.conftest import exactly
from tests.support.pictures import assert_apart, written
from tests.support.places import DATA

DATA = DATA
NO_INTERVAL = (
    "There is no interval for a group of one network or a difference from it, nor where networks agree exactly by "
    "chance, as shares of few images may."
)


@pytest.fixture(scope="module")
def standard() -> Network:
    return load_model(DATA / "digits_standard.safetensors")


@pytest.fixture(scope="module")
def robust() -> Network:
    return load_model(DATA / "digits_pgd.safetensors")


# --- The control ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l2:3", "linf:1"])
def test_noise_has_the_norm_of_the_attack(digits: ImageSet, threat: str) -> None:
    ball = ThreatModel.parse(threat)
    made = same_norm_noise(digits, ball)
    change = (made.images.double() - digits.images.double() / 255).flatten(1).numpy()
    order = np.inf if ball.norm == "linf" else 2
    np.testing.assert_allclose(np.linalg.norm(change, order, axis=1), ball.eps, rtol=1e-6)
    assert made.digest == digits.digest
    assert made.name == f"digits/test under noise({ball})"
    assert 0 <= float(made.images.min()) <= float(made.images.max()) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_of_an_image_depends_on_its_id_and_the_seed_alone(digits: ImageSet, norm: str) -> None:
    ball = ThreatModel.parse(f"{norm}:0.2")
    made = same_norm_noise(digits, ball)
    assert torch.equal(same_norm_noise(digits.take([7, 3]), ball).images, made.images[[7, 3]])
    assert not torch.equal(same_norm_noise(digits, ball, seed=1).images, made.images)
    still = same_norm_noise(digits, ThreatModel.parse(f"{norm}:0"))
    assert torch.equal(still.images, digits.pixels(slice(None)))


def test_noise_keeps_its_direction_at_every_radius() -> None:
    grey = ImageSet(torch.full((3, 1, 4, 4), 0.5), torch.tensor([0, 1, 0]), ("a", "b", "c"), "grey")
    for norm in ("linf", "l2"):
        small, large = (same_norm_noise(grey, ThreatModel.parse(f"{norm}:{e}")).images - 0.5 for e in (0.1, 0.3))
        torch.testing.assert_close(large, 3 * small)
    up = (same_norm_noise(grey, ThreatModel.parse("linf:0.1")).images > 0.5).double().mean()
    assert 0.2 < float(up) < 0.8


def test_noise_stops_at_the_corner_where_no_point_lies_further() -> None:
    black = ImageSet(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), ("a", "b"), "black")
    made = same_norm_noise(black, ThreatModel.parse("l2:2")).images
    assert set(made.flatten().tolist()) <= {0.0, 1.0}


# --- Features against features --------------------------------------------------------------------------------


def cloud(seed: int, n: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in five dimensions that overlap."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 5)) + 1.2 * np.eye(5)[y]
    return torch.from_numpy(x), torch.from_numpy(y)


def fixed_head_by_hand(x: np.ndarray, moved: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """TD of a fixed head and its two accuracies, by scikit-learn's heads fitted on clean rows fold by fold."""
    before, after = np.empty(len(y), int), np.empty(len(y), int)
    for train, held in StratifiedKFold(5, shuffle=True, random_state=0).split(y, y):
        mean = x[train].mean(0)
        scale = np.sqrt(((x[train] - mean) ** 2).sum(1).mean())
        head = LogisticRegression(C=1 / (1e-4 * len(train)), tol=1e-10, max_iter=10_000)
        head.fit((x[train] - mean) / scale, y[train])
        before[held], after[held] = (head.predict((z[held] - mean) / scale) for z in (x, moved))
    return float((before != after).mean()), float((before == y).mean()), float((after == y).mean())


def test_a_fixed_head_is_the_head_of_td_asked_about_moved_rows() -> None:
    x, y = cloud(0)
    moved = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    clean, other = (Activations.from_arrays({"one": z}, labels=y + 4) for z in (x, moved))
    fixed, refitted = moved_features(clean, {(0.1, "attacked"): other}, get_metric("td"))
    assert fixed["measure"] == "td, fixed head"
    expected = fixed_head_by_hand(x.numpy(), moved.numpy(), y.numpy())
    assert (fixed["value"], fixed["accuracy_clean"], fixed["accuracy_moved"]) == pytest.approx(expected)
    assert 0 < expected[0] < 1
    td = compare(clean, other, "td")
    assert refitted["measure"] == "td, refitted heads"
    assert refitted["value"] == td.values.item()
    assert refitted["accuracy_clean"] == fixed["accuracy_clean"] == td.details["accuracy_row"].item()
    assert refitted["accuracy_moved"] == td.details["accuracy_col"].item()
    assert fixed["value"] != refitted["value"]


def test_a_layer_that_does_not_see_the_change_is_at_the_self_value() -> None:
    x, y = cloud(2)
    moved = x.clone()
    moved[:, 0] += torch.randn(len(x), generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    clean = Activations.from_arrays({"sees": x, "blind": x[:, 1:]}, labels=y)
    other = Activations.from_arrays({"sees": moved, "blind": moved[:, 1:]}, labels=y)
    for metric, equal in (("cka", 1.0), ("cka_biased", 1.0), ("mean_cca", 1.0), ("procrustes", 0.0), ("td", 0.0)):
        rows = moved_features(clean, {(0.1, "attacked"): other, (0.1, "control"): clean}, get_metric(metric))
        for row in rows:
            unmoved = row["layer"] == "blind" or row["condition"] == "control"
            assert (row["value"] == equal) == unmoved, row
    for row in moved_features(clean, {(0.1, "attacked"): other}, get_metric("cka")):
        place = row["place"]
        assert row["value"] == pytest.approx(float(compare(clean, other, "cka").values[place, place]))


def test_a_layer_without_a_number_says_why() -> None:
    x, y = cloud(4)
    clean = Activations.from_arrays({"flat": torch.ones(len(x), 2)}, labels=y)
    constant = "constant features: every sample has the same row"
    for metric, reasons in (("cka", [f"the row layer has {constant}"]), ("td", [f"the layer has {constant}", None])):
        rows = moved_features(clean, {(0.1, "attacked"): clean}, get_metric(metric))
        assert all(math.isnan(row["value"]) for row in rows)
        for row, reason in zip(rows, reasons, strict=True):
            assert row["reason"]
            assert reason in (None, row["reason"])


def test_cautions_and_chance_levels_stay_beside_the_values() -> None:
    x = torch.randn(12, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean, other = (Activations.from_arrays({"wide": z}) for z in (x, x.roll(1, 0)))
    (row,) = moved_features(clean, {(0.1, "attacked"): other}, get_metric("cka_biased"))
    found = get_metric("cka_biased").pairwise(
        *[[state] for state in get_metric("cka_biased").prepare([x, x.roll(1, 0)], None)]
    )
    assert row["cautions"] == found.cautions != ()
    assert row["chance"] == found.details["chance"].item() > 0.9


def test_heads_that_did_not_converge_have_no_number() -> None:
    x, y = cloud(5)
    clean = Activations.from_arrays({"one": x}, labels=y)
    fixed, refitted = moved_features(clean, {(0.1, "attacked"): clean}, get_metric("td(max_iter=1)"))
    assert math.isnan(fixed["value"])
    assert fixed["reason"].startswith("the layer has a probe that did not converge: gradient norm ")
    assert fixed["reason"].endswith(" 1e-05 needed; raise max_iter or tol")
    assert math.isnan(refitted["value"])


# --- The whole part -------------------------------------------------------------------------------------------


def test_without_a_change_everything_is_exactly_equal(digits: ImageSet, standard: Network, robust: Network) -> None:
    part = clean_and_attacked({"standard": [standard], "robust": [robust]}, digits, eps=[0.0], steps=1, progress=False)
    table = part.tables[""]
    assert set(table.measure) == {"cka", "td, fixed head", "td, refitted heads"}
    assert (table.value == np.where(table.measure == "cka", 1.0, 0.0)).all()
    assert set(table.layer) == {"conv1", "layer1.0", "layer2.0", "layer3.0"}
    accuracy = part.tables["accuracy"]
    assert accuracy.groupby("network").accuracy.nunique().eq(1).all()
    assert (accuracy.mean_norm == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_table_holds_what_the_pieces_give(
    digits: ImageSet, standard: Network, robust: Network, norm: str, tmp_path: Path
) -> None:
    data, eps = digits.take(range(100)), (0.1 if norm == "linf" else 1.0)
    groups = {"standard": [standard], "robust": [robust]}
    part = clean_and_attacked(groups, data, norm, [eps], steps=4, layers="layer*.*", metrics=["cka"], progress=False)
    ball = ThreatModel.parse(f"{norm}:{eps}")
    sets = {"attacked": adversarial(robust, data, ball, steps=4), "control": same_norm_noise(data, ball)}
    clean = extract(robust, data, layers="layer*.*")
    table, accuracy = part.tables[""], part.tables["accuracy"]
    for condition, moved in sets.items():
        found = compare(clean, extract(robust, moved, layers="layer*.*"), "cka")
        own = table[(table.group == "robust") & (table.condition == condition)]
        np.testing.assert_allclose(own.value, np.diag(found.values), rtol=1e-5)
        score = accuracy[(accuracy.group == "robust") & (accuracy.condition == condition)]
        assert float(score.mean_norm.iloc[0]) == pytest.approx(eps, rel=0.02)
    score = accuracy[(accuracy.group == "robust") & (accuracy.condition == "attacked")]
    assert float(score.accuracy.iloc[0]) == sets["attacked"].record["adversarial_accuracy"]
    assert part.protocol["networks"]["digits_pgd"]["group"] == "robust"
    assert part.protocol["eps"] == [eps]
    assert NO_INTERVAL in part.reading
    assert part.protocol["cautions"] == []
    files = part.save(tmp_path)
    assert [file.name for file in files] == [
        "clean_and_attacked.png",
        "clean_and_attacked.csv",
        "clean_and_attacked-summary.csv",
        "clean_and_attacked-differences.csv",
        "clean_and_attacked-accuracy.csv",
        "clean_and_attacked.json",
    ]


def test_a_network_without_a_gradient_is_not_moved_by_the_attack_beyond_its_start(digits: ImageSet) -> None:
    """Where features turn on one pixel alone, and the answers on none, the attack is as good as noise."""

    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Flatten()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * self.see(x)[:, :10]

    network = Network(Still(), name="still").eval()
    part = clean_and_attacked({"still": [network]}, digits, eps=[0.1], steps=2, metrics=["cka"], progress=False)
    values = part.tables[""].set_index("condition").value
    assert values["attacked"] == pytest.approx(values["control"], abs=0.02)


def test_mistakes_are_named(digits: ImageSet, standard: Network, robust: Network) -> None:
    groups = {"standard": [standard], "robust": [robust]}
    with pytest.raises(ValueError, match=exactly(
        "clean_and_attacked: there must be a radius; got none. Pass, say, eps=(8/255,)."
    )):  # fmt: skip
        clean_and_attacked(groups, digits, eps=[])
    with pytest.raises(ValueError, match=exactly(
        "ThreatModel: eps of linf must be at most 1; got 8. Pixels are in [0, 1]: write 8/255 where you mean 8 of 255 "
        "grey levels."
    )):  # fmt: skip
        clean_and_attacked(groups, digits, eps=[8])
    with pytest.raises(ValueError, match=exactly(
        'clean_and_attacked: metrics must name each measure once; got cka, cka. Pass metrics=("cka", "td").'
    )):  # fmt: skip
        clean_and_attacked(groups, digits, metrics=["cka", "cka"])
    with pytest.raises(ValueError, match=exactly(
        "clean_and_attacked: every group must hold a network; got none in 'robust'. Leave the group out."
    )):  # fmt: skip
        clean_and_attacked({"standard": [standard], "robust": []}, digits)
    with pytest.raises(ValueError, match=exactly(
        "clean_and_attacked: every network must have weights of its own; got the same in 'digits_standard' of 'a' and "
        "'digits_standard' of 'b'. A copy is no second seed; leave it out."
    )):  # fmt: skip
        clean_and_attacked({"a": [standard], "b": [standard]}, digits)


# --- What the reading may say ---------------------------------------------------------------------------------


def curves(group: str, attacked: np.ndarray, control: np.ndarray, kind: str = "similarity") -> AttackCurves:
    layers = tuple(f"layer{k}" for k in range(attacked.shape[-1]))
    return AttackCurves(group, "cka", kind, layers, (0.1,), attacked[:, None], control[:, None])


def accuracies(*groups: str) -> list[dict[str, object]]:
    places = (("clean", 0.0), ("attacked", 0.1), ("control", 0.1))
    return [
        {"group": group, "network": f"{group}-{k}", "condition": condition, "eps": eps, "accuracy": 0.5 + 0.1 * k}
        for group in groups
        for k in range(2)
        for condition, eps in places
    ]


def test_what_was_put_in_is_read_out() -> None:
    """At the last layer the networks differ by 0.01, at the first by −0.01: the growth by 0.02."""
    wobble = np.array([-0.01, 0.0, 0.01])[:, None] * [-1, 0, 1]
    control = np.full((3, 3), 0.95)
    falls = curves("standard", np.array([0.95, 0.8, 0.5]) + wobble, control)
    stays = curves("robust", np.array([0.9, 0.9, 0.9]) + wobble, control)
    text = reading([falls, stays], accuracies("standard", "robust"), "linf", 20)

    def sure(value: float, spread: float, freedom_2: float = 4.30265) -> str:
        half = freedom_2 * spread / 3**0.5
        return f"{value:+.3f} [{value - half:+.3f}, {value + half:+.3f}]"

    assert text == (
        "Accuracy at linf:0.1: standard (2 networks) 0.550 clean, 0.550 under PGD-20, 0.550 under the noise.",
        "Accuracy at linf:0.1: robust (2 networks) 0.550 clean, 0.550 under PGD-20, 0.550 under the noise.",
        "cka at linf:0.1, standard: 0.950 at layer0 to 0.500 at layer2 for attacked images, 0.950 to 0.950 for noise; "
        f"beyond noise at the last layer {sure(0.45, 0.01)}, further from the clean features than noise leads "
        f"(p = 0.00099); its growth from the first layer to the last {sure(0.45, 0.02)}, larger at the last layer than "
        "at the first (p = 0.0026).",
        f"cka at linf:0.1, standard less robust: beyond noise at the last layer {sure(0.4, 0.01 * 2**0.5)}, larger in "
        f"standard (p = 0.0021); its growth from the first layer to the last {sure(0.45, 0.02 * 2**0.5)}, larger in "
        "standard (p = 0.0039).",
        "cka at linf:0.1, robust: 0.900 at layer0 to 0.900 at layer2 for attacked images, 0.950 to 0.950 for noise; "
        f"beyond noise at the last layer {sure(0.05, 0.01)}, further from the clean features than noise leads "
        f"(p = 0.026); its growth from the first layer to the last {sure(0.0, 0.02)}, inside its uncertainty.",
        "Intervals are 95 %, Student's over networks left out one at a time, each for one comparison alone; what is "
        "claimed is corrected by Holm over 6 effects. They do not cover the choice of images, which all networks "
        "share.",
    )


def test_a_distance_counts_the_other_way() -> None:
    attacked, control = np.full((2, 2), 0.4), np.full((2, 2), 0.1)
    assert np.allclose(curves("a", attacked, control, "distance").beyond, 0.3)
    assert np.allclose(curves("a", attacked, control, "similarity").beyond, -0.3)
    attacked[0] = 0.402
    text = reading([curves("a", attacked, control)], accuracies("a"), "linf", 20)
    assert (
        "beyond noise at the last layer -0.301 [-0.314, -0.288], less far from the clean features than noise" in text[1]
    )


def test_one_network_has_numbers_and_no_interval() -> None:
    wobble = np.array([[0.01, 0], [0, 0.01]])
    one, two = (curves(g, 0.5 + wobble[:s], np.full((s, 2), 0.9)) for g, s in (("one", 1), ("two", 2)))
    text = reading([one, two], accuracies("one", "two"), "l2", 20)
    assert "beyond noise at the last layer +0.400 (no interval), no claim without an interval; " in text[2]
    start = "cka at l2:0.1, one less two: beyond noise at the last layer +0.005"
    assert f"{start} (no interval), no claim without an interval; " in text[3]
    assert text[-1] == NO_INTERVAL
    assert differences([one, two]).ci_low.isna().tolist() == [True, True, True, True, False, False]


def test_networks_that_agree_exactly_prove_nothing() -> None:
    """Shares of few images may agree by chance, and their spread of zero is no certainty."""
    agree = curves("a", np.full((3, 2), 0.4), np.full((3, 2), 0.7), "similarity")
    exactly_alike = "beyond noise at the last layer +0.300, no claim: the networks of a group agree exactly; "
    assert exactly_alike in reading([agree], accuracies("a"), "linf", 5)[1]
    assert summary([agree]).beyond_low.isna().all()
    nothing = curves("a", np.full((3, 2), 1.0), np.full((3, 2), 1.0), "similarity")
    told = reading([nothing], accuracies("a"), "linf", 5)[1]
    assert "beyond noise at the last layer no difference in any network; " in told


def test_a_missing_number_is_read_with_its_reason() -> None:
    attacked = np.array([[0.9, np.nan], [0.9, 0.8]])
    curve = AttackCurves(
        "a", "cka", "similarity", ("x", "y"), (0.1,), attacked[:, None], attacked[:, None], "it is flat"
    )
    text = reading([curve], accuracies("a"), "linf", 20)
    assert "beyond noise at the last layer no number (it is flat); " in text[1]
    assert summary([curve]).attacked.isna().tolist() == [False, True]


def test_groups_of_one_kind_are_rarely_told_apart() -> None:
    """Two groups of four networks from one distribution: a difference is claimed as often as 95 % intervals allow."""
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(200):
        both = [curves(g, 0.7 + 0.1 * rng.normal(size=(4, 2)), np.full((4, 2), 0.9)) for g in ("a", "b")]
        found = differences(both)
        pair = found[(found.groups == "a less b") & found.effect.str.startswith("beyond")].iloc[0]
        claims += not pair.ci_low <= 0 <= pair.ci_high
    assert claims <= 20


def test_rows_are_gathered_by_measure_group_and_network() -> None:
    rows = [
        {"group": g, "network": f"{g}{k}", "measure": m, "kind": "similarity", "layer": layer, "place": place}
        | {"eps": eps, "condition": condition, "reason": "", "cautions": ()}
        | {"value": hash((g, k, m, place, eps, condition)) % 997}
        for g, size in (("a", 2), ("b", 1))
        for k in range(size)
        for m in ("cka", "td")
        for condition in ("attacked", "control")
        for eps in (0.1, 0.2)
        for place, layer in enumerate(("x", "y", "z"))
    ]
    found = list(curves_of(rows))
    assert [(c.measure, c.group, len(c.attacked)) for c in found] == [
        ("cka", "a", 2),
        ("cka", "b", 1),
        ("td", "a", 2),
        ("td", "b", 1),
    ]
    assert found[2].control[1, 0, 2] == hash(("a", 1, "td", 2, 0.1, "control")) % 997
    assert found[3].attacked[0, 1, 1] == hash(("b", 0, "td", 1, 0.2, "attacked")) % 997


# --- The picture ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "layers"), [(1, 3), (2, 12), (5, 60)])
def test_the_picture_keeps_every_text_inside_and_apart(groups: int, layers: int) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [
            {
                "measure": m,
                "group": f"trained as number {g}",
                "eps": eps,
                "place": p,
                "layer": f"layer{p // 9}.{p}.conv",
            }
            | {"attacked": rng.random(), "attacked_error": 0.02, "control": rng.random(), "control_error": math.nan}
            for m in ("cka", "td, fixed head")
            for g in range(groups)
            for eps in (2 / 255, 4 / 255, 8 / 255)
            for p in range(layers)
        ]
    )
    figure = attacked_curves(frame, "linf")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    canvas.draw()
    box = figure.get_tightbbox()  # of all that is drawn, in inches
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()
    for ax in figure.axes:
        assert_apart([text for _, text in written(ax.xaxis)])
    assert_apart([ax.title for ax in figure.axes[:groups]])
    legend = figure.legends[0].get_window_extent()
    title = next(text for text in figure.texts if text.get_text().startswith("clean against"))
    assert all(thing.get_window_extent().x1 <= legend.x0 for thing in (*figure.axes, title))
    told = ["attack", "noise", "2/255", "4/255", "8/255", "± standard error\nover networks"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == told


@pytest.mark.parametrize(("eps", "text"), [(8 / 255, "8/255"), (0.1, "0.1"), (0.5, "0.5"), (1.0, "1"), (0.2, "0.2")])
def test_radii_are_written_the_shorter_way(eps: float, text: str) -> None:
    assert _radius(eps) == text
