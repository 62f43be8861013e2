"""What the picture of TD over penalties and fitting sizes shows."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from repsim.plots import sensitivity_curves
from repsim.similarity.sensitivity import td_sensitivity
from tests.conftest import exactly
from tests.similarity.test_sensitivity import GRID, sides


def test_it_draws_td_and_its_floor_for_every_size() -> None:
    found = td_sensitivity(*sides(), **GRID)
    axes = sensitivity_curves(found, "x", "z", figure=Figure())
    assert [ax.get_title() for ax in axes] == ["30 fitting rows", "60 fitting rows"]
    for s, ax in enumerate(axes):
        for line, name in zip([c[0] for c in ax.containers], ("td", "floor"), strict=True):
            np.testing.assert_allclose(np.asarray(line.get_xdata(), dtype=float), found.penalties)
            np.testing.assert_allclose(line.get_ydata(), getattr(found, name)[:, s, 0, 0])
    text = "sensitivity_curves: the layer must exist; got y. Known: x, flat."
    with pytest.raises(ValueError, match=exactly(text)):
        sensitivity_curves(found, "y", "z", figure=Figure())
