"""Gradients, and what is made of them: the sensitivity of a class score to every pixel.

All of these take the signal of the classes to the image (or to a layer) through one backward pass a
class. With ``S`` the score of a class and ``G = dS / dx``:

=========================  ===========================================================
`gradient`                 ``G``
`input_x_gradient`         ``x G``
`smooth_grad`              mean of ``G`` over noisy copies of the image
`integrated_gradients`     ``(x - x') * integral of G`` on the straight path from x'
`guided_backprop`          ``G`` with only positive signals passing every open ReLU
`deconvnet`                ``G`` with only positive signals passing every ReLU
=========================  ===========================================================
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import _compat
from jaxplain.core.hoist import hoist
from jaxplain.explainers._common import check_baseline, over_targets, run
from jaxplain.rules import gradient_rules

__all__ = [
    "deconvnet",
    "gradient",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "smooth_grad",
]

Reduce = Literal["max_abs", "sum", "l2"] | None
REDUCTIONS = ("max_abs", "sum", "l2", None)


def check_reduce(reduce: Reduce) -> Reduce:
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
    square = jnp.square(signal).sum(-1)
    # The root has an infinite slope at 0, which would make the gradient of a map NaN.
    empty = square == 0
    return jnp.where(empty, jnp.zeros_like(square), jnp.sqrt(jnp.where(empty, 1, square)))


def _positive_int(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}.")
    return int(value)


def _backward(model, x, targets, *, layers, class_chunk, reduce, rules=None, times_input=False):
    scores, acts, pull = model.pullback(x, layers, rules)

    def one(seed):
        signal = pull(seed)
        if times_input:
            signal = {name: acts[name] * signal[name] for name in layers}
        return {name: reduce_channels(signal[name], reduce) for name in layers}

    return over_targets(one, scores, targets, class_chunk)


def gradient(fn, x, targets=None, *, layer="input", reduce: Reduce = "max_abs", class_chunk=None):
    """The gradient of the class score: saliency.

    ``max_c |dS / dx_c|`` with the default reduction (Simonyan et al. 2014, section 3.1).

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores.
        layer: where the gradient is taken: ``"input"``, the name of a layer, None for the last
            layer with more than one position, or a sequence of names.
        reduce: what becomes of the channel axis: ``"max_abs"``, ``"sum"``, ``"l2"`` (the Euclidean
            norm), or None, which keeps it and gives the signed gradient.
        class_chunk: how many of K classes to take at once, to bound memory; None takes all.

    Returns:
        Maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, with a trailing channel axis for
        ``reduce=None``, in the dtype of the layer; a dict of them for a sequence of layers.

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x is not four-dimensional or not finite, a class is out of range, there is no
            such layer or no such reduction.

    Reference: Simonyan, Vedaldi and Zisserman, *Deep inside convolutional networks: visualising
    image classification models and saliency maps*, ICLR workshop 2014.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[1., -2., 3.]])
        >>> def fn(x):
        ...     return x.mean((1, 2)) @ weight
        >>> jaxplain.gradient(fn, jnp.ones((1, 2, 2, 1)), 1)
        Array([[[0.5, 0.5],
                [0.5, 0.5]]], dtype=float32)
    """
    return run(
        _backward,
        fn,
        x,
        targets,
        layer=layer,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
    )


def input_x_gradient(
    fn, x, targets=None, *, layer="input", reduce: Reduce = "sum", class_chunk=None
):
    """The gradient times what it is taken at: ``x * dS / dx``, summed over channels by default.

    For a network of linear layers without bias, ReLUs and max pools the map adds up to the score.
    Arguments, result and errors are those of `gradient`.

    Reference: Shrikumar et al., *Not just a black box: learning important features through
    propagating activation differences*, 2016.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return x.sum((1, 2)) * 3
        >>> float(jaxplain.input_x_gradient(fn, jnp.ones((1, 2, 2, 1)), 0).sum())
        12.0
    """
    return run(
        _backward,
        fn,
        x,
        targets,
        layer=layer,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
        times_input=True,
    )


def guided_backprop(
    fn, x, targets=None, *, layer="input", reduce: Reduce = "max_abs", class_chunk=None
):
    """Guided backpropagation: a ReLU (or ReLU6) passes ``max(G, 0)`` where it is open.

    It is what the authors of Excitation Backprop compare with as "Deconv". Other activations keep
    their gradient. Arguments, result and errors are those of `gradient`; ``reduce=None`` gives the
    signed, coloured map of the paper.

    Raises:
        UnsupportedOperationError: an operation that may hide a ReLU cannot be opened.

    Reference: Springenberg et al., *Striving for simplicity: the all convolutional net*, ICLR
    workshop 2015.

    Example:
        The second hidden unit lowers the score, so nothing passes through it:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     h = jax.nn.relu(x.sum((1, 2)) @ jnp.array([[1., 2.]]))
        ...     return h @ jnp.array([[3.], [-1.]])
        >>> x = jnp.ones((1, 1, 1, 1))
        >>> float(jaxplain.gradient(fn, x)[0, 0, 0]), float(jaxplain.guided_backprop(fn, x)[0, 0, 0])
        (1.0, 3.0)
    """
    return run(
        _backward,
        fn,
        x,
        targets,
        layer=layer,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
        rules=gradient_rules.guided_rules(),
    )


def deconvnet(
    fn,
    x,
    targets=None,
    *,
    layer="input",
    form: Literal["zeiler", "springenberg"] = "zeiler",
    reduce: Reduce = "max_abs",
    class_chunk=None,
):
    """The deconvolutional network: only positive signals pass a ReLU (or ReLU6).

    Arguments, result and errors are those of `gradient`, and:

    Args:
        form: ``"zeiler"`` passes ``max(G, 0)`` whether or not the ReLU was open (Zeiler and Fergus
            2014, and the DeconvNet of captum, zennit and TorchRay). ``"springenberg"`` passes it
            only where the ReLU was open: that is `guided_backprop`, the improved form whose numbers
            the papers on Excitation Backprop (Zhang et al. 2018) and Feedback networks (Cao et al.
            2015) give under the name "Deconv".

    Raises:
        ValueError: no such form, besides the errors of `gradient`.

    Reference: Zeiler and Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014,
    section 2.1. Max pools pass the signal to the place of their maximum.

    Example:
        A closed ReLU passes the signal all the same:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jax.nn.relu(x.sum((1, 2)) @ jnp.array([[2.]])) @ jnp.array([[3.]])
        >>> x = -jnp.ones((1, 1, 1, 1))
        >>> float(jaxplain.deconvnet(fn, x)[0, 0, 0])
        6.0
        >>> float(jaxplain.deconvnet(fn, x, form="springenberg")[0, 0, 0])
        0.0
    """
    if form not in ("zeiler", "springenberg"):
        raise ValueError(f"form must be 'zeiler' or 'springenberg', not {form!r}.")
    rules = gradient_rules.deconvnet_rules() if form == "zeiler" else gradient_rules.guided_rules()
    return run(
        _backward,
        fn,
        x,
        targets,
        layer=layer,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
        rules=rules,
    )


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
    fn,
    x,
    targets=None,
    *,
    key: jax.Array,
    samples: int = 25,
    noise: float = 0.15,
    layer="input",
    reduce: Reduce = "max_abs",
    class_chunk=None,
):
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
    samples = _positive_int("samples", samples)
    if not noise >= 0:
        raise ValueError(f"noise must not be negative, but is {noise}.")
    return run(
        _smooth_grad,
        fn,
        x,
        targets,
        layer=layer,
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
    fn,
    x,
    targets=None,
    *,
    baseline=0.0,
    steps: int = 32,
    reduce: Reduce = "sum",
    class_chunk=None,
):
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
    steps = _positive_int("steps", steps)
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
