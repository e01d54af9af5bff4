"""Maps from the attention of transformers: which patches the scores look at, through all blocks.

With ``A_l`` the attention weights of block l, ``(heads, N, N)`` over N tokens, and S a class score:

=========================  =====================================================================
method                     map
=========================  =====================================================================
`attention_rollout`        product over blocks of ``(mean_h A_l + I) / 2``
`transformer_attribution`  ``R <- R + mean_h relu(dS/dA_l * A_l) R``, block by block from ``R = I``
`legrad`                   sum over blocks of the mean over heads and queries of ``relu(dS_l/dA_l)``
=========================  =====================================================================

Of the first two the map is the row of the token that the scores read: the class token's, the mean
of several class tokens' (a distillation token's), or, without one, the mean of the rows of the
patches. Where a learned query pools the tokens at the end (SigLIP), its own weights take the place
of that row. The columns of class tokens and registers are dropped, and the rest laid out as
``(h, w)``. Nothing is scaled, and outlier tokens are shown; `jaxplain.viz` can clip them.

The product is defined where all attention layers look from every token to every token, one behind
the other. Attention within windows, or at several resolutions (Swin, PVT), is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from jaxplain.core import _compat
from jaxplain.core.numerics import positive
from jaxplain.explainers import _attention_flow as attention
from jaxplain.explainers._common import check_option
from jaxplain.explainers._types import ClassChunk, Images, Network, Targets, Tokens
from jaxplain.rules import composites

__all__ = ["attention_rollout", "legrad", "transformer_attribution"]

_HEADS = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}


def _fused(weights: jax.Array, heads: str, discard: float) -> jax.Array:
    """One matrix ``(B, N, N)`` of all heads, without the smallest of its entries."""
    fused = _HEADS[heads](weights, 1)
    count = int(discard * fused[0].size)
    if count:
        flat = fused.reshape(len(fused), -1)
        smallest = jnp.argsort(flat, axis=1)[:, :count]
        flat = jnp.put_along_axis(flat, smallest, 0, 1, inplace=False)
        fused = flat.reshape(fused.shape)
    return fused


def _rollout(model, found, x, *, heads, discard):
    layers = found.layers
    outputs = [model.whole.outputs[0], *(layer.weights for layer in layers)]
    scores, *values = model.evaluate([x], outputs=outputs)
    dtype = values[0].dtype
    identity = jnp.eye(found.tokens)
    matrix, last = jnp.broadcast_to(identity, (len(x), *identity.shape)), None
    for layer, value in zip(layers, values, strict=True):
        (weights,) = attention.whole(attention.canonical(layer, value))
        fused = _fused(weights, heads, discard)
        if layer is found.pooling:
            last = fused / fused.sum(-1, keepdims=True)
            continue
        fused = fused + identity.astype(fused.dtype)
        matrix = (fused / fused.sum(-1, keepdims=True)) @ matrix
    rows = attention.read_out(found, matrix, last).astype(dtype)
    return scores, lambda seed: rows


def attention_rollout(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    tokens: Tokens = None,
    blocks: Sequence[int] | None = None,
    heads: Literal["mean", "max", "min"] = "mean",
    discard: float = 0.0,
) -> jax.Array:
    """Attention rollout (Abnar and Zuidema 2020): product over blocks of ``(mean_h A + I) / 2``.

    What the read token (see `jaxplain.explainers.attention_maps`) is made of, if every block mixed
    tokens by half its attention weights and half what was there. The rows of each matrix are made
    to sum to one, as they do with ``heads="mean"`` by themselves; so do those of the product. It
    needs neither class nor gradient. A query all of whose keys are masked keeps what it has.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: they do not change the map; they are taken, and checked, so that the method can
            stand wherever an explainer does. ``(B, K)`` targets repeat it K times.
        tokens: where it is not known how maps lie in the tokens: their grid ``(h, w)``, row by row,
            or a function from values ``(B, tokens, C)`` to maps ``(B, h, w, C)``.
        blocks: the numbers of the blocks whose attention counts, such as ``range(6, 12)``; None
            takes all. A pooling at the end always counts.
        heads: how the heads' weights become one: ``"mean"`` (the paper), ``"max"`` or ``"min"``.
        discard: the fraction of each matrix, its smallest weights, that is set to 0 before the
            identity is added: 0.9 leaves the largest tenth. 0 is the paper.

    Returns:
        Maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, not negative, in the dtype of the
        attention weights. With the columns of class tokens and registers they sum to one.

    Raises:
        TypeError: x is not of a float dtype, or ``blocks`` are no ints.
        UnsuitableNetworkError: the network has no attention, or one of which the product over
            blocks is not defined: within windows, at several resolutions, side by side.
        ValueError: x is not four-dimensional or not finite, a class is out of range, there is no
            such block or option, or it is not known how maps lie in the tokens.

    Reference: Abnar and Zuidema, *Quantifying attention flow in transformers*, ACL 2020.

    Example:
        One block whose two pixels look at each other twice as much as at themselves:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> bias = jnp.log(jnp.array([[1., 2.], [1., 2.]]))
        >>> def fn(x):
        ...     t = x.reshape(1, 2, 1)
        ...     a = jax.nn.softmax(0 * t @ t.swapaxes(1, 2) + bias)
        ...     return (t + a @ t)[:, 0]
        >>> maps = jaxplain.attention_rollout(fn, jnp.ones((1, 1, 2, 1)))
        >>> [round(float(v), 3) for v in maps.ravel()]
        [0.667, 0.333]
    """
    check_option("heads", heads, tuple(_HEADS))
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be a fraction from 0 up to, but not, 1, and not {discard}")
    return attention.run(
        _rollout,
        "attention_rollout",
        fn,
        x,
        targets,
        tokens,
        blocks,
        heads=heads,
        discard=float(discard),
    )


def _attribution(model, found, x, *, rules):
    layers = found.layers
    values = {i: layer.weights for i, layer in enumerate(layers)}
    scores, acts, pull = model.pull_values(x, values)
    relevance = None if rules is None else model.pull_values(x, values, rules)[2]
    identity = jnp.eye(found.tokens)

    def rows(seed):
        signals = pull(seed)
        shares = acts if relevance is None else relevance(seed * scores)
        matrix, last = jnp.broadcast_to(identity, (len(x), *identity.shape)), None
        for i, layer in enumerate(layers):
            _, share, signal = attention.whole(
                *(attention.canonical(layer, own[i]) for own in (acts, shares, signals))
            )
            mixed = positive(signal * share).mean(1)
            if layer is found.pooling:
                last = mixed
            else:
                matrix = matrix + mixed @ matrix
        return attention.read_out(found, matrix, last).astype(acts[0].dtype)

    return scores, rows


def transformer_attribution(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    tokens: Tokens = None,
    blocks: Sequence[int] | None = None,
    relevance: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array:
    """Chefer et al. 2021: ``R <- R + mean_h relu(dS/dA * A) R``, block by block from ``R = I``.

    Attention weights count as far as the score depends on them (Eqs. 5 and 6 of the ICCV paper, for
    self-attention); with ``relevance=True`` the relevance of A takes the place of A, as in the CVPR
    paper (Eq. 13), here that of the ``"attn_lrp"`` rules of `lrp`, which began with the score. The
    map is the row of the token that the scores read, see
    `jaxplain.explainers.attention_maps`.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        tokens, blocks: as in `attention_rollout`. With small patches early blocks drown the late
            ones; ``blocks`` leaves them out.
        relevance: take the relevance of the attention weights in place of the weights.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, not negative, in the dtype of the
        attention weights.

    Raises:
        TypeError, UnsuitableNetworkError, ValueError: as in `attention_rollout`.
        UnsupportedOperationError: with ``relevance=True``, an operation has no rule.

    Reference: Chefer et al., *Generic attention-model explainability for interpreting bi-modal and
    encoder-decoder transformers*, ICCV 2021, and *Transformer interpretability beyond attention
    visualization*, CVPR 2021.

    Example:
        The score reads the first pixel, whose attention adds the second one, of value 3:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     t = x.reshape(1, 2, 1)
        ...     a = jax.nn.softmax(0 * t @ t.swapaxes(1, 2))
        ...     return (t + a @ t)[:, 0]
        >>> jaxplain.transformer_attribution(fn, jnp.array([[[[1.], [3.]]]]), 0)
        Array([[[1.5, 1.5]]], dtype=float32)
    """
    return attention.run(
        _attribution,
        "transformer_attribution",
        fn,
        x,
        targets,
        tokens,
        blocks,
        class_chunk,
        rules=composites.composite("attn_lrp") if relevance else None,
    )


def _legrad(model, found, x):
    starts, ends, last = attention.spans(model.graph, found)
    wanted = list(dict.fromkeys(v for v in (*starts, *ends) if v is not None))
    scores, *values = model.evaluate([x], outputs=[model.whole.outputs[0], *wanted])
    stream = dict(zip(wanted, values, strict=True))
    layers = [found.pooling] * len(ends) if found.pooling else found.blocks

    def score_of(layer, start, end):
        """The scores of the head on one block's output, as a function of what is added to A."""

        def perturbed(zeros):
            if found.pooling or end is None:
                given = {} if end is None else {last: stream[end]}
                return model.evaluate(
                    [x], added={layer.weights: zeros}, outputs=[score], given=given
                )[0]
            below = {} if start is None else {start: stream[start]}
            (out,) = model.evaluate([x], added={layer.weights: zeros}, outputs=[end], given=below)
            return model.evaluate([x], outputs=[score], given={last: out})[0]

        return perturbed

    score = model.whole.outputs[0]
    pulls = []
    for layer, start, end in zip(layers, starts, ends, strict=True):
        aval = layer.weights.aval
        zeros = _compat.zeros_like_varying(aval.shape, aval.dtype, x)
        pulls.append((layer, *jax.vjp(score_of(layer, start, end), zeros)))

    def rows(seed):
        total = jnp.zeros(())
        for layer, own, vjp in pulls:
            (signal,) = vjp(_compat.vary_like(seed.astype(own.dtype), own))
            total = total + positive(attention.canonical(layer, signal)).mean((1, 2))
        return total.astype(layers[0].weights.aval.dtype)

    return scores, rows


