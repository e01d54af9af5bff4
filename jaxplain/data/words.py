"""What the words of a caption are to a network's outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxplain.data.cues import COCO_TO_IMAGENET, VOC_TO_IMAGENET

__all__ = ["Words"]

_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")


class Words:
    """A signal over a network's outputs for each word that the network knows.

    A word means, in this order: what ``table`` says; for the 1000 classes of ImageNet, the classes
    that the tables of VOC and COCO give for a class of that name ("dog": every breed); the classes
    one of whose names ends in it ("retriever"). A plural is read as its singular if it is unknown
    itself. Several classes share the signal evenly.

    Args:
        class_names: of the network's outputs; several names of one class separated by commas.
        table: word -> numbers or names of classes; an empty list makes a word unknown.

    Raises:
        ValueError: no class names, or the table names a class that there is not.

    Example:
        >>> words = Words(["tabby cat", "Siamese cat", "cup"], {"mug": ["cup"], "pet": [0, 1]})
        >>> words.signal("cats").tolist(), words.signal("Mug").tolist(), words.signal("red")
        ([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], None)
        >>> words.known("A red cup with two cats")
        ['cup', 'cats']
    """

    def __init__(
        self, class_names: Sequence[str], table: Mapping[str, Sequence[int | str]] | None = None
    ):
        if not class_names:
            raise ValueError("words need the names of the network's classes, and there are none")
        self.count = len(class_names)
        self._classes: dict[str, list[int]] = {}
        by_name: dict[str, int] = {}
        for i, names in enumerate(class_names):
            by_name[names.casefold()] = i
            for name in names.casefold().split(","):
                by_name.setdefault(name.strip(), i)
                if parts := _WORD.findall(name):
                    self._classes.setdefault(parts[-1], []).append(i)
        if self.count == 1000:
            for known in (VOC_TO_IMAGENET, COCO_TO_IMAGENET):
                self._classes |= {name: list(classes) for name, classes in known.items()}
        for word, wanted in (table or {}).items():
            self._classes[word.casefold()] = [self._index(c, by_name, word) for c in wanted]

    def _index(self, wanted: int | str, by_name: Mapping[str, int], word: str) -> int:
        index = by_name.get(wanted.casefold()) if isinstance(wanted, str) else wanted
        if index is None or not 0 <= index < self.count:
            raise ValueError(f"the word {word!r} names the class {wanted!r}, which there is not")
        return index

    def signal(self, word: str) -> np.ndarray | None:
        """The prior over the outputs, float32 ``(N,)`` with a sum of 1; None for unknown words."""
        for form in _forms(word.casefold()):
            if classes := self._classes.get(form):
                signal = np.zeros(self.count, np.float32)
                np.add.at(signal, classes, 1 / len(classes))
                return signal
            if form in self._classes:
                return None
        return None

    def known(self, phrase: str) -> list[str]:
        """The words of a phrase that the network knows, in small letters, in order, once each."""
        words = dict.fromkeys(_WORD.findall(phrase.casefold()))
        return [word for word in words if self.signal(word) is not None]


def _forms(word: str) -> list[str]:
    """A word, and what it may be the plural of."""
    forms = [word]
    for ending, singular in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            forms.append(word.removesuffix(ending) + singular)
    return forms
