"""COCO: instances with segmentation masks, from its JSON files, through pycocotools."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.core.extras import missing
from jaxplain.data.files import reason_of
from jaxplain.data.images import record_image
from jaxplain.data.record import Record, UnreadableRecordError, boxes_from_sizes

__all__ = ["COCO", "COCO_CLASSES"]

#: The 80 classes, in the order of their numbers in COCO (which has gaps) and so of TFDS.
COCO_CLASSES = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)


#: What comes of entries that have another form than COCO's.
_BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError)


class COCO:
    """Images with boxes and masks, from a file of instances in COCO's format.

    Classes are the file's categories in the order of their ids, numbered from 0. Regions marked as
    crowds are objects like the others. Images without any annotation are included.

    Args:
        folder: holds ``annotations`` and the folder of the images.
        split: ``val2017`` reads ``annotations/instances_val2017.json`` and images from ``val2017``;
            None takes the only file of instances that is there.

    Raises:
        FileNotFoundError: the file is missing; ValueError: several are there, or it is not COCO's
            format.
        ImportError: pycocotools is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str | None = None):
        try:
            from pycocotools.coco import COCO as Index
        except ImportError as error:
            raise missing("coco", "pycocotools", "COCO's format of masks") from error
        folder = Path(folder).expanduser()
        split = _only_split(folder) if split is None else split
        file = folder / "annotations" / f"instances_{split}.json"
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}.")
        self.images = folder / split
        self.name = f"COCO {split}"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
                self._index = Index(str(file))
            self.ids = sorted(self._index.getImgIds())
            categories = self._index.loadCats(sorted(self._index.getCatIds()))
            self.class_names = tuple(str(category["name"]) for category in categories)
            self._labels = {category["id"]: i for i, category in enumerate(categories)}
        # The index is built of whatever the file holds.
        except (*_BROKEN, AssertionError, RecursionError) as error:
            reason = reason_of(error)[:200]
            raise ValueError(f"{file} holds no instances in COCO's format: {reason}") from error

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        try:
            (entry,) = self._index.loadImgs([self.ids[index]])
            file = self.images / entry["file_name"]
            record, size = file.stem, (entry["height"], entry["width"])
        except _BROKEN as error:
            raise UnreadableRecordError(str(self.ids[index]), "its entry is incomplete") from error
        image = record_image(file, record)
        if image.shape[:2] != size:
            raise UnreadableRecordError(
                record, f"the image has the size {image.shape[:2]}, its annotation says {size}"
            )
        try:
            parts: list[Any] = self._index.loadAnns(self._index.getAnnIds(imgIds=[entry["id"]]))
        except _BROKEN as error:
            raise UnreadableRecordError(record, "its objects are incomplete") from error
        masks = [self._mask(part, size, record) for part in parts]
        try:
            labels = [self._labels[part["category_id"]] for part in parts]
            boxes = boxes_from_sizes([part["bbox"] for part in parts])
        except _BROKEN as error:
            reason = f"an object has no known category, or no box of four numbers: {error!s:.80}"
            raise UnreadableRecordError(record, reason) from error
        masks = np.stack(masks) if masks else np.zeros((0, *size), bool)
        return Record.make(image, record, labels, boxes, masks)

    def _mask(self, part: Any, size: tuple[int, int], record: str) -> np.ndarray:
        # Polygons, and run lengths as a list or compressed: pycocotools draws all three.
        from pycocotools import mask as masks

        try:
            drawn = part["segmentation"]
            if isinstance(drawn, list):
                # It is drawn in C, which looks at no bounds.
                corners = [np.asarray(polygon, np.float64) for polygon in drawn]
                farthest = 16 * max(size)
                if not all(p.ndim == 1 and (np.abs(p) <= farthest).all() for p in corners):
                    raise ValueError("a polygon reaches far beyond the image")
                drawn = masks.merge(masks.frPyObjects([p.tolist() for p in corners], *size))
            elif isinstance(drawn["counts"], list):
                _check_runs(drawn["counts"], size)
                drawn = masks.frPyObjects({"size": list(size), "counts": drawn["counts"]}, *size)
            else:
                _check_runs(_runs(drawn["counts"]), size)
                drawn = {"size": list(size), "counts": drawn["counts"]}
            encoded: Any = drawn
            return masks.decode(encoded).astype(bool)
        except Exception as error:  # pycocotools raises bare ones
            reason = f"the mask of object {str(part.get('id'))[:80]} is broken"
            raise UnreadableRecordError(record, reason) from error


def _runs(text: Any) -> list[int]:
    """The lengths of runs in COCO's compressed form: six bits a character, of which five count, the
    lowest first; from the third run on, differences to the one before the last."""
    codes = text.encode("ascii") if isinstance(text, str) else bytes(text)
    runs: list[int] = []
    number = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the run lengths are damaged")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) // 16 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("the run lengths are cut short")
    return runs


def _check_runs(runs: list[int], size: tuple[int, int]) -> None:
    if not all(type(n) is int and n >= 0 for n in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError("the run lengths are not those of the image")


def _only_split(folder: Path) -> str:
    files = sorted((folder / "annotations").glob("instances_*.json"))
    if not files:
        raise FileNotFoundError(f"There is no file instances_*.json in {folder / 'annotations'}.")
    if len(files) > 1:
        names = ", ".join(f.stem.removeprefix("instances_") for f in files)
        raise ValueError(f"{folder} holds the splits {names}; name one of them.")
    return files[0].stem.removeprefix("instances_")
