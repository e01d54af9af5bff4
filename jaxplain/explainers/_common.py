"""What all explainers share: checking arguments, one internal jit, and targets to signals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxplain.core import Graph, Model, UnsuitableNetworkError, _compat, trace
from jaxplain.core.batched import in_chunks
from jaxplain.core.errors import warn_the_caller
from jaxplain.core.numerics import class_scores, magnitude
from jaxplain.explainers._chunks import class_chunk_of
from jaxplain.explainers._types import (
    Baseline,
    ClassChunk,
    Images,
    Layer,
    Network,
    Reduce,
    Targets,
    Tokens,
)


def run(
    impl: Callable,
    fn: Network,
    x: Images,
    targets: Targets,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    class_chunk: ClassChunk = None,
    holds: Callable[[Graph], Sequence[Any]] | None = None,
    arrays: tuple = (),
    logits: bool = True,
    **static: Any,
) -> Any:
    """Check the arguments, trace ``fn`` and call ``impl`` inside the one internal jit.

    ``impl(model, x, targets, *arrays, layers=..., class_chunk=..., **static)`` returns a dict from
    layer name to result; ``static`` values must be hashable. ``holds`` are the values of which each
    of several classes has copies of its own all the time. ``logits`` says whether the method is
    one for logits, so that a network that ends in a softmax is worth a warning.
    """
    x = check_images(x)
    model = trace(fn, x)
    targets = check_targets(model.whole, targets, x.shape[0])
    if logits:
        warn_of_probabilities(model.whole)
    if layer is None:
        require_named(tokens)
        layer = model.graph.last_spatial
    single = isinstance(layer, str)
    names = (layer,) if isinstance(layer, str) else tuple(layer)
    if not names:
        raise ValueError("layer is an empty sequence; name at least one layer")
    whole = static.get("reduce", "") is None or static.get("channels", False)
    for name in names:
        model.variable(name)
        if not whole and model.graph.weights_view(name) is not None:
            raise ValueError(
                f"the layer {name!r} holds attention weights (B, heads, queries, keys), which are "
                "no maps; use attention_rollout, transformer_attribution or legrad, or give "
                "reduce=None (of gradients) or channels=True (of relevance) for what each weight "
                "has"
            )
    model = model.viewed(names, tokens)
    chunk = class_chunk_of(class_chunk, model, names, targets, holds)
    result = run_traced(
        impl, model, x, targets, arrays=arrays, layers=names, class_chunk=chunk, **static
    )
    return result[names[0]] if single else result


def require_named(tokens: Tokens) -> None:
    """An error if ``tokens`` is given, as it is not for the default layer."""
    if tokens is not None:
        raise ValueError(
            "tokens= says how the values of a layer lie that is named; name it with layer="
        )


def run_traced(
    impl: Callable, model: Model, x: jax.Array, targets: Any, *, arrays: tuple = (), **static: Any
) -> Any:
    """``impl(model, x, targets, *arrays, **static)`` in the one internal jit."""
    options = tuple(static.items())
    views = tuple(model.views.items())
    return _compiled(impl, options, views, model.whole, model.constants, x, targets, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _compiled(
    impl: Callable,
    options: tuple,
    views: tuple,
    graph: Graph,
    constants: Sequence[Any],
    x: jax.Array,
    targets: Any,
    arrays: tuple,
) -> Any:
    return impl(Model(graph, constants, views), x, targets, *arrays, **dict(options))


def warn_of_probabilities(graph: Graph) -> None:
    """A warning if the scores are probabilities, which may have no gradient left."""
    scores = graph.outputs[0]
    op = None if isinstance(scores, _compat.Literal) else graph.producer.get(scores)
    while op is not None and op.identity:
        op = graph.producer.get(op.inputs[0])
    if op is None or op.name not in ("softmax", "sigmoid"):
        return
    warn_the_caller(
        f"fn ends in a {op.name}: of a probability that rounds to 0 or 1 the gradient is 0, and so "
        "is the map; return the logits instead"
    )


def require_classifier(graph: Graph, classifier: str) -> None:
    """Refuses to contrast what has no classifier.

    Of the layers with weights that have none after them on some path, none may lie behind another:
    a residual stream that ends in an embedding goes past all its layers, and what one of them adds
    is no score. Two heads side by side are one classifier.

    Raises:
        UnsuitableNetworkError: of such a network, where no layer is named.
    """
    if classifier != "last_linear":
        return
    last, behind = set(graph.last_layers()), set()
    for op in graph.ops:
        if op in last or not behind.isdisjoint(op.inputs):
            behind.update(op.outputs)
    if not last or any(not behind.isdisjoint(op.inputs) for op in last):
        raise UnsuitableNetworkError(
            "a contrast negates the weights of the classifier, and this network has none: its "
            "outputs are reached past its last layer with weights, as an embedding's are; "
            "put a dense layer behind it (such as the product with the embeddings of texts), name "
            "the layer (classifier=), or take the method without the contrast"
        )


def check_images(x: Any) -> jax.Array:
    """``x`` as a JAX array; an error unless it is a float batch (B, H, W, C).

    Images that are not on a device yet must be finite. Those that are would have to be waited for.
    """
    on_device = isinstance(x, jax.Array)
    if not on_device:
        given, x = x, jnp.asarray(x)
    if x.ndim != 4:
        hint = "; add a batch axis with x[None]" if x.ndim == 3 else ""
        raise ValueError(f"images must have the shape (B, H, W, C), not {x.shape}{hint}")
    if not x.shape[0]:
        raise ValueError(f"the batch holds no image: its shape is {x.shape}")
    if not _floating(x.dtype):
        raise TypeError(
            f"images must be floating point, preprocessed as the network expects, not {x.dtype}"
        )
    if not on_device:
        check_finite("the images hold", given, "pixel")
    return x


def check_finite(what: str, values: Any, each: str = "value") -> None:
    """An error if numbers that are on no device yet hold NaN or infinity."""
    if not isinstance(values, jax.Array) and not np.isfinite(np.asarray(values)).all():
        raise ValueError(f"{what} NaN or infinity; every {each} must be finite")


def check_targets(
    graph: Graph, targets: Any, batch: int, *, traced_batch: int | None = None
) -> jax.Array | np.ndarray | None:
    """Targets as an array: None, ints () / (B,) / (B, K), or a float signal (B, N) / (B, K, N).

    A signal over a score map may also say where: (B, H', W', N) / (B, K, H', W', N). What is not
    on a device must be finite.

    ``traced_batch`` is the number of images that the graph was traced at, where it is another one.
    """
    if len(graph.outputs) != 1:
        raise ValueError(f"fn must return one array of scores, not {len(graph.outputs)} arrays")
    shape = graph.outputs[0].aval.shape
    if len(shape) not in (2, 4) or shape[0] != (traced_batch or batch):
        raise ValueError(
            "fn must return scores (batch, classes) or a score map "
            f"(batch, height, width, classes), not shape {shape}"
        )
    if not _floating(graph.outputs[0].aval.dtype):
        raise TypeError(
            f"fn must return floating-point scores, not {graph.outputs[0].aval.dtype}: whole "
            "numbers have no gradient"
        )
    if targets is None:
        return None
    given, values = targets, None
    # In NumPy, so that the values can be checked under the user's own jit too. What a device still
    # computes is not waited for.
    if not isinstance(targets, jax.Array) or _is_here(targets):
        values = np.asarray(targets)
        targets = values.astype(np.int32) if values.dtype.kind in "iu" else values
    classes = shape[-1]
    if targets.dtype.kind in "iu":
        if targets.ndim > 2 or (targets.ndim and targets.shape[0] != batch):
            raise ValueError(
                "class targets must be an int or have the shape (batch,) or (batch, "
                f"targets) with batch {batch}, not {targets.shape}"
            )
        if values is not None and values.size:
            low, high = (values.min(), values.max()) if values.ndim else (values, values)
            if low < 0 or high >= classes:
                wrong = low if low < 0 else high
                raise ValueError(
                    f"class {wrong} is out of range: the network has {classes} "
                    f"classes, 0 to {classes - 1}"
                )
        return targets
    if not _floating(targets.dtype):
        raise TypeError(
            f"targets must be class numbers (int) or a signal (float), not {targets.dtype}"
        )
    fitting = {
        (*lead, *rest) for lead in _leads(batch, targets) for rest in ((classes,), shape[1:])
    }
    if targets.shape not in fitting:
        ends = dict.fromkeys((f"{classes}", ", ".join(map(str, shape[1:]))))
        allowed = [f"({batch}, {lead}{end})" for end in ends for lead in ("", "targets, ")]
        raise ValueError(
            f"a signal must have the shape {' or '.join(allowed)}, not {targets.shape}"
        )
    if not isinstance(given, jax.Array):
        check_finite("the signal holds", targets, "entry")
    return targets


def _leads(batch: int, targets: Any) -> tuple:
    """The axes before those of the scores: the batch, and that of several targets."""
    return (batch,), (batch, *targets.shape[1:2])


@functools.cache
def _floating(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)


def _is_here(x: jax.Array) -> bool:
    here: Any = x
    return not isinstance(x, Tracer) and here.is_fully_addressable and here.is_ready()


def seeds(scores: jax.Array, targets: jax.Array | None) -> tuple[jax.Array, bool]:
    """The signals at the scores, and whether there are K of each image, along the second axis.

    A score map's signal that does not say where is spread over space by the softmax of the class's
    scores.
    """
    space = tuple(range(1, scores.ndim - 1))
    if targets is None:
        targets = class_scores(scores).argmax(-1)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jnp.broadcast_to(targets, (scores.shape[0],)) if targets.ndim == 0 else targets
        signal = jax.nn.one_hot(targets, scores.shape[-1], dtype=scores.dtype)
        # A class out of range that was not known in time to be refused must not look explained.
        known = (targets >= 0) & (targets < scores.shape[-1])
        signal = jnp.where(known[..., None], signal, jnp.nan)
    else:
        signal = targets.astype(scores.dtype)
    over_map = bool(space) and signal.ndim > 3
    several = signal.ndim == (scores.ndim + 1 if over_map else 3)
    if space and not over_map:
        signal = jnp.expand_dims(
            signal, tuple(range(signal.ndim - 1, signal.ndim - 1 + len(space)))
        )
        signal = signal * _beside(jax.nn.softmax(scores, axis=space), signal)
    return signal, several


def _beside(scores: jax.Array, signal: jax.Array) -> jax.Array:
    """The scores with an axis for the targets, where the signal has one."""
    return scores if signal.ndim == scores.ndim else scores[:, None]


def explained_score(signal: jax.Array, scores: jax.Array) -> jax.Array:
    """``sum(signal * scores)`` of every image: ``(B,)``, or ``(B, K)`` for signals of K targets."""
    return (signal * _beside(scores, signal)).sum(tuple(range(-(scores.ndim - 1), 0)))


def over_targets(
    one: Callable[[jax.Array], Any],
    scores: jax.Array,
    targets: jax.Array | None,
    class_chunk: int | None = None,
) -> Any:
    """``one(seed)`` for every target: results (B, ...) or, with K targets, (B, K, ...)."""
    signal, several = seeds(scores, targets)
    return in_chunks(one, (signal,), (1,), class_chunk) if several else one(signal)


def check_option(name: str, value: Any, allowed: tuple) -> None:
    """An error that lists what is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def check_baseline(baseline: Baseline, x: Images) -> jax.Array:
    """``baseline`` as an array; an error unless it is finite and broadcasts to the images."""
    shape, images = np.shape(baseline), np.shape(x)
    try:
        fits = np.broadcast_shapes(shape, images) == images
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"baseline has shape {shape}, which does not broadcast to the images' {images}"
        )
    check_finite("baseline holds", baseline)
    return jnp.asarray(baseline)


REDUCTIONS = ("max_abs", "sum", "l2", None)


def check_reduce(reduce: Reduce) -> Reduce:
    """``reduce``, or an error that lists what is allowed."""
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {REDUCTIONS}, not {reduce!r}.")
    return reduce


def reduce_channels(signal: jax.Array, reduce: Reduce) -> jax.Array:
    """Takes the last axis away, in the way that ``reduce`` names; None keeps it."""
    if reduce is None:
        return signal
    if reduce == "sum":
        return signal.sum(-1)
    if reduce == "max_abs":
        return jnp.abs(signal).max(-1)
    scale = magnitude(signal, (-1,))
    square = jnp.square(signal / scale).sum(-1)
    # The root has an infinite slope at 0, which would make the gradient of a map NaN.
    empty = square == 0
    root = jnp.where(empty, jnp.zeros_like(square), jnp.sqrt(jnp.where(empty, 1, square)))
    return root * scale[..., 0]


def positive_int(name: str, value: int) -> int:
    """``value`` as an int; an error unless it is a positive one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}.")
    return int(value)
