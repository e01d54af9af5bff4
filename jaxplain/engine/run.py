"""The batch engine: explains a whole data set, and goes on where it was stopped.

Records are read and resized by Grain's threads or processes, explained in batches of few shapes by
compiled programs over all local devices, and written by a thread; each step works on the next
batch while the device computes. Under `jax.distributed` each process takes its share of the
records. Which records are in which batch and shard depends on the arguments alone, so a run that
was killed and started again writes what an uninterrupted one does, bit for bit.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxplain
from jaxplain import data
from jaxplain.data.maps import read_manifests
from jaxplain.data.maps_writer import MapsWriter
from jaxplain.engine.programs import Programs
from jaxplain.engine.stream import Goal, Stream, digest
from jaxplain.engine.writing import Work, Writing

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
        methods: name -> explainer ``(fn, x, targets)`` to maps ``(B, h, w)`` (with K targets ``(B,
            K, h, w)``), such as ``functools.partial(jaxplain.grad_cam, layer="conv:-1")``. Of a
            dict of maps (several layers), each is written as ``name/layer``.
        prepare: a record to uint8 pixels ``(h, w, 3)`` of one of few shapes, see
            `data.aspect_shape`; each shape compiles a program. With ``workers`` it must be
            picklable.
        to_input: pixels ``(B, h, w, 3)`` to the network's input, see `data.normalise`.
        targets: None for the top class of each image; classes to explain for every image; or
            float32 ``(C, N)``, a signal at the outputs for each class of the source
            (`data.cue_signals`): then an image's own labels are explained, those whose signal is
            not 0.
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
    goal = Goal(targets)
    settings = {
        **(about or {}),
        "methods": list(methods),
        "source": source.name,
        "records of the source": len(source),
        "records": len(chosen),
        "indices": digest(chosen.astype("<i8")),
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
    stream = Stream(source, goal, chosen[process[0] :: process[1]], state)
    before = writer.records
    with Writing(writer, progress, len(stream.share)) as writing:
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
    stream: Stream,
    prepare: Callable,
    workers: int,
    batch_size: int,
    shard_size: int,
    programs: Programs,
    writing: Writing,
) -> None:
    in_shard, check = 0, stream.check
    for batch in data.batches(stream.items(prepare, workers), batch_size, key=stream.width):
        labels = stream.labels_of(batch)
        if check is None:
            check = {
                "index": batch.items[0].index,
                "pixels": digest(batch.items[0].pixels),
                "program": programs.digest(batch.pixels.shape[1:3], labels.shape[1]),
            }
        results, dispatched = programs(batch.pixels, labels)
        counts = [len(stream.labels.pop(item.index)) for item in batch.items]
        in_shard += len(batch.items)
        reached = None
        if in_shard >= shard_size:
            reached, in_shard = {"check": check, **stream.state()}, 0
        writing.put(Work(stream.done, reached, batch, results, counts, dispatched))
    writing.put(Work(stream.done, {"check": check, **stream.state(), "complete": True}))


def _check(
    check: Mapping[str, Any],
    source: Any,
    prepare: Callable,
    goal: Goal,
    programs: Programs,
    output: Any,
) -> None:
    """An error unless the first record that was explained, and its program, are still the same."""
    record = source[check["index"]]
    pixels = prepare(record)
    if digest(pixels) != check["pixels"]:
        raise ValueError(
            f"The maps in {output} were begun with other pixels of record {record.id}: the data or "
            "its preparation has changed. Go on with the same, or name another folder."
        )
    if programs.digest(pixels.shape[:2], goal.width(goal.of(record))) != check["program"]:
        raise ValueError(
            f"The maps in {output} were begun with another network, other weights or another "
            "method than this. Go on with the same, or name another folder."
        )
