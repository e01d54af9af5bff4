"""Shards of maps: files that are there whole, and say so, or are not there.

A shard holds the explanations of a fixed range of records. Its last record, the footer, lists
their ids and indices, the records that have none, what made it, and the SHA-256 of the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxplain.core.extras import missing
from jaxplain.core.places import Folder
from jaxplain.data.explanation import Explanation, encode

FORMAT = "jaxplain maps 2"
SETTINGS = "settings.json"


def shard_name(number: int, count: int) -> str:
    """The file of a shard.

    >>> shard_name(3, 20)
    'maps-000003-of-000020.array_record'
    """
    return f"maps-{number:06d}-of-{count:06d}.array_record"


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


class ShardWriter:
    """Writes one shard; `finish` puts it in place, `discard` gives it up.

    Raises:
        OSError: the folder cannot be written in. Nothing half-written remains.
    """

    def __init__(self, folder: Folder, name: str):
        self.folder, self.name = folder, name
        self._open = contextlib.ExitStack()
        self._digest = hashlib.sha256()
        self._listed: dict[str, list] = {"indices": [], "ids": []}
        with self._errors():
            path = self._open.enter_context(folder.writing(name))
            self._writer = array_record().ArrayRecordWriter(str(path), "group_size:1,zstd:1")

    def add(self, one: Explanation) -> None:
        """Writes an explanation."""
        data = encode(one)
        self._digest.update(data)
        with self._errors():
            self._writer.write(data)
        self._listed["indices"].append(one.index)
        self._listed["ids"].append(one.id)

    def finish(self, **about: Any) -> dict[str, Any]:
        """Puts the shard in place with a footer that says ``about`` it; gives the footer back."""
        footer = {"format": FORMAT, **about, **self._listed, "sha256": self._digest.hexdigest()}
        with self._errors():
            self._writer.write(json.dumps(footer, allow_nan=False).encode())
            self._writer.close()
            self._open.close()  # synced and renamed, or uploaded
        return footer

    def discard(self) -> None:
        """Gives up what was written, after an error or before the end."""
        with contextlib.suppress(RuntimeError, OSError):
            self._writer.close()
        with contextlib.suppress(_Discarded), self._open:
            raise _Discarded

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


class _Discarded(Exception):
    pass


def read_records(path: Path, positions: list[int]) -> list[bytes]:
    """Records of a shard on this machine.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        reader = array_record().ArrayRecordReader(str(path), "readahead_buffer_size:0")
        try:
            return reader.read(positions)
        finally:
            reader.close()
    except (RuntimeError, IndexError, ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_footer(path: Path, *, check: bool = False) -> dict[str, Any]:
    """The footer of a shard on this machine; ``check`` reads all of it and compares the checksum.

    Raises:
        ValueError: it is not whole.
    """
    try:
        reader = array_record().ArrayRecordReader(str(path), "readahead_buffer_size:0")
        try:
            count = reader.num_records()
            (last,) = reader.read([count - 1]) if count else (b"",)
            footer = json.loads(last)
            if not _is_footer(footer, count - 1):
                raise ValueError("its last record is no footer")
            if check:
                digest = hashlib.sha256()
                for begin in range(0, count - 1, 64):
                    for record in reader.read(list(range(begin, min(begin + 64, count - 1)))):
                        digest.update(record)
                if digest.hexdigest() != footer["sha256"]:
                    raise ValueError("its checksum is another")
        finally:
            reader.close()
    # What array-record, JSON and a footer of another form come to.
    except (
        RuntimeError,
        IndexError,
        ValueError,
        KeyError,
        TypeError,
        OSError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return footer


def _is_footer(footer: Any, count: int) -> bool:
    """Whether it has the form of a footer behind so many explanations."""
    return (
        footer["format"] == FORMAT
        and len(footer["ids"]) == len(footer["indices"]) == count
        and all(isinstance(key, str) for key in footer["ids"])
        and all(type(index) is int for index in footer["indices"])
        and all(list(map(type, failure)) == [int, str, str] for failure in footer["failures"])
        and isinstance(footer["made_by"], dict)
        and isinstance(footer["settings"], str)
    )


def finished(folder: Folder, name: str) -> dict[str, Any] | None:
    """The footer of a shard that is whole; None where it is damaged or missing."""
    try:
        with folder.reading(name) as path:
            return read_footer(path, check=True)
    except (ValueError, FileNotFoundError):
        return None


def digest_of(settings: Mapping[str, Any]) -> str:
    """Stands for settings in a footer."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def read_settings(folder: Folder) -> dict[str, Any] | None:
    """What ``settings.json`` of a folder says: ``settings``, and what ``begun`` it; None if none.

    Raises:
        ValueError: it is not of this form.
    """
    try:
        text = folder.read(SETTINGS)
    except FileNotFoundError:
        return None
    unknown = f"{SETTINGS} in {folder} is not of maps that this version knows."
    try:
        found = json.loads(text)
        settings = found["settings"]
        numbers = [settings[key] for key in ("records", "shard_size")]
        numbered = all(type(number) is int and number >= 0 for number in numbers)
        if found["format"] != FORMAT or not numbered or not numbers[1]:
            raise ValueError(unknown)
        names = found.get("class_names", [])  # absent from maps of earlier versions
        named = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not isinstance(found["begun"], dict) or not named:
            raise ValueError(unknown)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(unknown) from error
    return found


def write_settings(folder: Folder, about: Mapping[str, Any]) -> dict[str, Any]:
    """Says what the maps in a folder are made with, unless it is said already; gives what stands
    there."""
    content = json.dumps({"format": FORMAT, **about}, indent=1) + "\n"
    folder.write(SETTINGS, content.encode(), new=True)
    found = read_settings(folder)
    assert found is not None
    return found
