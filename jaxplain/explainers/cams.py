"""Class activation maps: activations of a layer, weighted by how much the class score uses them.

With ``A`` the activations at a layer, ``(h, w, C)``, ``G = dS / dA`` the gradient of a class score
there, and sums over space:

======================  ====================================================================
method                  map
======================  ====================================================================
`cam`                   ``sum_c w_c A_c``, ``w`` the classifier's weights
`grad_cam`              ``relu(sum_c mean(G_c) A_c)``
`guided_grad_cam`       `guided_backprop` times the upsampled `grad_cam`
`grad_cam_plus_plus`    ``sum_c sum(relu(G_c) alpha_c) A_c``
`x_grad_cam`            ``sum_c sum(G_c A_c) / sum(A_c) A_c``
`layer_cam`             ``sum_c relu(G_c) A_c``
`hires_cam`             ``sum_c G_c A_c``
======================  ====================================================================

Maps are raw, at the layer's own resolution. Those methods whose authors take the positive part at
the end can do it with ``relu=True``; `jaxplain.postprocess` resizes and scales.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxplain.core.numerics import positive
from jaxplain.explainers._common import over_targets, run
from jaxplain.explainers._global_pool import require_global_pool
from jaxplain.explainers._types import ClassChunk, Images, Layer, Maps, Network, Targets, Tokens

__all__ = [
    "cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "x_grad_cam",
]

SPACE = (1, 2)


def _weighted(weights: jax.Array, a: jax.Array) -> jax.Array:
    return (weights * a).sum(-1)


def cam_map(a: jax.Array, g: jax.Array) -> jax.Array:
    """CAM of activations and the gradient at them, for networks of its form."""
    # Above a global average pool the gradient is w_c / (h w) everywhere.
    return _weighted(g.sum(SPACE, keepdims=True), a)


def _grad_cam_map(a: jax.Array, g: jax.Array) -> jax.Array:
    return _weighted(g.mean(SPACE, keepdims=True), a)


def _plus_plus_map(a: jax.Array, g: jax.Array, eps: float) -> jax.Array:
    # relu(G) leaves only G > 0, where alpha with eps = 0 is 1 / (2 + sum(A) G): nothing underflows.
    total = a.sum(SPACE, keepdims=True)
    keep = g > 0
    safe = jnp.where(keep, g, jnp.ones_like(g))
    if eps:
        above, below = safe * safe, 2 * safe * safe + total * safe**3 + eps
    else:
        above, below = jnp.ones_like(g), 2 + total * safe
    empty = below == 0
    alpha = jnp.where(keep & ~empty, above / jnp.where(empty, jnp.ones_like(below), below), 0)
    return _weighted((positive(g) * alpha).sum(SPACE, keepdims=True), a)


def _x_grad_cam_map(a: jax.Array, g: jax.Array, eps: float) -> jax.Array:
    total = a.sum(SPACE, keepdims=True) + jnp.asarray(eps, a.dtype)
    empty = total == 0
    share = (g * a).sum(SPACE, keepdims=True) / jnp.where(empty, jnp.ones_like(total), total)
    return _weighted(jnp.where(empty, jnp.zeros_like(share), share), a)


def _layer_cam_map(a: jax.Array, g: jax.Array) -> jax.Array:
    return _weighted(positive(g), a)


_MAPS = {
    "cam": cam_map,
    "grad_cam": _grad_cam_map,
    "grad_cam_plus_plus": _plus_plus_map,
    "x_grad_cam": _x_grad_cam_map,
    "layer_cam": _layer_cam_map,
    "hires_cam": lambda a, g: _weighted(g, a),
}


def _require_space(layers, acts, method: str) -> None:
    for name in layers:  # maps (B, h, w, C) have four axes; what has no place may have four too
        if acts[name].ndim != 4:
            raise ValueError(
                f"{method} needs a layer with height and width, but {name!r} has shape "
                f"{tuple(acts[name].shape)}: name a layer before the pooling or flattening."
            )


def _cams(model, x, targets, *, layers, class_chunk, method, relu, options=()):
    if method == "cam":
        for name in layers:
            require_global_pool(model, name, "cam")
    scores, acts, pull = model.pullback(x, layers)
    _require_space(layers, acts, method)
    combine, extra = _MAPS[method], dict(options)

    def one(seed):
        signal = pull(seed)
        maps = {name: combine(acts[name], signal[name], **extra) for name in layers}
        return {name: positive(m) for name, m in maps.items()} if relu else maps

    return over_targets(one, scores, targets, class_chunk)


def _run(method, fn, x, targets, layer, tokens, relu, class_chunk, **options):
    return run(
        _cams,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        method=method,
        relu=bool(relu),
        options=tuple(options.items()),
    )


def _eps(eps: float) -> float:
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, but is {eps}.")
    return float(eps)


def cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Class activation mapping (Zhou et al. 2016, Eq. 2): ``sum_c w_c A_c``.

    ``w_c`` are the weights of the classifier, for networks that end in a global average pool and
    one dense layer (or 1 x 1 convolution) with nothing but scales, biases and reshapes beside them;
    this is checked in the trace. A scale between the layer and the scores is part of ``w_c``. The
    score is the map's mean plus the biases.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        layer: None for the last layer with more than one position, the global average pool's input;
            or the name of a layer that only the pool and the classifier follow, or a sequence of
            names.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        relu: True keeps only the positive part.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Signed maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, in the dtype of the layer; a
        dict of them for a sequence of layers.

    Raises:
        TypeError: x is not of a float dtype.
        UnsuitableNetworkError: the network does not end that way after ``layer``; use `grad_cam`.
        ValueError: x is not four-dimensional or not finite, a class is out of range, or there is no
            such layer.

    Reference: Zhou et al., *Learning deep features for discriminative localization*, CVPR 2016.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[1., -2., 3.]])
        >>> def fn(x):
        ...     return jaxplain.tag(x * 2, "features").mean((1, 2)) @ weight
        >>> jaxplain.cam(fn, jnp.arange(4.).reshape(1, 2, 2, 1), 2, layer="features")
        Array([[[ 0.,  6.],
                [12., 18.]]], dtype=float32)
    """
    return _run("cam", fn, x, targets, layer, tokens, relu, class_chunk)


def grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    relu: bool = True,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Grad-CAM (Selvaraju et al. 2017): ``relu(sum_c mean(G_c) A_c)`` (Eqs. 1 and 2).

    Only the part of the network above the layer is differentiated.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        layer: None for the last layer with more than one position, a name, or a sequence of names.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        relu: False keeps the negative part (captum's default, and pytorch-grad-cam before its
            scaling).
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, in the dtype of the layer; a dict of
        them for a sequence of layers.

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x is not four-dimensional or not finite, a class is out of range, there is no
            such layer, or the layer has no height and width.

    Reference: Selvaraju et al., *Grad-CAM: visual explanations from deep networks via
    gradient-based localization*, ICCV 2017.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[4., -4.]])
        >>> def fn(x):
        ...     return jaxplain.tag(x * 2, "features").mean((1, 2)) @ weight
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> [round(float(v)) for v in jaxplain.grad_cam(fn, x, 0, layer="features").ravel()]
        [0, 2, 4, 6]
    """
    return _run("grad_cam", fn, x, targets, layer, tokens, relu, class_chunk)


def grad_cam_plus_plus(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    eps: float = 0.0,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Grad-CAM++ (Chattopadhay et al. 2018): ``sum_c sum(relu(G_c) alpha_c) A_c``.

    ``alpha = G^2 / (2 G^2 + sum(A_c) G^3 + eps)``, 0 where ``G`` or the denominator is 0 (Eqs. 5
    and 19, with the score's exponential as the function explained, whose factor is the same for a
    whole map and is left out).

    Arguments, result and errors are those of `grad_cam`, and:

    Args:
        relu: True keeps only the positive part.
        eps: 0 is the paper's formula. pytorch-grad-cam adds 1e-6, which is absolute: for gradients
            below about 1e-3 it dominates, and the map then depends on the scale of the score.

    Raises:
        ValueError: ``eps`` is negative, besides the errors of `grad_cam`.

    Reference: Chattopadhay et al., *Grad-CAM++: improved visual explanations for deep convolutional
    networks*, WACV 2018.

    Example:
        At every pixel ``G = 1``, so ``alpha = 1 / (2 + 6)`` and the weight is 4 / 8:

        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(x * 1., "features").sum((1, 2))
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> jaxplain.grad_cam_plus_plus(fn, x, 0, layer="features")
        Array([[[0. , 0.5],
                [1. , 1.5]]], dtype=float32)
    """
    return _run(
        "grad_cam_plus_plus", fn, x, targets, layer, tokens, relu, class_chunk, eps=_eps(eps)
    )


