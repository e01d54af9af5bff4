"""ImageNet (ILSVRC 2012) with its boxes, and folders of images that are laid out like it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from jaxplain.data.files import read_xml, xml_objects
from jaxplain.data.images import image_files, record_image
from jaxplain.data.record import Record, UnreadableRecordError

__all__ = ["ImageNet"]

_WORDNET = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")


class ImageNet:
    """Images of ImageNet with their label, and the boxes of its dominant objects where there are
    any.

    An image's class is the WordNet id of its folder (``train/n01440764/...``), else the one its
    file's name begins with, else, for files ``ILSVRC2012_val_...``, the published label. Boxes are
    read from XML files of the same name; their corners are taken as 0-based, last pixel included,
    so that ``xmax = width - 1`` reaches the border. Without a box the record has one object and
    ``boxes=None``.

    Args:
        folder: the images, directly or in one folder per class; or a folder that holds
            ``Data/CLS-LOC`` and ``Annotations/CLS-LOC``, as ImageNet is distributed.
        split: a folder below that, such as ``val``; None for ``folder`` itself.
        annotations: the folder of the XML files; None looks at ``Annotations/CLS-LOC/SPLIT`` of
            ``folder``.

    Raises:
        FileNotFoundError: a folder is missing or holds no image.
    """

    name = "ImageNet"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str | None = None,
        annotations: str | os.PathLike[str] | None = None,
    ):
        from jaxplain.models import imagenet  # here, for the networks' room brings Flax with it

        self._published = imagenet.validation_labels()
        self.wordnet_ids = imagenet.wordnet_ids()
        self.class_names = imagenet.class_names()
        self._labels = {wordnet: i for i, wordnet in enumerate(self.wordnet_ids)}
        folder = Path(folder).expanduser()
        split = split or ""
        images = folder / "Data" / "CLS-LOC"
        images = (images if images.is_dir() else folder) / split
        self.files = image_files(images, below=True)
        if annotations is None:
            annotations = folder / "Annotations" / "CLS-LOC" / split
        elif not Path(annotations).expanduser().is_dir():
            raise FileNotFoundError(f"There is no folder {annotations}.")
        folder = Path(annotations).expanduser()
        self._xml = {f.stem: f for f in folder.rglob("*.xml")} if folder.is_dir() else {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        file = self.files[index]
        record = file.stem
        label = self._label(file)
        boxes = None
        if record in self._xml:
            found = xml_objects(read_xml(self._xml[record], record), record)
            inclusive = np.asarray([box for _, box, _ in found], np.float32).reshape(-1, 4)
            boxes = inclusive + np.array([0, 0, 1, 1], np.float32)
        if boxes is None or not len(boxes):
            return Record.make(record_image(file, record), record, [label])
        return Record.make(record_image(file, record), record, [label] * len(boxes), boxes)

    def _label(self, file: Path) -> int:
        for name in (file.parent.name, file.stem):
            found = _WORDNET.match(name)
            if found and found[0] in self._labels:
                return self._labels[found[0]]
        number = _VALIDATION.fullmatch(file.stem)
        if number and 1 <= int(number[1]) <= len(self._published):
            return int(self._published[int(number[1]) - 1])
        raise UnreadableRecordError(
            file.stem, f"neither the folder nor the name of {file} tells the class (n01440764 ...)"
        )
