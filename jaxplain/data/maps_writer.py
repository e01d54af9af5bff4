"""Writing maps so that nothing is ever half there, whenever the process is stopped.

A file is written under a temporary name, forced to the disk and then renamed; a shard counts once
the manifest names it, and the manifest is replaced only after the shard is safe.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxplain.data.maps import FORMAT, Explanation, array_record, encode, read_manifests

__all__ = ["MapsWriter"]


class MapsWriter:
    """One process's part of a folder of maps.

    Args:
        folder: is made if need be.
        settings: everything that the maps depend on and that can be written down; JSON values.
            Other ones than the folder was begun with are an error.
        process: (k, n), this process and how many there are.

    Raises:
        ValueError: the folder was begun with other settings.
        OSError: the folder cannot be made or written in.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], process: tuple[int, int]):
        self.folder = folder
        self._module = array_record()
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings))  # as they come back from a file
        for manifest in read_manifests(folder):
            _compare(folder, manifest["settings"], settings)
        part = f"{process[0]:05d}-of-{process[1]:05d}"
        self._shard_name = f"maps-{part}"
        self._file = folder / f"manifest-{part}.json"
        if self._file.is_file():
            self.manifest = json.loads(self._file.read_text("utf-8"))
        else:
            self.manifest = {
                "format": FORMAT,
                "settings": settings,
                "process": process[0],
                "check": None,
                "shards": [],
                "failures": [],
                "next": 0,
                "waiting": [],
                "complete": False,
            }
        for left in folder.glob(f"*-{part}*.tmp"):  # by a process that was killed
            left.unlink(missing_ok=True)
        self._shard: Any = None
        self._listed: dict[str, list] = {"indices": [], "ids": []}

    @property
    def records(self) -> int:
        """How many records are in finished shards."""
        return sum(shard["records"] for shard in self.manifest["shards"])

    def add(self, one: Explanation) -> None:
        """Writes an explanation to the shard that is open."""
        with self._errors():
            if self._shard is None:
                self._shard = self._module.ArrayRecordWriter(
                    str(self._temporary(self._next_shard())), "group_size:1,zstd:1"
                )
            self._shard.write(encode(one))
        self._listed["indices"].append(one.index)
        self._listed["ids"].append(one.id)

    def finish(self, **state: Any) -> None:
        """Makes the open shard, if there is one, part of the folder, together with ``state``:
        items of the manifest that say what was reached."""
        shards = self.manifest["shards"]
        with self._errors():
            if self._shard is not None:
                self._shard.write(json.dumps(self._listed).encode())
                self._shard.close()
                file = self._next_shard()
                self._replace(file)
                shards = [*shards, {"file": file.name, "records": len(self._listed["ids"])}]
            manifest = {**self.manifest, "shards": shards, **state}
            text = json.dumps(manifest, indent=1, allow_nan=False)
            self._temporary(self._file).write_text(text + "\n", "utf-8")
            self._replace(self._file)
        self.manifest, self._shard = manifest, None
        self._listed = {"indices": [], "ids": []}

    def discard(self) -> None:
        """Gives up the open shard."""
        if self._shard is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._shard.close()
            self._shard = None
        for file in (self._next_shard(), self._file):
            with contextlib.suppress(OSError):
                self._temporary(file).unlink(missing_ok=True)

    def _next_shard(self) -> Path:
        number = len(self.manifest["shards"])
        return self.folder / f"{self._shard_name}-{number:05d}.array_record"

    def _temporary(self, file: Path) -> Path:
        # The number keeps two runs by mistake at a time from writing to one file.
        return file.with_name(f"{file.name}.{os.getpid()}.tmp")

    def _replace(self, file: Path) -> None:
        temporary = self._temporary(file)
        _sync(temporary)
        os.replace(temporary, file)
        if os.name == "posix":  # the new name is safe when its folder is
            _sync(self.folder)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: of array-record
            reason = getattr(error, "strerror", None) or str(error)
            stopped = OSError(
                f"Cannot write maps in {self.folder}: {reason}. What was finished before is "
                "intact; put this right and run again to go on from there."
            )
            stopped.errno = getattr(error, "errno", None)
            raise stopped from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _compare(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*begun, *now]):
        if begun.get(name) != now.get(name):
            raise ValueError(
                f"The maps in {folder} were begun with {name} = {json.dumps(begun.get(name))}, not "
                f"{json.dumps(now.get(name))}; go on with the same, or name another folder."
            )
