"""A folder of photographs, without annotations."""

from __future__ import annotations

import os
from pathlib import Path

from jaxplain.data.images import image_files, record_image
from jaxplain.data.record import Record, printable

__all__ = ["ImageFolder"]


class ImageFolder:
    """The images in a folder and the folders below it, sorted by path, without labels.

    A record's id is its path below the folder, such as ``2024/beach.jpg``, with escapes for bytes
    that are no UTF-8. Photographs are turned upright.

    Args:
        folder: of the images.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, folder: str | os.PathLike[str]):
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
        return Record.make(record_image(self.files[index], record, upright=True), record)
