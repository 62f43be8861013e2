"""Samples that are answered differently, and the table of answers against answers: what is drawn and written."""

import dataclasses
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repsim import ImageSet
from repsim.plots import confusion, disagreement_grid
from repsim.similarity.disagreement import Disagreements
from tests.conftest import exactly
from tests.support.pictures import assert_apart, assert_inside, drawn, figure_of, no_windows, written

__all__ = ["no_windows"]  # a fixture that every test of this file uses

LONG = "a_class_whose_name_is_very_long_{}"


def images(n: int = 60, classes: int = 3, channels: int = 1, side: int = 6) -> ImageSet:
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels.to(torch.uint8), torch.arange(n) % classes, tuple(f"i{k}" for k in range(n)), "fake")


def found(data: ImageSet, m: int, classes: int = 3, **changes: Any) -> Disagreements:
    """m rows where one side is right and the other is not, in turn; all others are right on both sides."""
    rows = np.random.default_rng(0).permutation(len(data))[:m]
    labels = data.labels.numpy()[rows]
    wrong = (labels + 1 + np.arange(m) % max(1, classes - 1)) % classes
    first = np.arange(m) % 2 == 0
    a, b = np.where(first, labels, wrong), np.where(first, wrong, labels)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (a, b), 1)
    agreed = np.setdiff1d(np.arange(len(data)), rows)
    np.add.at(counts, (data.labels.numpy()[agreed],) * 2, 1)
    whole: dict[str, Any] = {
        "ids": tuple(data.ids[i] for i in rows),
        "rows": rows,
        "labels": labels,
        "answers_a": a,
        "answers_b": b,
        "confidence_a": np.linspace(0.9, 0.5, m),
        "confidence_b": np.linspace(0.8, 0.4, m),
        "confusion": counts,
        "classes": np.arange(classes),
        "class_names": None,
        "layer_a": "layer1",
        "layer_b": "layer2",
        "model_a": "first",
        "model_b": "second",
        "metric": "td",
        "n": len(data),
        **changes,
    }
    return Disagreements(**whole)


