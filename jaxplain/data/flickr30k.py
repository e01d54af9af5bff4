"""Flickr30k Entities: captions whose noun phrases are tied to boxes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxplain.data.files import read_lines, read_xml, reason_of, xml_corners
from jaxplain.data.images import record_image
from jaxplain.data.record import Phrase, Record, UnreadableRecordError, boxes_from_inclusive

__all__ = ["FLICKR30K_GROUPS", "Flickr30kEntities", "parse_phrases"]

#: The eight types of phrases (Plummer et al. 2015).
FLICKR30K_GROUPS = (
    "people",
    "clothing",
    "bodyparts",
    "animals",
    "vehicles",
    "instruments",
    "scene",
    "other",
)

_PHRASE = re.compile(r"\[/EN#(\d+)(/[^ \]]+) ([^\]]*)\]")


def parse_phrases(sentence: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """(entity, phrase, groups) of each marked phrase of an annotated caption.

    Example:
        >>> from jaxplain.data.flickr30k import parse_phrases
        >>> parse_phrases("[/EN#1/people A man] plays [/EN#2/instruments/other a drum] .")
        [('1', 'A man', ('people',)), ('2', 'a drum', ('instruments', 'other'))]
    """
    found = _PHRASE.findall(sentence)
    return [(entity, text, tuple(groups.strip("/").split("/"))) for entity, groups, text in found]


class Flickr30kEntities:
    """Flickr30k images with the boxes, and phrases, of Flickr30k Entities.

    Each box is an object; ``phrases`` say which objects a phrase means (an entity may have several
    boxes, and a box belong to several entities). Objects have no classes: labels are all 0.

    Args:
        annotations: the folder of Flickr30k Entities, which holds ``Annotations`` and
            ``Sentences``.
        images: the folder of Flickr30k's images.
        split: ``train``, ``val`` or ``test`` (the lists beside the annotations), or None for all.

    Raises:
        FileNotFoundError: a folder or list is missing.

    Reference: Plummer et al., *Flickr30k Entities*, ICCV 2015.
    """

    name = "Flickr30k Entities"
    class_names = ("object",)

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        split: str | None = None,
    ):
        self.annotations, self.images = (Path(f).expanduser() for f in (annotations, images))
        for folder in (
            self.annotations / "Annotations",
            self.annotations / "Sentences",
            self.images,
        ):
            if not folder.is_dir():
                raise FileNotFoundError(f"There is no folder {folder}.")
        if split is None:
            self.ids = sorted(f.stem for f in (self.annotations / "Annotations").glob("*.xml"))
        else:
            self.ids = read_lines(self.annotations / f"{split}.txt")
        if not self.ids:
            raise FileNotFoundError(f"{self.annotations} holds no annotations.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        record = self.ids[index]
        root = read_xml(self.annotations / "Annotations" / f"{record}.xml", record)
        boxes: list[list[float]] = []
        entities: dict[str, list[int]] = {}
        for part in root.iter("object"):
            box = part.find("bndbox")
            if box is None:  # part of the scene, or nothing that can be boxed
                continue
            corners = xml_corners(box, record)
            for name in part.findall("name"):
                entities.setdefault((name.text or "").strip(), []).append(len(boxes))
            boxes.append(corners)
        try:
            sentences = read_lines(self.annotations / "Sentences" / f"{record}.txt")
        except (OSError, ValueError) as error:
            raise UnreadableRecordError(record, reason_of(error)) from error
        phrases = tuple(
            Phrase(text, groups, tuple(entities.get(entity, ())), number)
            for number, sentence in enumerate(sentences)
            for entity, text, groups in parse_phrases(sentence)
        )
        return Record.make(
            record_image(self.images / f"{record}.jpg", record),
            record,
            [0] * len(boxes),
            boxes_from_inclusive(boxes),
            phrases=phrases,
        )
