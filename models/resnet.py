"""ResNet-18 to -152, and the embedding networks that are a ResNet with another head.

K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016.
Z. Wu, Y. Xiong, S. Yu, D. Lin: Unsupervised Feature Learning via Non-Parametric Instance
Discrimination (NPID), CVPR 2018. X. Wang et al.: Multi-Similarity Loss with General Pair Weighting
for Deep Metric Learning (MS), CVPR 2019.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import BatchNorm, Conv, avg_pool, global_avg_pool, max_pool
from jaxplain.models.network import Network


@dataclasses.dataclass(frozen=True)
class Layout:
    """In what the published forms of one ResNet differ.

    Attributes:
        stride_first: a bottleneck's stride is on its first 1x1 convolution, else on its 3x3.
        ceil_pool: the first pool is not padded and rounds up, else is padded by 1 and rounds down.
        paper_names: layers are tagged ``res4f`` and ``pool5``, not ``layer3.5`` and ``avgpool``.

    Biases before a batch normalisation, which Caffe's and Keras's files have, go into its mean.
    """

    stride_first: bool = False
    ceil_pool: bool = False
    paper_names: bool = False


LAYOUTS = {
    "torchvision": Layout(),
    "caffe": Layout(stride_first=True, ceil_pool=True, paper_names=True),
    "keras": Layout(stride_first=True),
}
# Depth -> blocks of each stage (Table 1 of He et al.); from 50 on they are bottlenecks.
DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_WIDTHS = (64, 128, 256, 512)
_LAST_WINDOW = 7  # of the features of a 224 x 224 image


class Projection(nnx.Module):
    """The shortcut where the shape changes (option B): a 1x1 convolution and batch norm."""

    def __init__(self, inputs, outputs, stride, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.conv = Conv(inputs, outputs, 1, stride, bias=False, **options)
        self.bn = BatchNorm(outputs, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class _Block(nnx.Module):
    """What both sorts of block share, ``relu(branch(x) + shortcut(x))``; each has a ``branch``."""

    expansion = 1

    def branch(self, x: jax.Array) -> jax.Array:
        """The convolutions that the shortcut passes by."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its branch is.")

    def _make_shortcut(self, inputs, width, stride, options):
        outputs = width * self.expansion
        if stride != 1 or inputs != outputs:
            self.downsample = Projection(inputs, outputs, stride, **options)
        else:
            self.downsample = None

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x)
        return jax.nn.relu(self.branch(x) + shortcut)


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    def __init__(self, inputs, width, stride, layout: Layout, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.conv1 = Conv(inputs, width, 3, stride, 1, bias=False, **options)
        self.bn1 = BatchNorm(width, **options)
        self.conv2 = Conv(width, width, 3, 1, 1, bias=False, **options)
        self.bn2 = BatchNorm(width, **options)
        self._make_shortcut(inputs, width, stride, options)

    def branch(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(_Block):
    """1x1, 3x3 and 1x1 convolutions; the last has four times as many channels."""

    expansion = 4

    def __init__(self, inputs, width, stride, layout: Layout, *, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        strides = (stride, 1) if layout.stride_first else (1, stride)
        outputs = width * self.expansion
        self.conv1 = Conv(inputs, width, 1, strides[0], bias=False, **options)
        self.bn1 = BatchNorm(width, **options)
        self.conv2 = Conv(width, width, 3, strides[1], 1, bias=False, **options)
        self.bn2 = BatchNorm(width, **options)
        self.conv3 = Conv(width, outputs, 1, bias=False, **options)
        self.bn3 = BatchNorm(outputs, **options)
        self._make_shortcut(inputs, width, stride, options)

    def branch(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class ResNet(Network):
    """ResNet, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``conv1`` (after ReLU), ``pool1``, ``layer1.0`` ... ``layer4.2`` (a block's
    output, after ReLU) and ``avgpool``. In the authors' Caffe layout these are ``conv1``,
    ``pool1``, ``res2a`` ... ``res5c`` and ``pool5``.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: the number of logits, or the length of the embedding.
        layout: ``"torchvision"``; ``"caffe"`` and ``"keras"``, for depth 50, have the stride on the
            first 1x1 convolution of a block (see ``LAYOUTS``).
        unit_norm: divide the output by its L2 norm: an embedding, as in NPID (128 numbers) and MS.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: slide the last 7x7 average pool with stride 1 and apply the dense layer
            at every position, for a score map ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such depth or layout.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.resnet import ResNet
        >>> build = lambda: ResNet(18, 10, fully_convolutional=True, rngs=nnx.Rngs(0))(
        ...     jnp.zeros((1, 224, 336, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 1, 5, 10)
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 1000,
        *,
        layout: str = "torchvision",
        unit_norm: bool = False,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if depth not in DEPTHS:
            raise ValueError(f"ResNet has depths {list(DEPTHS)}, not {depth!r}.")
        if layout not in LAYOUTS:
            raise ValueError(f"ResNet has layouts {list(LAYOUTS)}, not {layout!r}.")
        if layout != "torchvision" and depth != 50:
            raise ValueError(f"The {layout} layout is of ResNet-50, not of ResNet-{depth}.")
        self.layout = LAYOUTS[layout]
        self.unit_norm, self.fully_convolutional = unit_norm, fully_convolutional
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.conv1 = Conv(3, _WIDTHS[0], 7, 2, 3, bias=False, **options)
        self.bn1 = BatchNorm(_WIDTHS[0], **options)
        block, channels = self._block(depth), _WIDTHS[0]
        for i, (width, repeats) in enumerate(zip(_WIDTHS, DEPTHS[depth], strict=True), 1):
            blocks: list[_Block] = []
            for j in range(repeats):
                stride = 2 if i > 1 and j == 0 else 1
                blocks.append(block(channels, width, stride, self.layout, **options))
                channels = width * blocks[-1].expansion
            setattr(self, f"layer{i}", nnx.List(blocks))
        self.fc = nnx.Linear(channels, num_classes, **options)

    def _block(self, depth: int) -> Callable[..., _Block]:
        return BasicBlock if depth < 50 else Bottleneck

    def _after_layer(self, number: int, x: jax.Array) -> jax.Array:
        """What stands behind the last block of a stage (attention, in other networks)."""
        return x

    def _name(self, layer: int, block: int) -> str:
        if self.layout.paper_names:
            return f"res{layer + 1}{'abcdef'[block]}"
        return f"layer{layer}.{block}"

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(jax.nn.relu(self.bn1(self.conv1(x))), "conv1")
        if self.layout.ceil_pool:
            x = max_pool(x, 3, 2, ceil_mode=True)
        else:
            x = max_pool(x, 3, 2, padding=1)
        x = tag(x, "pool1")
        for i in range(1, 5):
            for j, block in enumerate(getattr(self, f"layer{i}")):
                x = tag(block(x), self._name(i, j))
            x = self._after_layer(i, x)
        x = avg_pool(x, _LAST_WINDOW, 1) if self.fully_convolutional else global_avg_pool(x)
        x = self.fc(tag(x, "pool5" if self.layout.paper_names else "avgpool"))
        return l2_normalise(x) if self.unit_norm else x


def l2_normalise(x: jax.Array) -> jax.Array:
    """Vectors along the last axis divided by their length; a zero vector stays zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.resnet import l2_normalise
        >>> l2_normalise(jnp.array([[3.0, 4.0]]))
        Array([[0.6, 0.8]], dtype=float32)
    """
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-24))  # torch's floor of 1e-12 of the length