def lines(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


# --- Samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_are_those_of_the_rows(channels: int) -> None:
    data = images(channels=channels)
    made = found(data, 7)
    axes = disagreement_grid(made, data)
    assert len(axes) == 7
    for k, ax in enumerate(axes):
        (image,) = ax.images
        shown = np.asarray(image.get_array())
        expected = data.images[int(made.rows[k])].numpy().transpose(1, 2, 0) / 255
        np.testing.assert_allclose(shown, expected[..., 0] if channels == 1 else expected, atol=1e-6)
        assert image.get_clim() == (0, 1)
    drawn(axes[0])


def test_every_image_says_the_label_and_both_answers() -> None:
    data = images()
    made = found(data, 2, class_names=("cat", "dog", "owl"))
    one, two = disagreement_grid(made, data)
    names = ("cat", "dog", "owl")
    for ax, right, wrong, k in ((one, 0, 1, 0), (two, 1, 0, 1)):
        label, *answers = ax.texts
        assert label.get_text() == f"label {names[made.labels[k]]}"
        given = [made.answers_a[k], made.answers_b[k]]
        assert answers[right].get_text().split()[:3] == ["AB"[right], "✓", names[given[right]]]
        assert answers[wrong].get_text().split()[:3] == ["AB"[wrong], "✗", names[given[wrong]]]
        assert answers[right].get_color() != answers[wrong].get_color()
    assert lines(one)[1].endswith(" 0.90")
    assert lines(one)[2].endswith(" 0.80")
    assert lines(disagreement_grid(found(data, 1), data)[0])[0] == f"label {made.labels[0]}"


def test_the_title_says_how_many_differ() -> None:
    data = images()
    axes = disagreement_grid(found(data, 12), data)
    assert figure_of(axes[0]).get_suptitle() == "12 of 60 answers differ\nA: first, layer1\nB: second, layer2"
    axes = disagreement_grid(found(data, 12), data, count=5)
    assert len(axes) == 5
    assert figure_of(axes[0]).get_suptitle().startswith("12 of 60 answers differ; the 5 surest\n")


def test_no_disagreement_is_said_clearly() -> None:
    data = images()
    (ax,) = disagreement_grid(found(data, 0), data)
    assert lines(ax) == ["both give the same answer\nto all 60 held-out samples"]
    assert figure_of(ax).get_suptitle().startswith("No answer differs\n")
    drawn(ax)
    assert_inside(figure_of(ax))


@pytest.mark.parametrize(("m", "count", "columns"), [(1, 20, 5), (3, 20, 5), (20, 20, 5), (33, 33, 8), (4, 20, 1)])
def test_texts_of_a_grid_are_whole_and_apart(m: int, count: int, columns: int) -> None:
    data = images(channels=3)
    name = "wide_resnet28_10_cifar10_trades_seed17_epoch200"
    names = tuple(LONG.format(k) for k in range(3))
    layer = "features.stage0.residual_block.convolution_003"
    made = found(data, m, class_names=names, model_a=name, model_b=name, layer_a=layer)
    axes = disagreement_grid(made, data, count=count, columns=columns)
    drawn(axes[0])
    figure = figure_of(axes[0])
    assert_inside(figure)
    assert_apart([text for ax in axes for text in ax.texts])
    places = [ax.get_position() for ax in axes]
    if m > columns:
        assert places[columns].y1 < places[0].y0
    if m > 1 and columns > 1:
        assert places[1].x0 > places[0].x1


def test_a_figure_given_is_drawn_into() -> None:
    data, figure = images(), Figure()
    assert figure_of(disagreement_grid(found(data, 3), data, figure=figure)[0]) is figure
    assert plt.get_fignums() == []


def test_other_images_are_refused() -> None:
    data = images()
    made = found(data, 3, ids=("a", "b", "c"))
    row = int(made.rows[0])
    text = (
        f"disagreement_grid: data must hold the compared samples; got i{row} in row {row} of 'fake', where a is "
        "needed. Pass the ImageSet that the features were extracted on."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        disagreement_grid(made, data)
    with pytest.raises(ValueError, match="got nothing in row"):
        disagreement_grid(found(data, 60), data.take(range(30)))
    unnamed = dataclasses.replace(made, ids=tuple(str(i) for i in made.rows))  # features that carried no ids
    assert len(disagreement_grid(unnamed, data)) == 3


@pytest.mark.parametrize(("count", "columns"), [(0, 5), (20, 0), (-1, 5)])
def test_a_grid_needs_room(count: int, columns: int) -> None:
    text = f"disagreement_grid: count and columns must be at least 1; got count={count}, columns={columns}. Raise them."
    with pytest.raises(ValueError, match=exactly(text)):
        disagreement_grid(found(images(), 3), images(), count=count, columns=columns)


# --- Answers against answers ----------------------------------------------------------------------------------


def test_cells_hold_the_counts_and_the_diagonal_takes_no_colour() -> None:
    made = found(images(), 9)
    axes = confusion(made)
    (image,) = axes.images
    shown = np.ma.asarray(image.get_array())
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), np.eye(3, dtype=bool))
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal(shown.data[off], made.confusion[off])
    assert image.get_clim() == (0, made.confusion[off].max())
    written_counts = {tuple(int(v) for v in t.get_position()[::-1]): t.get_text() for t in axes.texts}
    assert written_counts == {(int(i), int(j)): str(made.confusion[i, j]) for i, j in np.argwhere(made.confusion)}
    assert axes.get_ylabel() == "A: first, layer1"
    assert axes.get_xlabel() == "B: second, layer2"
    assert axes.get_title() == "9 of 60 answers differ"
    pixels = drawn(axes)
    x, y = axes.transData.transform((0.35, 0.35)).astype(int)  # beside the count of a diagonal cell
    assert pixels[pixels.shape[0] - y, x][:3].tolist() == [224, 224, 224]
    low, high = axes.get_ylim()
    assert low > high  # the first class at the top, as confusion tables are read


def test_nothing_off_the_diagonal_is_drawn_too() -> None:
    axes = confusion(found(images(), 0))
    assert axes.images[0].get_clim() == (0, 1)
    assert axes.get_title() == "0 of 60 answers differ"
    drawn(axes)


@pytest.mark.parametrize("classes", [2, 10, 30, 100])
def test_up_to_100_classes_are_readable(classes: int) -> None:
    data = images(n=4 * classes, classes=classes)
    name = "wide_resnet28_10_cifar10_trades_seed17_epoch200"
    names = tuple(f"{k}_" + "long_class_name" * 2 for k in range(classes))
    axes = confusion(found(data, classes, classes=classes, class_names=names, model_a=name, model_b=name))
    drawn(axes)
    assert_inside(figure_of(axes))
    for axis in (axes.xaxis, axes.yaxis):
        labels = written(axis)
        assert len(labels) >= min(classes, 50)
        assert_apart([text for _, text in labels])
        for at, text in labels:
            assert text.get_text() == names[int(at)][:21] + "…"
    counts = list(axes.texts)
    assert counts or classes > 30
    assert_apart(counts)
    assert all(float(t.get_fontsize()) >= 5 for t in counts)


def test_large_counts_are_written_where_they_fit() -> None:
    made = found(images(), 9)
    big = dataclasses.replace(made, confusion=made.confusion * 12_345)
    small = Figure(figsize=(1.6, 1.2)).add_subplot()
    assert not confusion(big, ax=small).texts
    axes = confusion(big)
    drawn(axes)
    for text in axes.texts:
        seen = text.get_window_extent()
        assert seen.width < axes.get_window_extent().width / 3


def test_the_axes_given_are_used() -> None:
    axes = Figure().add_subplot()
    assert confusion(found(images(), 3), ax=axes) is axes
    assert plt.get_fignums() == []
