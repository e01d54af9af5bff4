"""The pointing game over a data set (Zhang et al. 2018, section 6.1): a runner of `pointing`.

Each class that an image has is a question: the network is told the class, and a method's map has to
have its maximum on one of its objects, or less than 15 pixels from it. Images are resized to a
short side of 224 with their aspect kept, and maps are resized bicubically to the original image,
where hits are counted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import data
from jaxplain.core import Table
from jaxplain.evaluation import pointing
from jaxplain.evaluation.intervals import wilson
from jaxplain.evaluation.studies.questions import (
    Explainer,
    Question,
    Questions,
    boxes_of,
    together,
)
from jaxplain.evaluation.studies.report import INTERVAL, Report, percent, share_interval
from jaxplain.postprocess import resize_matrix

__all__ = ["BLUR", "CENTRE", "PointingMethod", "pointing_game", "pointed_at"]

#: The baseline that points at the centre.
CENTRE = "Center"
#: Standard deviation of the blur of pixel-level maps, in max(H, W) (section 6.1.1).
BLUR = 0.02
_PAD = 128  # sizes of original images are rounded up to this, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class PointingMethod:
    """A method that plays.

    Attributes:
        explain: images ``(B, h, w, 3)`` and signals over the outputs ``(B, K, N)`` to maps ``(B, K,
            h', w')``, K being the questions about an image.
        blur: whether its maps are blurred by ``BLUR``, as the paper does with Grad, Deconv and LRP.
    """

    explain: Explainer
    blur: bool = False


#: Method -> its accuracy on all questions, and on the difficult ones.
Accuracies = dict[str, tuple[pointing.PointingAccuracy, pointing.PointingAccuracy]]


def pointing_game(
    source: data.Source,
    prepare: Callable[[data.Record], np.ndarray],
    to_input: Callable[[jax.Array], jax.Array],
    signals: np.ndarray,
    methods: Mapping[str, PointingMethod],
    *,
    batch_size: int = 8,
    indices: Iterable[int] | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report[Accuracies]:
    """Plays the pointing game.

    Args:
        source: records with boxes or masks.
        prepare: a record to uint8 pixels ``(h, w, 3)`` of one of few shapes, see
            `data.aspect_shape`.
        to_input: pixels ``(B, h, w, 3)`` to the network's input, see `data.normalise`.
        signals: ``(classes, N)``, what a class is to the network's outputs, see `data.cue_signals`.
            Classes with a row of zeros are not asked for.
        methods: name -> method.
        batch_size: questions that are explained at once.
        indices: which records; None for all.
        workers: processes that read; 0 for threads.
        progress: called with the number of images that are done, and of all.

    Returns:
        A `Report` whose results are method -> (all, difficult); the first method is `CENTRE`.

    Raises:
        ValueError: records without boxes and masks, or some with masks and some without.
    """
    asked = Questions(
        source,
        prepare,
        signals,
        batch_size=batch_size,
        indices=indices,
        workers=workers,
        progress=progress,
    )
    tally = _Tally([CENTRE, *methods], len(source.class_names))
    explain = together({name: method.explain for name, method in methods.items()}, to_input)
    for group in asked:
        found = explain(group.pixels, group.signals)
        regions = _regions(group.full)
        sizes = np.array([q.item.record.size for q in group.full])
        points = [pointing.centre(sizes)]
        for name, method in methods.items():
            maps = found[name].reshape(len(sizes), *found[name].shape[-2:])
            points.append(
                _points(maps, *_enlarge((maps.shape[-2], maps.shape[-1]), sizes, method.blur))
            )
        hits = _hits(jnp.stack(points), *regions)
        tally.add(group.questions, np.asarray(hits)[:, : len(group.questions)], regions[0] is None)
    region = "masks" if tally.masks else "boxes"
    return _report(tuple(source.class_names), region, asked, tally.results())


class _Tally:
    """Which questions each method won."""

    def __init__(self, names: list[str], classes: int):
        self.names, self.classes = names, classes
        self.labels: list[int] = []
        self.hard: list[bool] = []
        self.hits: list[np.ndarray] = []
        self.masks: bool | None = None

    def add(self, group: list[Question], hits: np.ndarray, masks: bool) -> None:
        self.labels += [q.label for q in group]
        self.hard += [q.difficult for q in group]
        self.hits.append(hits)
        if self.masks not in (None, masks):
            raise ValueError("some records have masks and others none; use one kind of data set")
        self.masks = masks

    def results(self) -> Accuracies:
        labels, hard = np.array(self.labels), np.array(self.hard)
        count = functools.partial(pointing.accuracy, classes=labels, num_classes=self.classes)
        return {
            name: (count(hits), count(hits, counted=hard))
            for name, hits in zip(self.names, np.concatenate(self.hits, axis=1), strict=True)
        }


def _padded(sizes: np.ndarray) -> tuple[int, int]:
    height, width = (int(-(-n // _PAD) * _PAD) for n in sizes.max(0))
    return height, width


def _regions(
    group: list[Question],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """(boxes, which of them count, None), or (None, None, masks); padded to few shapes."""
    own = [q.mask for q in group if q.mask is not None]
    if own:
        sizes = np.array([q.item.record.size for q in group])
        masks = np.zeros((len(group), *_padded(sizes)), bool)
        for mask, one in zip(masks, own, strict=True):
            mask[: one.shape[0], : one.shape[1]] = one
        return None, None, masks
    corners = [boxes_of(q) for q in group]
    count = -(-max(map(len, corners)) // 8) * 8
    boxes, valid = np.zeros((len(group), count, 4), np.float32), np.zeros((len(group), count), bool)
    for i, one in enumerate(corners):
        boxes[i, : len(one)], valid[i, : len(one)] = one, True
    return boxes, valid, None


def pointed_at(heat_map: np.ndarray, size: tuple[int, int], *, blur: bool = False) -> np.ndarray:
    """Where a map points in its image, as the game is played: its maximum at the image's size.

    Args:
        heat_map: float ``(h, w)``.
        size: (height, width) of the original image.
        blur: as of `PointingMethod`.

    Returns:
        int ``(2,)``, row and column.

    Example:
        >>> pointed_at(np.array([[0.0, 1.0], [0.0, 0.0]], np.float32), (30, 40)).tolist()
        [0, 39]
    """
    sigma = BLUR * max(size) if blur else 0.0
    rows, columns = (_matrix(*pair, sigma) for pair in zip(heat_map.shape, size, strict=True))
    large = rows @ heat_map.astype(np.float32) @ columns.T
    return np.asarray(np.unravel_index(large.argmax(), large.shape))


def _enlarge(shape: tuple[int, int], sizes: np.ndarray, blur: bool) -> tuple[np.ndarray, ...]:
    """Matrices (B, H, h) and (B, W, w) that resize maps to their images, and the images' sizes."""
    padded = _padded(sizes)
    matrices = []
    for axis in (0, 1):
        stack = np.zeros((len(sizes), padded[axis], shape[axis]), np.float32)
        for matrix, size in zip(stack, sizes, strict=True):
            sigma = BLUR * max(size) if blur else 0.0
            matrix[: size[axis]] = _matrix(shape[axis], int(size[axis]), float(sigma))
        matrices.append(stack)
    return *matrices, sizes.astype(np.int32)


