"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.core.extras import MissingPackageError, install, missing
from jaxplain.data.coco import COCO_CLASSES
from jaxplain.data.record import Record, UnreadableRecordError, boxes_from_inclusive

__all__ = ["TFDS_NAMES", "TFDS"]

#: What is known; a version may follow, as in ``voc/2007:5.0.0``.
TFDS_NAMES = ("voc/2007", "voc/2012", "coco/2014", "coco/2017", "imagenet2012", "caltech_birds2011")


class TFDS:
    """A data set of TensorFlow Datasets as records.

    Reading needs no TensorFlow, but preparing (downloading and converting) does. A data set that is
    not there yet is prepared if TensorFlow is installed, and otherwise this is an error that says
    so.

    Boxes, which TFDS gives as fractions of the image, come back as pixels: VOC's, which TFDS takes
    over as 1-based with the last pixel included, are set right. COCO has no masks here; read its
    folder for them.

    Args:
        name: one of ``TFDS_NAMES``.
        split: such as ``test``, ``validation``, ``train[:100]``.
        data_dir: where TFDS keeps its data; None for its own default (``TFDS_DATA_DIR``, else
            ``~/tensorflow_datasets``).

    Raises:
        ValueError: the name or split is unknown, or the data set is prepared in a form without
            random access.
        ImportError: tensorflow-datasets is not installed, or TensorFlow is needed.
    """

    def __init__(self, name: str, split: str, data_dir: str | os.PathLike[str] | None = None):
        dataset, _, version = name.partition(":")
        if dataset not in TFDS_NAMES:
            raise ValueError(f"There is no data set {name!r} here; known: {', '.join(TFDS_NAMES)}.")
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise missing("tfds", "tensorflow-datasets", name) from error
        self.name = f"{name} {split}"
        default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        data_dir = Path(default if data_dir is None else data_dir).expanduser()
        builder = _builder(tfds, dataset, version, data_dir)
        if split.partition("[")[0] not in builder.info.splits:
            known = ", ".join(builder.info.splits)
            raise ValueError(f"{name} has no split {split!r}; it has {known}.")
        try:
            self._rows = builder.as_data_source(split)
        except NotImplementedError as error:  # TFDS's word for formats without random access
            raise ValueError(
                f"{name} in {data_dir} is stored as {builder.info.file_format.value}, which has no "
                "random access; prepare it again with file_format='array_record', or convert it "
                "with 'tfds convert_format'."
            ) from error
        self._read = _READERS[dataset.partition("/")[0]]
        label = builder.info.features
        label = label["objects"]["label"] if "objects" in label else label["label"]
        names = tuple(label.names or ())
        if dataset.startswith("coco") and (not names or names[0].isdigit()):
            names = COCO_CLASSES
        self.class_names = names or tuple(str(i) for i in range(label.num_classes))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has the records 0 to {len(self) - 1}, not {index}")
        try:
            row = self._rows[index]
        # Each image library below TFDS has errors of its own.
        except Exception as error:
            raise UnreadableRecordError(str(index), f"TFDS cannot decode it: {error}") from error
        name = row.get("image/filename", row.get("file_name"))
        return self._read(row, Path(name.decode()).stem)


def _builder(tfds: Any, dataset: str, version: str, data_dir: Path) -> Any:
    # A prepared data set describes itself; its own code, which may need TensorFlow, is not wanted.
    prepared = [f.parent for f in (data_dir / dataset).glob("*/dataset_info.json")]
    if version:
        prepared = [f for f in prepared if f.name == version]
    if prepared:
        return tfds.builder_from_directory(max(prepared, key=_version))
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingPackageError(
            f"{dataset} is not prepared in {data_dir}, and TFDS needs TensorFlow to prepare it "
            f"(not to read it); install that with {install('data-prepare')}, or set data_dir or "
            "TFDS_DATA_DIR to where it is."
        )
    name = f"{dataset}:{version}" if version else dataset
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return builder


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(n) if n.isdigit() else -1 for n in folder.name.split("."))


def _objects(row: Mapping[str, Any]) -> dict[str, list]:
    # Without any object, TFDS gives an empty list in place of the dict of lists.
    objects = row["objects"]
    return objects if len(objects) else {"bbox": [], "label": [], "is_difficult": []}


def _pixels(boxes: Any, image: np.ndarray) -> np.ndarray:
    """Fractions (top, left, bottom, right) as pixels (left, top, right, bottom)."""
    height, width = image.shape[:2]
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
    boxes = boxes * np.array([width, height, width, height])
    whole = np.round(boxes)
    # Whole pixels that went through a float32 fraction are whole again.
    return np.where(np.abs(boxes - whole) < 1e-3, whole, boxes)


def _voc(row: Mapping[str, Any], record: str) -> Record:
    objects = _objects(row)
    boxes = boxes_from_inclusive(_pixels(objects["bbox"], row["image"]))
    return Record.make(
        row["image"], record, objects["label"], boxes, difficult=objects["is_difficult"]
    )


def _coco(row: Mapping[str, Any], record: str) -> Record:
    objects = _objects(row)
    return Record.make(
        row["image"], record, objects["label"], _pixels(objects["bbox"], row["image"])
    )


def _imagenet(row: Mapping[str, Any], record: str) -> Record:
    return Record.make(row["image"], record, [row["label"]])


def _birds(row: Mapping[str, Any], record: str) -> Record:
    mask = np.asarray(row["segmentation_mask"])[None, ..., 0] > 127
    return Record.make(
        row["image"], record, [row["label"]], _pixels(row["bbox"], row["image"]), mask
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Record]] = {
    "voc": _voc,
    "coco": _coco,
    "imagenet2012": _imagenet,
    "caltech_birds2011": _birds,
}
