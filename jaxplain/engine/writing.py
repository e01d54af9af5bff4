"""The thread that waits for what the device computes, and writes it."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxplain import data
from jaxplain.data.shards import ShardWriter, shard_name
from jaxplain.engine.job import Opened


@dataclasses.dataclass
class Made:
    """What has come of some shards.

    Attributes:
        records: how many records have maps.
        explained: how many of them were explained now.
        failures: (index, id, reason) of those that have none.
        computed: (start, end) of the times at which a compiled program was at work.
    """

    records: int = 0
    explained: int = 0
    failures: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)
    computed: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    def count(self, footer: Mapping[str, Any], *, now: bool) -> None:
        """Adds what a shard's footer says."""
        self.records += len(footer["ids"])
        self.explained += len(footer["ids"]) * now
        self.failures += [tuple(failure) for failure in footer["failures"]]


@dataclasses.dataclass
class Batch:
    """A batch on its way to the disk; ``counts`` says how many targets of each item count."""

    shard: int
    items: Sequence[data.Item]
    shape: tuple[int, int]
    counts: Sequence[int]
    results: Any
    asked: float


@dataclasses.dataclass
class End:
    """The end of a shard."""

    shard: int
    failures: Sequence[tuple[int, str, str]]


class Writing:
    """The thread that waits for results and writes them; what comes of it is in ``made``."""

    def __init__(self, run: Opened, made: Made, progress: Any, done: int, total: int):
        self._run, self._made, self._progress = run, made, progress
        self._done, self._total = done, total
        # One batch is computed, one waits here, one is ready to be put: the device is never idle.
        self._queue: queue.Queue[Batch | End | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._stopped = False
        self._shard: ShardWriter | None = None
        self._thread = threading.Thread(target=self._loop, name="jaxplain-writer", daemon=True)

    def __enter__(self) -> Writing:
        if self._done:
            self._say()
        self._thread.start()
        return self

    def put(self, work: Batch | End) -> None:
        self._queue.put(work)
        if self._failure is not None:
            raise self._failure

    def __exit__(self, kind: Any, *_: object) -> None:
        # A shard that is made already is written even if the source has failed since; not where one
        # does not want to wait for it.
        self._stopped = kind is not None and not issubclass(kind, Exception)
        self._queue.put(None)
        self._thread.join()
        if self._shard is not None:
            self._shard.discard()
        if kind is None and self._failure is not None:
            raise self._failure

    def _loop(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._stopped or self._failure is not None:
                continue  # so that no `put` waits for ever
            try:
                if isinstance(work, Batch):
                    self._take(work)
                else:
                    self._finish(work)
            except BaseException as error:  # raised again in the caller's thread
                self._failure = error

    def _take(self, batch: Batch) -> None:
        results, spans = jax.block_until_ready(batch.results), self._made.computed
        idle_since = spans[-1][1] if spans else 0.0
        spans.append((max(batch.asked, idle_since), time.perf_counter()))
        targets, maps, scores, top = jax.tree.map(np.asarray, results)
        shard = self._open(batch.shard)
        for row, (item, count) in enumerate(zip(batch.items, batch.counts, strict=True)):
            kept = slice(count) if count else ...  # without the targets that fill up the width
            shard.add(
                data.Explanation(
                    item.record.id,
                    item.index,
                    item.record.size,
                    batch.shape,
                    targets[row][kept],
                    {name: m[row][kept] for name, m in maps.items()},
                    scores[row][kept],
                    int(top[row]),
                )
            )
        self._done += len(batch.items)
        self._say()

    def _open(self, number: int) -> ShardWriter:
        if self._shard is None:
            name = shard_name(number, self._run.ranges.count)
            self._shard = ShardWriter(self._run.folder, name)
        return self._shard

    def _finish(self, end: End) -> None:
        footer = self._open(end.shard).finish(
            settings=self._run.digest,
            shard=end.shard,
            failures=sorted(end.failures),
            made_by=self._run.made_by,
        )
        self._shard = None
        self._made.count(footer, now=True)
        if end.failures:
            self._done += len(end.failures)
            self._say()

    def _say(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total)
