"""Densely Connected Attention (Ebrahimpour et al. 2019): what the last layer's activity depends on.

With ``f_n`` the activations of layer n and ``GT`` the mean activation of the last one (the
"Gestalt Total", Eq. 6), the sensitivities ``G_n = dGT / df_n`` (Eq. 7) give every layer a weight
per position and a weight per channel,

    W^s_n = softmax over space of sum_c G_n       (Eqs. 8 and 9),
    W^c_n = softmax over channels of sum_xy G_n   (Eq. 11),

and its attention-weighted features ``f_SCA = W^c f^2 + W^s f^2`` (Eqs. 5, 10 and 12). Their mean
over channels is the layer's map; maps of later layers, upsampled, are added to it (Eqs. 13, 14).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import postprocess
from jaxplain.core import _compat, trace
from jaxplain.core.numerics import magnitude
from jaxplain.explainers._common import check_images, require_named, run_traced
from jaxplain.explainers._stages import names, require_maps, stages
from jaxplain.explainers._types import Images, Layers, Network, Tokens

__all__ = ["DenseAttention", "dense_attention"]


class DenseAttention(NamedTuple):
    """The attention maps of a batch; both dicts have the layers' names as keys, first layer first.

    Attributes:
        layers: ``(B, h, w)`` each, the layer's own map at its own resolution (the paper's "conv4").
        cumulative: ``(B, h, w)`` each, that map and those of all later layers, upsampled to it and
            added (the paper's "conv54"); for the last layer its own map.
    """

    layers: dict[str, jax.Array]
    cumulative: dict[str, jax.Array]


def dense_attention(
    fn: Network, x: Images, *, layer: Layers = None, tokens: Tokens = None
) -> DenseAttention:
    """Dense attention maps (Ebrahimpour et al. 2019, Eqs. 5 to 14) of all layers at once.

    One forward and one backward pass, from the last of the layers; what lies above it is not
    computed. Needs no class and no training. In Eq. 6 the activation is taken unweighted, since
    its weights would depend on GT itself. All arithmetic beyond the network's is in float32 at
    least.

    Args:
        fn: images ``(B, H, W, C)`` to anything.
        x: float images ``(B, H, W, C)``.
        layer: a name or a sequence of names, in any order; GT is taken at the one computed last.
            None for the last layer at each resolution, with the last convolutional layer: for
            VGG-16 the ends of its five stages, for ResNet those of the stem and the four stages,
            for GoogLeNet the inputs of its five pools, for EfficientNet the inputs of the strided
            convolutions and the head.
        tokens: where it is not known how maps lie in a named layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.

    Returns:
        `DenseAttention`, in the dtype of ``x``; maps are non-negative, unscaled.

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x is not four-dimensional or not finite, ``layer`` is empty, a layer is named
            twice or has no height and width.
        UnknownLayerError: no such layer, or no convolution to be found by default.

    Reference: Ebrahimpour et al., *Do humans look where deep convolutional neural networks
    "attend"?*, ISVC 2019.

    Example:
        One layer: all weights are uniform, 1 / 4 per position and 1 for the only channel.

        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(x * 2., "features").mean((1, 2))
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> jaxplain.dense_attention(fn, x, layer="features").layers["features"]
        Array([[[ 0.,  5.],
                [20., 45.]]], dtype=float32)
    """
    x = check_images(x)
    model = trace(fn, x)
    graph = model.graph
    if layer is None:
        require_named(tokens)
        variables = stages(graph)
        labels = names(graph, variables)
        found = [(v, graph.layout(v)) for v in variables]
    else:
        labels = [layer] if isinstance(layer, str) else list(layer)
        if not labels:
            raise ValueError("layer is an empty sequence; name at least one layer")
        model = model.viewed(labels, tokens)
        found = [require_maps(model, name, "dense_attention") for name in labels]
        if len({v for v, _ in found}) < len(found):
            raise ValueError(f"layer names one layer twice: {', '.join(map(repr, labels))}")
        order = {v: i for i, v in enumerate([*graph.inputs, *(op.output for op in graph.ops)])}
        pairs = sorted(zip(found, labels, strict=True), key=lambda pair: order[pair[0][0]])
        found, labels = (list(column) for column in zip(*pairs, strict=True))
    own, cumulative = run_traced(_maps, model, x, None, found=tuple(found))
    return DenseAttention(
        dict(zip(labels, own, strict=True)), dict(zip(labels, cumulative, strict=True))
    )


def _maps(model, x, _, *, found):
    variables, layouts = zip(*found, strict=True)
    model.check_gradient([model.graph.name_of(v) for v in variables], None, variables[-1])
    zeros = [_compat.zeros_like_varying(v.aval.shape, v.aval.dtype, x) for v in variables]
    dtype = jnp.promote_types(x.dtype, jnp.float32)

    def total(zeros):
        # Zeros added at the layers: the backward pass stops at the first of them.
        added = dict(zip(variables, zeros, strict=True))
        acts = model.evaluate([x], None, added, list(variables))
        last = layouts[-1].maps(acts[-1])
        return last.astype(dtype).mean((1, 2, 3)).sum(), acts  # the images are independent

    sensitivities, acts = jax.grad(total, has_aux=True)(zeros)
    own = [
        _attention(layout.maps(a).astype(dtype), layout.maps(g).astype(dtype))
        for layout, a, g in zip(layouts, acts, sensitivities, strict=True)
    ]
    cumulative = [
        sum((postprocess.resize(m, (one.shape[1], one.shape[2])) for m in own[i:]), one)
        for i, one in enumerate(own, 1)
    ]
    return [m.astype(x.dtype) for m in own], [m.astype(x.dtype) for m in cumulative]


def _attention(f: jax.Array, g: jax.Array) -> jax.Array:
    """Mean over channels of W^c f^2 + W^s f^2: (B, h, w)."""
    space = jax.nn.softmax(g.sum(-1, keepdims=True), axis=(1, 2))
    channel = jax.nn.softmax(g.sum((1, 2), keepdims=True), axis=-1)
    scale = magnitude(f, (1, 2, 3))
    mean = ((channel + space) * jnp.square(f / scale)).mean(-1)
    return mean * scale[..., 0] * scale[..., 0]  # the sum over channels may be too large, not this
