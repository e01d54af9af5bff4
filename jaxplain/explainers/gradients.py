"""Gradients, and what is made of them: the sensitivity of a class score to every pixel.

All of these take the signal of the classes to the image (or to a layer) through one backward pass
per class. With ``S`` the score of a class and ``G = dS / dx``:

=========================  ===========================================================
`gradient`                 ``G``
`input_x_gradient`         ``x G``
`guided_backprop`          ``G`` with only positive signals passing every open ReLU
`deconvnet`                ``G`` with only positive signals passing every ReLU
=========================  ===========================================================
"""

from __future__ import annotations

from typing import Literal

from jaxplain.explainers._common import check_reduce, over_targets, reduce_channels, run
from jaxplain.explainers._types import (
    ClassChunk,
    Images,
    Layer,
    Maps,
    Network,
    Reduce,
    Targets,
    Tokens,
)
from jaxplain.rules import gradient_rules

__all__ = [
    "deconvnet",
    "gradient",
    "guided_backprop",
    "input_x_gradient",
]


def _backward(model, x, targets, *, layers, class_chunk, reduce, rules=None, times_input=False):
    scores, acts, pull = model.pullback(x, layers, rules)

    def one(seed):
        signal = pull(seed)
        if times_input:
            signal = {name: acts[name] * signal[name] for name in layers}
        return {name: reduce_channels(signal[name], reduce) for name in layers}

    return over_targets(one, scores, targets, class_chunk)


def gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """The gradient of the class score: saliency.

    ``max_c |dS / dx_c|`` with the default reduction (Simonyan et al. 2014, section 3.1).

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        layer: where the gradient is taken: ``"input"``, the name of a layer, None for the last
            layer with more than one position, or a sequence of names.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        reduce: what becomes of the channel axis: ``"max_abs"``, ``"sum"``, ``"l2"`` (the Euclidean
            norm), or None, which keeps it and gives the signed gradient.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

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
        tokens=tokens,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
    )


def input_x_gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    reduce: Reduce = "sum",
    class_chunk: ClassChunk = "auto",
) -> Maps:
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
        tokens=tokens,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
        times_input=True,
    )


def guided_backprop(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> Maps:
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
        >>> jaxplain.gradient(fn, x).item(), jaxplain.guided_backprop(fn, x).item()
        (1.0, 3.0)
    """
    return run(
        _backward,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
        rules=gradient_rules.guided_rules(),
    )


def deconvnet(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    form: Literal["zeiler", "springenberg"] = "zeiler",
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> Maps:
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
        tokens=tokens,
        class_chunk=class_chunk,
        reduce=check_reduce(reduce),
        rules=rules,
    )
