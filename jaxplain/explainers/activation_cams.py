"""Class activation maps whose weights come from elsewhere than the gradient.

With ``A`` the activations at a layer, ``(h, w, C)``, the map is ``sum_c w_c A_c`` with

=================  =============================================================================
method             weight of channel c
=================  =============================================================================
`score_cam`        softmax over channels of the score of the image, masked with the channel
`ablation_cam`     the share of the score that is lost without the channel
`eigen_cam`        the channel's loading in the first principal component; it needs no class
=================  =============================================================================

Maps are raw, at the layer's own resolution, as those of `jaxplain.explainers.cams`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxplain import core
from jaxplain.core.batched import in_chunks
from jaxplain.core.numerics import magnitude, positive, safe_divide
from jaxplain.explainers._common import (
    check_option,
    explained_score,
    over_targets,
    positive_int,
    run,
    seeds,
)
from jaxplain.explainers._types import Images, Layer, Maps, Network, Targets, Tokens
from jaxplain.explainers.cams import SPACE, _require_space
from jaxplain.postprocess import resize

__all__ = ["ablation_cam", "eigen_cam", "score_cam"]


def _channel_map(weights: jax.Array, a: jax.Array, relu: bool, several: bool) -> jax.Array:
    """``sum_c w_c A_c``, (B, h, w) for weights (B, C), or (B, K, h, w) for several: (B, C, K)."""
    w = jnp.moveaxis(weights, 1, -1)[..., None, None, :].astype(a.dtype)
    maps = (w * (a[:, None] if several else a)).sum(-1)
    return positive(maps) if relu else maps


def _score_cam(
    model, x, targets, *, layers, class_chunk, weighting, align_corners, relu, batch_size
):
    scores, acts = model.forward(x, layers)
    _require_space(layers, acts, "score_cam")
    signal, several = seeds(scores, targets)

    def masked_score(channel):
        mask = resize(channel.astype(x.dtype), x.shape[1:3], align_corners=align_corners)
        low, high = mask.min(SPACE, keepdims=True), mask.max(SPACE, keepdims=True)
        mask = safe_divide(mask - low, high - low)
        return explained_score(signal, model.forward(x * mask[..., None])[0])

    maps = {}
    for name in layers:
        w = in_chunks(masked_score, (acts[name],), (3,), batch_size)
        if weighting == "softmax":
            w = jax.nn.softmax(w, axis=1)
        else:
            w = w - explained_score(signal, model.forward(jnp.zeros_like(x))[0])[:, None]
        maps[name] = _channel_map(w, acts[name], relu, several)
    return maps


def score_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    weighting: Literal["softmax", "increase"] = "softmax",
    align_corners: bool = False,
    relu: bool = True,
    batch_size: int = 16,
) -> Maps:
    """Score-CAM (Wang et al. 2020): channels weigh as much as what they show raises the score.

    The image is multiplied by every channel in turn, ``x * H_c``, where ``H_c`` is the channel's
    activation, upsampled bilinearly to the image and scaled to [0, 1]. The weights are
    ``softmax_c(S(x * H_c))`` (the paper's Algorithm 1), or the increase in confidence
    ``S(x * H_c) - S(0)`` itself; the map is ``relu(sum_c w_c A_c)``. It takes one forward pass per
    channel, whatever the number of classes.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        layer: None for the last layer with more than one position, a name, or a sequence of names.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        weighting: ``"softmax"`` or ``"increase"``, see above. With many channels the softmax of
            logits lets very few of them count. The authors' code uses the probability itself as the
            weight: give a ``fn`` that ends in a softmax, and ``"increase"``.
        align_corners: the grid of the upsampling, as in `postprocess.resize`; pytorch-grad-cam
            aligns corners, the authors' code does not.
        relu: False keeps the negative part.
        batch_size: how many masked copies of the batch go through the network at once.

    Returns:
        Maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, in the dtype of the layer; a dict of
        them for a sequence of layers.

    Raises:
        TypeError: x is not of a float dtype, or ``batch_size`` is no int.
        ValueError: x is not four-dimensional or not finite, a class is out of range, there is no
            such layer or option, the layer has no height and width, or ``batch_size`` is not
            positive.

    Reference: Wang et al., *Score-CAM: score-weighted visual explanations for convolutional neural
    networks*, CVPR workshops 2020.

    Example:
        The first channel shows the only pixel that counts, the second one another:

        >>> import jax.numpy as jnp, jaxplain
        >>> select = jnp.eye(2).reshape(1, 2, 2)
        >>> def fn(x):
        ...     a = jaxplain.tag(x * select, "features")
        ...     return (a * select[..., :1]).sum((1, 2, 3))[:, None]
        >>> x = jnp.full((1, 1, 2, 1), 3.)
        >>> jaxplain.score_cam(fn, x, 0, layer="features", weighting="increase")
        Array([[[9., 0.]]], dtype=float32)
    """
    check_option("weighting", weighting, ("softmax", "increase"))
    return run(
        _score_cam,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        logits=False,  # its authors weight by probabilities
        weighting=weighting,
        align_corners=bool(align_corners),
        relu=bool(relu),
        batch_size=positive_int("batch_size", batch_size),
    )


def _above(model: core.Model, x: jax.Array, layer: str):
    """The scores as a function of what happens to the layer's maps, all else being as for x."""
    graph = model.graph
    v = graph.layer(layer)
    after = graph.downstream(frozenset([v]))
    made = {u for op in after for u in op.outputs}
    made.add(v)
    bypass = list(dict.fromkeys(u for op in after for u in op.inputs if u not in made))
    # Computed once, here: a loop over the channels would do it anew for each of them.
    own, *values = model.evaluate([x], outputs=[v, *bypass])
    given = dict(zip(bypass, values, strict=True))
    layout = model.layout(layer)

    def scores(change: Callable[[jax.Array], jax.Array]) -> jax.Array:
        value = change(own) if layout is None else layout.edit(own, change)
        return model.evaluate([x], outputs=graph.outputs[:1], given={**given, v: value})[0]

    return scores


def _ablation_cam(model, x, targets, *, layers, class_chunk, relative, relu, batch_size):
    scores, acts = model.forward(x, layers)
    _require_space(layers, acts, "ablation_cam")
    signal, several = seeds(scores, targets)
    whole = explained_score(signal, scores)
    maps = {}
    for name in layers:
        a, above = acts[name], _above(model, x, name)
        channels = jnp.arange(a.shape[-1])

        def drop(c, above=above, channels=channels):
            def without(maps):
                return jnp.where(channels == c, 0, maps)

            return whole - explained_score(signal, above(without))

        w = in_chunks(drop, (channels,), (0,), batch_size)
        if relative:
            w = safe_divide(w, whole[:, None])
        maps[name] = _channel_map(w, a, relu, several)
    return maps


def ablation_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    relative: bool = True,
    relu: bool = True,
    batch_size: int = 16,
) -> Maps:
    """Ablation-CAM (Desai and Ramaswamy 2020): channels weigh what the score loses without them.

    ``relu(sum_c w_c A_c)`` with ``w_c = (S - S_c) / S``, where ``S_c`` is the score with channel c
    of the layer set to 0. It takes one pass per channel through the part of the network above the
    layer, whatever the number of classes.

    Arguments, result and errors are those of `score_cam`, and:

    Args:
        relative: divide by the score, as in the paper, which turns the map's sign where the score
            is negative (and a score of 0 gives a map of 0). False leaves the drop ``S - S_c`` as it
            is, which is better for classes that the network does not see.
        relu: False keeps the negative part.
        batch_size: how many ablated copies of the batch go through the upper part at once.

    Reference: Desai and Ramaswamy, *Ablation-CAM: visual explanations for deep convolutional
    network via gradient-free localization*, WACV 2020.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[3.], [1.]])
        >>> def fn(x):
        ...     return jaxplain.tag(x * 1., "features").sum((1, 2)) @ weight
        >>> x = jnp.array([[[[1., 0.], [0., 1.]]]])
        >>> jaxplain.ablation_cam(fn, x, 0, layer="features")
        Array([[[0.75, 0.25]]], dtype=float32)
    """
    return run(
        _ablation_cam,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        relative=bool(relative),
        relu=bool(relu),
        batch_size=positive_int("batch_size", batch_size),
    )


