"""What the readers share: mapping files, looking into archives, and errors that name the file."""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxplain.weights_convert.errors import CheckpointError, UnsafeCheckpointError

# Compressed members may hold this many times the size of the whole file, together. Trained
# weights hardly compress; a bomb comes to a thousand times.
_INFLATION_LIMIT = 64


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes a ``CheckpointError`` inside the block one sentence that begins with the file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        yield path
    except CheckpointError as error:
        message = str(error).rstrip(".")
        if not message.startswith("is "):
            message = f"cannot be read: {message}"
        raise type(error)(f"{path} {message}.") from error.__cause__


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file as a read-only array that takes no memory."""
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


class Archive:
    """A zip file. Members that are not compressed are views of it.

    Raises:
        CheckpointError: it has no intact directory.
        UnsafeCheckpointError: a member's name would leave the folder it is unpacked in.
    """

    def __init__(self, path: Path, data: np.ndarray):
        self._data = data
        self._path = path
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        # zipfile lets through whatever its parsing of a damaged directory stumbles over, and says
        # NotImplementedError of a version of the format that the damage makes up.
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            struct.error,
            NotImplementedError,
        ) as error:
            raise CheckpointError(
                "is cut short or damaged: its zip directory is missing"
            ) from error
        for member in members:
            name = member.orig_filename
            if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
                raise UnsafeCheckpointError(f"its archive holds a file named {name!r}")
            if name in self._members:
                raise CheckpointError(f"its archive holds {name!r} twice")
            self._members[name] = member
        large = sum(m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED)
        if large > _INFLATION_LIMIT * data.size:
            raise UnsafeCheckpointError(
                f"its archive of {data.size} bytes claims to hold {large}, more than "
                f"{_INFLATION_LIMIT} times as much"
            )

    @property
    def names(self) -> list[str]:
        """The members, in the order of the directory."""
        return list(self._members)

    def offset(self, name: str) -> int:
        """Where the bytes of a member begin, which must not be compressed."""
        member = self._members[name]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise CheckpointError(f"{name!r} is compressed, which its writer never does")
        at = member.header_offset
        header = bytes(self._data[at : at + 30]) if at >= 0 else b""
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise CheckpointError("is cut short or damaged")
        name_size, extra_size = struct.unpack("<HH", header[26:30])
        begin = at + 30 + name_size + extra_size
        if begin + member.file_size > self._data.size:
            raise CheckpointError("is cut short or damaged")
        return begin

    def stored(self, name: str) -> np.ndarray:
        """The bytes of a member that must not be compressed, as a view of the file."""
        begin = self.offset(name)
        return self._data[begin : begin + self._members[name].file_size]

    def contents(self, name: str) -> np.ndarray:
        """The bytes of a member: a view of the file where it is not compressed."""
        member = self._members[name]
        if member.compress_type == zipfile.ZIP_STORED:
            return self.stored(name)
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(member) as stream:
                content = stream.read(member.file_size)  # never more than was declared
        # Besides zipfile's own: NotImplementedError of a compression that it does not know,
        # RuntimeError of an encrypted member.
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            struct.error,
            zlib.error,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise CheckpointError(f"its member {name!r} is damaged") from error
        if len(content) != member.file_size:
            raise CheckpointError("is cut short or damaged")
        return np.frombuffer(content, np.uint8)
