"""Neuron Abandoning Attention Flow: attention maps of every layer, from the last one down.

A feature map of an inner layer holds many neurons that the decision does not use: ReLU sets them to
zero, max pooling passes over them, convolutions cancel them. NAFlow therefore does not read the
forward feature maps. It starts at the last one, ``A_L``, and leads it back (NA-BP, section III-A):
the back-propagated feature map of layer ``l`` is what the stage above it has to be given to put out
the back-propagated feature map of layer ``l + 1``.

=======================  ===========================================================================
stage                    preimage
=======================  ===========================================================================
convolution, dense       least squares, of minimal norm (Eqs. 5 to 10)
batch norm               its inverse (Eq. 11)
ReLU                     what fired and is led back positive; the rest is abandoned (Eq. 12)
leaky ReLU               its inverse (Eq. 13)
max pool                 values return to the maxima; the rest is abandoned (Eq. 14)
a block with branches    least squares under its Jacobian at the forward activation (Eqs. 7, 9, 10)
=======================  ===========================================================================

The paper tells two conditions of a layer with ``n`` inputs and ``m`` outputs apart. Condition 1, m
>= n: it leaves out redundant outputs and inverts the square matrix that remains (Eq. 8). Least
squares is the same where the outputs can be put out, and needs no choice of outputs where they
cannot. Condition 2, m < n: it goes on to further layers until there are outputs enough (Eqs. 9,
10). Here the layer stays by itself, and of the many inputs that give its outputs the one of least
norm is taken. Blocks with branches are led back whole, with the ReLUs and pools inside as the
forward pass left them: Eqs. 12 and 14 are for what stands between two cuts of the network alone.

Abandoned neurons are 0, and the layer below is not asked to reproduce them: their equations leave
the least-squares problem. The importance coefficients ``alpha_L`` are the gradient of the class
score at ``A_L`` (Eq. 15), carried down by the Jacobians of the stages at the back-propagated
feature maps (Eq. 16). The map of a layer is ``sum_c alpha_l * BPFM_l`` (Eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.core import trace
from jaxplain.core.numerics import safe_divide
from jaxplain.explainers._chunks import class_chunk_of
from jaxplain.explainers._common import (
    check_finite,
    check_images,
    check_targets,
    require_named,
    run_traced,
    warn_of_probabilities,
)
from jaxplain.explainers._descent import Plan, last_layer
from jaxplain.explainers._least_squares import LeastSquares
from jaxplain.explainers._preimage import position, stages
from jaxplain.explainers._stages import size
from jaxplain.explainers._stages import stages as resolutions
from jaxplain.explainers._types import ClassChunk, Images, Layers, Maps, Network, Targets, Tokens

__all__ = ["Flow", "LeastSquares", "contribution_weights", "naflow", "naflow_similarity"]


_SOLVER = LeastSquares()


class Flow(NamedTuple):
    """Everything that NAFlow computes; dicts from layer name, in the order asked for.

    Attributes:
        maps: ``(B, h, w)``, or ``(B, K, h, w)`` for K targets (Eq. 2).
        features: the back-propagated feature maps ``(B, h, w, C)`` (BPFM), which no class changes;
            abandoned neurons are 0.
        coefficients: the importance coefficients ``(B, h, w, C)`` or ``(B, K, h, w, C)``.
        residuals: ``(B,)``, the largest ``|J^T (J x - y)| / |J^T y|`` among the least-squares
            solves from the layer above; 0 where there is none.
        iterations: ``(B,)``, the iterations of these solves together.
    """

    maps: dict[str, jax.Array]
    features: dict[str, jax.Array]
    coefficients: dict[str, jax.Array]
    residuals: dict[str, jax.Array]
    iterations: dict[str, jax.Array]


def contribution_weights(
    embedding: jax.Array, reference: jax.Array, similarity: Callable | None = None
) -> jax.Array:
    """Channel contribution weights ``w_k = |x_k y_k| / sum_k |x_k y_k|`` (NAFlow, Eq. 17).

    Args:
        embedding, reference: ``(D,)``.
        similarity: the terms ``(D,)`` that sum to the similarity, as a function of the two vectors;
            None is the cosine's ``x_k y_k`` (Eqs. 18 to 20).

    Returns:
        ``(D,)``, not negative and of sum 1; zeros where every term is zero.

    >>> import jax.numpy as jnp
    >>> contribution_weights(jnp.array([1., -2., 0.]), jnp.array([3., .5, 5.])).tolist()
    [0.75, 0.25, 0.0]
    """
    terms = abs(embedding * reference if similarity is None else similarity(embedding, reference))
    return safe_divide(terms, terms.sum())


def naflow(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layers = None,
    tokens: Tokens = None,
    last: str | None = None,
    solver: LeastSquares = _SOLVER,
    details: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps | Flow:
    """Neuron Abandoning Attention Flow (Liao et al. 2024): ``sum_c alpha_l * BPFM_l`` (Eq. 2).

    Every layer must be a cut of the network: a value that each path from the image to the scores
    passes through, such as the output of a residual block. What lies between is led back cut by
    cut, so that a layer's map does not depend on which others are asked for. Images are solved for
    one by one, in one batched program. 16-bit networks are led back in float32, with products by
    their Jacobians in their own precision.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        layer: a name or a sequence of names; None for the last layer at each resolution that is a
            cut, first layer first.
        tokens: where it is not known how maps lie in a named layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``,
            of one image, as they are led back one by one.
        last: the layer where the flow starts, whose feature map is the forward one; None for the
            last layer with more than one position.
        solver: how the least-squares problems are solved, see `LeastSquares`. Its ``damping`` is
            0.3 by default, here and on the command line, for the sake of deep trained networks:
            undamped (``damping=0``, the paper's equations) the feature maps of EfficientNet-Lite0
            grow several hundredfold on the way down and its maps lose the class; damped, they keep
            the scale of the activations, and the maps the class. On the trained ResNet-20 both
            keep the scale.
        details: True returns a `Flow`: maps, feature maps, coefficients and residuals.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all. The feature maps are led back once for all classes.

    Returns:
        Signed maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, in the dtype of the layer; a
        dict of them unless ``layers`` is one name. At ``last`` the map is that of `hires_cam`.

    Raises:
        TypeError: x is not of a float dtype.
        UnknownLayerError: there is no such layer, or it is no cut of the network; the message lists
            the cuts.
        UnsupportedOperationError: an operation between the layers has no Jacobian.
        ValueError: a layer lies above ``last`` or has no height and width, x is not
            four-dimensional or not finite, a class is out of range, or the dense method was asked
            for a large network.

    Reference: Liao, Gao and Zhang, *Neuron abandoning attention flow: visual explanation of
    dynamics inside CNN models*, 2024.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     h = jaxplain.tag(2 * x - 3, "below")
        ...     return jaxplain.tag(jax.nn.relu(h), "features").sum((1, 2))
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> flow = jaxplain.naflow(fn, x, 0, layer=["below", "features"], details=True)
        >>> flow.features["below"].ravel().tolist()  # of -3, -1, 1, 3 two are abandoned
        [0.0, 0.0, 1.0, 3.0]
        >>> flow.maps["below"].ravel().tolist()
        [0.0, 0.0, 1.0, 3.0]
    """
    return _run(fn, x, targets, None, layer, tokens, last, solver, details, class_chunk, None)


def naflow_similarity(
    fn: Network,
    x: Images,
    reference: Images,
    *,
    layer: Layers = None,
    tokens: Tokens = None,
    last: str | None = None,
    similarity: Callable[..., jax.Array] | None = None,
    solver: LeastSquares = _SOLVER,
    details: bool = False,
) -> Maps | Flow:
    """NAFlow of a network without classifier: what makes an image similar to a reference.

    The channel contribution weights (Eq. 17, see `contribution_weights`) take the place of the
    class signal: ``alpha_L = sum_k w_k d x_k / d A_L`` with ``x_k`` the channels of the embedding
    (Eq. 21). (The derivative of the weights themselves sums to nothing, for their sum is 1.)

    Args:
        fn: images ``(B, H, W, C)`` to embeddings ``(B, D)``.
        x: float images ``(B, H, W, C)``.
        reference: the embeddings ``(B, D)`` or ``(D,)`` to compare with, or images ``(B, H, W,
            C)``.
        similarity: None for the cosine; else a function of two vectors ``(D,)``. If it returns its
            ``(D,)`` terms, of which the similarity is the sum, these give contribution weights (Eq.
            20); if it returns a scalar, its gradient takes the class gradient's place.
        layer, tokens, last, solver, details: as in `naflow`.

    Returns:
        As `naflow`: signed maps ``(B, h, w)``, a dict of them unless ``layers`` is one name, or a
        `Flow`.

    Raises:
        ValueError: fn or similarity return something else, or the reference's shape fits
            neither, besides the errors of `naflow`.

    Reference: as for `naflow`, section III-C.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def embed(x):
        ...     return jaxplain.tag(x * 2, "features").mean((1, 2))
        >>> x = jnp.array([[[[1., 0.], [0., 1.]]]])
        >>> jaxplain.naflow_similarity(embed, x, jnp.array([3., 1.]), layer="features").tolist()
        [[[0.75, 0.25]]]
    """
    if similarity is not None and not callable(similarity):
        raise TypeError(f"similarity must be a function of two vectors, not {similarity!r}")
    check_finite("reference holds", reference)
    reference = jnp.asarray(reference)
    return _run(fn, x, None, reference, layer, tokens, last, solver, details, None, similarity)


def _run(fn, x, targets, reference, layer, tokens, last, solver, details, class_chunk, similarity):
    if not isinstance(solver, LeastSquares):
        raise TypeError(f"solver must be a jaxplain.LeastSquares, not {type(solver).__name__}")
    x = check_images(x)
    # Traced at one image and mapped over the batch: each is a least-squares problem of its own.
    model = trace(fn, x[:1])
    targets = check_targets(model.graph, targets, len(x), traced_batch=1)
    if reference is None:
        warn_of_probabilities(model.whole)
    else:
        reference = _check_reference(model.graph, reference, x)
    if layer is None:
        require_named(tokens)
        layer = _default_layers(model.graph, last)
    single = isinstance(layer, str)
    names = (layer,) if isinstance(layer, str) else tuple(layer)
    if not names:
        raise ValueError("layer is an empty sequence; name at least one layer")
    model = model.viewed(names, tokens)
    chunk = class_chunk_of(class_chunk, model, names, targets)
    flow = run_traced(
        _flow,
        model,
        x,
        targets,
        arrays=(reference,),
        layers=names,
        last=last,
        solver=solver,
        class_chunk=chunk,
        similarity=similarity,
        details=bool(details),
    )
    if details:  # jit sorts the keys of a dict
        return Flow(*({name: part[name] for name in names} for part in flow))
    return flow.maps[names[0]] if single else {name: flow.maps[name] for name in names}


def _default_layers(graph, last: str | None) -> list[str]:
    """The cuts among the ends of the resolutions, up to where the flow starts."""
    cuts = {v: i for i, v in enumerate([graph.inputs[0], *(s.target for s in stages(graph))])}
    top = position(graph, cuts, last_layer(graph, last))
    return [graph.name_of(v) for v in resolutions(graph) if cuts.get(v, top + 1) <= top]


def all_layers(fn: Network, x: Images, last: str | None = None) -> list[str]:
    """Every layer that `naflow` can lead back to, first layer first, up to where the flow starts.

    These are the cuts with height and width that have a name of their own; in a network without
    names, all cuts.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> def fn(x):
    ...     h = jaxplain.tag(2 * x - 3, "below")
    ...     return jaxplain.tag(jax.nn.relu(h), "features").sum((1, 2))
    >>> all_layers(fn, jnp.ones((1, 2, 2, 1)))
    ['below', 'features']
    """
    graph = trace(fn, check_images(x)[:1]).graph
    cuts = {stage.target: i for i, stage in enumerate(stages(graph))}
    top = position(graph, cuts, last_layer(graph, last))
    every = [graph.name_of(v) for v, i in cuts.items() if i <= top and size(graph, v)]
    named = [name for name in every if not name.rpartition(":")[2].lstrip("-").isdigit()]
    return named or every


def _check_reference(graph, reference, x):
    shape = graph.outputs[0].aval.shape
    if len(shape) != 2:
        raise ValueError(
            "fn must return embeddings (batch, channels), not an array of shape "
            f"{(len(x), *shape[1:])}: flatten it or pool it in fn"
        )
    if reference.ndim == 4:
        if reference.shape[1:] != x.shape[1:] or len(reference) not in (1, len(x)):
            raise ValueError(
                f"reference images must have the shape {x.shape} or "
                f"{(1, *x.shape[1:])}, not {reference.shape}"
            )
        return jnp.broadcast_to(check_images(reference), x.shape)
    if reference.shape not in (shape[1:], (1, *shape[1:]), (len(x), *shape[1:])):
        raise ValueError(
            f"reference must be images {x.shape} or embeddings "
            f"{(len(x), *shape[1:])}, not of shape {reference.shape}"
        )
    return jnp.broadcast_to(reference, (len(x), *shape[1:]))


def _flow(model, x, targets, reference, *, layers, class_chunk, last, solver, similarity, details):
    """The `Flow` of a batch, for a model that is traced at one image."""
    if targets is not None and targets.ndim == 0:
        targets = jnp.broadcast_to(targets, len(x))
    plan = Plan(model, layers, last)
    model.check_gradient([last_layer(model.graph, last)])

    def one(x, targets, reference):
        def lift(v):
            return None if v is None else v[None]

        signal = lift(targets)
        if reference is not None:
            signal = _similarity_signal(model, x, reference, similarity)
        flow = Flow(*plan.flow(lift(x), signal, solver, class_chunk))
        if not details:  # what nobody asks for is not computed
            flow = flow._replace(features={}, coefficients={}, residuals={}, iterations={})
        return jax.tree.map(lambda v: v[0] if v.ndim else v, flow)

    return jax.vmap(one)(x, targets, reference)


def _similarity_signal(model, x, reference, similarity):
    """The signal ``(1, D)`` at the embedding that takes the class signal's place."""

    def embed(x):
        return model.evaluate([x[None]])[0][0]

    embedding = embed(x)
    reference = embed(reference) if reference.ndim == 3 else reference
    if similarity is not None:
        shape = jax.eval_shape(similarity, embedding, reference)
        shape = getattr(shape, "shape", None)
        if shape == ():
            return jax.grad(similarity)(embedding, reference)[None]
        if shape != embedding.shape:
            raise ValueError(
                f"similarity must return a scalar or the {embedding.shape} terms that "
                f"sum to it, not an array of shape {shape}"
            )
    return contribution_weights(embedding, reference, similarity)[None]
