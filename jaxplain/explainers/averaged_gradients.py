"""Gradients averaged: over noisy copies of the image, or on the path from a baseline to it.

With ``S`` the score of a class and ``G = dS / dx``:

=========================  ===========================================================
`smooth_grad`              mean of ``G`` over noisy copies of the image
`integrated_gradients`     ``(x - x') * integral of G`` on the straight path from x'
=========================  ===========================================================
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import _compat
from jaxplain.core.hoist import hoist
from jaxplain.explainers._common import (
    check_baseline,
    check_reduce,
    over_targets,
    positive_int,
    reduce_channels,
    run,
)
from jaxplain.explainers._types import (
    Baseline,
    ClassChunk,
    Images,
    Layer,
    Maps,
    Network,
    Reduce,
    Targets,
    Tokens,
)

__all__ = ["integrated_gradients", "smooth_grad"]


def _smooth_grad(model, x, targets, key, *, layers, class_chunk, samples, noise, reduce):
    scores, _ = model.forward(x)
    axes = tuple(range(1, x.ndim))
    sigma = noise * (x.max(axes, keepdims=True) - x.min(axes, keepdims=True))

    def one(seed):
        # One sample at a time: memory does not grow with their number.
        def sample(total, k):
            noisy = x + sigma * jax.random.normal(k, x.shape, x.dtype)
            signal = model.pullback(noisy, layers)[2](seed)
            return {name: total[name] + signal[name] for name in layers}, None

        keys = jax.random.split(key, samples)
        shapes = jax.eval_shape(lambda v: model.pullback(v, layers)[2](seed), x)
        zero = {
            name: _compat.zeros_like_varying(shapes[name].shape, shapes[name].dtype, x)
            for name in layers
        }
        total, _ = jax.lax.scan(hoist(sample, zero, keys[0]), zero, keys)
        return {name: reduce_channels(total[name] / samples, reduce) for name in layers}

    return over_targets(one, scores, targets, class_chunk)


def smooth_grad(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    key: jax.Array,
    samples: int = 25,
    noise: float = 0.15,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """The mean gradient over noisy copies of the image (Smilkov et al. 2017, Eq. 2).

    ``mean_i dS / dx (x + sigma n_i)`` with standard normal ``n_i`` and
    ``sigma = noise * (max(x) - min(x))`` of each image. The channels are reduced after the mean.
    The classes of ``targets=None`` are those of the clean image. Samples are taken one after
    another, so memory does not depend on their number.

    Arguments, result and errors are those of `gradient`, and:

    Args:
        key: a key of `jax.random`; the same key gives the same map. All classes see the same noise.
        samples: number of noisy copies.
        noise: standard deviation of the noise, as a fraction of the image's own range; 0.1 to 0.2
            in the paper.

    Raises:
        ValueError: ``samples`` is not positive or ``noise`` is negative, besides the errors of
            `gradient`.

    Reference: Smilkov et al., *SmoothGrad: removing noise by adding noise*, 2017.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return x.sum((1, 2)) * 3
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> jaxplain.smooth_grad(fn, x, 0, key=jax.random.key(0), samples=4)
        Array([[[3., 3.],
                [3., 3.]]], dtype=float32)
    """
    samples = positive_int("samples", samples)
    if not noise >= 0:
        raise ValueError(f"noise must not be negative, but is {noise}.")
    return run(
        _smooth_grad,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        arrays=(key,),
        samples=samples,
        noise=float(noise),
        reduce=check_reduce(reduce),
    )


@functools.cache
def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _integrated_gradients(model, x, targets, baseline, *, layers, class_chunk, steps, reduce):
    scores, _ = model.forward(x)
    start = jnp.broadcast_to(baseline, x.shape).astype(x.dtype)
    nodes, weights = (jnp.asarray(v, x.dtype) for v in _gauss_legendre(steps))

    def one(seed):
        def step(total, node_weight):
            node, weight = node_weight
            signal = model.pullback(start + node * (x - start), layers)[2](seed)
            return {name: total[name] + weight * signal[name] for name in layers}, None

        zero = {name: jnp.zeros_like(x) for name in layers}
        total, _ = jax.lax.scan(hoist(step, zero, (nodes[0], weights[0])), zero, (nodes, weights))
        return {name: reduce_channels((x - start) * total[name], reduce) for name in layers}

    return over_targets(one, scores, targets, class_chunk)


def integrated_gradients(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    baseline: Baseline = 0.0,
    steps: int = 32,
    reduce: Reduce = "sum",
    class_chunk: ClassChunk = "auto",
) -> jax.Array:
    """Integrated gradients from a baseline image (Sundararajan et al. 2017, Eq. 1).

    ``(x - x') * integral_0^1 dS / dx (x' + t (x - x')) dt`` by Gauss-Legendre quadrature.
    Completeness: the sum of a map (``reduce`` None or ``"sum"``) tends to ``S(x) - S(x')`` as
    ``steps`` grows.

    Args:
        fn, x, targets, class_chunk: as in `gradient`. The classes of ``targets=None`` are those of
            x.
        baseline: x', a number or an array that broadcasts to the images.
        steps: number of quadrature nodes, taken one after another.
        reduce: as in `gradient`.

    Returns:
        Signed maps ``(B, H, W)`` or ``(B, K, H, W)``, with a trailing channel axis for
        ``reduce=None``.

    Raises:
        ValueError: ``steps`` is not positive, or ``baseline`` does not broadcast to the images,
            besides the errors of `gradient`.

    Reference: Sundararajan, Taly and Yan, *Axiomatic attribution for deep networks*, ICML 2017.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return (x ** 2).sum((1, 2))
        >>> jaxplain.integrated_gradients(fn, jnp.full((1, 1, 2, 1), 3.), 0).round(4)
        Array([[[9., 9.]]], dtype=float32)
    """
    steps = positive_int("steps", steps)
    return run(
        _integrated_gradients,
        fn,
        x,
        targets,
        layer="input",
        class_chunk=class_chunk,
        arrays=(check_baseline(baseline, x),),
        steps=steps,
        reduce=check_reduce(reduce),
    )
