"""A data set from what a person writes on the command line: a TFDS name, or a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxplain.core.addresses import is_address
from jaxplain.data.coco import COCO
from jaxplain.data.cub import CUB200
from jaxplain.data.fixations import Fixations
from jaxplain.data.flickr30k import Flickr30kEntities
from jaxplain.data.image_folder import ImageFolder
from jaxplain.data.imagenet import ImageNet
from jaxplain.data.images import has_image_name
from jaxplain.data.record import Source
from jaxplain.data.tfds_source import TFDS, TFDS_NAMES
from jaxplain.data.voc import VOC

__all__ = ["open_source"]

#: The split that papers evaluate on.
_TFDS_SPLITS = {
    "voc/2007": "test",
    "voc/2012": "validation",
    "coco/2014": "validation",
    "coco/2017": "validation",
    "imagenet2012": "validation",
    "caltech_birds2011": "test",
}


def open_source(
    data: str | os.PathLike[str],
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """The data set that is meant by a name of TFDS, or by a folder (whose layout tells).

    - a name of ``TFDS_NAMES``, as ``voc/2007``;
    - ``VOCdevkit`` or ``VOCdevkit/VOC2007``; a folder with ``annotations/instances_*.json`` (COCO);
      ``CUB_200_2011``; a folder with ``Data/CLS-LOC`` (ImageNet) or with images, or folders of
      images, named ``n01440764...``; else a folder with images (``ImageFolder``);
    - an address such as ``gs://bucket/images``: a folder with images;
    - with ``images``: Flickr30k Entities (``Annotations`` and ``Sentences``), else a folder of
      fixations.

    Args:
        data: the name or folder.
        split: None for the split that papers evaluate on (TFDS), or what the reader of the folder
            takes.
        images: the folder of the images, where they are apart from the annotations.
        data_dir: of TFDS.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its layout is not known, or the data set has no splits.

    Example:
        >>> from jaxplain.data import open_source
        >>> open_source("voc/2006")
        Traceback (most recent call last):
        ...
        FileNotFoundError: There is no folder voc/2006, and no TFDS data set of that name: voc/2007,
          ...
    """
    text = os.fspath(data)
    if text.partition(":")[0] in TFDS_NAMES and images is None:
        return TFDS(text, split or _TFDS_SPLITS[text.partition(":")[0]], data_dir)
    if is_address(text):
        if images is not None or split is not None:
            raise ValueError(f"{text}: of an address, only a folder of images is read.")
        return ImageFolder(text)
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {text}, and no TFDS data set of that name: "
            f"{', '.join(TFDS_NAMES)}."
        )
    if images is not None:
        if (folder / "Sentences").is_dir():
            return Flickr30kEntities(folder, images, split)
        if split is not None:
            raise ValueError("A folder of fixations has no splits; leave split out.")
        return Fixations(images, folder)
    if (folder / "JPEGImages").is_dir() or any(folder.glob("VOC*/JPEGImages")):
        return VOC(folder, split)
    if any((folder / "annotations").glob("instances_*.json")):
        return COCO(folder, split)
    if (folder / "image_class_labels.txt").is_file():
        return CUB200(folder, split)
    inside = folder / (split or "")
    if (folder / "Data" / "CLS-LOC").is_dir() or any(map(_is_wordnet, inside.glob("n*"))):
        return ImageNet(folder, split)
    if split is None and any(map(has_image_name, folder.rglob("*"))):
        return ImageFolder(folder)
    raise ValueError(
        f"The layout of {text} is none that is known: VOCdevkit, COCO (annotations/instances_*), "
        "CUB_200_2011, ImageNet (n01440764 ...), images alone; fixations and Flickr30k Entities "
        "need images= too."
    )


def _is_wordnet(path: Path) -> bool:
    return re.match(r"n\d{8}(\D|$)", path.name) is not None
