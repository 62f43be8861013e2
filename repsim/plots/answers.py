"""What two heads answer differently: the samples themselves, and which classes are taken for which."""

import math
from typing import TYPE_CHECKING

import numpy as np

from repsim._common.messages import message
from repsim.plots.protocols import Answers, Images
from repsim.plots.style import TICK_LETTERS, TICK_POINTS, as_text, axis_points, short, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Colours of a right and a wrong answer; a tick and a cross say the same without colour.
_RIGHT, _WRONG = "#1b6e3c", "#b3261e"


def disagreement_grid(
    found: "Answers",
    data: "Images",
    *,
    count: int = 20,
    columns: int = 5,
    figure: "Figure | None" = None,
) -> "list[Axes]":
    """Draws samples that the heads on two layers answer differently, with the label and both answers.

    Args:
        found: Of `repsim.disagreements`: those first of which both heads are surest.
        data: The images that were compared.
        count: Draw this many at most.
        columns: Images per line.
        figure: An empty figure to draw into; None makes one of a fitting size.

    Returns:
        One Axes per image; a single one that says so where no answer differs. Their figure is `axes[0].figure`.

    Raises:
        ValueError: Other images than those compared, or a count or number of columns below 1.
    """
    if count < 1 or columns < 1:
        got = f"count={count}, columns={columns}"
        raise ValueError(message("disagreement_grid", "count and columns must be at least 1", got, "Raise them"))
    _check_images(found, data)
    shown = min(count, len(found.rows))
    across = min(columns, max(shown, 1))
    lines = max(1, math.ceil(shown / across))
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure()
    # Wide enough for the title, however few images there are.
    figure.set_size_inches(max(5.2, 1.75 * across + 0.3), 2.3 * lines + 0.9)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.08)
    share = "No answer differs" if shown == 0 else f"{len(found.rows):,} of {found.n:,} answers differ"
    some = f"; the {shown} surest" if shown < len(found.rows) else ""
    letters = int(72 * figure.get_figwidth() / 14)
    sides = [
        f"{side}: {short(model, letters)}, {short(layer, letters)}"
        for side, model, layer in (("A", found.model_a, found.layer_a), ("B", found.model_b, found.layer_b))
    ]
    figure.suptitle("\n".join([share + some, *sides]), fontsize=10)
    if shown == 0:
        ax = figure.add_subplot()
        ax.set_axis_off()
        ax.text(0.5, 0.5, f"both give the same answer\nto all {found.n:,} held-out samples", ha="center", va="center")
        return [ax]
    names = dict(zip([int(c) for c in found.classes], _class_names(found, data), strict=True))
    axes = []
    for k in range(shown):
        ax = figure.add_subplot(lines, across, k + 1)
        row = int(found.rows[k])
        image = np.asarray(data.pixels(slice(row, row + 1)))[0].transpose(1, 2, 0)
        grey = image.shape[2] != 3
        ax.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=1)
        ax.set_xticks([])
        ax.set_yticks([])
        label = int(found.labels[k])
        _line(ax, 0, f"label {_clip(names.get(label, str(label)), 14)}", "black")
        answers = (("A", found.answers_a, found.confidence_a), ("B", found.answers_b, found.confidence_b))
        for place, (side, answer, confidence) in enumerate(answers, 1):
            right = int(answer[k]) == label
            text = f"{side} {'✓' if right else '✗'} {_clip(names[int(answer[k])], 12)} {confidence[k]:.2f}"
            _line(ax, place, text, _RIGHT if right else _WRONG)
        axes.append(ax)
    return axes


