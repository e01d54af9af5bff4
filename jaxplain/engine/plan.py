"""What a run explains of each record, and which records are in which shard and batch.

All of it follows from the settings alone: whoever makes a shard, alone or beside others, makes the
same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxplain import data

#: The part of a shard's work that rows may be which only fill up batches.
_PADDING = 0.03
#: Batches that would be mostly empty have this part of the usual size.
_SMALL = 8


class Goal:
    """What is explained of a record."""

    def __init__(self, targets: Any):
        self.signals: np.ndarray | None = None
        self.classes: np.ndarray | None = None
        if targets is None:
            return
        values = np.asarray(targets)
        if values.dtype.kind == "f" and values.ndim == 2:
            self.signals = values.astype(np.float32)
        elif values.dtype.kind in "iu" and values.ndim == 1 and values.size:
            self.classes = values.astype(np.int32)
        else:
            raise ValueError(
                "targets must be None, a sequence of class numbers, or float signals (C, N), not "
                f"{values.dtype} {values.shape}."
            )

    def describe(self) -> Any:
        """What stands in the settings."""
        if self.signals is not None:
            return f"labels {digest(self.signals)}"
        return "top class" if self.classes is None else self.classes.tolist()

    def width(self, labels: np.ndarray) -> int:
        """How many targets the program for a record takes: a power of two, if its own labels."""
        return len(labels) if self.signals is None else 1 << (len(labels) - 1).bit_length()

    def of(self, record: data.Record) -> np.ndarray:
        """int32 (K,): the classes, or labels, to explain; K = 0 stands for the top class.

        Raises:
            UnreadableRecordError: the record has no label that can be explained.
        """
        if self.classes is not None:
            return self.classes
        if self.signals is None:
            return np.zeros(0, np.int32)
        present = np.unique(record.labels).astype(np.int32)
        if present.size and present[-1] >= len(self.signals):
            raise ValueError(
                f"record {record.id} has the label {present[-1]}, but targets has signals for "
                f"{len(self.signals)} classes."
            )
        present = present[self.signals[present].any(1)]
        if not present.size:
            raise data.UnreadableRecordError(record.id, "it has no label that can be explained")
        return present

    def padded(self, labels: Sequence[np.ndarray], rows: int) -> np.ndarray:
        """int32 (rows, width): a record's last label is repeated, and the last record."""
        width = self.width(labels[0])
        filled = [*labels, *[labels[-1]] * (rows - len(labels))]
        return np.stack([np.pad(r, (0, width - len(r)), "edge") if len(r) else r for r in filled])


class Ranges:
    """The records of each shard: a fixed stretch of those that were chosen."""

    def __init__(self, chosen: range | np.ndarray, shard_size: int):
        self.chosen, self.shard_size = chosen, shard_size
        self.count = -(-len(chosen) // shard_size)

    def __getitem__(self, shard: int) -> np.ndarray:
        return np.asarray(self.chosen[shard * self.shard_size : (shard + 1) * self.shard_size])


def chosen_records(indices: Any, count: int) -> range | np.ndarray:
    """Which records are explained, in this order; a range takes no memory.

    Raises:
        ValueError: a record is named twice, or there is none of the number.
    """
    if indices is None:
        return range(count)
    chosen = indices if isinstance(indices, range) else np.asarray(indices, np.int64)
    if not len(chosen):
        return range(0)
    if isinstance(chosen, np.ndarray) and len(np.unique(chosen)) < len(chosen):
        raise ValueError("indices must not name a record twice.")
    ends = (chosen[0], chosen[-1]) if isinstance(chosen, range) else (chosen.min(), chosen.max())
    if min(ends) < 0 or max(ends) >= count:
        raise ValueError(f"indices must lie in 0 to {count - 1}, the records of the source.")
    return chosen


def describe_records(chosen: range | np.ndarray) -> str:
    """What stands in the settings for the records that were chosen."""
    if isinstance(chosen, np.ndarray) and (np.diff(chosen) == 1).all():
        chosen = range(int(chosen[0]), int(chosen[-1]) + 1)
    if isinstance(chosen, range):
        return f"{chosen.start}:{chosen.stop}:{chosen.step}"
    return digest(chosen.astype("<i8"))


def rests(counts: Sequence[int], batch_size: int, shard_size: int) -> list[int]:
    """How large the batches are that take what is left of each kind at a shard's end.

    Records of one batch have the same shape. At a shard's end each shape has some left, fewer than
    a batch. They fill up a batch with rows that count for nothing; or, where these would be too
    many in all, go in batches of an eighth of the size, those first that spare most. A program more
    is compiled then for such a shape.

    Example:
        >>> rests([7, 1, 1], 8, 1024)  # 15 rows more than there are records: nothing
        [8, 8, 8]
        >>> rests([7, 1, 1], 8, 128)
        [8, 1, 1]
    """
    small = max(1, batch_size // _SMALL)
    sizes = [batch_size] * len(counts)
    spared = [(batch_size - n) - (-n) % small for n in counts]
    padding = sum(batch_size - n for n in counts)
    for i in sorted(range(len(counts)), key=lambda i: -spared[i]):
        if padding <= _PADDING * shard_size or not spared[i]:
            break
        sizes[i], padding = small, padding - spared[i]
    return sizes


def stamps(source: Any, chosen: range | np.ndarray) -> str | None:
    """Stands for the records that a source has: their ids, of files also size and time.

    None for a source that does not tell the ids of records that are not read.
    """
    if hasattr(source, "stamp"):
        each: Iterator[str] = (source.stamp(int(i)) for i in chosen)
    elif hasattr(source, "ids"):
        each = (str(source.ids[int(i)]) for i in chosen)
    else:
        return None
    found = hashlib.sha256()
    for stamp in each:
        found.update(stamp.encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()[:16]


def digest(values: np.ndarray) -> str:
    """Stands for an array's values in the settings."""
    found = hashlib.sha256(f"{values.dtype}{values.shape}".encode())
    found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:16]
