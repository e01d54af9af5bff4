"""AlexNet and its relatives: five convolutions and three dense layers.

A. Krizhevsky et al.: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012;
A. Krizhevsky: One weird trick for parallelizing convolutional neural networks, 2014
(torchvision's form); K. Chatfield et al.: Return of the Devil in the Details, BMVC 2014 (CNN-S).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import Conv, WindowDense, adaptive_avg_pool, lrn, max_pool
from jaxplain.models.network import Network


@dataclasses.dataclass(frozen=True)
class Stage:
    """A convolution and its ReLU, and what follows in turn: ``pool``, ``norm``."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    then: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the networks.

    Attributes:
        size: native height and width of images.
        stages: its convolutions.
        pools: window and stride of its max pools, in their order.
        norm: window, alpha, beta and k of local response normalisation, where a stage has it.
        caffe: whether pooling counts windows that stick out, and ``fc6`` takes its own size only;
            otherwise features of any size are averaged to 6 x 6, as torchvision does.
    """

    size: int
    stages: tuple[Stage, ...]
    pools: tuple[tuple[int, int], ...] = ((3, 2),) * 3
    norm: tuple[int, float, float, float] = (5, 1e-4, 0.75, 1.0)
    caffe: bool = True


def _krizhevsky(then: tuple[str, ...]) -> Variant:
    """Caffe's AlexNets, in two groups; they differ in whether pooling or the norm comes first."""
    stages = (
        Stage(96, 11, stride=4, then=then),
        Stage(256, 5, padding=2, groups=2, then=then),
        Stage(384, 3, padding=1),
        Stage(384, 3, padding=1, groups=2),
        Stage(256, 3, padding=1, groups=2, then=("pool",)),
    )
    return Variant(227, stages)


VARIANTS = {
    "torchvision": Variant(
        224,
        (
            Stage(64, 11, stride=4, padding=2, then=("pool",)),
            Stage(192, 5, padding=2, then=("pool",)),
            Stage(384, 3, padding=1),
            Stage(256, 3, padding=1),
            Stage(256, 3, padding=1, then=("pool",)),
        ),
        caffe=False,
    ),
    "bvlc_alexnet": _krizhevsky(("norm", "pool")),
    "caffenet": _krizhevsky(("pool", "norm")),
    "cnn_s": Variant(
        224,
        (
            Stage(96, 7, stride=2, then=("norm", "pool")),
            Stage(256, 5, then=("pool",)),
            Stage(512, 3, padding=1),
            Stage(512, 3, padding=1),
            Stage(512, 3, padding=1, then=("pool",)),
        ),
        pools=((3, 3), (2, 2), (3, 3)),
        norm=(5, 5e-4, 0.75, 2.0),
    ),
}
_WINDOW = 6  # side of pool5 at the native size, in all of them


class AlexNet(Network):
    """AlexNet, CaffeNet or CNN-S: images ``(B, H, W, 3)`` to logits ``(B, num_classes)``.

    Layers are tagged ``conv1`` to ``conv5``, ``relu1`` to ``relu5``, ``pool1``, ``pool2``,
    ``pool5``, ``norm1``, ``norm2`` (where there is local response normalisation), ``fc6``,
    ``relu6``, ``fc7``, ``relu7``.

    Args:
        variant: ``"torchvision"`` (native size 224), ``"bvlc_alexnet"`` (227), ``"caffenet"`` (227:
            the BVLC reference network, which pools before it normalises) or ``"cnn_s"`` (224:
            VGG_CNN_S).
        num_classes: the number of logits.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: ``fc6`` becomes a convolution of 6 x 6, ``fc7`` and the classifier of
            1 x 1: images of the native size or larger to a score map ``(B, H', W', num_classes)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such variant; or, when called, the image has a size that ``fc6``
            does not take.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.alexnet import AlexNet
        >>> build = lambda: AlexNet("caffenet", 10, rngs=nnx.Rngs(0))(jnp.zeros((1, 227, 227, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 10)
    """

    def __init__(
        self,
        variant: str = "torchvision",
        num_classes: int = 1000,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"AlexNet has variants {list(VARIANTS)}, not {variant!r}.")
        self.variant = VARIANTS[variant]
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        inputs = 3
        for i, s in enumerate(self.variant.stages, 1):
            conv = Conv(inputs, s.channels, s.kernel, s.stride, s.padding, s.groups, **options)
            setattr(self, f"conv{i}", conv)
            inputs = s.channels
        self.fc6 = WindowDense(
            _WINDOW, _WINDOW, inputs, 4096, fully_convolutional=fully_convolutional, **options
        )
        self.fc7 = nnx.Linear(4096, 4096, **options)
        self.fc8 = nnx.Linear(4096, num_classes, **options)
        self.fully_convolutional = fully_convolutional

    def __call__(self, x: jax.Array) -> jax.Array:
        variant, pools = self.variant, iter(self.variant.pools)
        for i, stage in enumerate(variant.stages, 1):
            x = tag(getattr(self, f"conv{i}")(x), f"conv{i}")
            x = tag(jax.nn.relu(x), f"relu{i}")
            for step in stage.then:
                if step == "pool":
                    x = max_pool(x, *next(pools), ceil_mode=variant.caffe)
                else:
                    x = lrn(x, *variant.norm)
                x = tag(x, f"{step}{i}")
        if not (variant.caffe or self.fully_convolutional):
            x = adaptive_avg_pool(x, _WINDOW)
        x = tag(jax.nn.relu(tag(self.fc6(x), "fc6")), "relu6")
        x = tag(jax.nn.relu(tag(self.fc7(x), "fc7")), "relu7")
        return self.fc8(x)
