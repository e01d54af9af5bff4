"""Phrase localisation over a data set (Zhang et al. 2018, section 6.3): a runner of `phrases`.

The maps of a phrase's words are averaged; boxes or segments that are proposed for the image are
scored by the phrase's map, their boxes thinned out by non-maximum suppression, and compared with
the boxes that it means. Beside the maps stand the proposals' own scores, which know no phrase
("MCG_base" in the paper), and boxes that others predict for the phrases ("CCA").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain import data
from jaxplain.core import Table
from jaxplain.data.proposals import Proposals
from jaxplain.data.words import Words
from jaxplain.evaluation import phrases
from jaxplain.evaluation.studies.phrase_answers import KS, Answered, answers_of
from jaxplain.evaluation.studies.questions import together
from jaxplain.evaluation.studies.report import INTERVAL, Report, percent, share_interval

__all__ = ["Localised", "Scores", "phrase_study", "sliding_boxes"]


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
        gamma: that was chosen for it; NaN where nothing is scored by a map.
        everything, small: its scores on all phrases, and on small instances.
    """

    gamma: float
    everything: Scores
    small: Scores


def sliding_boxes(record: data.Record) -> Proposals:
    """Proposals for an image that nobody has made any for: 289 windows.

    Heights and widths are 1/4, 1/2, 3/4 and all of the image's, ten, four, two and one of them
    along each side at equal distances.

    Example:
        >>> record = data.Record.make(np.zeros((40, 80, 3), np.uint8), "a")
        >>> boxes = sliding_boxes(record).boxes
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
    return Proposals(boxes.astype(np.float32))


_SLIDING: Mapping[str, Callable[[data.Record], Proposals]] = {"": sliding_boxes}


def phrase_study(
    source: data.Source,
    prepare: Callable[[data.Record], np.ndarray],
    to_input: Callable[[jax.Array], jax.Array],
    words: Words,
    methods: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]],
    held_out: Iterable[int] = (),
    *,
    tuning: tuple[data.Source, Iterable[int]] | None = None,
    proposals: Mapping[str, Callable[[data.Record], Proposals]] = _SLIDING,
    given: Mapping[str, Callable[[data.Record], Mapping[str, Proposals]]] | None = None,
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
        tuning: or another source for that, such as another split, and which of its records.
        proposals: name of a set of proposals -> a record to those for it. Every method has a row
            with every set, as "c-MWP (MCG)", and so have the proposals' own scores, where they
            have any, as "MCG base"; a set named "" adds nothing to the names.
        given: name of a row -> a record to the scored boxes that somebody predicts for its phrases
            (by `phrase_key`). They are taken as they are; a phrase without any is not found.

    Returns:
        A `Report` whose results are row -> `Localised`; the first row is `UNIFORM`.

    Raises:
        ValueError: no phrase that could be asked for among the held-out images or among the others,
            an image without proposals.
    """
    given = {} if given is None else given
    held = frozenset(held_out)
    found: list[Answered] = []
    failures: list[tuple[str, str]] = []
    images = unknown = 0
    chosen = [(source, list(range(len(source)) if indices is None else indices))]
    if tuning is not None:
        chosen.append((tuning[0], list(tuning[1])))
    loaded = (
        (number, item)
        for number, (which, own) in enumerate(chosen)
        for item in data.load(which, prepare, indices=own, workers=workers)
    )
    total = sum(len(own) for _, own in chosen)
    explain = together(methods, to_input)
    for done, (number, item) in enumerate(loaded, 1):
        if item.error is not None:
            failures.append((item.error.record, item.error.reason))
            continue
        images += 1
        visible = [p for p in item.record.phrases if p.objects]
        asked = [p for p in visible if words.known(p.text)]
        unknown += len(visible) - len(asked)
        if asked:
            regions = {name: propose(item.record) for name, propose in proposals.items()}
            for one in regions.values():
                if not len(one):
                    raise ValueError(f"there is no proposal for the image {item.record.id}")
            boxes = {name: predict(item.record) for name, predict in given.items()}
            is_held = number == 1 or item.index in held
            found += answers_of(item, asked, regions, boxes, words, explain, is_held)
        if progress is not None:
            progress(done, total)
    tested = [p for p in found if not p.held]
    if not tested or len(tested) == len(found):
        raise ValueError(
            f"{len(found) - len(tested)} of {len(found)} phrases that the network knows are in "
            "held-out images; some must be, and some not"
        )
    results = {}
    for name in _rows_of_all(found):
        recalls = [np.stack([a[0] for a in p.answers[name]]) for p in found if p.held]
        g = int(np.mean(recalls, axis=(0, 2)).argmax())
        both = (_scores(part, name, g) for part in (tested, [p for p in tested if p.small]))
        by_map = len(recalls[0]) > 1
        results[name] = Localised(float(phrases.GAMMAS[g]) if by_map else float("nan"), *both)
    counts = {
        "images": images,
        "phrases": len(tested),
        "small": sum(p.small for p in tested),
        "unknown": unknown,
        "held_out": len(found) - len(tested),
    }
    return _report(results, counts, tuple(failures))


