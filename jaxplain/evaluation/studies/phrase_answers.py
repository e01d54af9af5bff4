"""The phrases of one image, localised: what every row of `phrase_study` came to for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import data, postprocess
from jaxplain.data.proposals import Proposals, phrase_key
from jaxplain.data.words import Words
from jaxplain.evaluation import localisation, phrases

__all__ = ["BASE", "KS", "UNIFORM", "Answered", "answers_of"]

#: How many boxes may be proposed for a phrase.
KS = (1, 5, 10)
#: The baseline whose map is the same everywhere.
UNIFORM = "Uniform map"
#: The proposals' own scores, where they come from one place that has no name.
BASE = "Proposals' own scores"
_NMS = 0.7  # section 6.3.1
#: Hits ``(3,)`` at `KS`; the scores of the boxes that stay, and which of them are right.
Judged = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Answered:
    """A phrase that was localised.

    ``answers``: row -> what `_judge` found, one per gamma; a single one where there is no map.
    """

    text: str
    groups: tuple[str, ...]
    held: bool
    small: bool
    positives: int
    answers: Mapping[str, list[Judged]]


def answers_of(
    item: data.Item,
    asked: Sequence[data.Phrase],
    proposals: Mapping[str, Proposals],
    given: Mapping[str, Mapping[str, Proposals]],
    words: Words,
    explain: Callable[[jax.Array, jax.Array], Mapping[str, jax.Array]],
    held: bool,
) -> Iterator[Answered]:
    """All phrases of an image. Everything is padded, so that few programs are compiled."""
    own = [words.known(p.text) for p in asked]
    every = list(dict.fromkeys(word for one in own for word in one))
    signals = np.zeros((1, _up(len(every), 8), words.count), np.float32)
    signals[0, : len(every)] = [words.signal(word) for word in every]
    signals[0, len(every) :] = signals[0, 0]
    shares = np.zeros((_up(len(asked), 16), signals.shape[1]), np.float32)
    for row, mine in zip(shares, own, strict=False):
        row[[every.index(word) for word in mine]] = 1 / len(mine)
    (height, width), shape = item.record.size, item.pixels.shape[:2]
    scale = np.array([shape[1] / width, shape[0] / height] * 2, np.float32)
    truth = np.zeros((len(shares), _up(max(len(p.objects) for p in asked), 8), 4), np.float32)
    valid = np.zeros(truth.shape[:2], bool)
    for i, phrase in enumerate(asked):
        mine = item.record.boxes[list(phrase.objects)] * scale
        truth[i, : len(mine)], valid[i, : len(mine)] = mine, True
    small = phrases.is_small(truth, shape[0] * shape[1], valid)
    found = explain(jnp.asarray(item.pixels)[None], jnp.asarray(signals))
    maps = {name: own_maps[0] for name, own_maps in found.items()}
    # As large as a method's maps: one program less.
    sizes = [m.shape for m in maps.values()] or [(signals.shape[1], 2, 2)]
    maps = {UNIFORM: jnp.ones(sizes[0]), **maps}

    answers: dict[str, Any] = {}
    for kind, regions in proposals.items():
        boxes, there = _padded(_boxes_of(regions) * scale)
        masks = None if regions.masks is None else _sized(regions.masks, len(boxes), shape)
        for name, own_maps in maps.items():
            scores = _map_scores(own_maps, shares, boxes if masks is None else masks, shape)
            row = f"{name} ({kind})" if kind else name
            answers[row] = _judged(scores, boxes, there, truth, valid, _NMS)
        if regions.scores is not None:
            scores = np.zeros((len(shares), 1, len(boxes)), np.float32)
            scores[..., : len(regions.scores)] = regions.scores
            row = f"{kind} base" if kind else BASE
            answers[row] = _judged(scores, boxes, there, truth, valid, _NMS)
    for name, by_phrase in given.items():
        answers[name] = [
            _judged(scores[None, None], boxes, there, truth[i : i + 1], valid[i : i + 1], None)[0]
            for i, phrase in enumerate(asked)
            for boxes, there, scores in [_predicted(by_phrase.get(phrase_key(phrase.text)), scale)]
        ]
    for i, phrase in enumerate(asked):
        one = {name: found[i] for name, found in answers.items()}
        text = phrase_key(phrase.text)
        yield Answered(text, phrase.groups, held, bool(small[i]), len(phrase.objects), one)


def _boxes_of(regions: Proposals) -> np.ndarray:
    """The boxes, or the tightest ones around the segments: float32 ``(n, 4)``."""
    if regions.boxes is not None:
        return regions.boxes
    return np.asarray(postprocess.tightest_box(jnp.asarray(regions.masks)), np.float32)


def _padded(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with others behind them, up to a multiple of 64; and which are there."""
    padded = np.zeros((_up(max(len(boxes), 1), 64), 4), np.float32)
    padded[: len(boxes)] = boxes
    return padded, np.arange(len(padded)) < len(boxes)


