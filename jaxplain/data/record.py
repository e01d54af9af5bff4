"""The one form in which every data set's images and annotations arrive, and its coordinates.

A box is ``(left, top, right, bottom)`` in 0-based, half-open pixel coordinates, whatever its source
has: it covers the columns ``left`` to ``right - 1`` and the rows ``top`` to ``bottom - 1``. Where a
source gives fractions of pixels, a pixel belongs to a box if its centre ``(column + 0.5, row +
0.5)`` does.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

__all__ = [
    "Phrase",
    "Record",
    "Source",
    "UnreadableRecordError",
    "boxes_from_inclusive",
    "boxes_from_sizes",
    "boxes_to_masks",
]


def printable(text: str) -> str:
    r"""The text with control characters, and bytes that are no UTF-8, as escapes.

    File names may hold both, and neither can be printed or written to a text file as it is.

    Example:
        >>> from jaxplain.data.record import printable
        >>> print(printable("caf\udce9\n.png"))
        caf\udce9\n.png
    """
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs") else c
        for c in text
    )


class UnreadableRecordError(ValueError):
    """An image or its annotation that cannot be read; ``record`` is its id."""

    def __init__(self, record: str, reason: str):
        self.record, self.reason = printable(record), printable(reason)
        super().__init__(f"record {self.record}: {self.reason}")

    def __reduce__(self):  # errors cross the borders of worker processes
        return type(self), (self.record, self.reason)


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A noun phrase of a caption, and the objects that it refers to.

    Attributes:
        text: the phrase as written.
        groups: its types, such as ``people`` or ``vehicles``.
        objects: indices into the record's objects; empty where nothing visible is meant.
        sentence: the number of the caption that it is from.
    """

    text: str
    groups: tuple[str, ...]
    objects: tuple[int, ...]
    sentence: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """An image with everything that is annotated in it; N is the number of objects.

    Attributes:
        image: uint8 ``(H, W, 3)``, RGB.
        id: names the image within its data set; it can be printed.
        labels: int32 ``(N,)``: the class of each object, an index into the source's
            ``class_names``. A data set that only classifies has one object, without a box.
        boxes: float32 ``(N, 4)``: left, top, right, bottom, 0-based and half-open; None where there
            are none.
        masks: bool ``(N, H, W)``, or None.
        difficult: bool ``(N,)``: objects that the annotators marked as difficult.
        size: (height, width) of the original image. Boxes and masks are in its pixels.
        phrases: noun phrases, for data sets with captions.
        fixations: float32 ``(n, 3)``: row, column and duration (1 where unknown) of human
            fixations, or None.
        fixation_map: float32 ``(H, W)``, values 0 to 1: how much humans looked at a pixel, or None.
    """

    image: np.ndarray = dataclasses.field(repr=False)
    id: str
    labels: np.ndarray
    boxes: np.ndarray | None
    masks: np.ndarray | None = dataclasses.field(repr=False)
    difficult: np.ndarray
    size: tuple[int, int]
    phrases: tuple[Phrase, ...] = ()
    fixations: np.ndarray | None = dataclasses.field(default=None, repr=False)
    fixation_map: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def make(
        cls,
        image: np.ndarray,
        id: str,
        labels: Sequence[int] | np.ndarray = (),
        boxes: Any = None,
        masks: np.ndarray | None = None,
        difficult: Sequence[bool] | np.ndarray | None = None,
        **more: Any,
    ) -> Record:
        """A record of the image as read: dtypes settled, boxes cut at the image's border, all
        checked.

        Raises:
            UnreadableRecordError: shapes contradict each other, or a box is not finite.

        Example:
            >>> import numpy as np
            >>> from jaxplain.data import Record
            >>> record = Record.make(np.zeros((20, 30, 3), np.uint8), "a", [7], [[-1.0, 2, 40, 10]])
            >>> record.boxes.tolist(), record.difficult.tolist(), record.size
            ([[0.0, 2.0, 30.0, 10.0]], [False], (20, 30))
        """
        image, id = np.asarray(image), printable(id)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise UnreadableRecordError(
                id, f"the image must be uint8 (H, W, 3), not {image.dtype} {image.shape}"
            )
        size = image.shape[:2]
        labels = np.asarray(labels, np.int32).reshape(-1)
        count = len(labels)
        difficult = np.zeros(count, bool) if difficult is None else np.asarray(difficult, bool)
        if difficult.shape != (count,):
            raise UnreadableRecordError(id, f"{count} labels, but {difficult.size} difficult flags")
        if boxes is not None:
            boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
            if len(boxes) != count:
                raise UnreadableRecordError(id, f"{count} labels, but {len(boxes)} boxes")
            if not np.isfinite(boxes).all():
                raise UnreadableRecordError(id, "a box is not finite")
            width_height = np.array([size[1], size[0]] * 2, np.float32)
            boxes = np.clip(boxes, 0, width_height)
        if masks is not None:
            masks = np.asarray(masks, bool)
            if masks.shape != (count, *size):
                raise UnreadableRecordError(
                    id, f"masks must be {(count, *size)} like the image, not {masks.shape}"
                )
        return cls(image, id, labels, boxes, masks, difficult, size, **more)


class Source(Protocol):
    """What every reader of a data set is: a sequence of records with the names of the classes."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def boxes_from_inclusive(boxes: Any) -> np.ndarray:
    """PASCAL VOC's boxes (left, top, right, bottom; 1-based, last pixel included) to ours.

    Example:
        >>> from jaxplain.data import boxes_from_inclusive
        >>> boxes_from_inclusive([[1, 1, 10, 5]]).tolist()  # the first 10 columns and 5 rows
        [[0.0, 0.0, 10.0, 5.0]]
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return boxes - np.array([1, 1, 0, 0], np.float32)


def boxes_from_sizes(boxes: Any) -> np.ndarray:
    """Boxes (left, top, width, height; 0-based), as COCO and CUB-200-2011 have them, to ours.

    Example:
        >>> from jaxplain.data import boxes_from_sizes
        >>> boxes_from_sizes([[2.5, 3, 10, 5]]).tolist()
        [[2.5, 3.0, 12.5, 8.0]]
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def boxes_to_masks(boxes: Any, size: tuple[int, int]) -> np.ndarray:
    """Boxes ``(N, 4)`` as bool masks ``(N, H, W)``: the pixels whose centre lies in the box.

    Example:
        >>> from jaxplain.data import boxes_to_masks
        >>> boxes_to_masks([[1, 0, 3, 1]], (2, 4)).astype(int).tolist()
        [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    left, top, right, bottom = np.asarray(boxes, np.float64).reshape(-1, 4).T[..., None]
    rows, columns = (np.arange(n) + 0.5 for n in size)
    inside_rows = (top <= rows) & (rows < bottom)
    inside_columns = (left <= columns) & (columns < right)
    return inside_rows[:, :, None] & inside_columns[:, None, :]