@functools.lru_cache(maxsize=1024)
def _matrix(size: int, target: int, sigma: float) -> np.ndarray:
    """Bicubic resizing of a line of pixels, and a Gaussian blur of ``sigma`` pixels after it."""
    matrix = resize_matrix(size, target, "bicubic").astype(np.float32)
    radius = math.ceil(4 * sigma)
    if radius == 0:
        return matrix
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    # Mirrored at the border, about the edge of the last pixel.
    at = (np.arange(target)[:, None] + offsets) % (2 * target)
    at = np.where(at < target, at, 2 * target - 1 - at)
    blur = np.zeros((target, target))
    np.add.at(blur, (np.arange(target)[:, None], at), kernel / kernel.sum())
    return (blur @ matrix).astype(np.float32)


@jax.jit
def _points(maps: jax.Array, rows: jax.Array, columns: jax.Array, sizes: jax.Array) -> jax.Array:
    large = jnp.einsum(
        "bih,bhw,bjw->bij",
        rows,
        maps.astype(jnp.float32),
        columns,
        precision=jax.lax.Precision.HIGHEST,
    )
    down, across = (jnp.arange(n) for n in large.shape[1:])
    inside = (down < sizes[:, :1])[:, :, None] & (across < sizes[:, 1:])[:, None, :]
    return pointing.maximum(jnp.where(inside, large, -jnp.inf))


