"""Explains batches of columns, for pipelines that read and write by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxplain import data
from jaxplain.engine.plan import Goal
from jaxplain.engine.programs import Programs

__all__ = ["ExplainBatches"]


class ExplainBatches:
    """Columns of images in, columns of maps out: a callable for ``Dataset.map_batches`` of Ray.

    It keeps the network and its compiled programs from batch to batch, so Ray is given the class,
    and starts it in its actors: ``dataset.map_batches(ExplainBatches, fn_constructor_kwargs=...,
    concurrency=4, batch_size=64)``. Whatever Ray reads (Parquet, images in a bucket, webdataset)
    can be explained, and whatever it writes can hold the maps. Ray is not needed for it: a batch is
    a dict of arrays.

    The columns that come out besides those that came in are ``target`` (int32, as
    `data.Explanation.targets`), ``maps/NAME`` for each method (float32 ``(h, w)`` a row, or
    ``(K, h, w)`` with K targets; without ``error``), and ``error``: why a row has no maps, or an
    empty text.

    Args:
        load: makes the network, images to scores; it is called where the batches are explained.
        methods, prepare, to_input, targets: as for `jaxplain.explain_dataset`.
        batch_size: rows that are explained at once; a multiple of the number of local devices.

    Raises:
        ValueError: an argument is wrong, or maps are of another form.

    Example:
        >>> import numpy as np
        >>> from jaxplain.engine import ExplainBatches
        >>> explain = ExplainBatches(
        ...     lambda: lambda x: x.mean((1, 2)),
        ...     {"grey": lambda fn, x, targets: x.mean(-1)},
        ...     prepare=lambda record: record.image,
        ...     to_input=lambda pixels: pixels / 255.0,
        ... )
        >>> batch = explain({"image": np.zeros((3, 4, 6, 3), np.uint8)})
        >>> batch["maps/grey"].shape, batch["target"].tolist(), batch["error"].tolist()
        ((3, 4, 6), [0, 0, 0], ['', '', ''])
    """

    def __init__(
        self,
        load: Callable[[], Callable[[jax.Array], jax.Array]],
        methods: Mapping[str, Callable[[Any, jax.Array, Any], Any]],
        *,
        prepare: Callable[[data.Record], np.ndarray],
        to_input: Callable[[jax.Array], jax.Array],
        targets: Sequence[int] | np.ndarray | None = None,
        batch_size: int = 8,
    ):
        devices = jax.local_devices()
        if batch_size < 1 or batch_size % len(devices):
            raise ValueError(
                f"batch_size must be a positive multiple of the {len(devices)} local devices, not "
                f"{batch_size}."
            )
        self._goal, self._prepare, self._size = Goal(targets), prepare, batch_size
        self._programs = Programs(
            load(),
            methods,
            to_input,
            self._goal.classes,
            self._goal.signals,
            batch_size,
            devices,
        )

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Explains the rows of a batch: columns of one length, among them one of images."""
        count = len(next(iter(batch.values()))) if batch else 0
        rows = [{key: column[i] for key, column in batch.items()} for i in range(count)]
        source = data.as_source(rows)
        errors = np.full(count, "", object)
        groups: dict[Any, list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for i in range(count):
            try:
                record = source[i]
                labels, pixels = self._goal.of(record), self._prepare(record)
            except data.UnreadableRecordError as error:
                errors[i] = error.reason
                continue
            kind = pixels.shape, self._goal.width(labels)
            groups.setdefault(kind, []).append((i, labels, pixels))
        columns: dict[str, list[Any]] = {"target": [None] * count}
        for group in groups.values():
            for begin in range(0, len(group), self._size):
                self._explain(group[begin : begin + self._size], columns, count)
        return {
            **{key: np.asarray(column) for key, column in batch.items()},
            **{key: _stacked(column) for key, column in columns.items()},
            "error": errors,
        }

    def _explain(self, group: Sequence[Any], columns: dict[str, list[Any]], count: int) -> None:
        pixels = [pixels for _, _, pixels in group]
        pixels += [pixels[-1]] * (self._size - len(pixels))
        labels = self._goal.padded([labels for _, labels, _ in group], self._size)
        (targets, maps, *_), _ = self._programs(np.stack(pixels), labels)
        found = {"target": targets, **{f"maps/{name}": m for name, m in maps.items()}}
        for key, values in found.items():
            values = np.asarray(values)
            column = columns.setdefault(key, [None] * count)
            for row, (i, own, _) in enumerate(group):
                column[i] = values[row][slice(len(own)) if len(own) else ...]


def _stacked(column: list[Any]) -> np.ndarray:
    """One array where all rows have a value of the same shape, else one of objects."""
    shapes = {None if value is None else np.shape(value) for value in column}
    if len(shapes) == 1 and None not in shapes:
        return np.stack(column)
    stacked = np.empty(len(column), object)
    stacked[:] = column
    return stacked
