"""Maps on disk: what `jaxplain.explain_dataset` writes, and a reader of it.

A folder holds, for each process k of the n that made it, ``manifest-k-of-n.json`` and shards
``maps-k-of-n-00000.array_record`` ... The manifest says with what the maps were made, which shards
are finished, and where to go on; a shard that it does not name does not count. A shard's last
record lists the ids and indices of those before it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from jaxplain.core.extras import missing

__all__ = ["Explanation", "Maps", "open_maps"]

FORMAT = "jaxplain maps 1"


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of one record.

    Attributes:
        id, index: the record's id, and its number in the source.
        size: (height, width) of the original image.
        input_size: (height, width) of the pixels that were explained, which cover the whole image.
        targets: int32, what was explained: the top class ``()``; or ``(K,)``, the fixed classes, or
            the record's own labels.
        maps: method -> float32 ``(h, w)``, or ``(K, h, w)`` with K targets, at the resolution that
            the method has.
    """

    id: str
    index: int
    size: tuple[int, int]
    input_size: tuple[int, int]
    targets: np.ndarray
    maps: Mapping[str, np.ndarray] = dataclasses.field(repr=False)


def encode(one: Explanation) -> bytes:
    """A line of JSON with names and shapes, then the numbers: int32 targets, float32 maps."""
    header = {
        "id": one.id,
        "index": one.index,
        "size": one.size,
        "input_size": one.input_size,
        "targets": one.targets.shape,
        "maps": {name: m.shape for name, m in one.maps.items()},
    }
    arrays = [one.targets.astype("<i4"), *(m.astype("<f4") for m in one.maps.values())]
    return b"".join([json.dumps(header).encode(), b"\n", *(a.tobytes() for a in arrays)])


def decode(data: bytes) -> Explanation:
    """The inverse of ``encode``.

    >>> import numpy as np
    >>> one = Explanation("a", 0, (9, 8), (6, 5), np.int32(3), {"CAM": np.ones((2, 2), "f4")})
    >>> decode(encode(one))
    Explanation(id='a', index=0, size=(9, 8), input_size=(6, 5), targets=array(3, dtype=int32))
    """
    at = data.index(b"\n") + 1
    header = json.loads(data[:at])

    def take(shape: Sequence[int], dtype: str) -> np.ndarray:
        nonlocal at
        count = math.prod(shape)
        found = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += found.nbytes
        return found

    targets = take(header["targets"], "<i4")
    maps = {name: take(shape, "<f4") for name, shape in header["maps"].items()}
    return Explanation(
        header["id"],
        header["index"],
        tuple(header["size"]),
        tuple(header["input_size"]),
        targets,
        maps,
    )


def array_record() -> Any:
    """The module that reads and writes shards.

    Raises:
        ImportError: array-record is not installed.
    """
    try:
        module = importlib.import_module("array_record.python.array_record_module")
    except ImportError as error:
        raise missing("data", "array-record", "A store of maps") from error
    return module


def read_manifests(folder: Path) -> list[dict[str, Any]]:
    """The manifests of a folder, in the order of the processes.

    Raises:
        ValueError: one of them is not of this form.
    """
    found = []
    for file in sorted(folder.glob("manifest-*-of-*.json")):
        unknown = f"{file} is not a manifest of maps that this version knows."
        try:
            manifest = json.loads(file.read_text("utf-8"))
            if manifest["format"] != FORMAT:
                raise ValueError(unknown)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(unknown) from error
        found.append(manifest)
    return found


class Maps(Sequence[Explanation]):
    """The explanations in a folder, in the order of the source; made by ``open_maps``.

    ``maps[i]`` is the i-th that there is, ``maps[i:j]`` a list, ``maps["id"]`` the one of a record.
    What is read lies in memory only as long as it is held.

    Attributes:
        settings: what the maps were made with.
        failures: (id, reason) of records that have no maps.
        complete: whether the run that makes them has come to its end, on all processes.
    """

    def __init__(self, folder: Path, manifests: Sequence[Mapping[str, Any]]):
        self.settings: Mapping[str, Any] = manifests[0]["settings"]
        self.complete = len(manifests) == self.settings["processes"] and all(
            m["complete"] for m in manifests
        )
        failures = sorted(tuple(f) for m in manifests for f in m["failures"])
        self.failures = tuple((name, reason) for _, name, reason in failures)
        places = []  # (index in the source, id, file, position in it)
        for shard in (s for m in manifests for s in m["shards"]):
            file = folder / shard["file"]
            (footer,) = _read(file, [shard["records"]])
            listed = json.loads(footer)
            rows = zip(listed["indices"], listed["ids"], strict=True)
            places += [(index, name, file, i) for i, (index, name) in enumerate(rows)]
        self._places = sorted(places, key=lambda place: place[0])
        self.ids = tuple(name for _, name, _, _ in self._places)
        self._positions: dict[str, list[int]] = {}
        for position, name in enumerate(self.ids):
            self._positions.setdefault(name, []).append(position)

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
        _, _, file, position = self._places[which]
        return decode(_read(file, [position])[0])


def _read(file: Path, positions: list[int]) -> list[bytes]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}, which the manifest names.")
    try:
        reader = array_record().ArrayRecordReader(str(file), "readahead_buffer_size:0")
        try:
            return reader.read(positions)
        finally:
            reader.close()
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def open_maps(folder: str | os.PathLike[str]) -> Maps:
    """The maps in a folder that `jaxplain.explain_dataset` filled, or is filling.

    Raises:
        FileNotFoundError: no such folder, no manifest in it, or a shard is missing.
        ValueError: a file cannot be read, or the folder mixes maps of different settings.
        ImportError: array-record is not installed.

    Example:
        >>> from jaxplain.data import open_maps
        >>> open_maps("nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: There is no manifest of maps in nowhere.
    """
    manifests = read_manifests(Path(folder))
    if not manifests:
        raise FileNotFoundError(f"There is no manifest of maps in {folder}.")
    if any(m["settings"] != manifests[0]["settings"] for m in manifests):
        raise ValueError(f"The processes that wrote {folder} had different settings.")
    return Maps(Path(folder), manifests)
