"""What tests of pictures share: drawing as saving does, and every text that is seen."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture(autouse=True)
def no_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def show(*_: object, **__: object) -> None:
        raise AssertionError("a picture is returned, not shown")

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(Figure, "show", show)
    yield
    plt.close("all")


def figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def drawn(axes: Axes) -> np.ndarray:
    """Draws the figure as saving does, twice, so that the layout has settled; returns its pixels."""
    canvas = FigureCanvasAgg(figure_of(axes))
    canvas.draw()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def written(axis: Axis) -> list[tuple[float, Text]]:
    """Tick labels inside the view, with the places they stand at, in ascending order."""
    low, high = sorted(axis.get_view_interval())
    pairs = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return sorted((float(at), text) for at, text in pairs if text.get_text() and low <= at <= high)


def texts(figure: Figure) -> list[Text]:
    """Every text that is seen."""
    found = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text():
            found.append(text)
    # Tick labels that stand outside the view exist and are not drawn.
    hidden = set()
    for axes in figure.findobj(Axes):
        assert isinstance(axes, Axes)
        for axis in (axes.xaxis, axes.yaxis):
            seen = {id(text) for _, text in written(axis)}
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            hidden |= {id(t) for tick in ticks for t in (tick.label1, tick.label2) if id(t) not in seen}
    return [text for text in found if id(text) not in hidden]


def assert_inside(figure: Figure) -> None:
    """No text is cut by the figure's edge."""
    box = figure.bbox
    for text in texts(figure):
        seen = text.get_window_extent()
        assert min(seen.x0, seen.y0) >= 0, text
        assert seen.x1 <= box.width, text
        assert seen.y1 <= box.height, text


def assert_apart(labels: list[Text]) -> None:
    """No two of these texts overlap."""
    boxes = [text.get_window_extent() for text in labels]
    for one, first in enumerate(boxes):
        for other, second in enumerate(boxes[:one]):
            free = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 or second.y1 <= first.y0
            assert free, (labels[one], labels[other])
