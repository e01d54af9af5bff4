"""Maps on disk: what `jaxplain.explain_dataset` writes, and a reader of it.

A folder holds ``settings.json``, which says with what the maps were made, and shards
``maps-k-of-n.array_record``, each with the maps of a fixed range of records (see `shards`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from jaxplain.core.places import Folder, folder_at
from jaxplain.data import shards
from jaxplain.data.explanation import Explanation, decode

__all__ = ["Maps", "open_maps"]


class Maps(Sequence[Explanation]):
    """The explanations in a folder, in the order of the source; made by ``open_maps``.

    ``maps[i]`` is the i-th that there is, ``maps[i:j]`` a list, ``maps["id"]`` the one of a record.
    What is read lies in memory only as long as it is held.

    Attributes:
        settings: what the maps were made with.
        class_names: the names of the network's classes; empty where they are not known.
        made_by: the devices and versions that made the shards, each kind once.
        failures: (id, reason) of records that have no maps.
        ids, indices: of the records that have maps, in this order.
        complete: whether all records have maps, or are among the failures.
    """

    def __init__(
        self, folder: Folder, settings: Mapping[str, Any], class_names: Sequence[str] = ()
    ):
        self._folder, self.settings, self.class_names = folder, settings, tuple(class_names)
        names = folder.names("maps-*-of-*.array_record")
        count = -(-settings["records"] // settings["shard_size"])
        self.complete = len(names) == count and names == [
            shards.shard_name(k, count) for k in range(count)
        ]
        own = shards.digest_of(settings)
        failures, places, makers = [], [], []
        for name in names:
            with folder.reading(name) as path:
                footer = shards.read_footer(path)
            if footer["settings"] != own:
                raise ValueError(f"{name} in {folder} was made with other settings.")
            failures += [tuple(failure) for failure in footer["failures"]]
            rows = zip(footer["indices"], footer["ids"], strict=True)
            places += [(index, key, name, i) for i, (index, key) in enumerate(rows)]
            if footer["made_by"] not in makers:
                makers.append(footer["made_by"])
        self.made_by: tuple[Mapping[str, Any], ...] = tuple(makers)
        self.failures = tuple((key, reason) for _, key, reason in sorted(failures))
        # (index in the source, id, shard, position in it)
        self._places = sorted(places, key=lambda place: place[0])
        self.ids = tuple(key for _, key, _, _ in self._places)
        self.indices = tuple(index for index, _, _, _ in self._places)
        self._positions: dict[str, list[int]] = {}
        for position, key in enumerate(self.ids):
            self._positions.setdefault(key, []).append(position)
        # A shard elsewhere is fetched as a whole, and kept for those after it.
        self._held: tuple[str, contextlib.ExitStack, Path] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, which: int | str) -> Explanation: ...

    @overload
    def __getitem__(self, which: slice) -> list[Explanation]: ...

    def __getitem__(self, which: int | str | slice) -> Explanation | list[Explanation]:
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(self)))]
        if isinstance(which, str):
            positions = self._positions.get(which, [])
            if len(positions) != 1:
                raise KeyError(
                    f"{len(positions)} records have the id {which!r}"
                    + ("; take one by its number" if positions else "")
                )
            which = positions[0]
        _, _, name, position = self._places[which]
        return decode(shards.read_records(self._local(name), [position])[0])

    def _local(self, name: str) -> Path:
        if self._held is None or self._held[0] != name:
            self.close()
            stack = contextlib.ExitStack()
            self._held = name, stack, stack.enter_context(self._folder.reading(name))
        return self._held[2]

    def close(self) -> None:
        """Removes the copy of a shard that was fetched from elsewhere."""
        held, self._held = self._held, None
        if held is not None:
            held[1].close()


def open_maps(folder: str | os.PathLike[str]) -> Maps:
    """The maps in a folder that `jaxplain.explain_dataset` filled, or is filling.

    Args:
        folder: a path, or an address such as ``gs://bucket/maps``.

    Raises:
        FileNotFoundError: no such folder, or no maps in it.
        ValueError: a file cannot be read, or the folder mixes maps of different settings.
        ImportError: array-record, or what an address needs, is not installed.

    Example:
        >>> from jaxplain.data import open_maps
        >>> open_maps("nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: There are no maps in nowhere: it has no settings.json.
    """
    place = folder_at(folder)
    found = shards.read_settings(place)
    if found is None:
        raise FileNotFoundError(f"There are no maps in {folder}: it has no {shards.SETTINGS}.")
    return Maps(place, found["settings"], found.get("class_names", ()))
