"""Phrase localisation over a data set (Zhang et al. 2018, section 6.3): a runner of `phrases`.

The maps of a phrase's words are averaged; boxes that are proposed for the image are scored by the
phrase's map, thinned out by non-maximum suppression, and compared with the boxes that it means.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import data, postprocess
from jaxplain.core import Table
from jaxplain.data.words import Words
from jaxplain.evaluation import localisation, phrases
from jaxplain.evaluation.studies.report import Report, percent

__all__ = ["KS", "UNIFORM", "Localised", "Scores", "phrase_study", "sliding_boxes"]

#: How many boxes may be proposed for a phrase.
KS = (1, 5, 10)
#: The baseline whose map is the same everywhere.
UNIFORM = "Uniform map"
_NMS = 0.7  # section 6.3.1


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a method came to on a set of phrases; NaN where there is none.

    Attributes:
        recall: at 1, 5 and 10.
        group_ap, phrase_ap: average precision, its mean over groups and over different phrases.
        group_recall: group -> recall at 5 (Table 7).
    """

    recall: tuple[float, ...]
    group_ap: float
    phrase_ap: float
    group_recall: Mapping[str, float]


class Localised(NamedTuple):
    """What a method came to.

    Attributes:
        gamma: that was chosen for it.
        everything, small: its scores on all phrases, and on small instances.
    """

    gamma: float
    everything: Scores
    small: Scores


@dataclasses.dataclass(frozen=True, eq=False)
class _Phrase:
    """A phrase that was localised; ``answers``: method -> what `_judge` found, one per gamma."""

    text: str
    groups: tuple[str, ...]
    held: bool
    small: bool
    positives: int
    answers: Mapping[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]


def sliding_boxes(record: data.Record) -> np.ndarray:
    """Proposals for an image that nobody has made any for: 289 windows, float32 ``(289, 4)``.

    Heights and widths are 1/4, 1/2, 3/4 and all of the image's, ten, four, two and one of them
    along each side at equal distances.

    Example:
        >>> record = data.Record.make(np.zeros((40, 80, 3), np.uint8), "a")
        >>> boxes = sliding_boxes(record)
        >>> boxes.shape, boxes[0].tolist(), boxes[-1].tolist()
        ((289, 4), [0.0, 0.0, 20.0, 10.0], [0.0, 0.0, 80.0, 40.0])
    """
    spans = np.concatenate(
        [
            np.stack([(first := np.linspace(0, 1 - side, n)), first + side], axis=1)
            for side, n in ((0.25, 10), (0.5, 4), (0.75, 2), (1.0, 1))
        ]
    )
    rows, columns = np.repeat(spans, len(spans), axis=0), np.tile(spans, (len(spans), 1))
    height, width = record.size
    boxes = np.stack(
        [columns[:, 0] * width, rows[:, 0] * height, columns[:, 1] * width, rows[:, 1] * height],
        axis=1,
    )
    return boxes.astype(np.float32)


