"""A run over a data set as it was asked for, and what it is compared with when it goes on."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jaxplain
from jaxplain import data
from jaxplain.core.places import Folder, folder_at
from jaxplain.data.shards import digest_of, read_settings, write_settings
from jaxplain.engine.plan import Goal, Ranges, chosen_records, describe_records, digest, stamps
from jaxplain.engine.programs import Programs

#: How many records are tried to find one that can be read: it stands for the preparation of all.
_TRIED = 64
#: What stands in the settings that a person did not write: how a difference is explained.
_CHANGED = {
    "records": "with other images in {source}: files or records were added, removed or changed "
    "since. Put them back as they were",
    "pixels": "with other pixels of record {first}: the data or its preparation has changed. Go on "
    "with the same",
    "network": "with another network, other weights or another method than this. Go on with the "
    "same",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """The arguments of `explain_dataset` that every process of a run shares."""

    fn: Callable
    source: Any
    output: str
    methods: Mapping[str, Callable]
    prepare: Callable[[data.Record], np.ndarray]
    to_input: Callable
    targets: Any
    batch_size: int
    shard_size: int
    indices: Sequence[int] | None
    workers: int
    about: Mapping[str, Any]
    same_devices: bool
    class_names: Sequence[str] = ()


def made_by() -> dict[str, Any]:
    """The devices of this process, and the versions that its programs depend on."""
    devices = jax.local_devices()
    return {
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "jaxplain": jaxplain.__version__,
    }


class Opened:
    """A job on this process: its programs, settings and folder.

    Attributes:
        settings: all that the maps depend on, besides devices and versions.

    Raises:
        ValueError: an argument is wrong.
    """

    def __init__(self, job: Job):
        self.job = job
        self.made_by = made_by()
        devices = jax.local_devices()
        if job.batch_size < 1 or job.batch_size % len(devices):
            raise ValueError(
                f"batch_size must be a positive multiple of the {len(devices)} local devices, not "
                f"{job.batch_size}."
            )
        if job.shard_size < 1:
            raise ValueError(f"shard_size must be a positive int, not {job.shard_size}.")
        if not job.methods:
            raise ValueError("methods is empty; name at least one explainer.")
        self.goal = Goal(job.targets)
        self.source = data.as_source(job.source)
        count = len(self.source)
        chosen = chosen_records(job.indices, count)
        self.ranges = Ranges(chosen, job.shard_size)
        self.folder: Folder = folder_at(job.output)
        self.programs = Programs(
            job.fn,
            job.methods,
            job.to_input,
            self.goal.classes,
            self.goal.signals,
            job.batch_size,
            devices,
        )
        self._first, pixels, self._program, weights = self._look()
        # As they come back from a file.
        self.settings: dict[str, Any] = json.loads(
            json.dumps(
                {
                    **job.about,
                    "methods": list(job.methods),
                    "source": self.source.name,
                    "records of the source": count,
                    "records": len(chosen),
                    "indices": describe_records(chosen),
                    "targets": self.goal.describe(),
                    "batch_size": job.batch_size,
                    "shard_size": job.shard_size,
                    "x64": jax.config.jax_enable_x64,
                    "stamps": stamps(self.source, chosen),
                    "pixels": pixels,
                    "weights": weights,
                }
            )
        )
        self.digest = digest_of(self.settings)

    def _look(self) -> tuple[str, str | None, str | None, str | None]:
        """Id and pixels of the first record that can be read; its program, and the weights."""
        for index in self.ranges.chosen[:_TRIED]:
            try:
                record = self.source[int(index)]
                pixels = self.job.prepare(record)
                width = self.goal.width(self.goal.of(record))
            except data.UnreadableRecordError:
                continue
            shape: tuple[int, int] = (pixels.shape[0], pixels.shape[1])
            return record.id, digest(pixels), *self.programs.digests(shape, width)
        return "", None, None, None

    def begin(self) -> None:
        """Makes the folder, or makes sure that it was begun by the same job.

        Raises:
            ValueError: it was begun by another.
            OSError: it cannot be made or written in.
        """
        found = read_settings(self.folder)
        if found is None:
            try:
                self.folder.make()
                about = {"settings": self.settings, "begun": self.made_by, "program": self._program}
                about["class_names"] = list(self.job.class_names)
                found = write_settings(self.folder, about)
            except OSError as error:
                reason = error.strerror or str(error)
                stopped = OSError(f"Cannot write maps in {self.folder}: {reason}.")
                stopped.errno = error.errno
                raise stopped from error
        self._compare(found)

    def _compare(self, found: Mapping[str, Any]) -> None:
        begun = found["settings"]
        versions = [n for n in self.made_by if n != "devices"]
        same_versions = all(found["begun"].get(n) == self.made_by[n] for n in versions)
        kinds = {"stamps": "records", "pixels": "pixels", "weights": "network"}
        for name in dict.fromkeys([*begun, *self.settings]):
            before, now = begun.get(name), self.settings.get(name)
            if before == now:
                continue
            if name in kinds:
                raise self._other(kinds[name])
            raise ValueError(
                f"The maps in {self.folder} were begun with {name} = {json.dumps(before)}, not "
                f"{json.dumps(now)}; go on with the same, or name another folder."
            )
        if same_versions and found.get("program") != self._program:
            raise self._other("network")
        if self.job.same_devices:
            self.check_maker(found["begun"])

    def _other(self, what: str) -> ValueError:
        text = _CHANGED[what].format(source=self.source.name, first=self._first)
        return ValueError(
            f"The maps in {self.folder} were begun {text}, or name another folder for the maps."
        )

    def check_maker(self, maker: Mapping[str, Any]) -> None:
        """An error where all shards are to be made by the same devices, and one was not."""
        for name, now in self.made_by.items():
            if self.job.same_devices and maker.get(name) != now:
                raise ValueError(
                    f"Maps in {self.folder} were made with {name} = {json.dumps(maker.get(name))}, "
                    f"not {json.dumps(now)}, and the same devices and versions are insisted on."
                )
