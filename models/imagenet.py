"""The classes of ImageNet (ILSVRC 2012): their names, WordNet ids, and the validation set's labels.

``data/imagenet_classes.txt`` holds one class per line in the order of the networks' outputs: the
WordNet id and the first of the class's names. Two names stand for two classes each ("crane" and
"maillot"), as is usual. ``data/imagenet_validation.npz`` holds the labels as published.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent / "data"


def class_names() -> tuple[str, ...]:
    """The names of the 1000 classes.

    Example:
        >>> from jaxplain.models import imagenet
        >>> imagenet.class_names()[282]
        'tiger cat'
    """
    return tuple(name for _, name in _classes())


def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of the 1000 classes, which are the names of their folders.

    Example:
        >>> from jaxplain.models import imagenet
        >>> imagenet.wordnet_ids()[282]
        'n02123159'
    """
    return tuple(wordnet for wordnet, _ in _classes())


@functools.cache
def validation_labels() -> np.ndarray:
    """The classes of the 50,000 images of the validation set, in the order of their numbers.

    Example:
        >>> from jaxplain.models import imagenet
        >>> int(imagenet.validation_labels()[0])  # of ILSVRC2012_val_00000001.JPEG, a sea snake
        65
    """
    with np.load(_FOLDER / "imagenet_validation.npz") as file:
        labels = file["labels"]
    labels.flags.writeable = False
    return labels


@functools.cache
def _classes() -> tuple[tuple[str, str], ...]:
    lines = (_FOLDER / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return tuple((wordnet, name) for wordnet, name in pairs)
