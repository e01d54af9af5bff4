"""The batch engine: explains a whole data set, and goes on where it was stopped.

Records are read and resized by Grain's threads or processes, explained in batches of few shapes by
compiled programs over all local devices, and written by a thread; each step works on the next
batch while the device computes. Under `jax.distributed` each process takes its share of the
records. Which records are in which batch and shard depends on the arguments alone, so a run that
was killed and started again writes what an uninterrupted one does, bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxplain
from jaxplain import data
from jaxplain.data.maps import read_manifests
from jaxplain.data.maps_writer import MapsWriter
from jaxplain.engine.programs import Programs

__all__ = ["RunSummary", "explain_dataset"]


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What a run of `explain_dataset` came to, on this process.

    Attributes:
      records: how many records have maps now.
      explained: how many of them this run explained; the others were there before.
      failures: (id, reason) of records that have none.
      seconds: that this run took.
      compile_seconds: of these, spent on tracing and compiling.
      compute_seconds: of the others, during which a compiled program was at work.
      programs: how many were compiled, one for each shape of a batch.
    """

    records: int
    explained: int
    failures: tuple[tuple[str, str], ...]
    seconds: float
    compile_seconds: float
    compute_seconds: float
    programs: int


def explain_dataset(
    fn: Callable[[jax.Array], jax.Array],
    source: data.Source,
    output: str | os.PathLike[str],
    methods: Mapping[str, Callable[[Any, jax.Array, Any], Any]],
    *,
    prepare: Callable[[data.Record], np.ndarray],
    to_input: Callable[[jax.Array], jax.Array],
    targets: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 8,
    shard_size: int = 256,
    indices: Sequence[int] | None = None,
    workers: int = 0,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunSummary:
    """Explains every record of a data set, and writes the maps to shards of ArrayRecord.

    Run it again with the same arguments, and it goes on from the last finished shard; the files are
    then the same, bit for bit, as without the interruption (on the same machine: compilers differ).
    `data.open_maps` reads them. A record that cannot be read, or that has no label to explain, is
    listed in the manifest and left out. Under `jax.distributed` it returns when all processes have
    finished.

    Args:
      fn: the network, images to scores ``(B, N)`` or a score map ``(B, h, w, N)``.
      source: a data set of `jaxplain.data`, or anything like it.
      output: the folder to write; several processes write to the same one.
      methods: name -> explainer ``(fn, x, targets)`` to maps ``(B, h, w)`` (with K targets ``(B, K,
        h, w)``), such as ``functools.partial(jaxplain.grad_cam, layer="conv:-1")``. Of a dict of
        maps (several layers), each is written as ``name/layer``.
      prepare: a record to uint8 pixels ``(h, w, 3)`` of one of few shapes, see
        `data.aspect_shape`; each shape compiles a program. With ``workers`` it must be picklable.
      to_input: pixels ``(B, h, w, 3)`` to the network's input, see `data.normalise`.
      targets: None for the top class of each image; classes to explain for every image; or
        float32 ``(C, N)``, a signal at the outputs for each class of the source
        (`data.cue_signals`): then an image's own labels are explained, those whose signal is not 0.
      batch_size: records that are explained at once; a multiple of the number of local devices.
      shard_size: a shard is finished when it has this many records or more.
      indices: which records, in this order; None for all.
      workers: processes that read and resize; 0 for threads.
      about: JSON values that describe the run, for the manifest; a change is an error.
      progress: called with the number of records that are done, and of all of this process.

    Raises:
      ValueError: an argument is out of range; maps of another form than above; or ``output`` was
        begun with other arguments, another network, other images or another number of devices.
      OSError: ``output`` cannot be written, for example as the disk is full. Nothing that was
        finished is harmed.
      ImportError: grain or array-record is not installed.

    Example:
      >>> import jax.numpy as jnp, numpy as np, tempfile
      >>> from jaxplain import data, explain_dataset
      >>> class Source:
      ...     name, class_names = "grey", ()
      ...     def __len__(self): return 3
      ...     def __getitem__(self, i):
      ...         return data.Record.make(np.full((4, 6, 3), 10 * i, np.uint8), f"image {i}")
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     run = explain_dataset(
      ...         lambda x: x.mean((1, 2)), Source(), folder,
      ...         {"grey": lambda fn, x, targets: x.mean(-1)}, prepare=lambda r: r.image[:2, :2],
      ...         to_input=lambda pixels: pixels / 255.0)
      ...     maps = data.open_maps(folder)
      >>> run.records, maps.ids, maps.complete
      (3, ('image 0', 'image 1', 'image 2'), True)
    """
    start = time.perf_counter()
    devices = jax.local_devices()
    if batch_size < 1 or batch_size % len(devices):
        raise ValueError(
            f"batch_size must be a positive multiple of the {len(devices)} local devices, not "
            f"{batch_size}."
        )
    if shard_size < 1:
        raise ValueError(f"shard_size must be a positive int, not {shard_size}.")
    if not methods:
        raise ValueError("methods is empty; name at least one explainer.")
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    if len(np.unique(chosen)) < len(chosen):
        raise ValueError("indices must not name a record twice.")
    process = jax.process_index(), jax.process_count()
    goal = _Goal(targets)
    settings = {
        **(about or {}),
        "methods": list(methods),
        "source": source.name,
        "records of the source": len(source),
        "records": len(chosen),
        "indices": _digest(chosen.astype("<i8")),
        "targets": goal.describe(),
        "batch_size": batch_size,
        "shard_size": shard_size,
        "processes": process[1],
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "x64": jax.config.jax_enable_x64,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "jaxplain": jaxplain.__version__,
    }
    writer = MapsWriter(Path(output), settings, process)
    programs = Programs(fn, methods, to_input, goal.classes, goal.signals, batch_size, devices)
    state = writer.manifest
    if state["check"] is not None:
        _check(state["check"], source, prepare, goal, programs, output)
    stream = _Stream(source, goal, chosen[process[0] :: process[1]], state)
    before = writer.records
    with _Writing(writer, progress, len(stream.share)) as writing:
        if not state["complete"]:
            _run(stream, prepare, workers, batch_size, shard_size, programs, writing)
    # When the first process ends, JAX gives the others five minutes more; so none ends early.
    while sum(manifest["complete"] for manifest in read_manifests(writer.folder)) < process[1]:
        time.sleep(0.2)
    spent = sum(end - begin for begin, end in programs.spans)
    at_once = sum(
        max(0.0, min(end, ready) - max(begin, asked))
        for begin, end in programs.spans
        for asked, ready in writing.spans
    )
    computed = sum(ready - asked for asked, ready in writing.spans) - at_once
    failures = tuple((name, reason) for _, name, reason in writer.manifest["failures"])
    seconds = time.perf_counter() - start
    return RunSummary(
        writer.records,
        writer.records - before,
        failures,
        seconds,
        spent,
        computed,
        programs.compiled,
    )


def _run(
    stream: _Stream,
    prepare: Callable,
    workers: int,
    batch_size: int,
    shard_size: int,
    programs: Programs,
    writing: _Writing,
) -> None:
    in_shard, check = 0, stream.check
    for batch in data.batches(stream.items(prepare, workers), batch_size, key=stream.width):
        labels = stream.labels_of(batch)
        if check is None:
            check = {
                "index": batch.items[0].index,
                "pixels": _digest(batch.items[0].pixels),
                "program": programs.digest(batch.pixels.shape[1:3], labels.shape[1]),
            }
        results, dispatched = programs(batch.pixels, labels)
        counts = [len(stream.labels.pop(item.index)) for item in batch.items]
        in_shard += len(batch.items)
        reached = None
        if in_shard >= shard_size:
            reached, in_shard = {"check": check, **stream.state()}, 0
        writing.put(_Work(stream.done, reached, batch, results, counts, dispatched))
    writing.put(_Work(stream.done, {"check": check, **stream.state(), "complete": True}))


class _Goal:
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
            return f"labels {_digest(self.signals)}"
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


class _Stream:
    """The records of this process, and how far they have come."""

    def __init__(self, source: Any, goal: _Goal, share: np.ndarray, state: Mapping[str, Any]):
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


def _check(
    check: Mapping[str, Any],
    source: Any,
    prepare: Callable,
    goal: _Goal,
    programs: Programs,
    output: Any,
) -> None:
    """An error unless the first record that was explained, and its program, are still the same."""
    record = source[check["index"]]
    pixels = prepare(record)
    if _digest(pixels) != check["pixels"]:
        raise ValueError(
            f"The maps in {output} were begun with other pixels of record {record.id}: the data or "
            "its preparation has changed. Go on with the same, or name another folder."
        )
    if programs.digest(pixels.shape[:2], goal.width(goal.of(record))) != check["program"]:
        raise ValueError(
            f"The maps in {output} were begun with another network, other weights or another "
            "method than this. Go on with the same, or name another folder."
        )


@dataclasses.dataclass
class _Work:
    """A batch on its way to the disk; ``reached`` ends the shard, and stands for what is done."""

    done: int
    reached: dict[str, Any] | None
    batch: data.Batch | None = None
    results: Any = None
    counts: Sequence[int] = ()
    dispatched: float = 0.0


class _Writing:
    """The thread that waits for results and writes them; ``spans`` are when each was computed."""

    def __init__(self, writer: MapsWriter, progress: Any, total: int):
        self.writer, self.progress, self.total = writer, progress, total
        self.spans: list[tuple[float, float]] = []
        self._shown = -1
        # One batch is computed, one waits here, one is ready to be put: the device is never idle.
        self._queue: queue.Queue[_Work | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="jaxplain-writer", daemon=True)

    def __enter__(self) -> _Writing:
        self._thread.start()
        return self

    def put(self, work: _Work) -> None:
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
                    self._write(work, jax.tree.map(np.asarray, results))
                if work.reached is not None:
                    self.writer.finish(**work.reached)
                if self.progress is not None and work.done > self._shown:
                    self._shown = work.done
                    self.progress(work.done, self.total)
            except BaseException as error:  # raised again in the caller's thread
                self._failure = error

    def _write(self, work: _Work, results: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
        targets, maps = results
        for row, (item, count) in enumerate(zip(work.batch.items, work.counts, strict=True)):
            kept = slice(count) if count else ...  # without the targets that fill up the width
            self.writer.add(
                data.Explanation(
                    item.record.id,
                    item.index,
                    item.record.size,
                    work.batch.pixels.shape[1:3],
                    targets[row][kept],
                    {name: m[row][kept] for name, m in maps.items()},
                )
            )


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