@jax.jit
def _hits(points: jax.Array, boxes: Any, valid: Any, masks: Any) -> jax.Array:
    if masks is not None:
        return pointing.on_mask(points, masks)
    return pointing.on_boxes(points, boxes, valid)


def _report(
    class_names: tuple[str, ...], region: str, asked: Questions, results: Accuracies
) -> Report[Accuracies]:
    """The paper's Table 1: mean accuracy over classes in per cent, and hits / questions."""
    everything, hard = results[CENTRE]
    rows = [(name, _cell(a), _cell(d)) for name, (a, d) in results.items()]

    def one(result: pointing.PointingAccuracy) -> dict[str, Any]:
        per_class = {
            name: {"hits": int(h), "trials": int(t), "accuracy": p}
            for name, h, t, p in zip(
                class_names, result.hits, result.trials, result.per_class, strict=True
            )
            if t
        }
        hits, trials = int(result.hits.sum()), int(result.trials.sum())
        return {
            "mean": result.mean,
            "hits": hits,
            "trials": trials,
            "interval": wilson(hits, trials),
            "per_class": per_class,
        }

    def draw(report: Report[Accuracies]) -> Any:
        """Each method's hits with their intervals, and its accuracy on every class."""
        from jaxplain.viz import charts

        there = np.flatnonzero(np.asarray(everything.trials))
        values: dict[str, dict[str, Any]] = {"all": {}, "difficult": {}}
        for name, pair in report.results.items():
            for series, result in zip(values, pair, strict=True):
                hits, trials = int(result.hits.sum()), int(result.trials.sum())
                if trials:
                    low, high = map(float, wilson(hits, trials))
                    values[series][name] = charts.Share(100 * hits / trials, 100 * low, 100 * high)
        questions = {
            name: int(result.trials.sum())
            for name, result in zip(values, results[CENTRE], strict=True)
        }
        return charts.shares(
            {f"{name} (n = {questions[name]})": found for name, found in values.items() if found},
            {
                name: (100 * np.asarray(a.per_class)[there]).tolist()
                for name, (a, _) in report.results.items()
            },
            [f"{class_names[i]} ({int(everything.trials[i])})" for i in there],
            f"hits in % of the questions, with {INTERVAL}s",
            f"{report.title}: {asked.images} images; accuracy by class in % (questions)",
        )

    return Report(
        "pointing game",
        "Pointing game",
        [("", Table(rows, ["method", "all", "difficult"], right=["all", "difficult"]))],
        [
            f"{asked.images} images; {int(everything.trials.sum())} questions about "
            f"{int((everything.trials > 0).sum())} classes, {int(hard.trials.sum())} of them "
            f"difficult ({int((hard.trials > 0).sum())} classes). Mean accuracy over classes in "
            f"per cent (hits / questions: Wilson's {INTERVAL} of their share); hits on {region}."
        ],
        results,
        {
            "tolerance": pointing.TOLERANCE,
            "region": region,
            "images": asked.images,
            "not_asked": dict(sorted(asked.not_asked.items())),
            "methods": {
                name: {"all": one(a), "difficult": one(d)} for name, (a, d) in results.items()
            },
        },
        draw,
        tuple(asked.failures),
    )


def _cell(result: pointing.PointingAccuracy) -> str:
    hits, trials = int(result.hits.sum()), int(result.trials.sum())
    return f"{percent(result.mean)} ({hits} / {trials}: {share_interval(hits, trials)})"
