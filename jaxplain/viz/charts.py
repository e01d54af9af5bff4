"""The charts of the protocols: bars, curves and dots, one series per method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

_MARKERS = "osD^v<>x.Pp*hH8d"
#: Okabe and Ito's colours, which can be told apart whatever one's colour vision (2008); the n-th
#: series has the same in every chart.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#b5a500")
_LINES = ("-", "--", ":", "-.")


def score_bars(
    values: Mapping[str, Sequence[float]], label: str, *, highlight: Sequence[str] = ()
) -> Figure:
    """Horizontal bars of the mean over images of each method, with its standard error.

    As in Fig. 9 of Ebrahimpour et al. (2019).

    Args:
        values: method -> the scores of the images; drawn in this order, the first on top.
        label: what the scores are, such as "mean absolute error".
        highlight: methods in a second colour, such as the baseline.

    Returns:
        A matplotlib `Figure` that belongs to no pyplot state; write it with `jaxplain.viz.save`.

    Raises:
        ValueError: no method, or one without finite scores.

    >>> figure = score_bars({"CAM": [0.1, 0.2], "centre": [0.3, 0.2]}, "error")
    >>> [bar.get_width().item().__round__(2) for bar in figure.axes[0].patches]
    [0.15, 0.25]
    """
    if not values:
        raise ValueError("A chart needs at least one method.")
    rows = {name: np.asarray(v, float) for name, v in values.items()}
    for name, v in rows.items():
        if v.ndim != 1 or not v.size or not np.isfinite(v).all():
            raise ValueError(f"The scores of {name} must be finite numbers, one per image.")
    means = [v.mean() for v in rows.values()]
    errors = [v.std(ddof=1) / np.sqrt(v.size) if v.size > 1 else 0.0 for v in rows.values()]
    longest = max(map(len, rows))
    width = 4.5 + 0.085 * longest
    lines = textwrap.wrap(label, int(14 * width))  # so many letters to a line
    figure = _figure(width, 0.5 + 0.2 * len(lines) + 0.28 * len(rows))
    axes = figure.add_subplot()
    colours = ["#b8b8b8" if name in highlight else "#4477aa" for name in rows]
    axes.barh(
        list(rows), means, xerr=errors, color=colours, error_kw={"lw": 1, "ecolor": "#444444"}
    )
    axes.invert_yaxis()
    edge = axes.get_xlim()[1]
    for i, (mean, error) in enumerate(zip(means, errors, strict=True)):
        axes.text(max(mean, 0) + error + 0.012 * edge, i, f"{mean:.3f}", va="center", fontsize=8)
    axes.set_xlim(right=1.1 * edge)
    figure.supxlabel("\n".join(lines), fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def group_bars(
    values: Mapping[str, Sequence[float]], groups: Sequence[str], label: str, title: str
) -> Figure:
    """Groups of upright bars, one bar per series in each group.

    Args:
        values: series -> its value in every group.
        groups: what stands under each group.
        label: what the values are.
        title: over the chart.

    >>> len(group_bars({"CAM": [1.0, 2.0], "LRP": [3.0, 4.0]}, ["dogs", "cats"], "%", "").axes)
    1
    """
    figure = _figure(max(8, 2 + 1.2 * len(groups)), 4)
    axes = figure.add_subplot()
    width = 0.8 / len(values)
    for k, (name, heights) in enumerate(values.items()):
        left = np.arange(len(groups)) + (k - (len(values) - 1) / 2) * width
        axes.bar(left, heights, width, label=name, color=_COLOURS[k % len(_COLOURS)])
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(label)
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


def confusion(counts: ArrayLike, names: Sequence[str], title: str) -> Figure:
    """A confusion matrix: rows are the true classes, shades the share of their images.

    As in Fig. 8 of Bakken et al. (2020).

    Args:
        counts: ``(K, K)``, how many images of a row's class were taken for a column's.
        names: of the classes.
        title: over the matrix.

    >>> figure = confusion([[3, 1], [0, 0]], ["dog", "cat"], "confusions")
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['3', '1', '0', '0']
    """
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.36 * len(names)
    figure = _figure(side + 0.6, side)
    axes = figure.add_subplot()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        colour = "white" if share[i, j] > 0.5 else "#333333"
        axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="share of the class")
    return figure


class Share(NamedTuple):
    """A share of trials that succeeded, with the ends of its interval of confidence; per cent."""

    value: float
    low: float
    high: float


def shares(
    values: Mapping[str, Mapping[str, Share]],
    cells: Mapping[str, Sequence[float]],
    columns: Sequence[str],
    label: str,
    title: str,
) -> Figure:
    """One line per method: its shares with their intervals, and a table of shares by class.

    Args:
        values: series, such as "all" -> method -> share.
        cells: method -> the share of each column in per cent, NaN for none; the first on top.
        columns: their names.
        label: what the shares are.
        title: over the figure.

    >>> figure = shares(
    ...     {"all": {"CAM": Share(50, 20, 80)}}, {"CAM": [100.0, 0.0]}, ["dogs", "cats"], "%", ""
    ... )
    >>> [text.get_text() for text in figure.axes[1].texts]
    ['100', '0']
    """
    names = list(cells)
    width, height = 4.6 + 0.36 * len(columns), 1.9 + 0.3 * len(names)
    figure = _figure(width, height)
    left, right = figure.subplots(
        1, 2, sharey=True, width_ratios=[3.2, max(0.36 * len(columns), 0.8)]
    )
    for k, (series, found) in enumerate(values.items()):
        rows = np.arange(len(names)) + 0.26 * (k - (len(values) - 1) / 2)
        points = np.array([found[name] for name in names])
        errors = np.abs(points[:, 1:].T - points[:, 0])
        style = {"color": _COLOURS[k % len(_COLOURS)], "markerfacecolor": "white" if k else None}
        left.errorbar(
            points[:, 0], rows, xerr=errors, fmt=_MARKERS[k], ms=5, lw=1.2, label=series, **style
        )
    left.set_xlim(0, 100)
    left.set_xlabel(label, fontsize=9)
    left.grid(axis="x", alpha=0.3)
    left.spines[["top", "right"]].set_visible(False)
    table = np.array([cells[name] for name in names], float)
    right.imshow(table, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (i, j), cell in np.ndenumerate(table):
        if np.isfinite(cell):
            colour = "black" if cell > 55 else "white"
            right.text(j, i, f"{cell:.0f}", ha="center", va="center", fontsize=7, color=colour)
    right.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    right.tick_params(axis="y", length=0)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title, fontsize=11)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8)
    return figure


class Panel(NamedTuple):
    """One of the diagrams of `curves`.

    Attributes:
        title: over it.
        x: where the points are.
        series: name -> the values at those points.
        xlabel, ylabel: what the axes are.
    """

    title: str
    x: ArrayLike
    series: Mapping[str, ArrayLike]
    xlabel: str = ""
    ylabel: str = ""


def curves(
    panels: Sequence[Sequence[Panel]],
    title: str,
    *,
    baseline: str | None = None,
    markers: bool = False,
    ticks: Sequence[str] | None = None,
) -> Figure:
    """Rows of diagrams with one curve per series; what a series is called stands beside them.

    Args:
        panels: the rows; all have the same series.
        title: over them.
        baseline: the series that is dashed and grey.
        markers: whether points are marked.
        ticks: names of the points along x, under the last row; then all diagrams have one scale.

    >>> panel = Panel("deletion", [0, 1], {"CAM": [1.0, 0.0], "noise": [1.0, 0.5]})
    >>> len(curves([[panel, panel]], "Faithfulness", baseline="noise").axes)
    2
    """
    columns, shared = len(panels[0]), ticks is not None
    figure = _figure(max(4 * columns, 8), 0.6 + 3.3 * len(panels))
    grid = figure.subplots(len(panels), columns, squeeze=False, sharex=shared, sharey=shared)
    for line, row in zip(grid, panels, strict=True):
        for axes, panel in zip(line, row, strict=True):
            for k, (name, values) in enumerate(panel.series.items()):
                style: dict[str, Any] = {
                    "color": _COLOURS[k % len(_COLOURS)],
                    "linestyle": _LINES[k // len(_COLOURS) % len(_LINES)],
                }
                if name == baseline:
                    style = {"color": "#888888", "linestyle": "--"}
                if markers:
                    style |= {"marker": _MARKERS[k % len(_MARKERS)]}
                axes.plot(panel.x, values, label=name, markersize=3.5, linewidth=1.2, **style)
            axes.set_title(panel.title, fontsize=10)
            axes.set_xlabel(panel.xlabel)
            axes.set_ylabel(panel.ylabel)
            axes.grid(alpha=0.3)
            if ticks is not None:
                axes.axhline(0, color="#888888", linewidth=0.7)
    if ticks is not None:
        for axes in grid[-1]:
            axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=8)
    if grid.size == 1 and not panels[0][0].title:
        grid[0, 0].set_title(title)  # over the diagram, not over what stands beside it
    else:
        figure.suptitle(title)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    return figure


def _figure(width: float, height: float) -> Figure:
    """A figure that belongs to no pyplot state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
