"""Bar charts of scores, as in Fig. 9 of Ebrahimpour et al. (2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def score_bars(
    values: Mapping[str, Sequence[float]], label: str, *, highlight: Sequence[str] = ()
) -> Figure:
    """Horizontal bars of the mean over images of each method, with its standard error.

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
    figure = Figure(figsize=(4.5 + 0.085 * longest, 0.7 + 0.28 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
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
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
