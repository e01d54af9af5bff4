"""SqueezeNet 1.0 and 1.1.

F. N. Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and < 0.5 MB
model size, 2016; version 1.1 is the authors' later one, as accurate with 2.4 times less work.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import Conv, avg_pool, global_avg_pool, max_pool
from jaxplain.models.network import Network

#: Version -> channels and kernel of conv1; the layers (1: conv1, 2: fire2 ...) that a pool follows.
VERSIONS = {"1.0": ((96, 7), (1, 4, 8)), "1.1": ((64, 3), (1, 3, 5))}
#: Channels of the fire modules 2 to 9: of the squeeze layer, and of each half of the expand layer.
_FIRE = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_WINDOW = 13  # side of fire9 at the native 224 x 224 and 227 x 227


class Fire(nnx.Module):
    """1 x 1 convolution to few channels, then 1 x 1 and 3 x 3 side by side; ReLU after each."""

    def __init__(self, inputs, squeeze, expand, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.squeeze = Conv(inputs, squeeze, 1, **options)
        self.expand1x1 = Conv(squeeze, expand, 1, **options)
        self.expand3x3 = Conv(squeeze, expand, 3, padding=1, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.squeeze(x))
        halves = [jax.nn.relu(self.expand1x1(x)), jax.nn.relu(self.expand3x3(x))]
        return jnp.concatenate(halves, axis=-1)


class SqueezeNet(Network):
    """SqueezeNet, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``conv1``, ``relu1``, ``fire2`` to ``fire9``, ``conv10``, ``relu10``, and
    ``pool1`` with ``pool4`` and ``pool8`` (1.0) or ``pool3`` and ``pool5`` (1.1). The logits are
    the means of ``relu10``, so they are not negative.

    Args:
        version: ``"1.0"`` or ``"1.1"``.
        num_classes: the number of logits.
        conv10_padding: 1 in the authors' Caffe form of version 1.0, whose classes' maps thereby
            have a border of the biases; 0 otherwise.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: the last average slides over windows of the native 13 x 13: images of
            at least that size to a score map ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such version; or, when called, the image is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.squeezenet import SqueezeNet
        >>> build = lambda: SqueezeNet("1.1", 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 10)
    """

    def __init__(
        self,
        version: str = "1.1",
        num_classes: int = 1000,
        *,
        conv10_padding: int = 0,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if version not in VERSIONS:
            raise ValueError(f"SqueezeNet has versions {list(VERSIONS)}, not {version!r}.")
        (channels, kernel), self.pooled = VERSIONS[version]
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.conv1 = Conv(3, channels, kernel, stride=2, **options)
        for i, (squeeze, expand) in enumerate(_FIRE, 2):
            setattr(self, f"fire{i}", Fire(channels, squeeze, expand, **options))
            channels = 2 * expand
        self.conv10 = Conv(channels, num_classes, 1, padding=conv10_padding, **options)
        self.window = _WINDOW + 2 * conv10_padding
        self.fully_convolutional = fully_convolutional

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(jax.nn.relu(tag(self.conv1(x), "conv1")), "relu1")
        for i in range(1, 10):
            if i > 1:
                x = tag(getattr(self, f"fire{i}")(x), f"fire{i}")
            if i in self.pooled:
                x = tag(max_pool(x, 3, 2, ceil_mode=True), f"pool{i}")
        x = tag(jax.nn.relu(tag(self.conv10(x), "conv10")), "relu10")
        return avg_pool(x, self.window, 1) if self.fully_convolutional else global_avg_pool(x)
