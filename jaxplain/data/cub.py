"""CUB-200-2011: birds, each image with a class, a box and, if they were fetched, a segmentation."""

from __future__ import annotations

import os
from pathlib import Path

from jaxplain.data.files import read_lines
from jaxplain.data.images import record_grey, record_image
from jaxplain.data.record import Record, boxes_from_sizes

__all__ = ["CUB200"]


class CUB200:
    """Caltech-UCSD Birds 200-2011 from its folder ``CUB_200_2011``.

    Segmentations (a separate download) are read from ``segmentations`` in that folder if it is
    there; a pixel belongs to the bird where most annotators say so (a value above one half).

    Args:
        folder: holds ``images.txt``, ``image_class_labels.txt``, ``bounding_boxes.txt``,
            ``classes.txt``, ``train_test_split.txt`` and ``images``.
        split: ``train``, ``test``, or None for all images.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: unknown split, or a table does not have the form of CUB-200-2011.
    """

    name = "CUB-200-2011"

    def __init__(self, folder: str | os.PathLike[str], split: str | None = None):
        if split not in (None, "train", "test"):
            raise ValueError(f"CUB-200-2011 has the splits 'train' and 'test', not {split!r}.")
        self.folder = Path(folder).expanduser()
        try:
            files = self._table("images.txt")
            training = self._table("train_test_split.txt")
            labels = {k: int(v) - 1 for k, v in self._table("image_class_labels.txt").items()}
            boxes = self._table("bounding_boxes.txt")
            names = {int(k) - 1: v for k, v in self._table("classes.txt").items()}
            self.class_names = tuple(
                names[i].partition(".")[2].replace("_", " ") for i in range(len(names))
            )
            wanted = {None: ("0", "1"), "train": ("1",), "test": ("0",)}[split]
            self.entries = [
                (files[k], labels[k], [float(v) for v in boxes[k].split()])
                for k in sorted(files, key=int)
                if training[k] in wanted
            ]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"The tables in {self.folder} are not those of CUB-200-2011: {error}"
            ) from error
        self.segmentations = self.folder / "segmentations"
        if not self.segmentations.is_dir():
            self.segmentations = None

    def _table(self, name: str) -> dict[str, str]:
        rows = (line.partition(" ") for line in read_lines(self.folder / name))
        return {key: value for key, _, value in rows}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        file, label, box = self.entries[index]
        record = Path(file).stem
        masks = None
        if self.segmentations is not None:
            mask = record_grey((self.segmentations / file).with_suffix(".png"), record)
            masks = mask[None] > 0.5
        image = record_image(self.folder / "images" / file, record)
        return Record.make(image, record, [label], boxes_from_sizes([box]), masks)
