"""Reads zip archives: the members that lie in them as they are, and deflated ones.

Python's own reader holds whatever a file's directory claims, and starts decoders that take
gigabytes. Here the directory, and what is inflated, are bounded.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from jaxplain.weights_convert.errors import CheckpointError, UnsafeCheckpointError

_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1
_LARGEST_DIRECTORY = 8 << 20  # bytes: room for a hundred thousand members
# Compressed members may hold so many times the size of the whole file, together. Trained weights
# hardly compress; a bomb comes to a thousand times.
_INFLATION_LIMIT = 64
_INFLATED = 256 << 20  # bytes that they may hold; beyond, 4 times the size of the file
_LATE = 0xFFFFFFFF  # a number that stands in the extra field of 64 bits


@dataclasses.dataclass(frozen=True, slots=True)
class _Member:
    method: int
    flags: int
    packed: int  # bytes in the archive
    size: int  # bytes when unpacked
    begin: int  # of its header
    crc: int


class Archive:
    """A zip file. Members that are not compressed are views of it.

    Args:
        data: the bytes of the file, see `file.mapped`.

    Raises:
        CheckpointError: it has no intact directory, or a larger one than any file of weights.
        UnsafeCheckpointError: a member's name would leave the folder it is unpacked in.
    """

    def __init__(self, data: np.ndarray):
        self._data = data
        self._members: dict[str, _Member] = {}
        try:
            for name, member in self._directory():
                if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
                    raise UnsafeCheckpointError(f"its archive holds a file named {name!r:.80}")
                if name in self._members:
                    raise CheckpointError(f"its archive holds {name!r:.80} twice")
                self._members[name] = member
        except (struct.error, UnicodeDecodeError, IndexError) as error:
            raise _no_directory() from error
        large = sum(m.size for m in self._members.values() if m.method != _STORED)
        limit = min(_INFLATION_LIMIT * data.size, _INFLATED + 4 * data.size)
        if large > limit:
            raise UnsafeCheckpointError(
                f"its archive of {data.size} bytes claims to hold {large}, which is "
                f"{large // max(data.size, 1)} times as much: at most {limit} are unpacked"
            )

    @property
    def names(self) -> list[str]:
        """The members, in the order of the directory."""
        return list(self._members)

    def offset(self, name: str) -> int:
        """Where the bytes of a member begin, which must not be compressed."""
        member = self._members[name]
        if member.method != _STORED or member.flags & _ENCRYPTED:
            raise CheckpointError(f"{name!r:.80} is compressed, which its writer never does")
        if member.packed != member.size:
            raise _cut_short()
        return self._begin(member)

    def stored(self, name: str) -> np.ndarray:
        """The bytes of a member that must not be compressed, as a view of the file."""
        begin = self.offset(name)
        return self._data[begin : begin + self._members[name].size]

    def contents(self, name: str) -> np.ndarray:
        """The bytes of a member: a view of the file where it is not compressed."""
        member = self._members[name]
        if member.method == _STORED:
            return self.stored(name)
        if member.method != _DEFLATED or member.flags & _ENCRYPTED:
            raise CheckpointError(
                f"its member {name!r:.80} is encrypted, or compressed but not deflated"
            )
        begin = self._begin(member)
        packed = memoryview(self._data)[begin : begin + member.packed]
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:  # never more than was declared
            content = inflater.decompress(packed, member.size + 1)
        except zlib.error as error:
            raise CheckpointError(f"its member {name!r:.80} is damaged") from error
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise CheckpointError(f"its member {name!r:.80} is damaged")
        return np.frombuffer(content, np.uint8)

    def _begin(self, member: _Member) -> int:
        header = self._data[member.begin : member.begin + 30].tobytes()
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise _cut_short()
        begin = member.begin + 30 + sum(struct.unpack("<HH", header[26:30]))
        if begin + member.packed > self._data.size:
            raise _cut_short()
        return begin

    def _directory(self) -> Iterator[tuple[str, _Member]]:
        count, size, begin = self._end()
        if size > _LARGEST_DIRECTORY or 46 * count > size:
            raise CheckpointError(f"its archive claims to hold {count} members, in {size} bytes")
        directory = self._data[begin : begin + size].tobytes()
        at = 0
        for _ in range(count):
            if directory[at : at + 4] != b"PK\x01\x02":
                raise _no_directory()
            flags, method = struct.unpack_from("<HH", directory, at + 8)
            crc, packed, full, of_name, of_extra, of_comment = struct.unpack_from(
                "<IIIHHH", directory, at + 16
            )
            (header,) = struct.unpack_from("<I", directory, at + 42)
            at += 46
            name = directory[at : at + of_name].decode("utf-8" if flags & 0x800 else "cp437")
            extra = directory[at + of_name : at + of_name + of_extra]
            full, packed, header = _large_numbers(extra, [full, packed, header])
            if max(full, packed, header) > self._data.size and (
                method == _STORED or max(packed, header) > self._data.size
            ):
                raise _cut_short()
            at += of_name + of_extra + of_comment
            yield name, _Member(method, flags, packed, full, header, crc)

    def _end(self) -> tuple[int, int, int]:
        """Number of members, size and place of the directory, from the record at the file's end."""
        tail = self._data[-(22 + 0xFFFF) :].tobytes()
        found = tail.rfind(b"PK\x05\x06")
        if found < 0:
            raise _no_directory()
        _, _, _, count, size, begin, _ = struct.unpack_from("<HHHHIIH", tail, found + 4)
        locator = tail[found - 20 : found] if found >= 20 else b""
        if locator[:4] == b"PK\x06\x07":
            (place,) = struct.unpack_from("<Q", locator, 8)
            record = self._data[place : place + 56].tobytes() if place < self._data.size else b""
            if record[:4] != b"PK\x06\x06":
                raise _no_directory()
            count, size, begin = struct.unpack_from("<QQQ", record, 32)
        if begin + size > self._data.size:
            raise _no_directory()
        return count, size, begin


def _large_numbers(extra: bytes, numbers: list[int]) -> list[int]:
    """Sizes and place of a member; those that need 64 bits stand in its extra field."""
    at = 0
    while _LATE in numbers and at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            for i, number in enumerate(numbers):
                if number == _LATE:
                    (numbers[i],) = struct.unpack_from("<Q", extra, at + 4)
                    at += 8
            return numbers
        at += 4 + size
    return numbers


def _cut_short() -> CheckpointError:
    return CheckpointError("is cut short or damaged")


def _no_directory() -> CheckpointError:
    return CheckpointError("is cut short or damaged: its zip directory is missing")
