"""What is asked of networks that have no classes: embeddings, and score maps.

Of an embedding it is by default the whole: how far the image reaches in the direction of its own
embedding, ``f(x) . e / |e|``. Of a score map it is by default its brightest place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxplain.explanation.computing import Subject
from jaxplain.explanation.result import Explanation

if TYPE_CHECKING:
    import jax

    from jaxplain.models import ModelConfig


def kind(config: ModelConfig | None) -> str:
    """``"classes"``, ``"embedding"`` or ``"score map"``: what the network gives."""
    from jaxplain.models.entries import ENTRIES

    entry = None if config is None else ENTRIES.get(config.name)
    if entry is None:
        return "classes"
    return "score map" if entry.score_map else "embedding" if entry.embedding else "classes"


def values(network: Callable, x: jax.Array) -> np.ndarray:
    """What the network gives for one image, float32, in one program, which is kept."""
    import jax

    from jaxplain.core import trace

    return np.asarray(jax.jit(lambda traced, x: traced(x))(trace(network, x), x)[0], np.float32)


def embedded(
    network: Callable, shown: np.ndarray, x: jax.Array, targets: Any, *, name: str, called: str
) -> tuple[Subject, str]:
    """A picture with its embedding as a whole, or with numbers of it; and what there is to say.

    Raises:
        ValueError: a target is no number of the embedding.
    """
    from jaxplain.models.resnet import l2_normalise

    embedding = values(network, x)
    length, size = float((embedding**2).sum() ** 0.5), len(embedding)
    said = f"{called} gives an embedding, of {size} numbers and of length {length:.2f}; it knows "
    said += "no classes"
    if targets is None:
        fn, labels = _along(network, l2_normalise(embedding)[:, None]), ["the embedding"]
        about = _about(name, shown, called, [0], labels, np.array([length], np.float32))
        return Subject(about, x, fn), said
    numbers = []
    for one in [targets] if isinstance(targets, str | int) else targets:
        text = str(one).strip()
        if not re.fullmatch(r"\d+", text) or int(text) >= size:
            raise ValueError(
                f"{one} is no number of an embedding: give 0 to {size - 1}, or ask for its "
                "similarity to another picture's"
            )
        numbers.append(int(text))
    labels = [f"number {i} of the embedding" for i in numbers]
    about = _about(name, shown, called, numbers, labels, embedding[numbers])
    return Subject(about, x, network), said


def placed(
    network: Any, shown: np.ndarray, x: jax.Array, targets: Any, *, name: str, called: str
) -> tuple[Subject, str]:
    """A picture with places of its score map, the brightest by default; and what there is to say.

    Raises:
        ValueError: a target is no place ``(row, column)`` or ``"ROW,COLUMN"`` of the map.
    """
    scores = values(network, x)[:, :, 0]
    top = tuple(map(int, np.unravel_index(scores.argmax(), scores.shape)))
    if targets is None:
        targets = [top]
    elif isinstance(targets, str) or (
        len(targets) == 2 and not isinstance(targets[0], str | tuple)
    ):
        targets = [targets]
    places = list(dict.fromkeys(_place(one, scores.shape) for one in targets))
    said = (
        f"{called} gives a map of {scores.shape[0]} x {scores.shape[1]} scores, from "
        f"{scores.min():.2f} to {scores.max():.2f}, the highest in row {top[0]}, column {top[1]}"
    )
    labels = [f"row {i}, column {j}" for i, j in places]
    values = np.array([scores[place] for place in places])
    about = _about(name, shown, called, range(len(places)), labels, values)
    return Subject(about, x, _at(network, places)), said


def _about(
    name: str,
    shown: np.ndarray,
    called: str,
    targets: Sequence[int],
    labels: Sequence[str],
    scores: np.ndarray,
) -> Explanation:
    return Explanation(
        name=name,
        image=shown,
        model=called,
        targets=tuple(targets),
        class_names=tuple(labels),
        scores=scores,
        probabilities=np.full(len(scores), np.nan, np.float32),
        labels=tuple(f"{label}  {score:.2f}" for label, score in zip(labels, scores, strict=True)),
    )


def _along(network: Callable, unit: jax.Array) -> Callable:
    return lambda x: network(x) @ unit


def _at(network: Any, places: Sequence[tuple[int, int]]) -> Callable:
    def fn(x):
        import jax.numpy as jnp

        logits = network.logits(x)  # which do not saturate
        return jnp.stack([logits[:, i, j, 0] for i, j in places], axis=-1)

    return fn


def _place(one: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    text = one if isinstance(one, str) else ",".join(map(str, one))
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    place = (int(match[1]), int(match[2])) if match else shape
    if place[0] >= shape[0] or place[1] >= shape[1]:
        raise ValueError(
            f"{text} is no place of the map: give ROW,COLUMN, below {shape[0]} and {shape[1]}"
        )
    return place[0], place[1]
