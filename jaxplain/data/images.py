"""The one reader of image files, for data sets and single pictures alike."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.core.extras import missing
from jaxplain.data.files import open_regular, reason_of
from jaxplain.data.record import UnreadableRecordError, printable

__all__ = ["IMAGE_SUFFIXES", "UnreadableImageError", "read_image"]

#: The formats that are read, as Pillow calls them, with the suffixes by which folders are searched.
#: A file's content tells its format, not its suffix. No decoder but these is ever asked: some of
#: Pillow's start programs.
_FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in _FORMATS.values() for suffix in suffixes)

#: A small file may say that it has any number of pixels, each of which takes three bytes or more.
MOST_PIXELS = 1 << 27

_ORIENTATION = 0x0112  # the tag of EXIF
#: Value of the tag -> what turns the stored pixels upright.
_TURNS: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
_INVERSE: dict[Any, int] = {6: 8, 8: 6}  # the other turns are their own


class UnreadableImageError(ValueError):
    """An image file that cannot be read: ``path``, and the ``reason`` in a few words."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"cannot read the image {printable(os.fspath(path))}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self):  # errors cross the borders of worker processes
        return type(self), (self.path, self.reason)


def read_image(
    path: str | os.PathLike[str], *, upright: bool = True, most_pixels: int = MOST_PIXELS
) -> np.ndarray:
    """An image file as uint8 ``(H, W, 3)``, red, green and blue.

    It reads JPEG, PNG, WebP, BMP, GIF, TIFF and PPM, and of files with several pictures the first.
    Transparent pixels show white through. Whole numbers of 16 bits count from 0 to 65535. Of other
    images with more than 8 bits, the greatest value tells the range: floats are 0 to 1 or 0 to 255,
    whole numbers of 32 bits 0 to 255 or 0 to 65535. Colour profiles are not applied.

    Args:
        path: of a file; pipes, devices and folders are not read.
        upright: turns a photograph as its orientation tag says. False gives the pixels as they are
            stored, which is what boxes and masks of data sets refer to. Where EXIF data are broken,
            the stored pixels are taken to be upright.
        most_pixels: what has more is refused before it is decoded; 2^27 at the most.

    Raises:
        UnreadableImageError: it is missing, broken, of another format, of too many pixels, or has
            values outside the ranges above.
        ImportError: Pillow is not installed.

    Example:
        >>> from jaxplain.data import read_image
        >>> read_image("nowhere.png")
        Traceback (most recent call last):
        ...
        jaxplain.data.images.UnreadableImageError: cannot read the image nowhere.png: No such file
            or directory
    """
    return _decode(path, functools.partial(rgb_of, upright=upright), most_pixels)


def decode_image(content: bytes, record: str, *, upright: bool = True) -> np.ndarray:
    """The image of a record from the bytes of its file.

    Raises:
        UnreadableRecordError: it cannot be read.
    """
    try:
        return _decode(io.BytesIO(content), functools.partial(rgb_of, upright=upright))
    except UnreadableImageError as error:
        raise UnreadableRecordError(record, f"cannot read the image: {error.reason}") from error


def rgb_of(image: Any, *, upright: bool = True) -> np.ndarray:
    """A picture of Pillow as uint8 ``(H, W, 3)``; raises errors of many kinds."""
    from jaxplain.models.pixels import rgb_pixels

    # Pillow turns TIFF files itself, when it loads them, and then drops the tag.
    before = _orientation(image) if image.format == "TIFF" else None
    found = rgb_pixels(image)
    tag = _orientation(image)
    if not upright:
        tag = None if before == tag else _INVERSE.get(before, before)  # back again
    return np.ascontiguousarray(_TURNS[tag](found)) if tag in _TURNS else found


def record_image(path: Path, record: str, *, upright: bool = False) -> np.ndarray:
    """The image of a record; unless asked for ``upright``, the stored pixels, as boxes want them.

    Raises:
        UnreadableRecordError: it cannot be read.
    """
    try:
        return read_image(path, upright=upright)
    except UnreadableImageError as error:
        raise UnreadableRecordError(record, str(error)) from error


def record_grey(path: Path, record: str) -> np.ndarray:
    """A map or mask of a record as float32 ``(H, W)`` with values 0 to 1, in its full precision.

    Raises:
        UnreadableRecordError: it cannot be read.
    """
    from jaxplain.models.pixels import grey_levels

    try:
        return _decode(path, grey_levels)
    except UnreadableImageError as error:
        raise UnreadableRecordError(record, str(error)) from error


def image_files(folder: Path, *, below: bool = False) -> list[Path]:
    """What bears the name of an image in a folder, and ``below`` it, sorted by path.

    Raises:
        FileNotFoundError: the folder is missing, or holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {printable(str(folder))}.")
    files = sorted(filter(has_image_name, folder.rglob("*") if below else folder.iterdir()))
    if not files:
        raise FileNotFoundError(f"The folder {printable(str(folder))} holds no image files.")
    return files


def has_image_name(path: Path) -> bool:
    """Whether the suffix is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _decode(
    source: str | os.PathLike[str] | io.BytesIO,
    pixels: Callable[[Any], np.ndarray],
    most: int = MOST_PIXELS,
) -> np.ndarray:
    path = "" if isinstance(source, io.BytesIO) else source
    try:
        from PIL import Image
    except ImportError as error:
        raise missing("data", "pillow", "Reading images") from error
    try:
        # Pillow gets an open file, not a path: a path it might map into memory, and a file that is
        # cut short meanwhile would then end the process.
        opened = source if isinstance(source, io.BytesIO) else open_regular(source)
        with opened as file, Image.open(file, formats=list(_FORMATS)) as image:
            if image.width * image.height > min(most, MOST_PIXELS):
                raise UnreadableImageError(
                    path,
                    f"it has {image.width} x {image.height} pixels, and at most {most} are read",
                )
            return pixels(image)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        reason = f"it has more pixels than the {MOST_PIXELS} that are read"
        raise UnreadableImageError(path, reason) from error
    except Image.UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        reason = f"it holds no whole image in one of the formats {known}"
        raise UnreadableImageError(path, reason) from error
    # The decoders raise errors of every kind on files that are broken or of another type.
    except Exception as error:
        raise UnreadableImageError(path, reason_of(error)) from error


def _orientation(image: Any) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    # Of many kinds: the data are parsed while they are read. The pixels do not depend on them.
    except Exception:
        return None
