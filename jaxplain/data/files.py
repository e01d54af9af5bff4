"""Files of data sets, opened with care, and the small text files among them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from jaxplain.data.record import UnreadableRecordError, printable

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading, and nothing but a file: a pipe or a device may never answer.

    Raises:
        OSError: it is missing, may not be read, or is something else.
        ValueError: the path holds a null character.
    """
    _check_regular(os.stat(path))
    # What was a file a moment ago may be a pipe now; this way, opening that does not wait either.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_regular(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    if not isinstance(error, OSError | ValueError | SyntaxError | EOFError):
        text = f"{type(error).__name__}: {text}"  # the text alone says little
    return printable(" ".join(text.split()).rstrip(" .:")) or type(error).__name__


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without blanks at their ends.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with open_regular(path) as file:
        try:
            text = file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_xml(path: Path, record: str) -> ElementTree.Element:
    """The root of an annotation file."""
    try:
        with open_regular(path) as file:
            return ElementTree.parse(file).getroot()
    # ValueError, LookupError: of encodings that the parser does not know.
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise UnreadableRecordError(record, f"cannot read {path}: {reason_of(error)}") from error


def xml_corners(box: ElementTree.Element, record: str) -> list[float]:
    """[left, top, right, bottom] of a box, as in the file."""
    try:
        return [float(box.findtext(k) or "") for k in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError as error:
        raise UnreadableRecordError(record, f"a box is incomplete: {error}") from error


def xml_objects(root: ElementTree.Element, record: str) -> list[tuple[str, list[float], bool]]:
    """(name, [left, top, right, bottom], difficult) of each object with a box, as in the file."""
    found = []
    for part in root.iter("object"):
        box = part.find("bndbox")
        if box is None:
            continue
        difficult = (part.findtext("difficult") or "0").strip() == "1"
        name = (part.findtext("name") or "").strip()
        found.append((name, xml_corners(box, record), difficult))
    return found