def x_grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    eps: float = 1e-7,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """XGrad-CAM (Fu et al. 2020, Eq. 8): ``sum_c sum(G_c A_c) / (sum(A_c) + eps) A_c``.

    For a piecewise linear network its sum is the score less the biases' part. Arguments, result and
    errors are those of `grad_cam`, and:

    Args:
        relu: True keeps only the positive part.
        eps: added to the denominator, as in the authors' code; where the denominator is 0 the share
            is 0.

    Raises:
        ValueError: ``eps`` is negative, besides the errors of `grad_cam`.

    Reference: Fu et al., *Axiom-based Grad-CAM: towards accurate visualization and explanation of
    CNNs*, BMVC 2020.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(x * 1., "features").sum((1, 2))
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> [round(float(v)) for v in jaxplain.x_grad_cam(fn, x, 0, layer="features").ravel()]
        [0, 1, 2, 3]
    """
    return _run("x_grad_cam", fn, x, targets, layer, tokens, relu, class_chunk, eps=_eps(eps))


def layer_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Layer-CAM (Jiang et al. 2021, Eqs. 5 to 7): ``sum_c relu(G_c) A_c``.

    Every pixel has weights of its own: meant also for layers close to the image. Arguments, result
    and errors are those of `grad_cam`, and:

    Args:
        relu: True takes the paper's final positive part, which changes nothing behind a ReLU.

    Reference: Jiang et al., *LayerCAM: exploring hierarchical class activation maps for
    localization*, IEEE TIP 2021.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[1.], [-1.], [1.], [-1.]])
        >>> def fn(x):
        ...     return jaxplain.tag(x * 1., "features").reshape(1, -1) @ weight
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> jaxplain.layer_cam(fn, x, 0, layer="features")
        Array([[[0., 0.],
                [2., 0.]]], dtype=float32)
    """
    return _run("layer_cam", fn, x, targets, layer, tokens, relu, class_chunk)


def hires_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """HiRes-CAM (Draelos and Carin 2020, Eq. 5): ``sum_c G_c A_c``.

    The same as TorchRay's linear approximation. Where a linear function follows the layer, the
    map's sum is the score less the biases. Arguments, result and errors are those of `grad_cam`,
    and:

    Args:
        relu: True keeps only the positive part.

    Reference: Draelos and Carin, *Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks*, 2020.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[1.], [-1.], [1.], [-1.]])
        >>> def fn(x):
        ...     return jaxplain.tag(x * 1., "features").reshape(1, -1) @ weight
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> jaxplain.hires_cam(fn, x, 0, layer="features")
        Array([[[ 0., -1.],
                [ 2., -3.]]], dtype=float32)
    """
    return _run("hires_cam", fn, x, targets, layer, tokens, relu, class_chunk)