def _sized(masks: np.ndarray, count: int, shape: tuple[int, int]) -> np.ndarray:
    """``count`` masks at the input's size, by the pixel of the image in which a centre lies."""
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int)
        for n, m in zip(shape, masks.shape[1:], strict=True)
    )
    sized = np.zeros((count, *shape), bool)
    sized[: len(masks)] = masks[:, rows][:, :, columns]
    return sized


def _predicted(
    predicted: Proposals | None, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(boxes in the input's pixels, which are there, scores) that somebody predicts, padded."""
    if predicted is None or predicted.scores is None:
        return (*_padded(np.zeros((0, 4), np.float32)), np.zeros(64, np.float32))
    boxes, there = _padded(_boxes_of(predicted) * scale)
    scores = np.zeros(len(boxes), np.float32)
    scores[: len(predicted.scores)] = predicted.scores
    return boxes, there, scores


@functools.partial(jax.jit, static_argnums=3)
def _map_scores(maps, shares, regions, shape) -> jax.Array:
    """The scores ``(P, G, N)`` of boxes ``(N, 4)`` or segments ``(N, h, w)`` for every gamma."""
    maps = postprocess.positive(maps.astype(jnp.float32))
    means = jnp.einsum("pk,khw->phw", shares, maps, precision=jax.lax.Precision.HIGHEST)
    means = postprocess.positive(postprocess.resize(means, shape, "bicubic"))
    if regions.ndim == 2:
        every = jnp.broadcast_to(regions, (len(shares), *regions.shape))
        return jax.vmap(lambda g: phrases.score_boxes(means, every, g), out_axes=1)(phrases.GAMMAS)

    def some(segments):  # as numbers they take 4 bytes a pixel: not all at once
        def of_one(mean):
            return jax.vmap(lambda g: phrases.score_segments(mean, segments, g))(phrases.GAMMAS)

        return jax.vmap(of_one)(means)

    found = jax.lax.map(some, regions.reshape(-1, 64, *shape))
    return jnp.moveaxis(found, 0, 2).reshape(len(shares), len(phrases.GAMMAS), -1)


def _judged(scores, boxes, there, truth, valid, nms) -> list[list[Judged]]:
    """For every phrase and gamma: hits ``(3,)``, scores and whether right, of what stays."""
    judged = jax.device_get(_judge(scores, boxes, there, truth, valid, nms))
    return [
        [(h, own[s], r[s]) for h, own, r, s in zip(*one, strict=True)]
        for one in zip(*judged, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=5)
def _judge(scores, boxes, there, truth, valid, nms) -> tuple[jax.Array, ...]:
    """Hits ``(P, G, 3)``; scores, right and stays ``(P, G, N)``: for every phrase and gamma."""
    scores = jnp.asarray(scores)
    whole = phrases.union_box(truth, valid)

    def one(scores, truth, valid, whole):
        stays = there if nms is None else localisation.nms(boxes, scores, nms, there)
        hits = phrases.recall_at(boxes, scores, whole, KS, valid=stays)
        right = phrases.match(boxes, scores, truth, valid=stays, truth_valid=valid)
        return hits, scores, right, stays

    over_gammas = jax.vmap(one, (0, None, None, None))
    return jax.vmap(over_gammas)(scores, truth, valid, whole)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
