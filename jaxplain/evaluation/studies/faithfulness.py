"""Does the network depend on what a map marks? Insertion, deletion and pixel-flipping.

The pixels are ranked by the map, and changed from the highest down; how the class's score follows
says how faithful the map is. All images of a batch go together, and a curve is one compiled
program. `faithfulness_study` measures several methods over images: each explains the class that the
network predicts (Petsiuk et al. 2018). A map of noise is the baseline: what an order that knows
nothing comes to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import postprocess
from jaxplain.core import Graph, Table, trace
from jaxplain.core.model import Model
from jaxplain.core.numerics import class_scores
from jaxplain.evaluation.studies.questions import predicted, together
from jaxplain.evaluation.studies.report import Report, mean_and_error

__all__ = [
    "CURVES",
    "RANDOM",
    "Curve",
    "deletion",
    "faithfulness_study",
    "insertion",
    "pixel_flipping",
]


#: Name -> what is reported of a curve.
CURVES = {"insertion": "area", "deletion": "area", "pixel_flipping": "drop"}
RANDOM = "Random order"
_BLUR = 5 / 224  # the blur of RISE's start image: 5 pixels for images of 224


class Curve(NamedTuple):
    """How a score changes with the part of the image that was changed; S steps.

    Attributes:
        scores: ``(B, S + 1)``, the first before any change.
        fractions: ``(S + 1,)``: the part of the pixels that was changed, from 0.
        area: ``(B,)``: the area under the curve (trapezoids), divided by its width.
        drop: ``(B,)``: the mean of ``scores[0] - scores[k]`` over k = 0 ... S; for pixel-flipping
            the AOPC of Samek et al. 2017 (Eq. 12), before its mean over images.
    """

    scores: jax.Array | np.ndarray
    fractions: jax.Array | np.ndarray
    area: jax.Array | np.ndarray
    drop: jax.Array | np.ndarray


def deletion(
    fn: Callable,
    x: jax.Array,
    maps: jax.Array,
    targets: Any = None,
    *,
    steps: int = 56,
    baseline: Any = 0.0,
    score: str = "probability",
    chunk: int = 8,
) -> Curve:
    """Deletion (Petsiuk et al. 2018): pixels become the baseline, the most important first.

    The smaller the area under the curve, the better.

    Args:
        fn: images ``(B, H, W, C)`` to logits ``(B, N)`` or a score map ``(B, H', W', N)``, of which
            the mean over space is taken: a callable or an NNX module.
        x: float images ``(B, H, W, C)``.
        maps: ``(B, H, W)``; of equal values the first in row order counts as more important.
        targets: None for the top class, an int, or ints ``(B,)``.
        steps: into how many equal parts the pixels are divided.
        baseline: what pixels become: a number, or an array that broadcasts to the images. 0 is the
            mean colour where the preprocessing subtracts it.
        score: ``"probability"`` (softmax) or ``"logit"``.
        chunk: how many changed copies of the batch go through the network at once.

    Returns:
        A ``Curve``, in float32.

    Raises:
        ValueError: shapes that do not fit, steps out of range, unknown score.

    Reference: Petsiuk et al., *RISE: randomized input sampling for explanation*, BMVC 2018.

    Example:
        >>> import jax.numpy as jnp
        >>> def fn(x):
        ...     return x.sum((1, 2))
        >>> x = jnp.array([1.0, 2.0, 5.0, 0.0]).reshape(1, 2, 2, 1)
        >>> deletion(fn, x, x[..., 0], 0, steps=4, score="logit").scores.tolist()
        [[8.0, 3.0, 1.0, 0.0, 0.0]]
    """
    return _curve(fn, x, maps, targets, x, baseline, steps, None, 1, score, chunk)


def insertion(
    fn: Callable,
    x: jax.Array,
    maps: jax.Array,
    targets: Any = None,
    *,
    steps: int = 56,
    baseline: Any = None,
    score: str = "probability",
    chunk: int = 8,
) -> Curve:
    """Insertion (Petsiuk et al. 2018): the image appears on a baseline, the most important first.

    The larger the area under the curve, the better. Arguments, result and errors are those of
    `deletion`; the baseline is by default the image blurred by a Gaussian of 5 / 224 of its
    longer side, as in the authors' code.

    Example:
        >>> import jax.numpy as jnp
        >>> def fn(x):
        ...     return x.sum((1, 2))
        >>> x = jnp.array([1.0, 2.0, 5.0, 0.0]).reshape(1, 2, 2, 1)
        >>> insertion(fn, x, x[..., 0], 0, steps=4, baseline=0.0, score="logit").scores.tolist()
        [[0.0, 5.0, 7.0, 8.0, 8.0]]
    """
    if baseline is None:
        planes = jnp.moveaxis(jnp.asarray(x), -1, 1)
        baseline = jnp.moveaxis(postprocess.gaussian_blur(planes, _BLUR), 1, -1)
    return _curve(fn, x, maps, targets, baseline, x, steps, None, 1, score, chunk)


def pixel_flipping(
    fn: Callable,
    x: jax.Array,
    maps: jax.Array,
    targets: Any = None,
    *,
    patch: int = 9,
    steps: int = 100,
    baseline: Any = 0.0,
    score: str = "logit",
    chunk: int = 8,
) -> Curve:
    """Pixel-flipping (Bach et al. 2015), and its form with regions (Samek et al. 2017).

    The image is divided into squares of ``patch`` pixels, ranked by the sum of the map in each
    (those at the right and lower border may be smaller). Step k has the k most relevant ones
    replaced. The larger ``drop``, the better.

    Args:
        fn, x, maps, targets, score, chunk: as for `deletion`.
        patch: side of the squares; 1 flips single pixels, 9 is Samek et al.'s.
        steps: how many squares are flipped one after another.
        baseline: what they become; Samek et al. draw colours: ``jax.random.uniform(key, x.shape,
            minval=x.min(), maxval=x.max())``.

    Reference: Bach et al., PLOS ONE 10(7), 2015; Samek et al., *Evaluating the visualization of
    what a deep neural network has learned*, IEEE TNNLS 2017.

    Example:
        >>> import jax.numpy as jnp
        >>> def fn(x):
        ...     return x.sum((1, 2))
        >>> x = jnp.array([1.0, 2.0, 5.0, 0.0]).reshape(1, 2, 2, 1)
        >>> curve = pixel_flipping(fn, x, x[..., 0], 0, patch=1, steps=2)
        >>> curve.scores.tolist(), curve.drop.tolist()
        ([[8.0, 3.0, 1.0]], [4.0])
    """
    if patch < 1:
        raise ValueError(f"patch must be a positive number of pixels, not {patch}")
    height, width = np.shape(x)[1:3]
    regions = -(-height // patch) * -(-width // patch)
    if steps > regions:
        raise ValueError(f"steps must be at most {regions}, the number of squares, not {steps}")
    counts = tuple(range(steps + 1))
    return _curve(fn, x, maps, targets, x, baseline, steps, counts, patch, score, chunk)


_MEASURE = {"insertion": insertion, "deletion": deletion, "pixel_flipping": pixel_flipping}


def faithfulness_study(
    fn: Callable,
    x: jax.Array,
    methods: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]],
    *,
    steps: int = 56,
    patch: int = 9,
    flips: int = 100,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Report[dict[str, dict[str, Curve]]]:
    """Measures insertion, deletion and pixel-flipping, for the class that the network predicts.

    Args:
        fn: images to logits.
        x: images ``(N, H, W, C)``, 0 being the mean colour.
        methods: name -> images and classes ``(B,)`` to maps ``(B, h, w)``; they are resized
            bilinearly, and ranked as they are: negative evidence last.
        steps: of insertion and deletion; patch, flips: of pixel-flipping (squares of ``patch``
            pixels, ``flips`` of them).
        batch_size: images at once.
        progress: called with the number of batches that are done, and of all.

    Returns:
        A `Report` whose results are curve -> method -> `Curve`, in NumPy and over all images; the
        first method is ``RANDOM``.

    Raises:
        ValueError: no method, no image, or steps out of range.
    """
    x = jnp.asarray(x)
    if not methods or not len(x):
        raise ValueError("faithfulness needs at least one method and one image")
    options = {
        "insertion": {"steps": steps},
        "deletion": {"steps": steps},
        "pixel_flipping": {"patch": patch, "steps": flips},
    }
    names = (RANDOM, *methods)
    parts: dict = {curve: {name: [] for name in names} for curve in CURVES}
    starts = range(0, len(x), batch_size)
    explain = together(methods)
    for done, start in enumerate(starts, 1):
        rows = np.minimum(np.arange(start, start + batch_size), len(x) - 1)
        images, count = x[rows], min(batch_size, len(x) - start)
        classes = predicted(fn, images)
        found = explain(images, classes)
        for name in names:
            if name == RANDOM:
                maps = jax.random.uniform(jax.random.key(start), images.shape[:3])
            else:
                maps = found[name].astype(jnp.float32)
                maps = postprocess.resize(maps, (images.shape[1], images.shape[2]))
            for curve, own in options.items():
                got = jax.device_get(_MEASURE[curve](fn, images, maps, classes, **own))
                parts[curve][name].append((got, count))
        if progress is not None:
            progress(done, len(starts))
    return _report(
        {
            curve: {name: _joined(found) for name, found in own.items()}
            for curve, own in parts.items()
        }
    )


def _joined(parts: list[tuple[Curve, int]]) -> Curve:
    """The curves of all images; of each batch only so many as are not there to fill it up."""
    scores, area, drop = (
        np.concatenate([getattr(got, field)[:count] for got, count in parts])
        for field in ("scores", "area", "drop")
    )
    return Curve(scores, parts[0][0].fractions, area, drop)


def _report(results: dict[str, dict[str, Curve]]) -> Report[dict[str, dict[str, Curve]]]:
    values = {
        curve: {name: np.asarray(getattr(found, CURVES[curve])) for name, found in own.items()}
        for curve, own in results.items()
    }
    heads = ["insertion, higher is better", "deletion, lower", "pixel-flipping, higher"]
    rows = [
        (name, *(mean_and_error(values[curve][name]) for curve in CURVES))
        for name in values["insertion"]
    ]
    images = len(values["insertion"][RANDOM])
    return Report(
        "faithfulness",
        "Insertion, deletion and pixel-flipping",
        [("", Table(rows, ["method", *heads], right=heads))],
        [
            f"{images} images; mean and standard error. Insertion and deletion: area under the "
            "probability; pixel-flipping: mean drop of the logit (AOPC)."
        ],
        results,
        {
            "images": images,
            "curves": {
                curve: {
                    "fractions": own[RANDOM].fractions,
                    "methods": {
                        name: {
                            "scores": found.scores.mean(0),
                            CURVES[curve]: values[curve][name],
                        }
                        for name, found in own.items()
                    },
                }
                for curve, own in results.items()
            },
        },
        _draw,
    )


def _draw(report: Report[dict[str, dict[str, Curve]]]) -> Any:
    """The three mean curves of every method."""
    from jaxplain.viz import charts

    panels = [
        charts.Panel(
            curve.replace("_", "-"),
            100 * own[RANDOM].fractions,
            {name: found.scores.mean(0) for name, found in own.items()},
            "changed (%)",
            "logit" if curve == "pixel_flipping" else "probability",
        )
        for curve, own in report.results.items()
    ]
    return charts.curves([panels], report.title, baseline=RANDOM)


def _curve(fn, x, maps, targets, first, last, steps, counts, patch, score, chunk) -> Curve:
    x, maps = jnp.asarray(x), jnp.asarray(maps)
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images must be float (B, H, W, C), not {x.dtype} {x.shape}")
    if maps.shape != x.shape[:3]:
        raise ValueError(
            f"maps must have the images' shape {x.shape[:3]}, not {maps.shape}; resize them first"
        )
    pixels = maps.shape[1] * maps.shape[2]
    if score not in ("probability", "logit"):
        raise ValueError(f"score must be 'probability' or 'logit', not {score!r}")
    if counts is None:
        if not 1 <= steps <= pixels:
            raise ValueError(f"steps must lie in 1 to {pixels}, the number of pixels, not {steps}")
        counts = tuple(round(pixels * i / steps) for i in range(steps + 1))
    elif steps < 1:
        raise ValueError(f"steps must be positive, not {steps}")
    if chunk < 1:
        raise ValueError(f"chunk must be a positive int, not {chunk}")
    model = trace(fn, x)
    if targets is not None:
        targets = jnp.broadcast_to(jnp.asarray(targets), (x.shape[0],))
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise ValueError(f"targets must be None or class numbers, not {targets.dtype}")
    first, last = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (first, last))
    options = (counts, patch, score, min(chunk, len(counts)))
    return _compiled(model.graph, options, model.constants, x, maps, targets, first, last)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(
    graph: Graph, options: tuple, constants: list, x, maps, targets, first, last
) -> Curve:
    counts, patch, score, chunk = options
    model = Model(graph, constants)

    def scores(images: jax.Array) -> jax.Array:
        out = class_scores(model.forward(images)[0].astype(jnp.float32))
        return jax.nn.softmax(out) if score == "probability" else out

    if targets is None:
        targets = scores(x).argmax(-1)
    rank, regions = _ranks(maps, patch)

    def after(count: jax.Array) -> jax.Array:
        changed = jnp.where((rank < count)[..., None], last, first)
        return jnp.take_along_axis(scores(changed), targets[:, None], axis=1)[:, 0]

    curve = jax.lax.map(after, jnp.asarray(counts), batch_size=chunk).T
    fractions = jnp.asarray(counts, jnp.float32) / regions
    widths = jnp.diff(fractions)
    area = ((curve[:, 1:] + curve[:, :-1]) / 2 * widths).sum(1) / widths.sum()
    return Curve(curve, fractions, area, (curve[:, :1] - curve).mean(1))


def _ranks(maps: jax.Array, patch: int) -> tuple[jax.Array, int]:
    """Each pixel's rank (of its square), 0 for the most relevant, and how many ranks there are."""
    height, width = maps.shape[1:]
    rows, columns = -(-height // patch), -(-width // patch)
    margins = [(0, 0), (0, rows * patch - height), (0, columns * patch - width)]
    squares = jnp.pad(maps.astype(jnp.float32), margins)
    sums = squares.reshape(-1, rows, patch, columns, patch).sum((2, 4)).reshape(-1, rows * columns)
    order = jnp.argsort(-sums, axis=1, stable=True)
    ranks = jnp.argsort(order, axis=1).reshape(-1, rows, columns)
    ranks = jnp.repeat(jnp.repeat(ranks, patch, axis=1), patch, axis=2)
    return ranks[:, :height, :width], rows * columns
