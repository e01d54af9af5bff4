"""ResNet-20, -32, -44 and -56 for the 32 x 32 images of CIFAR, with shortcuts without parameters.

K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016,
section 4.2, option A.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import BatchNorm, Conv, avg_pool, global_avg_pool
from jaxplain.models.network import Network

DEPTHS = (20, 32, 44, 56)
_WIDTHS = (16, 32, 64)
_LAST_WINDOW = 8  # of the features of a 32 x 32 image


class Block(nnx.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut skips pixels, pads channels."""

    def __init__(self, inputs, width, stride, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.conv1 = Conv(inputs, width, 3, stride, 1, bias=False, **options)
        self.bn1 = BatchNorm(width, **options)
        self.conv2 = Conv(width, width, 3, 1, 1, bias=False, **options)
        self.bn2 = BatchNorm(width, **options)
        self.stride, self.padding = stride, (width - inputs) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.padding, self.padding)))
        return jax.nn.relu(y + x)


class CifarResNet(Network):
    """CIFAR ResNet, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``conv1`` (after ReLU), ``layer1.0`` ... ``layer3.2`` (a block's output,
    after ReLU) and ``avgpool``.

    Args:
        depth: 20, 32, 44 or 56.
        num_classes: the number of logits.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: slide the last 8x8 average pool with stride 1 and apply the dense layer
            at every position, for a score map ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such depth.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.cifar_resnet import CifarResNet
        >>> build = lambda: CifarResNet(20, rngs=nnx.Rngs(0))(jnp.zeros((1, 32, 32, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 10)
    """

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if depth not in DEPTHS:
            raise ValueError(f"The CIFAR ResNet has depths {list(DEPTHS)}, not {depth!r}.")
        self.fully_convolutional = fully_convolutional
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        channels = _WIDTHS[0]
        self.conv1 = Conv(3, channels, 3, 1, 1, bias=False, **options)
        self.bn1 = BatchNorm(channels, **options)
        for i, width in enumerate(_WIDTHS, 1):
            blocks = []
            for j in range((depth - 2) // 6):
                blocks.append(Block(channels, width, 2 if i > 1 and j == 0 else 1, **options))
                channels = width
            setattr(self, f"layer{i}", nnx.List(blocks))
        self.linear = nnx.Linear(channels, num_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(jax.nn.relu(self.bn1(self.conv1(x))), "conv1")
        for i in range(1, 4):
            for j, block in enumerate(getattr(self, f"layer{i}")):
                x = tag(block(x), f"layer{i}.{j}")
        x = avg_pool(x, _LAST_WINDOW, 1) if self.fully_convolutional else global_avg_pool(x)
        return self.linear(tag(x, "avgpool"))
