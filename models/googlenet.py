"""GoogLeNet (Inception v1), in the form of the Caffe Model Zoo and in torchvision's.

C. Szegedy et al.: Going Deeper with Convolutions, CVPR 2015. The auxiliary classifiers, which
serve training only, are left out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import BatchNorm, Conv, avg_pool, global_avg_pool, lrn, max_pool
from jaxplain.models.network import Network

VARIANTS = ("bvlc", "torchvision")
#: Channels of each module: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection (Table 1).
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
_WINDOW = 7  # side of inception_5b at the native 224 x 224
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, of 0 to 1


class Unit(nnx.Module):
    """Convolution and ReLU; with ``norm``, batch normalisation between them and no bias."""

    def __init__(self, inputs, outputs, kernel, stride=1, padding=0, *, norm, dtype, rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.conv = Conv(inputs, outputs, kernel, stride, padding, bias=not norm, **options)
        self.norm = BatchNorm(outputs, epsilon=1e-3, **options) if norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return jax.nn.relu(x if self.norm is None else self.norm(x))


class Inception(nnx.Module):
    """Four branches side by side: 1x1; 3x3; 5x5 (3x3 in torchvision's form); max pool and 1x1."""

    def __init__(self, inputs, channels, large, *, norm, dtype, rngs):
        one, reduce3, three, reduce5, five, pool = channels
        options: dict[str, Any] = dict(norm=norm, dtype=dtype, rngs=rngs)
        self.conv1x1 = Unit(inputs, one, 1, **options)
        self.conv3x3_reduce = Unit(inputs, reduce3, 1, **options)
        self.conv3x3 = Unit(reduce3, three, 3, padding=1, **options)
        self.conv5x5_reduce = Unit(inputs, reduce5, 1, **options)
        self.conv5x5 = Unit(reduce5, five, large, padding=large // 2, **options)
        self.pool_proj = Unit(inputs, pool, 1, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        branches = (
            self.conv1x1(x),
            self.conv3x3(self.conv3x3_reduce(x)),
            self.conv5x5(self.conv5x5_reduce(x)),
            self.pool_proj(max_pool(x, 3, 1, padding=1)),
        )
        return jnp.concatenate(branches, axis=-1)


class GoogLeNet(Network):
    """GoogLeNet, for inference: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``conv1``, ``pool1``, ``norm1``, ``conv2``, ``norm2`` (the norms in BVLC's
    form only), ``pool2`` (``pool2/3x3_s2`` of the papers), ``inception_3a``, ``inception_3b``,
    ``pool3``, ``inception_4a`` to ``inception_4e``, ``pool4``, ``inception_5a``,
    ``inception_5b``, and the average pool under both of its names: ``pool5`` (Caffe) and
    ``avgpool`` (torchvision). ``conv1`` and ``conv2`` are taken after their ReLU.

    Args:
        variant: ``"bvlc"``: local response normalisation, 5 x 5 branches; ``"torchvision"``: batch
            normalisation (epsilon 1e-3), 3 x 3 in place of 5 x 5, a ``pool4`` of 2 x 2.
        num_classes: the number of logits.
        transform_input: the input is normalised by ImageNet's mean and deviation, as for other
            networks of torchvision; turn it into -1 to 1, which the pretrained weights want.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: the average pool slides over windows of the native 7 x 7, with stride
            1: images of at least 224 x 224 to a score map ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such variant; or, when called, the image is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.googlenet import GoogLeNet
        >>> build = lambda: GoogLeNet("bvlc", 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 10)
    """

    def __init__(
        self,
        variant: str = "bvlc",
        num_classes: int = 1000,
        *,
        transform_input: bool = False,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"GoogLeNet has variants {list(VARIANTS)}, not {variant!r}.")
        self.bvlc = variant == "bvlc"
        options: dict[str, Any] = dict(norm=not self.bvlc, dtype=dtype, rngs=rngs)
        self.conv1 = Unit(3, 64, 7, stride=2, padding=3, **options)
        self.conv2_reduce = Unit(64, 64, 1, **options)
        self.conv2 = Unit(64, 192, 3, padding=1, **options)
        inputs = 192
        for name, channels in INCEPTIONS.items():
            module = Inception(inputs, channels, 5 if self.bvlc else 3, **options)
            setattr(self, f"inception_{name}", module)
            one, _, three, _, five, pool = channels
            inputs = one + three + five + pool
        self.fc = nnx.Linear(inputs, num_classes, dtype=dtype, rngs=rngs)
        self.transform_input = transform_input
        self.fully_convolutional = fully_convolutional

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.transform_input:
            mean, deviation = (jnp.asarray(v, x.dtype) for v in _IMAGENET)
            x = x * (deviation / 0.5) + (mean - 0.5) / 0.5
        x = self._pool(tag(self.conv1(x), "conv1"), "pool1")
        x = self._normalise(x, "norm1")
        x = tag(self.conv2(self.conv2_reduce(x)), "conv2")
        x = self._pool(self._normalise(x, "norm2"), "pool2")
        x = self._inceptions(x, "3a", "3b")
        x = self._pool(x, "pool3")
        x = self._inceptions(x, "4a", "4b", "4c", "4d", "4e")
        x = self._pool(x, "pool4", window=3 if self.bvlc else 2)
        x = self._inceptions(x, "5a", "5b")
        x = avg_pool(x, _WINDOW, 1) if self.fully_convolutional else global_avg_pool(x)
        return self.fc(tag(tag(x, "pool5"), "avgpool"))

    def _pool(self, x, name, window=3):
        return tag(max_pool(x, window, 2, ceil_mode=True), name)

    def _normalise(self, x, name):
        return tag(lrn(x, 5, alpha=1e-4, beta=0.75), name) if self.bvlc else x

    def _inceptions(self, x, *names):
        for name in names:
            x = tag(getattr(self, f"inception_{name}")(x), f"inception_{name}")
        return x
