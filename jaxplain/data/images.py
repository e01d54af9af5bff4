"""Image files and small text files of data sets; errors say which record they belong to."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from jaxplain.data.record import UnreadableRecordError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_image(path: Path, record: str, *, upright: bool = False) -> np.ndarray:
    """The file as uint8 ``(H, W, 3)``.

    Boxes refer to the stored pixels, so the orientation tag of a photograph is only followed where
    ``upright`` asks for it.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file) if upright else file
            return np.asarray(image.convert("RGB"))
    # Pillow raises many kinds of error on files that are broken or of another type.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableRecordError(record, f"cannot read the image {path}: {error}") from error


def read_grey(path: Path, record: str) -> np.ndarray:
    """The file as float32 ``(H, W)`` with values 0 to 1; 16-bit files keep their precision."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            if file.mode.startswith("I"):
                return np.asarray(file, np.float32) / 65535
            return np.asarray(file.convert("L"), np.float32) / 255
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableRecordError(record, f"cannot read the map {path}: {error}") from error


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name.

    Raises:
      FileNotFoundError: the folder is missing, or holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"The folder {folder} holds no image files.")
    return files


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without blanks at their ends.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def read_xml(path: Path, record: str) -> ElementTree.Element:
    """The root of an annotation file."""
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UnreadableRecordError(record, f"cannot read {path}: {error}") from error


def xml_objects(root: ElementTree.Element, record: str) -> list[tuple[str, list[float], bool]]:
    """(name, [left, top, right, bottom], difficult) of each object with a box, as in the file."""
    found = []
    for part in root.iter("object"):
        box = part.find("bndbox")
        if box is None:
            continue
        try:
            corners = [float(box.findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax")]
        except (TypeError, ValueError) as error:
            raise UnreadableRecordError(record, f"a box is incomplete: {error}") from error
        difficult = (part.findtext("difficult") or "0").strip() == "1"
        found.append(((part.findtext("name") or "").strip(), corners, difficult))
    return found
