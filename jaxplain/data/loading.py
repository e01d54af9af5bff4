"""Loading records through Grain: in parallel, in a fixed order, a share for each host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxplain.core.extras import missing
from jaxplain.data.record import Record, Source, UnreadableRecordError

__all__ = ["Batch", "Item", "batches", "load"]


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """A record on its way.

    Attributes:
        index: its number in the source.
        record: the record, or None where it could not be read.
        pixels: what ``prepare`` made of it; None without ``prepare``, or where it could not be
            read.
        error: why it could not be read, or None.
    """

    index: int
    record: Any
    pixels: Any
    error: UnreadableRecordError | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Items whose pixels have one shape.

    Attributes:
        pixels: ``(batch_size, h, w, 3)``. Where items are fewer, the last one is repeated, so that
            a batch at the end has no shape of its own.
        items: those that count, at most ``batch_size``.
    """

    pixels: np.ndarray = dataclasses.field(repr=False)
    items: tuple[Item, ...]


class _Reader:
    """Index to item; errors of single records become items. Sent to worker processes."""

    def __init__(self, source: Source, prepare: Callable[[Record], np.ndarray] | None):
        self.source, self.prepare = source, prepare

    def __call__(self, index: Any) -> Item:
        index = int(index)
        try:
            record = self.source[index]
            pixels = None if self.prepare is None else self.prepare(record)
        except UnreadableRecordError as error:
            return Item(index, None, None, error)
        return Item(index, record, pixels)


def load(
    source: Source,
    prepare: Callable[[Record], np.ndarray] | None = None,
    *,
    indices: Sequence[int] | None = None,
    shard: tuple[int, int] = (0, 1),
    seed: int | None = None,
    workers: int = 0,
    threads: int = 4,
    prefetch: int = 16,
) -> Iterator[Item]:
    """Reads records in parallel and yields them in an order that depends on the arguments alone.

    Args:
        source: a data set of `jaxplain.data`, or anything with ``len`` and ``[index]`` that gives
            records and raises ``UnreadableRecordError`` where it cannot.
        prepare: makes the pixels of a record, in the worker; with ``workers`` it must be picklable.
        indices: which records, in this order; None for all.
        shard: (k, n) takes of these the k-th, (k + n)-th ...: with ``(jax.process_index(),
            jax.process_count())`` each host has its share.
        seed: shuffles (before sharding, so that shares never overlap); None keeps the order.
        workers: worker processes; 0 reads in threads of this process. Starting a process takes
            seconds.
        threads: threads that read, in each process.
        prefetch: how many records are read ahead, in each process.

    Yields:
        One ``Item`` per record. A record that cannot be read is an item with its ``error``.

    Raises:
        ValueError: a shard that does not exist, or an index out of range.
        ImportError: grain is not installed.

    Example:
        >>> import numpy as np
        >>> from jaxplain.data import Record, load
        >>> records = [Record.make(np.zeros((4, 4, 3), np.uint8), f"image {i}") for i in range(5)]
        >>> [item.record.id for item in load(records, shard=(1, 2))]
        ['image 1', 'image 3']
    """
    try:
        import grain
    except ImportError as error:
        raise missing("data", "grain", "Loading") from error
    part, count = shard
    if not (count >= 1 and 0 <= part < count):
        raise ValueError(f"shard must be (k, n) with 0 <= k < n, not {shard}.")
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(source)):
        raise ValueError(f"indices must lie in 0 to {len(source) - 1}, the records of the source.")
    if seed is not None:
        chosen = np.random.default_rng(seed).permutation(chosen)
    chosen = chosen[part::count]
    if not len(chosen):
        return iter(())
    dataset = grain.MapDataset.source(chosen.tolist()).map(_Reader(source, prepare))
    dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=max(threads, 1), prefetch_buffer_size=max(prefetch, 1))
    )
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's workers read flags, which absl programs parse
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


def batches(
    items: Iterable[Item],
    batch_size: int,
    failures: list[UnreadableRecordError] | None = None,
    key: Callable[[Item], Hashable] | None = None,
) -> Iterator[Batch]:
    """Groups items whose pixels have the same shape into batches of one size.

    A batch is yielded when it is full, and the rest at the end in the order of their first items:
    the grouping depends on the items alone.

    Args:
        items: from ``load`` with ``prepare``.
        batch_size: of every batch.
        failures: the errors of items that could not be read are appended here; None raises them.
        key: items of one batch have to agree in this too.

    Raises:
        UnreadableRecordError: a record could not be read, and ``failures`` is None.
        ValueError: ``batch_size`` is not positive, or items have no pixels.

    Example:
        >>> import numpy as np
        >>> from jaxplain.data import Record, batches, load
        >>> records = [Record.make(np.zeros((4, 4 + i % 2, 3), np.uint8), f"{i}") for i in range(5)]
        >>> for batch in batches(load(records, lambda record: record.image), 2):
        ...     print(batch.pixels.shape, [item.index for item in batch.items])
        (2, 4, 4, 3) [0, 2]
        (2, 4, 5, 3) [1, 3]
        (2, 4, 4, 3) [4]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be a positive int, not {batch_size}.")
    waiting: dict[Hashable, list[Item]] = {}
    for item in items:
        if item.error is not None:
            if failures is None:
                raise item.error
            failures.append(item.error)
            continue
        if item.pixels is None:
            raise ValueError("Items without pixels make no batch; give load a prepare function.")
        kind = (item.pixels.shape, None if key is None else key(item))
        group = waiting.setdefault(kind, [])
        group.append(item)
        if len(group) == batch_size:
            yield _batch(waiting.pop(kind), batch_size)
    for group in sorted(waiting.values(), key=lambda group: group[0].index):
        yield _batch(group, batch_size)


def _batch(group: list[Item], batch_size: int) -> Batch:
    pixels = [item.pixels for item in group if item.pixels is not None]  # all have some
    pixels += [pixels[-1]] * (batch_size - len(pixels))
    return Batch(np.stack(pixels), tuple(group))
