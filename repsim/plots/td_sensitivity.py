"""TD and its noise floor against the penalty of the heads, one panel for each number of rows they are fitted on."""

from typing import TYPE_CHECKING

import numpy as np

from repsim._common.messages import did_you_mean, message
from repsim.plots.protocols import SensitivityGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sensitivity_curves(found: SensitivityGrid, row: str, col: str, *, figure: "Figure | None" = None) -> "list[Axes]":
    """Draws one pair of layers: a claim about heads stands where TD stays above its floor in every panel.

    Bars are two standard errors over the held-out rows. The dotted line is how often the networks' own heads differ.

    Args:
        found: Of `repsim.td_sensitivity`.
        row: A layer of the first side.
        col: A layer of the second side.
        figure: An empty figure to draw into; None makes one.

    Returns:
        One Axes per number of fitting rows, from few to many as given.

    Raises:
        ValueError: An unknown layer.
    """
    for name, known in ((row, found.rows), (col, found.cols)):
        if name not in known:
            raise ValueError(message("sensitivity_curves", "the layer must exist", name, did_you_mean(name, known)))
    i, j = found.rows.index(row), found.cols.index(col)
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(2.9 * len(found.shares) + 0.6, 3.4), layout="compressed")
    axes = list(np.atleast_1d(figure.subplots(1, len(found.shares), sharey=True)))
    for s, ax in enumerate(axes):
        for name, label, shade in (("td", "TD", "tab:blue"), ("floor", "its noise floor", "tab:orange")):
            value, error = getattr(found, name)[:, s, i, j], getattr(found, f"{name}_se")[:, s, i, j]
            ax.errorbar(found.penalties, value, 2 * error, color=shade, marker="o", ms=4, capsize=2, label=label)
        if np.isfinite(found.outputs_disagree):
            ax.axhline(found.outputs_disagree, color="0.4", ls=":", label="their own heads")
        ax.set_xscale("log")
        ax.set_xlabel("penalty λ")
        ax.set_title(f"{found.fit_rows[s]:,} fitting rows", fontsize=10)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel(f"share of {found.n:,} answers that differ")
    axes[-1].legend(fontsize=8)
    return axes
