"""The contrast of Excitation Backprop, tried on other methods (Zhang et al. 2018, Table 3).

A map is made twice: with the classifier as it is, and with its weights negated, which stands for
"everything but this class". Both are divided by their L1 norm, and the second is subtracted from
the first. Excitation Backprop is linear in its signal and can do that in one pass
(``excitation_backprop(contrastive=True)``); these methods are not, and take two.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax

from jaxplain import core
from jaxplain.core.numerics import unit_l1
from jaxplain.explainers._common import (
    check_option,
    over_targets,
    reduce_channels,
    require_classifier,
    run,
)
from jaxplain.explainers._global_pool import require_global_pool
from jaxplain.explainers._types import ClassChunk, Images, Layer, Maps, Network, Targets, Tokens
from jaxplain.explainers.cams import cam_map
from jaxplain.rules import gradient_rules

__all__ = ["contrastive_cam", "contrastive_deconvnet", "contrastive_gradient"]


def _negated(op: core.BoundOp, g: jax.Array) -> tuple:
    """The plain gradient of a linear layer with negated weights."""
    return tuple(-signal for signal in op.vjp(g))


@functools.cache
def _reverse(rules: core.RuleSet, classifier: str) -> core.RuleSet:
    return rules.replace(overrides={classifier: _negated})


def _contrastive(model, x, targets, *, layers, class_chunk, rules, classifier, reduce):
    require_classifier(model.graph, classifier)
    scores, _, forward = model.pullback(x, layers, rules)
    _, _, backward = model.pullback(x, layers, _reverse(rules, classifier))

    def unit(signal: jax.Array) -> jax.Array:
        return unit_l1(reduce_channels(signal, reduce))

    def one(seed):
        ahead, against = forward(seed), backward(seed)
        return {name: unit(ahead[name]) - unit(against[name]) for name in layers}

    return over_targets(one, scores, targets, class_chunk)


def _run(fn, x, targets, layer, tokens, rules, classifier, reduce, class_chunk):
    check_option("reduce", reduce, ("max_abs", "sum", "l2"))
    return run(
        _contrastive,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        rules=rules,
        classifier=classifier,
        reduce=reduce,
    )


def contrastive_deconvnet(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    form: Literal["zeiler", "springenberg"] = "springenberg",
    classifier: str = "last_linear",
    reduce: Literal["max_abs", "sum", "l2"] = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Contrastive DeconvNet (c-Deconv; Zhang et al. 2018, section 6.1 and Table 3).

    ``m / |m|_1 - m' / |m'|_1`` with ``m`` the map of `deconvnet` and ``m'`` its reverse map, of the
    network with the classifier's weights negated. Without the norms, what the ReLUs let through
    would decide which of the two is larger.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        layer: where the maps are made: ``"input"`` as in the paper's comparison, the name of a
            layer, None for the last layer with more than one position, or a sequence of names.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        form: as in `deconvnet`; the paper uses Springenberg's (which is `guided_backprop`).
        reduce: what becomes of the channel axis before the norm: ``"max_abs"`` as in the paper,
            ``"sum"``, or ``"l2"``.
        classifier: the layer whose weights are negated; by default the last dense or convolutional
            layer.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Signed maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, in the dtype of the layer; a
        dict of them for a sequence of layers. They sum to 0 where neither map is empty; an empty
        map (no signal arrives) counts as 0.

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x is not four-dimensional or not finite, a class is out of range, or there is no
            such layer, form or reduction.
        UnsupportedOperationError: an operation that may hide a ReLU cannot be opened.
        UnsuitableNetworkError: the network has no classifier, and none is named.

    Reference: Zhang et al., *Top-down neural attention by excitation backprop*, IJCV 2018.

    Example:
        The left pixel speaks for the class, the right one against it:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jax.nn.relu(x).reshape(1, -1) @ jnp.array([[2.], [-1.]])
        >>> jaxplain.contrastive_deconvnet(fn, jnp.ones((1, 1, 2, 1)), 0)
        Array([[[ 1., -1.]]], dtype=float32)
    """
    check_option("form", form, ("zeiler", "springenberg"))
    zeiler = form == "zeiler"
    rules = gradient_rules.deconvnet_rules() if zeiler else gradient_rules.guided_rules()
    return _run(fn, x, targets, layer, tokens, rules, classifier, reduce, class_chunk)


def contrastive_gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    classifier: str = "last_linear",
    reduce: Literal["max_abs", "sum", "l2"] = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Contrastive gradient (c-Grad; Zhang et al. 2018, section 6.1 and Table 3): nothing.

    As `contrastive_deconvnet`, with the plain gradient. The gradient of the reverse map is the
    gradient negated, so the two maps of magnitudes (``reduce`` ``"max_abs"`` or ``"l2"``) are equal
    and the difference is 0 everywhere: the paper's reason why the gradient has no contrastive form.
    With ``"sum"`` it is twice the normalised signed map. It is here for that comparison; arguments,
    result and errors are those of `contrastive_deconvnet`.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return x.reshape(1, -1) @ jnp.array([[2.], [-1.]])
        >>> jaxplain.contrastive_gradient(fn, jnp.ones((1, 1, 2, 1)), 0)
        Array([[[0., 0.]]], dtype=float32)
    """
    return _run(
        fn, x, targets, layer, tokens, core.RuleSet(fold=False), classifier, reduce, class_chunk
    )


def contrastive_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    classifier: str = "last_linear",
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Contrastive CAM (c-CAM; Zhang et al. 2018, section 6.1 and Table 3): CAM, scaled.

    ``m / |m|_1 - m' / |m'|_1`` with ``m`` the map of `cam` and ``m'`` that of the network with the
    classifier's weights negated, which is ``-m``: twice the map over its L1 norm. Its maximum is
    that of `cam`, which is why the paper finds CAM's accuracy unchanged. It is here for that
    comparison. Arguments and errors are those of `cam`.

    Args:
        classifier: as in `contrastive_deconvnet`.

    Returns:
        Signed maps as those of `cam`, whose absolute values sum to 2; 0 where CAM's map is empty.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(x * 2, "features").mean((1, 2)) @ jnp.array([[-1., 3.]])
        >>> x = jnp.array([0., 1., 1., 2.]).reshape(1, 2, 2, 1)
        >>> jaxplain.contrastive_cam(fn, x, 1, layer="features")
        Array([[[0. , 0.5],
                [0.5, 1. ]]], dtype=float32)
    """
    return run(
        _contrastive_cam,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        classifier=classifier,
    )


def _contrastive_cam(model, x, targets, *, layers, class_chunk, classifier):
    for name in layers:
        require_global_pool(model, name, "contrastive_cam")
    rules = core.RuleSet(fold=False)
    scores, acts, forward = model.pullback(x, layers, rules)
    _, _, backward = model.pullback(x, layers, _reverse(rules, classifier))

    def unit(name: str, signal: jax.Array) -> jax.Array:
        return unit_l1(cam_map(acts[name], signal))

    def one(seed):
        ahead, against = forward(seed), backward(seed)
        return {name: unit(name, ahead[name]) - unit(name, against[name]) for name in layers}

    return over_targets(one, scores, targets, class_chunk)