def confusion(found: "Answers", data: "Images | None" = None, *, ax: "Axes | None" = None) -> "Axes":
    """Draws how often A answered the row's class where B answered the column's.

    Only cells off the diagonal are coloured: there the answers differ. The diagonal, which holds most samples and would
    take all colours, is grey.

    Args:
        found: Of `repsim.disagreements`.
        data: The images that were compared, whose classes have names.
        ax: Where; None makes a figure of a fitting size.

    Returns:
        The Axes; its figure is `ax.figure`.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    counts = np.asarray(found.confusion)
    k = len(counts)
    if ax is None:
        import matplotlib.pyplot as plt

        side = min(10.0, max(3.4, 0.36 * k))
        ax = plt.figure(figsize=(side + 2.2, side + 1.5), layout="compressed").add_subplot()
    off = np.ma.masked_array(counts, np.eye(k, dtype=bool))
    most = max(1, int(off.max()) if k > 1 else 1)
    shades = LinearSegmentedColormap.from_list("answers", ["white", "#f4a582", "#b2182b", "#67001f"])
    shades = shades.with_extremes(bad="0.88")
    image = ax.imshow(off, cmap=shades, vmin=0, vmax=most, interpolation="nearest")
    cell = min(axis_points(ax, 0), axis_points(ax, 1)) / k
    size = min(9.0, 0.7 * cell, 0.85 * cell / (0.62 * len(str(counts.max()))))
    if size >= 5:
        for i, j in np.argwhere(counts):
            shade = "0.4" if i == j else "white" if counts[i, j] > 0.55 * most else "black"
            ax.text(j, i, str(counts[i, j]), ha="center", va="center", size=size, color=shade)
    names = [_clip(name, TICK_LETTERS) for name in _class_names(found, data)]
    places = thin(k, min(axis_points(ax, 0), axis_points(ax, 1)))
    ax.set_xticks(places, [names[i] for i in places], rotation=90)
    ax.set_yticks(places, [names[i] for i in places])
    ax.tick_params(labelsize=TICK_POINTS, length=2, pad=1)
    letters = int(axis_points(ax, 0) / 13)
    ax.set_xlabel(f"B: {short(found.model_b, letters)}, {short(found.layer_b, letters)}", fontsize=9)
    ax.set_ylabel(f"A: {short(found.model_a, letters)}, {short(found.layer_a, letters)}", fontsize=9)
    ax.set_title(f"{len(found.rows):,} of {found.n:,} answers differ", fontsize=10)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.04, 1)))
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=8)
    bar.set_label("samples answered differently; grey: alike", fontsize=8)
    return ax


def _check_images(found: "Answers", data: "Images") -> None:
    """The images must be those that were compared: the ids stand in the same rows."""
    for row, name in zip(found.rows, found.ids, strict=True):
        held = data.ids[int(row)] if int(row) < len(data) else "nothing"
        if name not in (held, str(int(row))):  # features without ids name their rows
            got = f"{held} in row {int(row)} of {data.name!r}, where {name} is needed"
            advice = "Pass the ImageSet that the features were extracted on"
            raise ValueError(message("disagreement_grid", "data must hold the compared samples", got, advice))


def _class_names(found: "Answers", data: "Images | None") -> list[str]:
    """One name per class: as it was given, else as the images call it where they have these labels, else its number."""
    if found.class_names is not None:
        return list(found.class_names)
    names = () if data is None else data.classes
    asked = [int(c) for c in found.classes]
    if data is not None and asked and 0 <= min(asked) <= max(asked) < len(names):
        own = [int(data.labels[int(row)]) for row in found.rows if int(row) < len(data)]
        if own == [int(label) for label in found.labels]:  # not those of another task
            return [names[c] for c in asked]
    return [str(c) for c in asked]


def _clip(name: str, letters: int) -> str:
    """A class name that fits; unlike a layer's, its beginning says which it is."""
    return as_text(name if len(name) <= letters else name[: letters - 1] + "…")


def _line(ax: "Axes", place: int, text: str, colour: str) -> None:
    """One line of text under an image; 0 is the first."""
    under = (0, -3 - 10 * place)
    ax.annotate(text, (0.5, 0), under, "axes fraction", "offset points", ha="center", va="top", size=8, color=colour)
