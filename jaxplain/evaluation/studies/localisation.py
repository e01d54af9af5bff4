"""Objects found by their maps over a data set: two protocols, both with boxes and IoU >= 0.5.

- `dominant_objects` (Zhang et al. 2018, section 6.2): the tightest box around the pixels above
  ``alpha`` times the mean of the map, ``alpha`` chosen for each method on held-out images;
- `graph_cut_objects` (Cao et al. 2015, section 4.2): the map seeds a graph cut of the picture.

The class is given; or, for the graph cut, it must be among the network's best (the "top 5" of
ImageNet's localisation). Images are stretched to the network's square, and everything is measured
in it: that changes no intersection over union.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import postprocess
from jaxplain.core import Table
from jaxplain.evaluation import localisation
from jaxplain.evaluation.intervals import wilson
from jaxplain.evaluation.studies.questions import Explainer, Questions, boxes_of, together
from jaxplain.evaluation.studies.report import INTERVAL, Report, percent, share_interval
from jaxplain.explainers import segmentation

__all__ = [
    "WHOLE",
    "Found",
    "dominant_objects",
    "graph_cut_objects",
    "held_out_images",
]

#: The baseline whose box is the whole image.
WHOLE = "Whole image"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a method came to.

    Attributes:
        hits, trials: of the images that were tested.
        alpha: the threshold, where there is one.
        held_out: hits on the held-out images, one each alpha; and how many trials these were.
        empty: maps without anything to start a graph cut from, which count as misses.
    """

    hits: int
    trials: int
    alpha: float | None = None
    held_out: tuple[tuple[int, ...], int] | None = None
    empty: int = 0

    @property
    def error(self) -> float:
        return 1 - self.hits / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of the error."""
        low, high = wilson(self.trials - self.hits, self.trials)
        return float(low), float(high)


def held_out_images(count: int, held_out: int, seed: int = 0) -> frozenset[int]:
    """Which of ``count`` images are held out: ``held_out`` of them, drawn at random.

    Raises:
        ValueError: none would be held out, or none left.

    Example:
        >>> sorted(held_out_images(10, 3))
        [2, 4, 6]
    """
    if not 0 < held_out < count:
        raise ValueError(f"of {count} images, 1 to {count - 1} can be held out, not {held_out}")
    return frozenset(np.random.default_rng(seed).permutation(count)[:held_out].tolist())


def dominant_objects(
    asked: Questions,
    to_input: Callable[[jax.Array], jax.Array],
    methods: Mapping[str, Explainer],
    held_out: Iterable[int],
    *,
    iou: float = 0.5,
) -> Report[dict[str, Found]]:
    """Localises dominant objects by thresholding (Zhang et al. 2018, section 6.2).

    Args:
        asked: the questions, with images of one square shape.
        to_input: pixels ``(B, h, w, 3)`` to the network's input, see `data.normalise`.
        methods: name -> method; the positive part of its maps counts, bicubically resized.
        held_out: the images (numbers in the source) on which each method's alpha is chosen, that of
            the lowest error (the smallest of several); the others are the test.
        iou: the overlap with one of the true boxes that is asked for.

    Returns:
        A `Report` whose results are method -> `Found`; the first method is ``WHOLE``.

    Raises:
        ValueError: records without boxes; no question among the held-out images, or among the
            others.
    """
    held_out = frozenset(held_out)
    hits: dict[str, list[np.ndarray]] = {name: [] for name in (WHOLE, *methods)}
    is_held: list[bool] = []
    explain = together(methods)
    for group, x, truth, valid in _asked(asked, to_input):
        count = len(group.questions)
        is_held += [q.item.index in held_out for q in group.questions]
        whole = jnp.array([0, 0, x.shape[2], x.shape[1]], jnp.float32)
        good = localisation.is_localised(jnp.tile(whole, (len(truth), 1)), truth, valid, iou)
        hits[WHOLE].append(np.asarray(good)[:count, None])
        for name, maps in explain(x, group.signals).items():
            good = _thresholded(_flat(maps), truth, valid, x.shape[1:3], iou)
            hits[name].append(np.asarray(good)[:count])
    held = np.array(is_held)
    if held.all() or not held.any():
        raise ValueError(
            f"{int(held.sum())} of {len(held)} questions are about held-out images; some must be, "
            "and some not"
        )
    results = {}
    for name, parts in hits.items():
        good = np.concatenate(parts)
        if name == WHOLE:
            results[name] = Found(int(good[~held].sum()), int((~held).sum()))
            continue
        alpha = float(localisation.best_alpha(localisation.localisation_error(good[held])))
        tested = good[~held][:, int(np.searchsorted(localisation.ALPHAS, alpha))]
        chosen_on = tuple(int(n) for n in good[held].sum(0)), int(held.sum())
        results[name] = Found(int(tested.sum()), len(tested), alpha, chosen_on)
    return _report(
        "dominant objects",
        "Localisation of dominant objects",
        iou,
        asked,
        results,
        f" Alpha was chosen on {int(held.sum())} other questions.",
        _draw_alphas,
    )


def graph_cut_objects(
    asked: Questions,
    to_input: Callable[[jax.Array], jax.Array],
    methods: Mapping[str, Explainer],
    *,
    predictions: Callable[[jax.Array], jax.Array] | None = None,
    given: Mapping[str, Mapping[str, Sequence[tuple[int, Any]]]] | None = None,
    iou: float = 0.5,
    **options: Any,
) -> Report[dict[str, Found]]:
    """Localises objects by a graph cut that a map seeds (Cao et al. 2015, section 4.2).

    Args:
        asked, to_input, methods, iou: as for `dominant_objects`.
        predictions: the network's input to its best classes ``(B, k)``, numbers of outputs, the
            best first. An image's class then counts as localised only if one of these belongs to
            it, by the box of that output's map (Table 1); None asks for the class itself (Tables 2
            and 3).
        given: name -> boxes that come from elsewhere, such as from a network that was trained to
            predict them: id of a record -> its predicted (class, box in the image's pixels), the
            best first. Of these the first of the class that is asked for counts, or any among the
            first k if there are ``predictions``.
        **options: ``foreground``, ``background``, ``segmentation``, ``strength``, ``iterations`` of
            `jaxplain.explainers.segmentation.graph_cut`.

    Raises:
        ValueError: records without boxes, or a map that is not finite.
        ImportError: OpenCV is not installed, for GrabCut.
    """
    given = {} if given is None else given
    hits: dict[str, list[bool]] = {name: [] for name in (WHOLE, *methods, *given)}
    empty = dict.fromkeys(methods, 0)
    known, best, boxed = 0, 0, dict.fromkeys(given, 0)
    explain = together(methods)
    for group, x, truth, valid in _asked(asked, to_input):
        count, shape = len(group.questions), x.shape[1:3]
        asked_each = group.signals.shape[1]
        pictures = np.repeat(np.asarray(group.pixels), asked_each, axis=0)
        if predictions is None:
            rounds = [(group.signals, np.ones(count, bool))]
        else:
            classes = np.repeat(np.asarray(predictions(x)), asked_each, axis=0)
            best = classes.shape[1]
            signals = np.asarray(group.signals)
            rounds = _rounds(signals.reshape(len(classes), -1), classes, count)
            rounds = [(one.reshape(signals.shape), asked_for) for one, asked_for in rounds]
        there = np.any([asked_for for _, asked_for in rounds], axis=0) & np.ones(count, bool)
        known += int(there.sum())

        def right(boxes, truth=truth, valid=valid, count=count):
            return np.asarray(localisation.is_localised(jnp.asarray(boxes), truth, valid, iou))[
                :count
            ]

        whole = np.tile(np.array([0, 0, shape[1], shape[0]], np.float32), (len(truth), 1))
        hits[WHOLE] += (right(whole) & there).tolist()
        explained = [(explain(x, signals), asked_for) for signals, asked_for in rounds]
        for name in methods:
            good = np.zeros(count, bool)
            for found_maps, asked_for in explained:
                maps = np.asarray(_enlarged(_flat(found_maps[name]), shape))
                if not np.isfinite(maps).all():
                    raise ValueError(f"{name} gave a map that is not finite")
                found = np.zeros((len(truth), 4), np.float32)
                for i in np.flatnonzero(asked_for):
                    if maps[i].max() > np.quantile(maps[i], options.get("background", 0.3)):
                        mask = segmentation.graph_cut(maps[i], pictures[i], **options)
                        found[i] = postprocess.tightest_box(mask)
                    else:
                        empty[name] += 1
                good |= right(found) & asked_for
            hits[name] += good.tolist()
        for name, by_record in given.items():
            good = np.zeros(count, bool)
            boxed[name] += sum(q.item.record.id in by_record for q in group.questions)
            for boxes, asked_for in _given(group.full, by_record, shape, best):
                good |= right(boxes) & asked_for[:count]
            hits[name] += good.tolist()
    results = {
        name: Found(sum(good), len(good), empty=empty.get(name, 0)) for name, good in hits.items()
    }
    nothing = ", ".join(f"{name} {found.empty}" for name, found in results.items() if found.empty)
    note = f" Maps without a maximum to start from: {nothing}." if nothing else ""
    if predictions is not None:
        total = results[WHOLE].trials
        note = f" The class was among the network's {best} best in {known} of {total}.{note}"
    for name, number in boxed.items():
        note += f" {name}: boxes for {number} of {len(hits[name])} questions."
    report = _report(
        "graph-cut localisation",
        "Localisation by graph cut" + ("" if predictions is None else f", top {best} predictions"),
        iou,
        asked,
        results,
        note,
        _draw_errors,
    )
    if predictions is None:
        return report
    return dataclasses.replace(report, details={**report.details, "top": best, "known": known})


def _rounds(
    signals: np.ndarray, classes: np.ndarray, count: int
) -> list[tuple[jax.Array, np.ndarray]]:
    """What to ask for: each image's first prediction that belongs to its class, then its second...

    Args:
        signals: ``(B, N)``, what the classes are to the outputs.
        classes: ``(B, k)``, the outputs that are predicted.
        count: how many of the images are questions.

    Returns:
        (one-hot signals ``(B, N)``, bool ``(count,)``: whose question this round is about) pairs.
    """
    own = [[n for n in row if signal[n] > 0] for row, signal in zip(classes, signals, strict=True)]
    rounds = []
    for j in range(max(map(len, own[:count]), default=0)):
        one_hot = np.zeros_like(signals)
        for i, mine in enumerate(own):
            one_hot[i, mine[j] if j < len(mine) else 0] = 1
        rounds.append((jnp.asarray(one_hot), np.array([j < len(mine) for mine in own[:count]])))
    return rounds


def _given(
    full: Sequence[Any],
    by_record: Mapping[str, Sequence[tuple[int, Any]]],
    shape: tuple[int, int],
    best: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(boxes ``(B, 4)`` in the input's pixels, bool ``(B,)`` where there are any), until none is.

    ``best`` is how many of an image's predictions count; 0 for the first of its class.
    """
    own = []
    for question in full:
        predictions = by_record.get(question.item.record.id, ())
        mine = [box for label, box in predictions[: best or None] if label == question.label]
        own.append(mine if best else mine[:1])
    for j in range(max(map(len, own))):
        boxes = np.zeros((len(full), 4), np.float32)
        for i, (mine, question) in enumerate(zip(own, full, strict=True)):
            if j < len(mine):
                height, width = question.item.record.size
                boxes[i] = np.asarray(mine[j]) * np.array([shape[1] / width, shape[0] / height] * 2)
        yield boxes, np.array([j < len(mine) for mine in own])


def _asked(asked: Questions, to_input: Callable) -> Iterator[tuple]:
    """(group, input, true boxes (B, n, 4) in the input's pixels, which of them are there)."""
    for group in asked:
        x = to_input(group.pixels)
        own = [boxes_of(q) for q in group.full]
        count = -(-max(map(len, own)) // 8) * 8  # few shapes
        truth = np.zeros((len(own), count, 4), np.float32)
        valid = np.zeros((len(own), count), bool)
        for i, (boxes, question) in enumerate(zip(own, group.full, strict=True)):
            height, width = question.item.record.size
            scale = np.array([x.shape[2] / width, x.shape[1] / height] * 2, np.float32)
            truth[i, : len(boxes)], valid[i, : len(boxes)] = boxes * scale, True
        yield group, x, jnp.asarray(truth), jnp.asarray(valid)


def _flat(maps: jax.Array) -> jax.Array:
    """Maps ``(B, K, h, w)``, one after another."""
    return maps.reshape(-1, *maps.shape[-2:])


@functools.partial(jax.jit, static_argnums=1)
def _enlarged(maps: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return postprocess.positive(postprocess.resize(maps.astype(jnp.float32), shape, "bicubic"))


@functools.partial(jax.jit, static_argnums=3)
def _thresholded(maps, truth, valid, shape, iou) -> jax.Array:
    """Whether the box of each alpha is right: ``(B, A)``."""
    boxes = localisation.threshold_boxes(_enlarged(maps, shape))
    return localisation.is_localised(boxes, truth[:, None], valid[:, None], iou)


def _report(
    protocol: str,
    title: str,
    iou: float,
    asked: Questions,
    results: dict[str, Found],
    note: str,
    draw: Callable[[Report[dict[str, Found]]], Any],
) -> Report[dict[str, Found]]:
    """The error in per cent (Table 5 of Zhang et al., Table 3 of Cao et al.)."""
    rows = [
        (
            name,
            "-" if found.alpha is None else f"{found.alpha:.1f}",
            percent(found.error),
            f"{found.hits} of {found.trials}",
            share_interval(found.trials - found.hits, found.trials),
        )
        for name, found in results.items()
    ]
    heads = ["alpha", "error", "localised", f"error's {INTERVAL}"]
    if all(found.alpha is None for found in results.values()):
        heads, rows = heads[1:], [(name, *cells) for name, _, *cells in rows]
    return Report(
        protocol,
        title,
        [("", Table(rows, ["method", *heads], right=heads))],
        [f"{asked.images} images; localised: IoU of at least {iou}. Intervals are Wilson's.{note}"],
        results,
        {
            "iou": iou,
            "images": asked.images,
            "not_asked": dict(sorted(asked.not_asked.items())),
            "alphas": localisation.ALPHAS,
            "methods": {
                name: dataclasses.asdict(found) | {"error": found.error, "interval": found.interval}
                for name, found in results.items()
            },
        },
        draw,
        tuple(asked.failures),
    )


def _draw_alphas(report: Report[dict[str, Found]]) -> Any:
    """The held-out error over alpha, from which each method's alpha is chosen."""
    from jaxplain.viz import charts

    series = {}
    for name, found in report.results.items():
        if found.held_out is not None:
            hits, trials = found.held_out
            label = f"{name} (alpha {found.alpha:.1f}, test error {100 * found.error:.1f} %)"
            series[label] = [100 * (1 - h / trials) for h in hits]
    panel = charts.Panel(
        "",
        localisation.ALPHAS.tolist(),
        series,
        "alpha: the threshold, in means of the map",
        "error on the held-out images (%)",
    )
    return charts.curves([[panel]], report.title, markers=True)


def _draw_errors(report: Report[dict[str, Found]]) -> Any:
    """The error of each method with its standard error, the whole image in grey."""
    from jaxplain.viz import charts

    misses = {
        name: [0.0] * found.hits + [1.0] * (found.trials - found.hits)
        for name, found in report.results.items()
    }
    return charts.score_bars(misses, f"error; {report.title}", highlight=[WHOLE])
