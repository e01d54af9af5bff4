"""ConvNeXt: a residual network of depthwise convolutions, in the proportions of a transformer.

Z. Liu et al.: A ConvNet for the 2020s, CVPR 2022.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import Conv, avg_pool, global_avg_pool
from jaxplain.models.network import Network
from jaxplain.models.transformer import LayerNorm, LayerScale, Mlp

#: Name -> blocks and channels of each stage (section 2 of the paper).
VARIANTS = {"tiny": ((3, 3, 9, 3), (96, 192, 384, 768))}
_EPS = 1e-6
_LAST_WINDOW = 7  # side of the last features at the native 224 x 224


class Block(nnx.Module):
    """Depthwise 7x7 convolution, norm, two dense layers with GELU between, layer scale, add."""

    def __init__(self, width, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.conv = Conv(width, width, 7, padding=3, groups=width, **options)
        self.norm = LayerNorm(width, _EPS, **options)
        self.mlp = Mlp(width, 4 * width, **options)
        self.scale = LayerScale(width, 1e-6)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.scale(self.mlp(self.norm(self.conv(x))))


class Downsample(nnx.Module):
    """Norm, and a 2x2 convolution with stride 2."""

    def __init__(self, inputs, outputs, *, dtype, rngs):
        self.norm = LayerNorm(inputs, _EPS, dtype=dtype, rngs=rngs)
        self.conv = Conv(inputs, outputs, 2, 2, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.norm(x))


class ConvNeXt(Network):
    """ConvNeXt, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``stem`` (after its norm), ``stages.0.0`` ... ``stages.3.2`` (a block's
    output) and ``avgpool`` (before the last norm).

    Args:
        variant: a name of ``VARIANTS``.
        num_classes: the number of logits.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: slide the last 7x7 average pool with stride 1, and apply the norm and
            the dense layer at every position, for a score map ``(B, H', W', num_classes)``.
        eps: what the last norm adds to the variance.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such variant.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.convnext import ConvNeXt
        >>> build = lambda: ConvNeXt("tiny", 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))
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
        eps: float = _EPS,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"ConvNeXt has variants {list(VARIANTS)}, not {variant!r}.")
        depths, widths = VARIANTS[variant]
        self.fully_convolutional = fully_convolutional
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.stem = Conv(3, widths[0], 4, 4, **options)
        self.stem_norm = LayerNorm(widths[0], _EPS, **options)
        pairs = zip(widths, widths[1:], strict=False)
        self.downsamples = nnx.List([Downsample(i, o, **options) for i, o in pairs])
        self.stages = nnx.List(
            [
                nnx.List([Block(width, **options) for _ in range(depth)])
                for depth, width in zip(depths, widths, strict=True)
            ]
        )
        self.norm = LayerNorm(widths[-1], eps, **options)
        self.head = nnx.Linear(widths[-1], num_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(self.stem_norm(self.stem(x)), "stem")
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downsamples[i - 1](x)
            for j, block in enumerate(stage):
                x = tag(block(x), f"stages.{i}.{j}")
        x = avg_pool(x, _LAST_WINDOW, 1) if self.fully_convolutional else global_avg_pool(x)
        return self.head(self.norm(tag(x, "avgpool")))