@jax.custom_jvp
def _principal(m: jax.Array) -> jax.Array:
    """The eigenvector (..., n) of the largest eigenvalue of every symmetric (..., n, n)."""
    return jnp.linalg.eigh(m)[1][..., -1]


@_principal.defjvp
def _principal_jvp(primals, tangents):
    # As jax's own rule for one vector, but finite where eigenvalues coincide (a dead layer).
    values, vectors = jnp.linalg.eigh(primals[0])
    v = vectors[..., -1]
    gap = values[..., -1:] - values
    least = jnp.finfo(values.dtype).eps * jnp.abs(values).max(-1, keepdims=True)
    slope = safe_divide(
        jnp.einsum("...ji,...jk,...k->...i", vectors, tangents[0], v),
        jnp.where(gap > least, gap, 0),
    )
    return v, jnp.einsum("...ij,...j->...i", vectors, slope)


def _eigen_map(a: jax.Array, centre: bool) -> jax.Array:
    wide = a.astype(jnp.promote_types(a.dtype, jnp.float32))  # LAPACK has no half precision
    scale = magnitude(wide, (1, 2, 3))  # squares of large values would overflow
    wide = wide / scale
    flat = wide.reshape(len(a), -1, a.shape[-1])
    if centre:
        flat = flat - flat.mean(1, keepdims=True)
    product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    if flat.shape[2] <= flat.shape[1]:
        v = _principal(product("bpc,bpd->bcd", flat, flat))
        projected = product("bpc,bc->bp", flat, v)
    else:  # fewer positions than channels: the left singular vector, times its singular value
        gram = product("bpc,bqc->bpq", flat, flat)
        u = _principal(gram)
        square = product("bp,bpq,bq->b", u, gram, u)[:, None]
        dead = square <= 0  # the root has an infinite slope at 0
        projected = jnp.where(dead, 0, jnp.sqrt(jnp.where(dead, 1, square))) * u
    agreement = (projected * wide.sum(-1).reshape(len(a), -1)).sum(1, keepdims=True)
    signed = (projected * jnp.where(agreement < 0, -1, 1)).reshape(a.shape[:-1])
    return (signed * scale[..., 0]).astype(a.dtype)


