"""Layers over the epochs of a training: what is measured, how sure it is, and what the reading may say."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.linear_model import LogisticRegression

from repsim import Activations, ImageSet, compare, extract, load_data, load_model
from repsim.metrics import get_metric
from repsim.metrics.transferred.td import TD
from repsim.networks.network import Network
from repsim.plots.study_attacks import epoch_heatmaps
from repsim.recipes import RECIPES, train
from repsim.studies.common.claims import shown
from repsim.studies.robustness.dynamics_report import HeadAnswers, ImageEstimate, gap, growth, reading, settled
from repsim.studies.robustness.training_dynamics import alike, answers, dynamics
from tests.conftest import exactly
from tests.support.pictures import assert_apart, written

Snapshots = dict[str, dict[int, Network]]


@pytest.fixture(scope="module")
def seen() -> ImageSet:
    return load_data("digits", split="train", limit=200)


@pytest.fixture(scope="module")
def snapshots(seen: ImageSet, digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Snapshots:
    """Three epochs of one training, and two of another."""
    found: Snapshots = {}
    for name, epochs, seed in (("long", 3, 0), ("short", 2, 1)):
        folder = tmp_path_factory.mktemp(name)
        recipe = RECIPES["standard"](epochs=epochs)
        train(recipe, seen, digits, seed=seed, name=name, snapshots=folder, progress=False)
        found[name] = {k: load_model(file) for k, file in enumerate(sorted(folder.iterdir()), 1)}
    return found


# --- How sure a gap is ----------------------------------------------------------------------------------------


def head(train_right: list[int], test_right: list[int], reason: str = "") -> HeadAnswers:
    one, other = (torch.tensor(right) for right in (train_right, test_right))
    return HeadAnswers(one, other, one.bool(), other.bool(), reason)


def wilson_by_hand(right: int, n: int) -> tuple[float, float]:
    """The two shares p with |right / n − p| = z √(p (1 − p) / n), as roots of the quadratic."""
    z2, share = 1.959963984540054**2, right / n
    roots = np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2])
    return float(min(roots)), float(max(roots))


@pytest.mark.parametrize(
    ("right", "n", "other", "m"), [(56, 70, 48, 80), (9, 10, 3, 10), (10, 10, 0, 20), (5, 50, 0, 50)]
)
def test_the_interval_of_a_gap_is_newcombes(right: int, n: int, other: int, m: int) -> None:
    found = gap(head([1] * right + [0] * (n - right), [1] * other + [0] * (m - other)))
    p, q = right / n, other / m
    (low_p, high_p), (low_q, high_q) = wilson_by_hand(right, n), wilson_by_hand(other, m)
    assert found.value == pytest.approx(p - q)
    assert found.low == pytest.approx(p - q - math.hypot(p - low_p, high_q - q), abs=1e-7)
    assert found.high == pytest.approx(p - q + math.hypot(high_p - p, q - low_q), abs=1e-7)


def test_newcombes_own_example() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    found = gap(head([1] * 56 + [0] * 14, [1] * 48 + [0] * 32))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_growth_is_paired_over_images() -> None:
    rng = np.random.default_rng(0)
    first = head(rng.integers(0, 2, 400).tolist(), rng.integers(0, 2, 300).tolist())
    last = head(rng.integers(0, 2, 400).tolist(), rng.integers(0, 2, 300).tolist())
    found = growth(first, last)
    assert found.value == pytest.approx(last.gap - first.gap)
    changes = [(a.double() - b.double()).numpy() for a, b in (
        (last.train_right, first.train_right), (last.test_right, first.test_right)
    )]  # fmt: skip
    half = 1.96 * math.sqrt(sum(c.var() / len(c) for c in changes))
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.01)
    # The same answers at both layers: nothing is left to be unsure of, however unsure each gap is.
    same = growth(first, first)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert gap(first).high - gap(first).low > 0.1


def test_the_difference_of_two_growths_is_paired_too() -> None:
    rng = np.random.default_rng(1)
    heads = [head(rng.integers(0, 2, 90).tolist(), rng.integers(0, 2, 60).tolist()) for _ in range(4)]
    found = growth(*heads[:2], less=(heads[2], heads[3]))
    assert found.value == pytest.approx(heads[1].gap - heads[0].gap - heads[3].gap + heads[2].gap)
    nothing = growth(*heads[:2], less=(heads[0], heads[1]))
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_a_growth_is_rarely_claimed_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    claims = 0
    for _ in range(200):
        drawn = [rng.random((2, n)) < 0.8 for n in (200, 150)]
        first, last = (head(drawn[0][k].astype(int).tolist(), drawn[1][k].astype(int).tolist()) for k in (0, 1))
        claims += growth(first, last).p < 0.05
    assert claims <= 20


def test_from_when_a_layer_has_settled() -> None:
    assert settled([0.1, 0.95, 0.5, 0.92, 1.0], 0.9) == 3
    assert settled([0.95, 0.96, 1.0], 0.9) == 0
    assert settled([0.95, 0.9, 1.0], 0.9) == 2
    assert settled([math.nan, 1.0], 0.9) is None


# --- What is measured -----------------------------------------------------------------------------------------


def test_heads_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    y, z = np.arange(90) % 3, np.arange(60) % 3
    x, w = rng.normal(size=(90, 6)) + 1.2 * np.eye(6)[y], rng.normal(size=(60, 6)) + 1.2 * np.eye(6)[z]
    sides = [Activations.from_arrays({"one": a, "half": a[:, :3]}, labels=b + 2) for a, b in ((x, y), (w, z))]
    found = answers(sides[0], sides[1], TD(penalty=1e-3))
    for width, got in ((6, found[0]), (3, found[1])):
        mean = x[:, :width].mean(0)
        scale = np.sqrt(((x[:, :width] - mean) ** 2).sum(1).mean())
        oracle = LogisticRegression(C=1 / (1e-3 * 90), tol=1e-10, max_iter=10_000)
        oracle.fit((x[:, :width] - mean) / scale, y)
        given = [np.asarray(oracle.predict((a[:, :width] - mean) / scale)) for a in (x, w)]
        assert (got.train.tolist(), got.test.tolist()) == (given[0].tolist(), given[1].tolist())
        assert got.gap == pytest.approx((given[0] == y).mean() - (given[1] == z).mean())
        assert got.reason == ""


def test_a_constant_layer_has_no_head_and_no_similarity() -> None:
    x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    side = Activations.from_arrays({"flat": torch.ones(40, 2), "free": x}, labels=y)
    flat, free = answers(side, side, TD())
    assert flat.reason == "the layer has constant features: every sample has the same row"
    assert free.reason == ""
    one, other = alike(side, side, get_metric("cka"))
    assert math.isnan(one.value)
    assert one.reason == "the row layer has constant features: every sample has the same row"
    assert (other.value, other.reason) == (1.0, "")


def test_the_table_holds_what_the_pieces_give(snapshots: Snapshots, seen: ImageSet, digits: ImageSet) -> None:
    part = dynamics({"long": snapshots["long"]}, seen, digits, threat="linf:0.1", progress=False)
    table, networks = part.tables[""], part.tables["networks"]
    assert list(table.epoch) == [1] * 4 + [2] * 4 + [3] * 4
    layers = ["conv1", "layer1.0", "layer2.0", "layer3.0"]
    assert list(table.layer) == layers * 3
    features = {k: extract(net, digits, layers=layers) for k, net in snapshots["long"].items()}
    for epoch in (1, 2):
        own = table[table.epoch == epoch]
        np.testing.assert_allclose(own.to_final, np.diag(compare(features[epoch], features[3]).values), rtol=1e-5)
    np.testing.assert_allclose(
        table[table.epoch == 2].to_previous, np.diag(compare(features[2], features[1]).values), rtol=1e-5
    )
    last = table[table.epoch == 3]
    assert (last.to_final == 1).all()
    assert (last[["td_train", "td_test"]] == 0).all(axis=None)
    assert table[table.epoch == 1].to_previous.isna().all()
    np.testing.assert_allclose(table.gap, table.head_train - table.head_test, atol=1e-12)
    assert (table[table.epoch == 1].td_test > 0).any()
    assert (table.td_test >= (table.head_test - list(last.head_test) * 3).abs() - 1e-12).all()
    score = networks[networks.epoch == 3].iloc[0]
    assert score.test == float((features[3].outputs.argmax(1) == digits.labels).double().mean())  # type: ignore[union-attr]
    assert score.train_attacked <= score.train
    assert part.protocol["train"] == {"name": seen.name, "n": 200, "digest": seen.digest}
    assert part.protocol["attack"] == "PGD-10 in linf:0.1, one random start"


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")  # after one epoch a head is far worse than a refitted one
def test_heads_on_td_s_own_terms(snapshots: Snapshots, seen: ImageSet, digits: ImageSet) -> None:
    """TD of test images between two epochs is TD with all training rows as fitting rows."""
    both = ImageSet(
        torch.cat([seen.images, digits.images]), torch.cat([seen.labels, digits.labels]), seen.ids + digits.ids, "both"
    )
    sides = [extract(snapshots["long"][k], both, layers="layer3.0") for k in (1, 3)]
    expected = compare(sides[0], sides[1], TD(fit_rows=tuple(range(200)), resamples=0)).values.item()
    part = dynamics({"long": snapshots["long"]}, seen, digits, layers="layer3.0", progress=False)
    assert part.tables[""].td_test.iloc[0] == pytest.approx(expected, abs=0.0067)  # one image: batches round otherwise


def test_two_trainings_become_files(snapshots: Snapshots, seen: ImageSet, digits: ImageSet, tmp_path: Path) -> None:
    part = dynamics(snapshots, seen, digits, layers=["conv1", "layer3.0"], progress=False)
    files = part.save(tmp_path)
    assert [file.name for file in files] == ["dynamics.png", "dynamics.csv", "dynamics-networks.csv", "dynamics.json"]
    assert "train_attacked" not in part.tables["networks"]
    assert part.protocol["runs"]["short"]["epochs"] == [1, 2]
    assert part.protocol["cautions"] == []
    assert [
        text
        for text in part.reading
        if text.startswith("Growth of that gap from the first layer to the last, long less")
    ]
    last = max(part.tables[""].epoch)
    own = part.tables[""][(part.tables[""].group == "long") & (part.tables[""].epoch == last)]
    wanted = f"long, heads after epoch 3, train less test accuracy: {own.gap.iloc[0]:+.3f} ["
    assert any(text.startswith(wanted) for text in part.reading)


def test_folders_that_number_their_files_alike_hold_different_images(
    snapshots: Snapshots, seen: ImageSet, digits: ImageSet
) -> None:
    """An id in both sets is one image only where the pixels are the same."""
    fewer = digits.take(torch.arange(60))
    alike = ImageSet(fewer.images, fewer.labels, seen.ids[:60], fewer.name)
    dynamics({"long": snapshots["long"]}, seen, alike, layers=["conv1"], progress=False)


def test_mistakes_are_named(snapshots: Snapshots, seen: ImageSet, digits: ImageSet) -> None:
    with pytest.raises(ValueError, match=exactly(
        "dynamics: 'long' must have at least two epochs; got 1. Keep more with repsim train --snapshots DIR."
    )):  # fmt: skip
        dynamics({"long": {3: snapshots["long"][3]}}, seen, digits)
    with pytest.raises(ValueError, match=exactly(
        "dynamics: training and test images must be different ones; got 150 in both, 'digits/0205' first. Split them."
    )):  # fmt: skip
        dynamics(snapshots, digits, digits)
    with pytest.raises(ValueError, match=exactly(
        "dynamics: there must be a group; got none. Pass {group: {epoch: network}}."
    )):  # fmt: skip
        dynamics({}, seen, digits)


# --- What the reading may say ---------------------------------------------------------------------------------


def read(to_final: np.ndarray, heads: list[HeadAnswers], **score: float) -> tuple[str, ...]:
    """The reading of one training of as many epochs and layers as there are numbers."""
    import pandas as pd

    layers, epochs = to_final.shape
    table = pd.DataFrame(
        [
            {"group": "a", "epoch": e + 1, "layer": f"layer{p}", "place": p, "to_final": to_final[p, e]}
            for e, p in itertools.product(range(epochs), range(layers))
        ]
    )
    scores = [{"group": "a", "epoch": e + 1, "train": 1.0, "test": 0.75, **score} for e in range(epochs)]
    return reading(table, scores, {"a": {e + 1: heads for e in range(epochs)}}, get_metric("cka"))


def test_what_was_put_in_is_read_out() -> None:
    first, last = head([1] * 100, [1] * 100), head([1] * 100, [1] * 50 + [0] * 50)
    text = read(np.array([[0.95, 0.99, 1.0], [0.2, 0.95, 1.0]]), [first, last], train_attacked=0.9, test_attacked=0.5)
    low, high = (gap(last).low, gap(last).high)
    grown = growth(first, last)
    assert grown.low > 0.35
    assert text == (
        "a: the network after epoch 3 is right on 1.000 of the train images and 0.750 of the test images; under attack "
        "0.900 and 0.500, a gap of +0.400.",
        "a: cka to the end stays above 0.9 from epoch 1 at layer0, 2 at layer1: earlier layers no later than "
        "deeper ones.",
        f"a, heads after epoch 3, train less test accuracy: {shown(gap(first), sign=True)} at layer0, "
        f"+0.500 [{low:+.3f}, {high:+.3f}] at layer1, largest at layer1 (+0.500 [{low:+.3f}, {high:+.3f}], picked "
        f"after looking at all); growth from layer0 to layer1 "
        f"+0.500 [{grown.low:+.3f}, {grown.high:+.3f}], larger at layer1 (p = 0.0004).",
        "Train: 100 images that the networks were trained on, which also fit the heads. Test: 100 others. There is one "
        "training per group: intervals are 95 %, each for one comparison alone, p-values of growths corrected by Holm "
        "over 1; both cover the choice of images that these heads are asked about, not of those they were fitted on, "
        "nor of trainings.",
    )
    shrinks = read(np.ones((2, 2)), [last, first])
    assert shrinks[1].endswith(": these epochs do not tell layers apart.")
    assert shrinks[2].endswith(", larger at layer0 (p = 0.0004).")
    assert read(np.ones((2, 2)), [last, last])[2].endswith("+0.000 [+0.000, +0.000], inside its uncertainty.")


def test_the_order_of_settling_is_read_as_it_is() -> None:
    same = head([1] * 10, [1] * 10)
    late, soon = [0.1, 0.2, 1.0], [0.99, 0.99, 1.0]
    middle = [0.1, 0.95, 1.0]
    assert read(np.array([late, middle, soon]), [same] * 3)[1].endswith(": deeper layers no later than earlier ones.")
    assert read(np.array([middle, soon, late]), [same] * 3)[1].endswith(": not in the order of depth.")
    text = read(np.array([[math.nan] * 3, middle, late]), [same] * 3)[1]
    assert "from epoch no number at layer0, 2 at layer1, 3 at layer2: earlier layers no later" in text


def test_a_layer_without_a_head_is_read_with_its_reason() -> None:
    without = head([1] * 10, [1] * 10, "the layer is flat")
    text = read(np.ones((2, 2)), [without, head([1] * 10, [1] * 10)])[2]
    assert text == "a, heads after epoch 2, train less test accuracy: no number for all layers, the layer is flat."


def test_an_interval_is_written_with_its_number() -> None:
    assert shown(ImageEstimate(0.1234, -0.05, 0.2), sign=True) == "+0.123 [-0.050, +0.200]"
    assert ImageEstimate(0.1, -0.05, 0.2).interval() == (-0.05, 0.2)


# --- The picture ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "layers", "epochs"), [(1, 3, 2), (2, 20, 15), (1, 60, 200)])
def test_the_picture_keeps_every_text_inside_and_apart(groups: int, layers: int, epochs: int) -> None:
    rng = np.random.default_rng(0)
    names = [[f"layer{k // 9}.{k}.conv" for k in range(layers)]] * groups
    values = [[rng.random((layers, epochs)), np.full((layers, epochs), np.nan)] for _ in range(groups)]
    figure = epoch_heatmaps(
        [f"trained as number {k}" for k in range(groups)],
        ["cka to the end", "train less test accuracy of heads"],
        values,
        names,
        [list(range(1, epochs + 1))] * groups,
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    canvas.draw()
    box = figure.get_tightbbox()  # of all that is drawn, in inches
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            assert_apart([text for _, text in written(axis)])
    assert [ax.get_title() for ax in figure.axes[:2]] == [
        "trained as number 0: cka to the end",
        "trained as number 0: train less test accuracy of heads",
    ]
