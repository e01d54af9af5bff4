"""A folder of photographs, without annotations."""

from __future__ import annotations

import os
from pathlib import Path

from jaxplain.data.images import IMAGE_SUFFIXES, read_image
from jaxplain.data.record import Record

__all__ = ["ImageFolder"]


class ImageFolder:
    """The images in a folder and the folders below it, sorted by path, without labels.

    A record's id is its path below the folder, such as ``2024/beach.jpg``. Photographs are turned
    upright.

    Args:
      folder: of the images.

    Raises:
      FileNotFoundError: there is no such folder, or no image in it.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"There is no folder {self.folder}.")
        self.name = self.folder.resolve().name
        files = (f for f in self.folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
        self.ids = sorted(f.relative_to(self.folder).as_posix() for f in files)
        if not self.ids:
            raise FileNotFoundError(f"The folder {self.folder} holds no image files.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        record = self.ids[index]
        return Record.make(read_image(self.folder / record, record, upright=True), record)
