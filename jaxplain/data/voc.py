"""PASCAL VOC in the layout of its development kit."""

from __future__ import annotations

import os
from pathlib import Path

from jaxplain.data.files import read_lines, read_xml, xml_objects
from jaxplain.data.images import image_files, record_image
from jaxplain.data.record import Record, UnreadableRecordError, boxes_from_inclusive

__all__ = ["VOC_CLASSES", "VOC"]

#: The 20 classes, in the alphabetical order of the development kit and of TFDS.
VOC_CLASSES = tuple(
    [
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ]
)


class VOC:
    """PASCAL VOC images with boxes, from a folder ``VOC2007``, ``VOC2012`` ... of ``VOCdevkit``.

    Args:
        folder: holds ``JPEGImages`` and ``Annotations``; or ``VOCdevkit`` itself, if it has one
            year only.
        split: a list in ``ImageSets/Main``, such as ``test`` or ``val``; None for every image that
            has an annotation.

    Raises:
        FileNotFoundError: the folder or the list is missing.
        ValueError: ``VOCdevkit`` holds several years.
    """

    class_names = VOC_CLASSES

    def __init__(self, folder: str | os.PathLike[str], split: str | None = None):
        self.folder = _year(Path(folder).expanduser())
        self.name = self.folder.name
        annotations = self.folder / "Annotations"
        if split is None:
            stems = (file.stem for file in image_files(self.folder / "JPEGImages"))
            self.ids = [stem for stem in stems if (annotations / f"{stem}.xml").is_file()]
        else:
            lists = self.folder / "ImageSets" / "Main"
            self.ids = [line.split()[0] for line in read_lines(lists / f"{split}.txt")]
        if not self.ids:
            raise FileNotFoundError(f"No image of {self.folder} has an annotation.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        record = self.ids[index]
        root = read_xml(self.folder / "Annotations" / f"{record}.xml", record)
        objects = xml_objects(root, record)
        for name, _, _ in objects:
            if name not in VOC_CLASSES:
                raise UnreadableRecordError(record, f"{name!r} is not a class of PASCAL VOC")
        return Record.make(
            record_image(self.folder / "JPEGImages" / f"{record}.jpg", record),
            record,
            [VOC_CLASSES.index(name) for name, _, _ in objects],
            boxes_from_inclusive([box for _, box, _ in objects]),
            difficult=[difficult for _, _, difficult in objects],
        )


def _year(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if (folder / "JPEGImages").is_dir():
        return folder
    years = sorted(f for f in folder.glob("VOC*") if (f / "JPEGImages").is_dir())
    if len(years) > 1:
        raise ValueError(f"{folder} holds {', '.join(f.name for f in years)}; name one of them.")
    if not years:
        raise FileNotFoundError(f"{folder} has neither JPEGImages nor a folder VOC... that has.")
    return years[0]
