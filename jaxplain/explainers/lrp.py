"""Layer-wise relevance propagation."""

from __future__ import annotations

from typing import Literal

from jaxplain import core
from jaxplain.explainers._common import check_finite, check_images, over_targets, run
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
from jaxplain.rules import boxes, composites

__all__ = ["lrp"]


def _lrp(model, x, targets, *, layers, class_chunk, rules, seed, channels):
    scores, _, pull = model.pullback(x, layers, rules)

    def one(signal):
        relevance = pull(signal * scores if seed == "score" else signal)
        return {name: r if channels else r.sum(-1) for name, r in relevance.items()}

    return over_targets(one, scores, targets, class_chunk)


def lrp(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = "input",
    tokens: Tokens = None,
    composite: Composite | None = None,
    seed: Literal["score", "one"] = "score",
    box: tuple | None = None,
    channels: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Layer-wise relevance propagation (Bach et al. 2015).

    Shares the score of a class among the inputs of every layer, from the top to the bottom, by the
    rules of `jaxplain.rules.lrp`. Batch norms are folded into the layers before them. The relevance
    of a layer adds up to the score, but for what the biases and the stabilisers absorb.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        layer: where the relevance is taken: ``"input"``, the name of a layer, None for the last
            layer with more than one position, or a sequence of names.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        composite: which rule goes on which layer: a name (`jaxplain.rules.composites` has the
            table, and `jaxplain.rules.register_composite` adds to it), ``"module:builder"``, or any
            `RuleSet`, such as ``rules.composite("attn_lrp", gamma=0.25)`` or
            ``rules.lrp_rules(Gamma(gamma=0.1), dense=Epsilon())`` of `jaxplain.rules`. None takes
            ``"attn_lrp"`` for a network with attention, ``"epsilon_plus"`` for any other;
            `jaxplain.coverage` says which, and the rule of every operation.
        seed: the relevance at the scores: ``"score"`` starts from the score itself, ``"one"`` from
            1.
        box: ``(low, high)`` of the pixels, numbers or one for each channel, for
            composites that hold a `ZBox`, such as ``"epsilon_gamma_box"``.
        channels: True keeps the channel axis; False sums over it.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Signed maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, with a trailing channel axis
        for ``channels=True``, in the dtype of the layer; a dict of them for a sequence of layers.

    Raises:
        TypeError: x is not of a float dtype, or ``composite`` is neither a name nor a rule set.
        ValueError: x is not four-dimensional or not finite, a class is out of range, there is no
            such layer, composite or seed, or ``box`` is missing, or has no `ZBox` to go to.
        UnsupportedOperationError: an operation between layer and scores has no rule.

    Reference: Bach et al., *On pixel-wise explanations for non-linear classifier decisions by
    layer-wise relevance propagation*, PLOS ONE 2015; Montavon et al., *Layer-wise relevance
    propagation: an overview*, 2019; Achtibat et al., *AttnLRP*, ICML 2024.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[3.], [-1.]])
        >>> def fn(x):
        ...     return x.reshape(1, -1) @ weight
        >>> x = jnp.ones((1, 1, 2, 1))
        >>> [round(float(r), 2) for r in jaxplain.lrp(fn, x, 0, composite="epsilon").ravel()]
        [3.0, -1.0]
        >>> [round(float(r), 2) for r in jaxplain.lrp(fn, x, 0, composite="z_plus").ravel()]
        [2.0, 0.0]
    """
    if seed not in ("score", "one"):
        raise ValueError(f"seed must be 'score' or 'one', not {seed!r}.")
    if composite is None:
        fn = core.trace(fn, check_images(x))
        composite = composites.default_composite(fn.graph)
    name = composite if isinstance(composite, str) else ""
    if isinstance(composite, str):
        composite = composites.composite(composite)
    elif not isinstance(composite, core.RuleSet):
        raise TypeError(f"composite must be a name or a RuleSet, not {type(composite).__name__}.")
    if box is not None:
        composite = boxes.with_box(composite, box, name)
        for bound in box:
            check_finite("box holds", bound)
    boxes.require_box(composite, name)
    return run(
        _lrp,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        rules=composite,
        seed=seed,
        channels=bool(channels),
    )
