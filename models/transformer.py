"""Building blocks of transformers, written plainly: every product of attention is in the graph.

A. Vaswani et al.: Attention Is All You Need, NIPS 2017; A. Dosovitskiy et al.: An Image is Worth
16x16 Words, ICLR 2021 (norms before the branches). Tokens are ``(B, T, C)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is


def quick_gelu(x: jax.Array) -> jax.Array:
    """``x sigmoid(1.702 x)``, for which CLIP was trained.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.transformer import quick_gelu
        >>> round(float(quick_gelu(jnp.array(1.0))), 4)
        0.8458
    """
    return x * jax.nn.sigmoid(1.702 * x)


#: Name -> activation of the multilayer perceptrons.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
}


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation of the channels, with the variance in its exact form.

    The mean of squares minus the square of the mean loses the small channels of tokens that have
    outliers, as DINOv2's do.
    """

    def __init__(self, features, epsilon, *, dtype, rngs):
        super().__init__(features, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


class LayerScale(nnx.Module):
    """One factor for each channel (H. Touvron et al., Going deeper with Image Transformers, 2021).

    Parameter: ``gamma``, which training begins with at ``initial``.
    """

    def __init__(self, features, initial=1e-5):
        self.gamma = nnx.Param(jnp.full((features,), initial))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(x.dtype)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    bias: jax.Array | None = None,
    name: str | None = None,
) -> jax.Array:
    """``softmax(q k^T / sqrt(d) + bias) v``, head by head; the softmax is at least in float32.

    Args:
        q: queries ``(B, T, heads, d)``.
        k, v: keys and values ``(B, S, heads, d)``.
        bias: added before the softmax; it broadcasts to ``(B, heads, T, S)``.
        name: tags the weights ``(B, heads, T, S)``; None for no tag.

    Returns:
        ``(B, T, heads * d)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.transformer import attend
        >>> q = jnp.zeros((1, 2, 1, 4))
        >>> attend(q, q, jnp.arange(8.0).reshape(1, 2, 1, 4)).tolist()  # the mean of the values
        [[[2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0]]]
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    exact = jnp.promote_types(scores.dtype, jnp.float32)
    weights = jax.nn.softmax(scores.astype(exact), axis=-1).astype(scores.dtype)
    if name is not None:
        weights = tag(weights, name)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return mixed.reshape(*mixed.shape[:2], -1)


class Attention(nnx.Module):
    """Attention of tokens ``(B, T, C)`` to each other, by several heads.

    Parameters: ``qkv`` makes the queries, keys and values of all heads, in this order; ``proj``
    puts the heads together.
    """

    def __init__(self, width, heads, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, **options)
        self.proj = nnx.Linear(width, width, **options)
        self.heads = heads

    def __call__(
        self, x: jax.Array, *, bias: jax.Array | None = None, name: str | None = None
    ) -> jax.Array:
        """The mixed tokens; ``bias`` and ``name`` as in ``attend``."""
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = (parts[:, :, i] for i in range(3))
        return self.proj(attend(q, k, v, bias=bias, name=name))


class Mlp(nnx.Module):
    """Two dense layers with an activation (a name of ``ACTIVATIONS``) between them."""

    def __init__(self, width, hidden, activation="gelu", *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.fc1 = nnx.Linear(width, hidden, **options)
        self.fc2 = nnx.Linear(hidden, width, **options)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class Block(nnx.Module):
    """``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``; branches can have a layer scale."""

    def __init__(self, width, heads, *, expansion, activation, eps, layer_scale, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(width, eps, **options)
        self.attention = Attention(width, heads, **options)
        self.scale1 = LayerScale(width) if layer_scale else None
        self.norm2 = LayerNorm(width, eps, **options)
        self.mlp = Mlp(width, expansion * width, activation, **options)
        self.scale2 = LayerScale(width) if layer_scale else None

    def __call__(self, x: jax.Array, name: str) -> jax.Array:
        """The block's output; ``name`` is the block's, with which its layers are tagged."""
        y = self.attention(tag(self.norm1(x), f"{name}.norm1"), name=f"{name}.attention")
        x = x + (y if self.scale1 is None else self.scale1(y))
        y = self.mlp(tag(self.norm2(x), f"{name}.norm2"))
        return tag(x + (y if self.scale2 is None else self.scale2(y)), name)
