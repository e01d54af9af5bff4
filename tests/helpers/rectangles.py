"""Images of white rectangles, to find boxes by looking."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(height=40, width=60, at=None):
    """Grey, with a white rectangle (left, top, right, bottom; half-open)."""
    image = np.full((height, width, 3), 40, np.uint8)
    if at is not None:
        left, top, right, bottom = at
        image[top:bottom, left:right] = 255
    return image


def white_box(image):
    """The half-open box around the white pixels, found by looking at them."""
    rows, columns = np.nonzero(image.min(-1) > 200)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def write(path: Path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


RECTANGLES = ((0, 0, 7, 5), (53, 31, 60, 40), (10, 4, 31, 29))  # two of them touch the border
