"""ResNet-50 with attention modules: CBAM in every block, or BAM behind the first three stages.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon: CBAM: Convolutional Block Attention Module, ECCV 2018.
J. Park, S. Woo, J.-Y. Lee, I. S. Kweon: BAM: Bottleneck Attention Module, BMVC 2018. The
details are those of the networks that the authors published the weights of.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import BatchNorm, Conv, global_avg_pool
from jaxplain.models.resnet import Bottleneck, ResNet

_REDUCTION = 16
_DILATION = 4  # of BAM's 3x3 convolutions


class Cbam(nnx.Module):
    """Two gates in turn: of channels (Eq. 2 of CBAM), then of positions (Eq. 3)."""

    def __init__(self, channels, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.fc1 = nnx.Linear(channels, channels // _REDUCTION, **options)
        self.fc2 = nnx.Linear(channels // _REDUCTION, channels, **options)
        self.conv = Conv(2, 1, 7, padding=3, bias=False, **options)
        self.bn = BatchNorm(1, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        channel = self._mlp(global_avg_pool(x)) + self._mlp(jnp.max(x, axis=(1, 2)))
        x = x * jax.nn.sigmoid(channel)[:, None, None, :]
        pooled = jnp.max(x, axis=-1, keepdims=True), jnp.mean(x, axis=-1, keepdims=True)
        return x * jax.nn.sigmoid(self.bn(self.conv(jnp.concatenate(pooled, axis=-1))))

    def _mlp(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.relu(self.fc1(x)))


class CbamBottleneck(Bottleneck):
    """A bottleneck whose branch ends in CBAM."""

    def __init__(self, inputs, width, stride, layout, *, dtype, rngs):
        super().__init__(inputs, width, stride, layout, dtype=dtype, rngs=rngs)
        self.cbam = Cbam(width * self.expansion, dtype=dtype, rngs=rngs)

    def branch(self, x: jax.Array) -> jax.Array:
        return self.cbam(super().branch(x))


class Bam(nnx.Module):
    """``x + x * sigmoid(channel(x) * position(x))``.

    Eq. 3 of the paper adds the two maps of attention; the published networks multiply them.
    """

    def __init__(self, channels, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        reduced = channels // _REDUCTION
        self.channel_fc1 = nnx.Linear(channels, reduced, **options)
        self.channel_bn = BatchNorm(reduced, **options)
        self.channel_fc2 = nnx.Linear(reduced, channels, **options)
        self.reduce_conv = Conv(channels, reduced, 1, **options)
        self.reduce_bn = BatchNorm(reduced, **options)
        for i in (0, 1):
            setattr(self, f"dilated_conv{i}", _dilated(reduced, options))
            setattr(self, f"dilated_bn{i}", BatchNorm(reduced, **options))
        self.final_conv = Conv(reduced, 1, 1, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.channel_bn(self.channel_fc1(global_avg_pool(x))))
        channel = self.channel_fc2(y)[:, None, None, :]
        y = jax.nn.relu(self.reduce_bn(self.reduce_conv(x)))
        for i in range(2):
            conv, norm = getattr(self, f"dilated_conv{i}"), getattr(self, f"dilated_bn{i}")
            y = jax.nn.relu(norm(conv(y)))
        return x + x * jax.nn.sigmoid(channel * self.final_conv(y))


def _dilated(channels, options) -> nnx.Conv:
    pads = ((_DILATION, _DILATION),) * 2
    return nnx.Conv(
        channels, channels, (3, 3), padding=pads, kernel_dilation=(_DILATION,) * 2, **options
    )


class AttentionResNet(ResNet):
    """ResNet-50 with attention: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged as in ``ResNet``; with BAM the attention's outputs are ``bam1`` to ``bam3``.

    Args:
        attention: ``"cbam"`` or ``"bam"``.
        num_classes, dtype, fully_convolutional, rngs: as in ``ResNet``.

    Raises:
        ValueError: there is no such attention.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.attention_resnet import AttentionResNet
        >>> build = lambda: AttentionResNet("bam", 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 10)
    """

    def __init__(
        self,
        attention: str,
        num_classes: int = 1000,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if attention not in ("cbam", "bam"):
            raise ValueError(f"The attention is 'cbam' or 'bam', not {attention!r}.")
        self.attention = attention
        super().__init__(
            50, num_classes, dtype=dtype, fully_convolutional=fully_convolutional, rngs=rngs
        )
        if attention == "bam":
            for i, channels in enumerate((256, 512, 1024), 1):
                setattr(self, f"bam{i}", Bam(channels, dtype=dtype, rngs=rngs))

    def _block(self, depth: int):
        return CbamBottleneck if self.attention == "cbam" else Bottleneck

    def _after_layer(self, number: int, x: jax.Array) -> jax.Array:
        if self.attention == "cbam" or number == 4:
            return x
        return tag(getattr(self, f"bam{number}")(x), f"bam{number}")
