"""Small networks in the shape of VGG, ResNet and GoogLeNet, for images of 32 x 32.

Made of the blocks of the large ones and tagged like them, with an eighth to a quarter of their
channels and fewer stages, so that two processor cores train them in minutes.
"""

from __future__ import annotations

import jax
from flax import nnx

from jaxplain.core import tag
from jaxplain.models import ModelConfig
from jaxplain.models.config import default_layers
from jaxplain.models.googlenet import Inception, Unit
from jaxplain.models.layers import BatchNorm, Conv, WindowDense, global_avg_pool, max_pool
from jaxplain.models.resnet import LAYOUTS, BasicBlock

__all__ = ["INPUT_SIZE", "NETWORKS", "SmallGoogLeNet", "SmallResNet", "SmallVGG"]

INPUT_SIZE = 32


def _config(name: str, excitation: str, last: str, class_names: tuple[str, ...]) -> ModelConfig:
    return ModelConfig(
        name,
        INPUT_SIZE,
        mean=(80.0,),
        scale=(60.0,),
        crop_fraction=1.0,
        interpolation="bilinear",
        class_names=class_names,
        outputs=len(class_names),
        layers=default_layers(excitation, last),
    )


class SmallVGG(nnx.Module):
    """Three stages of one or two 3 x 3 convolutions and a max pool; three dense layers."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small VGG", "pool2", "relu3_2", class_names)
        inputs = 3
        self.counts = (1, 2, 2)
        for stage, (count, channels) in enumerate(zip(self.counts, (16, 32, 64), strict=True), 1):
            for i in range(1, count + 1):
                conv = Conv(inputs, channels, 3, padding=1, bias=False, rngs=rngs)
                setattr(self, f"conv{stage}_{i}", conv)
                setattr(self, f"norm{stage}_{i}", BatchNorm(channels, rngs=rngs))
                inputs = channels
        self.fc6 = WindowDense(4, 4, inputs, 128, rngs=rngs)
        self.fc7 = nnx.Linear(128, 128, rngs=rngs)
        self.fc8 = nnx.Linear(128, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for stage, count in enumerate(self.counts, 1):
            for i in range(1, count + 1):
                x = tag(getattr(self, f"conv{stage}_{i}")(x), f"conv{stage}_{i}")
                x = getattr(self, f"norm{stage}_{i}")(x)
                x = tag(jax.nn.relu(x), f"relu{stage}_{i}")
            x = tag(max_pool(x, 2, 2), f"pool{stage}")
        x = tag(jax.nn.relu(self.fc6(x)), "relu6")
        x = tag(jax.nn.relu(self.fc7(x)), "relu7")
        return self.fc8(x)


class SmallResNet(nnx.Module):
    """A convolution, two stages of residual blocks, and a global average pool."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small ResNet", "layer1.0", "layer2.1", class_names)
        self.conv1 = Conv(3, 16, 3, padding=1, bias=False, rngs=rngs)
        self.bn1 = BatchNorm(16, rngs=rngs)
        channels = 16
        for i, (width, repeats) in enumerate(zip((32, 64), (1, 2), strict=True), 1):
            blocks = []
            for j in range(repeats):
                stride = 2 if i > 1 and j == 0 else 1
                blocks.append(
                    BasicBlock(
                        channels, width, stride, LAYOUTS["torchvision"], dtype=None, rngs=rngs
                    )
                )
                channels = width
            setattr(self, f"layer{i}", nnx.List(blocks))
        self.fc = nnx.Linear(channels, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(jax.nn.relu(self.bn1(self.conv1(x))), "conv1")
        x = tag(max_pool(x, 2, 2), "pool1")
        for i in (1, 2):
            for j, block in enumerate(getattr(self, f"layer{i}")):
                x = tag(block(x), f"layer{i}.{j}")
        return self.fc(tag(global_avg_pool(x), "avgpool"))


class SmallGoogLeNet(nnx.Module):
    """Two convolutions with pools, two inception modules, and a global average pool."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small GoogLeNet", "pool2", "inception_3b", class_names)
        options = dict(norm=True, dtype=None, rngs=rngs)
        self.conv1 = Unit(3, 16, 3, padding=1, **options)
        self.conv2 = Unit(16, 32, 3, padding=1, **options)
        self.inception_3a = Inception(32, (32, 32, 64, 8, 16, 16), 5, **options)
        self.inception_3b = Inception(128, (32, 32, 64, 8, 16, 16), 5, **options)
        self.fc = nnx.Linear(128, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(max_pool(tag(self.conv1(x), "conv1"), 2, 2), "pool1")
        x = tag(max_pool(tag(self.conv2(x), "conv2"), 2, 2), "pool2")
        x = tag(self.inception_3a(x), "inception_3a")
        x = tag(self.inception_3b(x), "inception_3b")
        return self.fc(tag(global_avg_pool(x), "pool5"))


NETWORKS = {"VGG": SmallVGG, "ResNet": SmallResNet, "GoogLeNet": SmallGoogLeNet}
