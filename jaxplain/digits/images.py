"""Handwritten digits in clutter: a small data set with boxes and masks, drawn as it is read.

The digits are those that the package scikit-learn carries (8 x 8 pixels, of the UCI repository's
"Optical Recognition of Handwritten Digits"). An image holds several of them, at random sizes and
places, among fragments of other digits that are smaller and darker.
"""

from __future__ import annotations

import functools

import numpy as np

from jaxplain import postprocess
from jaxplain.core.extras import missing
from jaxplain.data import Record

__all__ = ["CLASSES", "SIZE", "ClutteredDigits"]

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Side of an image. A photograph's size, so that the pointing game's 15 pixels mean what they mean.
SIZE = 320
_SIDES = (0.22, 0.45)  # of the digits, before their margins are cut off; of the image's side
_COUNTS = (0.2, 0.2, 0.2, 0.2, 0.2)  # how often there are one to five digits


class ClutteredDigits:
    """Records of digits in clutter, for `jaxplain.data` and the pointing game.

    A record depends on ``seed`` and its index alone. Training and test images show different
    people's digits.

    Args:
        count: how many images there are.
        train: whether they show the digits for training (two thirds), or the others.
        side: of the images, in pixels; what they show does not depend on it.
        seed: of the drawing.

    Raises:
        ImportError: scikit-learn or Pillow is not installed.

    Example:
        >>> from jaxplain.digits.images import ClutteredDigits
        >>> record = ClutteredDigits(10, train=False)[0]
        >>> record.image.shape, len(record.labels) == len(record.boxes) == len(record.masks)
        ((320, 320, 3), True)
    """

    class_names: tuple[str, ...] = CLASSES

    def __init__(self, count: int, *, train: bool, side: int = SIZE, seed: int = 0):
        self.name = "digits in clutter"
        self.count, self.train, self.side, self.seed = count, train, side, seed
        self.images, self.labels = _digits(train)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} images, and none of the number {index}")
        rng = np.random.default_rng([self.seed, self.train, index])
        grey = rng.uniform(0.1, 0.4, (6, 6)).astype(np.float32)
        canvas = 255 * _enlarge(grey, self.side)
        for _ in range(rng.integers(3, 8)):
            self._fragment(rng, canvas)
        labels, masks, squares = [], [], []
        for _ in range(1 + rng.choice(len(_COUNTS), p=_COUNTS)):
            which = rng.integers(len(self.images))
            square = _free_square(rng, np.exp(rng.uniform(*np.log(_SIDES))), squares)
            brightness = rng.uniform(170, 255)
            if square is None:
                continue
            squares.append(square)
            rows, columns, side = self._pixels(*square)
            shape = _enlarge(self.images[which], side)
            _paint(canvas[rows, columns], shape, brightness)
            mask = np.zeros(canvas.shape, bool)
            mask[rows, columns] = shape > 0.3
            masks.append(mask)
            labels.append(self.labels[which])
        image = np.repeat(canvas.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
        masks = np.stack(masks)
        return Record.make(image, f"{index:05d}", labels, postprocess.tightest_box(masks), masks)

    def _fragment(self, rng: np.random.Generator, canvas: np.ndarray) -> None:
        """A corner of a digit, too little of it to tell which."""
        digit = self.images[rng.integers(len(self.images))]
        top, left = rng.integers(0, 5, 2)
        side = rng.uniform(0.08, 0.22)
        at = rng.uniform(0, 1 - side, 2)
        rows, columns, pixels = self._pixels(at[0], at[1], side)
        piece = np.rot90(digit[top : top + 4, left : left + 4], rng.integers(4))
        _paint(canvas[rows, columns], _enlarge(piece, pixels), rng.uniform(90, 180))

    def _pixels(self, top: float, left: float, side: float) -> tuple[slice, slice, int]:
        """The rows and columns of a square, and how many they are."""
        row, column, count = (int(v * self.side) for v in (top, left, side))
        return slice(row, row + count), slice(column, column + count), count


@functools.cache
def _digits(train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Digits (n, 8, 8) with values 0 to 1, and their labels; every third one is for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing("benchmark", "scikit-learn", "The set of handwritten digits") from error
    values, labels = map(np.asarray, load_digits(return_X_y=True))
    chosen = (np.arange(len(labels)) % 3 != 2) == train
    return (values[chosen].reshape(-1, 8, 8) / 16).astype(np.float32), labels[chosen]


def _enlarge(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    large = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large).clip(0, 1)


def _paint(canvas: np.ndarray, alpha: np.ndarray, grey: float) -> None:
    canvas += alpha * (grey - canvas)


def _free_square(
    rng: np.random.Generator, side: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """(top, left, side) of a square that touches none that is taken; None if 20 trials fail."""
    for _ in range(20):
        top, left = rng.uniform(0, 1 - side, 2)
        if all(
            top + side <= t or t + s <= top or left + side <= x or x + s <= left
            for t, x, s in taken
        ):
            return top, left, side
    return None
