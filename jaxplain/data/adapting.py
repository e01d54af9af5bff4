"""Records from whatever gives images by number: arrays, paths, dicts, pictures of Pillow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.data.files import reason_of
from jaxplain.data.images import decode_image, record_image, rgb_of
from jaxplain.data.record import Record, Source, UnreadableRecordError, printable

__all__ = ["as_source"]

#: Keys of dicts, in the order of precedence. The first are those of Hugging Face and TFDS.
_IMAGES = ("image", "img", "pixels", "jpg", "jpeg", "png", "webp")
_LABELS = ("labels", "label", "fine_label", "cls", "class")
_IDS = ("id", "__key__", "key", "image_id", "image/filename", "file_name", "filename")


def as_source(
    items: Any, *, name: str | None = None, class_names: Sequence[str] | None = None
) -> Source:
    """A source of records from anything with ``len`` and ``[index]``.

    An item is a `Record`; an image; a tuple of an image and a label; or a dict with an image, and
    with a label and an id if there are any (``image``, ``label``, ``id`` and other usual names). An
    image is uint8 ``(H, W, 3)`` or grey ``(H, W)``, a picture of Pillow, the bytes of an image
    file, its path, or a dict of these two (as Hugging Face's ``datasets`` have). So the data sets
    of Hugging Face, sources of Grain and lists of paths can be explained. What cannot be read is a
    failure of its record. An item without an id is named by its number.

    Args:
        items: where the items come from; a source of records is given back as it is.
        name: of the data set; by default its own, or that of its class.
        class_names: what the labels number; by default what ``items.features`` says (Hugging
            Face), or none.

    Raises:
        ValueError: it has no length, or cannot be indexed.

    Example:
        >>> import numpy as np
        >>> from jaxplain.data import as_source
        >>> images = [{"image": np.zeros((4, 6, 3), np.uint8), "label": 3, "id": "a"}]
        >>> record = as_source(images)[0]
        >>> record.id, record.size, record.labels.tolist()
        ('a', (4, 6), [3])
    """
    if isinstance(items, Mapping) or not (
        hasattr(items, "__len__") and hasattr(items, "__getitem__")
    ):
        raise ValueError(
            f"A source of images must have a length and give items by number; "
            f"{type(items).__name__} does not."
        )
    if hasattr(items, "name") and hasattr(items, "class_names"):
        return items
    return _Adapted(items, name, class_names)


class _Adapted:
    """Items as records."""

    def __init__(self, items: Any, name: str | None, class_names: Sequence[str] | None):
        self.items = items
        self.name = name or str(getattr(items, "name", None) or type(items).__name__)
        self.class_names = tuple(_features(items) if class_names is None else class_names)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        try:
            item = self.items[index]
        # A decoder that works in the data set itself fails in its own way on a broken image.
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            if isinstance(error, UnreadableRecordError):
                raise
            raise UnreadableRecordError(str(index), reason_of(error)) from error
        return _record(item, str(index))

    def stamp(self, index: int) -> str:
        """Of a list of paths: the path, size and time; of others, the number alone."""
        item = self.items[index] if isinstance(self.items, (list, tuple)) else None
        if isinstance(item, Mapping):
            return f"{index} {_first(item, _IDS)}"
        if not isinstance(item, (str, os.PathLike)):
            return str(index)
        try:
            status = os.stat(item)
        except OSError:
            return f"{os.fspath(item)} cannot be found"
        return f"{os.fspath(item)} {status.st_size} {status.st_mtime_ns}"


def _features(items: Any) -> Sequence[str]:
    features = getattr(items, "features", None)
    if isinstance(features, Mapping):
        for key in _LABELS:
            names = getattr(features.get(key), "names", None)
            if names:
                return list(names)
    return ()


def _record(item: Any, name: str) -> Record:
    if isinstance(item, Record):
        return item
    labels: Any = ()
    if isinstance(item, Mapping):
        image = _first(item, _IMAGES)
        labels = _first(item, _LABELS)
        found = _first(item, _IDS)
        if isinstance(found, bytes):
            found = found.decode("utf-8", "surrogateescape")
        name = name if found is None else str(found)
        if image is None:
            keys = ", ".join(map(str, list(item)[:8]))
            raise UnreadableRecordError(name, f"it has no image: its keys are {keys}")
    elif isinstance(item, tuple) and len(item) == 2:
        image, labels = item
    else:
        image = item
        if isinstance(item, (str, os.PathLike)):
            name = os.fspath(item)
    if isinstance(image, Mapping) and (image.get("bytes") or image.get("path")):
        image = image.get("bytes") or image.get("path")
    return Record.make(_pixels(image, name), name, _labels(labels, name))


def _first(item: Mapping, keys: Sequence[str]) -> Any:
    return next((item[key] for key in keys if key in item), None)


def _labels(labels: Any, name: str) -> Any:
    if labels is None:
        return ()
    if isinstance(labels, bytes):  # as the files of a tar archive have them
        labels = labels.decode("ascii", "replace")
    try:
        found = np.asarray(labels if not isinstance(labels, str) else int(labels))
    except ValueError as error:
        raise UnreadableRecordError(name, "its label is no class number") from error
    if found.size and found.dtype.kind not in "iu":
        raise UnreadableRecordError(name, "its label is no class number")
    return found


def _pixels(image: Any, name: str) -> np.ndarray:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image(bytes(image), name)
    if isinstance(image, (str, os.PathLike)):
        return record_image(Path(image), name, upright=True)
    if hasattr(image, "getexif"):  # of Pillow, which need not be installed
        try:
            return rgb_of(image)
        except Exception as error:  # of many kinds: the pixels are decoded only now
            raise UnreadableRecordError(name, reason_of(error)) from error
    try:
        pixels = np.asarray(image)
    except ValueError as error:
        raise UnreadableRecordError(name, reason_of(error)) from error
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise UnreadableRecordError(
            printable(name),
            f"its image must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}",
        )
    return pixels
