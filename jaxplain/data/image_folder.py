"""A folder of photographs, without annotations: on this machine, or in a bucket."""

from __future__ import annotations

import os
from pathlib import Path

from jaxplain.core.addresses import is_address
from jaxplain.core.places import RemoteFolder
from jaxplain.data.images import decode_image, has_image_name, image_files, record_image
from jaxplain.data.record import Record, UnreadableRecordError, printable

__all__ = ["ImageFolder"]


class ImageFolder:
    """The images in a folder and the folders below it, sorted by path, without labels.

    A record's id is its path below the folder, such as ``2024/beach.jpg``, with escapes for bytes
    that are no UTF-8. Photographs are turned upright.

    Args:
        folder: of the images: a path, or an address such as ``gs://bucket/images`` of fsspec.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ImportError: what an address needs is not installed.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, folder: str | os.PathLike[str]):
        if is_address(folder):
            remote = RemoteFolder(os.fspath(folder))
            self._remote: RemoteFolder | None = remote
            self._about = {
                name: about
                for name, about in remote.below().items()
                if has_image_name(Path(name)) and name
            }
            if not self._about:
                raise FileNotFoundError(f"The folder {folder} holds no image files.")
            names = sorted(self._about)
            self.name = remote.address.rpartition("/")[2]
            self.files: list = names
        else:
            self._remote = None
            self.folder = Path(folder).expanduser()
            self.name = printable(self.folder.resolve().name)
            files = image_files(self.folder, below=True)
            names = sorted(file.relative_to(self.folder).as_posix() for file in files)
            self.files = [self.folder / name for name in names]
        self.ids = [printable(name) for name in names]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        record = self.ids[index]
        if self._remote is None:
            return Record.make(record_image(self.files[index], record, upright=True), record)
        try:
            content = self._remote.read(self.files[index])
        except FileNotFoundError as error:
            raise UnreadableRecordError(record, "there is no such file any more") from error
        return Record.make(decode_image(content, record), record)

    def stamp(self, index: int) -> str:
        """The id of a record, with the size and time of its file."""
        if self._remote is not None:
            return f"{self.ids[index]} {self._about[self.files[index]]}"
        try:
            status = os.stat(self.files[index])
        except OSError:
            return f"{self.ids[index]} cannot be found"
        return f"{self.ids[index]} {status.st_size} {status.st_mtime_ns}"
