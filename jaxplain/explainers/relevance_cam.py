"""Relevance-CAM: a class activation map whose weights are the channels' relevance by LRP."""

from __future__ import annotations

from jaxplain import core
from jaxplain.core.numerics import positive
from jaxplain.explainers._common import check_images, over_targets, run
from jaxplain.explainers._types import (
    ClassChunk,
    Composite,
    Images,
    Layer,
    Maps,
    Network,
    Targets,
    Tokens,
)
from jaxplain.explainers.cams import SPACE, _require_space
from jaxplain.rules import composites

__all__ = ["relevance_cam"]


def _relevance_cam(model, x, targets, *, layers, class_chunk, rules, contrastive, relu):
    scores, acts, pull = model.pullback(x, layers, rules)
    _require_space(layers, acts, "relevance_cam")
    others = scores.shape[-1] - 1
    if contrastive and not others:
        raise ValueError(
            "relevance_cam has no other class to contrast with, as the network has "
            "one score; use contrastive=False"
        )

    def one(seed):
        if contrastive:
            seed = seed - (seed.sum(-1, keepdims=True) - seed) / others
        relevance = pull(seed)
        maps = {n: (relevance[n].sum(SPACE, keepdims=True) * acts[n]).sum(-1) for n in layers}
        return {n: positive(m) for n, m in maps.items()} if relu else maps

    return over_targets(one, scores, targets, class_chunk)


def relevance_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    composite: Composite | None = None,
    contrastive: bool = True,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Relevance-CAM (Lee et al. 2021): channels weigh their relevance by LRP.

    ``sum_c w_c A_c`` with ``w_c`` the sum over space of the channel's relevance. Relevance starts
    as 1 at the class and ``-1 / (N - 1)`` at all others (contrastive LRP), and goes down by LRP-z+,
    or by AttnLRP in networks with attention, of which the paper does not speak. The paper starts it
    at the score instead of 1, a factor of the whole map which would turn its sign where the score
    is negative; the authors' code starts at 1 too. Works at early layers also, where gradients are
    shattered.

    Args:
        fn, x, targets: as in `grad_cam`.
        layer: None for the last layer with more than one position, a name, or a sequence of names.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        composite: which rule of LRP goes on which layer, as in `lrp`; None takes ``"attn_lrp"`` for
            a network with attention, as `lrp` does, and for any other z+ without biases,
            ``composites.composite("z_plus", bias=False)``.
        contrastive: False leaves out the other classes.
        relu: True keeps only the positive part.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Signed maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, in the dtype of the layer; a
        dict of them for a sequence of layers.

    Raises:
        TypeError: x is not of a float dtype, or ``composite`` is neither a name nor a
            rule set.
        ValueError: x is not four-dimensional or not finite, a class is out of range, there is no
            such layer, the layer has no height and width, or there is no other class.
        UnsupportedOperationError: an operation between layer and scores has no rule.

    Reference: Lee et al., *Relevance-CAM: your model already knows where to look*, CVPR 2021.

    Example:
        The two scores share channel 1, so only channel 0 tells the first from the second:

        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[1., 0.], [1., 1.]])
        >>> def fn(x):
        ...     return jaxplain.tag(x * 1., "features").sum((1, 2)) @ weight
        >>> x = jnp.array([[[[1., 0.], [0., 1.]]]])
        >>> jaxplain.relevance_cam(fn, x, 0, layer="features").round(4)
        Array([[[ 0.5, -0.5]]], dtype=float32)
    """
    if composite is None:
        fn = core.trace(fn, check_images(x))
        if composites.default_composite(fn.graph) == "attn_lrp":
            rules = composites.composite("attn_lrp")
        else:
            rules = composites.composite("z_plus", bias=False)
    elif isinstance(composite, str):
        rules = composites.composite(composite)
    elif isinstance(composite, core.RuleSet):
        rules = composite
    else:
        raise TypeError(f"composite must be a name or a RuleSet, not {type(composite).__name__}.")
    return run(
        _relevance_cam,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        rules=rules,
        contrastive=bool(contrastive),
        relu=bool(relu),
    )
