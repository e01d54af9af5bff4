"""Where humans looked: folders of fixation maps, or of lists of fixations, beside the images."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from jaxplain.data.files import open_regular, reason_of
from jaxplain.data.images import image_files, record_grey, record_image
from jaxplain.data.record import Record, UnreadableRecordError

__all__ = ["Fixations"]

_LISTS = (".csv", ".txt", ".npy")


class Fixations:
    """Images with human fixations, from two folders whose files have the same names.

    The fixations of ``a.jpg`` are either a grey picture ``a.png`` (or .jpg ...) of the image's
    size, which becomes ``Record.fixation_map`` with values 0 to 1; or a list ``a.csv``, ``a.txt``
    or ``a.npy`` with one line per fixation: column and row (0-based pixels), and optionally its
    duration, which becomes ``Record.fixations``. A csv file may have a line of headings.

    Args:
        images: the folder of the images.
        fixations: the folder of the maps or lists.

    Raises:
        FileNotFoundError: a folder is missing, or no image has a file of fixations.
    """

    name = "fixations"
    class_names: tuple[str, ...] = ()

    def __init__(self, images: str | os.PathLike[str], fixations: str | os.PathLike[str]):
        files = image_files(Path(images).expanduser())
        folder = Path(fixations).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
        found = {f.stem: f for f in sorted(folder.iterdir()) if f.is_file()}
        self.files = [(f, found[f.stem]) for f in files if f.stem in found]
        if not self.files:
            raise FileNotFoundError(f"No image of {images} has a file of its name in {folder}.")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        file, looked = self.files[index]
        record = file.stem
        image = record_image(file, record)
        if looked.suffix.lower() in _LISTS:
            return Record.make(image, record, fixations=_read_list(looked, record))
        look = record_grey(looked, record)
        if look.shape != image.shape[:2]:
            raise UnreadableRecordError(
                record, f"the map {looked} is {look.shape}, the image {image.shape[:2]}"
            )
        return Record.make(image, record, fixation_map=look)


def _read_list(file: Path, record: str) -> np.ndarray:
    try:
        with open_regular(file) as opened:
            content = opened.read()
        if file.suffix.lower() == ".npy":
            values = np.load(io.BytesIO(content), allow_pickle=False).astype(np.float32)
        else:
            text = content.decode("utf-8").replace(",", " ")
            lines = [line for line in text.splitlines() if line.strip()]
            if lines and not _is_number(lines[0].split()[0]):
                del lines[0]  # the headings
            values = np.array([line.split() for line in lines], np.float32).reshape(len(lines), -1)
    # NumPy raises errors of many kinds on files that are broken or not its own.
    except Exception as error:
        reason = f"cannot read the fixations {file}: {reason_of(error)}"
        raise UnreadableRecordError(record, reason) from error
    if not values.size:
        return np.zeros((0, 3), np.float32)
    if values.ndim != 2 or values.shape[1] not in (2, 3) or not np.isfinite(values).all():
        raise UnreadableRecordError(
            record, f"{file} must have rows of column, row and optionally duration, all finite"
        )
    if values.shape[1] == 2:
        values = np.concatenate([values, np.ones((len(values), 1), np.float32)], axis=1)
    return values[:, [1, 0, 2]]  # row, column, duration


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
