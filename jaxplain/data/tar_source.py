"""Images in tar archives, as webdataset lays them out, read by ranges of their bytes."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxplain.core.addresses import is_address
from jaxplain.core.places import RemoteFolder
from jaxplain.data.adapting import as_source
from jaxplain.data.images import has_image_name
from jaxplain.data.record import Record, UnreadableRecordError, printable

__all__ = ["TarFiles"]

_LABELS = (".cls", ".label")
_LONGEST_LABEL = 64  # bytes


class TarFiles:
    """The images in tar archives; the files of a record have one name with several suffixes.

    ``00017.jpg`` and ``00017.cls`` (the number of its class, in ASCII) are the record
    ``ARCHIVE/00017``; other suffixes are left aside. The archives are read through once for their
    directories; then each image is read where it lies, in any order.

    Args:
        archives: paths or addresses of uncompressed tar files, in order; or one pattern such as
            ``train-*.tar``, sorted.
        class_names: what the labels number.
        name: of the data set; by default the folder of the archives.

    Raises:
        FileNotFoundError: no archive, or no image in them.
        ValueError: an archive is damaged or compressed.

    Example:
        >>> import pathlib, tarfile, tempfile
        >>> from PIL import Image
        >>> from jaxplain.data import TarFiles
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (6, 4)).save(folder / "00017.png")
        >>> with tarfile.open(folder / "a.tar", "w") as archive:
        ...     archive.add(folder / "00017.png", "00017.png")
        >>> source = TarFiles(folder / "*.tar")
        >>> source.ids, source[0].size
        (['a.tar/00017'], (4, 6))
    """

    def __init__(
        self,
        archives: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        class_names: Sequence[str] = (),
        name: str | None = None,
    ):
        if isinstance(archives, (str, os.PathLike)):
            found: list[str] = sorted(_matching(os.fspath(archives)))
            if not found:
                raise FileNotFoundError(f"There is no archive {os.fspath(archives)}.")
        else:
            found = [os.fspath(archive) for archive in archives]
        if not found:
            raise FileNotFoundError("No archive was named.")
        self.class_names = tuple(class_names)
        self.name = name or printable(Path(found[0]).parent.name)
        self.ids: list[str] = []
        # Of each record: the archive, and where in it the image and the label lie.
        self._places: list[tuple[str, tuple[int, int], tuple[int, int] | None]] = []
        for archive in found:
            self._list(archive)
        if not self.ids:
            raise FileNotFoundError(f"The archives {found[0]} ... hold no images.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        archive, image, label = self._places[index]
        record = self.ids[index]
        try:
            item: dict[str, Any] = {"id": record, "image": _range(archive, *image)}
            if label is not None:
                item["label"] = _range(archive, *label)
        except OSError as error:
            raise UnreadableRecordError(record, f"cannot read {archive}: {error}") from error
        return as_source([item])[0]

    def stamp(self, index: int) -> str:
        """The id of a record, and where its bytes lie."""
        archive, image, _ = self._places[index]
        return f"{self.ids[index]} {image}"

    def _list(self, archive: str) -> None:
        images: dict[str, tuple[int, int]] = {}
        labels: dict[str, tuple[int, int]] = {}
        try:
            with _open(archive) as file, tarfile.open(fileobj=file, mode="r:") as members:
                for member in members:
                    folder, _, file_name = member.name.rpartition("/")
                    stem, _, suffix = file_name.partition(".")
                    key, suffix = f"{folder}/{stem}".lstrip("/"), f".{suffix}"
                    place = member.offset_data, member.size
                    if not member.isreg() or member.issparse():
                        continue
                    if has_image_name(Path(file_name)):
                        images.setdefault(key, place)
                    elif suffix in _LABELS and member.size <= _LONGEST_LABEL:
                        labels[key] = place
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise ValueError(f"{archive} is no whole, uncompressed tar file: {error}") from error
        for key, place in images.items():
            self.ids.append(printable(f"{archive.rpartition('/')[2]}/{key}"))
            self._places.append((archive, place, labels.get(key)))


def _matching(pattern: str) -> list[str]:
    if not is_address(pattern):
        return glob.glob(str(Path(pattern).expanduser()))
    folder, _, name = pattern.rpartition("/")
    return [f"{folder}/{found}" for found in RemoteFolder(folder).names(name)]


def _open(archive: str) -> Any:
    if not is_address(archive):
        return Path(archive).open("rb")
    folder, _, name = archive.rpartition("/")
    return RemoteFolder(folder).open(name)


def _range(archive: str, begin: int, size: int) -> bytes:
    if is_address(archive):
        folder, _, name = archive.rpartition("/")
        return RemoteFolder(folder).read_range(name, begin, size)
    with Path(archive).open("rb") as file:
        file.seek(begin)
        return file.read(size)
