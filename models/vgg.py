"""VGG-16 and VGG-19, with and without batch normalisation.

K. Simonyan, A. Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR
2015, configurations D and E; layers bear the names of the authors' Caffe files.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import BatchNorm, Conv, WindowDense, adaptive_avg_pool, max_pool
from jaxplain.models.network import Network

#: Depth -> number of convolutions in each of the five stages (Table 1, columns D and E).
DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)
_WINDOW = 7  # side of pool5 at the native 224 x 224


class VGG(Network):
    """VGG, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``conv1_1`` ... ``conv5_3`` (``conv5_4`` in VGG-19), ``relu1_1`` ...,
    ``pool1`` to ``pool5``, ``fc6``, ``relu6``, ``fc7``, ``relu7``. Batch normalisation, if any,
    lies between a ``conv`` and its ``relu``. The native size is 224 x 224; features of other sizes
    are averaged to 7 x 7 before ``fc6``, as torchvision does.

    Args:
        depth: 16 or 19.
        num_classes: the number of logits.
        batch_norm: whether every convolution is followed by one (``vgg16_bn``).
        ceil_mode: whether pooling counts windows that stick out, as Caffe's does; that matters for
            sizes that are not a multiple of 32.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: ``fc6`` becomes a convolution of 7 x 7, ``fc7`` and the classifier of
            1 x 1: images of at least 224 x 224 to a score map ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such depth; or, when called, the image is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.vgg import VGG
        >>> build = lambda: VGG(16, fully_convolutional=True, rngs=nnx.Rngs(0))
        >>> nnx.eval_shape(lambda: build()(jnp.zeros((1, 224, 336, 3)))).shape
        (1, 1, 4, 1000)
    """

    def __init__(
        self,
        depth: int = 16,
        num_classes: int = 1000,
        *,
        batch_norm: bool = False,
        ceil_mode: bool = False,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if depth not in DEPTHS:
            raise ValueError(f"VGG has depths {list(DEPTHS)}, not {depth!r}.")
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        inputs = 3
        for stage, (count, channels) in enumerate(zip(DEPTHS[depth], _CHANNELS, strict=True), 1):
            for i in range(1, count + 1):
                setattr(self, f"conv{stage}_{i}", Conv(inputs, channels, 3, padding=1, **options))
                if batch_norm:
                    setattr(self, f"norm{stage}_{i}", BatchNorm(channels, **options))
                inputs = channels
        self.fc6 = WindowDense(
            _WINDOW, _WINDOW, inputs, 4096, fully_convolutional=fully_convolutional, **options
        )
        self.fc7 = nnx.Linear(4096, 4096, **options)
        self.fc8 = nnx.Linear(4096, num_classes, **options)
        self.counts = DEPTHS[depth]
        self.batch_norm = batch_norm
        self.ceil_mode = ceil_mode
        self.fully_convolutional = fully_convolutional

    def __call__(self, x: jax.Array) -> jax.Array:
        for stage, count in enumerate(self.counts, 1):
            for i in range(1, count + 1):
                x = tag(getattr(self, f"conv{stage}_{i}")(x), f"conv{stage}_{i}")
                if self.batch_norm:
                    x = getattr(self, f"norm{stage}_{i}")(x)
                x = tag(jax.nn.relu(x), f"relu{stage}_{i}")
            x = tag(max_pool(x, 2, 2, ceil_mode=self.ceil_mode), f"pool{stage}")
        if not self.fully_convolutional:
            x = adaptive_avg_pool(x, _WINDOW)
        x = tag(jax.nn.relu(tag(self.fc6(x), "fc6")), "relu6")
        x = tag(jax.nn.relu(tag(self.fc7(x), "fc7")), "relu7")
        return self.fc8(x)
