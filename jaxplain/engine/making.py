"""Makes shards: reads, explains and writes the records of some ranges, each beside the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxplain import data
from jaxplain.data.shards import finished, shard_name
from jaxplain.engine.job import Opened
from jaxplain.engine.plan import rests
from jaxplain.engine.writing import Batch, End, Made, Writing


def make(
    run: Opened, shards: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> Made:
    """Makes those of the shards that are not there and whole.

    Args:
        run: the job.
        shards: their numbers.
        progress: called with the number of records that are done, and of all in these shards.

    Raises:
        ValueError: a shard was made by another job, or by other devices where the same are
            insisted on; or what reading and explaining raises.
        OSError: a shard cannot be written.
    """
    made, missing = Made(), []
    for shard in shards:
        name = shard_name(shard, run.ranges.count)
        footer = finished(run.folder, name)
        if footer is None:
            missing.append(shard)
            continue
        if footer["settings"] != run.digest:
            raise ValueError(f"{name} in {run.folder} was made with other settings.")
        run.check_maker(footer["made_by"])
        made.count(footer, now=False)
    total = sum(len(run.ranges[shard]) for shard in shards)
    done = total - sum(len(run.ranges[shard]) for shard in missing)
    with Writing(run, made, progress, done, total) as writing:
        for work in _batches(run, missing):
            writing.put(work)
    return made


def _batches(run: Opened, shards: Sequence[int]) -> Iterator[Batch | End]:
    """Everything that is to be done for some shards, in its order; programs are at work on it."""
    job, goal = run.job, run.goal
    if not shards:
        return
    indices = np.concatenate([run.ranges[shard] for shard in shards])
    loaded = data.load(
        run.source,
        job.prepare,
        indices=indices.tolist(),
        workers=job.workers,
        prefetch=max(16, 2 * job.batch_size),
    )
    for shard in shards:
        groups: dict[Any, list[tuple[data.Item, np.ndarray]]] = {}
        failures: list[tuple[int, str, str]] = []
        for _ in run.ranges[shard]:
            item = next(loaded)
            try:
                if item.error is not None:
                    raise item.error
                labels = goal.of(item.record)
            except data.UnreadableRecordError as error:
                failures.append((item.index, error.record, error.reason))
                continue
            # The original image and its masks are not needed any more.
            record = dataclasses.replace(item.record, image=None, masks=None)
            item = dataclasses.replace(item, record=record)
            kind = item.pixels.shape, goal.width(labels)
            group = groups.setdefault(kind, [])
            group.append((item, labels))
            if len(group) == job.batch_size:
                yield _dispatched(run, shard, groups.pop(kind), job.batch_size)
        left = sorted(groups.values(), key=lambda group: group[0][0].index)
        sizes = rests([len(group) for group in left], job.batch_size, job.shard_size)
        for group, size in zip(left, sizes, strict=True):
            for begin in range(0, len(group), size):
                yield _dispatched(run, shard, group[begin : begin + size], size)
        yield End(shard, failures)


def _dispatched(
    run: Opened, shard: int, group: list[tuple[data.Item, np.ndarray]], size: int
) -> Batch:
    rows = run.programs.rows(size)
    pixels = [item.pixels for item, _ in group]
    labels = [found for _, found in group]
    results, asked = run.programs(
        np.stack(pixels + [pixels[-1]] * (rows - len(pixels))), run.goal.padded(labels, rows)
    )
    items = tuple(item for item, _ in group)
    return Batch(
        shard, items, pixels[0].shape[:2], [len(found) for found in labels], results, asked
    )
