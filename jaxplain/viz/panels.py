"""Labelled panels: the image, and for each class a row of pictures."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxplain.core.addresses import local
from jaxplain.core.writing import write_atomically
from jaxplain.viz.colour import STYLES, colour_map
from jaxplain.viz.overlays import as_float_image

#: Inches between pictures, above a line for its titles, beside it for its label, and for the bars
#: that say what colours mean.
_GAP, _TITLE, _LABEL, _BAR = 0.08, 0.3, 0.4, 0.42
#: What stands at the two ends of a style's colour bar.
_ENDS = {
    "heat": ("nothing", "most"),
    "signed": ("against the class", "for the class"),
    "gray": ("nothing", "most, of either sign"),
}


def panel(
    image: np.ndarray | Mapping[str, np.ndarray],
    rows: Mapping[str, Mapping[str, np.ndarray]],
    *,
    max_columns: int = 7,
    cell: float = 1.75,
    colour_bars: Sequence[tuple[str, str | None]] = (),
) -> Figure:
    """Lays out the image and rows of pictures, such as one row per class and one column per method.

    Each row starts with the image, with the row's name beside it, and goes on with its pictures.
    Their names stand over them, once where the next row has the same. Rows of more than
    `max_columns` pictures are wrapped.

    Args:
        image: (H, W, 3), uint8, or float in [0, 1]; or one for each row, by the row's label.
        rows: row label -> {picture label -> picture}, pictures as `image` in kind (any size),
            for example from `jaxplain.viz.overlay`.
        max_columns: most pictures in one line, >= 1.
        cell: width of a picture in inches.
        colour_bars: the styles whose colours are explained below, each with its colour map, or None
            for the style's own.

    Returns:
        A matplotlib `Figure` of 200 dots to the inch that belongs to no pyplot state; write it with
        `jaxplain.viz.save`.

    Raises:
        ValueError: no row, a row without pictures, or an array that is not an image.

    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> figure = panel(image, {"cat": {"MWP": image}, "cup": {"MWP": image}})
    >>> len(figure.axes)
    4
    """
    if not rows or not all(rows.values()):
        raise ValueError("A panel needs at least one row, and each row at least one picture.")
    if max_columns < 1:
        raise ValueError(f"max_columns must be at least 1; got {max_columns}.")
    own = image if isinstance(image, Mapping) else dict.fromkeys(rows, image)
    if set(own) != set(rows):
        raise ValueError("The images must be those of the rows, by the same labels.")
    images = {label: as_float_image(one) for label, one in own.items()}
    # A wrapped row is filled evenly: 8 pictures become 4 + 4, not 7 + 1.
    longest = max(len(pictures) for pictures in rows.values())
    columns = math.ceil(longest / math.ceil(longest / max_columns))
    lines = []  # (label or None, [(title, picture)], are titles shown, height, lower edge)
    bottom, above = 0.0, []
    for label, pictures in rows.items():
        items = list(pictures.items())
        height = cell * images[label].shape[0] / images[label].shape[1]
        for start in range(0, len(items), columns):
            part = items[start : start + columns]
            titles = [title for title, _ in part]
            new = titles != above
            bottom += height + (_TITLE if new else _GAP)
            lines.append((label if start == 0 else None, part, new, height, bottom))
            above = titles
    width = _LABEL + (columns + 1) * (cell + _GAP) + _GAP
    size = (width, bottom + _GAP + (_BAR if colour_bars else 0))
    figure = Figure(figsize=size, dpi=200)
    FigureCanvasAgg(figure)

    def draw(line: int, column: int, picture: np.ndarray, title: str) -> None:
        left = _LABEL + _GAP + column * (cell + _GAP)
        *_, height, bottom = lines[line]
        axes = figure.add_axes(
            (left / size[0], 1 - bottom / size[1], cell / size[0], height / size[1])
        )
        axes.imshow(picture, aspect="auto", interpolation="antialiased")
        if title:
            text, points = _fitted(title, _LETTERS * cell)
            axes.set_title(text, fontsize=points, pad=4)
        axes.set_axis_off()

    for i, (label, items, new, height, bottom) in enumerate(lines):
        if label is not None:
            text, points = _fitted(label, 0.9 * _LETTERS * height)
            middle = 1 - (bottom - height / 2) / size[1]
            figure.text(
                *((_GAP + _LABEL / 2) / size[0], middle, text),
                **{"rotation": 90, "ha": "center", "va": "center", "ma": "center"},
                **{"fontsize": points, "fontweight": "bold"},
            )
            draw(i, 0, images[label], "")
        for j, (title, picture) in enumerate(items, 1):
            draw(i, j, as_float_image(picture), title if new else "")
    _draw_bars(figure, colour_bars)
    return figure


#: Letters to an inch in the usual size of 9 points, about.
_LETTERS = 14


def _draw_bars(figure: Figure, styles: Sequence[tuple[str, str | None]]) -> None:
    """Side by side at the foot of the figure, what the colours of each style mean."""
    width, height = figure.get_size_inches()
    room = (width - _LABEL) / max(len(styles), 1)
    for i, (style, cmap) in enumerate(styles):
        long = min(1.75, 0.4 * room)
        left = _LABEL + i * room + (room - long) / 2
        axes = figure.add_axes((left / width, 0.16 / height, long / width, 0.1 / height))
        colours = colour_map(cmap or STYLES[style][1])
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto")
        axes.set_axis_off()
        low, high = _ENDS[style]
        at = {"transform": axes.transAxes, "va": "center", "fontsize": 7}
        axes.text(-0.03, 0.4, low, ha="right", **at)
        axes.text(1.03, 0.4, high, ha="left", **at)


def _fitted(title: str, room: float) -> tuple[str, float]:
    """A title on one line, or two if it is larger so, and the size that fits.

    Args:
        title: the text.
        room: the number of letters that fit on a line in the usual size of 9 points.

    >>> _fitted("c-MWP", 20), _fitted("photo.png: NAFlow: like other_photo.png", 20)
    (('c-MWP', 9), ('photo.png: NAFlow:\\nlike other_photo.png', 7))
    """
    one = min(9, 9 * room / max(len(title), 1))
    breaks = [i for i, letter in enumerate(title) if letter == " "]
    if not breaks:
        return title, one
    middle = min(breaks, key=lambda i: max(i, len(title) - i - 1))
    lines = title[:middle].rstrip(), title[middle + 1 :].lstrip()
    two = min(7, 9 * room / max(map(len, lines)))
    return ("\n".join(lines), two) if two > one else (title, one)


def save(figure: Figure, path: str | os.PathLike, *, dpi: float = 200) -> None:
    """Writes a figure to `path`, whole or not at all; the suffix decides the format.

    The file is written beside its destination under a temporary name and then renamed.

    Raises:
        ValueError: a suffix that matplotlib cannot write.
        OSError: the folder does not exist or cannot be written.

    >>> import tempfile
    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(panel(image, {"cat": {"MWP": image}}), f"{folder}/panel.png")
    ...     os.listdir(folder)
    ['panel.png']
    """
    path = local(path)
    suffix = path.suffix.lower().lstrip(".")
    known = figure.canvas.get_supported_filetypes()
    if suffix not in known:
        raise ValueError(f"Cannot write {path.name!r}: use a suffix of {', '.join(sorted(known))}.")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=dpi)
    write_atomically(path, buffer.getvalue())