def _eigen_cam(model, x, targets, *, layers, class_chunk, centre):
    scores, acts = model.forward(x, layers)
    _require_space(layers, acts, "eigen_cam")
    maps = {name: _eigen_map(acts[name], centre) for name in layers}
    return over_targets(lambda seed: maps, scores, targets)


def eigen_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    centre: bool = False,
) -> Maps:
    """Eigen-CAM (Muhammad and Yeasin 2020): the first principal component of the activations.

    ``A v`` with ``A`` the activations as a matrix (positions, channels) and ``v`` its first right
    singular vector; needs neither class nor gradient. The sign, which is free, is the one with
    which the map agrees with ``sum_c A_c``: behind a ReLU, where ``v`` has one sign, the map is
    non-negative.

    Args:
        fn, x, layer, tokens: as in `score_cam`.
        targets: they do not change the map; they are taken, and checked, so that the method can
            stand wherever an explainer does. ``(B, K)`` targets repeat it K times.
        centre: subtract each channel's mean over space first (pytorch-grad-cam does; the paper does
            not). The map then sums to 0.

    Returns:
        Maps ``(B, h, w)`` or ``(B, K, h, w)``, in the dtype of the layer; a dict of them for a
        sequence of layers. Their gradient is finite also where two components are equally strong.

    Raises:
        TypeError, ValueError: as in `score_cam`.

    Reference: Muhammad and Yeasin, *Eigen-CAM: class activation map using principal components*,
    IJCNN 2020.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(x * jnp.array([3., 4.]), "features").sum((1, 2))
        >>> x = jnp.array([[[[1.], [2.]]]])
        >>> jaxplain.eigen_cam(fn, x, layer="features").round(4)
        Array([[[ 5., 10.]]], dtype=float32)
    """
    return run(
        _eigen_cam, fn, x, targets, layer=layer, tokens=tokens, logits=False, centre=bool(centre)
    )