def phrase_study(
    source: data.Source,
    prepare: Callable[[data.Record], np.ndarray],
    to_input: Callable[[jax.Array], jax.Array],
    words: Words,
    methods: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]],
    held_out: Iterable[int],
    *,
    proposals: Callable[[data.Record], np.ndarray] = sliding_boxes,
    indices: Iterable[int] | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report[dict[str, Localised]]:
    """Localises the phrases of captions.

    A phrase is asked for if it means at least one box and the network knows at least one of its
    words; the words that it does not know are skipped. Where it means several boxes, recall
    compares with the one around them all, and average precision with each of them. The gamma of
    ``f(R) = S_R / A_R^gamma`` with the best mean of the three recalls on the held-out images is
    taken for the others.

    Args:
        source: records with phrases.
        prepare, to_input, indices, workers, progress: as for `pointing_game`.
        words: what the network knows.
        methods: name -> images ``(1, h, w, 3)`` and signals ``(1, K, N)`` to maps ``(1, K, h',
            w')``; the positive part of a map counts, bicubically resized.
        held_out: numbers of the images on which gamma is chosen.
        proposals: a record to the boxes ``(n, 4)`` that are proposed, in the image's pixels.

    Returns:
        A `Report` whose results are method -> `Localised`; the first method is `UNIFORM`.

    Raises:
        ValueError: no phrase that could be asked for among the held-out images or among the others,
            or an image without proposals.
    """
    held_out, found = frozenset(held_out), []
    failures: list[tuple[str, str]] = []
    images = unknown = 0
    chosen = list(range(len(source)) if indices is None else indices)
    loaded = data.load(source, prepare, indices=chosen, workers=workers)
    for done, item in enumerate(loaded, 1):
        if item.error is not None:
            failures.append((item.error.record, item.error.reason))
            continue
        images += 1
        visible = [p for p in item.record.phrases if p.objects]
        asked = [p for p in visible if words.known(p.text)]
        unknown += len(visible) - len(asked)
        if asked:
            boxes = np.asarray(proposals(item.record), np.float32).reshape(-1, 4)
            if not len(boxes):
                raise ValueError(f"there is no proposal for the image {item.record.id}")
            found += _localise(item, asked, boxes, to_input, words, methods, item.index in held_out)
        if progress is not None:
            progress(done, len(chosen))
    tested = [p for p in found if not p.held]
    if not tested or len(tested) == len(found):
        raise ValueError(
            f"{len(found) - len(tested)} of {len(found)} phrases that the network knows are in "
            "held-out images; some must be, and some not"
        )
    results = {}
    for name in (UNIFORM, *methods):
        recalls = [np.stack([a[0] for a in p.answers[name]]) for p in found if p.held]
        g = int(np.mean(recalls, axis=(0, 2)).argmax())
        both = (_scores(part, name, g) for part in (tested, [p for p in tested if p.small]))
        results[name] = Localised(float(phrases.GAMMAS[g]), *both)
    counts = {
        "images": images,
        "phrases": len(tested),
        "small": sum(p.small for p in tested),
        "unknown": unknown,
        "held_out": len(found) - len(tested),
    }
    return _report(results, counts, tuple(failures))


def _report(
    results: dict[str, Localised], counts: dict[str, int], failures: tuple[tuple[str, str], ...]
) -> Report[dict[str, Localised]]:
    """The paper's Tables 6 (all / small instances) and 7."""
    heads = ["gamma", *(f"R@{k}" for k in KS), "mAP (group)", "mAP (phrase)"]
    groups = list(results[UNIFORM].everything.group_recall)
    rows, by_group = [], []
    for name, (gamma, *both) in results.items():
        pairs = zip(*((*s.recall, s.group_ap, s.phrase_ap) for s in both), strict=True)
        rows.append((name, f"{gamma:.2f}", *(f"{percent(a)} / {percent(b)}" for a, b in pairs)))
        at5 = list(both[0].group_recall.values())
        by_group.append((name, *map(percent, [*at5, float(np.mean(at5))])))
    return Report(
        "phrase localisation",
        "Phrase localisation",
        [
            ("", Table(rows, ["method", *heads], right=heads)),
            ("", Table(by_group, ["recall at 5", *groups, "mean"], right=[*groups, "mean"])),
        ],
        [
            f"{counts['images']} images; {counts['phrases']} phrases, {counts['small']} of them "
            f"small instances; {counts['unknown']} more have no word that the network knows. Per "
            f"cent; all / small instances. Gamma was chosen on {counts['held_out']} other phrases."
        ],
        results,
        {
            **counts,
            "recall_at": KS,
            "methods": {
                name: {
                    "gamma": found.gamma,
                    "all": dataclasses.asdict(found.everything),
                    "small": dataclasses.asdict(found.small),
                }
                for name, found in results.items()
            },
        },
        _draw,
        failures,
    )


def _draw(report: Report[dict[str, Localised]]) -> Any:
    """Recall at 5 of every group of phrases: the paper's Table 7 as bars."""
    from jaxplain.viz import charts

    recalls = {name: found.everything.group_recall for name, found in report.results.items()}
    return charts.group_bars(
        {name: [100 * v for v in recall.values()] for name, recall in recalls.items()},
        list(recalls[UNIFORM]),
        "recall at 5 (%)",
        report.title,
    )


