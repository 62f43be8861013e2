"""Values as lines: over depth, over the ridge penalty of the linear heads, and over the certified radius."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim._common.messages import did_you_mean, message
from repsim.plots.colours import Limits, colour_limits
from repsim.plots.label_placement import write_numbers
from repsim.plots.protocols import CertifiedAnswers, Matrix, PenaltyCurve
from repsim.plots.publication import sized
from repsim.plots.style import (
    TICK_LETTERS,
    TICK_POINTS,
    axis_points,
    check_set,
    distinct,
    models,
    short,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: How many pairs of layers are drawn where the caller does not choose.
_PAIRS = 6


def layer_curve(
    matrices: "Matrix | Sequence[Matrix]",
    *more: "Matrix",
    labels: Sequence[str] | None = None,
    ax: "Axes | None" = None,
    limits: Limits = "bounds",
    cmap: str | None = None,
    annotate: bool = False,
) -> "Axes":
    """Draws the value of layers that correspond against depth: by place within stages, then by relative depth.

    Where the metric gives a 95 % interval (TD does) it is shaded. Lines of unlike many layers are drawn over relative
    depth, from the first matched layer to the last.

    Args:
        matrices: One line each, or a list of them; all of one metric.
        more: More lines.
        labels: One per line; None names the two networks.
        ax: Where; None makes a figure.
        limits: As for `heatmap`.
        cmap: A map of matplotlib's that the lines take their colours from, for lines that have an order.
        annotate: Write the values beside their points, where there is room.

    Returns:
        The Axes.

    Raises:
        ValueError: No matrix, several metrics, or an unknown map.
    """
    lines = [*(matrices if isinstance(matrices, Sequence) else [matrices]), *more]
    check_set("layer_curve", lines, labels)
    colours = _line_colours(len(lines), cmap)
    matched = [matrix.matched() for matrix in lines]
    longest = max(([_pair_label(r, c) for r, c, _ in found] for found in matched), key=len)
    alike = len({len(found) for found in matched}) == 1
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=sized(7, 4), layout="compressed").add_subplot()
    names = labels if labels is not None else _pair_names(lines)
    seen: list[float] = []
    for matrix, found, name, colour in zip(lines, matched, names, colours, strict=True):
        places = np.linspace(0, len(longest) - 1, len(found)) if len(found) > 1 else np.zeros(len(found))
        (line,) = ax.plot(places, [v for *_, v in found], marker="o", ms=3, label=name, color=colour)
        if "ci_low" in matrix.details:
            where = [(matrix.rows.index(r), matrix.cols.index(c)) for r, c, _ in found]
            low_end, high_end = ([float(matrix.details[name][ij]) for ij in where] for name in ("ci_low", "ci_high"))
            ax.fill_between(places, low_end, high_end, color=line.get_color(), alpha=0.15, lw=0)
            seen += low_end + high_end
        seen += [v for *_, v in found]
    shown = thin(len(longest), axis_points(ax, 0))
    ax.set_xticks(shown, [longest[i] for i in shown], rotation=90, fontsize=TICK_POINTS)
    low, high = colour_limits(lines, limits)
    if limits == "data" and (finite := [v for v in seen if v == v]):
        low, high = min(finite), max(finite)
    if not isinstance(limits, tuple):  # debiased CKA may be negative, below the limits that its pictures share
        low, high = min([low, *(v for v in seen if v == v)]), max([high, *(v for v in seen if v == v)])
    margin = 0.03 * (high - low or 1)
    ax.set_ylim(low - margin, high + margin)
    ax.set_ylabel(lines[0].definition.title)
    ax.set_xlabel("layer, in order of execution" if alike else "relative depth; layers of the longest line")
    used = dict.fromkeys(_used(matrix, len(found)) for matrix, found in zip(lines, matched, strict=True))
    counts = sorted({m.n for m in lines})
    ax.set_title(f"{', '.join(used)} matched layers  (n = {', '.join(f'{n:,}' for n in counts)})", fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    if annotate:
        write_numbers(ax)
    return ax


def lambda_curve(
    curve: "PenaltyCurve",
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the similarity 1 − TD_λ/2 of pairs of layers against the penalty λ, between its limits R²_CCA and CKA.

    Where a line climbs to the right, the layers share their large variances more than their small ones; the place of
    the climb says at which share of the variance. Dashed ends are the limits, computed and not extrapolated.

    Args:
        curve: Of `repsim.lambda_curve`.
        pairs: (row layer, column layer) names; None takes matched layers, six of them at most, evenly through depth.
        ax: Where; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: An unknown layer, or no pair.
    """
    import matplotlib
    from matplotlib.ticker import LogLocator

    cells = _pairs(curve, pairs)
    if ax is None:
        import matplotlib.pyplot as plt

        width = 6.4 if len(cells) == 1 else 9.2
        size = sized(width, max(4.2, 1.6 + 0.19 * len(cells)))
        ax = plt.figure(figsize=size, layout="compressed").add_subplot()
    low, high = curve.penalties[0], curve.penalties[-1]
    room = 10 ** max(1.0, 0.14 * np.log10(high / low))  # for the limits, on both sides
    ends = (low / room, low), (high, high * room)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(cells)))
    labels = _pair_labels(curve, cells)
    marker = "o" if len(curve.penalties) <= 12 else None
    for (i, j), label, shade in zip(cells, labels, shades, strict=True):
        similarity = 1 - curve.td_white[:, i, j] / 2
        ax.plot(curve.penalties, similarity, color=shade, lw=1.8, marker=marker, ms=4, label=label)
        for where, limit in zip(ends, (curve.r2_cca[i, j], curve.cka[i, j]), strict=True):
            ax.plot(where, [limit, limit], color=shade, ls="--", lw=1.4)
            if len(cells) == 1 and np.isfinite(limit):
                middle = np.sqrt(where[0] * where[1])
                ax.annotate(f"{limit:.2f}", (middle, limit), (0, 3), textcoords="offset points", ha="center", size=8)
    for where in ends:
        ax.axvspan(*where, color="0.94", lw=0, zorder=0)
    ax.set_xscale("log")
    ax.set_xlim(low / room, high * room)
    ax.xaxis.set_major_locator(LogLocator(numticks=8))
    ax.xaxis.set_minor_locator(LogLocator(numticks=30))
    ax.tick_params(which="minor", labelbottom=False)
    ax.set_ylim(-0.02, 1.05)
    ax.set_xlabel("ridge penalty λ  (features of mean row norm² 1)")
    ax.set_ylabel("similarity 1 − TD$_λ$/2")
    ax.grid(alpha=0.3)
    lines = _name_ends(ax)
    count, all_of_them = len(cells), len(curve.matched())
    some = f"{count} of {all_of_them} matched layers, " if pairs is None and count < all_of_them else ""
    title = models(ax, curve.row_model, curve.col_model) + f"  ({some}n = {curve.n:,})"
    ax.set_title(title if len(cells) > 1 else f"{title}\n{labels[0]}", fontsize=10, pad=9 + 11 * lines, loc="left")
    if len(cells) > 1:
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), title="layers")
    return ax


