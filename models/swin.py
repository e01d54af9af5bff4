"""Swin: attention within windows, which are shifted by half of their size in every other block.

Z. Liu et al.: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import Conv, avg_pool, global_avg_pool
from jaxplain.models.network import Network
from jaxplain.models.transformer import LayerNorm, Mlp, attend

#: Name -> blocks and heads of each stage, and the channels of the first (section 3.3).
VARIANTS = {"tiny": ((2, 2, 6, 2), (3, 6, 12, 24), 96)}
_WINDOW, _PATCH, _EPS = 7, 4, 1e-5
_APART = -100.0  # what keeps tokens apart that are no neighbours, as in the authors' code


def relative_positions(window: int) -> np.ndarray:
    """Which row of the table of biases belongs to a query and a key, ``(window^2, window^2)``.

    Example:
        >>> from jaxplain.models.swin import relative_positions
        >>> relative_positions(2)[0].tolist()
        [4, 3, 1, 0]
    """
    place = np.stack(np.divmod(np.arange(window**2), window))
    apart = place[:, :, None] - place[:, None, :] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]


def windows(x: jax.Array, side: int) -> jax.Array:
    """``(B, H, W, C)`` to its windows, ``(B * windows, side * side, C)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.swin import windows
        >>> windows(jnp.arange(16).reshape(1, 4, 4, 1), 2)[:, :, 0].tolist()[:2]
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side, c)