def legrad(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    tokens: Tokens = None,
    blocks: Sequence[int] | None = None,
    class_chunk: ClassChunk = "auto",
) -> jax.Array:
    """LeGrad (Bousselham et al. 2025): how far more attention to a patch would raise the score.

    ``sum_l mean_{h, q} relu(dS_l / dA_l)``, where ``S_l`` is the score when the network's own head
    (final norm, class token or mean, dense layer) reads the output of block l, and the mean is over
    heads and all queries (Eqs. 4 to 8). Where a learned query pools the tokens at the end (SigLIP),
    ``A_l`` are the pooling's own weights over the output of block l, as in the paper.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        tokens, blocks: as in `attention_rollout`.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, not negative, in the dtype of the
        attention weights. The paper scales them to [0, 1] at the end.

    Raises:
        TypeError, ValueError: as in `attention_rollout`.
        UnsuitableNetworkError: as in `attention_rollout`, and where the blocks' outputs are not of
            one shape, or no residual blocks can be told.

    Reference: Bousselham et al., *LeGrad: an explainability method for vision transformers via
    feature formation sensitivity*, ICCV 2025.

    Example:
        The score reads the first pixel, whose attention adds the second one, of value 3; the mean
        is over two queries, of which the other one does not count:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     t = x.reshape(1, 2, 1)
        ...     a = jax.nn.softmax(0 * t @ t.swapaxes(1, 2))
        ...     return (t + a @ t)[:, 0]
        >>> jaxplain.legrad(fn, jnp.array([[[[1.], [3.]]]]), 0)
        Array([[[0.5, 1.5]]], dtype=float32)
    """
    return attention.run(_legrad, "legrad", fn, x, targets, tokens, blocks, class_chunk)