def _localise(
    item: data.Item,
    asked: Sequence[data.Phrase],
    boxes: np.ndarray,
    to_input: Callable,
    words: Words,
    methods: Mapping[str, Callable],
    held: bool,
) -> Iterator[_Phrase]:
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
    padded = np.zeros((_up(len(boxes), 64), 4), np.float32)
    padded[: len(boxes)] = boxes * scale
    there = np.arange(len(padded)) < len(boxes)
    truth = np.zeros((len(shares), _up(max(len(p.objects) for p in asked), 8), 4), np.float32)
    valid = np.zeros(truth.shape[:2], bool)
    for i, phrase in enumerate(asked):
        mine = item.record.boxes[list(phrase.objects)] * scale
        truth[i, : len(mine)], valid[i, : len(mine)] = mine, True
    small = phrases.is_small(truth, shape[0] * shape[1], valid)
    x = to_input(jnp.asarray(item.pixels)[None])
    maps = {name: explain(x, jnp.asarray(signals))[0] for name, explain in methods.items()}
    # As large as a method's maps: one program less.
    sizes = [m.shape for m in maps.values()] or [(signals.shape[1], 2, 2)]
    answers: dict[str, Any] = {}
    for name, own_maps in {UNIFORM: jnp.ones(sizes[0]), **maps}.items():
        judged = jax.device_get(_judge(own_maps, shares, padded, there, truth, valid, shape))
        answers[name] = [
            [(hits[g], scores[g][stays[g]], right[g][stays[g]]) for g in range(len(phrases.GAMMAS))]
            for hits, scores, right, stays in zip(*judged, strict=True)
        ]
    for i, phrase in enumerate(asked):
        one = {name: found[i] for name, found in answers.items()}
        text = " ".join(phrase.text.casefold().split())
        yield _Phrase(text, phrase.groups, held, bool(small[i]), len(phrase.objects), one)


@functools.partial(jax.jit, static_argnums=6)
def _judge(maps, shares, boxes, there, truth, valid, shape) -> tuple[jax.Array, ...]:
    """Hits ``(P, G, 3)``; scores, right and stays ``(P, G, N)``: for every phrase and gamma."""
    maps = postprocess.positive(maps.astype(jnp.float32))
    means = jnp.einsum("pk,khw->phw", shares, maps, precision=jax.lax.Precision.HIGHEST)
    means = postprocess.positive(postprocess.resize(means, shape, "bicubic"))
    whole = phrases.union_box(truth, valid)

    def one(scores, truth, valid, whole):
        stays = localisation.nms(boxes, scores, _NMS, there)
        hits = phrases.recall_at(boxes, scores, whole, KS, valid=stays)
        right = phrases.match(boxes, scores, truth, valid=stays, truth_valid=valid)
        return hits, scores, right, stays

    every = jnp.broadcast_to(boxes, (len(shares), *boxes.shape))
    scores = jax.vmap(lambda g: phrases.score_boxes(means, every, g), out_axes=1)(phrases.GAMMAS)
    over_gammas = jax.vmap(one, (0, None, None, None))
    return jax.vmap(over_gammas)(scores, truth, valid, whole)


def _scores(found: Sequence[_Phrase], name: str, g: int) -> Scores:
    if not found:
        return Scores((float("nan"),) * len(KS), float("nan"), float("nan"), {})
    hits = np.stack([p.answers[name][g][0] for p in found])
    groups: dict[str, list[_Phrase]] = {}
    texts: dict[str, list[_Phrase]] = {}
    for phrase in found:
        texts.setdefault(phrase.text, []).append(phrase)
        for group in phrase.groups:
            groups.setdefault(group, []).append(phrase)
    order = [g for g in data.FLICKR30K_GROUPS if g in groups]
    order += sorted(set(groups) - set(order))
    at5 = {
        k: float(np.mean([p.answers[name][g][0][KS.index(5)] for p in groups[k]])) for k in order
    }
    group_ap = np.mean([_ap(own, name, g) for own in groups.values()])
    phrase_ap = np.mean([_ap(own, name, g) for own in texts.values()])
    return Scores(tuple(hits.mean(0).tolist()), float(group_ap), float(phrase_ap), at5)


def _ap(found: Sequence[_Phrase], name: str, g: int) -> float:
    """Average precision over the detections of several phrases together."""
    scores, right = (np.concatenate([p.answers[name][g][k] for p in found]) for k in (1, 2))
    size = max(256, 1 << (len(scores) - 1).bit_length())  # few shapes
    there = np.arange(size) < len(scores)
    scores, right = (np.resize(v, size) for v in (scores, right))
    positives = sum(p.positives for p in found)
    return float(_average_precision(scores, right, positives, there))


@jax.jit
def _average_precision(scores, right, positives, there) -> jax.Array:
    return phrases.average_precision(scores, right, positives, valid=there)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