def _together(x: jax.Array, side: int, shape: tuple[int, int]) -> jax.Array:
    """The inverse of ``windows``, for features of (height, width) ``shape``."""
    h, w = shape
    x = x.reshape(-1, h // side, w // side, side, side, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, x.shape[-1])


def _apart(height: int, width: int, side: int, shifts: tuple[int, int]) -> np.ndarray:
    """``(windows, 1, side^2, side^2)``: -100 between tokens that the shift brought together."""
    regions = np.zeros((height, width), int)
    for axis, (n, shift) in enumerate(zip((height, width), shifts, strict=True)):
        if shift:
            number = np.searchsorted([n - side, n - shift], np.arange(n), "right")
            regions = 3 * regions + np.expand_dims(number, 1 - axis)
    region = np.asarray(
        regions.reshape(height // side, side, width // side, side).transpose(0, 2, 1, 3)
    ).reshape(-1, side * side)
    differ = region[:, :, None] != region[:, None, :]
    return np.where(differ, _APART, 0.0)[:, None].astype(np.float32)


class WindowAttention(nnx.Module):
    """Attention within windows of 7 x 7 tokens ``(B, H, W, C)``, with a bias for each offset.

    Where the features are no multiple of the window they are padded with zeros behind, and where
    they are not larger than it, there is no shift: as in torchvision.

    Parameters: ``qkv``, ``proj``; ``bias_table`` ``(heads, (2 * 7 - 1) ** 2)``.
    """

    def __init__(self, width, heads, shift, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, **options)
        self.proj = nnx.Linear(width, width, **options)
        initial = nnx.initializers.truncated_normal(0.02)
        self.bias_table = nnx.Param(initial(rngs.params(), (heads, (2 * _WINDOW - 1) ** 2)))
        self.heads, self.shift = heads, shift

    def __call__(self, x: jax.Array, name: str) -> jax.Array:
        batch, height, width, _ = x.shape
        pads = [(0, -n % _WINDOW) for n in (height, width)]
        if any(behind for _, behind in pads):
            x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
        whole = (x.shape[1], x.shape[2])
        shifts = (
            self.shift if whole[0] > _WINDOW else 0,
            self.shift if whole[1] > _WINDOW else 0,
        )
        if any(shifts):
            x = jnp.roll(x, (-shifts[0], -shifts[1]), (1, 2))
        x = windows(x, _WINDOW)
        table = self.bias_table[...]
        bias = table[:, relative_positions(_WINDOW).ravel()]
        bias = bias.reshape(1, self.heads, _WINDOW**2, _WINDOW**2)
        if any(shifts):
            bias = bias + jnp.tile(jnp.asarray(_apart(*whole, _WINDOW, shifts)), (batch, 1, 1, 1))
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = (parts[:, :, i] for i in range(3))
        x = _together(self.proj(attend(q, k, v, bias=bias, name=name)), _WINDOW, whole)
        if any(shifts):
            x = jnp.roll(x, shifts, (1, 2))
        return x[:, :height, :width]


class Block(nnx.Module):
    """``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``, of features ``(B, H, W, C)``."""

    def __init__(self, width, heads, shift, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(width, _EPS, **options)
        self.attention = WindowAttention(width, heads, shift, **options)
        self.norm2 = LayerNorm(width, _EPS, **options)
        self.mlp = Mlp(width, 4 * width, **options)

    def __call__(self, x: jax.Array, name: str) -> jax.Array:
        y = tag(self.norm1(x), f"{name}.norm1")
        x = x + self.attention(y, f"{name}.attention")
        return tag(x + self.mlp(tag(self.norm2(x), f"{name}.norm2")), name)


class Merge(nnx.Module):
    """Each 2 x 2 neighbours become one token of twice the channels; odd sides get zeros behind."""

    def __init__(self, width, *, dtype, rngs):
        self.norm = LayerNorm(4 * width, _EPS, dtype=dtype, rngs=rngs)
        self.reduction = nnx.Linear(4 * width, 2 * width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pads = [(0, n % 2) for n in x.shape[1:3]]
        if any(behind for _, behind in pads):
            x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
        parts = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        return self.reduction(self.norm(jnp.concatenate(parts, axis=-1)))


class Swin(Network):
    """Swin transformer, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``stem`` (the patches, after their norm), ``stages.0.0`` ... ``stages.3.1`` (a
    block's output, of space), in a block ``stages.0.0.norm1``, ``stages.0.0.attention`` (the
    weights, ``(B * windows, heads, 49, 49)``) and ``stages.0.0.norm2``, ``norm`` (after the last
    norm, of space) and ``avgpool``.

    Args:
        variant: a name of ``VARIANTS``.
        num_classes: the number of logits.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: slide a 7x7 average pool, the size of the last features at 224 x 224,
            with stride 1, and apply the dense layer at every position, for a score map
            ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such variant; images whose sides are no multiples of 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.swin import Swin
        >>> build = lambda: Swin("tiny", 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 10)
    """

    def __init__(
        self,
        variant: str = "tiny",
        num_classes: int = 1000,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"Swin has variants {list(VARIANTS)}, not {variant!r}.")
        depths, heads, width = VARIANTS[variant]
        self.fully_convolutional = fully_convolutional
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.patch = Conv(3, width, _PATCH, _PATCH, **options)
        self.patch_norm = LayerNorm(width, _EPS, **options)
        stages, merges = [], []
        for i, (depth, number) in enumerate(zip(depths, heads, strict=True)):
            if i:
                merges.append(Merge(width, **options))
                width *= 2
            shifts = (j % 2 * (_WINDOW // 2) for j in range(depth))
            stages.append(nnx.List([Block(width, number, shift, **options) for shift in shifts]))
        self.stages, self.merges = nnx.List(stages), nnx.List(merges)
        self.norm = LayerNorm(width, _EPS, **options)
        self.head = nnx.Linear(width, num_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1] % _PATCH or x.shape[2] % _PATCH:
            raise ValueError(
                f"Swin sees patches of {_PATCH} x {_PATCH} pixels: the sides of images must be "
                f"multiples of {_PATCH}, not {x.shape[1]} x {x.shape[2]}."
            )
        x = tag(self.patch_norm(self.patch(x)), "stem")
        for i, stage in enumerate(self.stages):
            if i:
                x = self.merges[i - 1](x)
            for j, block in enumerate(stage):
                x = block(x, f"stages.{i}.{j}")
        x = tag(self.norm(x), "norm")
        x = avg_pool(x, _WINDOW, 1) if self.fully_convolutional else global_avg_pool(x)
        return self.head(tag(x, "avgpool"))
