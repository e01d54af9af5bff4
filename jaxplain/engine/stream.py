"""Which records a process explains, in which order, and what is explained of each."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxplain import data


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


class Stream:
    """The records of this process, and how far they have come."""

    def __init__(self, source: Any, goal: Goal, share: np.ndarray, state: Mapping[str, Any]):
        self.source, self.goal, self.share = source, goal, share
        self.next: int = state["next"]
        self.check: dict[str, Any] | None = state["check"]
        self.failures: list[list] = list(state["failures"])
        self._waited: list[int] = state["waiting"]
        self.labels: dict[int, np.ndarray] = {}  # of records that were read and are in no batch yet

    def items(self, prepare: Callable, workers: int) -> Iterator[data.Item]:
        # Those that waited for a full batch when the last shard was finished come first: then the
        # batches are the same as without the interruption.
        indices = [*self._waited, *self.share[self.next :].tolist()]
        loaded = data.load(self.source, prepare, indices=indices, workers=workers)
        for position, item in enumerate(loaded):
            self.next += position >= len(self._waited)
            try:
                if item.error is not None:
                    raise item.error
                self.labels[item.index] = self.goal.of(item.record)
            except data.UnreadableRecordError as error:
                self.failures.append([item.index, error.record, error.reason])
                continue
            # The original image and its masks are not needed any more.
            record = dataclasses.replace(item.record, image=None, masks=None)
            yield dataclasses.replace(item, record=record)

    def width(self, item: data.Item) -> int:
        return self.goal.width(self.labels[item.index])

    def labels_of(self, batch: data.Batch) -> np.ndarray:
        """int32 (batch_size, width); a record's last one is repeated, and the last record."""
        width = self.width(batch.items[0])
        rows = [self.labels[item.index] for item in batch.items]
        rows += [rows[-1]] * (len(batch.pixels) - len(rows))
        return np.stack([np.pad(r, (0, width - len(r)), "edge") if len(r) else r for r in rows])

    @property
    def done(self) -> int:
        """How many records are in a batch, or failed."""
        return self.next - len(self.labels)

    def state(self) -> dict[str, Any]:
        return {"next": self.next, "waiting": list(self.labels), "failures": list(self.failures)}


def digest(values: np.ndarray) -> str:
    """Stands for an array's values in a manifest."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
