"""Excitation Backprop: marginal winning probabilities (MWP), contrastive MWP, and d-WTA.

A probabilistic winner-take-all process starts at an output unit and chooses, layer by layer, one
child by its excitation (Eq. 6). The MWP of a unit (Eq. 1) is how often it is chosen; it is linear
in the signal at the output, so one backward pass under :mod:`jaxplain.rules.excitation` gives it.

References: Zhang et al., *Top-down neural attention by excitation backprop*, IJCV 2018. Tsotsos et
al., *Modeling visual attention via selective tuning*, Artificial Intelligence 1995 (d-WTA).
"""

from __future__ import annotations

from typing import Literal

import jax

from jaxplain.core.numerics import positive, unit_l1
from jaxplain.explainers._common import check_option, over_targets, require_classifier, run
from jaxplain.explainers._types import ClassChunk, Images, Layer, Maps, Network, Targets, Tokens
from jaxplain.rules.excitation import SHARES, ResidualShare, excitation_rules
from jaxplain.rules.winner import winner_rules

__all__ = ["excitation_backprop", "winner_take_all"]


def excitation_backprop(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    contrastive: bool = False,
    residual: Literal["excitation", "signed", "magnitude", "branch"] = "excitation",
    form: Literal["signed", "plain"] = "signed",
    fold_scales: bool = True,
    lower_bound: bool = False,
    normalise: Literal["full", "post", "none"] = "full",
    classifier: str = "last_linear",
    channels: bool = False,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """MWP maps, or contrastive MWP maps (c-MWP) with ``contrastive=True``.

    At linear layers ``P_in = a * w+^T (P / (a w+))``, 0 where the denominator is 0 (Eqs. 6, 17,
    18); additions are linear layers with weights 1; activations, biases, batch norm and LRN pass
    the signal; max pools pass it to their argmax. The map is the sum over channels. The contrastive
    signal is EB(W) - EB(-W) at the classifier (Eq. 9), propagated unclamped, its map truncated at
    0.

    Args:
        fn: images (B, H, W, C) to scores (B, N) or a score map (B, H', W', N): a callable or an NNX
            module.
        x: images, float, preprocessed as the network expects.
        targets: None (top class), an int, ints (B,) or (B, K), or a float signal (B, N) or (B, K,
            N), the prior P(A_0). For a score map the signal is spread by the softmax over space,
            unless it says where: (B, H', W', N) or (B, K, H', W', N).
        layer: name of the layer of the map, or a sequence of names; None is the last spatial layer,
            ``"input"`` the image.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        contrastive: c-MWP instead of MWP.
        residual: how an addition shares the signal: ``"excitation"`` ``(a_i)+ / sum (a)+`` (Eq. 6
            with weights 1: a negative branch gets nothing), ``"signed"`` ``a_i / sum a`` (Eq. 19 as
            printed, the form of the authors' ResNet-50), ``"magnitude"`` ``|a_i| / sum |a|``,
            ``"branch"`` nothing to the skip connection (Fig. 7c). The first three agree where no
            branch is negative.
        form: ``"signed"`` uses contributions (a w)+ where inputs can be negative, ``"plain"`` a
            w+ always.
        fold_scales: fold the scales of batch norm after a layer into its weights, so that a
            negative scale flips what is excitatory.
        lower_bound: shift activations bounded below (tanh, ELU) as in Eq. 20; an error where a
            layer below the scores reads values without a known bound.
        normalise: ``"full"``; ``"none"`` leaves out Z_i of Eq. 6; ``"post"`` normalises whole maps
            by their L1 norm instead, before the contrastive subtraction (Table 3).
        classifier: the layer whose weights the contrast negates; default the last dense or
            convolutional layer.
        channels: keep the channel axis, with every unit's signal unclamped.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Maps (B, h, w), or (B, K, h, w) for K targets, at the layer's own resolution; with a
        sequence of layers a dict of them. ``channels=True`` adds an axis (..., C).

    Raises:
        UnsupportedOperationError: an operation between layer and output that has no rule.
        UnsuitableNetworkError: a contrast in a network without a classifier, such as one whose
            residual stream is its output.
        ValueError, TypeError: unknown layer or option, class out of range, images that are no
            finite float batch.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> weights = jnp.array([[2.0, 0.0], [1.0, 1.0]])
        >>> network = lambda x: jax.nn.relu(x).mean((1, 2)) @ weights
        >>> x = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # one image of 1 x 2 pixels
        >>> maps = jaxplain.excitation_backprop(network, x, 0, layer="relu:0")
        >>> [round(float(p), 3) for p in maps[0, 0]]
        [0.667, 0.333]
    """
    check_option("residual", residual, SHARES)
    check_option("form", form, ("signed", "plain"))
    check_option("normalise", normalise, ("full", "post", "none"))
    return run(
        _excitation,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        logits=False,
        contrastive=bool(contrastive),
        residual=residual,
        form=form,
        fold_scales=bool(fold_scales),
        lower_bound=bool(lower_bound),
        normalise=normalise,
        classifier=classifier,
        channels=bool(channels),
    )


def _excitation(
    model,
    x,
    targets,
    *,
    layers,
    class_chunk,
    contrastive,
    residual,
    form,
    fold_scales,
    lower_bound,
    normalise,
    classifier,
    channels,
):
    if contrastive:
        require_classifier(model.graph, classifier)
    share = ResidualShare(shares=residual, graph=model.graph if residual == "branch" else None)

    def pullback(contrast: Literal[-1, 0, 1]):
        rules = excitation_rules(
            form=form,
            residual=share,
            lower_bound=lower_bound,
            normalise=normalise != "none",
            fold_scales=fold_scales,
            contrast=contrast,
            classifier=classifier,
        )
        return model.pullback(x, layers, rules)

    def finish(signal: jax.Array) -> jax.Array:
        if channels:
            return signal
        total = signal.sum(-1)
        return positive(total) if contrastive else total

    if normalise != "post":
        scores, _, pull = pullback(0 if contrastive else 1)
        return over_targets(
            lambda seed: {k: finish(s) for k, s in pull(seed).items()}, scores, targets, class_chunk
        )

    scores, _, pull = pullback(1)
    reverse = pullback(-1)[2] if contrastive else None

    def one(seed: jax.Array) -> dict:
        maps = {k: unit_l1(s) for k, s in pull(seed).items()}
        if reverse is not None:
            against = {k: unit_l1(s) for k, s in reverse(seed).items()}
            maps = {k: maps[k] - against[k] for k in maps}
        return {k: finish(m) for k, m in maps.items()}

    return over_targets(one, scores, targets, class_chunk)


def winner_take_all(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Deterministic winner-take-all (d-WTA, Table 4): the one winner of each layer, a binary map.

    From the target unit (of a signal, its largest entry) the child of greatest excitation
    ``(a w)+`` wins at each layer, greedily; additions choose the larger branch. Arguments and
    shapes are those of `excitation_backprop`; the map is 1 at the winner's pixel, 0 elsewhere, and
    0 everywhere where the process ended above the layer since a winner had no excitatory child.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> network = lambda x: jax.nn.relu(x).mean((1, 2)) @ jnp.array([[2.0], [1.0]])
        >>> x = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])
        >>> jaxplain.winner_take_all(network, x, 0, layer="relu:0")[0, 0].tolist()
        [1.0, 0.0]
    """
    return run(
        _winner_take_all,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        logits=False,
    )


def _winner_take_all(model, x, targets, *, layers, class_chunk):
    scores, _, pull = model.pullback(x, layers, winner_rules(model.whole))

    def one(seed: jax.Array) -> dict:
        flat = seed.reshape(len(seed), -1)
        top = jax.nn.one_hot(flat.argmax(1), flat.shape[1], dtype=seed.dtype).reshape(seed.shape)
        return {k: (s.sum(-1) > 0).astype(s.dtype) for k, s in pull(top).items()}

    return over_targets(one, scores, targets, class_chunk)
