"""The comparison of methods with human fixations (Ebrahimpour et al. 2019, section 4 and Fig. 9).

Every method's map is brought to the size of the image's human map, the positive part of both is
divided by its maximum, and scored. Methods are functions from images to maps: explainers come from
the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import postprocess
from jaxplain.core import Table
from jaxplain.core.program import Program
from jaxplain.evaluation import fixations as scores
from jaxplain.evaluation.intervals import bootstrap
from jaxplain.evaluation.studies.report import INTERVAL, Report, between

__all__ = ["Row", "compare_with_fixations", "fixated_pixels"]


class Row(NamedTuple):
    """Mean scores of one method over the images; see `jaxplain.evaluation.fixations`."""

    method: str
    mae: float
    nss: float
    auc_judd: float
    cc: float
    sim: float
    kl: float


#: Method -> score -> its value for each image, ``(N,)``.
PerImage = dict[str, dict[str, np.ndarray]]


def fixated_pixels(truth: jax.Array, share: float = 0.2) -> jax.Array:
    """The most looked-at pixels of a density ``(..., H, W)``, as ones: those of its top ``share``.

    Data sets often have densities and no points; Judd et al. (2009) take their positive examples
    from the top 20 % of the human map.

    >>> fixated_pixels(jnp.arange(10.0).reshape(2, 5)).astype(int).tolist()
    [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, not {share}")
    truth = jnp.asarray(truth)
    count = max(1, round(share * truth.shape[-2] * truth.shape[-1]))
    flat = truth.reshape(*truth.shape[:-2], -1)
    lowest = jax.lax.top_k(flat, count)[0][..., -1]
    chosen = (truth >= lowest[..., None, None]) & (truth > 0)  # zeros are never looked at
    return chosen.astype(truth.dtype)


def compare_with_fixations(
    methods: Mapping[str, Callable[[jax.Array], Any]],
    x: Any,
    truth: Any,
    fixations: Any = None,
    *,
    batch_size: int = 8,
    baselines: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report[PerImage]:
    """Scores the maps of several methods by where people looked.

    MAE, CC, SIM and KL compare with the human density. NSS is its expectation for fixations drawn
    from that density, and AUC-Judd takes `fixated_pixels` of it, unless ``fixations`` are given.

    Args:
        methods: name -> function from images ``(B, H, W, C)`` to maps ``(B, h, w)``, only the
            positive part of which counts, or to a dict of several such maps, which are then scored
            under its keys. All are one jitted program.
        x: images ``(N, H, W, C)`` as the network expects them.
        truth: human densities of the images, non-negative (`fixation_map`): ``(N, h', w')``, or a
            list of N of their own sizes ``(h', w')``. Scores are taken at these sizes, maps being
            resized bilinearly.
        fixations: of the same form, how often each pixel was looked at; None where only densities
            are known.
        batch_size: images at once; the last batch is filled up, so that it compiles once.
        baselines: names of methods that the figure draws in grey.
        progress: called with the number of batches that are done, and of all methods together.

    Returns:
        A `Report` whose results are method -> score -> ``(N,)``, in the order of the images; its
        table has a `Row` per method, the smallest mean absolute error first.

    Raises:
        ValueError: no method, shapes that do not fit, a truth that is zero everywhere or a map that
            is not finite, naming the method.

    >>> truth = scores.centre_map((4, 4))[None]
    >>> methods = {"flat": lambda x: x[..., 0] * 0, "exact": lambda x: x[..., 0]}
    >>> report = compare_with_fixations(methods, truth[..., None], truth)
    >>> [(row.method, round(row.mae, 3), round(row.cc, 3)) for row in report.table]
    [('exact', 0.0, 1.0), ('flat', 0.468, 0.0)]
    """
    x = jnp.asarray(x)
    truth = [np.asarray(one, np.float32) for one in truth]
    fixations = None if fixations is None else [np.asarray(f, np.float32) for f in fixations]
    _check(methods, x, truth, fixations, batch_size)
    batch = min(batch_size, len(x))
    looked = truth if fixations is None else fixations
    pixels = [np.asarray(fixated_pixels(t)) for t in truth] if fixations is None else fixations
    # Scored as many at once as have one size: the batch, or one by one.
    at_once = batch if len({one.shape for one in truth}) == 1 else 1
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    starts, done = range(0, len(x), batch), 0
    explain = Program(lambda x: [method(x) for method in methods.values()])
    for start in starts:
        rows = np.minimum(np.arange(start, start + batch), len(x) - 1)
        for name, maps in zip(methods, explain(x[rows]), strict=True):
            for key, one in (maps if isinstance(maps, dict) else {name: maps}).items():
                if one.ndim != 3 or one.shape[0] != batch:
                    raise ValueError(f"{key} must give maps ({batch}, h, w), not {one.shape}")
                for first in range(0, min(batch, len(x) - start), at_once):
                    own = slice(first, first + at_once)
                    human = (
                        np.stack([each[i] for i in rows[own]]) for each in (truth, looked, pixels)
                    )
                    got = jax.device_get(_score(one[own], *human))
                    if not got.pop("finite").all():
                        raise ValueError(f"{key} gave a map that is not finite")
                    for score, v in got.items():
                        found = parts.setdefault(key, {}).setdefault(score, [])
                        found.append(v[: len(x) - start - first])
            done += 1
            if progress is not None:
                progress(done, len(methods) * len(starts))
    per_image = {
        key: {score: np.concatenate(values) for score, values in found.items()}
        for key, found in parts.items()
    }
    return _report(per_image, baselines)


def _report(per_image: PerImage, baselines: Sequence[str]) -> Report[PerImage]:
    rows = [
        Row(name, *(float(values[f].mean()) for f in Row._fields[1:]))
        for name, values in per_image.items()
    ]
    rows.sort(key=lambda row: row.mae)
    heads = [field.replace("_", "-").upper() for field in Row._fields[1:]]
    ends = {row.method: _intervals(per_image[row.method]) for row in rows}
    spans = [(name, *(between(*span) for span in own.values())) for name, own in ends.items()]

    def draw(report: Report[PerImage]) -> Any:
        """Fig. 9: the mean absolute error of every method, baselines in grey."""
        from jaxplain.viz import charts

        errors = {row.method: per_image[row.method]["mae"].tolist() for row in rows}
        return charts.score_bars(
            errors, f"mean absolute error; {report.title}", highlight=list(baselines)
        )

    return Report(
        "human fixations",
        "Human fixations",
        [
            ("", Table(rows, ["method", *heads], form=".3f")),
            ("", Table(spans, [f"{INTERVAL} of the mean", *heads], right=heads)),
        ],
        ["Intervals by the bootstrap over images."],
        per_image,
        {
            "methods": {
                row.method: {
                    "mean": dict(zip(Row._fields[1:], row[1:], strict=True)),
                    "interval": ends[row.method],
                    "per_image": per_image[row.method],
                }
                for row in rows
            }
        },
        draw,
    )


def _intervals(found: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Score -> the interval of its mean."""
    names = Row._fields[1:]
    low, high = bootstrap(np.stack([found[score] for score in names]))
    return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _check(methods, x, truth, fixations, batch_size) -> None:
    if not methods:
        raise ValueError("methods is empty; give at least one")
    if x.ndim != 4 or not 0 < len(x) == len(truth) or any(one.ndim != 2 for one in truth):
        raise ValueError(
            "x must have the shape (N, H, W, C) and truth N maps (h, w), N at least 1, not "
            f"{x.shape} and {len(truth)} of {sorted({one.shape for one in truth})}"
        )
    if fixations is not None and [f.shape for f in fixations] != [t.shape for t in truth]:
        raise ValueError("fixations must have the shapes of truth, one map per image")
    if not all((one >= 0).all() and one.any() for one in truth):
        raise ValueError("each human map must be non-negative and positive somewhere")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive int, not {batch_size!r}")


@jax.jit
def _score(maps, truth, looked, pixels) -> dict[str, jax.Array]:
    maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    finite = jnp.isfinite(maps).all((1, 2))
    maps = postprocess.positive(postprocess.resize(maps, truth.shape[1:]))
    maps, truth = postprocess.normalise_max(maps), postprocess.normalise_max(truth)
    found = {name: scores.SCORES[name](maps, truth) for name in ("mae", "cc", "sim", "kl")}
    return found | {
        "nss": scores.nss(maps, looked),
        "auc_judd": scores.auc_judd(maps, pixels),
        "finite": finite,
    }
