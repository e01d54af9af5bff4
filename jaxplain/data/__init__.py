"""Data sets as records: images with classes, boxes and masks, whatever they are stored in.

    source = jaxplain.data.open_source("VOCdevkit/VOC2007", "test")
    record = source[0]            # record.image, record.labels, record.boxes ...

Boxes are (left, top, right, bottom) in 0-based, half-open pixel coordinates.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxplain.data.adapting import as_source
from jaxplain.data.coco import COCO, COCO_CLASSES
from jaxplain.data.cub import CUB200
from jaxplain.data.cues import COCO_TO_IMAGENET, VOC_TO_IMAGENET, cue_signals
from jaxplain.data.explanation import Explanation
from jaxplain.data.fixations import Fixations
from jaxplain.data.flickr30k import FLICKR30K_GROUPS, Flickr30kEntities
from jaxplain.data.image_folder import ImageFolder
from jaxplain.data.imagenet import ImageNet
from jaxplain.data.images import UnreadableImageError, read_image
from jaxplain.data.loading import Batch, Item, batches, load
from jaxplain.data.maps import Maps, open_maps
from jaxplain.data.opening import open_source
from jaxplain.data.record import (
    Phrase,
    Record,
    Source,
    UnreadableRecordError,
    boxes_from_inclusive,
    boxes_from_sizes,
    boxes_to_masks,
)
from jaxplain.data.tar_source import TarFiles
from jaxplain.data.tfds_source import TFDS, TFDS_NAMES
from jaxplain.data.voc import VOC, VOC_CLASSES

if TYPE_CHECKING:
    from jaxplain.models.preprocessing import aspect_shape, normalise, resize_image

__all__ = [
    "COCO",
    "COCO_CLASSES",
    "COCO_TO_IMAGENET",
    "CUB200",
    "FLICKR30K_GROUPS",
    "TFDS",
    "TFDS_NAMES",
    "VOC",
    "VOC_CLASSES",
    "VOC_TO_IMAGENET",
    "Batch",
    "Explanation",
    "Fixations",
    "Flickr30kEntities",
    "ImageFolder",
    "ImageNet",
    "Item",
    "Maps",
    "Phrase",
    "Record",
    "Source",
    "TarFiles",
    "UnreadableImageError",
    "UnreadableRecordError",
    "as_source",
    "aspect_shape",
    "batches",
    "boxes_from_inclusive",
    "boxes_from_sizes",
    "boxes_to_masks",
    "cue_signals",
    "load",
    "normalise",
    "open_maps",
    "open_source",
    "read_image",
    "resize_image",
]


def __getattr__(name: str) -> Any:
    # The preprocessing stands beside the networks, whose framework is loaded when it is wanted.
    if name in ("aspect_shape", "normalise", "resize_image"):
        return getattr(importlib.import_module("jaxplain.models.preprocessing"), name)
    raise AttributeError(f"module 'jaxplain.data' has no attribute {name!r}")
