"""Scores of maps in hand, so that a method can be chosen on one's own data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import postprocess
from jaxplain.core import Table, trace
from jaxplain.core.numerics import class_scores
from jaxplain.evaluation import masking, pointing, similarity, stability
from jaxplain.evaluation.studies.faithfulness import RANDOM, deletion, insertion
from jaxplain.evaluation.studies.questions import predicted

__all__ = ["score"]


def score(
    maps: Any,
    fn: Callable,
    x: Any,
    targets: Any = None,
    *,
    boxes: Any = None,
    tolerance: float = pointing.TOLERANCE,
    random_fn: Callable | None = None,
    steps: int = 56,
    baseline: Any = 0.0,
    radius: float = 0.02,
    samples: int = 10,
    key: jax.Array | None = None,
) -> Table[Any]:
    """How good maps are for a network and images: a table with a row for each method.

    - ``insertion`` (higher is better), ``deletion`` (lower): area under the class's probability as
      pixels appear or vanish in the order of the map (Petsiuk et al. 2018);
    - ``average drop`` (lower), ``increase`` (higher): of the probability where only what the map
      marks is shown, in per cent (Chattopadhay et al. 2018);
    - ``sparseness`` (higher): Gini index of the map's sizes (Chalasani et al. 2020);
    - ``sensitivity`` (lower): largest relative change of the map under small changes of the image
      (Yeh et al. 2019);
    - ``randomisation`` (lower): size of the rank correlation with the map of a network with random
      weights (Adebayo et al. 2018);
    - ``pointing`` (higher): share of maxima on the class's boxes, or less than ``tolerance`` from
      them, in per cent (Zhang et al. 2018).

    Sensitivity and randomisation need the explainer itself, randomisation ``random_fn``, and
    pointing ``boxes``; otherwise the cell is empty or the column absent. The first row is noise:
    what an order that knows nothing comes to.

    Args:
        maps: method -> maps ``(B, h, w)`` of any size, or the explainer that makes them, ``(fn, x,
            targets)`` to such maps, such as ``jaxplain.grad_cam``; or maps or an explainer alone.
        fn: images ``(B, H, W, C)`` to logits ``(B, N)`` or a score map: whatever explainers take.
        x: float images ``(B, H, W, C)`` as the network takes them.
        targets: the class that is explained: None for the top class, an int, or ints ``(B,)``.
        boxes: of the class in each image, ``(B, N, 4)`` or a sequence of arrays ``(N, 4)``: left,
            top, right, bottom in pixels of ``x``, half-open; an image without one does not count.
        tolerance: how far from a box, in pixels of ``x``, a maximum may be to count.
        random_fn: the same network with random weights, such as `jaxplain.models.untrained` makes.
        steps: of insertion and deletion.
        baseline: what pixels become that are not shown: a number, or an array that broadcasts to
            the images. 0 is the mean colour where the preprocessing subtracts it. Insertion starts
            from the blurred image, as its paper.
        radius, samples: of the sensitivity, see `jaxplain.evaluation.stability.max_sensitivity`.
        key: of `jax.random`, for noise and sensitivity; None for a fixed one.

    Returns:
        A `Table`: a list of rows that prints as a table, and has `markdown()`.

    Raises:
        ValueError: shapes that do not fit, maps that are not finite, or no method.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> weight = jax.random.normal(jax.random.key(0), (3, 4))
        >>> fn = lambda x: jax.nn.relu(x).mean((1, 2)) @ weight
        >>> x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
        >>> table = jaxplain.score({"IxG": jaxplain.input_x_gradient}, fn, x, 3, steps=4, samples=1)
        >>> [row[0] for row in table], table.columns[:3]
        (['Random order', 'IxG'], ('method', 'insertion', 'deletion'))
    """
    x = jnp.asarray(x)
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating) or not len(x):
        raise ValueError(f"images must be float (B, H, W, C), not {x.dtype} {x.shape}")
    methods = maps if isinstance(maps, Mapping) else {"maps": maps}
    if not methods:
        raise ValueError("no method is given")
    key = jax.random.key(0) if key is None else key
    classes = predicted(fn, x) if targets is None else jnp.asarray(targets)
    if not jnp.issubdtype(classes.dtype, jnp.integer) or classes.shape not in ((), (len(x),)):
        raise ValueError(
            f"targets must be None, a class or one class for each of {len(x)} images, not "
            f"{classes.dtype} {classes.shape}"
        )
    classes = jnp.broadcast_to(classes, (len(x),))
    marked = None if boxes is None else _boxes(boxes, len(x))
    before = _probabilities(fn, x, classes)
    noise = jax.random.uniform(key, x.shape[:3])

    def row(name: str, method: Any) -> tuple:
        explain = method if callable(method) else None
        found = explain(fn, x, classes) if explain is not None else method
        found = _maps(found, name, x)
        large = postprocess.resize(found, (x.shape[1], x.shape[2]))
        after = _probabilities(fn, masking.masked(x, found, baseline), classes)
        cells = [
            insertion(fn, x, large, classes, steps=steps).area.mean(),
            deletion(fn, x, large, classes, steps=steps, baseline=baseline).area.mean(),
            100 * masking.average_drop(before, after),
            100 * masking.increase_in_confidence(before, after),
            stability.gini(found).mean(),
        ]
        cells.append(None if explain is None else _sensitivity(explain, fn, x, classes, options))
        if random_fn is not None:
            other = None if explain is None else _maps(explain(random_fn, x, classes), name, x)
            cells.append(None if other is None else _alike(found, other))
        if marked is not None:
            cells.append(100 * _hits(large, *marked, tolerance))
        return (name, *(None if cell is None else float(cell) for cell in cells))

    options = {"key": key, "radius": radius, "samples": samples}
    columns = ["method", "insertion", "deletion", "average drop (%)", "increase (%)", "sparseness"]
    columns += ["sensitivity"]
    columns += [] if random_fn is None else ["randomisation"]
    columns += [] if marked is None else ["pointing (%)"]
    rows = [row(RANDOM, noise), *(row(name, method) for name, method in methods.items())]
    return Table(rows, columns, right=columns[1:], form=".3f")


def _maps(found: Any, name: str, x: jax.Array) -> jax.Array:
    found = jnp.asarray(found, jnp.float32)
    if found.ndim != 3 or len(found) != len(x) or 0 in found.shape:
        raise ValueError(f"the maps of {name} must be ({len(x)}, h, w), not {found.shape}")
    if not bool(jnp.isfinite(found).all()):
        raise ValueError(f"the maps of {name} hold NaN or infinity")
    return found


def _probabilities(fn: Callable, x: jax.Array, classes: jax.Array) -> jax.Array:
    scores = class_scores(trace(fn, x)(x)).astype(jnp.float32)
    return jnp.take_along_axis(jax.nn.softmax(scores), classes[:, None], axis=1)[:, 0]


def _sensitivity(
    explain: Callable, fn: Callable, x: jax.Array, classes: jax.Array, options: Mapping[str, Any]
) -> jax.Array:
    def maps(x: jax.Array) -> jax.Array:
        return jnp.asarray(explain(fn, x, classes), jnp.float32)

    own = {**options, "key": jax.random.fold_in(options["key"], 1)}
    return stability.max_sensitivity(maps, x, **own).mean()


def _alike(found: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.abs(similarity.rank_correlation(found, other)).mean()


def _boxes(boxes: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (B, N, 4), and which of them there are (B, N)."""
    listed: Sequence[np.ndarray] = [np.asarray(one, np.float32).reshape(-1, 4) for one in boxes]
    if len(listed) != count:
        raise ValueError(f"there are boxes for {len(listed)} images, and {count} images")
    most = max(map(len, listed))
    if not most:
        raise ValueError("no image has a box")
    padded = np.zeros((count, most, 4), np.float32)
    valid = np.zeros((count, most), bool)
    for i, own in enumerate(listed):
        padded[i, : len(own)], valid[i, : len(own)] = own, True
    return padded, valid


def _hits(maps: jax.Array, boxes: np.ndarray, valid: np.ndarray, tolerance: float) -> jax.Array:
    hits = pointing.on_boxes(pointing.maximum(maps), boxes, valid, tolerance)
    asked = valid.any(-1)
    return (hits & asked).sum() / asked.sum()
