"""The thread that waits for what the device computes, and writes it."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxplain import data
from jaxplain.data.maps_writer import MapsWriter


@dataclasses.dataclass
class Work:
    """A batch on its way to the disk; ``reached`` ends the shard, and stands for what is done."""

    done: int
    reached: dict[str, Any] | None
    batch: data.Batch | None = None
    results: Any = None
    counts: Sequence[int] = ()
    dispatched: float = 0.0


class Writing:
    """The thread that waits for results and writes them; ``spans`` are when each was computed."""

    def __init__(self, writer: MapsWriter, progress: Any, total: int):
        self.writer, self.progress, self.total = writer, progress, total
        self.spans: list[tuple[float, float]] = []
        self._shown = -1
        # One batch is computed, one waits here, one is ready to be put: the device is never idle.
        self._queue: queue.Queue[Work | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="jaxplain-writer", daemon=True)

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def put(self, work: Work) -> None:
        self._queue.put(work)
        if self._failure is not None:
            raise self._failure

    def __exit__(self, kind: Any, *_: object) -> None:
        self._stopped = kind is not None  # then what is in the queue is not wanted any more
        self._queue.put(None)
        self._thread.join()
        self.writer.discard()
        if kind is None and self._failure is not None:
            raise self._failure

    def _loop(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._stopped or self._failure is not None:
                continue  # so that no `put` waits for ever
            try:
                if work.batch is not None:
                    results = jax.block_until_ready(work.results)
                    idle_since = self.spans[-1][1] if self.spans else 0.0
                    self.spans.append((max(work.dispatched, idle_since), time.perf_counter()))
                    self._write(work.batch, work.counts, jax.tree.map(np.asarray, results))
                if work.reached is not None:
                    self.writer.finish(**work.reached)
                if self.progress is not None and work.done > self._shown:
                    self._shown = work.done
                    self.progress(work.done, self.total)
            except BaseException as error:  # raised again in the caller's thread
                self._failure = error

    def _write(
        self,
        batch: data.Batch,
        counts: Sequence[int],
        results: tuple[np.ndarray, dict[str, np.ndarray]],
    ) -> None:
        targets, maps = results
        for row, (item, count) in enumerate(zip(batch.items, counts, strict=True)):
            kept = slice(count) if count else ...  # without the targets that fill up the width
            self.writer.add(
                data.Explanation(
                    item.record.id,
                    item.index,
                    item.record.size,
                    batch.pixels.shape[1:3],
                    targets[row][kept],
                    {name: m[row][kept] for name, m in maps.items()},
                )
            )
