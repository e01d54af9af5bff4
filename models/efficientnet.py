"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6 for swish.

M. Tan, Q. V. Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks,
ICML 2019 (the network and its scaling); R. Liu: Higher accuracy on vision models with
EfficientNet-Lite, 2020 (the Lite family).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import avg_pool, global_avg_pool
from jaxplain.models.network import Network


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of inverted residual blocks of one shape; only the first one has the stride."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


# Table 1 of Tan and Le (2019), rows 2 to 8.
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# Lite variant -> (width, depth) multiplier, input size.
VARIANTS = {
    0: (1.0, 1.0, 224),
    1: (1.0, 1.1, 240),
    2: (1.1, 1.2, 260),
    3: (1.2, 1.4, 280),
    4: (1.4, 1.8, 300),
}
_STEM, _HEAD = 32, 1280  # the Lite family does not scale these
_STRIDE = 32  # of the features


def _round_channels(channels: int, width: float) -> int:
    """The scaled number of channels, to a multiple of 8 that is at least 90 % of it."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def scale_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """The stages of a Lite variant; the first and last stage keep their number of blocks.

    Example:
        >>> from jaxplain.models.efficientnet import scale_stages
        >>> [(s.repeats, s.channels) for s in scale_stages(1.1, 1.2)]
        [(1, 16), (3, 24), (3, 48), (4, 88), (4, 120), (5, 208), (1, 352)]
    """
    last = len(STAGES) - 1
    return tuple(
        dataclasses.replace(
            stage,
            repeats=stage.repeats if i in (0, last) else math.ceil(depth * stage.repeats),
            channels=_round_channels(stage.channels, width),
        )
        for i, stage in enumerate(STAGES)
    )


class ConvNorm(nnx.Module):
    """Convolution with SAME padding, batch normalisation and, if asked for, ReLU6."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, *, relu, dtype, rngs):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            stride,
            padding="SAME",
            feature_group_count=groups,
            use_bias=False,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            outputs, use_running_average=True, epsilon=1e-3, dtype=dtype, rngs=rngs
        )
        self.relu = relu

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.conv(x))
        return jax.nn.relu6(x) if self.relu else x


class Block(nnx.Module):
    """Inverted residual block: expand, depthwise convolution, project (no activation), add."""

    def __init__(self, inputs, stage: Stage, stride, *, dtype, rngs):
        middle = inputs * stage.expand
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        if stage.expand > 1:
            self.expand = ConvNorm(inputs, middle, relu=True, **options)
        else:
            self.expand = None
        self.depthwise = ConvNorm(
            middle, middle, stage.kernel, stride, middle, relu=True, **options
        )
        self.project = ConvNorm(middle, stage.channels, relu=False, **options)
        self.residual = stride == 1 and inputs == stage.channels

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite(Network):
    """EfficientNet-Lite, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``stem``, ``blocks.{stage}.{block}`` (block outputs, which are linear and
    therefore signed), ``head`` (the last convolution, after ReLU6) and ``avgpool``.

    Args:
        variant: 0 to 4, see ``VARIANTS``.
        num_classes: the number of logits.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: slide the last average pool, of the size that the features of the
            variant's own images have, with stride 1, and apply the dense layer at every position,
            for a score map ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such variant.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.efficientnet import EfficientNetLite
        >>> build = lambda: EfficientNetLite(0, 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 10)
    """

    def __init__(
        self,
        variant: int = 0,
        num_classes: int = 1000,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"EfficientNet-Lite has variants {list(VARIANTS)}, not {variant!r}.")
        width, depth, size = VARIANTS[variant]
        self.window = math.ceil(size / _STRIDE) if fully_convolutional else None
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.stem = ConvNorm(3, _STEM, 3, 2, relu=True, **options)
        channels, stages = _STEM, []
        for stage in scale_stages(width, depth):
            blocks = []
            for j in range(stage.repeats):
                blocks.append(Block(channels, stage, stage.stride if j == 0 else 1, **options))
                channels = stage.channels
            stages.append(nnx.List(blocks))
        self.blocks = nnx.List(stages)
        self.head = ConvNorm(channels, _HEAD, relu=True, **options)
        self.classifier = nnx.Linear(_HEAD, num_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(self.stem(x), "stem")
        for i, stage in enumerate(self.blocks):
            for j, block in enumerate(stage):
                x = tag(block(x), f"blocks.{i}.{j}")
        x = tag(self.head(x), "head")
        x = avg_pool(x, self.window, 1) if self.window else global_avg_pool(x)
        return self.classifier(tag(x, "avgpool"))
