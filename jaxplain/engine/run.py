"""The batch engine: explains a whole data set, and goes on where it was stopped.

The records are cut into shards, fixed ranges that anyone may make: the processes of this machine or
of a pod, a cluster of Ray, the tasks of an array. Each is made by a pure function of the settings
and its range, and is put in place whole: nothing else is shared, so nothing is coordinated.

Records are read and resized by Grain's threads or processes, explained in batches of few shapes by
compiled programs over all local devices, and written by a thread; each step works on the next
batch while the device computes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxplain import data
from jaxplain.core import _compat
from jaxplain.engine.job import Job, Opened
from jaxplain.engine.making import make
from jaxplain.engine.stopping import ends_in_time

_log = logging.getLogger(__name__)

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
    source: Any,
    output: str | os.PathLike[str],
    methods: Mapping[str, Callable[[Any, jax.Array, Any], Any]],
    *,
    prepare: Callable[[data.Record], np.ndarray],
    to_input: Callable[[jax.Array], jax.Array],
    targets: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 8,
    shard_size: int = 1024,
    indices: Sequence[int] | None = None,
    workers: int = 0,
    about: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    shards: tuple[int, int] | None = None,
    same_devices: bool = False,
    on: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunSummary:
    """Explains every record of a data set, and writes the maps to shards of ArrayRecord.

    Run it again with the same arguments, on this machine or on others, and it makes the shards that
    are missing or damaged; the files are then the same, bit for bit, as without the interruption,
    on equal devices (compilers differ). `data.open_maps` reads them. A record that cannot be read,
    or that has no label to explain, is listed as a failure and left out. Under `jax.distributed`
    process i of n makes every n-th shard, and all return when the last has finished. SIGTERM ends a
    process within seconds.

    Args:
        fn: the network, images to scores ``(B, N)`` or a score map ``(B, h, w, N)``.
        source: a data set of `jaxplain.data`, or anything with ``len`` and ``[index]`` that gives
            records, arrays, paths or dicts, see `data.as_source`.
        output: the folder to write: a path, or an address such as ``gs://bucket/maps`` of fsspec.
            Several processes write to the same one.
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
        shard_size: how many records a shard has, the most that an interruption can lose.
        indices: which records, in this order; None for all.
        workers: processes that read and resize; 0 for threads.
        about: JSON values that describe the run, for its settings; a change is an error.
        class_names: of the network, for those who read the maps.
        shards: (a, b) makes only those of the shards a to b - 1 that there are, for the tasks of an
            array.
        same_devices: insists that all shards are made by the same devices and versions.
        on: ``"ray"``, or the address ``ray://...`` of a cluster of Ray whose workers make the
            shards; None makes them here.
        progress: called with the number of records that are done, and of all of this process.

    Raises:
        ValueError: an argument is out of range; maps of another form than above; or ``output`` was
            begun with other arguments, another network or other images: other ids, or other files
            (their sizes and times are compared).
        OSError: ``output`` cannot be written, for example as the disk is full. Nothing that was
            finished is harmed.
        ImportError: grain, array-record or what an address needs is not installed.

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
    job = Job(
        fn,
        source,
        os.fspath(output),
        methods,
        prepare,
        to_input,
        targets,
        batch_size,
        shard_size,
        indices,
        workers,
        about or {},
        same_devices,
        class_names,
    )
    if on is not None:
        from jaxplain.engine.on_ray import explain_on_ray

        return explain_on_ray(job, on, shards, progress)
    with ends_in_time((signal.SIGTERM,)):
        run = Opened(job)
        wanted = chosen_shards(shards, run.ranges.count)
        run.begin()
        process, processes = jax.process_index(), jax.process_count()
        made = make(run, wanted[process::processes], progress)
        # When the first process ends, JAX gives the others five minutes more; so none ends early.
        _compat.barrier("jaxplain has explained")  # no names: folders of processes may differ
    spans = run.programs.spans
    spent = sum(end - begin for begin, end in spans)
    at_once = sum(
        max(0.0, min(end, ready) - max(begin, asked))
        for begin, end in spans
        for asked, ready in made.computed
    )
    return RunSummary(
        made.records,
        made.explained,
        tuple((name, reason) for _, name, reason in sorted(made.failures)),
        time.perf_counter() - start,
        spent,
        sum(ready - asked for asked, ready in made.computed) - at_once,
        run.programs.compiled,
    )


def chosen_shards(shards: tuple[int, int] | None, count: int) -> range:
    """The numbers of the shards that are asked for.

    None may be left for the last tasks of an array, which is said.

    Raises:
        ValueError: the range is empty.
    """
    if shards is None:
        return range(count)
    begin, end = shards
    if not 0 <= begin < end:
        raise ValueError(f"shards must be (a, b) with 0 <= a < b, not {tuple(shards)}.")
    if begin >= count:
        _log.warning(
            "of the run's %d shards none is in %d:%d, so nothing is done", count, begin, end
        )
    return range(min(begin, count), min(end, count))
