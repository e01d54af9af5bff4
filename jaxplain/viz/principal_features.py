"""Principal Feature Visualisation drawn as in Bakken et al. (2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxplain import postprocess
from jaxplain.viz.overlays import as_float_image

_BARS = ("#cc3333", "#33a02c", "#3355cc")


def feature_overlay(image: np.ndarray, colours: np.ndarray, *, strength: float = 0.6) -> np.ndarray:
    """Lays the colours of principal features over a grey version of the image (Figs. 6 and 7).

    Args:
        image: (H, W, 3), uint8, or float in [0, 1].
        colours: (h, w, 3) in [0, 1]: `PrincipalFeatures.colours` of one image; resized to it.
        strength: the colours' share, in [0, 1]; 1 shows them alone.

    Returns:
        The picture, (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: another shape or range.

    >>> feature_overlay(np.zeros((2, 2, 3)), np.ones((1, 1, 3)), strength=0.5)[0, 0].tolist()
    [0.5, 0.5, 0.5]
    """
    image, colours = as_float_image(image), np.asarray(colours, np.float32)
    if colours.ndim != 3 or colours.shape[-1] != 3:
        raise ValueError(
            f"colours must have shape (h, w, 3), those of three components; got {colours.shape}."
        )
    if not (colours.min() >= 0 and colours.max() <= 1):
        raise ValueError("colours must be in [0, 1]; give PrincipalFeatures.colours.")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1]; got {strength}.")
    planes = postprocess.resize(np.moveaxis(colours, -1, 0), image.shape[:2])
    grey = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    picture = (1 - strength) * grey + strength * np.moveaxis(np.asarray(planes), 0, -1)
    return np.clip(picture, 0, 1)


def feature_panel(
    images: Sequence[np.ndarray],
    colours: np.ndarray,
    titles: Sequence[str],
    *,
    shares: np.ndarray | None = None,
    max_columns: int = 7,
    cell: float = 1.6,
) -> Figure:
    """Images, their principal features below, and bars of their colours (Figs. 5 to 7).

    Args:
        images: the photographs, (H, W, 3) each, uint8, or float in [0, 1].
        colours: (B, h, w, 3) in [0, 1], `PrincipalFeatures.colours`.
        titles: what is written over each image.
        shares: (B, 3), the height of each image's red, green and blue bar, from
            `jaxplain.evaluation.studies.features.colour_shares`; None draws no bars.
        max_columns: longer batches are wrapped.
        cell: width of a picture in inches.

    Returns:
        A matplotlib `Figure`; write it with `jaxplain.viz.save`.

    Raises:
        ValueError: numbers of images, colours, titles and shares that differ.

    >>> image, colours = np.zeros((8, 8, 3), np.uint8), np.zeros((2, 4, 4, 3))
    >>> len(feature_panel([image, image], colours, ["dog", "cat"], shares=np.ones((2, 3)) / 3).axes)
    6
    """
    lengths = {len(images), len(colours), len(titles), len(titles if shares is None else shares)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError("images, colours, titles and shares must be of one length, at least 1.")
    count, kinds = len(images), 2 if shares is None else 3
    columns = min(count, max_columns)
    lines = -(-count // columns)
    heights: list[float] = []
    for i in range(lines):  # as high as the line's highest image
        line = images[i * columns : (i + 1) * columns]
        height = max(np.shape(image)[0] / np.shape(image)[1] for image in line)
        heights += [height, height] if shares is None else [height, height, 0.5]
    figure = Figure(
        figsize=(columns * cell, sum(heights) * cell + 0.25 * lines), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(kinds * lines, columns, height_ratios=heights)
    for i in range(count):
        top, column = kinds * (i // columns), i % columns
        photo = as_float_image(images[i])
        for row, picture in ((0, photo), (1, feature_overlay(photo, colours[i]))):
            axes = figure.add_subplot(grid[top + row, column])
            axes.imshow(picture, interpolation="antialiased")
            axes.set_axis_off()
            if row == 0:
                longest = max(map(len, titles[i].split("\n")))
                axes.set_title(titles[i], fontsize=min(9, 9 * 12 * cell / max(longest, 1)))
        if shares is not None:
            axes = figure.add_subplot(grid[top + 2, column])
            axes.bar(range(3), shares[i], color=_BARS, width=0.8)
            axes.set_ylim(0, max(0.5, float(np.max(shares)) * 1.05))
            axes.set_xticks([])
            axes.set_yticks([] if column else [0, 0.5])
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
    return figure
