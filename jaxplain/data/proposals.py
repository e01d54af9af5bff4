"""Regions that are proposed for an image, and boxes that others predict for its phrases, in files.

A folder holds one file per image, which bears the image's name:

- boxes: ``.npy`` (an array), ``.csv`` or ``.txt`` (numbers parted by commas, or by spaces), one
  line per box: left, top, right, bottom in the image's 0-based, half-open pixels, and optionally
  the proposal's own score;
- segments: ``.npz`` (``np.savez_compressed``) with ``masks``, bool ``(n, H, W)`` of the image's
  size, and optionally ``scores`` ``(n,)``;
- boxes for phrases: ``.csv``, one line per box: the phrase as the captions have it, left, top,
  right, bottom, score.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.data.record import Record

__all__ = ["Proposals", "phrase_key", "read_phrase_boxes", "read_proposals"]


@dataclasses.dataclass(frozen=True, eq=False)
class Proposals:
    """Regions of an image, either boxes or segments.

    Attributes:
        boxes: float32 ``(n, 4)``, in the image's pixels, or None.
        masks: bool ``(n, H, W)``, of the image's size, or None.
        scores: float32 ``(n,)``, whoever proposes them gave them; None where unknown.
    """

    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.boxes is None) == (self.masks is None):
            raise ValueError("proposals are either boxes or masks, one of the two")

    def __len__(self) -> int:
        return next(len(v) for v in (self.boxes, self.masks) if v is not None)


def read_proposals(folder: Path, record: Record) -> Proposals:
    """The regions in the file that bears the image's name.

    Raises:
        ValueError: there is none, or it holds something else; says what and where.
    """
    for suffix in (".npz", ".npy", ".csv", ".txt"):
        path = folder / f"{record.id}{suffix}"
        if path.is_file():
            return _segments(path, record) if suffix == ".npz" else _boxes(path)
    raise ValueError(
        f"{folder} has no proposals for the image {record.id} (.npz, .npy, .csv or .txt)"
    )


def _segments(path: Path, record: Record) -> Proposals:
    with np.load(path, allow_pickle=False) as file:
        if "masks" not in file:
            raise ValueError(f"{path} must hold masks, and optionally scores, not {sorted(file)}")
        masks, scores = file["masks"], file.get("scores")
    if masks.dtype != bool or masks.ndim != 3 or masks.shape[1:] != record.size:
        raise ValueError(
            f"{path}: masks must be bool (n, {record.size[0]}, {record.size[1]}) like the image, "
            f"not {masks.dtype} {masks.shape}"
        )
    if not masks.any((1, 2)).all():
        raise ValueError(f"{path}: a mask is empty")
    if scores is not None:
        scores = scores.astype(np.float32)
        if scores.shape != masks.shape[:1] or not np.isfinite(scores).all():
            raise ValueError(f"{path}: scores must be one finite number per mask")
    return Proposals(None, masks, scores)


def _boxes(path: Path) -> Proposals:
    if path.suffix == ".npy":
        rows = np.load(path, allow_pickle=False)
    else:
        rows = np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=2)
    if rows.ndim != 2 or rows.shape[1] not in (4, 5) or not np.isfinite(rows).all():
        raise ValueError(
            f"{path} must have one line per box: left, top, right, bottom, and optionally a score"
        )
    rows = rows.astype(np.float32)
    return Proposals(rows[:, :4], None, rows[:, 4] if rows.shape[1] == 5 else None)


def phrase_key(text: str) -> str:
    """A phrase as it is compared with others: lower case, single spaces.

    Example:
        >>> from jaxplain.data.proposals import phrase_key
        >>> phrase_key(" A  Red ball")
        'a red ball'
    """
    return " ".join(text.casefold().split())


def read_phrase_boxes(folder: Path, record: Record) -> dict[str, Proposals]:
    """Scored boxes for each phrase (`phrase_key`) of the file that bears the image's name.

    Raises:
        ValueError: there is none, or a line holds something else; says what and where.
    """
    path = folder / f"{record.id}.csv"
    if not path.is_file():
        raise ValueError(f"{folder} has no boxes for the image {record.id} ({path.name})")
    found: dict[str, list[list[float]]] = {}
    with open(path, encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if not row:
                continue
            try:
                text, *numbers = row
                values = [float(v) for v in numbers]
            except ValueError:
                values = []
            if len(values) != 5 or not np.isfinite(values).all():
                raise ValueError(
                    f"{path}, line {number}: not a phrase, left, top, right, bottom, score"
                )
            found.setdefault(phrase_key(text), []).append(values)
    tables: dict[str, Any] = {key: np.array(v, np.float32) for key, v in found.items()}
    return {key: Proposals(v[:, :4], None, v[:, 4]) for key, v in tables.items()}