def certified_curve(
    *certificates: "CertifiedAnswers", labels: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draws the share of images certified to be answered right against the ℓ2 radius.

    A dotted line stands at each curve's radius cap: no image can be certified beyond it with so many draws, so the
    fall to 0 there says nothing of the network. The band is Wilson's 95 % interval for the choice of images.

    Args:
        certificates: One curve each.
        labels: One per curve; None names the networks.
        ax: Where; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: No certificates, or another number of labels.
    """
    if not certificates:
        raise ValueError(message("certified_curve", "there must be certificates", "none", "Pass those of certify"))
    if labels is not None and len(labels) != len(certificates):
        got = f"{len(labels)} labels for {len(certificates)} curves"
        raise ValueError(message("certified_curve", "every curve must have its label", got, "Name them all or none"))
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=sized(7.5, 4.6), layout="constrained").add_subplot()
    names = _networks([c.network for c in certificates]) if labels is None else labels
    for made, name in zip(certificates, names, strict=True):
        radii = np.array([0.0, *np.unique(made.radius[made.correct])])
        shares = [made.certified_accuracy(r) for r in radii]
        low, high = zip(*(made.certified_interval(r) for r in radii), strict=True)
        kind = made.noise or f"σ = {made.sigma:g}"
        label = f"{name}, {kind}: {made.abstained:.1%} abstain, cap {made.radius_cap:.2f}"
        # A share holds up to and with its radius, so the steps reach back from it; behind the last radius it is 0.
        (line,) = ax.step([*radii, radii[-1]], [*shares, 0.0], where="pre", lw=1.8, label=label)
        ax.fill_between(radii, low, high, step="pre", color=line.get_color(), alpha=0.15, lw=0)
        ax.axvline(made.radius_cap, color=line.get_color(), ls=":", lw=1.4)
    ax.set_xlim(0, 1.04 * max(c.radius_cap for c in certificates))
    ax.set_ylim(0, 1.02)
    norms = {"l1": "ℓ1", "l2": "ℓ2", "linf": "ℓ∞"}
    told = " or ".join(dict.fromkeys(norms[made.threat] for made in certificates))
    ax.set_xlabel(f"{told} radius, pixels in [0, 1]  (dotted: radius cap)")
    ax.set_ylabel("certified accuracy of the smoothed network")
    images, draws, levels = (
        ", ".join(f"{value:,}" for value in sorted(set(values)))
        for values in zip(*((len(c), c.n, c.alpha) for c in certificates), strict=True)
    )
    facts = f"{images} images, 95 % Wilson band over images; {draws} draws each, α = {levels}"
    ax.set_title(textwrap.fill(facts, int(axis_points(ax, 0) / 5)), fontsize=9)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return ax


def _line_colours(count: int, cmap: str | None) -> list[Any]:
    """Colours of lines: of matplotlib's cycle, or along a map."""
    if cmap is None:
        return [f"C{k % 10}" for k in range(count)]
    import matplotlib

    if cmap not in matplotlib.colormaps:
        advice = did_you_mean(cmap, matplotlib.colormaps)
        raise ValueError(message("layer_curve", "cmap must be a map of matplotlib's", repr(cmap), advice))
    return list(matplotlib.colormaps[cmap](np.linspace(0.05, 0.85, count)))


def _pair_names(lines: "Sequence[Matrix]") -> list[str]:
    """Both networks of each line, cut so that a legend holds them and no two become equal."""
    models = list(dict.fromkeys(name for m in lines for name in (m.row_model, m.col_model)))
    cut = distinct(models, TICK_LETTERS) if len(models) > 1 else [short(models[0])]
    labels = dict(zip(models, cut, strict=True))
    return [f"{labels[m.row_model]} × {labels[m.col_model]}" for m in lines]


def _pair_label(row: str, col: str) -> str:
    """One name where both layers share it, else both."""
    each = TICK_LETTERS // 2
    return short(row) if row == col else f"{short(row, each)} × {short(col, each)}"


def _used(matrix: "Matrix", count: int) -> str:
    """How many layers correspond, and of how many where not all do."""
    sizes = len(matrix.rows), len(matrix.cols)
    return f"{count}" if sizes == (count, count) else f"{count} of {sizes[0]} × {sizes[1]}"


def _networks(names: Sequence[str]) -> list[str]:
    """Names that fit a legend; curves of one network keep one name, for their noise tells them apart."""
    unlike = list(dict.fromkeys(names))
    cut = distinct(unlike, TICK_LETTERS) if len(unlike) > 1 else [short(unlike[0])]
    return [cut[unlike.index(name)] for name in names]


def _name_ends(ax: "Axes") -> int:
    """Says over both ends what their limits are; in how many lines."""
    heads = (
        (0.0, "left", "R²_CCA (λ→0)", "every direction counts alike"),
        (1.0, "right", "CKA (λ→∞)", "directions count by their variance"),
    )
    letters = max(10, int(axis_points(ax, 0) / 8))
    lines = max(len(textwrap.wrap(meaning, letters)) for *_, meaning in heads)
    for x, side, limit, meaning in heads:
        text, up = textwrap.fill(meaning, letters), 4 + 11 * lines
        ax.annotate(text, (x, 1), (0, 4), "axes fraction", "offset points", ha=side, size=8, color="0.35")
        ax.annotate(limit, (x, 1), (0, up), "axes fraction", "offset points", ha=side, size=9, weight="bold")
    return lines + 1


def _pair_labels(curve: "PenaltyCurve", cells: Sequence[tuple[int, int]]) -> list[str]:
    """Names of pairs of layers: one name where both layers share it."""
    rows, cols = (dict(zip(names, distinct(names, TICK_LETTERS), strict=True)) for names in (curve.rows, curve.cols))
    labels = []
    for i, j in cells:
        row, col = curve.rows[i], curve.cols[j]
        missing = "" if np.isfinite(curve.td_white[:, i, j]).any() else "  (no number)"
        labels.append((rows[row] if row == col else f"{rows[row]} × {cols[col]}") + missing)
    return labels


def _pairs(curve: "PenaltyCurve", pairs: Sequence[tuple[str, str]] | None) -> list[tuple[int, int]]:
    """Places of the pairs to draw, in the curve's arrays."""
    if pairs is None:
        matched = curve.matched()
        chosen = np.linspace(0, len(matched) - 1, min(_PAIRS, len(matched))).round().astype(int)
        pairs = [matched[k] for k in chosen]
    if not pairs:
        raise ValueError(message("lambda_curve", "there must be a pair", "none", "Leave pairs out for matched layers"))
    for pair in pairs:
        for name, known in zip(pair, (curve.rows, curve.cols), strict=True):
            if name not in known:
                advice = did_you_mean(name, known)
                raise ValueError(message("lambda_curve", "the layer must exist", repr(name), advice))
    return [(curve.rows.index(r), curve.cols.index(c)) for r, c in pairs]