def _rows_of_all(found: Sequence[Answered]) -> list[str]:
    """The rows that every phrase has; an error where only some images' proposals have scores."""
    rows = list(found[0].answers)
    for phrase in found:
        if different := set(rows) ^ set(phrase.answers):
            raise ValueError(
                f"some images' proposals have scores and others none ({', '.join(different)}); all "
                "must have them, or none"
            )
    return rows


def _report(
    results: dict[str, Localised], counts: dict[str, int], failures: tuple[tuple[str, str], ...]
) -> Report[dict[str, Localised]]:
    """The paper's Tables 6 (all / small instances) and 7."""
    heads = ["gamma", *(f"R@{k}" for k in KS), "mAP (group)", "mAP (phrase)"]
    groups = list(next(iter(results.values())).everything.group_recall)
    rows, by_group = [], []
    for name, (gamma, *both) in results.items():
        pairs = zip(*((*s.recall, s.group_ap, s.phrase_ap) for s in both), strict=True)
        shown = "-" if math.isnan(gamma) else f"{gamma:.2f}"
        rows.append((name, shown, *(f"{percent(a)} / {percent(b)}" for a, b in pairs)))
        at5 = list(both[0].group_recall.values())
        by_group.append((name, *map(percent, [*at5, float(np.mean(at5))])))
    asked = counts["phrases"]
    spans = [
        (name, *(share_interval(round(r * asked) if asked else 0, asked) for r in found.recall))
        for name, (_, found, _) in results.items()
    ]
    recalls = heads[1 : 1 + len(KS)]
    return Report(
        "phrase localisation",
        "Phrase localisation",
        [
            ("", Table(rows, ["method", *heads], right=heads)),
            ("", Table(by_group, ["recall at 5", *groups, "mean"], right=[*groups, "mean"])),
            ("", Table(spans, [f"{INTERVAL}, all", *recalls], right=recalls)),
        ],
        [
            f"{counts['images']} images; {counts['phrases']} phrases, {counts['small']} of them "
            f"small instances; {counts['unknown']} more have no word that the network knows. Per "
            f"cent; all / small instances. Gamma was chosen on {counts['held_out']} other phrases. "
            "Intervals are Wilson's."
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
        list(next(iter(recalls.values()))),
        "recall at 5 (%)",
        report.title,
    )


def _scores(found: Sequence[Answered], name: str, g: int) -> Scores:
    if not found:
        return Scores((float("nan"),) * len(KS), float("nan"), float("nan"), {})
    hits = np.stack([p.answers[name][g][0] for p in found])
    groups: dict[str, list[Answered]] = {}
    texts: dict[str, list[Answered]] = {}
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


def _ap(found: Sequence[Answered], name: str, g: int) -> float:
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
