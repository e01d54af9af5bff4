"""What `jaxplain explain` asks of networks that have no classes: embeddings, and score maps.

Of an embedding it is by default the whole: how far the image reaches in the direction of its own
embedding, ``f(x) . e / |e|``. Of a score map it is by default its brightest place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import CliError, step
from jaxplain.cli.drawing import View, names, thumbnail

if TYPE_CHECKING:
    import numpy as np


def kind(model: Any) -> str:
    """``"classes"``, ``"embedding"`` or ``"score map"``: what the network gives."""
    from jaxplain.models.entries import ENTRIES

    entry = ENTRIES.get(model.config.name)
    if entry is None:
        return "classes"
    return "score map" if entry.score_map else "embedding" if entry.embedding else "classes"


def embedded(
    model: Any, photos: Mapping[Path, np.ndarray], asked: Sequence[str] | None
) -> list[View]:
    """The images with their embedding as a whole, or with the numbers of it that are asked for."""
    from jaxplain.models.resnet import l2_normalise

    views, called = [], names(photos)
    for path, photo in photos.items():
        x = _input(model, photo)
        with step("embedding"):
            embedding = model(x)[0].astype("float32")
        length = float((embedding**2).sum() ** 0.5)
        print(
            f"{path}: {model.config.name} gives an embedding, of {len(embedding)} numbers and of "
            f"length {length:.2f}; it knows no classes"
        )
        fn, targets, labels = model, [], []
        for text in asked or ():
            if not re.fullmatch(r"\d+", text.strip()) or int(text) >= len(embedding):
                raise CliError(
                    f"--class {text} is no number of an embedding: give 0 to {len(embedding) - 1}, "
                    "or --reference PICTURE for what makes it similar to another"
                )
            targets.append(int(text))
            labels.append(f"number {int(text)} of the embedding  {embedding[int(text)]:.2f}")
        if not targets:
            unit = l2_normalise(embedding)[:, None]
            fn = _along(model, unit)
            targets, labels = [0], [f"the embedding, of length {length:.2f}"]
        name = called[path] if len(photos) > 1 else ""
        views.append(View(name, thumbnail(photo), x, fn, targets, labels))
    return views


def placed(
    model: Any, photos: Mapping[Path, np.ndarray], asked: Sequence[str] | None
) -> list[View]:
    """The images with places of their score map: the brightest, or those that are asked for."""
    import numpy as np

    views, called = [], names(photos)
    for path, photo in photos.items():
        x = _input(model, photo)
        with step("looking"):
            scores = np.asarray(model(x)[0, :, :, 0].astype("float32"))
        top = np.unravel_index(scores.argmax(), scores.shape)
        places = [_place(text, scores.shape) for text in asked or ()]
        places = list(dict.fromkeys(places)) or [(int(top[0]), int(top[1]))]
        print(
            f"{path}: {model.config.name} gives a map of {scores.shape[0]} x {scores.shape[1]} "
            f"scores, from {scores.min():.2f} to {scores.max():.2f}, the highest in row {top[0]}, "
            f"column {top[1]}"
        )
        labels = [f"row {i}, column {j}  {scores[i, j]:.2f}" for i, j in places]
        name = called[path] if len(photos) > 1 else ""
        fn, targets = _at(model, places), list(range(len(places)))
        views.append(View(name, thumbnail(photo), x, fn, targets, labels))
    return views


def _input(model: Any, photo: np.ndarray) -> Any:
    from jaxplain import models

    # The whole image, not its central crop: every pixel of the picture is explained.
    return models.preprocess(photo, model.config, crop=False)


def _along(model: Any, unit: Any) -> Any:
    return lambda x: model(x) @ unit


def _at(model: Any, places: Sequence[tuple[int, int]]) -> Any:
    def fn(x):
        import jax.numpy as jnp

        logits = model.logits(x)  # which do not saturate
        return jnp.stack([logits[:, i, j, 0] for i, j in places], axis=-1)

    return fn


def _place(text: str, shape: tuple[int, ...]) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    place = (int(match[1]), int(match[2])) if match else shape
    if place[0] >= shape[0] or place[1] >= shape[1]:
        raise CliError(
            f"--class {text} is no place of the map: give ROW,COLUMN, below {shape[0]} and "
            f"{shape[1]}"
        )
    return place[0], place[1]
